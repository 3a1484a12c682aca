"""What an evaluation is asked to do, and the report that it publishes."""

from __future__ import annotations

from pydantic import Field

from tidegate.delivery import EvaluateSpec
from tidegate.evaluate.figures import Figures
from tidegate.handoff import Bundle, Dataset, Handoff, Trained


class EvaluateTask(Handoff):
    """A trained model, its held-out rows, and the champion of the moment."""

    trained: Trained
    dataset: Dataset
    event_time: str = Field(description="column of the held-out rows by which they were held out")
    champion: Bundle | None = None
    reason: str | None = Field(default=None, description="why there is no champion; None: there is one")
    evaluate: EvaluateSpec
    lake: str = Field(description="fsspec URL of the lake")
    tracking: str | None = Field(default=None, description="MLflow address")


class Evaluation(Handoff):
    """evaluation.json: every figure, and of what."""

    delivery: str
    request_id: str
    dataset: str
    dataset_digest: str
    model: str
    model_digest: str
    champion: str | None = None
    champion_digest: str | None = None
    reason: str | None = Field(default=None, description="why there is no comparison with a champion")
    notes: list[str] = Field(default_factory=list, description="what a reader of the comparison must know")
    settings: EvaluateSpec
    figures: Figures
