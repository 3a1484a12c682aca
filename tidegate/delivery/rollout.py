"""The `rollout:` section: stages, what stops them, what must be shown, what is compared beside errors and latency."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from tidegate.delivery.spec import KafkaTopic, Spec
from tidegate.units import Factor, Rate, Seconds, Share


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


def samples_come(stage: Stage, rollout: RolloutSpec, quality: QualitySpec, kept_each_second: float) -> None:
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
