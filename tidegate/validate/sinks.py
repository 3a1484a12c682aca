"""Files that rows are written to: in row groups of a fixed size, so that the same rows make the same bytes."""

from __future__ import annotations

import base64
import json
import os
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from tidegate.contract.arrow import PARQUET
from tidegate.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

_GROUP = 1 << 16
FORMATS = (".parquet", ".csv", ".jsonl")


class ParquetSink:
    """One Parquet file; closed by leaving its `with`."""

    def __init__(self, path: Path, schema: Any):
        self._path = path
        self._schema = schema
        self._waiting: Any = None
        self._open()

    def __enter__(self) -> ParquetSink:
        """Begin the file."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Write what waits, unless something went wrong, and close the file."""
        if kind is None and (self._waiting.num_rows or not self._written):
            self._out.write_table(self._waiting.combine_chunks(), row_group_size=_GROUP)
        self._out.close()

    def write(self, table: Any) -> None:
        """Take the next rows."""
        self._waiting = pa.concat_tables([self._waiting, table])
        while self._waiting.num_rows >= _GROUP:
            self._out.write_table(self._waiting.slice(0, _GROUP).combine_chunks(), row_group_size=_GROUP)
            self._waiting = self._waiting.slice(_GROUP)
            self._written = True

    def again(self) -> None:
        """Begin the file anew."""
        self._out.close()
        self._open()

    def _open(self) -> None:
        self._out = pq.ParquetWriter(self._path, self._schema, **PARQUET)
        self._waiting, self._written = self._schema.empty_table(), False


class TextSink:
    """One file of CSV or JSON lines; bytes are written as base64."""

    def __init__(self, path: Path, schema: Any, form: str):
        self._path = path
        self._form = form
        self._schema = schema
        self._open()

    def __enter__(self) -> TextSink:
        """Begin the file."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._close()

    def write(self, table: Any) -> None:
        """Take the next rows."""
        if self._out is not None:
            self._out.write_table(table)
            return
        for row in table.to_pylist():
            line = json.dumps(row, default=_plain, ensure_ascii=False)
            self._file.write(line.encode("utf-8", "surrogatepass") + b"\n")

    def again(self) -> None:
        """Begin the file anew."""
        self._close()
        self._open()

    def _open(self) -> None:
        self._file: Any = open(self._path, "wb")  # noqa: SIM115 - closed by _close
        self._out = pacsv.CSVWriter(self._file, self._schema) if self._form == ".csv" else None

    def _close(self) -> None:
        if self._out is not None:
            self._out.close()
        self._file.close()


class Aside:
    """A sink beside its final path: it takes that name only when `keep` was called, and is removed otherwise."""

    def __init__(self, path: Path, schema: Any):
        form = path.suffix.lower()
        nested = [item.name for item in schema if pa.types.is_nested(item.type)]
        if form not in FORMATS or (form == ".csv" and nested):
            why = f"CSV cannot hold {', '.join(nested)}" if nested and form == ".csv" else "its name says no format"
            raise DataError(f"{path}: {why}; name it {' or '.join(FORMATS if not nested else ('.parquet', '.jsonl'))}")
        self._path = path
        self._part = path.with_name(f".{path.name}.part")
        self._kept = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.sink = ParquetSink(self._part, schema) if form == ".parquet" else TextSink(self._part, schema, form)
        except OSError as error:
            raise DataError(f"{path} cannot be written: {error}; choose another place") from error

    def __enter__(self) -> Aside:
        """Begin."""
        return self

    def keep(self) -> None:
        """Let the file have its name once it is closed."""
        self._kept = True

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Close the file, and name or remove it."""
        self.sink.__exit__(kind, error, trace)
        if self._kept and kind is None:
            os.replace(self._part, self._path)
        else:
            self._part.unlink(missing_ok=True)


def _plain(value: Any) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)
