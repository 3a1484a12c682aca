"""A demonstration on a stack that has seen one before."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tidegate.clients.records import Rollout
from tidegate.demo.run import champion_after


def past(champion: str | None, candidate: str, outcome: str | None) -> Rollout:
    return Rollout(
        id=f"{candidate}-{outcome}", delivery="flights", champion=champion, candidate=candidate, weights=(10, 100),
        phase="x", outcome=outcome, started_at=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rollouts", "champion"),
    [
        ([], None),
        ([past(None, "v1", None)], None),
        ([past(None, "v1", "rolled_back")], None),
        ([past(None, "v1", "promoted")], "v1"),
        ([past("v2", "v3", "rolled_back"), past("v1", "v2", "promoted")], "v2"),
        ([past("v2", "v3", None), past("v1", "v2", "promoted")], "v2"),
        ([past("v2", "v1", "reverted"), past("v1", "v2", "promoted")], "v1"),
    ],
)
def test_a_later_demonstration_knows_which_champion_the_earlier_one_left(rollouts, champion):
    assert champion_after(rollouts) == champion
