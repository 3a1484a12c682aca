"""Takes the fields out of rows of COPY's binary format and decodes those of one column at once, by its type.

A row is the number of its fields (2 bytes), then each field: its size (4 bytes, -1 for NULL) and its bytes; all numbers
are big-endian. One pass over the rows per column finds where its fields lie; the values are then gathered by index.
Source: PostgreSQL's documentation of COPY, and the `*_send` functions in its source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tidegate.contract.arrow import raw_type
from tidegate.contract.model import BITS, integer_range

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tidegate.contract import Column

    Whole = NDArray[np.int64]
    Mask = NDArray[np.bool_]

HEADER = b"PGCOPY\n\xff\r\n\0"
HEADER_REST = 8  # bytes that follow it: flags, and the size of an extension that nobody has made
TRAILER = b"\xff\xff"
_NEGATIVE = 0x4000
INFINITE = (0xD000, 0xF000)
_SPARE = 32  # bytes after the last row: a NULL there is gathered like a value, and masked
_POWERS = 10 ** np.arange(19, dtype=np.int64)
_DIGITS = 18  # decimal digits that a machine word holds whatever they are
_GROUPS = 5  # of four digits, over which so many are spread at most, wherever the point is
_DAYS, _MICROSECONDS = 10_957, 946_684_800_000_000  # from 1970 to 2000, where Postgres counts from
_FIRST_DAY, _LAST_DAY = -719_162, 2_932_896  # 0001-01-01 and 9999-12-31
_A_DAY = 86_400_000_000  # microseconds


@dataclass(frozen=True)
class Rows:
    """A block of rows: their bytes one after another, some spare ones after the last, and the size of each row."""

    data: NDArray[np.uint8]
    sizes: Whole

    @classmethod
    def of(cls, pieces: list[bytes], sizes: list[Whole]) -> Rows:
        """Return the rows of several pieces; `sizes` has those of each piece's rows."""
        return cls(np.frombuffer(b"".join([*pieces, bytes(_SPARE)]), np.uint8), np.concatenate(sizes))

    def __len__(self) -> int:
        return len(self.sizes)


@dataclass(frozen=True)
class Fields:
    """One column's fields in a block of rows: where each begins in `data`, and its size; -1 for NULL."""

    data: NDArray[np.uint8]
    at: Whole
    size: Whole

    @property
    def valid(self) -> Mask:
        """Where they are not NULL."""
        return self.size >= 0

    def numbers(self, kind: str) -> Whole:
        """Return the whole number of NumPy's type `kind` that each field begins with."""
        return self._begins(kind).astype(np.int64)  # type: ignore[no-any-return]

    def words(self, count: int) -> NDArray[np.uint16]:
        """Return the first words of 2 bytes of each field, [fields, count]; some are of what follows a short one."""
        return self._begins(f"V{2 * count}").view(">u2").reshape(-1, count).astype(np.uint16)  # type: ignore[no-any-return]

    def _begins(self, kind: str) -> Any:
        width = np.dtype(kind).itemsize
        every: Any = np.ndarray((len(self.data) - width + 1,), kind, self.data, strides=(1,))
        return every[self.at]

    def bytes(self, row: int) -> bytes | None:
        """Return one field's bytes."""
        start, size = int(self.at[row]), int(self.size[row])
        return self.data[start : start + size].tobytes() if size >= 0 else None


def fields(rows: Rows) -> Iterator[Fields]:
    """Yield the fields of each column of a block of at least one row, in the order of the columns."""
    at = np.cumsum(rows.sizes) - rows.sizes + 2
    for _ in range(int.from_bytes(rows.data[:2].tobytes(), "big")):
        size = Fields(rows.data, at, at).numbers(">i4")
        yield Fields(rows.data, at + 4, size)
        at = at + 4 + np.maximum(size, 0)


def wholes(found: Fields, table_type: str, column: Column) -> tuple[Any, Mask]:
    """Return whole numbers as the column's type, and where there is a value that it lacks."""
    values = found.numbers({"int2": ">i2", "int4": ">i4", "int8": ">i8"}[table_type])
    wanted, valid = raw_type(column), found.valid
    held = np.ones(len(values), np.bool_)
    if column.raw in BITS:
        low, high = integer_range(column.raw)
        held = (values >= low) & (values <= min(high, 2**63 - 1))
    return _array(values.astype(column.raw), wanted, valid & held), valid & ~held


def floats(found: Fields, table_type: str, column: Column) -> Any:
    """Return floating-point numbers, NaN and infinities among them."""
    width = {"float4": 4, "float8": 8}[table_type]
    bits = found.numbers(f">i{width}").astype(f"i{width}")
    wanted = raw_type(column)
    return _array(bits.view(f"f{width}").astype(column.raw), wanted, found.valid)


def truths(found: Fields) -> Any:
    """Return booleans."""
    return _array(np.packbits(found.numbers("u1") != 0, bitorder="little"), pa.bool_(), found.valid)


def days(found: Fields) -> tuple[Any, Mask]:
    """Return dates, and where there is one that they lack: infinity, BC, years of five digits."""
    values, valid = found.numbers(">i4") + _DAYS, found.valid
    held = (values >= _FIRST_DAY) & (values <= _LAST_DAY)
    return _array(values.astype(np.int32), pa.date32(), valid & held), valid & ~held


def clocks(found: Fields) -> tuple[Any, Mask]:
    """Return times of day, and where there is 24:00."""
    values, valid = found.numbers(">i8"), found.valid
    held = values < _A_DAY
    return _array(values, pa.time64("us"), valid & held), valid & ~held


def instants(found: Fields, column: Column) -> tuple[Any, Mask]:
    """Return timestamps with or without a zone, and where there is one that they lack, as for `days`."""
    values, valid = found.numbers(">i8"), found.valid
    held = (values >= _FIRST_DAY * _A_DAY - _MICROSECONDS) & (values < (_LAST_DAY + 1) * _A_DAY - _MICROSECONDS)
    return _array(values + _MICROSECONDS, raw_type(column), valid & held), valid & ~held


def binaries(found: Fields) -> Any:
    """Return the fields' bytes.

    Fields and what lies between them make one Arrow array over the block; every second item of it is a field.
    """
    count, valid = len(found.at), found.valid
    bounds: Any = np.empty(2 * count, np.int32)
    bounds[0::2] = found.at
    bounds[1::2] = found.at + np.maximum(found.size, 0)
    data: Any = found.data
    both = pa.Array.from_buffers(pa.binary(), max(0, 2 * count - 1), [None, pa.py_buffer(bounds), pa.py_buffer(data)])
    taken = both.take(_array(np.arange(0, 2 * count, 2), pa.int64(), np.ones(count, np.bool_)))
    return pa.Array.from_buffers(pa.binary(), count, [_bits(valid), *taken.buffers()[1:]])


def decimals(found: Fields, column: Column) -> tuple[Any, Mask]:
    """Return numbers of the column's digits, and where there is one that these cannot hold, NaN or an infinity.

    A field is the number of its digits to the base 10,000, the weight of the first, sign, scale, and the digits. What
    a machine word holds is summed up for all rows at once, the rest row by row.
    """
    wanted, valid = raw_type(column), found.valid
    words = found.words(4 + _GROUPS)
    count, weight = np.where(valid, words[:, 0], 0).astype(np.int64), words[:, 1].astype(np.int16).astype(np.int64)
    small = (4 * (weight + 1) + wanted.scale <= _DIGITS) & (count <= weight + 1 - (-wanted.scale // 4))
    small = (small | (count == 0)) & (words[:, 2] <= _NEGATIVE)
    values, exact = _summed(words, np.where(small, count, 0), weight, wanted.scale)
    values[words[:, 2] == _NEGATIVE] *= -1
    if wanted.precision <= _DIGITS:
        exact &= np.abs(values) < _POWERS[wanted.precision]
    halves = np.empty((len(values), 2), np.int64)
    halves[:, 0], halves[:, 1] = values, values >> 63
    held = valid & small & exact
    for row in np.flatnonzero(valid & ~small).tolist():
        number = _large(found, row, wanted.scale)
        if number is not None and abs(number) < 10**wanted.precision:
            low = number & (2**64 - 1)
            halves[row] = low - (2**64 if low >= 2**63 else 0), number >> 64
            held[row] = True
    return _array(halves, wanted, held), valid & ~held


def _summed(words: NDArray[np.uint16], count: Whole, weight: Whole, scale: int) -> tuple[Whole, Mask]:
    """Return the sum of each row's digits as a multiple of 10**-scale, and where it is one.

    `place` is the power of 10,000 that a digit is a multiple of. Those of one place have one factor in all rows.
    """
    values, exact = np.zeros(len(count), np.int64), np.ones(len(count), np.bool_)
    first = np.arange(len(count)) * words.shape[1] + 4
    flat = words.reshape(-1)
    for place in range(int(weight[count > 0].max(initial=-1)), -scale // 4 - 1, -1):
        nth = weight - place
        digit = np.where((nth >= 0) & (nth < count), flat[first + np.clip(nth, 0, _GROUPS - 1)], 0).astype(np.int64)
        power = 4 * place + scale
        if power < 0:
            digit, rest = np.divmod(digit, _POWERS[-power])
            exact &= rest == 0
            power = 0
        values += digit * _POWERS[power]
    return values, exact


def _large(found: Fields, row: int, scale: int) -> int | None:
    """Return one number as a multiple of 10**-scale; None where it is none."""
    parsed = numeric_parts(found.bytes(row) or b"")
    if parsed is None:
        return None
    sign, digits, exponent = parsed
    shift = exponent + scale
    whole, rest = (digits * 10**shift, 0) if shift >= 0 else divmod(digits, 10**-shift)
    return None if rest else sign * whole


def numeric_parts(field: bytes) -> tuple[int, int, int] | None:
    """Return a numeric as (sign, digits, exponent): sign * digits * 10**exponent; None for NaN and infinities."""
    count, weight, sign, _, *digits = np.frombuffer(field, ">u2").tolist()
    if sign > _NEGATIVE:
        return None
    value = 0
    for digit in digits[:count]:
        value = value * 10_000 + digit
    weight -= 65_536 if weight >= 32_768 else 0
    return (-1 if sign else 1), value, 4 * (weight + 1 - count)


def _array(values: Any, kind: Any, valid: Mask) -> Any:
    """Return an Arrow array of what lies in memory as that type's values."""
    return pa.Array.from_buffers(kind, len(valid), [_bits(valid), pa.py_buffer(values)])


def _bits(valid: Mask) -> Any:
    bits: Any = np.packbits(valid, bitorder="little")
    return None if valid.all() else pa.py_buffer(bits)
