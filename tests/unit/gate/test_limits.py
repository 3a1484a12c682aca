from __future__ import annotations

import math

import pytest

from tidegate.delivery import GateSpec
from tidegate.errors import SpecError
from tidegate.gate.limits import Measured, quantile_ms, report
from tidegate.gate.load import Answer
from tidegate.handoff import GateReport

SPEC = GateSpec.model_validate(
    {"rate": "100/s", "for": "1s", "p99": "50ms", "errors": "1%",
     "quality": {"auc": {"at_least": 0.7, "lose_at_most": 0.01}}}
)  # fmt: skip


def answers(milliseconds: float = 10, failed: int = 0, total: int = 100) -> list[Answer]:
    return [Answer(0.0, milliseconds / 1000, 500 if i < failed else 200, None, False) for i in range(total)]


def gate(given: list[Answer], auc: float | None, champion: float | str | None = "none") -> GateReport:
    theirs = None if champion == "none" else {"auc": champion}
    return report(1, SPEC, Measured(given, {"auc": auc}, theirs), 1.0)  # type: ignore[dict-item]


def missed(given: GateReport) -> list[str]:
    assert given.passed == all(check.ok for check in given.checks)
    return [check.name for check in given.checks if not check.ok]


def test_a_candidate_within_every_limit_passes_and_shows_its_median() -> None:
    found = gate(answers(), 0.75, 0.755)
    assert found.passed
    assert [check.name for check in found.checks] == ["p99", "errors", "auc", "auc lost to champion"]
    assert found.figures["p50_ms"] == pytest.approx(10)


def test_each_missed_limit_is_named_in_the_table() -> None:
    found = gate(answers(60, failed=2), 0.69, 0.75)
    assert missed(found) == ["p99", "errors", "auc", "auc lost to champion"]
    assert found.table().count("MISSED") == 4


def test_a_champion_that_is_better_by_more_than_allowed_fails_a_good_candidate() -> None:
    assert missed(gate(answers(), 0.80, 0.82)) == ["auc lost to champion"]


def test_without_a_champion_nothing_is_compared_with_it() -> None:
    assert [check.name for check in gate(answers(), 0.75).checks] == ["p99", "errors", "auc"]


def test_no_answers_fail() -> None:
    found = gate([], 0.75)
    assert missed(found) == ["p99", "errors"]
    assert "no data" in found.table()


@pytest.mark.parametrize("value", [None, math.nan])
def test_a_quality_that_is_not_there_fails(value: float | None) -> None:
    assert missed(gate(answers(), value)) == ["auc"]
    assert missed(gate(answers(), value, 0.7)) == ["auc", "auc lost to champion"]


@pytest.mark.parametrize("value", [None, math.nan])
def test_a_champion_that_does_not_answer_is_no_reason_to_pass(value: float | None) -> None:
    assert missed(gate(answers(), 0.75, value)) == ["auc lost to champion"]


def test_one_slow_answer_in_fifty_is_seen_in_the_p99() -> None:
    slow = answers(total=98) + answers(900, total=2)
    assert quantile_ms(slow, 0.99) == pytest.approx(900)
    assert missed(gate(slow, 0.75)) == ["p99"]


def test_a_quality_figure_that_does_not_exist_is_a_mistake_in_the_delivery() -> None:
    spec = GateSpec.model_validate({"quality": {"f1": {"at_least": 0.5}}})
    with pytest.raises(SpecError, match="f1, known are auc"):
        report(1, spec, Measured(answers(), {"auc": 0.7}), 1.0)
