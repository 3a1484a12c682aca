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
from tidegate.files import avro, form_of, tfrecord
from tidegate.files.streams import Input, chunks

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
        file = Input.local(path)
        if form == ".parquet":
            with pq.ParquetFile(path) as found:
                step = min(rows, 1 << 16)
                batches = list(itertools.islice(found.iter_batches(step), -(-rows // step)))
                return pa.Table.from_batches(batches, found.schema_arrow).slice(0, rows)
        if form == ".csv":
            return _csv(next(chunks(file, packed, lambda _: None), b"")).slice(0, rows)
        if form == ".avro":
            return _table(list(itertools.islice(avro.records(file), rows)))
        if form in (".tfrecord", ".tfrecords"):
            return _examples(list(itertools.islice(tfrecord.records(file, packed), rows)))
        return from_messages(_lines(file, packed), rows)
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


def _lines(file: Input, packed: Any) -> Iterable[bytes]:
    left = b""
    for block in chunks(file, packed, lambda _: None):
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
    return _table(found)


def _examples(found: list[dict[str, list[Any]]]) -> Any:
    """Return Examples as a table: a feature that never has two values is no list, bytes that are texts are texts."""
    several = {name for row in found for name, values in row.items() if len(values) > 1}
    raw = {name for row in found for name, values in row.items() if not all(_is_text(value) for value in values)}

    def value(name: str, values: list[Any]) -> Any:
        read = [each.decode() if isinstance(each, bytes) and name not in raw else each for each in values]
        return read if name in several else read[0] if read else None

    return _table([{name: value(name, values) for name, values in row.items()} for row in found])


def _is_text(value: Any) -> bool:
    try:
        return not isinstance(value, bytes) or value.decode().isprintable()
    except UnicodeDecodeError:
        return False


def _table(found: list[dict[str, Any]]) -> Any:
    names = list(dict.fromkeys(name for row in found for name in row))
    return pa.table({name: _column([row.get(name) for row in found]) for name in names})


def _column(values: list[Any]) -> Any:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):
        return pa.array(
            [value if value is None or isinstance(value, str) else json.dumps(value, default=str) for value in values]
        )
