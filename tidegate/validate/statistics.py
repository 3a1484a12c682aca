"""Statistics of columns and distances between them, by TensorFlow Data Validation, from Parquet in bounded memory.

TFDV's own way over files is an Apache Beam pipeline, which takes longer to start than a month of flights to count.
Here its combiners take one batch of rows after another.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from tensorflow_data_validation.statistics import stats_impl
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

from tidegate.validate.sample import batches, count

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tidegate.contract.model import Measure

_MEASURES: dict[int, Measure] = {1: "linfty", 2: "jensenShannon"}  # of DriftSkewInfo.Measurement.Type

logging.getLogger("absl").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Statistics:
    """What TFDV counted: `proto` is a DatasetFeatureStatisticsList with one dataset, `used` of `rows` were counted."""

    proto: Any
    rows: int
    used: int

    @property
    def features(self) -> dict[str, Any]:
        """Statistics by the feature's name."""
        return {_name(each): each for each in self.proto.datasets[0].features}

    def to_bytes(self) -> bytes:
        """Return the protobuf; the same rows give the same bytes."""
        return bytes(self.proto.SerializeToString(deterministic=True))


def of_files(paths: Sequence[Path], name: str, most_rows: int) -> Statistics:
    """Count the rows of Parquet files: all, or a fixed sample of about `most_rows`."""
    return of_batches(batches(paths, most_rows), name, count(paths))


def of_batches(read: Iterable[Any], name: str, rows: int) -> Statistics:
    """Count record batches of one schema; structs are left out."""
    options = tfdv.StatsOptions()
    generators = stats_impl.get_generators(options, in_memory=True)
    total, used = None, 0
    for batch in read:
        if not batch.num_rows:
            continue
        used += batch.num_rows
        counted = stats_impl.generate_partial_statistics_in_memory(_examples(batch), options, generators)
        if total is None:
            total = counted
        else:
            pairs = zip(generators, total, counted, strict=True)
            total = [each.merge_accumulators([one, other]) for each, one, other in pairs]
    if total is None:
        proto = statistics_pb2.DatasetFeatureStatisticsList()
        proto.datasets.add()
    else:
        proto = stats_impl.extract_statistics_output(total, generators)
    dataset = proto.datasets[0]
    dataset.name = name
    ordered = sorted(dataset.features, key=_name)  # TFDV takes them from a dict whose order changes
    del dataset.features[:]
    dataset.features.extend(ordered)
    return Statistics(proto, rows, used)


def distances(mine: Statistics, other: Statistics, without: str | None = None) -> dict[tuple[str, Measure], float]:
    """Return (feature, measure) -> distance in 0 to 1: L-infinity of texts, Jensen-Shannon of texts and numbers.

    What cannot be compared is left out: see `incomparable`.
    """
    features = _comparable(mine, other)
    schema, now, then = schema_pb2.Schema(), _only(mine, features), _only(other, features)
    for name in features:
        if name == without:
            continue
        feature = schema.feature.add()
        feature.name = name
        kind = mine.features[name].type
        feature.type = {0: schema_pb2.INT, 1: schema_pb2.FLOAT}.get(kind, schema_pb2.BYTES)
        feature.drift_comparator.jensen_shannon_divergence.threshold = 1.0
        if kind not in (0, 1):
            feature.drift_comparator.infinity_norm.threshold = 1.0
    if not schema.feature:
        return {}
    found = tfdv.validate_statistics(now, schema, previous_statistics=then)
    return {
        (info.path.step[0], _MEASURES[each.type]): float(each.value)
        for info in found.drift_skew_info
        for each in info.drift_measurements
        if each.type in _MEASURES and np.isfinite(each.value)
    }


def incomparable(mine: Statistics, other: Statistics) -> list[str]:
    """Say which features have no distance, and why: new ones, those without values, those of another type."""
    said = []
    for name, feature in mine.features.items():
        before = other.features.get(name)
        if before is None:
            said.append(f"{name} is new")
        elif not _values(feature) or not _values(before):
            said.append(f"{name} has no values {'here' if not _values(feature) else 'there'}")
        elif _carrier(feature) != _carrier(before):
            said.append(f"{name} is of another type")
    return said


def anomalies(mine: Statistics, tfdv_schema: str) -> dict[str, str]:
    """Return column -> what TFDV finds wrong with it by the contract's schema, in its words."""
    schema = text_format.Parse(tfdv_schema, schema_pb2.Schema())
    found = tfdv.validate_statistics(mine.proto, schema).anomaly_info
    return {name: found[name].description for name in sorted(found)}


def _examples(batch: Any) -> Any:
    """Return a batch as TFDV reads it: every value a list of one int64, float or text; instants as microseconds."""
    columns, names = [], []
    for field in batch.schema:
        if not pa.types.is_struct(field.type):
            column = _listed(batch.column(batch.schema.get_field_index(field.name)))
            if column is not None:
                columns.append(column)
                names.append(field.name)
    return pa.RecordBatch.from_arrays(columns, names)


def _listed(values: Any) -> Any:
    kind = values.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = _plain_type(kind.value_type)
        return values.cast(pa.list_(inner)) if inner is not None else None
    wanted = _plain_type(kind)
    if wanted is None:
        return None
    if pa.types.is_date32(kind):
        values = values.cast(pa.int32())
    flat = values.cast(wanted, safe=False)
    there: NDArray[Any] = flat.is_valid().to_numpy(zero_copy_only=False).astype(bool)
    offsets: Any = pa.array(np.concatenate([[0], np.cumsum(there)]).astype(np.int32))
    listed = pa.ListArray.from_arrays(offsets, flat.drop_null())
    validity = pa.array(there).buffers()[1]
    return pa.Array.from_buffers(listed.type, len(flat), [validity, listed.buffers()[1]], children=[listed.values])


def _plain_type(kind: Any) -> Any:
    types = pa.types
    if types.is_uint64(kind) or types.is_decimal(kind) or types.is_float64(kind):
        return pa.float64()
    if types.is_floating(kind):
        return pa.float32()
    if types.is_integer(kind) or types.is_boolean(kind) or types.is_temporal(kind):
        return pa.int64()
    if types.is_binary(kind) or types.is_large_binary(kind):
        return pa.binary()
    return pa.string() if types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind) else None


def _comparable(mine: Statistics, other: Statistics) -> list[str]:
    before = other.features
    return [
        name
        for name, feature in mine.features.items()
        if name in before and _values(feature) and _values(before[name]) and _carrier(feature) == _carrier(before[name])
    ]


def _only(statistics: Statistics, names: list[str]) -> Any:
    proto = statistics_pb2.DatasetFeatureStatisticsList()
    proto.CopyFrom(statistics.proto)
    kept = [each for each in proto.datasets[0].features if _name(each) in names]
    del proto.datasets[0].features[:]
    proto.datasets[0].features.extend(kept)
    return proto


def _carrier(feature: Any) -> str:
    return "number" if feature.type in (0, 1) else "text"


def _values(feature: Any) -> int:
    return int(common(feature).num_non_missing)


def common(feature: Any) -> Any:
    """Return a feature's CommonStatistics: counts of values that are there and that are missing."""
    return getattr(feature, str(feature.WhichOneof("stats"))).common_stats


def _name(feature: Any) -> str:
    return str(feature.path.step[0] if feature.path.step else feature.name)
