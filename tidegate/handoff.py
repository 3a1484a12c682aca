"""What one stage hands to the next: frozen, small, JSON; references to published manifests, never the data itself."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tidegate.units import utc

if TYPE_CHECKING:
    from collections.abc import Mapping

Target = Literal["onnx", "tensorrt", "savedmodel"]
"""What the optimise stage makes of a trained model."""


class Handoff(BaseModel):
    """The base of every handoff: frozen, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> str:
        """Return the handoff as JSON text."""
        return self.model_dump_json()


class Window(Handoff):
    """The half-open interval [start, end) of event time, in UTC."""

    start: datetime
    end: datetime

    @field_validator("start", "end", mode="before")
    @classmethod
    def _utc(cls, value: Any) -> Any:
        if isinstance(value, datetime):
            return utc(value.isoformat())
        if isinstance(value, str):
            return utc(value)
        raise ValueError(f"an instant is written as an ISO 8601 text, not as {value!r}")

    @property
    def id(self) -> str:
        """A name for files and tables: 20130101T000000Z-20130201T000000Z."""
        return f"{self.start:%Y%m%dT%H%M%SZ}-{self.end:%Y%m%dT%H%M%SZ}"

    def __str__(self) -> str:
        return f"[{self.start:%Y-%m-%d %H:%M}, {self.end:%Y-%m-%d %H:%M}) UTC"


class Slice(Handoff):
    """One source's rows of one window, as published in the lake by the ingest stage: raw, not yet validated."""

    delivery: str
    source: str
    contract: str
    window: Window
    key: str = Field(description="the lake key of the published manifest")
    rows: int
    digest: str = Field(description="SHA-256 over the slice's files")
    position: dict[str, Any] = Field(description="where it was read: snapshot, offsets per partition, files")

    @classmethod
    def of_manifest(cls, manifest: Mapping[str, Any]) -> Slice:
        """Return the slice that a manifest in the lake describes."""
        return cls.model_validate({name: manifest[name] for name in cls.model_fields})


class Part(Handoff):
    """One part of a large slice, to be read by a process of its own."""

    plan: str = Field(description="digest of the plan in the lake that says what the part is")
    number: int = Field(ge=0, description="from 0, in the order of the slice's rows")
    of: int = Field(ge=1, description="how many parts there are")


class Example(Handoff):
    """One row that stands for others: where it stood at the source, and the value in question, shortened."""

    position: str
    value: str


class ValidatedSlice(Handoff):
    """A slice after the contract: clean rows and quarantined rows, each with its reason."""

    slice: Slice
    key: str = Field(description="the lake key; files clean.parquet and quarantine.parquet")
    clean: int
    quarantined: int
    reasons: dict[str, int] = Field(description="reason -> number of rows that have it as their first reason")
    digest: str
    examples: dict[str, Example] = Field(default_factory=dict, description="reason -> the first of its rows")


class Feature(Handoff):
    """One input of the model: its name and how its raw value becomes a number."""

    name: str
    encoding: Literal["vocabulary", "standardise"]
    dtype: Literal["BYTES", "INT64", "FP32"] = Field(description="raw type on the wire, as in the KServe v2 protocol")
    size: int = Field(description="vocabulary: number of known categories (index `size` is out-of-vocabulary); else 1")


class Dataset(Handoff):
    """The training table of one delivery and window: train.parquet, test.parquet, encodings.json, statistics.json."""

    delivery: str
    window: Window
    key: str
    train_rows: int
    test_rows: int
    label: str
    features: list[Feature]
    digest: str
    slices: dict[str, str] = Field(description="source/window id -> digest of the validated slice")


class Request(Handoff):
    """One ask to retrain; the same request_id is trained once."""

    request_id: str = Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9._-]+$")
    delivery: str
    window: Window
    model: str | None = Field(default=None, description="an alternative that the delivery declares; default: its model")
    reason: str = Field(default="", max_length=500)
    source: Literal["kafka", "schedule", "drift", "person"] = "person"


class TrainTask(Handoff):
    """What a gang is asked to do; every member gets the same file."""

    request: Request
    dataset: Dataset
    lake: str = Field(description="fsspec URL of the lake")
    model_file: str = Field(description="path of the user's Python file, as from the project's root")
    model_function: str
    workers: int
    epochs: int
    batch: int = Field(description="global batch, rows")
    learning_rate: float
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    seed: int = 0
    accumulate: int = Field(default=1, ge=1, description="parts into which a worker cuts its rows of a step")
    scale: Literal["none", "sqrt", "linear"] = Field(default="none", description="how learning_rate grows with batch")
    base_batch: int = Field(default=256, ge=1, description="rows of the batch that learning_rate is for, where scaled")
    warmup: float = Field(default=0.0, ge=0, le=1, description="share of all steps until the learning rate is whole")
    bucket: int = Field(default=0, ge=0, description="bytes of gradients in one all-reduce; 0: all of them")
    checkpoint_seconds: float | None = Field(default=300.0, gt=0, description="time between checkpoints in an epoch")
    checkpoint_steps: int | None = Field(default=None, ge=1, description="or steps between them")
    memory: int = Field(default=10**9, ge=0, description="bytes of training rows held in memory; more are streamed")
    profile: tuple[int, int] | None = Field(default=None, description="steps [first, last) whose trace is kept")
    work: str = Field(description="URL of a folder for checkpoints and summaries, kept over restarts")
    tracking: str | None = Field(default=None, description="MLflow address")
    lock: str = Field(description="path of the dependency lock the members run on, as from the project's root")


class Trained(Handoff):
    """What a gang gives back: the SavedModel published in the lake and its held-out metrics."""

    request_id: str
    key: str = Field(description="lake key; folder saved_model/ and files of the run")
    run_id: str | None = None
    workers: int
    steps: int
    seconds: float
    metrics: dict[str, float] = Field(description="auc, base_auc, log_loss, base_log_loss, ... on the held-out rows")
    digest: str


class OptimiseTask(Handoff):
    """What the optimise stage is asked to do with a trained model."""

    trained: Trained
    dataset: Dataset
    lake: str
    target: Target
    tolerance: float = Field(description="largest absolute difference of a prediction allowed against the SavedModel")


class Optimised(Handoff):
    """The optimised artefact, with its parity against the SavedModel on real rows."""

    key: str = Field(description="lake key; model.onnx, model.plan or the folder servable/, and probe.json")
    target: Target
    rows: int = Field(description="rows compared")
    max_difference: float
    seconds_saved_model: float = Field(description="time of the SavedModel for those rows, seconds")
    seconds_optimised: float
    digest: str


class Evaluated(Handoff):
    """What was seen of a trained model on its held-out rows, published as evaluation.json with plots beside it."""

    request_id: str
    key: str = Field(description="lake key; evaluation.json has all figures")
    digest: str
    champion: str | None = Field(default=None, description="flights-v3, compared on the same rows; None: see reason")
    reason: str | None = Field(default=None, description="why there is no comparison with a champion")
    notes: list[str] = Field(default_factory=list, description="what a reader of the figures must know")
    figures: dict[str, float] = Field(description="auc, auc_low, auc_high, ..., difference_auc, ... on all rows")
    better: list[str] = Field(default_factory=list, description="groups surely better than with the champion")
    worse: list[str] = Field(default_factory=list, description="groups surely worse than with the champion")
    too_few: int = Field(default=0, description="groups that have too few rows for figures")


class Bundle(Handoff):
    """All that a model version needs to serve and to be rebuilt, published as one manifest in the lake."""

    delivery: str
    version: int = Field(description="MLflow's model version")
    key: str = Field(description="lake key; its files are listed at tidegate.bundle.assemble")
    target: Target
    request: Request
    dataset: Dataset
    metrics: dict[str, float]
    digest: str

    @property
    def name(self) -> str:
        """The name of this version in traffic, servers and metrics: flights-v3."""
        return f"{self.delivery}-v{self.version}"


class Check(Handoff):
    """One limit of a gate or judge, and what was measured against it."""

    name: str
    value: float | None
    limit: float
    unit: str = ""
    better: Literal["lower", "higher"] = "lower"
    ok: bool

    def line(self) -> str:
        """Return the check as one line of a table: name, value, limit, verdict."""
        sign = "<=" if self.better == "lower" else ">="
        verdict = "ok" if self.ok else "MISSED"
        return f"{self.name:<24} {_figure(self.value):>12} {sign} {_figure(self.limit):>12} {self.unit:<4} {verdict}"


class GateReport(Handoff):
    """The gate's answer for one candidate: every limit with its measurement."""

    version: int
    passed: bool
    checks: list[Check]
    requests: int
    seconds: float
    figures: dict[str, float] = Field(default_factory=dict, description="measured without a limit: p50_ms, ...")

    def table(self) -> str:
        """Return the checks as lines of text: name, value, limit, verdict."""
        return "\n".join(check.line() for check in self.checks)


class Counts(Handoff):
    """What one version did in an interval, as measured at the proxy."""

    requests: float
    errors: float = Field(description="answers with status 5xx")
    p50_ms: float | None = None
    p99_ms: float | None = None
    sampled_at: float | None = Field(default=None, description="Unix time of the newest sample, seconds")


class Verdict(Handoff):
    """pass, hold or fail, with a sentence for people and the evidence behind it."""

    decision: Literal["pass", "hold", "fail"]
    reason: str
    checks: list[Check] = Field(default_factory=list)
    candidate: Counts | None = None
    champion: Counts | None = None
    figures: dict[str, float] = Field(default_factory=dict, description="of the judge's tests: log_evidence, ...")


def _figure(value: float | None) -> str:
    return "no data" if value is None else f"{value:.5g}"
