"""Optimises a trained model: python -m tidegate.optimise --handoff in.json --out out.json."""

from __future__ import annotations

import sys

from tidegate import workload
from tidegate.handoff import OptimiseTask
from tidegate.optimise.stage import optimise

if __name__ == "__main__":
    sys.exit(workload.main(OptimiseTask, optimise))
