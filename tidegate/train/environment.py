"""What must be alike on every member of a gang, and the table of what is not."""

from __future__ import annotations

import hashlib
import os
import platform
from collections import Counter
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate.errors import SpecError
from tidegate.version import code_version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tidegate.handoff import TrainTask

ABSENT = "-"
_DIGITS = 12  # of a digest, as shown
_MOST_ROWS = 20  # of the table: what differs in all is often one other image
_NUMBERS = ("TF_USE_LEGACY_KERAS", "TF_ENABLE_ONEDNN_OPTS", "TF_XLA_FLAGS", "XLA_FLAGS", "NVIDIA_TF32_OVERRIDE")


def facts_here(task: TrainTask, data: str) -> dict[str, str]:
    """Return what this process trains with, by name, without TensorFlow: versions, digests, variables.

    Args:
        task: names the dependency lock and the user's file.
        data: digest of the training rows as this member read them.

    Raises:
        SpecError: the dependency lock or the user's file cannot be read here.
    """
    packages = sorted({(each.name.lower(), each.version) for each in distributions() if each.name})
    return {
        "lock": _file_digest(task.lock, "dependency lock"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "tidegate": code_version(),
        "model code": _file_digest(task.model_file, "model file"),
        "data": data[:_DIGITS],
        **{name: os.environ[name] for name in _NUMBERS if name in os.environ},
        **{f"package {name}": version for name, version in packages},
    }


def _file_digest(path: str, what: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:_DIGITS]
    except OSError as error:
        raise SpecError(f"{what} {path} cannot be read ({error.strerror}); name one that every member has") from error


def differences(members: Sequence[Mapping[str, str]]) -> str | None:
    """Return a table of the facts that are not the same on all members; None where all are.

    Members that are alike in all share a column. Where most members say one thing, the others are marked.
    """
    names = {name: None for member in members for name in member}
    rows = {name: [member.get(name, ABSENT) for member in members] for name in names}
    unlike = {name: values for name, values in rows.items() if len(set(values)) > 1}
    if not unlike:
        return None
    groups: dict[tuple[str, ...], list[int]] = {}
    for rank, said in enumerate(zip(*unlike.values(), strict=True)):
        groups.setdefault(said, []).append(rank)
    first = [ranks[0] for ranks in groups.values()]
    shown = [["fact", *map(_ranks, groups.values())]]
    for name, values in list(unlike.items())[:_MOST_ROWS]:
        marked = _marked(values)
        shown.append([name, *(marked[rank] for rank in first)])
    left = len(unlike) - _MOST_ROWS
    return "\n".join([*_aligned(shown), *([f"and {left} more"] if left > 0 else [])])


def _marked(values: Sequence[str]) -> list[str]:
    usual, count = Counter(values).most_common(1)[0]
    return [value if value == usual or count * 2 <= len(values) else f"{value} <" for value in values]


def _ranks(ranks: Sequence[int]) -> str:
    """Return 'member 3', or 'members 0-2, 5'."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], rank]
        else:
            runs.append([rank])
    said = ", ".join("-".join(map(str, run)) for run in runs)
    return f"member {said}" if len(ranks) == 1 else f"members {said}"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip()
