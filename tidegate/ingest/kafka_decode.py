"""How the values of a topic's messages become rows of its raw slice: JSON, Avro or plain bytes.

A raw slice of a topic has five columns more than others: `_key`, `_headers` (in their order, names may repeat),
`_timestamp`, `_timestamp_type` (create: the producer's clock; append: the broker's) and `_late`. Where it holds Avro,
`_schema` has the writer's schema of each message that is kept as bytes.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from tidegate.contract.arrow import BYTES, ERROR, POSITION, slice_schema
from tidegate.contract.avro import SCHEMA, decode_avro
from tidegate.contract.batch import decode_many
from tidegate.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidegate.contract import Contract
    from tidegate.delivery import KafkaSource
    from tidegate.ingest.kafka_registry import Registry

FIELDS = [
    pa.field("_key", pa.binary()),
    pa.field("_headers", pa.list_(pa.struct([("name", pa.string()), ("value", pa.binary())]))),
    pa.field("_timestamp", pa.timestamp("ms", tz="UTC")),
    pa.field("_timestamp_type", pa.string()),
    pa.field("_late", pa.bool_()),
]


def decoder(spec: KafkaSource, contract: Contract, registry: Registry | None = None) -> Decoder:
    """Return what decodes a source's messages.

    Raises:
        DataError: the contract has another shape than raw bytes need.
    """
    if spec.format == "json":
        return Decoder(contract, partial(_as_json, contract=contract))
    if spec.format == "bytes":
        column = contract.columns[0]
        if len(contract.columns) != 1 or column.raw != "bytes":
            raise DataError(
                f"topic {spec.topic!r} is read by format bytes: its value goes to the one column of the contract, of "
                f"physicalType bytea, but {contract.path} has {', '.join(contract.names)}; keep one such column"
            )
        return Decoder(contract, partial(_as_bytes, contract=contract))
    if registry is None:
        raise DataError(
            f"topic {spec.topic!r} holds Avro, and no schema registry was named; name the source's registry"
        )
    return Decoder(contract, partial(_as_avro, contract=contract, registry=registry), (pa.field(SCHEMA, pa.string()),))


class Decoder(NamedTuple):
    """How values become rows: (values, positions, those too long) -> a table of the contract's columns and `more`."""

    contract: Contract
    decode: Callable[[list[bytes | None], Any, dict[int, tuple[str, bytes]]], Any]
    more: tuple[Any, ...] = ()

    @property
    def schema(self) -> Any:
        """The schema of the topic's raw slice."""
        return pa.schema([*slice_schema(self.contract), *self.more, *FIELDS])


def _as_json(values: list[bytes | None], positions: Any, long: dict[int, tuple[str, bytes]], contract: Contract) -> Any:
    return decode_many(values, positions, contract, long)


def _as_bytes(
    values: list[bytes | None], positions: Any, long: dict[int, tuple[str, bytes]], contract: Contract
) -> Any:
    kept = [None if row in long else value for row, value in enumerate(values)]
    wrong: dict[int, tuple[str, bytes | None]] = {row: ("tombstone", None) for row, v in enumerate(values) if v is None}
    wrong.update(long)
    errors = [f"undecodable:{wrong[row][0]}" if row in wrong else None for row in range(len(values))]
    aside = [wrong[row][1] if row in wrong else None for row in range(len(values))]
    columns = [pa.array(kept, pa.binary()), positions, pa.array(errors, pa.string()), pa.array(aside, pa.binary())]
    return pa.Table.from_arrays(columns, schema=slice_schema(contract))


def _as_avro(
    values: list[bytes | None],
    positions: Any,
    long: dict[int, tuple[str, bytes]],
    contract: Contract,
    registry: Registry,
) -> Any:
    rows = []
    for row, (value, place) in enumerate(zip(values, positions.to_pylist(), strict=True)):
        if row in long:
            reason, kept = long[row]
            rows.append({POSITION: place, ERROR: f"undecodable:{reason}", BYTES: kept})
        else:
            rows.append(decode_avro(value, place, contract, registry.schema))
    return pa.Table.from_pylist(rows, schema=pa.schema([*slice_schema(contract), pa.field(SCHEMA, pa.string())]))
