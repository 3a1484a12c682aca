"""Where a gang's checkpoints are kept."""

from __future__ import annotations

from operators.train import work_of
from tidegate.delivery import PodsSpec, delivery_named


def test_checkpoints_are_kept_on_this_machine_or_in_the_lake_of_pods(monkeypatch, tmp_path):
    monkeypatch.setenv("TIDEGATE_VAR", str(tmp_path))
    here = delivery_named("flights")
    train = here.train.model_copy(update={"launcher": "kubernetes", "pods": PodsSpec(image="train:1")})
    in_pods = here.model_copy(update={"train": train})
    assert work_of(here, "s3://lake", "train-flights-r1") == f"{tmp_path}/checkpoints/train-flights-r1"
    assert work_of(in_pods, "s3://lake", "train-flights-r1") == "s3://lake/checkpoints/train-flights-r1"
