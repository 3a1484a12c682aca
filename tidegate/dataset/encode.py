"""How each feature becomes a number: chosen by the contracts or its type, then frozen over the rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from tidegate.contract.encodings import Encodings, FeatureEncoding, vocabulary
from tidegate.dataset.engine import quoted
from tidegate.errors import DataError, SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tidegate.contract import Contract
    from tidegate.dataset.engine import Engine
    from tidegate.delivery import DatasetSpec

_MOST = 2_000_000  # categories of one vocabulary; each is held in memory, here and by every server
_LEAST = 1e-12  # a deviation below it is a constant's


def chosen_encodings(schema: Any, spec: DatasetSpec, contracts: Mapping[str, Contract]) -> dict[str, str]:
    """Return feature -> vocabulary or standardise, in the SELECT's order: by the contracts, else by its type.

    Raises:
        SpecError: a text column has no vocabulary by any contract, two contracts disagree, or a type fits no encoding.
    """
    chosen = {}
    for field in schema:
        if field.name in (spec.label, spec.event_time):
            continue
        stated = _stated(field.name, contracts)
        is_text = pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
        is_integer = pa.types.is_integer(field.type)
        is_number = is_integer or pa.types.is_floating(field.type) or pa.types.is_boolean(field.type)
        encoding = stated or ("standardise" if is_number or pa.types.is_decimal(field.type) else "none")
        if not ((encoding == "vocabulary" and (is_text or is_integer)) or (encoding == "standardise" and not is_text)):
            raise SpecError(
                f"feature {field.name!r} is {field.type} and has encoding {encoding}; state `encoding: vocabulary` at "
                "a property of this name in a contract (texts and integers), or make it a number in the SQL"
            )
        chosen[field.name] = encoding
    if not chosen:
        raise SpecError(f"{spec.sql} yields no feature beside {spec.label} and {spec.event_time}; select some")
    return chosen


def freeze(engine: Engine, choices: Mapping[str, str]) -> Encodings:
    """Freeze vocabularies over all rows of the window, mean and deviation over the training rows only.

    `engine` shows `train` and `test` and has one thread: sums run in the order of the rows.
    """
    return Encodings(
        tuple(
            _vocabulary(engine, name) if encoding == "vocabulary" else _standardise(engine, name)
            for name, encoding in choices.items()
        )
    )


def _vocabulary(engine: Engine, name: str) -> FeatureEncoding:
    column = quoted(name)
    both = f"(SELECT {column} FROM train UNION SELECT {column} FROM test)"
    count = engine.one(f"SELECT count({column}) FROM {both}")[0]
    if count > _MOST:
        raise DataError(
            f"feature {name!r} has {count} categories, a vocabulary holds {_MOST} at most; put them into buckets in "
            f"the SQL, as in (hash({name}) % 100000)::INTEGER"
        )
    rows = engine.connection.execute(f"SELECT {column} FROM {both}").fetchall()
    return vocabulary(name, [value for (value,) in rows])


def _standardise(engine: Engine, name: str) -> FeatureEncoding:
    mean, std = moments(engine, "train", name)
    if mean is None or std is None:
        return FeatureEncoding(name, "standardise", "FP32")
    return FeatureEncoding(name, "standardise", "FP32", mean=mean, std=std if std > _LEAST else 1.0)


def moments(engine: Engine, part: str, name: str) -> tuple[float | None, float | None]:
    """Return mean and deviation of a feature's finite values in a part; None where there are none.

    Raises:
        DataError: the values are so large that their squares are no numbers.
    """
    value = f"{quoted(name)}::DOUBLE"
    query = f"SELECT favg(v), stddev_pop(v) FROM (SELECT {value} AS v FROM {part}) WHERE isfinite(v)"
    try:
        found: tuple[float | None, float | None] = engine.one(query)
    except duckdb.OutOfRangeException:
        found = (math.inf, math.inf)
    if not all(figure is None or math.isfinite(figure) for figure in found):
        raise DataError(
            f"feature {name!r} has values whose squares exceed a double (1.8e308); scale it in the SQL, or take its log"
        )
    return found


def _stated(name: str, contracts: Mapping[str, Contract]) -> str | None:
    by_source = {
        source: column.encoding
        for source, contract in contracts.items()
        if (column := contract.column(name)) is not None and column.encoding is not None
    }
    if len(set(by_source.values())) > 1:
        raise SpecError(f"the contracts of {', '.join(by_source)} encode {name!r} differently; make them agree")
    return next(iter(by_source.values()), None)
