"""The first rows of a local file as its own format has them, for a person who writes a contract."""

from __future__ import annotations

import io
import itertools
import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from tidegate.errors import DataError
from tidegate.files import form_of
from tidegate.files.streams import chunks

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def sample(path: Path, rows: int) -> Any:
    """Return at most `rows` rows of a file as an Arrow table; of CSV every column is text.

    Raises:
        DataError: the file cannot be read.
    """
    form, packed = form_of(path)
    try:
        if form == ".parquet":
            with pq.ParquetFile(path) as file:
                batches = list(itertools.islice(file.iter_batches(min(rows, 1 << 16)), -(-rows // min(rows, 1 << 16))))
                return pa.Table.from_batches(batches, file.schema_arrow).slice(0, rows)
        if form == ".csv":
            return _csv(next(chunks(path, packed, lambda _: None), b"")).slice(0, rows)
        return from_messages(_lines(path, packed), rows)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as {form}: {error}; name another file") from error


def _csv(text: bytes) -> Any:
    whole = text[: text.rfind(b"\n") + 1] or text
    names = pacsv.read_csv(io.BytesIO(whole[: whole.find(b"\n") + 1] or whole)).column_names
    return pacsv.read_csv(
        io.BytesIO(whole),
        parse_options=pacsv.ParseOptions(newlines_in_values=True, invalid_row_handler=lambda _: "skip"),
        convert_options=pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        ),
    )


def _lines(path: Path, packed: Any) -> Iterable[bytes]:
    left = b""
    for block in chunks(path, packed, lambda _: None):
        *lines, left = (left + block).split(b"\n")
        yield from lines
    yield left


def from_messages(messages: Iterable[bytes], rows: int) -> Any:
    """Return at most `rows` JSON objects as a table: numbers where all values are, texts where they differ.

    Raises:
        DataError: none of them is a JSON object.
    """
    found: list[dict[str, Any]] = []
    for message in messages:
        if len(found) >= rows:
            break
        try:
            value = json.loads(message)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    if not found:
        raise DataError("no message is a JSON object; a contract can only be inferred from some that are")
    names = list(dict.fromkeys(name for row in found for name in row))
    return pa.table({name: _column([row.get(name) for row in found]) for name in names})


def _column(values: list[Any]) -> Any:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):
        return pa.array([value if value is None or isinstance(value, str) else json.dumps(value) for value in values])
