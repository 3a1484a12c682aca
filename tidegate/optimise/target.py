"""What an optimised artefact is: how it is made from a SavedModel, and how it predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tidegate.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tidegate.contract.encodings import Encodings
    from tidegate.handoff import Feature
    from tidegate.recorded import RecordedAnswers
    from tidegate.saved_model import Predict


class Target(Protocol):
    """One kind of artefact. Its inputs are the features, [n, 1] each; its output is `probability` [n, 1]."""

    file: str
    """Its name, of a file or a folder."""
    takes_raw: bool
    """Whether its inputs are raw values, as `tidegate.wire` says; else they are encoded."""

    def check(self) -> None:
        """Refuse at once where this machine cannot make the artefact.

        Raises:
            NeedsGpu: what is missing, and what to use instead.
        """
        ...

    def convert(self, saved_model: Path, features: Sequence[Feature], encodings: Encodings, to: Path) -> None:
        """Write the artefact of a SavedModel to `to`, which is not there yet.

        Raises:
            Permanent: the model has something in it that the target cannot express.
        """
        ...

    def load(self, path: Path) -> Predict:
        """Return the artefact's prediction: columns [n, 1] by feature name in, probabilities [n] out."""
        ...

    def complete(self, path: Path, features: Sequence[Feature], recorded: RecordedAnswers, model: str) -> None:
        """Add to an artefact that predicts as it should what a server of `model` will want beside it, if anything."""
        ...


def target(kind: str) -> Target:
    """Return the target of this kind.

    Raises:
        SpecError: there is no such target.
    """
    from tidegate.optimise.onnx import OnnxTarget
    from tidegate.optimise.savedmodel import SavedModelTarget
    from tidegate.optimise.tensorrt import TensorRtTarget

    known: dict[str, type[Target]] = {"onnx": OnnxTarget, "tensorrt": TensorRtTarget, "savedmodel": SavedModelTarget}
    if kind not in known:
        raise SpecError(f"target {kind!r} is unknown; known: {', '.join(known)}; mend optimise.target in the delivery")
    return known[kind]()
