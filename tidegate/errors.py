"""The tree of errors: every failure is Retryable (try again later) or Permanent (a person must act)."""

from __future__ import annotations


class TidegateError(Exception):
    """The root of every error this library raises on purpose.

    A message says what went wrong, the value seen, the limit it broke and the remedy, in that order.
    """

    exit_code = 70


class Retryable(TidegateError):
    """The same call may succeed later: a service is away, a time-out passed, a lock is held."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


class Permanent(TidegateError):
    """The same call will fail again until a person changes something."""

    exit_code = 65  # EX_DATAERR of sysexits.h


class Unavailable(Retryable):
    """A service did not answer: the message names its address and the time-out."""


class NoSpace(Retryable):
    """A disk or a quota is full: the message names the path, what is needed and what is free."""


class LeaseLost(Retryable):
    """The right to move a delivery's traffic is held by someone else, or has expired."""


class Conflict(Retryable):
    """A compare-and-set found another value than the one expected: read again, then decide again."""


class SpecError(Permanent):
    """A file that a user wrote has mistakes; each names file, line, field, value and remedy."""


class DataError(Permanent):
    """Data cannot be used as asked: lost offsets, too few rows, a digest that does not match."""


class GateFailed(Permanent):
    """A candidate missed a limit of its gate; the message carries the table of what missed which limit."""


class NeedsGpu(Permanent):
    """The step needs an NVIDIA GPU and none can be used here."""


class SetupError(Permanent):
    """The machine lacks something that the embedded stack needs; the message names the one command that mends it."""
