"""Builds and publishes a window's training table: rows, encodings, statistics, and what was checked."""

from __future__ import annotations

import json
import logging
import math
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tidegate import keys
from tidegate.contract import load_contract
from tidegate.dataset import causality, leakage, statistics
from tidegate.dataset.encode import chosen_encodings, freeze
from tidegate.dataset.engine import opened, quoted
from tidegate.dataset.parts import write_parts
from tidegate.dataset.query import prepare
from tidegate.errors import DataError
from tidegate.handoff import Dataset, Feature, Window
from tidegate.lake import sha256
from tidegate.units import add_window

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tidegate.contract import Contract
    from tidegate.contract.encodings import Encodings
    from tidegate.dataset.engine import Engine
    from tidegate.dataset.parts import Counts
    from tidegate.dataset.query import Query
    from tidegate.delivery import DatasetSpec, Delivery
    from tidegate.lake import Draft, Lake

TRAIN, TEST, ENCODINGS, STATISTICS = "train.parquet", "test.parquet", "encodings.json", "statistics.json"
_log = logging.getLogger(__name__)


def build(
    delivery: Delivery, window: Window, lake: Lake, folder: Path, contracts: Mapping[str, Contract] | None = None
) -> Dataset:
    """Publish the dataset of a window: train.parquet, test.parquet (raw values), encodings.json and statistics.json.

    A windowed source is the union of its slices in the window, reference data (HDFS without a window in its path) are
    those of its newest slice; of each slice it is the newest revision. The last `dataset.test` of the window is held
    out. `folder` holds the SQL; `contracts` maps a source to its contract (default: those of the project). What was
    checked goes into the manifest as `checks`.

    Raises:
        SpecError: the SQL cannot be run, yields what no encoding is stated for, or has a feature that sees the future.
        DataError: a slice is missing, a label is neither 0 nor 1 or is told by one feature, or there are too few
            training rows.
    """
    contracts = contracts or {name: load_contract(source.contract) for name, source in delivery.sources.items()}
    slices = _slices(delivery, window, lake)
    revisions = {key: str(lake.require(key)["digest"]) for keyed in slices.values() for key in keyed}
    files = {
        source: [lake.local(key, "clean.parquet", revisions[key]) for key in keyed] for source, keyed in slices.items()
    }
    digests = {
        f"{source}/{keys.window_of(key).id}": revisions[key] for source, keyed in slices.items() for key in keyed
    }
    spec, key = delivery.dataset, keys.dataset(delivery.delivery, window)
    with lake.publish(key, delivery=delivery.delivery, window=window.model_dump(mode="json"), slices=digests) as draft:
        with opened(files, spec.memory, spec.threads) as engine:
            query = prepare(engine, folder / spec.sql, spec)
            choices = chosen_encodings(query.schema, spec, contracts)
            counts = _write(query, window, draft)
            _enough(counts, delivery, window)
            with opened({"train": [draft.file(TRAIN)], "test": [draft.file(TEST)]}, spec.memory) as parts:
                seen = causality.check(query, contracts, _cuts(parts, spec))
                encodings, checks = _describe(parts, choices, spec, draft)
        checks |= {"causality": seen, "outside_window": {"before": counts.before, "after": counts.after}}
        _warn(delivery.delivery, checks)
        features = [Feature(name=f.name, encoding=f.encoding, dtype=f.dtype, size=f.size) for f in encodings.features]
        draft.fields |= {
            "train_rows": counts.train,
            "test_rows": counts.test,
            "label": spec.label,
            "features": [feature.model_dump() for feature in features],
            "sql": {"file": spec.sql, "sha256": sha256(folder / spec.sql)},
            "checks": checks,
        }
    return Dataset.model_validate({name: lake.require(key)[name] for name in Dataset.model_fields})


def _write(query: Query, window: Window, draft: Draft) -> Counts:
    spec = query.spec
    place = query.schema.get_field_index(spec.label)
    return write_parts(
        query.batches(),
        query.schema.set(place, pa.field(spec.label, pa.int8())),
        spec.event_time,
        window,
        add_window(window.end, spec.test_length, -1),
        draft.file(TRAIN),
        draft.file(TEST),
    )


def _enough(counts: Counts, delivery: Delivery, window: Window) -> None:
    wanted = delivery.dataset.at_least
    if counts.train < wanted:
        raise DataError(
            f"{delivery.delivery} {window}: {counts.train} training rows, at least {wanted} are asked for "
            "(dataset.at_least); widen train_on, or ingest more windows"
        )


def _describe(
    parts: Engine, choices: Mapping[str, str], spec: DatasetSpec, draft: Draft
) -> tuple[Encodings, dict[str, Any]]:
    """Write encodings and statistics of the rows on file; return the encodings and what was checked."""
    strengths = leakage.strengths(parts, choices, spec.label)
    leakage.refuse_leaks(strengths or {}, spec)
    encodings = freeze(parts, choices)
    figures = statistics.describe(parts, encodings, spec.label)
    draft.file(ENCODINGS).write_text(encodings.to_json(), encoding="utf-8")
    text = json.dumps(figures, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    draft.file(STATISTICS).write_text(text, encoding="utf-8")
    checks: dict[str, Any] = {
        "leakage": {"limit": spec.leakage.auc, "allowed": list(spec.leakage.allow), "auc": strengths},
        "repeated_in_test": leakage.repeated(parts, [*choices, spec.label]),
        "not_finite": statistics.not_finite(figures),
    }
    return encodings, checks


def _cuts(parts: Engine, spec: DatasetSpec) -> list[int]:
    """Return the instants to cut at, event times that part the rows evenly: microseconds since 1970, ascending."""
    time = f"epoch_us({quoted(spec.event_time)})"
    rows = f"SELECT {time} AS t FROM train UNION ALL SELECT {time} FROM test"  # which are ordered by it
    total = parts.one(f"SELECT count(*) FROM ({rows})")[0]
    places = [math.ceil((number + 1) / (spec.cuts + 1) * total) - 1 for number in range(spec.cuts)]
    return sorted({int(parts.one(f"SELECT t FROM ({rows}) LIMIT 1 OFFSET {place}")[0]) for place in places})


def _warn(delivery: str, checks: Mapping[str, Any]) -> None:
    cuts = checks["causality"]["cuts"]
    if cuts:
        _log.info("%s: no feature sees what came after %s", delivery, ", ".join(cuts))
    else:
        _log.warning("%s: no source row is later than a row of the dataset: a look ahead cannot be seen", delivery)
    if checks["leakage"]["auc"] is None:
        _log.warning("%s: too few held-out rows of either label to see whether a feature tells it", delivery)
    if checks["repeated_in_test"]:
        _log.warning("%s: %d held-out rows stand in training too", delivery, checks["repeated_in_test"])
    for name, count in checks["not_finite"].items():
        _log.warning("%s: feature %s is not finite in %d rows; the model sees the mean there", delivery, name, count)
    for side, count in checks["outside_window"].items():
        if count:
            _log.warning("%s: %d rows have an event time %s the window", delivery, count, side)


def _slices(delivery: Delivery, window: Window, lake: Lake) -> dict[str, list[str]]:
    try:
        parts = list(keys.windows(window, delivery.window))
    except ValueError as error:
        raise DataError(f"{delivery.delivery}: {error}") from error
    found = {}
    for name, source in delivery.sources.items():
        wanted = parts if source.is_windowed else parts[-1:]
        found[name] = [keys.validated(delivery.delivery, name, part) for part in wanted]
        for part, key in zip(wanted, found[name], strict=True):
            if lake.manifest(key) is None:
                raise DataError(f"source {name!r} has no slice of {part}; run ingest__{delivery.delivery} for it")
    return found
