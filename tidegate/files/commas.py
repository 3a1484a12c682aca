"""Reads CSV (RFC 4180, UTF-8, a header line): records are cut first, so that each keeps its line and its bytes."""

from __future__ import annotations

import codecs
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv as pacsv

from tidegate.contract.arrow import raw_type
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

_NEWLINE, _RETURN, _QUOTE, _COMMA = b'\n\r",'
_FIELD = re.compile(rb'(?:"[^"]*+(?:""[^"]*+)*+"[^,\n]*+|(?!")[^,\n]*+)(,|\n|\Z)')
_EMPTY = (b"", b"\n", b"\r\n")  # lines that are no records
_NOT_UTF8, _NO_RECORD = -1, -2
_ODD = {_NOT_UTF8: "not_utf8", _NO_RECORD: "no_csv_record"}


def read(path: Input, packed: Packing | None, contract: Contract, progress: Callable[[int], None]) -> Iterator[Any]:
    """Yield the rows of one CSV file; a row of another number of fields than the header's is kept as its bytes."""
    for column in contract.columns:
        if column.raw in ("list", "struct"):
            raise DataError(
                f"{path}: CSV holds no {column.raw}, as {column.name!r} is by {contract.path}; use JSON lines"
            )
    reader = _Reader(path, contract)
    for block in chunks(path, packed, progress):
        yield from reader.tables(block)
    yield from reader.rest()


class _Reader:
    """Takes a file's blocks one after another, and gives their rows; what is no whole record yet waits for the next."""

    def __init__(self, path: Input, contract: Contract):
        self._path, self._contract = path, contract
        self._header: list[str] = []
        self._left, self._line = b"", 1

    def tables(self, block: bytes) -> Iterator[Any]:
        """Yield a table of the rows that are whole by now, if there are any.

        Raises:
            DataError: a record is longer than LONGEST, or the header is none of the contract's.
        """
        held = self._left + block
        if not self._header:
            held = self._after_header(held)
        self._left = held
        if self._header and (end := held.rfind(b"\n") + 1):
            records, fields = self._cut(held, end)
            self._left = held[records.size :]
            self._line += records.newlines
            if len(records.lines):
                yield self._table(records, fields)
        if len(self._left) > LONGEST:
            raise DataError(
                f"{self._path}:{self._line}: a record of more than {LONGEST >> 20} MiB begins here; a quote never "
                "closed is the usual cause: mend it"
            )

    def rest(self) -> Iterator[Any]:
        """Yield the last row, where no newline ends it.

        Raises:
            DataError: the file has no header line, or not the contract's.
        """
        last = self._left + b"\n" if self._left else b""
        if not self._header and last not in _EMPTY:
            self._header, last = _header(self._path, last, self._contract), b""
        if not self._header:
            raise DataError(
                f"{self._path} holds no header line; write the columns' names first: {','.join(self._contract.names)}"
            )
        if last not in _EMPTY:
            records = _Records.cut(last, np.array([len(last)]), self._line)
            yield self._table(records, _fields_of(records, self._header, self._contract))

    def _after_header(self, held: bytes) -> bytes:
        """Read the header, if it is whole by now; return what comes after it."""
        at = 0
        for end in _ends_of_all(held):
            record, at = held[at:end], end
            self._line += record.count(b"\n")
            if record not in _EMPTY:
                self._header = _header(self._path, record, self._contract)
                break
        return held[at:]

    def _cut(self, held: bytes, end: int) -> tuple[_Records, _Fields]:
        """Return the whole records of what is held, of which `end` is the end of the last line, and their fields."""
        text = held[:end]
        fields = _parsed(text, self._header, self._contract)
        if fields is not None and (records := _Records.of_lines(text, len(fields), self._line)):
            return records, fields
        ends = _ends(held)
        records = _Records.cut(held[: ends[-1]] if len(ends) else b"", ends, self._line)
        if fields is None or records.text != text or not records.are(fields):
            fields = _fields_of(records, self._header, self._contract)
        return records, fields

    def _table(self, records: _Records, fields: _Fields) -> Any:
        errors = np.full(len(records.lines), None, dtype=object)
        for row, count in fields.ragged.items():
            errors[row] = _ODD.get(count, f"{count}_fields_for_{len(self._header)}")
        columns = [_typed(fields.column(column.name), column, errors) for column in self._contract.columns]
        positions = sliced.places(f"{self._path.name}:", records.lines)
        return sliced.table(columns, positions, errors, records.bytes_of, self._contract)


@dataclass(frozen=True)
class _Records:
    """Whole records, one after another.

    Attributes:
        text: their bytes.
        bounds: where each begins in them, and the last one's end [n + 1].
        lines: the line of the file at which each begins [n].
        size: the bytes of the file that they are, with the empty lines between them, which are no records.
        newlines: how many of those bytes are newlines.
    """

    text: bytes
    bounds: NDArray[np.int64]
    lines: NDArray[np.int64]
    size: int
    newlines: int

    @classmethod
    def of_lines(cls, text: bytes, found: int, line: int) -> _Records | None:
        """Return each line as a record, where that is sure: a parser that found so many took each line for one.

        For a record ends with one newline at least: as many records as newlines leave none for quotes to enclose, and
        none for an empty line. A carriage return alone, which the parser takes for a newline, would upset the sum.
        """
        ends = np.flatnonzero(np.frombuffer(text, np.uint8) == _NEWLINE) + 1
        if len(ends) != found or _has_lone_returns(text):
            return None
        return cls(text, np.append(0, ends), np.arange(line, line + found), len(text), found)

    @classmethod
    def cut(cls, text: bytes, ends: NDArray[np.int64], line: int) -> _Records:
        """Return the records that end at `ends`, less the empty lines."""
        data = np.frombuffer(text, np.uint8)
        bounds = np.append(0, ends).astype(np.int64)
        newlines = np.flatnonzero(data == _NEWLINE)
        lines = line + np.searchsorted(newlines, bounds[:-1])
        sizes = np.diff(bounds)
        blank = (sizes == 1) | ((sizes == 2) & (data[bounds[:-1]] == _RETURN))
        if blank.any():
            kept = [text[bounds[n] : bounds[n + 1]] for n in np.flatnonzero(~blank)]
            bounds = np.cumsum([0, *map(len, kept)], dtype=np.int64)
            return cls(b"".join(kept), bounds, lines[~blank], len(text), len(newlines))
        return cls(text, bounds, lines, len(text), len(newlines))

    def part(self, first: int, end: int) -> _Records:
        """Return some of the records; their lines alone are of the file."""
        begin, stop = int(self.bounds[first]), int(self.bounds[end])
        text, bounds = self.text[begin:stop], self.bounds[first : end + 1] - begin
        return _Records(text, bounds, self.lines[first:end], stop - begin, 0)

    def are(self, fields: _Fields) -> bool:
        """Whether the parser took these records for records as they are."""
        return len(fields) == len(self.lines) and (len(fields) == 1 or not _has_stray_returns(self.text))

    def bytes_of(self, row: int) -> bytes:
        """Return a record as it stands in the file, less its newline."""
        return self.text[self.bounds[row] : self.bounds[row + 1]].rstrip(b"\r\n")


@dataclass(frozen=True)
class _Fields:
    """What a parser found: the fields of the straight records, as texts, and record -> how many the others have."""

    table: Any
    ragged: dict[int, int]

    def __len__(self) -> int:
        return int(self.table.num_rows) + len(self.ragged)

    def column(self, name: str) -> Any:
        """Return a column with a NULL in the place of each record that is not straight."""
        values = sliced.plain(self.table.column(name))
        if not self.ragged:
            return values
        straight = np.ones(len(self), dtype=bool)
        straight[list(self.ragged)] = False
        return values.take(pa.array(np.cumsum(straight) - 1, mask=~straight))


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


def _ends(held: bytes) -> NDArray[np.int64]:
    """Return where each record ends (after its newline): at the newlines that no quotes enclose."""
    data = np.frombuffer(held, np.uint8)
    newlines = np.flatnonzero(data == _NEWLINE)
    if b'"' not in held:
        return newlines + 1
    quotes = np.flatnonzero(data == _QUOTE)
    if not _enclose(data, quotes):
        return np.array(list(_ends_of_all(held)), dtype=np.int64)
    free: NDArray[np.int64] = newlines[np.searchsorted(quotes, newlines) % 2 == 0] + 1
    return free


def _enclose(data: NDArray[np.uint8], quotes: NDArray[np.int64]) -> bool:
    """Whether every second quote opens a field or follows one that it is written twice for.

    Else one stands inside of a field that none encloses, and is a character like any other.
    """
    opening = quotes[::2]
    before = data[np.maximum(opening - 1, 0)]
    return bool(np.all((opening == 0) | (before == _COMMA) | (before == _NEWLINE) | (before == _QUOTE)))


def _ends_of_all(held: bytes) -> Iterator[int]:
    """Yield where each record ends, field by field."""
    at = 0
    while at < len(held):
        found = _FIELD.match(held, at)
        if found is None or found[1] == b"":
            return
        at = found.end()
        if found[1] == b"\n":
            yield at


def _has_lone_returns(text: bytes) -> bool:
    return b"\r" in text and text.count(b"\r") != text.count(b"\r\n")


def _has_stray_returns(text: bytes) -> bool:
    """Whether a carriage return that no newline follows stands outside of quotes: there the parser ends a record."""
    if not _has_lone_returns(text):
        return False
    data = np.frombuffer(text, np.uint8)
    quotes = np.flatnonzero(data == _QUOTE)
    alone = np.flatnonzero((data[:-1] == _RETURN) & (data[1:] != _NEWLINE))
    return not _enclose(data, quotes) or bool(np.any(np.searchsorted(quotes, alone) % 2 == 0))


def _is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _parsed(text: bytes, header: list[str], contract: Contract) -> _Fields | None:
    """Return the fields of the records that a parser finds in whole lines; None where a quote is left open, or worse.

    The parser skips empty lines and takes a quote that is never closed for closed at the end. So it is given a last
    line of too many fields: it tells of that one as its last record, unless a quote swallowed it.
    """
    ragged: dict[int, int] = {}
    last = "," * len(header)
    told = ""

    def keep(row: Any) -> Literal["skip"]:
        nonlocal told
        ragged[row.number - 1], told = row.actual_columns, row.text
        return "skip"

    if not _is_utf8(text):
        return None
    marked = b"".join(
        (codecs.BOM_UTF8, text, last.encode(), b"\n")
    )  # the reader takes one such mark away: it shall be no value
    try:
        table = pacsv.read_csv(
            io.BytesIO(marked),
            read_options=pacsv.ReadOptions(column_names=header, use_threads=False, block_size=len(marked) + 1),
            parse_options=pacsv.ParseOptions(newlines_in_values=True, invalid_row_handler=keep),
            convert_options=pacsv.ConvertOptions(
                check_utf8=False,
                column_types=dict.fromkeys(header, pa.string()),
                include_columns=list(contract.names),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                null_values=[""],
            ),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError):
        return None
    is_last_told = told == last and ragged.popitem()[0] == table.num_rows + len(ragged)
    return _Fields(table, ragged) if is_last_told else None


def _fields_of(records: _Records, header: list[str], contract: Contract) -> _Fields:
    """Return the records' fields; where the parser disagrees with the cutting, halve them until a single one is left.

    What is no single record for the parser is kept as bytes.
    """
    count = len(records.lines)
    found = _parsed(records.text, header, contract)
    if found is not None and records.are(found):
        return found
    if count > 1:
        half = count // 2
        first, second = (_fields_of(records.part(*part), header, contract) for part in ((0, half), (half, count)))
        later = {half + row: fields for row, fields in second.ragged.items()}
        return _Fields(pa.concat_tables([first.table, second.table]), {**first.ragged, **later})
    empty = pa.table({name: pa.array([], pa.string()) for name in contract.names})
    return _Fields(empty, {0: _NO_RECORD if _is_utf8(records.text) else _NOT_UTF8} if count else {})


def _typed(values: Any, column: Column, errors: NDArray[np.object_]) -> Any:
    if column.raw in ("bytes", "string"):
        return values.cast(raw_type(column))
    found = raw_values(values, column)
    sliced.blame(values, found, f"{column.name}_is_no_{column.raw}", errors)
    return found
