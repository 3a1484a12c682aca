"""`python -m tidegate.gate --handoff in.json --out out.json`: a GateTask in, a GateReport out."""

from __future__ import annotations

import sys

from tidegate.gate.run import run
from tidegate.gate.task import GateTask
from tidegate.workload import main

if __name__ == "__main__":
    sys.exit(main(GateTask, run))
