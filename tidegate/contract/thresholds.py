"""The thresholds of a column's drift and skew, as a contract states them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

from tidegate.contract.model import DriftSeverity, Measure, Threshold

if TYPE_CHECKING:
    from tidegate.contract.model import Kind

_TEXTS = ("string", "bytes")


def thresholds(name: Literal["drift", "skew"], stated: Any, clean: Kind) -> tuple[Threshold, ...]:
    """Return what `{linfty: 0.1}` or `{jensenShannon: {warn: 0.1, retrain: 0.3}}` means; a bare limit warns.

    Raises:
        ValueError: it means nothing; the text ends with ` Remedy: ` and what to write.
    """
    known = tuple(each for each in get_args(DriftSeverity) if name == "drift" or each != "stop")
    if not isinstance(stated, dict):
        raise ValueError(_wrong(name, known))
    by_severity: dict[Any, dict[Any, Any]] = {
        of: each if isinstance(each, dict) else {"warn": each} for of, each in stated.items()
    }
    for of, limits in by_severity.items():
        if (
            of not in get_args(Measure)
            or not limits
            or not all(what in known and _is_limit(limit) for what, limit in limits.items())
        ):
            raise ValueError(_wrong(name, known))
    if "linfty" in stated and clean not in _TEXTS:
        raise ValueError("linfty compares the values of texts Remedy: write jensenShannon for numbers")
    return tuple(Threshold(of, float(limit), what) for of, each in by_severity.items() for what, limit in each.items())


def _is_limit(limit: object) -> bool:
    return isinstance(limit, int | float) and not isinstance(limit, bool) and 0 < limit <= 1


def _wrong(name: str, known: tuple[str, ...]) -> str:
    each = ", ".join(f"{severity}: 0.{number}" for number, severity in enumerate(known, 1))
    return (
        f"no threshold of {name} Remedy: write {{linfty: 0.1}} for texts or {{jensenShannon: 0.1}} for numbers, both "
        f"in 0 to 1; or by what happens beyond: {{linfty: {{{each}}}}}"
    )
