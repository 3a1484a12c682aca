"""Reads CSV (RFC 4180, UTF-8, a header line): records are cut first, so that each keeps its line and its bytes."""

from __future__ import annotations

import codecs
import io
import re
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv as pacsv

from tidegate.contract.texts import raw_values
from tidegate.errors import DataError
from tidegate.files import sliced
from tidegate.files.streams import LONGEST, chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from tidegate.contract import Column, Contract
    from tidegate.files.streams import Input, Packing

pc: Any = pyarrow.compute

_NEWLINE, _QUOTE, _COMMA = b'\n",'
_FIELD = re.compile(rb'(?:"(?:[^"]|"")*"[^,\n]*|[^,\n]*)(,|\n|\Z)')
_NOT_UTF8, _NO_RECORD = -1, -2
_ODD = {_NOT_UTF8: "not_utf8", _NO_RECORD: "no_csv_record"}


def read(path: Input, packed: Packing | None, contract: Contract, progress: Callable[[int], None]) -> Iterator[Any]:
    """Yield the rows of one CSV file; a row of another number of fields than the header's is kept as its bytes."""
    for column in contract.columns:
        if column.raw in ("list", "struct"):
            raise DataError(
                f"{path}: CSV holds no {column.raw}, as {column.name!r} is by {contract.path}; use JSON lines"
            )
    header: list[str] | None = None
    for block, bounds, numbers in _records(path, chunks(path, packed, progress)):
        if header is None:
            header = _header(path, block[bounds[0] : bounds[1]], contract)
            bounds, numbers = bounds[1:], numbers[1:]
        if len(numbers):
            yield _parsed(path, block, bounds, numbers, header, contract)
    if header is None:
        raise DataError(f"{path} holds no header line; write the columns' names first: {','.join(contract.names)}")


def _header(path: Input, record: bytes, contract: Contract) -> list[str]:
    try:
        found = pacsv.read_csv(io.BytesIO(record.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n") + b"\n"))
        names: list[str] = found.column_names
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise DataError(f"{path}:1: no header line: {error}; write the columns' names first") from error
    missing = [name for name in contract.names if name not in names]
    twice = [name for name in contract.names if names.count(name) > 1]
    if missing or twice:
        what = f"no column {', '.join(missing)}" if missing else f"two columns {', '.join(twice)}"
        raise DataError(
            f"{path}:1: the header has {what}; it has {', '.join(names)}. Mend the file, or take the column out of "
            f"{contract.path}"
        )
    return names


def _records(path: Input, blocks: Iterator[bytes]) -> Iterator[tuple[bytes, NDArray[np.int64], NDArray[np.int64]]]:
    """Yield blocks of whole records: bytes, the records' bounds [n + 1] in them, and the line each starts at [n].

    Empty lines are no records. A block's bounds skip none of its bytes but those.
    """
    left, line = b"", 1
    for block in blocks:
        held = left + block
        ends = _ends(held)
        if not len(ends):
            left = held
            if len(left) > LONGEST:
                raise DataError(
                    f"{path}:{line}: a record of more than {LONGEST >> 20} MiB begins here; a quote never closed is "
                    "the usual cause: mend it"
                )
            continue
        yield _cut(held[: ends[-1]], ends, line)
        line += held.count(b"\n", 0, int(ends[-1]))
        left = held[ends[-1] :]
    if left:
        yield _cut(left + b"\n", np.array([len(left) + 1]), line)


def _ends(held: bytes) -> NDArray[np.int64]:
    """Return where each record ends (after its newline): at the newlines that no quotes enclose."""
    data = np.frombuffer(held, np.uint8)
    newlines = np.flatnonzero(data == _NEWLINE)
    if b'"' not in held:
        return newlines + 1
    quotes = np.flatnonzero(data == _QUOTE)
    opening = quotes[::2]
    before = data[np.maximum(opening - 1, 0)]
    if not np.all((opening == 0) | (before == _COMMA) | (before == _NEWLINE) | (before == _QUOTE)):
        return _slow_ends(held)  # a quote inside a field that none encloses: it is a character like any other
    free: NDArray[np.int64] = newlines[np.searchsorted(quotes, newlines) % 2 == 0] + 1
    return free


def _slow_ends(held: bytes) -> NDArray[np.int64]:
    ends, at = [], 0
    while at < len(held):
        found = _FIELD.match(held, at)
        if found is None or found[1] == b"":
            break
        at = found.end()
        if found[1] == b"\n":
            ends.append(at)
    return np.array(ends, dtype=np.int64)


def _cut(block: bytes, ends: NDArray[np.int64], line: int) -> tuple[bytes, NDArray[np.int64], NDArray[np.int64]]:
    bounds = np.concatenate([[0], ends]).astype(np.int64)
    newlines = np.flatnonzero(np.frombuffer(block, np.uint8) == _NEWLINE)
    numbers = line + np.searchsorted(newlines, bounds[:-1])
    sizes = np.diff(bounds)
    blank = (sizes == 1) | ((sizes == 2) & (np.frombuffer(block, np.uint8)[bounds[:-1]] == ord("\r")))
    if not blank.any():
        return block, bounds, numbers
    kept = [block[bounds[n] : bounds[n + 1]] for n in np.flatnonzero(~blank)]
    return (
        b"".join(kept),
        np.concatenate([[0], np.cumsum([len(record) for record in kept])]).astype(np.int64),
        numbers[~blank],
    )


def _parsed(
    path: Input,
    block: bytes,
    bounds: NDArray[np.int64],
    numbers: NDArray[np.int64],
    header: list[str],
    contract: Contract,
) -> Any:
    text = block[bounds[0] : bounds[-1]]
    found, ragged = _fields(text, header, contract) if _is_utf8(text) else (None, {})
    if found is None or found.num_rows + len(ragged) != len(numbers):
        found, ragged = _one_by_one(block, bounds, header, contract)
    errors = np.full(len(numbers), None, dtype=object)
    for row, fields in ragged.items():
        errors[row] = _ODD.get(fields, f"{fields}_fields_for_{len(header)}")
    columns = [_typed(_spread(found.column(c.name), ragged, len(numbers)), c, errors) for c in contract.columns]
    positions = sliced.places(f"{path.name}:", numbers)
    return sliced.table(
        columns, positions, errors, lambda row: block[bounds[row] : bounds[row + 1]].rstrip(b"\r\n"), contract
    )


def _is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _fields(text: bytes, header: list[str], contract: Contract) -> tuple[Any, dict[int, int]]:
    """Return the columns of the straight records as bytes, and record -> number of fields of the others."""
    ragged: dict[int, int] = {}

    def keep(row: Any) -> Literal["skip"]:
        ragged[row.number - 1] = row.actual_columns
        return "skip"

    marked = codecs.BOM_UTF8 + text  # the reader takes one such mark away, and it shall be no part of a value
    try:
        table = pacsv.read_csv(
            io.BytesIO(marked),
            read_options=pacsv.ReadOptions(column_names=header, use_threads=False, block_size=len(marked) + 1),
            parse_options=pacsv.ParseOptions(newlines_in_values=True, invalid_row_handler=keep),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.binary()),
                include_columns=list(contract.names),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                null_values=[""],
            ),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError):
        return None, ragged
    return table, ragged


def _one_by_one(
    block: bytes, bounds: NDArray[np.int64], header: list[str], contract: Contract
) -> tuple[Any, dict[int, int]]:
    """Parse record by record, where the parser and the cutting disagree: what is no single record is kept as bytes."""
    tables, ragged = [], {}
    for row in range(len(bounds) - 1):
        text = block[bounds[row] : bounds[row + 1]]
        found, fields = _fields(text, header, contract) if _is_utf8(text) else (None, {0: _NOT_UTF8})
        if found is not None and found.num_rows == 1 and not fields:
            tables.append(found)
        else:
            alone = len(fields) == 1 and (found is None or not found.num_rows)
            ragged[row] = next(iter(fields.values())) if alone else _NO_RECORD
    empty = pa.table({name: pa.array([], pa.binary()) for name in contract.names})
    return pa.concat_tables([empty, *tables]), ragged


def _spread(values: Any, ragged: dict[int, int], rows: int) -> Any:
    """Return a column with a NULL in the place of each record that has no fields of its own."""
    values = sliced.plain(values)
    if not ragged:
        return values
    straight = np.ones(rows, dtype=bool)
    straight[list(ragged)] = False
    places = pa.array(np.cumsum(straight) - 1, mask=~straight)
    return values.take(places)


def _typed(values: Any, column: Column, errors: NDArray[np.object_]) -> Any:
    if column.raw == "bytes":
        return values
    texts = values.cast(pa.string())
    if column.raw == "string":
        return texts
    found = raw_values(texts, column)
    sliced.blame(texts, found, f"{column.name}_is_no_{column.raw}", errors)
    return found
