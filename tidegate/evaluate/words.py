"""An evaluation's figures as names with numbers, and as lines of text; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate.evaluate.figures import Difference, Figures, Group, Quality


def flat(group: Group) -> dict[str, float]:
    """Return a group's figures by name: auc, auc_low, auc_high, ..., champion_auc, ..., difference_auc, ..."""
    found = {"rows": float(group.rows), "positive_share": group.positive_share, "base_log_loss": group.base_log_loss}
    for prefix, part in (("", group.candidate), ("champion_", group.champion), ("difference_", group.difference)):
        if part is not None:
            found |= {f"{prefix}{name}": value for name, value in _numbers(part)}
    return found


def lines(found: Figures) -> list[str]:
    """Return the figures as lines of text: one for all rows, then one for each group."""
    return [f"{column}{group.name}: {_line(group)}" for column, group in _shown(found)]


def _line(group: Group) -> str:
    if group.candidate is None:
        return f"too few: {group.few}"
    mine = group.candidate
    text = f"{group.rows} rows, AUC {mine.auc.value:.4f}, log loss {mine.log_loss.value:.4f}, ECE {mine.ece:.4f}"
    if group.difference is None:
        return text
    apart = group.difference
    surely = "".join(f"; {name} surely {verdict}" for name, verdict in apart.surely.items())
    return f"{text}; against the champion AUC {apart.auc.value:+.4f}, log loss {apart.log_loss.value:+.4f}{surely}"


def surely(found: Figures, verdict: str) -> Iterator[str]:
    """Yield the groups that surely differ from the champion as `verdict` says, with what does: carrier UA: log_loss."""
    for column, group in _shown(found):
        surely = group.difference.surely if group.difference else {}
        named = [name for name, said in surely.items() if said == verdict]
        if named:
            yield f"{column}{group.name}: {', '.join(named)}"


def _numbers(part: Quality | Difference) -> Iterator[tuple[str, float]]:
    for name, value in part.model_dump().items():
        if isinstance(value, float):
            yield name, value
        elif isinstance(value, dict) and "value" in value:
            ends = {name: value["value"], f"{name}_low": value["low"], f"{name}_high": value["high"]}
            yield from ((end, number) for end, number in ends.items() if number is not None)


def _shown(found: Figures) -> Iterator[tuple[str, Group]]:
    yield "", found.overall
    yield from ((f"{column} ", group) for column, groups in found.by.items() for group in groups)
