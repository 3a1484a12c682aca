"""A TensorFlow Data Validation schema, about the clean columns; `examples` makes them what TFDV can read.

TFDV sees the statistics of a column, never a row: an anomaly says that some row broke a rule, not which.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tidegate.contract.arrow import clean_type, limit_scalar
from tidegate.contract.model import BITS, integer_range

if TYPE_CHECKING:
    from tidegate.contract.model import Column, Contract

_ROWS = "statistics of columns know no rows"
CANNOT: dict[str, str] = {
    "lexical_form": "clean columns are cast already",
    "no_such_value": "clean columns are cast already",
    "pattern": "TFDV has no regular expressions",
    "min_length": "TFDV bounds no lengths",
    "max_length": "TFDV bounds no lengths",
    "unique": "TFDV counts distinct values, and does not compare the count with the rows'",
    "duplicate": _ROWS,
    "nested": "inner fields are not compiled",
    "row": _ROWS,
    "row_count": "a number of examples has no bound in a schema",
    "freshness": "a schema knows no clock",
    "outside_window": "a schema knows no window",
}
_CLOCKS = ("timestamp", "local_timestamp", "date", "time")


def cannot(column: Column, rule: str) -> str | None:
    """Say why a rule of this column is not in the schema; None where it is."""
    if rule == "exclusive_minimum" and column.clean not in BITS:
        return "TFDV's bounds are inclusive"
    if rule == "exclusive_maximum" and column.clean not in BITS:
        return "TFDV's bounds are inclusive"
    if column.clean == "uint64" and rule in ("type", "minimum", "maximum", "exclusive_minimum", "exclusive_maximum"):
        return "TFDV's whole numbers are int64"
    if column.clean == "decimal" and rule != "required":
        return "TFDV has no decimals: the column is read as float64"
    if rule == "enum" and column.clean != "string":
        return "TFDV lists values of texts only"
    if rule in ("minimum", "maximum") and column.clean == "list":
        return "bounds of a list's items are not compiled"
    return None


def compile_contract(contract: Contract) -> Any:
    """Return a tensorflow_metadata Schema proto; `str()` of it is the text that TFDV loads."""
    from tensorflow_metadata.proto.v0 import schema_pb2

    schema = schema_pb2.Schema()
    for column in contract.columns:
        if column.clean != "struct":
            _feature(schema.feature.add(), column, schema_pb2)
    return schema


def _feature(feature: Any, column: Column, pb: Any) -> None:
    feature.name = column.name
    kind = column.items.clean if column.items is not None else column.clean
    feature.presence.min_fraction = 1.0 if column.required else 0.0
    feature.presence.min_count = 0
    if column.clean == "list":
        feature.value_count.min = column.min_items or 0
        if column.max_items is not None:
            feature.value_count.max = column.max_items
    else:
        feature.value_count.min = feature.value_count.max = 1
    if kind in BITS or kind in _CLOCKS or kind == "bool":
        feature.type = pb.INT
        if column.items is None:
            _whole(feature, column)
    elif kind in ("float32", "float64", "decimal"):
        feature.type = pb.FLOAT
        _real(feature, column)
    else:
        feature.type = pb.BYTES
        if column.enum:
            feature.string_domain.name = column.name
            feature.string_domain.value.extend(str(value) for value in column.enum)
    for comparator, thresholds in ((feature.drift_comparator, column.drift), (feature.skew_comparator, column.skew)):
        for threshold in thresholds:
            name = "infinity_norm" if threshold.measure == "linfty" else "jensen_shannon_divergence"
            least = min(each.limit for each in thresholds if each.measure == threshold.measure)
            getattr(comparator, name).threshold = least


def _whole(feature: Any, column: Column) -> None:
    limits = {name: _as_int(getattr(column, name), column) for name in ("minimum", "maximum")}
    if column.clean in BITS:
        low, high = (max(-(2**63), integer_range(column.clean)[0]), min(2**63 - 1, integer_range(column.clean)[1]))
        above, below = column.exclusive_minimum, column.exclusive_maximum
        least = [low, limits["minimum"], math.floor(float(above)) + 1 if above is not None else None]
        most = [high, limits["maximum"], math.ceil(float(below)) - 1 if below is not None else None]
        feature.int_domain.min = max(value for value in least if value is not None)
        feature.int_domain.max = min(value for value in most if value is not None)
        return
    for name, field in (("minimum", "min"), ("maximum", "max")):
        if limits[name] is not None:
            setattr(feature.int_domain, field, limits[name])


def _real(feature: Any, column: Column) -> None:
    if column.items is None and column.clean != "decimal":
        feature.float_domain.disallow_nan = feature.float_domain.disallow_inf = True
        for name, field in (("minimum", "min"), ("maximum", "max")):
            if getattr(column, name) is not None:
                setattr(feature.float_domain, field, float(getattr(column, name)))


def _as_int(limit: Any, column: Column) -> int | None:
    if limit is None:
        return None
    scalar = limit_scalar(limit, column)
    if column.clean in _CLOCKS:
        return int(scalar.cast(pa.int32() if column.clean == "date" else pa.int64()).as_py())
    return int(scalar.as_py())


def examples(clean: Any, contract: Contract) -> Any:
    """Return clean rows as TFDV reads them: values are lists of one int64, float or bytes; instants microseconds."""
    columns, names = [], []
    for column in contract.columns:
        if column.clean == "struct":
            continue
        values = clean.column(column.name)
        values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        columns.append(_listed(values, column))
        names.append(column.name)
    return pa.table(columns, names=names)


def _listed(values: Any, column: Column) -> Any:
    if column.clean == "list":
        inner = column.items.clean if column.items is not None else "string"
        return values.cast(pa.list_(_carrier(inner, values.type.value_type)))
    if column.clean == "date":
        values = values.cast(pa.int32())
    flat = values.cast(_carrier(column.clean, clean_type(column)))
    there = flat.is_valid()
    sizes = [int(each) for each in there.to_pylist()]
    offsets = [0]
    for size in sizes:
        offsets.append(offsets[-1] + size)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat.drop_null(), mask=_not(there))


def _not(mask: Any) -> Any:
    return pa.array([not each for each in mask.to_pylist()], pa.bool_())


def _carrier(kind: str, wanted: Any) -> Any:
    if kind in BITS or kind in _CLOCKS or kind == "bool":
        return pa.int64()
    if kind in ("float32", "float64", "decimal"):
        return pa.float32() if wanted == pa.float32() else pa.float64()
    return pa.string() if kind == "string" else pa.binary()
