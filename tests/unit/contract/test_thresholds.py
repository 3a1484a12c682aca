"""Thresholds of drift and skew, as contracts state them and as TFDV's schema carries them."""

from __future__ import annotations

import pytest

from tidegate.contract import Column, Contract
from tidegate.contract.model import Threshold
from tidegate.contract.targets.tfdv import compile_contract
from tidegate.contract.thresholds import thresholds


def test_a_bare_limit_warns_and_limits_by_severity_are_all_kept() -> None:
    assert thresholds("drift", {"linfty": 0.1}, "string") == (Threshold("linfty", 0.1, "warn"),)
    stated = {"jensenShannon": {"warn": 0.1, "stop": 0.5}}
    assert thresholds("drift", stated, "int32") == (
        Threshold("jensenShannon", 0.1, "warn"),
        Threshold("jensenShannon", 0.5, "stop"),
    )


@pytest.mark.parametrize(
    "stated", [0.1, {"linfty": 0}, {"linfty": True}, {"linfty": {}}, {"cosine": 0.1}, {"linfty": "x"}]
)
def test_what_is_no_threshold_is_refused_with_what_to_write(stated: object) -> None:
    with pytest.raises(ValueError, match=r"no threshold of drift Remedy: write \{linfty: 0\.1\}"):
        thresholds("drift", stated, "string")


def test_tfdv_s_schema_has_the_least_limit_of_each_measure() -> None:
    column = Column(
        "c", "string", "string",
        drift=(Threshold("linfty", 0.3, "retrain"), Threshold("linfty", 0.1), Threshold("jensenShannon", 0.2)),
        skew=(Threshold("linfty", 0.4),),
    )  # fmt: skip
    (feature,) = compile_contract(Contract("t", "1", (column,), "t.yaml", "0" * 64)).feature
    assert feature.drift_comparator.infinity_norm.threshold == 0.1
    assert feature.drift_comparator.jensen_shannon_divergence.threshold == 0.2
    assert feature.skew_comparator.infinity_norm.threshold == 0.4
