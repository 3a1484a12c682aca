"""Watches a window: python -m tidegate.validate --handoff in.json --out out.json."""

from __future__ import annotations

import sys

from tidegate import workload
from tidegate.validate.drift import WatchReport, WatchTask


def _watch(task: WatchTask) -> WatchReport:
    from tidegate.validate.watch import watch  # ten seconds of imports: a handoff that is none is said before

    return watch(task)


if __name__ == "__main__":
    sys.exit(workload.main(WatchTask, _watch))
