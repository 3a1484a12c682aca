"""What an optimised artefact is: how it is made from a SavedModel, and how it predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from tidegate.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tidegate.handoff import Feature

    Predict = Callable[[Mapping[str, NDArray[Any]]], NDArray[Any]]

OUTPUT = "probability"


class Target(Protocol):
    """One kind of artefact. Its inputs are the features, encoded, [n, 1] each; its output is `probability` [n, 1]."""

    file: str

    def check(self) -> None:
        """Refuse at once where this machine cannot make the artefact.

        Raises:
            NeedsGpu: what is missing, and what to use instead.
        """
        ...

    def convert(self, saved_model: Path, features: Sequence[Feature], to: Path) -> None:
        """Write the artefact of a SavedModel to the file `to`.

        Raises:
            Permanent: the model has something in it that the target cannot express.
        """
        ...

    def load(self, path: Path) -> Predict:
        """Return the artefact's prediction: encoded columns [n, 1] by feature name in, probabilities [n] out."""
        ...


def target(kind: str) -> Target:
    """Return the target of this kind.

    Raises:
        SpecError: there is no such target.
    """
    from tidegate.optimise.onnx import OnnxTarget
    from tidegate.optimise.tensorrt import TensorRtTarget

    known: dict[str, type[Target]] = {"onnx": OnnxTarget, "tensorrt": TensorRtTarget}
    if kind not in known:
        raise SpecError(f"target {kind!r} is unknown; known: {', '.join(known)}; mend optimise.target in the delivery")
    return known[kind]()
