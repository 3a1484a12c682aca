"""The sample of what is served: chosen by content, whole lines, bounded files, and no error that reaches a request."""

from __future__ import annotations

import errno
import json
import math
import os
import threading

import numpy as np
import pytest

from tidegate import served
from tidegate.served import Sampler, Segments, Served, digest, is_chosen, read_share


def columns(count, start=0):
    return {
        "carrier": np.array([[b"AA"]] * count, dtype=object),
        "hour": np.arange(start, start + count).reshape(-1, 1),
        "distance": np.full((count, 1), np.nan, np.float32),
    }


def kept(folder):
    files = sorted((folder / "served").glob("*.jsonl"))
    return [Served.from_line(line) for file in files for line in file.read_bytes().splitlines()]


def sampled(folder, share, requests, **given):
    sampler = Sampler(folder, "flights_0_0", share, clock=lambda: 12.5, **given)
    for number in range(requests):
        sampler.see(f"r{number}", columns(1, number), np.array([[0.25]], np.float32))
    sampler.close()
    return sampler


def test_a_line_says_what_was_asked_and_answered(tmp_path):
    sampled(tmp_path, 1.0, 1)
    (line,) = (tmp_path / "served" / "flights_0_0.jsonl").read_bytes().splitlines()
    row = {"carrier": b"AA", "hour": 0, "distance": math.nan}
    assert json.loads(line) == {
        "id": "r0", "digest": digest(row).hex(), "at": 12.5, "prediction": 0.25,
        "features": {"carrier": "AA", "hour": 0, "distance": None},
    }  # fmt: skip
    assert (tmp_path / "served" / "flights_0_0.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_prediction_that_is_no_number_comes_back_as_none():
    line = Served("", "00", {}, math.nan, 1.0).to_line()
    assert json.loads(line)["prediction"] is None
    assert math.isnan(Served.from_line(line).prediction)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"\xff",
        b'{"id": "a"}',
        b'{"id":"a","digest":"b","features":3,"prediction":1,"at":2}',
        b'{"id":"a","digest":"b","features":{},"prediction":1%b,"at":2}' % (b"0" * 400),
    ],
)
def test_what_is_no_served_row_is_a_value_error(line):
    with pytest.raises(ValueError):  # noqa: PT011  # json's own or ours
        Served.from_line(line)


def test_every_version_samples_the_same_inputs_and_a_smaller_share_lies_in_a_larger(tmp_path):
    for name, share in (("one", 0.1), ("two", 0.1), ("three", 0.3)):
        (tmp_path / name).mkdir()
        sampled(tmp_path / name, share, 900)
    one, two, three = ({row.digest for row in kept(tmp_path / name)} for name in ("one", "two", "three"))
    assert one == two < three
    assert 60 < len(one) < 120
    assert 220 < len(three) < 320


def test_a_digest_depends_on_names_and_values_and_not_on_their_order():
    assert digest({"a": 1, "b": b"x"}) == digest({"b": b"x", "a": 1})
    different = [{"a": 1}, {"a": 2}, {"b": 1}, {"a": 1, "b": b""}, {"a": b"1b:"}, {"a": 1.5}]
    assert len({digest(row) for row in different}) == len(different)


def test_all_or_nothing_is_chosen_at_the_ends():
    assert is_chosen(b"\xff" * 16, 1.0)
    assert not is_chosen(b"\0" * 16, 0.0)


def test_requests_of_our_own_are_no_sample_of_what_is_served(tmp_path):
    sampler = Sampler(tmp_path, "p", 1.0)
    sampler.see(served.OWN, columns(1), np.full((1, 1), 0.5))
    sampler.see("", columns(1), np.full((1, 1), 0.5))
    sampler.close()
    assert [row.id for row in kept(tmp_path)] == [""]


def test_of_a_batch_the_first_rows_are_looked_at(tmp_path):
    sampler = Sampler(tmp_path, "p", 1.0)
    sampler.see("batch", columns(100), np.full((100, 1), 0.5))
    sampler.close()
    assert len(kept(tmp_path)) == served.MOST_ROWS


def test_files_are_bounded_and_hold_the_newest(tmp_path):
    sampled(tmp_path, 1.0, 300, segment_bytes=8000)
    files = sorted((tmp_path / "served").iterdir())
    assert [file.name for file in files] == ["flights_0_0.1.jsonl", "flights_0_0.jsonl"]
    assert all(file.stat().st_size <= 8000 for file in files)
    rows = kept(tmp_path)
    assert rows[-1].id == "r299"
    assert [row.id for row in rows] == [f"r{number}" for number in range(300 - len(rows), 300)]


def test_a_later_process_goes_on_and_a_half_written_line_of_a_dead_one_is_cut_off(tmp_path):
    sampled(tmp_path, 1.0, 2)
    with (tmp_path / "served" / "flights_0_0.jsonl").open("ab") as file:
        file.write(b'{"id": "half')
    sampled(tmp_path, 1.0, 1)
    assert [row.id for row in kept(tmp_path)] == ["r0", "r1", "r0"]


def test_a_disk_that_is_full_costs_samples_and_nothing_else(tmp_path, monkeypatch):
    now, full = [0.0], [True]
    write = os.write

    def writing(file, line):
        if full[0]:
            return write(file, line[:3])
        return write(file, line)

    monkeypatch.setattr(os, "write", writing)
    segments = Segments(tmp_path / "served" / "p.jsonl", 1000, clock=lambda: now[0])
    assert not segments.append(b"one\n\n\n")
    full[0] = False
    assert not segments.append(b"two\n"), "not tried again at once"
    now[0] = 1.5
    assert segments.append(b"three\n")
    assert (tmp_path / "served" / "p.jsonl").read_bytes() == b"three\n", "no half line is left"


def test_a_folder_that_cannot_be_written_never_raises(tmp_path):
    (tmp_path / "served").write_text("a file where the folder should be")
    sampler = sampled(tmp_path, 1.0, 3)
    assert sampler.dropped == 3


def test_a_disk_that_does_not_answer_holds_up_no_request(tmp_path, monkeypatch):
    answers = threading.Event()
    entered = threading.Event()

    def append(self, line):
        entered.set()
        return answers.wait(30)

    monkeypatch.setattr(Segments, "append", append)
    monkeypatch.setattr(served, "_WAITING", 5)
    sampler = Sampler(tmp_path, "p", 1.0)
    sampler.see("first", columns(1), np.array([[0.5]]))
    assert entered.wait(5)
    for number in range(8):
        sampler.see("", columns(1, number), np.array([[0.5]]))
    assert sampler.dropped == 3
    answers.set()
    sampler.close()


def test_columns_that_do_not_fit_never_raise(tmp_path):
    sampler = Sampler(tmp_path, "p", 1.0)
    sampler.see("", {"a": np.zeros((1, 1))}, np.zeros((3, 1)))
    sampler.close()
    assert sampler.dropped == 1


@pytest.mark.parametrize(
    ("text", "share"), [("0.1", 0.1), ("0", 0.0), ("", 0.0), ("x", 0.0), ("7", 0.0), ("nan", 0.0), (None, 0.0)]
)
def test_the_share_is_read_or_nothing_is_kept(tmp_path, text, share):
    if text is not None:
        (tmp_path / "sample").write_text(text)
    assert read_share(tmp_path) == share


def test_no_space_left_is_survived_on_opening(tmp_path, monkeypatch):
    def refuse(*_args, **_given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "open", refuse)
    assert not Segments(tmp_path / "served" / "p.jsonl", 1000).append(b"x\n")
