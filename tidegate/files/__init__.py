"""Files as tables of a contract's slice schema: Parquet, CSV, JSON lines, Avro and TFRecord, plain, .gz or .zst.

They lie on this machine (a Path), or wherever an `Input` opens them.

Every row of a file comes out once: as its values, or as its bytes with the reason why it could not be read. A file that
cannot be read as what it claims to be is a DataError that names it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path, PurePath

    from tidegate.contract import Contract
    from tidegate.files.streams import Input, Packing

__all__ = ["FORMATS", "form_of", "read_file"]

FORMATS = (".parquet", ".csv", ".jsonl", ".ndjson", ".json", ".avro", ".tfrecord", ".tfrecords")
_UNPACKED = (".parquet", ".avro")  # these pack themselves
_COMPRESSED: dict[str, Packing] = {".gz": "gzip", ".zst": "zstd"}


def form_of(path: PurePath) -> tuple[str, Packing | None]:
    """Return a file's format and compression by its name: ('.csv', 'gzip').

    Raises:
        DataError: the name says none of the formats.
    """
    from tidegate.errors import DataError

    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    packed = suffixes[-1] if suffixes and suffixes[-1] in _COMPRESSED else None
    form = (suffixes[-2] if len(suffixes) > 1 else "") if packed else (suffixes[-1] if suffixes else "")
    if form not in FORMATS or (packed and form in _UNPACKED):
        known = ", ".join(FORMATS)
        raise DataError(
            f"{path}: its name says neither of {known}; rename it (all but Parquet and Avro may end in .gz or .zst "
            "besides)"
        )
    return form, _COMPRESSED[packed] if packed else None


def read_file(
    file: Path | Input, contract: Contract, progress: Callable[[int], None] = lambda _: None
) -> Iterator[Any]:
    """Yield a file's rows as tables of the slice schema, each of at most some ten thousand rows, in their order.

    A row's position is `name:line` (CSV, JSON lines; from 1) or `name#row` (the others; from 0). `progress` is called
    with the bytes of the file that were read since the last call.

    Raises:
        DataError: the file is empty, truncated, not what its name says, or lacks a column of the contract.
    """
    from pathlib import Path, PurePath

    import pyarrow as pa

    from tidegate.errors import DataError
    from tidegate.files import avro, columnar, commas, lines, tfrecord
    from tidegate.files.streams import Input

    form, packed = form_of(PurePath(str(file)))
    readers: Any = {
        ".parquet": columnar.read, ".csv": commas.read, ".avro": avro.read,
        ".tfrecord": tfrecord.read, ".tfrecords": tfrecord.read,
    }  # fmt: skip
    try:
        given = Input.local(file) if isinstance(file, Path) else file
        if given.size == 0:
            raise DataError(
                f"{file} is empty: 0 bytes; its writer was cut off, or there was nothing to write: remove it"
            )
        yield from readers.get(form, lines.read)(given, packed, contract, progress)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowMemoryError, OSError, UnicodeDecodeError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"{file} cannot be read as {form}: {said}; it is damaged or no such file: write it anew"
        ) from error
