"""Files of tests, written by hand as their formats say."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tidegate.files.tfrecord import _example, masked


def example(features: Mapping[str, Sequence[Any]]) -> bytes:
    """Return a serialised Example: whole numbers, floats or bytes."""
    made = _example()()
    for name, values in features.items():
        entry = made.features.feature.add(key=name)
        kind = {int: "int64_list", float: "float_list"}.get(type(values[0]) if values else int, "bytes_list")
        getattr(entry.value, kind).value.extend(values)
    return bytes(made.SerializeToString())


def framed(data: bytes) -> bytes:
    """Return a record as TFRecord frames it."""
    head = struct.pack("<Q", len(data))
    return head + struct.pack("<I", masked(head)) + data + struct.pack("<I", masked(data))


def tfrecords(rows: Iterable[Mapping[str, Sequence[Any]]]) -> bytes:
    """Return a TFRecord file of Examples."""
    return b"".join(framed(example(row)) for row in rows)
