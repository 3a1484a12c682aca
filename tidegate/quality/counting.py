"""Counts of what one delivery's versions say: predictions, inputs answered by two of them, answers with labels; pure.

Memory is bounded: the last 100,000 inputs and the last 100,000 request ids, 90 MB for a delivery with two versions.
An input counts once for each two versions and a label once for each answer, as long as they are remembered; so a small
set of inputs that comes again and again is no growing evidence.
"""

from __future__ import annotations

import bisect
import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidegate.served import Served

EDGES = tuple(round(0.05 * step, 2) for step in range(21))
"""Upper edges of the histogram of predictions; what is above 1, or no number, lies above all of them."""
REMEMBERED = 100_000
_WRONG = 0.5  # a prediction further than this from its label is wrong


@dataclass
class Version:
    """The counters of one version, since this process began to count it."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(EDGES) + 1))
    """Predictions in each bucket, not cumulative."""
    total: float = 0.0
    """The sum of the predictions that are numbers."""
    pairs: dict[str, int] = field(default_factory=dict)
    """Inputs that another version answered too, by its name."""
    disagreements: dict[str, int] = field(default_factory=dict)
    labelled: int = 0
    wrong: int = 0


@dataclass(slots=True)
class _Answers:
    """What versions answered to one input, or to one id."""

    by: dict[str, float] = field(default_factory=dict)
    label: int | None = None


class Counting:
    """One delivery's counters.

    Args:
        above: predictions further apart than this disagree.
        remembered: inputs, and ids, that are kept.
    """

    def __init__(self, above: float, remembered: int = REMEMBERED):
        self.above = above
        self.versions: dict[str, Version] = {}
        self._inputs: OrderedDict[str, _Answers] = OrderedDict()
        self._ids: OrderedDict[str, _Answers] = OrderedDict()
        self._remembered = remembered

    def begin(self, version: str) -> None:
        """Count a version from now on; zeros are figures too."""
        mine = self.versions.setdefault(version, Version())
        for name, other in self.versions.items():
            if name != version:
                for one, of in ((mine, name), (other, version)):
                    one.pairs.setdefault(of, 0)
                    one.disagreements.setdefault(of, 0)

    def end(self, version: str) -> None:
        """Forget a version and all that it answered."""
        self.versions.pop(version, None)
        for other in self.versions.values():
            other.pairs.pop(version, None)
            other.disagreements.pop(version, None)
        for memory in (self._inputs, self._ids):
            for answers in memory.values():
                answers.by.pop(version, None)

    def remember(self, version: str, served: Served) -> None:
        """Keep what was served before this process began, without counting it."""
        self._at(self._inputs, served.digest).by.setdefault(version, served.prediction)
        if served.id:
            self._at(self._ids, served.id).by.setdefault(version, served.prediction)

    def saw(self, version: str, served: Served) -> None:
        """Count one answer."""
        mine = self.versions[version]
        prediction = served.prediction
        known = math.isfinite(prediction)
        mine.buckets[bisect.bisect_left(EDGES, prediction) if known else len(EDGES)] += 1
        mine.total += prediction if known else 0.0
        self._pair(version, served)
        if served.id:
            answers = self._at(self._ids, served.id)
            if version not in answers.by:
                answers.by[version] = prediction
                if answers.label is not None:
                    self._judge(version, prediction, answers.label)

    def labelled(self, request_id: str, label: int) -> None:
        """Take a label, 0 or 1, for whatever was or will be answered under an id; a second one for it is ignored."""
        answers = self._at(self._ids, request_id)
        if answers.label is None:
            answers.label = label
            for version, prediction in answers.by.items():
                self._judge(version, prediction, label)

    def _pair(self, version: str, served: Served) -> None:
        answers = self._at(self._inputs, served.digest)
        if version in answers.by:
            return
        for name, other in answers.by.items():
            differ = not abs(served.prediction - other) <= self.above  # NaN disagrees with everything
            for one, of in ((version, name), (name, version)):
                if one in self.versions and of in self.versions[one].pairs:
                    self.versions[one].pairs[of] += 1
                    self.versions[one].disagreements[of] += differ
        answers.by[version] = served.prediction

    def _judge(self, version: str, prediction: float, label: int) -> None:
        if version in self.versions:
            self.versions[version].labelled += 1
            self.versions[version].wrong += not abs(prediction - label) <= _WRONG

    def _at(self, memory: OrderedDict[str, _Answers], key: str) -> _Answers:
        found = memory.get(key)
        if found is None:
            found = memory[key] = _Answers()
            if len(memory) > self._remembered:
                memory.popitem(last=False)
        else:
            memory.move_to_end(key)
        return found
