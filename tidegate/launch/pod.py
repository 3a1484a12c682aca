"""A member's first steps inside its pod: it finds its place and its peers, then becomes the workload.

    python -m tidegate.launch.pod --gang NAME --members N --within SECONDS MODULE

The Job's completion index is the member's rank. Peers have stable names, <gang>-<rank>.<gang>, which resolve about a
second after their pods have an address; TensorFlow looks a name up once, so they are waited for here. The handoff is in
TIDEGATE_HANDOFF, and what the workload hands back goes to the pod's termination message. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate.errors import Retryable
from tidegate.launch.manifests import PORT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_EVERY = 0.25  # seconds between looks at names that do not resolve yet
_TELL = 10.0  # seconds between lines that say who is waited for


def main(argv: Sequence[str] | None = None) -> int:
    """Wait for the peers, then replace this process by the workload; return an exit code where they do not come."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gang", required=True, help="name of the Job and of its Service")
    parser.add_argument("--members", required=True, type=int)
    parser.add_argument("--within", required=True, type=float, help="seconds that peers may take to come up")
    parser.add_argument("module", help="the workload, such as tidegate.train")
    arguments = parser.parse_args(argv)
    rank = int(os.environ.get("JOB_COMPLETION_INDEX", "0"))
    names = peers(arguments.gang, arguments.members)
    if arguments.members > 1:
        missing = awaited(names, arguments.within, _resolves)
        if missing:
            return _gave_up(rank, missing, arguments.within)
        os.environ["TF_CONFIG"] = tf_config(names, rank)
    folder = Path(tempfile.mkdtemp(prefix="workload-"))
    handoff = folder / "in.json"
    handoff.write_text(os.environ.pop("TIDEGATE_HANDOFF"), encoding="utf-8")
    command = [sys.executable, "-m", arguments.module, "--handoff", str(handoff), "--out", str(folder / "out.json")]
    sys.stdout.flush()
    os.execv(sys.executable, command)  # noqa: S606 (the same interpreter, no shell)


def peers(gang: str, members: int) -> list[str]:
    """Return the members' names, by rank."""
    return [f"{gang}-{rank}.{gang}" for rank in range(members)]


def tf_config(names: Sequence[str], rank: int) -> str:
    """Return TF_CONFIG of the member of this rank, as tf.distribute's TFConfigClusterResolver reads it."""
    workers = [f"{name}:{PORT}" for name in names]
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}})


def awaited(names: Sequence[str], seconds: float, resolves: Callable[[str], bool]) -> list[str]:
    """Wait until all names resolve, at most `seconds`; return those that do not."""
    deadline, tell = time.monotonic() + seconds, time.monotonic() + 1.0
    missing = [name for name in names if not resolves(name)]
    while missing and (now := time.monotonic()) < deadline:
        if now >= tell:
            print(f"waiting for {', '.join(missing)}", flush=True)
            tell = now + _TELL
        time.sleep(_EVERY)
        missing = [name for name in missing if not resolves(name)]
    return missing


def _resolves(name: str) -> bool:
    try:
        socket.getaddrinfo(name, PORT)
    except OSError:
        return False
    return True


def _gave_up(rank: int, missing: Sequence[str], seconds: float) -> int:
    reason = (
        f"Retryable: member {rank} did not find {', '.join(missing)} within {seconds:g} s; see whether their pods have "
        "a node, and whether the cluster's DNS answers"
    )
    print(reason, flush=True)
    wanted = os.environ.get("TIDEGATE_TERMINATION_LOG")
    if wanted:
        Path(wanted).write_text(reason, encoding="utf-8")
    return Retryable.exit_code


if __name__ == "__main__":
    sys.exit(main())
