"""Writes tfserving_api.json: TensorFlow Serving's ModelService as the package `tensorflow-serving-api` defines it.

    .envs/train/bin/python -m tidegate.clients.tfserving_definitions

That package imports TensorFlow for the sake of one enumeration, so only the training environment can import it.
"""

from __future__ import annotations

from typing import Any

from tidegate.clients.tfserving_api import DEFINITIONS


def definitions() -> str:
    """Return the file that defines ModelService and all that it imports, as JSON of a FileDescriptorSet."""
    from google.protobuf import descriptor_pb2, json_format
    from tensorflow_serving.apis import model_service_pb2

    found = descriptor_pb2.FileDescriptorSet()
    known: set[str] = set()

    def add(file: Any) -> None:
        if file.name in known:
            return
        known.add(file.name)
        for imported in file.dependencies:
            add(imported)
        file.CopyToProto(found.file.add())

    add(model_service_pb2.DESCRIPTOR)
    return str(json_format.MessageToJson(found, indent=1)) + "\n"


if __name__ == "__main__":
    DEFINITIONS.write_text(definitions(), encoding="utf-8")
