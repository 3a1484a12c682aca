"""Pure statistics over what versions did under live traffic: pass, hold or fail, with the evidence."""

from __future__ import annotations

from tidegate.judge.thresholds import judge

__all__ = ["judge"]
