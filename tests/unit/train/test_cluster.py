"""A member's place, and how an epoch is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.errors import DataError, Permanent
from tidegate.launch.gang import tf_configs
from tidegate.train.cluster import Place, Steps


def test_a_member_without_a_cluster_is_alone_and_chief():
    place = Place.read({}, workers=1)
    assert (place.rank, place.workers, place.is_chief) == (0, 1, True)


def test_a_member_reads_what_the_launcher_wrote():
    configs = tf_configs([20001, 20002])
    places = [Place.read({"TF_CONFIG": config or ""}, workers=2) for config in configs]
    assert [(place.rank, place.is_chief) for place in places] == [(0, True), (1, False)]


@pytest.mark.parametrize("text", ["", "{", '{"cluster": {}}', "[]"])
def test_a_cluster_of_another_size_or_shape_is_refused(text):
    with pytest.raises(Permanent):
        Place.read({"TF_CONFIG": text}, workers=2)


@given(rows=st.integers(0, 10_000), batch=st.integers(1, 2_000), workers=st.integers(1, 8))
def test_every_worker_gets_as_many_whole_steps_and_no_row_twice(rows, batch, workers):
    try:
        steps = Steps.cut(rows, batch, workers)
    except DataError:
        assert batch < workers or rows < batch // workers * workers
        return
    used = steps.count * steps.local * workers
    assert used <= rows
    assert rows - used < steps.local * workers
    assert steps.local * workers <= batch
