"""A sample of the faults (`make faults` runs all): parts are struck in the middle of rollouts, production stays well.

The stack is one of its own, for the cases strike services that other tests use. The same seed gives the same cases.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tests.faults import table
from tests.faults.__main__ import chosen
from tests.faults.cases import Case
from tests.faults.place import VAR, Place, placed
from tests.faults.running import Result, run

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

SEED, CASES = 2958, 8


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with placed(var=VAR / "test") as ready:
        yield ready


@pytest.fixture(scope="module")
def results() -> Iterator[list[Result]]:
    found: list[Result] = []
    yield found
    table.write(VAR / f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.json", found, {"seed": SEED})


@pytest.mark.parametrize("case", chosen(sample=CASES, seed=SEED), ids=lambda case: case.name)
def test_production_ends_on_one_healthy_version(place: Place, results: list[Result], case: Case) -> None:
    result = run(place, case)
    results.append(result)
    if result.skipped:
        pytest.skip(result.skipped)
    assert result.reasons == []
    assert result.failed_by_switching == 0
