"""A member that does in a second what a real one does in minutes; what it does is in its handoff.

{"shared": folder, "fail": rank or null, "code": exit code, "hold": seconds, "eat": rank or null,
"again": rank or null}: `again` asks once to be tried again, and then lets the others go.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--handoff")
parser.add_argument("--out")
arguments = parser.parse_args()
task = json.loads(Path(arguments.handoff).read_text())
cluster = json.loads(os.environ.get("TF_CONFIG", '{"task": {"index": 0}}'))
rank = cluster["task"]["index"]
shared = Path(task["shared"])
last_words = Path(os.environ["TIDEGATE_TERMINATION_LOG"])


def say(text: str) -> None:
    print(text, flush=True)


say(f"member {rank} is here")
(shared / f"up-{rank}-{os.environ['HOSTNAME']}-{time.time_ns()}").touch()
if task.get("eat") == rank:
    held = []
    while True:
        held.append(b"x" * (64 << 20))
if task.get("fail") == rank:
    say("this is the line that matters")
    last_words.write_text("DataError: too few rows")
    sys.exit(task.get("code", 65))
if task.get("again") == rank:
    if not (shared / "tried").exists():
        (shared / "tried").touch()
        sys.exit(75)
    (shared / "go").touch()
if task.get("dated"):
    say("2013-01-01T00:00:00.000Z epoch 1/1 loss=0.5")
deadline = time.monotonic() + task.get("hold", 0)
while time.monotonic() < deadline and not (shared / "go").exists():
    time.sleep(0.05)
say(f"member {rank} is done")
if rank == 0:
    last_words.write_text(json.dumps({"config": cluster, "uid": os.getuid(), "home": os.environ["HOME"]}))
