"""The delivery a user writes: one model's way to production, as frozen typed settings read once at the edge.

JSON Schema for editors is exported from these models (`schemas/delivery.schema.json`).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from tidegate.delivery import paths
from tidegate.delivery.pods import PodsSpec
from tidegate.delivery.rollout import (
    DisagreementLimit,
    LabelsLimit,
    Limits,
    NonInferior,
    PredictionsLimit,
    QualitySpec,
    RolloutSpec,
    Stage,
    VersusChampion,
    samples_come,
)
from tidegate.delivery.sources import HdfsSource, KafkaSource, PostgresSource, Source
from tidegate.delivery.spec import KafkaTopic, Spec
from tidegate.errors import SpecError
from tidegate.handoff import Target
from tidegate.units import Every, Rate, Seconds, Share, Size, StepRange, WindowLength, cron_of
from tidegate.wire import Name as Protocol
from tidegate.yamlfile import SpecProblems, YamlFile

__all__ = [
    "DatasetSpec",
    "Delivery",
    "DisagreementLimit",
    "GateSpec",
    "HdfsSource",
    "KafkaSource",
    "KafkaTopic",
    "LabelsLimit",
    "LeakageSpec",
    "Limits",
    "NonInferior",
    "OptimiseSpec",
    "PodsSpec",
    "PostgresSource",
    "PredictionsLimit",
    "QualityLimit",
    "QualitySpec",
    "RetrainSpec",
    "RolloutSpec",
    "ServeSpec",
    "Server",
    "Source",
    "Spec",
    "Stage",
    "Sticky",
    "TrainSpec",
    "VersusChampion",
    "deliveries_folder",
    "delivery_named",
    "json_schema",
    "project_root",
    "read_delivery",
    "share_sampled",
]
_log = logging.getLogger(__name__)
Server = Literal["triton", "tfserving"]
_SERVES: dict[Server, tuple[Target, ...]] = {"triton": ("onnx", "tensorrt"), "tfserving": ("savedmodel",)}
_SAMPLED = 0.1  # of served rows, where a rollout judges what is said
_HEADER = r"^[A-Za-z0-9][A-Za-z0-9-]{0,63}$"
Name = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$", description="lower case letters, digits and underscores")


class LeakageSpec(Spec):
    """When a single feature tells the label so well that it must be made of it."""

    auc: float = Field(default=0.99, gt=0.5, le=1, description="a feature that alone has this AUC is refused")
    allow: list[str] = Field(
        default_factory=list, description="features that may, or that may be made of the label's columns: known in time"
    )


class DatasetSpec(Spec):
    """How the training table is made from validated slices."""

    sql: str = Field(description="file with one SELECT over the sources, each a table of its name")
    label: str
    event_time: str = Field(default="event_time", description="column of the SELECT by which rows are held out")
    test: str = Field(default="last 1 month", pattern=r"^last \d+ (hour|day|week|month)s?$")
    at_least: int = Field(default=1000, ge=1, description="fewer training rows are refused")
    leakage: LeakageSpec = LeakageSpec()
    label_from: list[str] = Field(
        default_factory=list, description="sources that bring the label and nothing else: their rows may come later"
    )
    cuts: int = Field(default=3, ge=1, le=20, description="instants at which no feature may see what comes later")
    memory: str = Field(
        default="1GB", pattern=r"^\d+(MB|GB)$", description="for the SELECT; what needs more spills to disk"
    )
    threads: int = Field(
        default=1,
        ge=1,
        le=64,
        description="more are faster, but sums of floats in the SELECT may then differ in a last digit",
    )

    @property
    def test_length(self) -> str:
        """The held-out window's length: '1 month'."""
        return self.test.removeprefix("last ")


class TrainSpec(Spec):
    """How the gang trains."""

    model: str = Field(pattern=r"^[A-Za-z_]\w*:[A-Za-z_]\w*$", description="file:function beside the dataset's SQL")
    alternatives: list[str] = Field(
        default_factory=list, description="other functions that a request may ask for by name; nothing else may run"
    )
    workers: int = Field(default=2, ge=1, le=64)
    epochs: int = Field(default=3, ge=1)
    batch: int = Field(default=1024, ge=1, description="global batch, rows")
    learning_rate: float = Field(default=1e-3, gt=0)
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    seed: int = 0
    accumulate: int = Field(
        default=1, ge=1, le=1024, description="parts into which a worker cuts its rows of a step, to need less memory"
    )
    scale: Literal["none", "sqrt", "linear"] = Field(
        default="none", description="how the learning rate grows with batch / base_batch"
    )
    base_batch: int = Field(default=256, ge=1, description="rows of the batch that learning_rate suits, where scaled")
    warmup: Share = Field(default=0.0, description="share of all steps until the learning rate is whole")
    memory: Size = Field(default=10**9, description="for a worker's rows; more are read in pieces, again in each epoch")
    bucket: Size = Field(default=0, description="of gradients in one all-reduce; by default all of them")
    checkpoint: Every = Field(default="5m", description="time or steps between checkpoints within an epoch")
    profile: StepRange | None = Field(default=None, description="steps whose trace is kept for TensorBoard")
    launcher: Literal["local", "kubernetes"] = "local"
    pods: PodsSpec | None = Field(default=None, description="for kubernetes: image, resources, place, queue")
    timeout: Seconds = 3600.0

    @model_validator(mode="after")
    def _has_pods(self) -> Self:
        if (self.launcher == "kubernetes") != (self.pods is not None):
            raise ValueError(
                "launcher kubernetes and pods go together Remedy: write pods: {image: ...} for kubernetes, or neither"
            )
        return self


class OptimiseSpec(Spec):
    """What the served artefact is."""

    target: Target = Field(default="onnx", description="onnx or tensorrt for triton, savedmodel for tfserving")
    tolerance: float = Field(default=1e-4, gt=0, description="largest absolute difference of a prediction")


class QualityLimit(Spec):
    """What a quality figure must reach on the held-out rows."""

    at_least: float
    lose_at_most: float = Field(default=0.005, ge=0, description="against the champion on the same rows")


class GateSpec(Spec):
    """Limits a candidate must keep before it gets any traffic, under an open-loop load of its own server."""

    rate: Rate = 200.0
    duration: Seconds = Field(default=20.0, alias="for")
    p99: Seconds = 0.05
    errors: Share = 0.0
    quality: dict[str, QualityLimit] = Field(default={"auc": QualityLimit(at_least=0.5)})

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Sticky(Spec):
    """What keeps a caller on one version while weights stand still: the value of a header, or of a cookie."""

    header: str | None = Field(default=None, pattern=_HEADER)
    cookie: str | None = Field(default=None, pattern=_HEADER)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.header is None) == (self.cookie is None):
            raise ValueError("name exactly one of header, cookie Remedy: keep the one that identifies the caller")
        return self


class ServeSpec(Spec):
    """What serves and what moves traffic."""

    server: Server = Field(
        default="triton", description="callers speak KServe v2 to triton, TensorFlow Serving's REST to tfserving"
    )
    traffic: Literal["envoy"] = "envoy"
    keep: int = Field(default=3, ge=1, description="bundles kept for a way back")
    sample: Share | None = Field(
        default=None,
        description="of served rows, raw values kept with predictions on the server's disk; default: none, and 10% "
        "where rollout.quality asks for them",
    )
    sticky: Sticky | None = Field(default=None, description="default: each request falls by itself")
    pin: str | None = Field(
        default=None, pattern=_HEADER, description="header by which a tester asks for one version, as flights-v3"
    )

    @property
    def protocol(self) -> Protocol:
        """What callers of this server speak."""
        return "tfserving" if self.server == "tfserving" else "kserve"


class RetrainSpec(Spec):
    """What asks for a new model."""

    kafka: KafkaTopic | None = None
    on_drift: bool = Field(
        default=False, description="ask for a new model where a contract's limit of drift or skew says retrain"
    )

    @model_validator(mode="after")
    def _asked_somewhere(self) -> Self:
        if self.on_drift and self.kafka is None:
            raise ValueError(
                "on_drift asks by a message, and retrain.kafka names no topic "
                "Remedy: add kafka: {connection: events, topic: retrain}, or leave on_drift out"
            )
        return self


class Delivery(Spec):
    """One model's way to production."""

    delivery: str = Name
    sources: dict[str, Source] = Field(min_length=1)
    window: WindowLength = "1 month"
    start: str = Field(default="2013-01-01", description="first window's start, an ISO date in UTC")
    end: str | None = Field(default=None, description="no window is scheduled from this date on (for historical data)")
    train_on: WindowLength = Field(default="3 months", description="how far back a training set reaches")
    folder: str = Field(description="folder of the model file and the SQL, relative to the project root")
    dataset: DatasetSpec
    train: TrainSpec
    optimise: OptimiseSpec = OptimiseSpec()
    gate: GateSpec = GateSpec()
    serve: ServeSpec = ServeSpec()
    rollout: RolloutSpec = RolloutSpec()
    retrain: RetrainSpec = RetrainSpec()

    @model_validator(mode="after")
    def _servable(self) -> Self:
        server, target = self.serve.server, self.optimise.target
        if target not in _SERVES[server]:
            fitting = next(name for name, targets in _SERVES.items() if target in targets)
            raise ValueError(
                f"serve.server {server} cannot serve optimise.target {target} "
                f"Remedy: set optimise.target to {_SERVES[server][0]}, or serve.server to {fitting}"
            )
        if server == "tfserving" and self.share_sampled:
            raise ValueError(
                "TensorFlow Serving keeps no sample of what it answers, so serve.sample and rollout.quality have "
                "nothing to go by Remedy: leave both out, or set serve.server to triton and optimise.target to onnx"
            )
        return self

    @model_validator(mode="after")
    def _label_has_a_source(self) -> Self:
        for name in self.dataset.label_from:
            if name not in self.sources:
                have = ", ".join(self.sources)
                raise ValueError(f"dataset.label_from names {name!r}, no source Remedy: name one of: {have}")
        return self

    @model_validator(mode="after")
    def _schedulable(self) -> Self:
        cron_of(self.window)
        return self

    @model_validator(mode="after")
    def _paths_fit(self) -> Self:
        for name, source in self.sources.items():
            why = paths.misfit(source.hdfs.path, self.window) if source.hdfs else None
            if why:
                raise ValueError(f"sources.{name}.hdfs: {why}")
        return self

    @model_validator(mode="after")
    def _quality_can_be_seen(self) -> Self:
        quality, sample = self.rollout.quality, self.share_sampled
        if quality is None:
            return self
        if not sample:
            raise ValueError(
                "rollout.quality is judged from the sample that servers keep, and serve.sample is 0% "
                "Remedy: raise serve.sample, as in 10%, or leave quality out"
            )
        for stage in self.rollout.stages if self.rollout.traffic else ():
            samples_come(stage, self.rollout, quality, (self.rollout.traffic or 0.0) * sample)
        return self

    @property
    def share_sampled(self) -> float:
        """The share of served rows that servers keep."""
        if self.serve.sample is not None:
            return self.serve.sample
        return _SAMPLED if self.rollout.quality is not None else 0.0

    def model_of(self, wanted: str | None) -> tuple[str, str]:
        """Return (file, function) of the model to train.

        Raises:
            ValueError: the wanted function is not declared by this delivery.
        """
        chosen = wanted or self.train.model
        if chosen not in (self.train.model, *self.train.alternatives):
            allowed = ", ".join((self.train.model, *self.train.alternatives))
            raise ValueError(f"model {chosen!r} is not declared; declared: {allowed}; add it to train.alternatives")
        file, _, function = chosen.partition(":")
        return f"{file}.py", function


def project_root() -> Path:
    """Return the folder that holds `schemas/`, `dags/` and `examples/` (TIDEGATE_ROOT; default: beside the package)."""
    return Path(os.environ.get("TIDEGATE_ROOT", Path(__file__).resolve().parents[2]))


def deliveries_folder() -> Path:
    """Return the folder of delivery files (TIDEGATE_DELIVERIES; default: schemas/deliveries of the project)."""
    return Path(os.environ.get("TIDEGATE_DELIVERIES", project_root() / "schemas" / "deliveries"))


def read_delivery(path: Path) -> Delivery:
    """Read one delivery file.

    Raises:
        SpecProblems: the file has mistakes; each names file, line, field, value and remedy.
    """
    file = YamlFile.read(path)
    try:
        delivery = Delivery.model_validate(file.data)
    except ValidationError as error:
        raise SpecProblems(file.problems(error)) from error
    if delivery.delivery != path.stem:
        raise SpecProblems(
            [file.problem(["delivery"], delivery.delivery, "the name differs from the file's", f"write {path.stem}")]
        )
    return delivery


def delivery_named(name: str) -> Delivery:
    """Read the delivery of this name from the deliveries folder."""
    return read_delivery(deliveries_folder() / f"{name}.yaml")


def share_sampled(name: str) -> float:
    """Return the share of served rows that a delivery's servers keep; none where its file cannot be read.

    A way back must not fail for a mistake in a file, so this one does not raise.
    """
    try:
        return delivery_named(name).share_sampled
    except SpecError as error:
        _log.warning("servers of %s keep no sample of what they answer: %s", name, error)
        return 0.0


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a delivery file, for completion in editors."""
    return Delivery.model_json_schema(mode="validation")
