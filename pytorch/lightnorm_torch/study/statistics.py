"""Paired comparison of accuracies: the same seed has the same split, order and initial weights on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

__all__ = ["MOST_WIDTH", "Paired", "paired"]

MOST_WIDTH = 0.5
"""Points of accuracy that an interval may be wide to say that two settings are alike."""


@dataclass(frozen=True)
class Paired:
    """Differences of n pairs: mean, standard deviation, 95 % interval of Student's t, p value of its two-sided test."""

    n: int
    mean: float
    deviation: float
    low: float
    high: float
    p: float

    @property
    def within_noise(self) -> bool:
        """The interval includes 0 and is narrow enough to say something."""
        return self.low <= 0 <= self.high and self.high - self.low < MOST_WIDTH


def paired(values: Sequence[float], reference: Sequence[float]) -> Paired:
    """values - reference, pair by pair. Raises ValueError for unequal lengths or fewer than two pairs."""
    if len(values) != len(reference) or len(values) < 2:
        raise ValueError(f"pairs need two values each, and at least two pairs, not {len(values)} and {len(reference)}")
    difference = np.asarray(values, np.float64) - np.asarray(reference, np.float64)
    n, mean, deviation = len(difference), float(difference.mean()), float(difference.std(ddof=1))
    error = deviation / n**0.5
    half = float(stats.t.ppf(0.975, n - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, n - 1)) if error else float(mean == 0)
    return Paired(n, mean, deviation, mean - half, mean + half, p)
