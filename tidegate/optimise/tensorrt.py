"""SavedModel -> ONNX -> TensorRT engine, for NVIDIA GPUs.

TensorRT 11 is strongly typed only: precision comes from the ONNX graph, so there is no FP16 switch here. An engine runs
on the kind of GPU it was built on. This branch has not been run on a GPU yet: without one it raises NeedsGpu.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tidegate.errors import NeedsGpu, Permanent
from tidegate.optimise.onnx import OnnxTarget
from tidegate.saved_model import OUTPUT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from tidegate.contract.encodings import Encodings
    from tidegate.handoff import Feature
    from tidegate.recorded import RecordedAnswers
    from tidegate.saved_model import Predict

_BATCHES = (1, 64, 4096)  # rows: the least, the one to tune for, the most that an engine takes
_INSTEAD = "set optimise.target to onnx in the delivery, which needs no GPU"


class TensorRtTarget:
    """A serialised TensorRT engine."""

    file = "model.plan"
    takes_raw = False

    def check(self) -> None:
        """See that the packages `tensorrt` and `cuda-python` and a CUDA device are there."""
        trt, cuda = _packages()
        error, count = cuda.cudaGetDeviceCount()
        if int(error) != 0 or count < 1:
            raise NeedsGpu(f"target tensorrt {trt.__version__} found no CUDA device (error {int(error)}); {_INSTEAD}")

    def convert(self, saved_model: Path, features: Sequence[Feature], encodings: Encodings, to: Path) -> None:
        """Convert to ONNX first, then build the engine for batches of 1 to 4096 rows."""
        trt, _ = _packages()
        between = to.with_suffix(".onnx")
        OnnxTarget().convert(saved_model, features, encodings, between)
        logger = trt.Logger(trt.Logger.WARNING)
        builder = trt.Builder(logger)
        typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # a flag in 10, the rule in 11
        network = builder.create_network(0 if typed is None else 1 << int(typed))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(between.read_bytes()):
            said = "; ".join(str(parser.get_error(number)) for number in range(parser.num_errors))
            raise Permanent(f"TensorRT cannot read the ONNX graph: {said}; {_INSTEAD}")
        config, profile = builder.create_builder_config(), builder.create_optimization_profile()
        for feature in features:
            profile.set_shape(feature.name, *((rows, 1) for rows in _BATCHES))
        config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise Permanent(f"TensorRT {trt.__version__} could not build an engine; its log says why; {_INSTEAD}")
        to.write_bytes(bytes(plan))
        between.unlink()

    def load(self, path: Path) -> Predict:
        """Open the engine on the first CUDA device."""
        trt, cuda = _packages()
        engine = trt.Runtime(trt.Logger(trt.Logger.WARNING)).deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise Permanent(f"{path} is no engine for this GPU and TensorRT {trt.__version__}; optimise it again here")
        context = engine.create_execution_context()

        def predict(columns: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
            rows = len(next(iter(columns.values())))
            parts = []
            for start in range(0, rows, _BATCHES[-1]):
                chunk = {name: column[start : start + _BATCHES[-1]] for name, column in columns.items()}
                parts.append(_run(cuda, context, chunk))
            return np.concatenate(parts)

        return predict

    def complete(self, path: Path, features: Sequence[Feature], recorded: RecordedAnswers, model: str) -> None:
        """Add nothing."""


def _run(cuda: Any, context: Any, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Predict one batch: columns to the device, the engine, the answer back. All memory is given back."""
    result = np.empty((len(next(iter(columns.values()))), 1), np.float32)
    kind = cuda.cudaMemcpyKind
    held: list[int] = []
    try:
        for name, column in columns.items():
            data = np.ascontiguousarray(column)
            held.append(_done(cuda.cudaMalloc(data.nbytes)))
            _done(cuda.cudaMemcpy(held[-1], data.ctypes.data, data.nbytes, kind.cudaMemcpyHostToDevice))
            context.set_input_shape(name, data.shape)
            context.set_tensor_address(name, int(held[-1]))
        held.append(_done(cuda.cudaMalloc(result.nbytes)))
        context.set_tensor_address(OUTPUT, int(held[-1]))
        if not context.execute_async_v3(0):
            raise Permanent("TensorRT refused to run the engine; its log says why")
        _done(cuda.cudaDeviceSynchronize())
        _done(cuda.cudaMemcpy(result.ctypes.data, held[-1], result.nbytes, kind.cudaMemcpyDeviceToHost))
    finally:
        for address in held:
            cuda.cudaFree(address)
    return result.reshape(-1)


def _done(answer: tuple[Any, ...]) -> Any:
    error, *values = answer
    if int(error) != 0:
        raise Permanent(f"CUDA answered {error}; see nvidia-smi, or {_INSTEAD}")
    return values[0] if values else None


def _packages() -> tuple[Any, Any]:
    found = []
    for module, package in (("tensorrt", "tensorrt"), ("cuda.bindings.runtime", "cuda-python")):
        try:
            found.append(importlib.import_module(module))
        except ImportError as error:
            raise NeedsGpu(
                f"target tensorrt needs the Python package {package} and an NVIDIA GPU; {package} cannot be imported "
                f"here ({error}); install it on a machine with a GPU, or {_INSTEAD}"
            ) from error
    return found[0], found[1]
