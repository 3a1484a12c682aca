"""SavedModel -> ONNX by tf2onnx, run by ONNX Runtime on the processor."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tidegate.errors import Permanent
from tidegate.saved_model import OUTPUT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tidegate.contract.encodings import Encodings
    from tidegate.handoff import Feature
    from tidegate.recorded import RecordedAnswers
    from tidegate.saved_model import Predict

_OPSET = 17  # what the ONNX Runtime of the serving lock and TensorRT's parser both read
_IR_VERSION = 8  # the file format that belongs to opset 17


class OnnxTarget:
    """An ONNX graph of opset 17 with a dynamic batch."""

    file = "model.onnx"
    takes_raw = False

    def check(self) -> None:
        """Need nothing but this environment."""

    def convert(self, saved_model: Path, features: Sequence[Feature], encodings: Encodings, to: Path) -> None:
        """Convert the serving signature; every feature stays an input, also one that the model does not look at."""
        import onnx
        import tensorflow as tf
        import tf2onnx

        loaded = tf.saved_model.load(str(saved_model))
        graph = _Signature(loaded.signatures["serving_default"])
        try:
            model, _ = tf2onnx.convert.from_function(graph, input_signature=(), opset=_OPSET)
        except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
            raise Permanent(f"tf2onnx cannot convert the model: {error}; use operations that ONNX has") from error
        _name_inputs(model, features)
        _name_output(model)
        model.ir_version = _IR_VERSION
        onnx.checker.check_model(model)
        onnx.save_model(model, str(to))

    def load(self, path: Path) -> Predict:
        """Open the graph in ONNX Runtime, on the processor."""
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # its wheels report to their maker otherwise
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

        def predict(columns: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
            given: NDArray[Any] = session.run([OUTPUT], dict(columns))[0]
            return given.reshape(-1)

        return predict

    def complete(self, path: Path, features: Sequence[Feature], recorded: RecordedAnswers, model: str) -> None:
        """Add nothing."""


class _Signature:
    """A concrete function in the clothes that tf2onnx asks for."""

    def __init__(self, function: Any):
        self._function = function

    def get_concrete_function(self, *_: Any) -> Any:
        return self._function


def _name_inputs(model: Any, features: Sequence[Feature]) -> None:
    """Name the graph's inputs as the features; one that the conversion dropped as unused comes back, still unused."""
    from onnx import TensorProto, helper

    found = {value.name.partition(":")[0].removeprefix("serving_default_"): value for value in model.graph.input}
    unknown = set(found) - {feature.name for feature in features}
    if unknown:
        raise Permanent(f"the ONNX graph has inputs that are no features: {', '.join(sorted(unknown))}")
    for name, value in found.items():
        _rename(model.graph, value.name, name)
    del model.graph.input[:]
    for feature in features:
        kind = TensorProto.INT64 if feature.encoding == "vocabulary" else TensorProto.FLOAT
        model.graph.input.append(helper.make_tensor_value_info(feature.name, kind, ["batch", 1]))


def _name_output(model: Any) -> None:
    from onnx import TensorProto, helper

    if len(model.graph.output) != 1:
        raise Permanent(f"the ONNX graph has {len(model.graph.output)} outputs; one probability is asked for")
    _rename(model.graph, model.graph.output[0].name, OUTPUT)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", 1]))


def _rename(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
