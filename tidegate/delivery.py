"""The delivery a user writes: one model's way to production, as frozen typed settings read once at the edge.

JSON Schema for editors is exported from these models (`schemas/delivery.schema.json`).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tidegate.errors import SpecError
from tidegate.handoff import Target
from tidegate.units import Factor, Rate, Seconds, Share, WindowLength, cron_of
from tidegate.wire import Name as Protocol
from tidegate.yamlfile import SpecProblems, YamlFile

Server = Literal["triton", "tfserving"]
_SERVES: dict[Server, tuple[Target, ...]] = {"triton": ("onnx", "tensorrt"), "tfserving": ("savedmodel",)}
_log = logging.getLogger(__name__)
_SAMPLED = 0.1  # of served rows, where a rollout judges what is said
_HEADER = r"^[A-Za-z0-9][A-Za-z0-9-]{0,63}$"
Name = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$", description="lower case letters, digits and underscores")


class Spec(BaseModel):
    """The base of all settings: frozen, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PostgresSource(Spec):
    """A table read by an event-time window."""

    connection: str
    table: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$")
    time: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="timestamptz column the window is about")


class KafkaSource(Spec):
    """A topic read by an offset range per partition, frozen from the window by message timestamps."""

    connection: str
    topic: str
    lateness: Seconds = Field(default=600.0, description="how long after a window's end it is read")


class HdfsSource(Spec):
    """Files under a path; read whole (reference data) for each window."""

    connection: str
    path: str = Field(pattern=r"^/")


class Source(Spec):
    """One source: its contract and exactly one place where it lives."""

    contract: str
    postgres: PostgresSource | None = None
    kafka: KafkaSource | None = None
    hdfs: HdfsSource | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if sum(place is not None for place in (self.postgres, self.kafka, self.hdfs)) != 1:
            raise ValueError("a source has exactly one of postgres, kafka, hdfs Remedy: keep one of them")
        return self

    @property
    def kind(self) -> Literal["postgres", "kafka", "hdfs"]:
        """Which place this source lives in."""
        return "postgres" if self.postgres else "kafka" if self.kafka else "hdfs"


class DatasetSpec(Spec):
    """How the training table is made from validated slices."""

    sql: str = Field(description="file with one SELECT over the sources, each a table of its name")
    label: str
    event_time: str = Field(default="event_time", description="column of the SELECT by which rows are held out")
    test: str = Field(default="last 1 month", pattern=r"^last \d+ (hour|day|week|month)s?$")
    at_least: int = Field(default=1000, ge=1, description="fewer training rows are refused")

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
    launcher: Literal["local"] = "local"
    timeout: Seconds = 3600.0


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


class KafkaTopic(Spec):
    """A topic by its connection: of requests to retrain, or of labels that come later."""

    connection: str
    topic: str


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


class Stage(Spec):
    """One step of a rollout: a share of live traffic, or a mirror of it whose answers nobody gets."""

    weight: Share | None = Field(default=None, gt=0)
    mirror: Share | None = Field(default=None, gt=0, description="of live requests, also sent to the candidate")
    requests: int = Field(ge=1, description="the candidate's minimum requests in this stage")
    at_least: Seconds = Field(default=5.0, description="the stage's minimum time")
    at_most: Seconds | None = Field(default=None, description="its maximum time; default: what the deadline leaves")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.weight is None) == (self.mirror is None):
            raise ValueError("a stage has exactly one of weight, mirror Remedy: keep one of them")
        if self.at_most is not None and self.at_most < self.at_least:
            raise ValueError(
                f"at_most {self.at_most:g} s is less than at_least {self.at_least:g} s Remedy: raise at_most"
            )
        return self

    @property
    def percent(self) -> int:
        """The candidate's share of live traffic in whole percent; 0 while it is mirrored."""
        return round(100 * self.weight) if self.weight is not None else 0

    @property
    def mirror_percent(self) -> int:
        """The share of live requests that the candidate gets a copy of, in whole percent."""
        return round(100 * self.mirror) if self.mirror is not None else 0

    @property
    def name(self) -> str:
        """The stage's name in tasks and logs: 10, or mirror_100."""
        return str(self.percent) if self.weight is not None else f"mirror_{self.mirror_percent}"

    @property
    def share(self) -> float:
        """The share of live requests that reach the candidate, mirrored or not."""
        return self.weight if self.weight is not None else self.mirror or 0.0


class Limits(Spec):
    """Guardrails: what a candidate may never pass, whatever the champion does."""

    errors: Share = 0.01
    p99: Seconds = 0.1


class VersusChampion(Spec):
    """How many times worse than the champion, on the same seconds, a candidate may be: the margin of its alarms."""

    errors: Factor = 1.5
    p99: Factor = 1.25


class NonInferior(Spec):
    """What must be shown, not merely not refuted, before a candidate gets all traffic: it is hardly worse."""

    errors: Share = Field(default=0.01, description="failed answers may be this much above the champion's share")
    slow: Share = Field(default=0.05, description="likewise the answers slower than nine in ten of the champion's")
    confidence: Share = Field(default=0.95, ge=0.5, lt=1)


class PredictionsLimit(Spec):
    """How far the distribution of the candidate's predictions may be from that of the champion's."""

    differ: Share = Field(default=0.1, gt=0, lt=1, description="largest distance of the two distribution functions")
    at_least: int = Field(default=200, ge=1, description="sampled predictions of each before a stage passes")


class DisagreementLimit(Spec):
    """How often both versions may answer the same input otherwise; wants a mirror stage."""

    above: float = Field(default=0.1, gt=0, lt=1, description="predictions further apart than this disagree")
    at_most: Share = Field(default=0.05, gt=0, lt=1, description="share of the inputs that both versions have answered")
    at_least: int = Field(default=200, ge=1, description="such inputs before a mirror stage passes")


class LabelsLimit(Spec):
    """How much more often the candidate may be wrong, by labels that come later; no stage waits for them."""

    kafka: KafkaTopic = Field(description='messages {"id": <the request\'s id>, "label": 0 or 1}')
    worse: Share = Field(
        default=0.02, gt=0, lt=1, description="wrong answers may be this much above the champion's share"
    )


class QualitySpec(Spec):
    """What is compared beside errors and latency, out of the sample that servers keep of what they answered."""

    predictions: PredictionsLimit | None = None
    disagreement: DisagreementLimit | None = None
    labels: LabelsLimit | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.predictions is None and self.disagreement is None and self.labels is None:
            raise ValueError("quality names no signal Remedy: add predictions, disagreement or labels, or leave it out")
        return self


class RolloutSpec(Spec):
    """The stages of a rollout, what stops it, and what it must show."""

    stages: list[Stage] = Field(
        default_factory=lambda: [
            Stage(weight=0.1, requests=2000, at_least=60),
            Stage(weight=0.5, requests=5000, at_least=60),
            Stage(weight=1.0, requests=5000, at_least=60),
        ],
        min_length=1,
    )
    limits: Limits = Limits()
    versus_champion: VersusChampion = VersusChampion()
    non_inferior: NonInferior = NonInferior()
    false_alarms: Share = Field(
        default=0.01, gt=0, le=0.2, description="chance that an equally good candidate is aborted in a whole rollout"
    )
    bake: Seconds = Field(default=600.0, description="how long it holds 100% before the champion's server goes")
    deadline: Seconds = Field(default=3600.0, description="of the whole rollout, before its bake; then rolled back")
    no_data: Seconds = Field(default=120.0, description="without figures for so long, it is rolled back")
    traffic: Rate | None = Field(default=None, description="expected live requests; lets `check` do the sums")
    lease: Seconds = Field(default=15.0, gt=0, description="expiry of the right to move traffic; renewed while watched")
    quality: QualitySpec | None = Field(default=None, description="signals of what the candidate says; default: none")

    @model_validator(mode="after")
    def _rises_to_all(self) -> Self:
        weights = [stage.percent for stage in self.stages]
        weighted = [weight for weight in weights if weight]
        if weights != sorted(weights) or weighted != sorted(set(weighted)) or weights[-1] != 100:
            shown = ", ".join(f"{weight}%" for weight in weights)
            raise ValueError(
                f"the stages' weights {shown} must rise and end at 100%, mirrors first "
                "Remedy: order them, as in mirror, 10%, 50%, 100%"
            )
        return self

    @model_validator(mode="after")
    def _in_time(self) -> Self:
        least = sum(stage.at_least for stage in self.stages)
        if least > self.deadline:
            raise ValueError(
                f"the stages take {least:g} s at least, the deadline is {self.deadline:g} s Remedy: raise the deadline"
            )
        for stage in self.stages if self.traffic else ():
            time = min(stage.at_most or self.deadline, self.deadline)
            seconds = stage.requests / (stage.share * (self.traffic or 1.0))
            if seconds > time:
                raise ValueError(
                    f"stage {stage.name} asks for {stage.requests} requests; at {self.traffic:g}/s they take "
                    f"{seconds:.0f} s, its time is {time:g} s Remedy: ask for fewer, or give it more time"
                )
        return self

    @model_validator(mode="after")
    def _pairs_come(self) -> Self:
        mirrored = any(stage.mirror is not None for stage in self.stages)
        if self.quality is not None and self.quality.disagreement is not None and not mirrored:
            raise ValueError(
                "quality.disagreement needs inputs that both versions answer, and without a mirror they come only by "
                "chance Remedy: begin with a stage such as {mirror: 100%, requests: 2000}, or leave disagreement out"
            )
        return self


class RetrainSpec(Spec):
    """What asks for a new model."""

    kafka: KafkaTopic | None = None


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
    def _schedulable(self) -> Self:
        cron_of(self.window)
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
            _samples_come(stage, self.rollout, quality, (self.rollout.traffic or 0.0) * sample)
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


def _samples_come(stage: Stage, rollout: RolloutSpec, quality: QualitySpec, kept_each_second: float) -> None:
    """Refuse a stage in whose time the samples that it waits for cannot come.

    Raises:
        ValueError: says which, how long they take and what to do.
    """
    time = min(stage.at_most or rollout.deadline, rollout.deadline)
    wanted = []
    if quality.predictions is not None and stage.percent < 100:
        rarer = stage.share if stage.mirror is not None else min(stage.share, 1.0 - stage.share)
        wanted.append(("predictions", quality.predictions.at_least, rarer))
    if quality.disagreement is not None and stage.mirror is not None:
        wanted.append(("pairs", quality.disagreement.at_least, stage.share))
    for what, least, share in wanted:
        seconds = least / (share * kept_each_second)
        if seconds > time:
            raise ValueError(
                f"stage {stage.name} waits for {least} sampled {what}; at {kept_each_second:g}/s sampled they take "
                f"{seconds:.0f} s, its time is {time:g} s Remedy: ask for fewer, raise serve.sample, or give more time"
            )


def project_root() -> Path:
    """Return the folder that holds `schemas/`, `dags/` and `examples/` (TIDEGATE_ROOT; default: beside the package)."""
    return Path(os.environ.get("TIDEGATE_ROOT", Path(__file__).resolve().parent.parent))


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
