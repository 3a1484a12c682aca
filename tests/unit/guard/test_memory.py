"""What the guard keeps on disk: whole or not at all, and never in its way."""

import json

import pytest

from tidegate.guard.core import Knowledge, Trial, Word
from tidegate.guard.memory import Memory, boot_clock, boot_id

KNOWN = Knowledge({"flights": Word("run-1", 4, 1.5, 1001.0, 1001.0, 1016.0)}, {"flights": Trial(4, 1000.0)})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "guard" / "state.json"


def test_what_is_kept_is_found_again(path):
    Memory(path, "boot").save(KNOWN)
    assert Memory(path, "boot").load(1010.0) == KNOWN
    assert Memory(path, "other").load(10.0) == Knowledge(trials={"flights": Trial(4, 0.0)})


def test_without_a_file_nothing_is_known(path):
    assert Memory(path, "boot").load(1010.0) == Knowledge()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", '{"boot": "boot"}', '{"boot": "boot", "words": {"flights": {"holder": 3}}, "trials": {}}'],
)
def test_a_broken_file_is_nothing_known_and_says_so(path, caplog, text):
    path.parent.mkdir()
    path.write_text(text)
    assert Memory(path, "boot").load(1010.0) == Knowledge()
    assert "cannot be read" in caplog.text


def test_it_is_written_only_when_what_is_at_stake_changes(path):
    memory = Memory(path, "boot")
    memory.save(KNOWN)
    path.unlink()
    memory.save(KNOWN)
    assert not path.exists()
    memory.save(Knowledge())
    assert json.loads(path.read_text()) == {"boot": "boot", "words": {}, "trials": {}}
    assert list(path.parent.iterdir()) == [path]


def test_a_disk_that_refuses_is_logged_once_and_tried_again(path, caplog):
    path.parent.write_text("a file where the folder should be")
    memory = Memory(path, "boot")
    memory.save(KNOWN)
    memory.save(KNOWN)
    assert caplog.text.count("cannot be written") == 1
    path.parent.unlink()
    memory.save(KNOWN)
    assert Memory(path, "boot").load(1010.0) == KNOWN


def test_the_clock_runs_since_the_boot_and_the_boot_has_a_name():
    assert 0 < boot_clock() <= boot_clock()
    assert boot_id() == boot_id() != ""
