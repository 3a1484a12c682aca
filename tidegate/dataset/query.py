"""The delivery's SELECT: read, held to what it may be, and run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from tidegate.dataset import tree
from tidegate.dataset.engine import opened, quoted
from tidegate.errors import DataError, SpecError
from tidegate.yamlfile import Problem, SpecProblems

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tidegate.dataset.engine import Engine
    from tidegate.delivery import DatasetSpec

VIEW = "tidegate_select"
_ROWS = "tidegate_rows"
_BATCH = 1 << 14  # rows


@dataclass(frozen=True)
class Query:
    """A delivery's SELECT over an engine's sources: its file, its settings and the schema that it yields."""

    engine: Engine
    sql: Path
    statement: str
    spec: DatasetSpec
    schema: Any

    @property
    def features(self) -> list[str]:
        """The names of the features, in the SELECT's order."""
        return [name for name in self.schema.names if name not in (self.spec.label, self.spec.event_time)]

    def batches(self) -> Iterator[Any]:
        """Yield the rows as Arrow tables, ordered by event time and then by every other column; labels as int8.

        The rows are made before they are ordered: what a join holds is free again when the sort needs memory.

        Raises:
            SpecProblems: a value cannot be computed.
            DataError: a row has no event time, or a label is neither 0 nor 1.
        """
        order = ", ".join(quoted(name) for name in [self.spec.event_time, *self.schema.names])
        place = self.schema.get_field_index(self.spec.label)
        missing = 0
        with complaints(self.sql):
            self.engine.connection.execute(f"CREATE TEMP TABLE {_ROWS} AS SELECT * FROM {VIEW}")
            for table in self.engine.batches(f"SELECT * FROM {_ROWS} ORDER BY {order}", _BATCH):
                missing += table.column(self.spec.event_time).null_count
                if not missing:  # they stand last
                    yield table.set_column(place, self.spec.label, _zeros_and_ones(table, self.spec, self.sql))
            self.engine.connection.execute(f"DROP TABLE {_ROWS}")
        if missing:
            raise DataError(f"{self.sql}: {missing} rows have no {self.spec.event_time}; leave them out in the SQL")


def prepare(engine: Engine, sql: Path, spec: DatasetSpec) -> Query:
    """Make the SELECT of a file a view of an engine, and look at what it yields.

    Raises:
        SpecError: the file is no single SELECT that DuckDB can run over these sources, with the same answer twice; it
            yields no label or event time of a fitting type; or a feature is made of what the label is made of.
    """
    statement = read_select(sql)
    with complaints(sql, lines_before=1):
        engine.connection.execute(f"CREATE TEMP VIEW {VIEW} AS\n{statement}")
        found = engine.connection.sql(f"SELECT * FROM {VIEW} LIMIT 0").to_arrow_table().schema
    for role, name in (("label", spec.label), ("event_time", spec.event_time)):
        if name not in found.names:
            have = ", ".join(found.names)
            raise SpecError(f"{sql} yields no column {name!r} (dataset.{role}); name one of: {have}")
    clock, label = found.field(spec.event_time).type, found.field(spec.label).type
    if not pa.types.is_timestamp(clock):
        raise SpecError(f"{sql}: event_time {spec.event_time!r} is {clock}; make it a timestamp")
    if not (pa.types.is_boolean(label) or pa.types.is_integer(label)):
        raise SpecError(f"{sql}: label {spec.label!r} is {label}; make it a boolean, or an integer of 0 and 1")
    problems = tree.problems(engine, sql, statement, spec)
    if problems:
        raise SpecProblems(problems)
    return Query(engine, sql, statement, spec, found)


def checked(tables: Mapping[str, Any], sql: Path, spec: DatasetSpec) -> Any:
    """Return the Arrow schema that a SELECT yields over tables of its sources' schemas; rows are not needed.

    Raises:
        SpecError: see `prepare`.
    """
    with opened(tables) as engine:
        return prepare(engine, sql, spec).schema


def select(tables: Mapping[str, Any], sql: Path, spec: DatasetSpec) -> Any:
    """Run the delivery's SELECT over Arrow tables, each a view of its source's name.

    Returns:
        An Arrow table, ordered by event time and then by every other column; the label as int8 of 0 and 1.

    Raises:
        SpecError: see `prepare`.
        DataError: a row has no event time, or a label is neither 0 nor 1.
    """
    with opened(tables, spec.memory, spec.threads) as engine:
        query = prepare(engine, sql, spec)
        place = query.schema.get_field_index(spec.label)
        empty = query.schema.set(place, pa.field(spec.label, pa.int8())).empty_table()
        return pa.concat_tables([empty, *query.batches()])


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
        raise _problem(path, str(error), 0) from error
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        kinds = ", ".join(statement.type.name for statement in statements) or "nothing"
        raise SpecError(f"{path} holds {kinds}; write exactly one SELECT")
    return text


class complaints:  # noqa: N801  # reads as a word: with complaints(sql)
    """Turns what DuckDB says of the SELECT into a problem at its line, but for being out of memory or disk."""

    def __init__(self, sql: Path, lines_before: int = 0):
        self._sql, self._lines_before = sql, lines_before

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        of_the_machine = (duckdb.OutOfMemoryException, duckdb.IOException)
        if isinstance(error, duckdb.Error) and not isinstance(error, of_the_machine):
            raise _problem(self._sql, str(error), self._lines_before) from error


def _problem(path: Path, message: str, lines_before: int) -> SpecProblems:
    """Return DuckDB's complaint as a problem at its line of the file; `lines_before` were put before the file's own."""
    lines = message.strip().splitlines()
    found = re.search(r"LINE (\d+): (.*)", message)
    line = max(1, int(found[1]) - lines_before) if found else 1
    value = found[2].strip() if found else path.name
    said = " ".join(text for text in lines[:2] if text and not text.startswith("LINE"))
    remedy = "mend the SELECT; its tables are the delivery's sources, their columns those of the contracts"
    return SpecProblems([Problem(str(path), line, "(sql)", value, said, remedy)])


def _zeros_and_ones(table: Any, spec: DatasetSpec, sql: Path) -> Any:
    label = table.column(spec.label)
    other = sorted({str(value) for value in pc.unique(label).to_pylist() if value not in (0, 1)})
    if other:
        raise DataError(f"{sql}: label {spec.label!r} has {', '.join(other[:5])}; only 0 and 1 can be learned")
    return label.cast(pa.int8())
