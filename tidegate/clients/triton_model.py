"""What Triton's Python backend runs for a version: raw columns in, one probability per row out.

It lives inside Triton's Python process, in the serving environment: numpy, ONNX Runtime and the contract's encodings.
The request carries raw values, one KServe v2 tensor [n, 1] per feature, missing ones as `tidegate.wire` says: the
encodings turn these into 0 and into the out-of-vocabulary index. A sample of what it answers is kept
(`tidegate.served`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb

from tidegate.contract.encodings import Encodings
from tidegate.served import Sampler, read_share


class TritonPythonModel:
    """One instance of a version; Triton makes it, and calls it with one request at a time."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load encodings.json and model.onnx from the version's folder and run a row of zeros through the graph.

        Raises:
            ValueError: the graph wants an input that is no feature.
        """
        folder = Path(args["model_repository"]) / args["model_version"]
        self._encodings = Encodings.from_json((folder / "encodings.json").read_bytes())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # one row at a time: more threads only wait for each other
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = {tensor.name: len(tensor.shape) for tensor in self._session.get_inputs()}
        unknown = sorted(set(self._inputs) - set(self._encodings.names))
        if unknown:
            have = ", ".join(self._encodings.names)
            raise ValueError(
                f"model.onnx wants the inputs {', '.join(unknown)}, which are no features; those are {have}"
            )
        zeros = {
            feature.name: np.zeros((1, 1), np.int64 if feature.encoding == "vocabulary" else np.float32)
            for feature in self._encodings.features
        }
        self._run(zeros)
        home = folder.parents[2]  # the version's folder: its bundle's files are held to their digests, so not there
        share = read_share(home)
        self._sampler = Sampler(home, args["model_instance_name"], share) if share > 0 else None

    def finalize(self) -> None:
        """Write down what of the sample waits for the disk."""
        if self._sampler is not None:
            self._sampler.close()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request by itself: one that fails gets status 500, and its neighbours their answers."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            columns = {
                name: pb.get_input_tensor_by_name(request, name).as_numpy().reshape(-1, 1)
                for name in self._encodings.names
            }
            probability = self._run(self._encodings.encode(columns))
        except Exception as error:  # the server's edge: whatever the graph raises is this request's answer
            # INTERNAL becomes status 500, which the proxy counts; TritonError's own default becomes a 400
            return pb.InferenceResponse(
                error=pb.TritonError(f"{type(error).__name__}: {error}", pb.TritonError.INTERNAL)
            )
        if self._sampler is not None:
            self._sampler.see(request.request_id(), columns, probability)
        return pb.InferenceResponse([pb.Tensor("probability", probability)])

    def _run(self, encoded: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        rows = len(next(iter(encoded.values())))
        feed = {name: encoded[name].reshape((rows,) if rank == 1 else (rows, 1)) for name, rank in self._inputs.items()}
        output = np.asarray(self._session.run(None, feed)[0], dtype=np.float32)
        return output.reshape(rows, 1)
