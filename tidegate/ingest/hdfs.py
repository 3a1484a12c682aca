"""Reads reference data from HDFS: the list of files is frozen first, then each Parquet or CSV file is read whole."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from tidegate.contract.arrow import raw_schema, slice_schema
from tidegate.errors import DataError
from tidegate.ingest.edge import away, probe, within
from tidegate.ingest.slices import AtOnce, publish

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate.contract import Contract
    from tidegate.delivery import HdfsSource
    from tidegate.handoff import Slice, Window
    from tidegate.ingest.slices import Reading
    from tidegate.lake import Lake

TIMEOUT = 30.0


@dataclass(frozen=True)
class File:
    """One file of the frozen list: path, bytes and modification time (milliseconds since 1970)."""

    path: str
    size: int
    modified: int


def read(
    *,
    delivery: str,
    source: str,
    spec: HdfsSource,
    contract: Contract,
    window: Window,
    host: str,
    port: int,
    lake: Lake,
    refresh: bool = False,
    timeout: float = TIMEOUT,
) -> Slice:
    """Publish all rows of the files below a path, in the order of their names, under this window.

    The source's position is the list of files; a row's position is `path#number`, from 0. `timeout` holds for each
    call to the NameNode and each file, seconds.

    Raises:
        Unavailable: the NameNode or a DataNode does not answer in time.
        DataError: no such path or no data file in it, a file of another schema, or one that changed while it was read.
    """
    asked = reading(
        delivery=delivery,
        source=source,
        spec=spec,
        contract=contract,
        window=window,
        host=host,
        port=port,
        lake=lake,
        timeout=timeout,
    )
    return publish(
        delivery=delivery, source=source, contract=contract, window=window, lake=lake, refresh=refresh, reading=asked
    )


def reading(
    *,
    delivery: str,
    source: str,
    spec: HdfsSource,
    contract: Contract,
    window: Window,
    host: str,
    port: int,
    lake: Lake,
    timeout: float = TIMEOUT,
) -> Reading:
    """Return how the window is read; see `read`."""

    address = f"{host}:{port}"

    def rows(position: dict[str, Any]) -> Iterator[Any]:
        probe("HDFS", host, port, min(timeout, 5.0))
        fs = _call(address, timeout, lambda: _connect(host, port))
        files = _call(address, timeout, lambda: _list(fs, spec.path))
        if not files:
            raise DataError(
                f"hdfs://{address}{spec.path} holds no .parquet or .csv file; put one there, or mend source {source!r}"
            )
        position.update(kind="hdfs", files=[vars(file) for file in files])
        for file in files:
            data = _call(address, timeout, lambda path=file.path: fs.cat_file(path))
            if len(data) != file.size:
                raise DataError(
                    f"hdfs://{address}{file.path} changed while it was read: {len(data)} bytes, listed "
                    f"with {file.size}; write new files beside the old ones, then run this again"
                )
            yield decode(file.path, data, contract)

    return AtOnce(rows)


def decode(path: str, data: bytes, contract: Contract) -> Any:
    """Return one file's rows as a table of the slice schema; a CSV line of the wrong width is kept as its bytes.

    Raises:
        DataError: the file cannot be read, lacks a column of the contract or has it in another type.
    """
    try:
        if path.endswith(".parquet"):
            return _parquet(path, data, contract)
        return _csv(path, data, contract)
    except (pa.ArrowInvalid, pa.ArrowKeyError, pa.ArrowNotImplementedError, KeyError) as error:
        raise DataError(f"{path} is not what {contract.path} says: {error}; mend the file or the contract") from error


def _connect(host: str, port: int) -> Any:
    from hdfs_native.fsspec import HdfsFileSystem

    return HdfsFileSystem(host=host, port=port, skip_instance_cache=True)


def _list(fs: Any, path: str) -> list[File]:
    if not fs.exists(path):
        raise DataError(f"HDFS has no path {path}; create it, or mend the source's path")
    found = []
    for name, info in sorted(fs.find(path, detail=True).items()):
        hidden = any(part.startswith((".", "_")) for part in name.removeprefix(path).split("/") if part)
        if not hidden and name.endswith((".parquet", ".csv")):
            found.append(File(name, int(info["size"]), _milliseconds(info)))
    return found


def _milliseconds(info: dict[str, Any]) -> int:
    moment = info.get("modification_time", info.get("mtime", 0))
    return int(moment.timestamp() * 1000) if hasattr(moment, "timestamp") else int(moment)


def _call(address: str, timeout: float, call: Any) -> Any:
    try:
        return within(timeout, call, lambda: away("HDFS", address, timeout, "no answer"))
    except (OSError, RuntimeError) as error:
        # hdfs-native raises plain RuntimeError for remote exceptions, OSError for lost connections
        raise away("HDFS", address, timeout, str(error).strip().splitlines()[0] if str(error) else error) from error


def _parquet(path: str, data: bytes, contract: Contract) -> Any:
    table = pq.read_table(io.BytesIO(data), columns=list(contract.names), use_threads=False)
    missing = [name for name in contract.names if name not in table.column_names]
    if missing:
        raise DataError(
            f"{path} has no column {', '.join(missing)}; write the file with it, or take it out of {contract.path}"
        )
    typed = table.select(list(contract.names)).cast(raw_schema(contract), safe=True)
    return _sliced(typed, [f"{path}#{row}" for row in range(typed.num_rows)], contract)


def _csv(path: str, data: bytes, contract: Contract) -> Any:
    crooked: list[Any] = []

    def keep(row: Any) -> Literal["skip"]:
        crooked.append(row)
        return "skip"

    table = pacsv.read_csv(
        io.BytesIO(data),
        read_options=pacsv.ReadOptions(use_threads=False),
        parse_options=pacsv.ParseOptions(newlines_in_values=True, invalid_row_handler=keep),
        convert_options=pacsv.ConvertOptions(
            column_types=raw_schema(contract),
            include_columns=list(contract.names),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        ),
    )
    at = {row.number - 2 for row in crooked}  # the reader counts from 1 and counts the header
    numbers = [number for number in range(table.num_rows + len(crooked)) if number not in at]
    straight = _sliced(table, [f"{path}#{number}" for number in numbers], contract)
    return pa.concat_tables([straight, _crooked(path, crooked, contract)])


def _crooked(path: str, rows: list[Any], contract: Contract) -> Any:
    schema = slice_schema(contract)
    found = [
        {
            "_position": f"{path}#{row.number - 2}",
            "_error": f"undecodable:{row.actual_columns}_fields_for_{row.expected_columns}",
            "_bytes": row.text.encode(),
        }
        for row in rows
    ]
    return pa.Table.from_pylist(found, schema=schema)


def _sliced(table: Any, positions: list[str], contract: Contract) -> Any:
    nothing = pa.nulls(table.num_rows, pa.string())
    columns = [*table.columns, pa.array(positions, pa.string()), nothing, nothing.cast(pa.binary())]
    return pa.Table.from_arrays([_whole(column) for column in columns], schema=slice_schema(contract))


def _whole(column: Any) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
