"""The lake: a key is complete or absent, and what is read is what was written."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from tidegate.errors import DataError
from tidegate.lake import Lake, sha256


def put(lake: Lake, key: str, text: str, name: str = "a.txt") -> None:
    with lake.publish(key, rows=1) as draft:
        draft.file(name).write_text(text)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(f"file://{tmp_path}/lake")


def test_what_was_published_is_read_back_with_its_fields(lake: Lake, tmp_path: Path) -> None:
    put(lake, "k/one", "hello", "sub/a.txt")

    assert lake.read("k/one", "sub/a.txt") == b"hello"
    assert lake.require("k/one")["rows"] == 1
    assert (lake.fetch("k/one", tmp_path / "out") / "sub" / "a.txt").read_text() == "hello"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_publish_leaves_nothing_visible(lake: Lake, error: type[BaseException]) -> None:
    def breaks_off() -> None:
        with lake.publish("k") as draft:
            draft.file("a.txt").write_text("half")
            raise error

    with pytest.raises(error):
        breaks_off()
    assert lake.manifest("k") is None
    assert lake.keys("") == []


def dies_at_the_manifest(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    real = lake._storage.write

    def dies(below: str, content: bytes) -> None:
        if below.endswith("/manifest.json"):
            raise SystemExit
        real(below, content)

    monkeypatch.setattr(lake._storage, "write", dies)


def test_a_death_between_the_files_and_the_manifest_leaves_the_key_absent_and_the_next_run_completes_it(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies_at_the_manifest(lake, monkeypatch)
    with pytest.raises(SystemExit):
        put(lake, "k", "hello")
    assert lake.manifest("k") is None
    assert lake.keys("") == []

    monkeypatch.undo()
    put(lake, "k", "hello")
    assert lake.read("k", "a.txt") == b"hello"


def test_a_reader_of_the_old_revision_still_has_its_bytes_while_a_new_one_is_published(lake: Lake) -> None:
    put(lake, "k", "old")
    path = Path(lake.path("k", "a.txt"))
    put(lake, "k", "new")

    assert path.read_text() == "old"
    assert lake.read("k", "a.txt") == b"new"


def test_every_revision_stays_readable_by_its_digest_and_the_newest_is_what_readers_get(lake: Lake) -> None:
    digests = []
    for text in ("one", "two", "three", "one"):
        put(lake, "k", text)
        digests.append(lake.require("k")["digest"])

    assert digests[3] == digests[0]
    assert lake.read("k", "a.txt") == b"one"
    assert lake.revisions("k")[0]["digest"] == digests[0]
    assert {each["digest"] for each in lake.revisions("k")} == set(digests)
    assert lake.local("k", "a.txt", digests[1][:16]).read_text() == "two"
    assert lake.keys("") == ["k"]
    with pytest.raises(DataError, match=f"0 revisions of .*/k begin with 'ffff'; there are: {digests[0][:16]}"):
        lake.require("k", "ffff")


def test_a_death_before_the_new_manifest_leaves_the_old_revision_in_use(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(lake, "k", "old")
    dies_at_the_manifest(lake, monkeypatch)
    with pytest.raises(SystemExit):
        put(lake, "k", "new")
    assert lake.read("k", "a.txt") == b"old"
    assert len(lake.revisions("k")) == 1

    monkeypatch.undo()
    put(lake, "k", "new")
    assert lake.read("k", "a.txt") == b"new"
    assert len(lake.revisions("k")) == 2


def test_publishing_the_same_bytes_again_writes_the_same_manifest(lake: Lake, tmp_path: Path) -> None:
    put(lake, "k", "same")
    manifest = (tmp_path / "lake" / "k" / "manifest.json").read_bytes()
    put(lake, "k", "same")

    assert (tmp_path / "lake" / "k" / "manifest.json").read_bytes() == manifest


def test_a_file_that_differs_from_its_manifest_is_refused_and_not_left_behind(lake: Lake, tmp_path: Path) -> None:
    put(lake, "k", "true")
    Path(lake.path("k", "a.txt")).write_text("lies")

    with pytest.raises(DataError, match="differs from its manifest"):
        lake.fetch("k", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_what_is_missing_is_named(lake: Lake) -> None:
    put(lake, "k", "x")

    with pytest.raises(DataError, match=r"nothing is published at .*/other"):
        lake.require("other")
    with pytest.raises(DataError, match=r"no file 'b\.txt'; it has: a\.txt"):
        lake.path("k", "b.txt")


def test_keys_are_listed_below_a_prefix_and_gone_after_delete(lake: Lake) -> None:
    put(lake, "a/1", "x")
    put(lake, "a/2", "y")
    put(lake, "b/1", "z")

    assert lake.keys("a") == ["a/1", "a/2"]
    lake.delete("a/1")
    assert lake.keys("") == ["a/2", "b/1"]
    assert lake.keys("nothing/here") == []


def test_it_works_on_any_fsspec_storage(tmp_path: Path) -> None:
    lake = Lake("memory://lake-test")
    try:
        put(lake, "k", "remote")
        local = lake.local("k", "a.txt")

        assert not lake.is_local
        assert local.read_text() == "remote"
        assert sha256(local) == lake.require("k")["files"]["a.txt"]["sha256"]
        local.write_text("spoilt")
        assert lake.local("k", "a.txt").read_text() == "remote"
        with lake.at_hand("k", "a.txt") as path:
            assert path.read_text() == "remote"
        assert not path.exists()
    finally:
        fsspec.filesystem("memory").rm("/lake-test", recursive=True)
