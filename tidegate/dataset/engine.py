"""A DuckDB that sees the given sources and nothing else, keeps within its memory and spills to a folder that goes."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from tidegate.errors import DataError, NoSpace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MEMORY = "1GB"
_EXTENSIONS = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}


class Engine:
    """Sources as views of their names in one connection; each view may be narrowed and set back."""

    def __init__(self, connection: Any, sources: Mapping[str, str]):
        self.connection = connection
        self._sources = dict(sources)

    @property
    def sources(self) -> list[str]:
        """The names of the views."""
        return list(self._sources)

    def show(self, source: str, columns: str = "*", where: str = "true") -> None:
        """Let the view of a source have these columns of the rows for which an expression holds."""
        self.connection.execute(
            f"CREATE OR REPLACE VIEW {quoted(source)} AS SELECT {columns} FROM {self._sources[source]} WHERE {where}"
        )

    def rows(self, source: str) -> str:
        """Return what stands behind FROM to read all rows of a source, however its view is narrowed."""
        return self._sources[source]

    def one(self, query: str, values: list[Any] | None = None) -> tuple[Any, ...]:
        """Return the only row of a query."""
        found: tuple[Any, ...] = self.connection.execute(query, values or []).fetchall()[0]
        return found

    def batches(self, query: str, rows: int) -> Iterator[Any]:
        """Yield a query's rows as Arrow tables of at most `rows` each, without holding them all."""
        import pyarrow as pa

        reader = self.connection.sql(query).to_arrow_reader(rows)
        try:
            for batch in reader:
                yield pa.Table.from_batches([batch])
        except OSError as error:  # as Arrow has whatever DuckDB says between two batches
            raise _as_duckdb_has_it(str(error)) from error


def _as_duckdb_has_it(said: str) -> duckdb.Error:
    for kind, begins in ((duckdb.OutOfMemoryException, "Out of Memory Error"), (duckdb.IOException, "IO Error")):
        if said.startswith(begins):
            return kind(said)
    return duckdb.Error(said)


@contextmanager
def opened(sources: Mapping[str, Any], memory: str = MEMORY, threads: int = 1) -> Iterator[Engine]:
    """Give an engine over sources: each a list of Parquet files, or an Arrow table.

    SQL that runs in it reads no other file, no network and no variable of this process. It is in UTC, and has one
    thread unless asked for more: sums of floats then have one order, and the same rows give the same bytes.

    Raises:
        DataError: a query needs more than `memory` even with spilling.
        NoSpace: what does not fit cannot be written to disk either.
    """
    with tempfile.TemporaryDirectory(prefix="tidegate-dataset-") as folder:
        config = {"threads": threads, "memory_limit": memory, "temp_directory": folder, **_EXTENSIONS}
        connection = duckdb.connect(":memory:", config=config)
        try:
            yield _engine(connection, sources)
        except duckdb.OutOfMemoryException as error:
            said = str(error).splitlines()[0]
            if "max_temp_directory_size" in str(error):
                raise _disk(said, folder) from error
            raise DataError(
                f"the dataset's SELECT does not fit in {memory}: {said}; raise dataset.memory, or aggregate in steps"
            ) from error
        except duckdb.IOException as error:
            raise _disk(str(error).splitlines()[0], folder) from error
        finally:
            connection.close()


def _disk(said: str, folder: str) -> NoSpace:
    free = shutil.disk_usage(folder).free >> 20
    return NoSpace(
        f"rows beyond dataset.memory go to {folder}, which has {free} MiB free: {said}; free disk space, or set TMPDIR"
    )


def _engine(connection: Any, sources: Mapping[str, Any]) -> Engine:
    connection.execute("SET enable_progress_bar = false")  # it would go to stdout
    connection.execute("SET TimeZone = 'UTC'; SET python_enable_replacements = false")
    read = {}
    files: list[str] = []
    for name, source in sources.items():
        if isinstance(source, list):
            paths = [str(Path(path).absolute()) for path in source]
            files += paths
            read[name] = (
                f"read_parquet([{', '.join(map(text, paths))}], union_by_name = true, hive_partitioning = false)"
            )
        else:
            connection.register(f"tidegate rows of {name}", source)
            read[name] = quoted(f"tidegate rows of {name}")
    connection.execute(f"SET allowed_paths = [{', '.join(map(text, files))}]")
    connection.execute("SET enable_external_access = false; SET lock_configuration = true")
    engine = Engine(connection, read)
    for name in read:
        engine.show(name)
    return engine


def quoted(name: str) -> str:
    """Return a name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """Return a text as SQL writes it."""
    return "'" + value.replace("'", "''") + "'"
