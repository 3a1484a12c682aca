import math

import numpy as np
import pytest

from tidegate.judge.quantiles import quantile

INF = math.inf


@pytest.mark.parametrize(
    ("q", "edges", "counts", "expected"),
    [
        (0.5, (10.0, 20.0, INF), [50, 50, 0], 10.0),
        (0.75, (10.0, 20.0, INF), [50, 50, 0], 15.0),
        (0.99, (10.0, 20.0, INF), [50, 10, 40], 20.0),
        (0.5, (10.0, 20.0, INF), [0, 10, 0], 15.0),
        (0.99, (10.0, INF), [0, 0], None),
        (0.99, (), [], None),
    ],
)
def test_quantiles_are_linear_inside_a_bucket_as_prometheus_reckons_them(q, edges, counts, expected):
    assert quantile(q, edges, np.array(counts, dtype=float)) == pytest.approx(expected)
