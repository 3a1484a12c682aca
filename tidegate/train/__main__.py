"""Trains as one member of a gang: python -m tidegate.train --handoff in.json --out out.json."""

from __future__ import annotations

import sys

from tidegate import workload
from tidegate.handoff import TrainTask
from tidegate.train.member import train

if __name__ == "__main__":
    sys.exit(workload.main(TrainTask, train))
