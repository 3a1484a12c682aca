"""Evaluates a trained model: python -m tidegate.evaluate --handoff in.json --out out.json."""

from __future__ import annotations

import sys

from tidegate import workload
from tidegate.evaluate.stage import evaluate
from tidegate.evaluate.task import EvaluateTask

if __name__ == "__main__":
    sys.exit(workload.main(EvaluateTask, evaluate))
