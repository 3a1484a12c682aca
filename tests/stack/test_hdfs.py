"""HDFS as a source: what is frozen, what is left alone, and what comes of faults, on a real NameNode and DataNode."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hdfs_native import Client, WriteOptions

from tests.unit.files.written import tfrecords
from tidegate.contract import Column, Contract
from tidegate.delivery import HdfsSource
from tidegate.errors import DataError, Retryable, TidegateError, Unavailable
from tidegate.files import columnar
from tidegate.handoff import Slice, Window
from tidegate.ingest import hdfs, hdfs_client
from tidegate.ingest.slices import Target, publish
from tidegate.lake import Lake
from tidegate.stack.config import StackConfig
from tidegate.units import utc
from tidegate.validate import validate

pytestmark = pytest.mark.stack

RULES = Contract(
    "events", "1",
    (Column("at", "timestamp", "timestamp", event_time=True), Column("n", "int64", "int64", key=1)),
    "events.yaml", "0" * 64,
)  # fmt: skip
MAY = Window(start=utc("2026-05-01"), end=utc("2026-05-04"))


@dataclass
class Place:
    """A folder of HDFS, and how it is read."""

    cfg: StackConfig
    folder: str
    lakes: Path

    @property
    def client(self) -> Any:
        return Client(self.cfg.hdfs)

    def put(self, name: str, data: bytes) -> None:
        path = f"{self.folder}/{name}"
        self.client.mkdirs(path.rpartition("/")[0], 0o755, True)
        with self.client.create(path, WriteOptions(overwrite=True)) as out:
            out.write(data)

    def reading(self, path: str, **other: Any) -> hdfs.Files:
        given = {"webhdfs": self.cfg.url("hdfs-namenode-http"), "timeout": 20.0, **other}
        spec = HdfsSource(connection="c", path=f"{self.folder}{path}", **given.pop("spec", {}))
        contract, window = given.pop("contract", RULES), given.pop("window", MAY)
        return hdfs.Files(
            spec, contract, window, "127.0.0.1", self.cfg.ports["hdfs-namenode"], given["timeout"], given["webhdfs"]
        )

    def read(self, path: str, lake: str = "a", refresh: bool = False, **other: Any) -> Slice:
        asked = self.reading(path, **other)
        target = Target("d", "s", asked.contract, asked.window, Lake(f"file://{self.lakes}/{lake}"))
        return publish(target, asked, refresh=refresh)

    def rows(self, found: Slice, lake: str = "a") -> list[dict[str, Any]]:
        kept = Lake(f"file://{self.lakes}/{lake}")
        files = sorted(kept.require(found.key)["files"])
        return [row for name in files for row in pq.read_table(kept.local(found.key, name)).to_pylist()]


@pytest.fixture
def place(hdfs_alone: StackConfig, tmp_path: Path) -> Place:
    return Place(hdfs_alone, f"/{uuid.uuid4().hex[:8]}", tmp_path)


def at(day: int, hour: int = 0) -> datetime:
    return datetime(2026, 5, day, hour, tzinfo=UTC)


def csv(*rows: tuple[datetime, object]) -> bytes:
    return ("at,n\n" + "".join(f"{moment:%Y-%m-%dT%H:%M:%SZ},{n}\n" for moment, n in rows)).encode()


def parquet(*rows: tuple[datetime, int], group: int = 1 << 20) -> bytes:
    out = io.BytesIO()
    table = pa.table(
        {"at": pa.array([m for m, _ in rows], pa.timestamp("us", tz="UTC")), "n": pa.array([n for _, n in rows])}
    )
    pq.write_table(table, out, row_group_size=group, compression="none", use_dictionary=False)
    return out.getvalue()


AVRO = {
    "type": "record", "name": "e",
    "fields": [
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}}, {"name": "n", "type": "long"},
    ],
}  # fmt: skip


def avro(*rows: tuple[datetime, int]) -> bytes:
    out = io.BytesIO()
    fastavro.writer(out, AVRO, [{"at": moment, "n": n} for moment, n in rows], codec="deflate")
    return out.getvalue()


def examples(*rows: tuple[datetime, int]) -> bytes:
    return tfrecords({"at": [round(moment.timestamp() * 1_000_000)], "n": [n]} for moment, n in rows)


@pytest.mark.parametrize("with_webhdfs", [True, False])
def test_a_window_of_days_is_read_from_their_folders_in_five_formats(place: Place, with_webhdfs: bool) -> None:
    place.put("dt=2026-05-01/a.parquet", parquet((at(1), 1)))
    place.put("dt=2026-05-01/b.csv", csv((at(1, 5), 2), (at(1, 6), "two")))
    place.put("dt=2026-05-02/a.avro", avro((at(2), 3)))
    place.put("dt=2026-05-02/b.tfrecord", examples((at(2, 5), 4)))
    place.put(
        "dt=2026-05-03/a.jsonl", b'{"at": "2026-05-03T00:00:00Z", "n": 5}\n{"at": "2026-05-04T00:00:00Z", "n": 6}\n'
    )
    place.put("dt=2026-05-04/a.csv", csv((at(4), 7)))
    other = {} if with_webhdfs else {"webhdfs": None}
    found = place.read("/dt={start:%Y-%m-%d}", **other)

    assert [(row["n"], row["_error"]) for row in place.rows(found)] == [
        (1, None), (2, None), (None, "undecodable:n_is_no_int64"), (3, None), (4, None), (5, None), (6, None),
    ]  # fmt: skip
    first = found.position["files"][0]
    assert (found.position["windowed"], len(found.position["files"]), first["size"]) == (
        True,
        5,
        len(parquet((at(1), 1))),
    )
    assert first["checksum"]["algorithm"] == ("MD5-of-0MD5-of-512CRC32C" if with_webhdfs else "SHA-256")
    validated = validate(found, RULES, Lake(f"file://{place.lakes}/a"))
    assert (validated.clean, dict(validated.reasons)) == (5, {"at:outside_window": 1, "undecodable:n_is_no_int64": 1})
    assert place.read("/dt={start:%Y-%m-%d}", lake="b", **other).digest == found.digest


def test_a_day_without_files_is_not_there_yet_or_without_rows(place: Place) -> None:
    place.put("dt=2026-05-01/a.csv", csv((at(1), 1)))
    with pytest.raises(Retryable, match=r"dt=2026-05-02, hdfs.*dt=2026-05-03: no data file is there.*missing: skip"):
        place.read("/dt={start:%Y-%m-%d}")
    found = place.read("/dt={start:%Y-%m-%d}", spec={"missing": "skip"})
    assert found.rows == 1
    assert found.position["empty"] == [f"{place.folder}/dt=2026-05-0{day}" for day in (2, 3)]


@pytest.mark.parametrize("with_webhdfs", [True, False])
def test_what_is_being_written_is_left_alone_and_named_with_the_reason(place: Place, with_webhdfs: bool) -> None:
    place.put("a.csv", csv((at(1), 1)))
    for name in (
        "_temporary/b.csv",
        ".c.csv",
        "d.csv.tmp",
        "e.csv._COPYING_",
        "f.csv.inprogress",
        "_SUCCESS",
        "README",
    ):
        place.put(name, b"at,n\n")
    place.put("g.csv", b"")
    grows = place.client.create(f"{place.folder}/h.csv", WriteOptions())
    grows.write(csv((at(2), 2)))
    grows.hsync()
    found = place.read("", **({} if with_webhdfs else {"webhdfs": None}))

    left = {each["path"].removeprefix(f"{place.folder}/"): each["reason"] for each in found.position["left_out"]}
    assert found.rows == 1
    assert set(left) == {
        "_temporary/b.csv", ".c.csv", "d.csv.tmp", "e.csv._COPYING_", "f.csv.inprogress", "_SUCCESS", "README", "g.csv",
        "h.csv",
    }  # fmt: skip
    assert left["h.csv"].startswith("it is open" if with_webhdfs else "it may be open")
    assert left["g.csv"] == "it is empty: 0 bytes"
    grows.close()
    assert place.read("", refresh=True, **({} if with_webhdfs else {"webhdfs": None})).rows == 2


def test_a_pattern_names_files_and_reference_data_are_read_whole(place: Place) -> None:
    for number, name in enumerate(("x/0 #?%.csv", "y/2.csv", "z/3.csv")):
        place.put(name, csv((at(9), number)))
    found = place.read("/[xy]/*.csv")
    assert ([file["path"][-5:] for file in found.position["files"]], found.position["windowed"]) == (
        ["%.csv", "2.csv"],
        False,
    )
    assert validate(found, RULES, Lake(f"file://{place.lakes}/a")).clean == 2


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.csv", csv((at(1), 1)) + b"2026-05-01T00:00:00Z,2,3\n", "undecodable:3_fields_for_2"),
        ("a.avro", None, "undecodable:no_such_value"),
    ],
)
def test_a_bad_row_is_put_aside_and_its_file_read_on(place: Place, name: str, data: bytes | None, reason: str) -> None:
    if data is None:
        out = io.BytesIO()
        plain = json.loads(json.dumps(AVRO).replace(', "logicalType": "timestamp-micros"', ""))
        fastavro.writer(out, fastavro.parse_schema(plain), [{"at": 2**62, "n": 1}, {"at": 0, "n": 2}])
        data = _with_schema(out.getvalue(), AVRO)
    place.put(name, data)
    errors = [row["_error"] for row in place.rows(place.read(""))]
    assert sorted(errors, key=str) == sorted([None, reason], key=str)


def _with_schema(data: bytes, schema: dict[str, Any]) -> bytes:
    """Return an Avro file whose header says another schema of the same bytes."""
    header = fastavro.block_reader(io.BytesIO(data))
    out = io.BytesIO()
    fastavro.writer(out, schema, [])
    made = out.getvalue()
    sync = data[-16:]
    assert header.metadata["avro.codec"] == "null"
    return made[:-16] + sync + data[data.index(sync) + 16 :]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.parquet", parquet((at(1), 1))[:-9]),
        ("a.avro", avro((at(1), 1))[:-9]),
        ("a.tfrecord", examples((at(1), 1))[:-3]),
        ("a.csv.gz", b"\x1f\x8b\x08\x00"),
    ],
)
def test_a_truncated_file_is_a_named_error_and_nothing_is_published(place: Place, name: str, data: bytes) -> None:
    place.put(name, data)
    with pytest.raises(DataError, match=rf"{name}.*write it anew"):
        place.read("")
    assert Lake(f"file://{place.lakes}/a").keys("slices") == []


def test_a_missing_path_is_named_with_the_remedy(place: Place) -> None:
    with pytest.raises(DataError, match=r"has no path .*/nowhere; create it"):
        place.read("/nowhere")


SECRET = """
import json, sys
from tests.peak import peak_mib
from tests.stack import test_hdfs as t
from tidegate.errors import DataError
from pathlib import Path
place = t.Place(t.StackConfig.load(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3]))
try:
    place.read("/in", **json.loads(sys.argv[4]))
except DataError as error:
    print(error)
"""


@pytest.mark.parametrize(("what", "other"), [("folder", {}), ("file", {"webhdfs": None})])
def test_what_may_not_be_read_is_named_with_the_user(place: Place, what: str, other: dict[str, Any]) -> None:
    place.put("in/a.csv", csv((at(1), 1)))
    place.client.set_permission(f"{place.folder}/in" + ("" if what == "folder" else "/a.csv"), 0o700)
    said = subprocess.run(
        [sys.executable, "-c", SECRET, *map(str, (place.cfg.paths.var, place.folder, place.lakes)), json.dumps(other)],
        env={**os.environ, "HADOOP_USER_NAME": "stranger"}, capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    assert "may not be read" in said
    assert "grant the right to stranger" in said


def many(count: int, day: int = 1) -> list[tuple[datetime, int]]:
    return [(at(day) + timedelta(milliseconds=n), n) for n in range(count)]


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
@pytest.mark.parametrize("other", [{}, {"webhdfs": None}])
def test_a_file_replaced_in_mid_read_is_an_error_and_read_anew_the_next_time(
    place: Place, name: str, other: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hdfs_client, "CHUNK", 1 << 16)
    monkeypatch.setattr(columnar, "_ROWS", 4096)
    make: Callable[..., bytes] = csv if name == "a.csv" else lambda *rows: parquet(*rows, group=4096)
    place.put(name, make(*many(60_000)))
    asked = place.reading("", **other)
    position = asked.freeze()
    tables = asked.rows(position, asked.parts(position)[0])
    next(tables)
    place.put(name, make(*many(60_000, day=2)))
    with pytest.raises(TidegateError, match=r"changed while it was read|did not answer|is not there") as caught:
        list(tables)
    assert isinstance(caught.value, Retryable)
    assert {row["at"].day for row in place.rows(place.read("", **other))} == {2}


def test_a_part_is_read_by_another_process_from_json_alone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdfs, "PART", 120)
    for number in range(5):
        place.put(f"{number}.csv", csv((at(1), number), (at(2), number)))
    asked = place.reading("")
    position = json.loads(json.dumps(asked.freeze()))
    parts = asked.parts(position)
    assert [(part["first"], part["end"]) for part in parts] == [(0, 2), (2, 4), (4, 5)]
    found = [t.column("n").to_pylist() for part in parts for t in place.reading("").rows(position, part)]
    assert [n for each in found for n in each] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("role", ["namenode", "datanode"])
def test_a_server_killed_in_mid_read_is_a_named_error_in_time_and_the_next_reading_is_as_if_nothing_was(
    place: Place, hdfs_parts: Any, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        place.put(f"{number}.csv", csv(*many(60_000, day=number + 1)))
    undisturbed = place.read("")
    monkeypatch.setattr(hdfs_client, "CHUNK", 1 << 16)
    asked = place.reading("", timeout=5.0)
    position = asked.freeze()
    tables = asked.rows(position, asked.parts(position)[0])
    next(tables)
    hdfs_parts.kill(role)
    begun = time.monotonic()
    try:
        with pytest.raises(Unavailable, match=rf"127\.0\.0\.1:{asked.port}"):
            list(tables)
        with pytest.raises(Unavailable):
            place.read("", lake="b", timeout=5.0, **({"webhdfs": None} if role == "datanode" else {}))
        assert time.monotonic() - begun < 40
    finally:
        hdfs_parts.start(role)
    assert _until(lambda: place.read("", lake="b", timeout=5.0)).digest == undisturbed.digest


def _until(call: Callable[[], Slice]) -> Slice:
    """Return what a call returns once it succeeds: a task is tried again as long as its error is a Retryable."""
    end = time.monotonic() + 60
    while True:
        try:
            return call()
        except Retryable:
            assert time.monotonic() < end
            time.sleep(0.5)


def test_in_safe_mode_files_are_read_and_a_lake_on_hdfs_is_a_named_error(place: Place, hdfs_parts: Any) -> None:
    place.put("a.csv", csv((at(1), 1)))
    before = place.read("")
    hdfs_parts.admin("-safemode", "enter")
    try:
        assert place.read("", lake="b").digest == before.digest
        target = Target("d", "s", RULES, MAY, Lake(f"{place.cfg.hdfs}{place.folder}/lake"))
        with pytest.raises(Unavailable, match="SafeMode"):
            publish(target, place.reading(""))
    finally:
        hdfs_parts.admin("-safemode", "leave")
    assert publish(target, place.reading("")).digest == before.digest


PEAK = """
import json, sys
from pathlib import Path
from tests.peak import peak_mib
from tests.stack import test_hdfs as t
place = t.Place(t.StackConfig.load(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3]))
rows = place.read("/big", contract=t.WIDE).rows
print(json.dumps([rows, peak_mib()]))
"""
WIDE = replace(RULES, columns=(*RULES.columns, Column("text", "string", "string")))


@pytest.mark.nightly
@pytest.mark.parametrize(("form", "millions"), [("parquet", 6), ("csv", 6)])
def test_large_files_are_read_within_512_mib(place: Place, form: str, millions: int) -> None:
    moments = pa.array(range(10**6), pa.timestamp("us", tz="UTC"))
    texts = pa.array([f"{n:040}" for n in range(10**6)])
    size = 0
    client = place.client
    client.mkdirs(f"{place.folder}/big", 0o755, True)
    for number in range(2):
        with client.create(f"{place.folder}/big/{number}.{form}", WriteOptions(block_size=1 << 30)) as out:
            for part in range(millions // 2):
                ids = pa.array(range(part * 10**6, (part + 1) * 10**6))
                size += _pour(out, form, pa.table({"at": moments, "n": ids, "text": texts}), part, millions // 2)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(place.cfg.paths.var), place.folder, str(place.lakes)],
        capture_output=True, text=True, check=True, timeout=500,
    )  # fmt: skip
    rows, peak = json.loads(done.stdout.splitlines()[-1])
    print(f"{form}: {rows:,} rows, {size >> 20} MiB of files, peak {peak} MiB")
    assert rows == millions * 10**6
    assert peak < 512


_writers: dict[int, Any] = {}


def _pour(out: Any, form: str, table: Any, part: int, parts: int) -> int:
    """Write one part of a large file; return its bytes."""
    buffer = io.BytesIO()
    if form == "csv":
        pacsv.write_csv(table, buffer, pacsv.WriteOptions(include_header=part == 0))
    else:
        if part == 0:
            _writers[id(out)] = pq.ParquetWriter(_Out(out), table.schema, compression="none", use_dictionary=False)
        _writers[id(out)].write_table(table)
        if part == parts - 1:
            _writers.pop(id(out)).close()
        return int(table.nbytes)
    return int(out.write(buffer.getbuffer()))


class _Out(io.RawIOBase):
    """Counts what is written, which hdfs-native's writer does not tell."""

    def __init__(self, out: Any):
        self._out, self._at = out, 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def write(self, data: Any) -> int:
        self._at += len(data)
        return int(self._out.write(bytes(data)))
