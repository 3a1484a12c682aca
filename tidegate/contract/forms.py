"""Whether texts have a lexical form: one of fixed width, as an ISO instant's, byte by byte; any other by RE2."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

if TYPE_CHECKING:
    from numpy.typing import NDArray

pc: Any = pyarrow.compute  # its type stubs do not know calls that mix arrays and plain values

_TOKEN = re.compile(
    r"(?:(\\d)|\\([!-/:-@\[-`{-~])|\[([!-~])-([!-~])\]|([ !\"#%&',\-/:;<=>@_`~0-9A-Za-z]))(?:\{(\d{1,2})\})?"
)
_NO_END = frozenset("\\[]^-")  # of a range of characters: these mean something there
_BLOCK = 1 << 16  # bytes compared at once: they stay in the processor's cache


def has_form(texts: Any, form: str) -> Any:
    """Return which texts match a regular expression (RE2) as a whole: an Arrow array, NULL where the text is."""
    limits = _limits(form)
    if limits is None:
        return pc.match_substring_regex(texts, pattern=rf"\A(?:{form})\z")
    low, span = limits
    wide = pc.equal(pc.binary_length(texts), len(low))
    fits = np.asarray(pc.fill_null(wide, False)).copy()
    whole = texts if fits.all() else texts.filter(wide)
    fits[fits] = _within(whole, low, span)
    return pa.array(fits, mask=np.asarray(pc.is_null(texts)) if texts.null_count else None)


@lru_cache(maxsize=256)
def _limits(form: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
    r"""Return, of a form made of `\d`, `[a-f]`, plain characters and `{n}` only, each byte's least value and range."""
    low: list[int] = []
    span: list[int] = []
    at = 0
    while at < len(form):
        token = _TOKEN.match(form, at)
        if token is None:
            return None
        digit, escaped, first, last, plain, times = token.groups()
        if first and (first > last or {first, last} & _NO_END):
            return None
        least, most = ("0", "9") if digit else (first, last) if first else (escaped or plain,) * 2
        low += [ord(least)] * int(times or 1)
        span += [ord(most) - ord(least)] * int(times or 1)
        at = token.end()
    return (np.array(low, np.uint8), np.array(span, np.uint8)) if low else None


def _within(texts: Any, low: NDArray[np.uint8], span: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Say of texts that are all as wide as `low` which have each byte at most `span` above it."""
    width, count = len(low), len(texts)
    fits = np.ones(count, dtype=bool)
    if not count:
        return fits
    _, offsets, data = texts.buffers()
    start = int(np.frombuffer(offsets, np.int32, 1, 4 * texts.offset)[0])
    packed = np.frombuffer(data, np.uint8, count * width, start)
    rows = max(1, _BLOCK // width)
    lows, spans = np.tile(low, rows), np.tile(span, rows)
    for first in range(0, count * width, rows * width):
        block = packed[first : first + rows * width]
        off = np.flatnonzero(block - lows[: len(block)] > spans[: len(block)])
        fits[(first + off) // width] = False
    return fits
