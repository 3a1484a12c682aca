"""After each fault a task ends as it should, with one gang of its name at any time, and nothing is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest
from rich.console import Console

from tests.cluster.faults import ACTS, MOMENTS, MORE_ACTS, PARTS, Result, rounds, table
from tests.cluster.installation import Installation

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

Played = Callable[[str], Mapping[tuple[str, str], Result]]


@pytest.fixture(scope="module")
def played(installation: Installation) -> Iterator[Played]:
    """Plays a round once, and tells all its cases; prints their table at the end."""
    results: dict[str, dict[tuple[str, str], Result]] = {}

    def of(name: str) -> Mapping[tuple[str, str], Result]:
        if name not in results:
            results[name] = {(each.fault, each.moment): each for each in rounds([name])[name](installation)}
        return results[name]

    yield of
    console = Console(width=180)
    console.print(table([each for cases in results.values() for each in cases.values()]))


@pytest.mark.nightly
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_killed(played: Played, part: str, moment: str):
    result = played(part)[part, moment]
    assert result.is_well, result


@pytest.mark.parametrize("act", ACTS)
def test_a_task_is_acted_upon(played: Played, act: str):
    result = played("acts")[act, "first step"]
    assert result.is_well, result


@pytest.mark.nightly
@pytest.mark.parametrize("act", MORE_ACTS)
def test_more_befalls_a_task_or_its_gang(played: Played, act: str):
    result = played("more acts")[act, "first step"]
    assert result.is_well, result


def test_the_second_of_two_tries_ends_well_too(played: Played):
    result = played("acts")["two tries at once", "the second"]
    assert result.is_well, result
