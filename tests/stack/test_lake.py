"""The lake keeps its word on each storage: a local folder, a real HDFS, a real S3 server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from tests.unit.ingest import killed
from tidegate.errors import DataError, SpecError, Unavailable
from tidegate.ingest.parts import begin, read_part, seal
from tidegate.ingest.slices import Target
from tidegate.lake import Lake
from tidegate.lake.storage import Storage
from tidegate.stack.config import ROOT, StackConfig
from tidegate.validate import validate

pytestmark = pytest.mark.stack

SECRET = "a-secret-of-the-tests"


@pytest.fixture(params=["local", "hdfs", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place on one of the storages."""
    if request.param == "local":
        return f"file://{tmp_path}/lake"
    if request.param == "hdfs":
        cfg: StackConfig = request.getfixturevalue("hdfs_alone")
        return f"{cfg.hdfs}/{uuid.uuid4().hex}"
    for name, value in request.getfixturevalue("s3_alone").items():
        monkeypatch.setenv(name, value)
    return f"s3://lake/{uuid.uuid4().hex}"


@pytest.fixture
def lake(url: str) -> Lake:
    return Lake(url)


def put(lake: Lake, key: str, text: str, name: str = "a.txt") -> str:
    with lake.publish(key, rows=1) as draft:
        draft.file(name).write_text(text)
    return str(lake.require(key)["digest"])


def test_what_is_published_is_read_back_from_another_client_and_is_gone_after_delete(
    lake: Lake, url: str, tmp_path: Path
) -> None:
    assert lake.manifest("a/k") is None
    assert lake.keys("") == []
    put(lake, "a/k", "hello", "sub/a.txt")
    other = Lake(url)
    assert other.read("a/k", "sub/a.txt") == b"hello"
    assert (other.fetch("a/k", tmp_path / "out") / "sub" / "a.txt").read_text() == "hello"
    assert other.local("a/k", "sub/a.txt").read_text() == "hello"
    assert other.keys("a") == ["a/k"]
    assert other.unlisted("a/k") == []
    other.delete("a/k")
    assert lake.manifest("a/k") is None
    assert lake.keys("") == []


def test_a_new_revision_replaces_the_manifest_and_the_old_one_stays_readable(lake: Lake) -> None:
    digests = [put(lake, "k", text) for text in ("one", "two", "one", "three")]
    assert lake.read("k", "a.txt") == b"three"
    assert {each["digest"] for each in lake.revisions("k")} == set(digests)
    assert len(set(digests)) == 3
    assert lake.local("k", "a.txt", digests[1][:16]).read_text() == "two"


def test_a_death_before_the_manifest_leaves_the_old_one_and_the_next_run_completes_it(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = put(lake, "k", "old")
    real = Storage.write

    def dies(self: Storage, below: str, content: bytes) -> None:
        if below.endswith("/manifest.json"):
            raise SystemExit
        real(self, below, content)

    with monkeypatch.context() as patched:
        patched.setattr(Storage, "write", dies)
        with pytest.raises(SystemExit):
            put(lake, "k", "new")
    assert lake.require("k")["digest"] == old
    assert lake.read("k", "a.txt") == b"old"
    put(lake, "k", "new")
    assert lake.read("k", "a.txt") == b"new"


def test_readers_beside_a_publisher_see_one_revision_whole_and_never_a_mix(lake: Lake, url: str) -> None:
    def publish(text: str) -> None:
        with lake.publish("k", text=text) as draft:
            for name in "ab":
                draft.file(name).write_text(text)

    publish("0")
    publisher = threading.Thread(target=lambda: [publish(str(number)) for number in range(1, 4)])
    publisher.start()
    reader, seen = Lake(url), set()
    while publisher.is_alive():
        manifest = reader.require("k")
        texts = {reader._storage.read(f"k/{manifest['digest'][:16]}/{name}").decode() for name in "ab"}
        assert texts == {manifest["text"]}
        seen |= texts
    publisher.join()
    assert reader.require("k")["text"] == "3"
    assert len(reader.revisions("k")) == 4
    assert len(seen) > 1


def test_of_two_publishers_at_once_one_wins_whole_and_the_other_stays_a_revision(lake: Lake, url: str) -> None:
    together = threading.Barrier(2)

    def publish(text: str) -> None:
        with Lake(url).publish("k", text=text) as draft:
            for name in "ab":
                draft.file(name).write_text(text)
            together.wait()

    publishers = [threading.Thread(target=publish, args=(text,)) for text in ("left", "right")]
    for each in publishers:
        each.start()
    for each in publishers:
        each.join()
    assert {each["text"] for each in lake.revisions("k")} == {"left", "right"}
    won = lake.require("k")["text"]
    assert [lake.read("k", name).decode() for name in "ab"] == [won, won]


def test_the_same_content_again_writes_nothing_and_mends_what_another_program_altered(lake: Lake) -> None:
    digest = put(lake, "k", "true")
    place = f"k/{digest[:16]}/a.txt"
    lake._storage.write(place, b"lies")
    if lake.is_local:
        with pytest.raises(DataError, match="differs from its manifest"):
            lake.local("k", "a.txt")
    with pytest.raises(DataError, match="differs from its manifest"):
        lake.fetch("k", Path(f"/tmp/{uuid.uuid4().hex}"))
    assert put(lake, "k", "true") == digest
    assert lake._storage.read(place) == b"true"
    lake._storage.remove(place)
    with pytest.raises(DataError, match="the storage has lost it"):
        lake.read("k", "a.txt")


@pytest.mark.parametrize("cut", [0, -2])
def test_a_truncated_manifest_is_named_and_the_next_publication_replaces_it(lake: Lake, cut: int) -> None:
    put(lake, "k", "one")
    whole = lake._storage.read("k/manifest.json")
    lake._storage.write("k/manifest.json", whole[:cut])
    with pytest.raises(DataError, match=r"k/manifest\.json is no manifest as it was published .*Remove it"):
        lake.require("k")
    put(lake, "k", "one")
    assert lake._storage.read("k/manifest.json") == whole


def test_files_of_other_keys_are_listed_without_being_copied(lake: Lake) -> None:
    put(lake, "parts/0", "zero")
    with lake.publish("whole") as draft:
        draft.list("0.txt", lake.require("parts/0"), "a.txt")
        draft.file("1.txt").write_text("one")
    assert [lake.read("whole", name) for name in ("0.txt", "1.txt")] == [b"zero", b"one"]
    assert lake.local("whole", "0.txt").read_text() == "zero"
    assert not any("0.txt" in path for path in lake._storage.find("whole"))
    put(lake, "parts/0", "zero, mended")  # a new revision of the part does not change what lists the old one
    assert lake.read("whole", "0.txt") == b"zero"


def test_a_slice_is_read_in_parts_and_validated_with_the_digests_of_any_other_storage(
    lake: Lake, tmp_path: Path
) -> None:
    digests = []
    for each in (lake, Lake(f"file://{tmp_path}/other")):
        target, source = Target("d", "s", killed.RULES, killed.WINDOW, each), killed.Numbers(range(25), 10)
        parts = begin(target, source, refresh=False)
        assert isinstance(parts, list)
        assert [read_part(target, source, part) for part in parts] == [10, 10, 5]
        checked = validate(seal(target, parts[0].plan), killed.RULES, each)
        assert (checked.slice.rows, checked.clean) == (25, 25)
        digests.append((checked.slice.digest, checked.digest))
    assert digests[0] == digests[1]


def test_a_large_file_is_whole_again(lake: Lake, tmp_path: Path) -> None:
    data = bytes(range(256)) * (1 << 17)  # 32 MiB: several parts of an S3 upload
    with lake.publish("k") as draft:
        draft.file("big").write_bytes(data)
    assert (lake.fetch("k", tmp_path / "out") / "big").read_bytes() == data


@pytest.mark.nightly
def test_an_hdfs_that_is_away_is_named_within_half_a_minute() -> None:
    began = time.monotonic()
    with pytest.raises(Unavailable, match=r"hdfs://127\.0\.0\.1:9/lake/k/manifest\.json: .*refused"):
        Lake("hdfs://127.0.0.1:9/lake").manifest("k")
    assert time.monotonic() - began < 30


_KILLED = """\
import os, shutil, signal, sys
from tidegate.lake import Lake
def half(source, out, length=0):
    data = source.read()
    out.write(data[: len(data) // 2])
    out.flush()
    os.kill(os.getpid(), signal.SIGKILL)
with Lake(sys.argv[1]).publish("k") as draft:
    draft.file("a.txt").write_bytes(os.urandom(32 << 20))
    shutil.copyfileobj = half
"""


def test_a_publisher_killed_in_the_middle_of_a_file_leaves_the_old_one_and_nothing_else_to_be_read(lake: Lake) -> None:
    put(lake, "k", "old")
    killed_one = subprocess.run((sys.executable, "-c", _KILLED, lake.url), check=False)
    assert killed_one.returncode == -signal.SIGKILL
    assert lake.read("k", "a.txt") == b"old"
    assert len(lake.revisions("k")) == 1
    assert lake.keys("") == ["k"]
    assert [path for path in lake._storage.find("k") if path.endswith("a.txt")] == [
        f"k/{lake.require('k')['digest'][:16]}/a.txt"
    ]


_KILLED_AT = """\
import os, signal, sys
from tidegate.lake import Lake
from tidegate.lake.storage import Storage
left, real = int(sys.argv[2]), Storage._place
def placed(self, below, size, fill):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, below, size, fill)
Storage._place = placed
with Lake(sys.argv[1]).publish("k", text="new") as draft:
    for name in "ab":
        draft.file(name).write_text("new")
"""


@pytest.mark.nightly
def test_a_publisher_killed_before_any_of_its_writes_leaves_one_revision_whole_and_the_next_run_completes_it(
    url: str,
) -> None:
    for step in range(1, 7):
        lake = Lake(f"{url}/{step}")
        with lake.publish("k", text="old") as draft:
            for name in "ab":
                draft.file(name).write_text("old")
        ended = subprocess.run((sys.executable, "-c", _KILLED_AT, lake.url, str(step)), check=False).returncode
        assert ended == (-signal.SIGKILL if step < 6 else 0), f"step {step}"  # a, b, old revision, manifest, revision
        text = "old" if step < 5 else "new"
        assert lake.require("k")["text"] == text
        assert [lake.read("k", name).decode() for name in "ab"] == [text, text], f"step {step}"
        subprocess.run((sys.executable, "-c", _KILLED_AT, lake.url, "0"), check=True)
        assert [lake.read("k", name).decode() for name in "ab"] == ["new", "new"], f"the run after step {step}"
        assert {each["text"] for each in lake.revisions("k")} == {"old", "new"}


def test_training_reads_and_writes_the_same_lake_from_its_own_environment(lake: Lake) -> None:
    put(lake, "k", "hello")
    code = (
        "import sys; from tidegate.lake import Lake; lake = Lake(sys.argv[1])\n"
        "with lake.publish('trained') as draft: draft.file('b.txt').write_bytes(lake.read('k', 'a.txt') + b'!')\n"
    )
    python = ROOT / ".envs" / "train" / "bin" / "python"
    done = subprocess.run((str(python), "-c", code, lake.url), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert lake.read("trained", "b.txt") == b"hello!"


def test_s3_credentials_come_from_the_environment_and_stand_nowhere(
    s3_alone: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in s3_alone.items():
        monkeypatch.setenv(name, value)
    lake = Lake(f"s3://lake/{uuid.uuid4().hex}")
    put(lake, "k", "x")
    assert SECRET not in json.dumps(lake.require("k"))
    with pytest.raises(SpecError, match="holds credentials; put them into the environment") as refused:
        Lake(f"s3://tester:{SECRET}@lake/x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(DataError, match="the storage refuses") as denied:
        put(Lake(lake.url), "k", "y")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with pytest.raises(DataError, match="the storage refuses") as absent:
        put(Lake("s3://no-such-bucket/lake"), "k", "y")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="the storage did not do it") as away:
        put(Lake(lake.url), "k", "y")
    told = "".join([*(str(each.value) for each in (refused, denied, absent, away)), *capfd.readouterr()])
    assert SECRET not in told
