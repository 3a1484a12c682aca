"""TensorFlow Serving's ModelService over gRPC: what is loaded, and what shall be.

The messages are made from the definitions of the package `tensorflow-serving-api` (tfserving_api.json), without the
TensorFlow that its own modules import.
https://github.com/tensorflow/serving/blob/master/tensorflow_serving/apis/model_service.proto
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory, text_format

from tidegate.errors import Conflict, DataError, TidegateError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

DEFINITIONS = Path(__file__).with_name("tfserving_api.json")
AVAILABLE, END = "AVAILABLE", "END"
_PACKAGE = "tensorflow.serving"
_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
_CHANNEL = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),  # a restarted server is found at once
)


@dataclass(frozen=True)
class ModelConfig:
    """What a server shall have of one model."""

    name: str
    base_path: str
    """The folder of its versions' folders, as the server sees it."""
    versions: tuple[int, ...]
    """Just these, by the version policy `specific`."""
    labels: Mapping[str, int] = field(default_factory=dict)
    """Version by label; a server refuses a label on a version that is not available."""


@dataclass(frozen=True)
class VersionStatus:
    """What a server says of one version."""

    state: str
    """START, LOADING, AVAILABLE, UNLOADING or END."""
    error: str = ""
    """Why it is not loaded; empty if nothing went wrong."""


class ModelService:
    """A client of one server.

    Args:
        address: host:port of its gRPC port.
        timeout_s: for an answer about the status.
    """

    def __init__(self, address: str, timeout_s: float = 2.0):
        self.address = address
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(address, options=_CHANNEL)
        self._status = self._method("GetModelStatus")
        self._reload = self._method("HandleReloadConfigRequest")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def status(self, model: str) -> dict[int, VersionStatus]:
        """Return the state of each version of a model that the server knows of; empty for an unknown model.

        Raises:
            Unavailable: the server does not answer.
            DataError: it refuses to say.
        """
        request = message("GetModelStatusRequest")()
        request.model_spec.name = model
        try:
            answer = self._status(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return {}
            raise self._failure("GetModelStatus", error, self._timeout_s) from error
        states = message("ModelVersionStatus").DESCRIPTOR.enum_types_by_name["State"].values_by_number
        return {
            int(found.version): VersionStatus(states[found.state].name, str(found.status.error_message))
            for found in answer.model_version_status
        }

    def reload(self, models: Sequence[ModelConfig], timeout_s: float) -> None:
        """Replace the server's whole configuration; an OK means that it was taken, not that anything is loaded.

        Raises:
            ValueError: no model is given: an emptied server is in no state to load another.
            Unavailable: the server does not answer in time.
            Conflict: it is in no state for that: a label is for a version that is not available.
            DataError: it refuses.
        """
        request = message("ReloadConfigRequest")()
        request.config.CopyFrom(server_config(models))
        try:
            answer = self._reload(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise self._failure("HandleReloadConfigRequest", error, timeout_s) from error
        if answer.status.error_code:
            raise self._refusal("HandleReloadConfigRequest", answer.status.error_message)

    def _method(self, name: str) -> Any:
        method = _pool().FindServiceByName(f"{_PACKAGE}.ModelService").methods_by_name[name]
        return self._channel.unary_unary(
            f"/{_PACKAGE}.ModelService/{name}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )

    def _failure(self, method: str, error: Any, timeout_s: float) -> TidegateError:
        if error.code() in _AWAY:
            return Unavailable(
                f"TensorFlow Serving at {self.address} did not answer {method} within {timeout_s:.3g} s "
                f"({error.code().name}: {error.details()}); see that it runs and its log, then try again"
            )
        if error.code() == grpc.StatusCode.FAILED_PRECONDITION:
            return Conflict(
                f"TensorFlow Serving at {self.address} is in no state for {method}: {error.details()}; it may have "
                "been started again meanwhile: try again"
            )
        return self._refusal(method, f"{error.code().name}: {error.details()}")

    def _refusal(self, method: str, said: str) -> DataError:
        return DataError(f"TensorFlow Serving at {self.address} refused {method}: {said}; see its log, then try again")


def server_config(models: Sequence[ModelConfig]) -> Any:
    """Return the ModelServerConfig of these models.

    Raises:
        ValueError: none is given.
    """
    if not models:
        raise ValueError("a configuration names at least one model")
    made = message("ModelServerConfig")()
    for model in models:
        entry = made.model_config_list.config.add(
            name=model.name, base_path=model.base_path, model_platform="tensorflow"
        )
        entry.model_version_policy.specific.versions.extend(model.versions)
        entry.version_labels.update(model.labels)
    return made


def config_text(models: Sequence[ModelConfig]) -> str:
    """Return the same as the text of a `--model_config_file`."""
    return str(text_format.MessageToString(server_config(models)))


def parse_config(text: str) -> list[ModelConfig]:
    """Read what `config_text` wrote.

    Raises:
        ValueError: it is no such text.
    """
    try:
        found = text_format.Parse(text, message("ModelServerConfig")(), descriptor_pool=_pool())
    except text_format.ParseError as error:
        raise ValueError(str(error)) from error
    return [
        ModelConfig(
            entry.name,
            entry.base_path,
            tuple(entry.model_version_policy.specific.versions),
            dict(entry.version_labels),
        )
        for entry in found.model_config_list.config
    ]


def message(name: str) -> Any:
    """Return the class of a message of TensorFlow Serving's API, by its name without the package."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{_PACKAGE}.{name}"))


@cache
def _pool() -> Any:
    """A pool of its own: in a process that has TensorFlow, the default one knows these files already."""
    pool = descriptor_pool.DescriptorPool()
    files = json_format.ParseDict(json.loads(DEFINITIONS.read_text("utf-8")), descriptor_pb2.FileDescriptorSet())
    for file in files.file:
        pool.Add(file)
    return pool
