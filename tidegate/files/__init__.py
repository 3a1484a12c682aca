"""Local files as tables of a contract's slice schema: Parquet, CSV and JSON lines, plain, .gz or .zst.

Every row of a file comes out once: as its values, or as its bytes with the reason why it could not be read. A file that
cannot be read as what it claims to be is a DataError that names it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tidegate.contract import Contract
    from tidegate.files.streams import Packing

__all__ = ["FORMATS", "form_of", "read_file"]

FORMATS = (".parquet", ".csv", ".jsonl", ".ndjson", ".json")
_COMPRESSED: dict[str, Packing] = {".gz": "gzip", ".zst": "zstd"}


def form_of(path: Path) -> tuple[str, Packing | None]:
    """Return a file's format and compression by its name: ('.csv', 'gzip').

    Raises:
        DataError: the name says none of the formats.
    """
    from tidegate.errors import DataError

    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    packed = suffixes[-1] if suffixes and suffixes[-1] in _COMPRESSED else None
    form = (suffixes[-2] if len(suffixes) > 1 else "") if packed else (suffixes[-1] if suffixes else "")
    if form not in FORMATS or (packed and form == ".parquet"):
        known = ", ".join(FORMATS)
        raise DataError(
            f"{path}: its name says neither of {known}; rename it (all but Parquet may end in .gz or .zst besides)"
        )
    return form, _COMPRESSED[packed] if packed else None


def read_file(path: Path, contract: Contract, progress: Callable[[int], None] = lambda _: None) -> Iterator[Any]:
    """Yield a file's rows as tables of the slice schema, each of at most some ten thousand rows, in their order.

    A row's position is `name:line` (CSV, JSON lines; from 1) or `name#row` (Parquet; from 0). `progress` is called with
    the bytes of the file that were read since the last call.

    Raises:
        DataError: the file is empty, truncated, not what its name says, or lacks a column of the contract.
    """
    import pyarrow as pa

    from tidegate.errors import DataError
    from tidegate.files import columnar, commas, lines

    form, packed = form_of(path)
    reader = {".parquet": columnar.read, ".csv": commas.read}.get(form, lines.read)
    try:
        size = path.stat().st_size
        if size == 0:
            raise DataError(
                f"{path} is empty: 0 bytes; its writer was cut off, or there was nothing to write: remove it"
            )
        yield from reader(path, packed, contract, progress)
    except (pa.ArrowInvalid, OSError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"{path} cannot be read as {form}: {said}; it is damaged or no such file: write it anew"
        ) from error
