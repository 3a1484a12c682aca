"""`tidegate quarantine` on a real lake in a local folder: what is put aside is found, explained and judged again."""

from __future__ import annotations

import base64
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tidegate import keys
from tidegate.cli import app
from tidegate.contract import Contract, load_contract
from tidegate.contract.arrow import slice_schema
from tidegate.contract.decode import decode_json
from tidegate.errors import DataError
from tidegate.handoff import Slice, Window
from tidegate.lake import Lake
from tidegate.lake.storage import Storage
from tidegate.units import utc
from tidegate.validate import validate

DELIVERY = """
delivery: d
folder: .
sources:
  w: {contract: w, kafka: {connection: events, topic: w}}
window: 1 month
start: "2013-01-01"
dataset: {sql: s.sql, label: late, event_time: at, test: last 1 month}
train: {model: "m:build"}
"""
CONTRACT = """
apiVersion: v3.1.0
kind: DataContract
id: w
version: %s
status: active
schema:
  - name: w
    customProperties:
      - {property: quarantineAtMost, value: {share: %s}}
    properties:
      - name: at
        logicalType: integer
        logicalTypeOptions: {format: i64}
        required: true
        physicalType: %s
      - {name: v, logicalType: number, physicalType: double, logicalTypeOptions: {maximum: 100}}
"""
AS_TEXT = r"""string
        customProperties:
          - {property: lexicalForm, value: '\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ'}
          - {property: cast, value: epochSeconds}"""
JANUARY = Window(start=utc("2013-01-01"), end=utc("2013-02-01"))
FEBRUARY = Window(start=utc("2013-02-01"), end=utc("2013-03-01"))
SEED = [b'{"at": "2013-01-01T0%d:00:00Z", "v": %d}' % (hour, hour) for hour in range(4)]


class Place:
    """A project with one delivery and its contract, and a lake."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.url = f"file://{folder}/lake"
        self.lake = Lake(self.url)
        (folder / "d.yaml").write_text(DELIVERY)
        self.write_contract("1.0.0", "bigint")

    def write_contract(self, version: str, physical: str, share: str = "100%") -> Contract:
        (self.folder / "w.yaml").write_text(CONTRACT % (version, share, physical))
        return load_contract("w", self.folder)

    def ingest(self, messages: list[bytes | None], window: Window = JANUARY, *, judged: bool = True) -> Slice:
        contract = load_contract("w", self.folder)
        key = keys.raw("d", "w", window)
        rows = [decode_json(message, f"w/0/{n}", contract) for n, message in enumerate(messages)]
        fields = {"delivery": "d", "source": "w", "contract": "w", "window": window.model_dump(mode="json")}
        with self.lake.publish(key, **fields, rows=len(rows), position={"kind": "kafka"}) as draft:
            pq.write_table(pa.Table.from_pylist(rows, schema=slice_schema(contract)), draft.file("raw.parquet"))
        slice = Slice.of_manifest(self.lake.require(key))
        if judged:
            validate(slice, contract, self.lake)
        return slice

    def clean(self, revision: str | None = None) -> list[dict[str, Any]]:
        path = self.lake.local(keys.validated("d", "w", JANUARY), "clean.parquet", revision)
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows

    def run(self, *arguments: str) -> str:
        done = CliRunner().invoke(app, ["quarantine", *arguments, "--lake", self.url])
        assert done.exit_code == 0, done.output
        return done.stdout

    def fails(self, *arguments: str) -> str:
        done = CliRunner().invoke(app, ["quarantine", *arguments, "--lake", self.url])
        assert done.exit_code == DataError.exit_code, done.output
        return done.stderr


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("TIDEGATE_DELIVERIES", str(tmp_path))
    monkeypatch.setenv("TIDEGATE_CONTRACTS", str(tmp_path))
    return Place(tmp_path)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_list_says_of_every_slice_how_many_rows_are_in_quarantine_and_why_most_of_them(place: Place) -> None:
    place.ingest([*SEED, b'{"at": 1, "v": 200}', b'{"at": 2}', b'{"at": 3}', b'{"at": 4}'])
    place.ingest([b'{"at": 1}'], FEBRUARY)
    first, second = json.loads(place.run("list", "--json"))

    assert first == {
        "delivery": "d", "source": "w", "window": JANUARY.id, "state": "quarantined", "rows": 8, "quarantined": 5,
        "share": 0.625, "top_reason": "undecodable:at_is_no_int64",
        "reasons": {"undecodable:at_is_no_int64": 4, "v:maximum": 1}, "contract": "w", "contract_version": "1.0.0",
        "revision": place.lake.require(keys.validated("d", "w", JANUARY))["digest"],
    }  # fmt: skip
    assert (second["window"], second["state"], second["top_reason"]) == (FEBRUARY.id, "clean", None)
    table = place.run("list", "d")
    for shown in ("d/w", JANUARY.id, "62.50%", "undecodable:at_is_no_int64 (4)", "w 1.0.0"):
        assert shown in table
    assert [each["window"] for each in json.loads(place.run("list", "--since", "2013-02-01", "--json"))] == [
        FEBRUARY.id
    ]
    assert "there is no such slice" in place.run("list", "--source", "other")


def test_an_empty_lake_and_an_empty_quarantine_say_so(place: Place) -> None:
    assert "there is no slice yet" in place.run("list")
    place.ingest([b'{"at": 1}'])
    assert "0 of 1 rows in quarantine" in place.run("show", "d", "w", "2013-01-01")
    assert json.loads(place.run("show", "d", "w", JANUARY.id, "--json"))["rows"] == []


def test_show_gives_place_reasons_column_value_and_the_raw_row_with_the_contract_that_judged(place: Place) -> None:
    place.ingest([SEED[0], b'{"at": null, "v": 200.5}'])
    undecoded, broken = json.loads(place.run("show", "d", "w", "2013-01-01", "--json"))["rows"]

    assert (undecoded["position"], undecoded["reason"]) == ("w/0/0", "undecodable:at_is_no_int64")
    assert (undecoded["column"], undecoded["value"]) == ("at", "2013-01-01T00:00:00Z")
    assert base64.b64decode(undecoded["bytes"]) == SEED[0] == undecoded["text"].encode()
    assert broken["reasons"] == ["at:required", "v:maximum"]
    assert (broken["column"], broken["value"]) == ("at", "None")
    assert json.loads(broken["row"]) == {"at": None, "v": 200.5}
    assert {row["contract_version"] for row in (undecoded, broken)} == {"1.0.0"}
    assert broken["contract_digest"] == load_contract("w", place.folder).digest
    shown = place.run("show", "d", "w", "2013-01-01", "--reason", "v:maximum")
    assert "w/0/1" in shown
    assert "w/0/0" not in shown
    assert "first 1; --limit N shows more" in place.run("show", "d", "w", "2013-01-01", "--limit", "1")
    said = place.fails("show", "d", "w", "2013-01-01", "--reason", "v:minimum")
    assert "'v:minimum'; first reasons there: at:required, undecodable:at_is_no_int64" in said


def test_bytes_that_are_no_text_and_what_a_terminal_would_obey_are_shown_as_escapes(place: Place) -> None:
    place.ingest([b"{\xff\x1b[31m", b'{"at": "\\ud800\\u001b]0;x", "v": 1}'])
    shown = place.run("show", "d", "w", "2013-01-01")
    first, second = json.loads(place.run("show", "d", "w", "2013-01-01", "--json"))["rows"]

    assert r"{\xff\x1b[31m" in shown
    assert "\x1b" not in shown
    assert base64.b64decode(first["bytes"]) == b"{\xff\x1b[31m"
    assert first["text"] is None
    assert second["value"] == "\\ud800\x1b]0;x"


def test_a_very_long_value_is_shortened_and_the_raw_row_keeps_all_of_it(place: Place) -> None:
    place.ingest([b'{"at": "%s"}' % (b"x" * 100_000)])
    (row,) = json.loads(place.run("show", "d", "w", "2013-01-01", "--json"))["rows"]

    assert row["value"] == "x" * 77 + "..."
    assert len(base64.b64decode(row["bytes"])) == 100_010
    assert len(re.findall("x", place.run("show", "d", "w", "2013-01-01"))) < 600


@pytest.mark.parametrize(
    ("arguments", "there_is"),
    [
        (("x", "w", "2013-01-01"), "no slice x/w of '2013-01-01'; deliveries with slices: d"),
        (("d", "x", "2013-01-01"), "sources of d: w"),
        (("d", "w", "2013-01-02"), f"its windows: {JANUARY.id}"),
        (("d", "w", "yesterday"), f"its windows: {JANUARY.id}"),
    ],
)
def test_an_unknown_slice_is_answered_with_those_there_are(
    place: Place, arguments: tuple[str, ...], there_is: str
) -> None:
    place.ingest([b'{"at": 1}'])
    for command in ("show", "replay"):
        assert there_is in place.fails(command, *arguments)


def test_timestamps_sent_as_texts_become_clean_once_the_contract_allows_their_form(place: Place) -> None:
    """The factory's story: int64 was expected, texts came; nobody has to send anything again."""
    place.ingest([*SEED, b'{"at": "noon", "v": 1}'])
    old = place.lake.require(keys.validated("d", "w", JANUARY))
    assert (old["clean"], old["quarantined"]) == (0, 5)

    place.write_contract("2.0.0", AS_TEXT)
    said = place.run("replay", "d", "w", "2013-01-01")
    new = place.lake.require(keys.validated("d", "w", JANUARY))

    assert "by w 2.0.0 (before: 1.0.0): 4 rows now clean, 1 still in quarantine, 0 newly in quarantine" in said
    assert [row["at"] for row in place.clean()] == [1356998400 + 3600 * hour for hour in range(4)]
    assert (new["contract_version"], new["changed"]["now_clean"], new["changed"]["still_quarantined"]) == (
        "2.0.0",
        4,
        1,
    )
    assert new["changed"]["from_digest"] == old["digest"]
    (left,) = json.loads(place.run("show", "d", "w", "2013-01-01", "--json"))["rows"]
    assert (left["reason"], left["value"], left["contract_version"]) == ("at:lexical_form", "noon", "2.0.0")
    assert place.clean(old["digest"]) == []
    before = json.loads(place.run("show", "d", "w", "2013-01-01", "--revision", old["digest"][:8], "--json"))["rows"]
    assert [row["reason"] for row in before] == ["undecodable:at_is_no_int64"] * 5


def test_a_row_that_was_clean_may_be_quarantined_by_a_replay_and_is_counted_as_such(place: Place) -> None:
    place.ingest([b'{"at": 1, "v": 1}', SEED[0]])
    place.write_contract("2.0.0", AS_TEXT)

    assert "1 rows now clean, 0 still in quarantine, 1 newly in quarantine" in place.run(
        "replay", "d", "w", "2013-01-01"
    )
    (row,) = json.loads(place.run("show", "d", "w", "2013-01-01", "--json"))["rows"]
    assert (row["position"], row["reason"], row["value"]) == ("w/0/0", "undecodable:at_is_no_string", "1")


def test_a_second_replay_and_one_under_the_same_contract_change_nothing_and_say_so(place: Place) -> None:
    place.ingest(SEED)
    before = files(place.folder)
    assert "nothing changed: it is judged by w 1.0.0 already" in place.run("replay", "d", "w", "2013-01-01")
    assert files(place.folder) == before

    place.write_contract("2.0.0", AS_TEXT)
    place.run("replay", "d", "w", "2013-01-01")
    before = files(place.folder)
    again = json.loads(place.run("replay", "d", "w", "2013-01-01", "--json"))
    assert files(place.folder) == before
    assert again["published"] is False
    assert "nothing changed: it is judged by w 2.0.0 already: 4 rows clean, 0 in quarantine" in again["sentence"]


def test_a_newer_contract_that_says_the_same_of_all_rows_is_told_as_that(place: Place) -> None:
    place.ingest([b'{"at": 1}', SEED[0]])
    place.write_contract("1.1.0", "bigint", share="99%")

    said = place.run("replay", "d", "w", "2013-01-01")
    assert "no row changed: w 1.1.0 (before: 1.0.0) says the same of all: 1 rows clean, 1 in quarantine" in said
    place.write_contract("1.1.0", "bigint", share="98%")
    assert "w 1.1.0 (before: 1.1.0 with another content) says the same" in place.run("replay", "d", "w", "2013-01-01")


@pytest.mark.parametrize("at", ["clean.parquet", "quarantine.parquet", "json", "/validated/manifest.json"])
def test_a_replay_that_dies_half_way_leaves_the_old_revision_and_the_next_one_completes_it(
    place: Place, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    place.ingest([*SEED, b'{"at": 1}'])
    old = place.lake.require(keys.validated("d", "w", JANUARY))
    place.write_contract("2.0.0", AS_TEXT)
    real: Callable[..., None] = Storage._rename

    def dies(self: Storage, source: str, target: str) -> None:
        if target.endswith(at):
            raise SystemExit(9)
        real(self, source, target)

    monkeypatch.setattr(Storage, "_rename", dies)
    done = CliRunner().invoke(app, ["quarantine", "replay", "d", "w", "2013-01-01", "--lake", place.url])
    monkeypatch.undo()
    assert done.exit_code == 9
    assert place.lake.require(keys.validated("d", "w", JANUARY)) == old
    assert [row["at"] for row in place.clean()] == [1]

    monkeypatch.setenv("TIDEGATE_DELIVERIES", str(place.folder))
    monkeypatch.setenv("TIDEGATE_CONTRACTS", str(place.folder))
    assert "4 rows now clean" in place.run("replay", "d", "w", "2013-01-01")


def test_a_replay_killed_before_its_manifest_is_in_place_leaves_the_old_revision(place: Place) -> None:
    place.ingest(SEED)
    old = place.lake.require(keys.validated("d", "w", JANUARY))
    place.write_contract("2.0.0", AS_TEXT)
    code = (
        "import os, signal, sys\n"
        "from tidegate.lake import storage\n"
        "real = storage.Storage._rename\n"
        "def dies(self, source, target):\n"
        "    if target.endswith('/validated/manifest.json'): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    real(self, source, target)\n"
        "storage.Storage._rename = dies\n"
        "from tidegate.cli import app\n"
        "app(sys.argv[1:])\n"
    )
    arguments = ["quarantine", "replay", "d", "w", JANUARY.id, "--lake", place.url]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)

    assert done.returncode == -signal.SIGKILL, done.stderr
    assert place.lake.require(keys.validated("d", "w", JANUARY)) == old
    assert place.clean() == []
    assert "4 rows now clean, 0 still in quarantine" in place.run(*arguments[1:5])
    assert len(place.clean()) == 4


def test_a_refused_slice_can_be_looked_at_and_replayed(place: Place) -> None:
    """Too much in quarantine stops the slice as a whole: that is when a person most needs to see the rows."""
    place.write_contract("1.0.0", "bigint", share="5%")
    slice = place.ingest(SEED, judged=False)
    assert json.loads(place.run("list", "--json"))[0]["state"] == "not validated"
    assert "was read and not validated yet" in place.fails("show", "d", "w", "2013-01-01")

    with pytest.raises(DataError, match=r"100\.00% of the rows in quarantine, at most 5\.00% .*such as w/0/0: 2013-01"):
        validate(slice, load_contract("w", place.folder), place.lake)
    assert place.lake.manifest(keys.validated("d", "w", JANUARY)) is None
    (listed,) = json.loads(place.run("list", "--json"))
    assert (listed["state"], listed["quarantined"], listed["revision"]) == ("refused", 4, None)
    shown = place.run("show", "d", "w", "2013-01-01")
    assert "refused as a whole: 100.00% of the rows in quarantine" in shown
    assert "2013-01-01T03:00:00Z" in shown
    assert "is refused by" in place.fails("replay", "d", "w", "2013-01-01")

    place.write_contract("2.0.0", AS_TEXT, share="5%")
    assert "validated for the first time, by w 2.0.0: 4 rows clean, 0 in quarantine" in place.run(
        "replay", "d", "w", "2013-01-01"
    )
    (listed,) = json.loads(place.run("list", "--json"))
    assert (listed["state"], listed["quarantined"]) == ("clean", 0)


def test_a_replay_that_the_contract_refuses_leaves_the_revision_in_use(place: Place) -> None:
    place.ingest([*SEED, b'{"at": 1}'])
    old = place.lake.require(keys.validated("d", "w", JANUARY))
    place.write_contract("1.1.0", "bigint", share="5%")

    assert "80.00% of the rows in quarantine" in place.fails("replay", "d", "w", "2013-01-01")
    assert place.lake.require(keys.validated("d", "w", JANUARY)) == old
    assert "datasets take an older revision" in place.run("show", "d", "w", "2013-01-01")


def test_what_an_older_tidegate_put_aside_is_still_shown(place: Place) -> None:
    place.ingest([b'{"at": 1, "v": 200}'])
    key = keys.validated("d", "w", JANUARY)
    manifest = place.lake.require(key)
    kept = pq.read_table(place.lake.local(key, "quarantine.parquet")).select(range(5))
    fields = {name: manifest[name] for name in ("slice_digest", "contract_digest", "clean", "quarantined", "reasons")}
    with place.lake.publish(key, **fields) as draft:
        pq.write_table(kept, draft.file("quarantine.parquet"))

    (row,) = json.loads(place.run("show", "d", "w", "2013-01-01", "--json"))["rows"]
    assert (row["reason"], row["column"], row["value"], row["contract_version"]) == ("v:maximum", None, None, None)
    assert row["contract_digest"] == manifest["contract_digest"]
    assert "v:maximum" in place.run("show", "d", "w", "2013-01-01")
    place.write_contract("1.1.0", "bigint")
    assert "(before: an older version)" in place.run("replay", "d", "w", "2013-01-01")
