"""Held-out figures beside the base rate's."""

from __future__ import annotations

import numpy as np
import pytest

from tidegate.train.quality import held_out


def test_a_model_that_knows_beats_the_base_rate():
    labels = np.array([[0.0], [0.0], [0.0], [1.0]], np.float32)
    figures = held_out(labels, np.array([0.1, 0.2, 0.1, 0.9], np.float32), base_rate=0.25)
    assert figures["auc"] == 1.0
    assert figures["base_auc"] == 0.5
    assert figures["accuracy"] == 1.0
    assert figures["base_accuracy"] == 0.75
    assert figures["log_loss"] < figures["base_log_loss"] == pytest.approx(0.5623, abs=1e-4)
    assert figures["positive_share"] == figures["base_rate"] == 0.25


def test_a_model_that_says_the_base_rate_beats_nothing():
    labels = np.array([0, 1, 0, 1])
    figures = held_out(labels, np.full(4, 0.4), base_rate=0.4)
    for name in ("auc", "log_loss", "accuracy"):
        assert figures[name] == figures[f"base_{name}"]
