"""Envoy's latency histogram: which of its buckets end at which time.

Envoy counts whole milliseconds, those that have passed (5.9 ms counts as 5), and its histogram keeps two digits of them
(109 counts as 100). A bucket of `le="b"` holds all that counts as b: it ends where the next two-digit number begins.
Seen on Envoy 1.40 by its own x-envoy-upstream-service-time; https://github.com/openhistogram/libcircllhist.
"""

from __future__ import annotations

import math

EDGES_MS = (
    *(1, 2, 3, 4, 5, 6, 7, 8, 9),
    *(digits * 10**power for power in (0, 1, 2) for digits in (10, 13, 16, 20, 25, 32, 40, 50, 63, 80)),
    10_000,
)
"""Where the proxy's buckets end: preferred numbers (ISO 3, R10), about a fourth apart, as a margin of 1.25 asks for."""


def edge_of(bucket: float) -> float:
    """Return the time in ms below which all answers of Envoy's bucket `le` lie; infinite for +Inf."""
    if bucket < 10:
        return math.floor(bucket) + 1.0
    if math.isinf(bucket):
        return bucket
    step = 10.0 ** (math.floor(math.log10(bucket)) - 1)
    return (math.floor(bucket / step) + 1.0) * step


def bucket_of(edge: float) -> float:
    """Return the `le` of the bucket that ends at an edge of two digits, in ms; the inverse of `edge_of`."""
    if edge <= 1:
        return 0.5  # zero is no bucket
    step = 1.0 if edge <= 10 else 10.0 ** (math.ceil(math.log10(edge)) - 2)
    return edge - step
