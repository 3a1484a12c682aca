"""The training table: the delivery's SQL over validated slices, split by time, with its encodings frozen."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from tidegate import keys
from tidegate.contract import load_contract
from tidegate.contract.arrow import PARQUET
from tidegate.contract.encodings import Encodings, FeatureEncoding, standardise, vocabulary
from tidegate.errors import DataError, SpecError
from tidegate.handoff import Dataset, Feature, Window
from tidegate.units import add_window
from tidegate.yamlfile import Problem, SpecProblems

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tidegate.contract import Contract
    from tidegate.delivery import DatasetSpec, Delivery
    from tidegate.lake import Lake

_VIEW = "tidegate_select"
TRAIN, TEST, ENCODINGS = "train.parquet", "test.parquet", "encodings.json"


def build(
    delivery: Delivery, window: Window, lake: Lake, folder: Path, contracts: Mapping[str, Contract] | None = None
) -> Dataset:
    """Publish the dataset of a window: train.parquet, test.parquet (raw values) and encodings.json.

    A windowed source is the union of its slices in the window; reference data (HDFS without a window in its path) are
    those of its newest slice; of each slice it is the newest revision. The last `dataset.test` of the window is held
    out. `folder` holds the SQL; `contracts` maps a source to its contract (default: those of the project).

    Raises:
        SpecError: the SQL cannot be run, or yields what no encoding is stated for.
        DataError: a slice is missing, a label is neither 0 nor 1, or there are too few training rows.
    """
    contracts = contracts or {name: load_contract(source.contract) for name, source in delivery.sources.items()}
    slices = _slices(delivery, window, lake)
    revisions = {key: str(lake.require(key)["digest"]) for keyed in slices.values() for key in keyed}
    views = {
        source: pads.dataset([str(lake.local(key, "clean.parquet", revisions[key])) for key in keyed], format="parquet")
        for source, keyed in slices.items()
    }
    spec = delivery.dataset
    table = select(views, folder / spec.sql, spec)
    choices = chosen_encodings(table.schema, spec, contracts)
    train, test = _split(table, spec, add_window(window.end, spec.test_length, -1))
    if train.num_rows < spec.at_least:
        raise DataError(
            f"{delivery.delivery} {window}: {train.num_rows} training rows, at least {spec.at_least} are asked for "
            "(dataset.at_least); widen train_on, or ingest more windows"
        )
    encodings = freeze(table, train, choices)
    digests = {
        f"{source}/{keys.window_of(key).id}": revisions[key] for source, keyed in slices.items() for key in keyed
    }
    features = [Feature(name=f.name, encoding=f.encoding, dtype=f.dtype, size=f.size) for f in encodings.features]
    fields: dict[str, Any] = {
        "delivery": delivery.delivery,
        "window": window.model_dump(mode="json"),
        "train_rows": train.num_rows,
        "test_rows": test.num_rows,
        "label": spec.label,
        "features": [feature.model_dump() for feature in features],
        "slices": digests,
    }
    key = keys.dataset(delivery.delivery, window)
    with lake.publish(key, **fields) as draft:
        pq.write_table(train, draft.file(TRAIN), **PARQUET)
        pq.write_table(test, draft.file(TEST), **PARQUET)
        draft.file(ENCODINGS).write_text(encodings.to_json(), encoding="utf-8")
    return Dataset.model_validate({**fields, "key": key, "digest": lake.require(key)["digest"]})


def select(views: Mapping[str, Any], sql: Path, spec: DatasetSpec) -> Any:
    """Run the delivery's SELECT over Arrow tables or datasets, each a view of its source's name.

    Returns:
        An Arrow table, ordered by event time and then by every other column; the label as int8 of 0 and 1.

    Raises:
        SpecError: the file is no single SELECT that DuckDB can run over these views.
        DataError: a label is NULL or neither 0 nor 1.
    """
    statement = read_select(sql)
    with connect(views) as connection:
        try:
            connection.execute(f"CREATE TEMP VIEW {_VIEW} AS\n{statement}")
            names = [column[0] for column in connection.execute(f"SELECT * FROM {_VIEW} LIMIT 0").description]  # noqa: S608  # our name
            for role, name in (("label", spec.label), ("event_time", spec.event_time)):
                if name not in names:
                    have = ", ".join(names)
                    raise SpecError(f"{sql} yields no column {name!r} (dataset.{role}); name one of: {have}")
            order = ", ".join(f'"{name}"' for name in [spec.event_time, *names])
            table = connection.sql(f"SELECT * FROM {_VIEW} ORDER BY {order}").to_arrow_table()  # noqa: S608
        except duckdb.Error as error:
            raise _sql_error(sql, str(error), 1) from error
    clock = table.schema.field(spec.event_time).type
    if not pa.types.is_timestamp(clock):
        raise SpecError(f"{sql}: event_time {spec.event_time!r} is {clock}; make it a timestamp")
    return _with_label(table, spec, sql)


def read_select(path: Path) -> str:
    """Return the text of a file that holds one SELECT statement, with its comments.

    Raises:
        SpecError: the file is missing, does not parse, or holds anything else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        statements = duckdb.extract_statements(text)
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} cannot be read: {error}; write the delivery's SELECT there") from error
    except duckdb.Error as error:
        raise _sql_error(path, str(error), 0) from error
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        kinds = ", ".join(statement.type.name for statement in statements) or "nothing"
        raise SpecError(f"{path} holds {kinds}; write exactly one SELECT")
    return text


def _sql_error(path: Path, message: str, lines_before: int) -> SpecProblems:
    """Return DuckDB's complaint as a problem at its line of the file; `lines_before` were put before the file's own."""
    lines = message.strip().splitlines()
    found = re.search(r"LINE (\d+): (.*)", message)
    line = max(1, int(found[1]) - lines_before) if found else 1
    value = found[2].strip() if found else path.name
    said = " ".join(text for text in lines[:2] if text and not text.startswith("LINE"))
    remedy = "mend the SELECT; its tables are the delivery's sources, their columns those of the contracts"
    return SpecProblems([Problem(str(path), line, "(sql)", value, said, remedy)])


def connect(views: Mapping[str, Any]) -> Any:
    """Return an in-memory DuckDB, in UTC, that sees these views and nothing else (no files, no network)."""
    connection = duckdb.connect(":memory:", config={"threads": 2, "memory_limit": "2GB"})
    connection.execute("SET TimeZone = 'UTC'")
    for name, view in views.items():
        connection.register(name, view)
    connection.execute("SET enable_external_access = false; SET lock_configuration = true")
    return connection


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


def freeze(table: Any, train: Any, choices: Mapping[str, str]) -> Encodings:
    """Freeze vocabularies over all rows of the window, mean and deviation over the training rows only."""

    def one(name: str, encoding: str) -> FeatureEncoding:
        if encoding == "vocabulary":
            return vocabulary(name, pc.unique(table.column(name)).to_pylist())
        numbers = train.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False)
        return standardise(name, np.asarray(numbers, dtype=np.float64))

    return Encodings(tuple(one(name, encoding) for name, encoding in choices.items()))


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


def _with_label(table: Any, spec: DatasetSpec, sql: Path) -> Any:
    place = table.schema.get_field_index(spec.label)
    label = table.column(place)
    if not (pa.types.is_boolean(label.type) or pa.types.is_integer(label.type)):
        raise SpecError(f"{sql}: label {spec.label!r} is {label.type}; make it a boolean, or an integer of 0 and 1")
    other = sorted({str(value) for value in pc.unique(label).to_pylist() if value not in (0, 1)})
    if other:
        raise DataError(f"{sql}: label {spec.label!r} has {', '.join(other[:5])}; only 0 and 1 can be learned")
    return table.set_column(place, spec.label, label.cast(pa.int8()))


def _split(table: Any, spec: DatasetSpec, held_out_from: Any) -> tuple[Any, Any]:
    times = table.column(spec.event_time)
    limit = pa.scalar(held_out_from).cast(pa.timestamp("us", tz="UTC"))
    in_utc = times.cast(pa.timestamp("us", tz="UTC")) if times.type.tz else times.cast(pa.timestamp("us"))
    if not times.type.tz:
        limit = limit.cast(pa.timestamp("us"))
    if in_utc.null_count:
        raise DataError(f"{spec.sql}: {in_utc.null_count} rows have no {spec.event_time}; leave them out in the SQL")
    held_out: Any = pc
    mask = held_out.greater_equal(in_utc, limit)
    return table.filter(held_out.invert(mask)), table.filter(mask)


def _stated(name: str, contracts: Mapping[str, Contract]) -> str | None:
    by_source = {
        source: column.encoding
        for source, contract in contracts.items()
        if (column := contract.column(name)) is not None and column.encoding is not None
    }
    if len(set(by_source.values())) > 1:
        raise SpecError(f"the contracts of {', '.join(by_source)} encode {name!r} differently; make them agree")
    return next(iter(by_source.values()), None)
