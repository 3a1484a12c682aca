"""Pure statistics over what versions did under live traffic: pass, hold or fail, with the evidence."""

from __future__ import annotations

from tidegate.judge.series import Did, Interval, Sample, Scrape, intervals
from tidegate.judge.stage import StageJudge, budgets

__all__ = ["Did", "Interval", "Sample", "Scrape", "StageJudge", "budgets", "intervals"]
