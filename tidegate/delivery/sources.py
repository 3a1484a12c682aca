"""Where a delivery's sources live: one table, topic or path each, and how its windows are read."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from tidegate.delivery import paths
from tidegate.delivery.spec import Spec
from tidegate.units import Instant, Seconds


class PostgresSource(Spec):
    """A table read by windows of an event time, or of a key that only grows."""

    connection: str
    table: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$")
    time: str | None = Field(
        default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="timestamptz column the window is about"
    )
    key: str | None = Field(
        default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="instead of time: a column of whole numbers that a sequence gives; a window takes those that are "
        "new since the window before it",
    )  # fmt: skip
    since: Instant | None = Field(
        default=None, description="with key: where the first window begins, which takes the table from its beginning"
    )
    after: int | None = Field(default=None, description="with key: the first window takes keys above this only")
    patience: Seconds = Field(
        default=600.0, description="how long a window waits for transactions that could still commit rows into it"
    )
    connections: int = Field(default=2, ge=1, le=16, description="how many read a large window side by side")

    @model_validator(mode="after")
    def _by_time_or_key(self) -> Self:
        if (self.time is None) == (self.key is None):
            raise ValueError("a table is read by exactly one of time, key Remedy: keep one of them")
        if (self.key is None) != (self.since is None):
            raise ValueError(
                "key and since belong together Remedy: with a key, say where the first window begins, such as "
                "since: 2013-01-01; with a time, leave since out"
            )
        if self.key is None and self.after is not None:
            raise ValueError("after is a key Remedy: leave it out where the table is read by time")
        return self


class KafkaSource(Spec):
    """A topic read by an offset range per partition, frozen from the window by message timestamps."""

    connection: str
    topic: str
    lateness: Seconds = Field(default=600.0, description="how long after a window's end it is read")
    patience: Seconds = Field(
        default=600.0, description="how long a window waits for transactions that could still commit messages into it"
    )
    format: Literal["json", "avro", "bytes"] = Field(
        default="json", description="avro: in the wire format of a schema registry; bytes: one column has the value"
    )
    registry: str | None = Field(default=None, description="connection of the schema registry, for avro")
    tombstones: Literal["quarantine", "skip"] = Field(
        default="quarantine", description="what a message without a value is: a row put aside, or no row (counted)"
    )
    topic_id: str | None = Field(
        default=None, description="id of a topic that was made anew under its name, to begin with it"
    )

    @model_validator(mode="after")
    def _has_registry(self) -> Self:
        if (self.format == "avro") != (self.registry is not None):
            raise ValueError("format avro and registry go together Remedy: write both, or neither")
        return self


class HdfsSource(Spec):
    """Files under a path that names the window; under one that does not, reference data, read whole for each window."""

    connection: str
    path: str = Field(
        pattern=r"^/",
        description="folder, file or pattern (*, ?); {start:%Y-%m-%d} in it makes it one for each day of the window",
        examples=["/events/dt={start:%Y-%m-%d}", "/reference/planes"],
    )
    missing: Literal["fail", "skip"] = Field(
        default="fail", description="what a path of the window without a file is: not there yet, or without rows"
    )
    connections: int = Field(default=2, ge=1, le=16, description="how many files are read side by side")

    @field_validator("path")
    @classmethod
    def _is_template(cls, value: str) -> str:
        return paths.checked(value)

    @property
    def is_windowed(self) -> bool:
        """Whether the path names the window."""
        return paths.is_windowed(self.path)


class Source(Spec):
    """One source: its contract and exactly one place where it lives."""

    contract: str
    postgres: PostgresSource | None = None
    kafka: KafkaSource | None = None
    hdfs: HdfsSource | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if sum(place is not None for place in (self.postgres, self.kafka, self.hdfs)) != 1:
            raise ValueError("a source has exactly one of postgres, kafka, hdfs Remedy: keep one of them")
        return self

    @property
    def kind(self) -> Literal["postgres", "kafka", "hdfs"]:
        """Which place this source lives in."""
        return "postgres" if self.postgres else "kafka" if self.kafka else "hdfs"

    @property
    def is_windowed(self) -> bool:
        """Whether a slice holds the rows of its window alone; reference data are read whole for each."""
        return self.hdfs is None or self.hdfs.is_windowed
