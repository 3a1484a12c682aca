"""How a raw value becomes a number: frozen with the dataset, then applied alike in training and in serving.

Needs only numpy and the standard library, because the serving process imports it too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_FORMAT = 1


@dataclass(frozen=True)
class FeatureEncoding:
    """The frozen encoding of one feature.

    A vocabulary maps each known category to its index (0 ... size-1) and everything else, missing values among it, to
    `size`. A standardised value is (x - mean) / std, with 0.0 for a missing or non-finite one.
    """

    name: str
    encoding: Literal["vocabulary", "standardise"]
    dtype: Literal["BYTES", "INT64", "FP32"]
    vocabulary: tuple[str, ...] | tuple[int, ...] = ()
    mean: float = 0.0
    std: float = 1.0

    @property
    def size(self) -> int:
        """Number of known categories; 1 for a standardised feature."""
        return len(self.vocabulary) if self.encoding == "vocabulary" else 1

    @cached_property
    def _index(self) -> dict[Any, int]:
        known: dict[Any, int] = {value: index for index, value in enumerate(self.vocabulary)}
        known.update({v.encode(): i for i, v in enumerate(self.vocabulary) if isinstance(v, str)})
        return known

    def encode(self, values: NDArray[Any]) -> NDArray[Any]:
        """Encode raw values of any shape; the shape is kept.

        Returns:
            int64 indices for a vocabulary, float32 for a standardised feature.
        """
        if self.encoding == "standardise":
            return self._standardise(values)
        index, unknown = self._index, self.size
        flat = values.reshape(-1).tolist()
        found = np.fromiter((index.get(value, unknown) for value in flat), np.int64, count=len(flat))
        return found.reshape(values.shape)

    def _standardise(self, values: NDArray[Any]) -> NDArray[np.float32]:
        numbers = np.asarray(values, dtype=np.float64)  # None becomes NaN
        scaled = (numbers - self.mean) / self.std
        return np.where(np.isfinite(numbers), scaled, 0.0).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Return the encoding as plain JSON values."""
        head: dict[str, Any] = {"name": self.name, "encoding": self.encoding, "dtype": self.dtype, "size": self.size}
        if self.encoding == "vocabulary":
            return {**head, "vocabulary": list(self.vocabulary)}
        return {**head, "mean": self.mean, "std": self.std}


@dataclass(frozen=True)
class Encodings:
    """The encodings of all features of one dataset, in the order of the model's inputs."""

    features: tuple[FeatureEncoding, ...]

    @classmethod
    def from_json(cls, text: str | bytes) -> Encodings:
        """Read what `to_json` wrote.

        Raises:
            ValueError: the text is of another format.
        """
        found = json.loads(text)
        if found.get("format") != _FORMAT:
            raise ValueError(f"encodings format {found.get('format')!r}, expected {_FORMAT}; build the dataset again")
        return cls(tuple(_feature(item) for item in found["features"]))

    def to_json(self) -> str:
        """Return the encodings as JSON text; equal encodings give equal text."""
        body = {"format": _FORMAT, "features": [feature.to_dict() for feature in self.features]}
        return json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False)

    @property
    def names(self) -> list[str]:
        """The features' names, in the model's order."""
        return [feature.name for feature in self.features]

    def encode(self, columns: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Encode raw columns, each of any shape, as `FeatureEncoding.encode` does.

        Raises:
            KeyError: a feature has no column.
        """
        missing = [name for name in self.names if name not in columns]
        if missing:
            raise KeyError(f"no column for the features {', '.join(missing)}; got {', '.join(sorted(columns))}")
        return {feature.name: feature.encode(columns[feature.name]) for feature in self.features}


def vocabulary(name: str, values: Sequence[Any]) -> FeatureEncoding:
    """Freeze a vocabulary over the distinct values of a column (None is no category), sorted."""
    known = sorted({value for value in values if value is not None})
    is_text = not known or isinstance(known[0], str)
    return FeatureEncoding(name, "vocabulary", "BYTES" if is_text else "INT64", vocabulary=tuple(known))


def standardise(name: str, values: NDArray[Any]) -> FeatureEncoding:
    """Freeze mean and standard deviation over a column's finite values; a constant column keeps a deviation of 1."""
    numbers = np.asarray(values, dtype=np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if numbers.size == 0:
        return FeatureEncoding(name, "standardise", "FP32")
    std = float(numbers.std())
    return FeatureEncoding(name, "standardise", "FP32", mean=float(numbers.mean()), std=std if std > 1e-12 else 1.0)


def _feature(item: Mapping[str, Any]) -> FeatureEncoding:
    return FeatureEncoding(
        item["name"],
        item["encoding"],
        item["dtype"],
        vocabulary=tuple(item.get("vocabulary", ())),
        mean=item.get("mean", 0.0),
        std=item.get("std", 1.0),
    )
