from __future__ import annotations

import json

import pytest

from tidegate.errors import DataError
from tidegate.recorded import RecordedAnswers

RECORDED = RecordedAnswers(
    rows=(3, 9), columns={"carrier": ("AA", None), "hour": (7, None)}, probabilities=(0.25, 0.75), tolerance=1e-4
)


def test_what_is_written_is_read_and_equal_answers_give_equal_text() -> None:
    read = RecordedAnswers.from_json(RECORDED.to_json())
    assert read == RECORDED
    assert read.to_json() == RECORDED.to_json()


def test_the_largest_difference_within_the_limit_is_returned() -> None:
    assert RECORDED.compare("tiny-v1", [0.25002, 0.75]) == pytest.approx(2e-5)
    assert RECORDED.compare("tiny-v1", [0.25, 0.7501004]) == pytest.approx(1.004e-4), "a float32's rounding is allowed"


@pytest.mark.parametrize("got", [0.7502, 0.7498, float("nan"), float("inf")])
def test_an_answer_over_the_limit_names_row_wanted_got_and_limit(got: float) -> None:
    with pytest.raises(
        DataError, match=rf"tiny-v1 answered recorded row 9 with {got:g}, .* said 0\.75: .*limit 0\.000101"
    ):
        RECORDED.compare("tiny-v1", [0.25, got])


def test_a_missing_answer_is_no_parity() -> None:
    with pytest.raises(DataError, match="gave 1 answers to 2 recorded rows"):
        RECORDED.compare("tiny-v1", [0.25])


@pytest.mark.parametrize(
    "change",
    [{"format": 2}, {"rows": [3]}, {"columns": {"carrier": ["AA"]}}, {"probability": None}, {"tolerance": "x"}],
)
def test_what_is_no_record_is_refused_with_the_remedy(change: dict[str, object]) -> None:
    text = json.dumps({**json.loads(RECORDED.to_json()), **change})
    with pytest.raises(DataError, match=r"probe\.json .*register the model again"):
        RecordedAnswers.from_json(text)


def test_no_rows_at_all_are_refused() -> None:
    empty = RecordedAnswers(rows=(), columns={"carrier": ()}, probabilities=(), tolerance=1e-4)
    with pytest.raises(DataError):
        RecordedAnswers.from_json(empty.to_json())
    with pytest.raises(DataError):
        RecordedAnswers.from_json("not JSON")
