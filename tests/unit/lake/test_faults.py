"""What can go wrong below the lake: a full disk, a link that leads out, keys that do, and files that others altered."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidegate.errors import DataError, NoSpace, Retryable, SpecError
from tidegate.lake import Lake

SIZE = 2 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ("mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)), capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system needs the right to mount: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(("umount", "-l", str(place)), check=True)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(f"file://{tmp_path}/lake")


def put(lake: Lake, key: str, data: bytes) -> None:
    with lake.publish(key) as draft:
        draft.file("a").write_bytes(data)


def drafts(folder: Path) -> list[Path]:
    return list(folder.glob("tidegate-draft-*"))


def test_a_full_lake_is_named_with_what_is_needed_and_free_and_nothing_is_half_published(small_disk: Path) -> None:
    lake = Lake(f"file://{small_disk}/lake")
    put(lake, "k", b"old")
    with pytest.raises(
        NoSpace, match=r"no room for file://.*/k/\w+/a: 3,145,728 bytes are needed, [\d,]+ bytes are"
    ) as told:
        put(lake, "k", os.urandom(3 << 20))
    assert isinstance(told.value, Retryable)
    assert lake.read("k", "a") == b"old"
    assert not list(small_disk.rglob("*.part"))
    put(lake, "k", b"new")  # there is room again
    assert lake.read("k", "a") == b"new"


def test_a_lake_that_is_full_of_manifests_keeps_the_old_one(small_disk: Path) -> None:
    lake = Lake(f"file://{small_disk}/lake")
    put(lake, "k", b"old")
    before = (small_disk / "lake/k/manifest.json").read_bytes()
    (small_disk / "filler").write_bytes(b"x" * (os.statvfs(small_disk).f_bavail * 4096))
    with pytest.raises(NoSpace, match="make room, then this is tried again"):
        put(lake, "k", b"new")
    assert (small_disk / "lake/k/manifest.json").read_bytes() == before
    assert lake.read("k", "a") == b"old"
    (small_disk / "filler").unlink()
    put(lake, "k", b"new")
    assert lake.read("k", "a") == b"new"


def test_a_full_disk_of_drafts_is_named_and_the_draft_is_removed(
    lake: Lake, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    numbers = pa.table({"a": pa.array(list(os.urandom(4 << 20)), pa.uint8())})

    def write() -> None:
        with lake.publish("k") as draft:
            pq.write_table(numbers, draft.file("a.parquet"), compression="none", use_dictionary=False)

    with pytest.raises(NoSpace, match=r"no room for a draft of file://.*/k: .* bytes are free at .*/disk"):
        write()
    assert lake.manifest("k") is None
    assert drafts(small_disk) == []


def test_a_full_disk_at_the_reader_is_named_and_leaves_no_part(lake: Lake, small_disk: Path) -> None:
    put(lake, "k", os.urandom(3 << 20))
    with pytest.raises(NoSpace, match=r"no room for .*/disk/out/\.a\.\w+: 3,145,728 bytes are needed"):
        lake.fetch("k", small_disk / "out")
    assert not list((small_disk / "out").iterdir())


def test_what_a_killed_publisher_left_on_the_disk_is_removed_by_the_next_one(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = (
        "import os, signal, sys\n"
        "from tidegate.lake import Lake\n"
        "with Lake(sys.argv[1]).publish('k') as draft:\n"
        "    draft.file('a').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = (sys.executable, "-c", code, lake.url)
    assert (
        subprocess.run(killed, env={**os.environ, "TMPDIR": str(tmp_path)}, check=False).returncode == -signal.SIGKILL
    )
    (left,) = drafts(tmp_path)
    with lake.publish("other") as draft:
        assert not left.exists()
        put(lake, "k", b"x")  # does not take the draft of one that lives
        assert draft.folder.exists()
        draft.file("a").write_text("whole")
    assert lake.read("other", "a") == b"whole"
    assert drafts(tmp_path) == []


def test_files_on_their_way_for_more_than_a_day_are_removed_and_younger_ones_are_not(
    lake: Lake, tmp_path: Path
) -> None:
    put(lake, "k", b"x")
    old, young = (tmp_path / "lake/k" / f"a.{letter * 32}.part" for letter in "0f")
    for path in (old, young):
        path.write_text("half")
    os.utime(old, (time.time() - 90_000,) * 2)
    put(lake, "k", b"y")
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.parametrize("key", ["../out", "a/../../out", "a/..", "/etc", "a\\..\\b"])
def test_a_key_that_leads_out_is_refused(lake: Lake, key: str, tmp_path: Path) -> None:
    put(lake, "k", b"x")
    for work in (lambda: put(lake, key, b"x"), lambda: lake.manifest(key), lambda: lake.delete(key)):
        with pytest.raises(DataError, match="leads out of the lake"):
            work()
    assert not (tmp_path / "out").exists()


def test_a_name_in_a_manifest_that_leads_out_is_refused(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(DataError, match="leads out of the lake"), lake.publish("k") as draft:
        draft.listed["a"] = {"bytes": 6, "sha256": "0" * 64, "at": "../secret"}


@pytest.mark.parametrize("link", ["k", "k/manifest.json", "k/{revision}", "k/{revision}/a"])
def test_a_link_out_of_the_lake_is_refused_to_readers_and_publishers(lake: Lake, tmp_path: Path, link: str) -> None:
    put(lake, "k", b"x")
    root = tmp_path / "lake"
    revision = str(lake.require("k")["digest"])[:16]
    inside, outside = root / link.format(revision=revision), tmp_path / "outside"
    inside.rename(outside)
    inside.symlink_to(outside)
    kept = {path: path.read_bytes() for path in [outside, *outside.rglob("*")] if path.is_file()}
    with pytest.raises(DataError, match=r"leads out of the lake file://.* by a symbolic link, to .*/outside.*remove"):
        lake.local("k", "a")
    with pytest.raises(DataError, match="leads out of the lake"):
        lake.read("k", "a")
    if link in ("k", "k/manifest.json"):
        with pytest.raises(DataError, match="leads out of the lake"):
            put(lake, "k", b"y")
    assert {path: path.read_bytes() for path in [outside, *outside.rglob("*")] if path.is_file()} == kept


def test_a_lake_that_is_itself_behind_a_link_works(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    lake = Lake(f"file://{tmp_path}/link")
    put(lake, "k", b"x")
    assert lake.local("k", "a").read_bytes() == b"x"


@pytest.mark.parametrize(
    "text", [b"", b"{", b"null", b"[]", b'"k"', b"{}", b'{"files": 1, "digest": ""}', b"\xff\xfe", b"[" * 100_000]
)
def test_a_manifest_that_is_none_is_named_with_the_remedy_and_replaced_by_the_next_publication(
    lake: Lake, tmp_path: Path, text: bytes
) -> None:
    put(lake, "k", b"x")
    path = tmp_path / "lake/k/manifest.json"
    path.write_bytes(text)
    for work in (lambda: lake.manifest("k"), lambda: lake.require("k"), lambda: lake.read("k", "a")):
        with pytest.raises(
            DataError, match=r"/k/manifest\.json is no manifest as it was published .*Remove it, and run"
        ):
            work()
    assert lake.keys("") == ["k"]
    assert not lake.is_whole("k")
    put(lake, "k", b"x")
    assert lake.read("k", "a") == b"x"


def test_a_field_that_another_program_changed_is_found(lake: Lake, tmp_path: Path) -> None:
    with lake.publish("k", rows=7) as draft:
        draft.file("a").write_bytes(b"x")
    path = tmp_path / "lake/k/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rows": 8}))
    with pytest.raises(DataError, match="what it says was altered"):
        lake.require("k")


def test_a_local_file_that_another_program_changed_is_found(lake: Lake) -> None:
    put(lake, "k", b"true")
    Path(lake.path("k", "a")).write_bytes(b"lies")
    with pytest.raises(DataError, match="differs from its manifest; publish it again"):
        lake.local("k", "a")
    Path(lake.path("k", "a")).unlink()
    with pytest.raises(DataError, match="the storage has lost it"):
        lake.local("k", "a")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://host/lake", "no file is replaced at once; known: file"),
        ("s3://key:secret@bucket/lake", "holds credentials"),
        ("s3://bucket/lake?secret_key=secret", "holds credentials"),
        ("hdfs://user:secret@host:1/lake", "holds credentials"),
    ],
)
def test_a_place_that_cannot_be_a_lake_is_refused_without_telling_a_secret(url: str, why: str) -> None:
    with pytest.raises(SpecError, match=why) as refused:
        Lake(url)
    assert "secret" not in str(refused.value)
