"""Checkpoints in a lake, and their publication beside the training."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tidegate.errors import DataError, TidegateError, Unavailable
from tidegate.train import checkpoints
from tidegate.train.checkpoints import Publisher, Saved, Store, forget


def saved(tmp_path: Path, step: int) -> Saved:
    folder = tmp_path / "scratch" / f"step-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state.index").write_text(f"index {step}")
    (folder / "state.data-00000-of-00001").write_text(f"data {step}")
    return Saved(step, {"epochs": [step]}, folder)


@pytest.fixture
def store(tmp_path):
    return Store(f"file://{tmp_path}/work", "abc")


def test_the_newest_comes_back_with_its_files_and_what_is_to_be_known(store, tmp_path):
    assert store.newest(tmp_path / "none") is None
    for step in (9, 100):  # 100 is after 9, also as text
        store.publish(saved(tmp_path, step))
    found = store.newest(tmp_path / "to")
    assert found is not None
    assert (found.step, found.about) == (100, {"epochs": [100]})
    assert (found.folder / "state.index").read_text() == "index 100"
    assert store.at(9, tmp_path / "to").about == {"epochs": [9]}


def test_two_are_kept(store, tmp_path):
    for step in (1, 2, 3, 4):
        store.publish(saved(tmp_path, step))
    assert [path.name for path in sorted((tmp_path / "work" / "checkpoints" / "abc").iterdir())] == [
        "000000000003",
        "000000000004",
    ]


def test_a_damaged_one_is_passed_by_and_the_log_says_so(store, tmp_path, capsys):
    for step in (1, 2):
        store.publish(saved(tmp_path, step))
    (data,) = (tmp_path / "work").rglob("000000000002/*/state.data*")
    data.write_text("torn")
    found = store.newest(tmp_path / "to")
    assert found is not None
    assert found.step == 1
    assert "checkpoint passed by" in capsys.readouterr().out


def test_one_whose_publication_was_cut_short_is_absent(store, tmp_path, monkeypatch):
    store.publish(saved(tmp_path, 1))
    monkeypatch.setattr("tidegate.lake.storage.Storage.write", _dies)
    with pytest.raises(KeyboardInterrupt):
        store.publish(saved(tmp_path, 2))
    monkeypatch.undo()
    found = store.newest(tmp_path / "to")
    assert found is not None
    assert found.step == 1


def _dies(*_):
    raise KeyboardInterrupt


def test_trainings_that_give_other_weights_do_not_see_each_others(store, tmp_path):
    store.publish(saved(tmp_path, 1))
    assert Store(f"file://{tmp_path}/work", "def").newest(tmp_path / "to") is None
    forget(store)
    assert not (tmp_path / "work" / "checkpoints").exists()
    forget(store)


class Storage:
    """Stores, or fails as told; the test waits for its calls."""

    def __init__(self, *fails: Exception):
        self.fails, self.stored, self.calls = list(fails), [], threading.Semaphore(0)
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def __call__(self, offered: Saved) -> None:
        self.calls.release()
        assert self.may_go_on.wait(30)
        if self.fails:
            raise self.fails.pop(0)
        self.stored.append(offered.step)


@pytest.fixture
def pauses(monkeypatch):
    monkeypatch.setattr(checkpoints, "_FIRST_PAUSE", 0.01)


def test_storage_that_is_away_is_tried_again_and_the_log_tells(tmp_path, capsys, pauses):
    storage = Storage(Unavailable("s3 is away"), Unavailable("s3 is away"))
    publisher = Publisher(storage)
    publisher.offer(saved(tmp_path, 1))
    publisher.flush(30)
    publisher.close(30)
    assert storage.stored == [1]
    told = capsys.readouterr().out
    assert told.count("checkpoint not stored step=1") == 2
    assert "checkpoint step=1" in told
    assert not (tmp_path / "scratch" / "step-1").exists()


def test_one_that_waits_for_the_storage_gives_way_to_a_newer_one(tmp_path, capsys):
    storage = Storage()
    storage.may_go_on.clear()
    publisher = Publisher(storage)
    publisher.offer(saved(tmp_path, 1))
    assert storage.calls.acquire(timeout=30)
    publisher.offer(saved(tmp_path, 2))
    publisher.offer(saved(tmp_path, 3))
    storage.may_go_on.set()
    publisher.flush(30)
    publisher.close(30)
    assert storage.stored == [1, 3]
    assert "checkpoint left out step=2" in capsys.readouterr().out


def test_one_that_is_tried_again_gives_way_to_a_newer_one(tmp_path):
    storage = Storage(Unavailable("s3 is away"))  # the pause is a second: not waited for
    publisher = Publisher(storage)
    publisher.offer(saved(tmp_path, 1))
    assert storage.calls.acquire(timeout=30)
    publisher.offer(saved(tmp_path, 2))
    publisher.flush(30)
    publisher.close(30)
    assert storage.stored == [2]


def test_what_is_not_stored_in_time_is_an_error_only_for_who_waits(tmp_path):
    storage = Storage(*(Unavailable("s3 is away") for _ in range(100)))
    publisher = Publisher(storage)
    publisher.offer(saved(tmp_path, 1))
    assert storage.calls.acquire(timeout=30)
    with pytest.raises(Unavailable):
        publisher.flush(0.1)
    publisher.close(30)


@pytest.mark.parametrize("error", [DataError("the storage refuses"), RuntimeError("nobody foresaw it")])
def test_what_another_try_does_not_mend_is_not_tried_again_and_ends_nothing(tmp_path, error):
    storage = Storage(error)
    publisher = Publisher(storage)
    publisher.offer(saved(tmp_path, 1))
    with pytest.raises(TidegateError, match=str(error)):
        publisher.flush(30)
    publisher.offer(saved(tmp_path, 2))
    publisher.flush(30)
    publisher.close(30)
    assert storage.stored == [2]
