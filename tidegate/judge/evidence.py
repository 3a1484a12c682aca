"""Evidence against a candidate that may be looked at after every scrape: an e-process over unknown change points.

One scrape gives a likelihood ratio for each alternative ("fails 5 times as often", "is 2 times slower"), which has an
expectation of at most 1 while the candidate is no worse than allowed. Their product over scrapes is a test martingale;
so is any average of such products, over alternatives (Robbins 1970: mixtures) and over the scrape at which the trouble
began (Shin, Ramdas and Rinaldo 2023: e-detectors). By Ville's inequality (1939) the chance that a test martingale ever
passes 1/alpha is at most alpha, however often it is looked at.

J. Ville, "Étude critique de la notion de collectif", 1939. H. Robbins, "Statistical methods related to the law of the
iterated logarithm", Ann. Math. Statist. 41 (1970). J. Shin, A. Ramdas, A. Rinaldo, "E-detectors: a nonparametric
framework for sequential change detection", New England J. Statist. Data Sci. (2023), arXiv:2203.03532.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SPENT = 1.6928  # sum over n >= 1 of 1 / (n (1 + ln n)^2), so that the change points' weights sum to 1


def start_weight(number: int) -> float:
    """Return the prior weight of trouble that begins with scrape `number` (from 1); over all of them they sum to 1.

    More than half lies on the first scrape, because most bad versions are bad from their first answer; what begins
    later costs about ln n more evidence.
    """
    return 1.0 / (_SPENT * number * (1.0 + math.log(number)) ** 2)


@dataclass(frozen=True)
class Evidence:
    """A test martingale after some scrapes, for alternatives of given prior weights.

    `running` [alternatives] is the log of the summed products of all change points so far, `waiting` the weight of
    those still to come. Immutable: `after` returns the next one.
    """

    prior: NDArray[np.float64]
    running: NDArray[np.float64]
    waiting: float = 1.0
    scrapes: int = 0

    @classmethod
    def over(cls, prior: NDArray[np.float64]) -> Evidence:
        """Return no evidence yet; `prior` [alternatives] sums to 1."""
        return cls(prior=np.log(prior), running=np.full(prior.shape, -np.inf))

    def after(self, log_ratios: NDArray[np.float64]) -> Evidence:
        """Return the evidence after one more scrape, given its log likelihood ratio for each alternative."""
        number = self.scrapes + 1
        weight = start_weight(number)
        running = np.logaddexp(self.running, np.log(weight)) + log_ratios
        return Evidence(self.prior, running, self.waiting - weight, number)

    @property
    def log_value(self) -> float:
        """The natural logarithm of the test martingale; 0 before the first scrape."""
        total = self.prior + self.running
        top = max(float(total.max()), 0.0)
        return top + float(np.log(np.exp(total - top).sum() + max(self.waiting, 0.0) * np.exp(-top)))

    @property
    def leading(self) -> int:
        """The alternative that explains the data best."""
        return int(np.argmax(self.prior + self.running))
