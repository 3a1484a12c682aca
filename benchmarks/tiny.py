"""A tiny real model in a bundle: what Triton serves where nothing is to be trained first."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from tidegate import keys
from tidegate.bundle import SERVING_LOCK
from tidegate.contract.encodings import Encodings, FeatureEncoding
from tidegate.delivery import project_root
from tidegate.handoff import Bundle, Dataset, Feature, Request, Window
from tidegate.recorded import PROBE, RecordedAnswers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidegate.lake import Lake

DELIVERY = "tiny"
# sigmoid(Gather([-1, 0, 1], carrier) + 0.5 * distance), made with onnx.helper at opset 17, IR 9: its table has no row
# for the out-of-vocabulary index 3, so that ONNX Runtime refuses a carrier that it has never seen.
TINY = base64.b64decode(
    "CAk66wEKJAoBdwoHY2FycmllchIBYSIGR2F0aGVyKgsKBGF4aXMYAKABAgoVCghkaXN0YW5jZQoBaxIBYiIDTXVsCg4KAWEKAWISAWMi"
    "A0FkZAoZCgFjEgtwcm9iYWJpbGl0eSIHU2lnbW9pZBIEdGlueSoVCAMQAUIBd0oMAACAvwAAAAAAAIA/KgsQAUIBa0oEAAAAP1oaCgdj"
    "YXJyaWVyEg8KDQgHEgkKAxIBbgoCCAFaGwoIZGlzdGFuY2USDwoNCAESCQoDEgFuCgIIAWIeCgtwcm9iYWJpbGl0eRIPCg0IARIJCgMS"
    "AW4KAggBQgQKABAR"
)
FEATURES = [
    Feature(name="carrier", encoding="vocabulary", dtype="BYTES", size=3),
    Feature(name="distance", encoding="standardise", dtype="FP32", size=1),
]
ENCODINGS = Encodings(
    (
        FeatureEncoding("carrier", "vocabulary", "BYTES", vocabulary=("AA", "B6", "UA")),
        FeatureEncoding("distance", "standardise", "FP32", mean=100.0, std=10.0),
    )
)
RECORDED = RecordedAnswers(
    rows=(0, 7, 9),
    columns={"carrier": ("B6", "UA", "AA"), "distance": (100.0, 120.0, None)},
    probabilities=(0.5, 0.880797, 0.268941),
    tolerance=1e-5,
)
"""What the trained model answers to three rows."""
LOCK = (project_root() / "docker" / "serve" / "requirements.txt").read_text()
_FILES = {"model": "model.onnx", "encodings": "encodings.json", "probe": PROBE, "lock": SERVING_LOCK}
_WINDOW = Window(start="2013-01-01", end="2013-02-01")


def publish(
    lake: Lake, version: int, carriers: Sequence[str], delivery: str = DELIVERY, **changes: bytes | str
) -> Bundle:
    """Publish a bundle whose held-out rows fly with these carriers; `changes` replace its files, by stem."""
    dataset = _dataset(lake, carriers, delivery)
    key = keys.bundle(delivery, version)
    files = {"model": TINY, "encodings": ENCODINGS.to_json(), "probe": RECORDED.to_json(), "lock": LOCK, **changes}
    with lake.publish(key) as draft:
        for stem, name in _FILES.items():
            content = files[stem]
            draft.file(name).write_bytes(content.encode() if isinstance(content, str) else content)
    return Bundle(
        delivery=delivery, version=version, key=key, target="onnx", dataset=dataset, metrics={},
        request=Request(request_id=f"r{version}", delivery=delivery, window=_WINDOW),
        digest=lake.require(key)["digest"],
    )  # fmt: skip


def _dataset(lake: Lake, carriers: Sequence[str], delivery: str) -> Dataset:
    key = keys.dataset(delivery, _WINDOW)
    late = [int(carrier == "UA") for carrier in carriers]
    table = pa.table({"carrier": list(carriers), "distance": [100.0] * len(carriers), "late": late})
    with lake.publish(key) as draft:
        pq.write_table(table, draft.file("test.parquet"))
    return Dataset(
        delivery=delivery, window=_WINDOW, key=key, train_rows=0, test_rows=len(carriers), label="late",
        features=FEATURES, digest=lake.require(key)["digest"], slices={},
    )  # fmt: skip
