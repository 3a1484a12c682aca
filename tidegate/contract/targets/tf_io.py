"""What TensorFlow reads: a feature spec for `tf.io.parse_example`, rows as tf.train.Example, and a tf.data reader.

Whole numbers, instants (microseconds since 1970), dates (days) and booleans are int64, floats float32 in an Example and
their own in the reader, texts and bytes are strings. The spec is plain JSON; only `parsing_spec`, `serialised` and
`read` import TensorFlow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tidegate.contract.arrow import clean_type
from tidegate.contract.model import BITS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tidegate.contract.model import Column, Contract

_RULES = "a reader checks no rules: it reads validated rows"
CANNOT: dict[str, str] = dict.fromkeys(
    (
        "lexical_form", "no_such_value", "not_finite", "minimum", "maximum", "exclusive_minimum", "exclusive_maximum",
        "pattern", "min_length", "max_length", "enum", "unique", "duplicate", "min_items", "max_items", "row",
        "row_count", "freshness", "outside_window",
    ),
    _RULES,
)  # fmt: skip
_CLOCKS = ("timestamp", "local_timestamp", "date", "time")


def cannot(column: Column, rule: str) -> str | None:
    """Say why a rule of this column is not in the spec; None where it is."""
    if rule == "nested":
        inner = column.items.clean if column.items is not None else "struct"
        return None if inner not in ("list", "struct") and column.clean == "list" else "an Example holds no objects"
    if rule == "type":
        return {
            "decimal": "TensorFlow has no decimals: the column is read as a float",
            "float64": "an Example's floats are float32",
            "uint64": "an Example's whole numbers are int64",
        }.get(column.clean)
    return None


def compile_contract(contract: Contract) -> dict[str, dict[str, Any]]:
    """Return name -> {dtype, kind}: `fixed` for a required column of one value, `ragged` for one that may have none."""
    spec = {}
    for column in contract.columns:
        inner = column.items if column.items is not None else column
        if inner.clean in ("struct", "list"):
            continue
        is_fixed = column.required and column.items is None
        spec[column.name] = {"dtype": _dtype(inner.clean), "kind": "fixed" if is_fixed else "ragged"}
    return spec


def parsing_spec(spec: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the spec as `tf.io.parse_example` takes it: a required column is [batch], another one ragged."""
    import tensorflow as tf

    found = {}
    for name, each in spec.items():
        dtype = getattr(tf, each["dtype"])
        if each["kind"] == "fixed":
            found[name] = tf.io.FixedLenFeature([], dtype)
        else:
            found[name] = tf.io.RaggedFeature(dtype, row_splits_dtype=tf.int64)
    return found


def serialised(clean: Any, contract: Contract) -> Iterator[bytes]:
    """Yield each clean row as a serialised tf.train.Example; NULL is a feature without a value."""
    import tensorflow as tf

    spec = compile_contract(contract)
    carried = {name: _carried(clean.column(name), contract.column(name)).to_pylist() for name in spec}
    for row in range(clean.num_rows):
        features = {}
        for name, each in spec.items():
            value = carried[name][row]
            values = [] if value is None else value if isinstance(value, list) else [value]
            if each["dtype"] == "int64":
                features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
            elif each["dtype"] == "float32":
                features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
            else:
                texts = [text.encode() if isinstance(text, str) else text for text in values]
                features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=texts))
        yield tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def read(paths: Sequence[Path], contract: Contract, batch: int) -> Any:
    """Return a tf.data.Dataset over clean Parquet files: batches of {name: [rows]}, in their order.

    A column that may be NULL has 0 or "" in such rows, and `<name>_present` [rows] beside it says which have a value.
    Lists and objects are left out.
    """
    import tensorflow as tf

    columns = [c for c in contract.columns if c.clean not in ("list", "struct")]
    signature = {c.name: tf.TensorSpec([None], getattr(tf, _tensor(c))) for c in columns}
    signature.update({f"{c.name}_present": tf.TensorSpec([None], tf.bool) for c in columns if not c.required})

    def batches() -> Iterator[dict[str, Any]]:
        for path in paths:
            with pq.ParquetFile(path) as file:
                for part in file.iter_batches(batch, columns=[c.name for c in columns]):
                    yield dict(_tensors(part, columns))

    return tf.data.Dataset.from_generator(batches, output_signature=signature)


def _tensors(part: Any, columns: list[Column]) -> Iterator[tuple[str, Any]]:
    for column in columns:
        values = _carried(part.column(column.name), column)
        if not column.required:
            yield f"{column.name}_present", values.is_valid().to_numpy(zero_copy_only=False)
        empty = "" if pa.types.is_string(values.type) else b"" if pa.types.is_binary(values.type) else 0
        filled = values.fill_null(pa.scalar(empty, values.type)).to_numpy(zero_copy_only=False)
        yield column.name, filled


def _carried(values: Any, column: Column | None) -> Any:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if column is None or column.clean == "list":
        return values
    if column.clean == "date":
        return values.cast(pa.int32()).cast(pa.int64())
    if column.clean == "decimal":
        return values.cast(pa.float64())
    is_whole = column.clean in BITS or column.clean in _CLOCKS or column.clean == "bool"
    return values.cast(pa.int64()) if is_whole else values.cast(clean_type(column))


def _dtype(kind: str) -> str:
    if kind in BITS or kind in _CLOCKS or kind == "bool":
        return "int64"
    return "float32" if kind in ("float32", "float64", "decimal") else "string"


def _tensor(column: Column) -> str:
    return "float64" if column.clean in ("float64", "decimal") else _dtype(column.clean)
