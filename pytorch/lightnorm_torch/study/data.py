"""The data sets of the study: scikit-learn's digits, and temperatures of Ising configurations.

Both are real in the sense that matters here: nothing about them was made for this experiment. The digits are scans. The
Ising configurations come from a physical process, and telling their temperature near criticality is a task for
convolutions: it needs local correlations, pooled over the lattice. There is a known best answer too: at a given size
the energy is a sufficient statistic for the temperature, so no network can beat the best rule on the energy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .ising import configurations, energy

__all__ = ["DATA", "Data", "Split", "best_by_energy", "load", "split"]

TEMPERATURES = (1.8, 2.5, 3.8)
"""Ordered, critical (8 x 8 spins are most susceptible a little above the infinite lattice's 2.27), disordered."""

_SIDE, _PER_TEMPERATURE, _SWEEPS = 8, 2500, 300


@dataclass(frozen=True)
class Data:
    """images (n, H, W) float32, labels (n,) int64; how many a split trains on, the rest tests."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: int
    training: int


def _digits() -> Data:
    from sklearn.datasets import load_digits

    found = load_digits()
    return Data((found.images / 16).astype(np.float32), found.target.astype(np.int64), 10, 900)


def _ising() -> Data:
    rng = np.random.default_rng(20)
    spins = [configurations(t, _PER_TEMPERATURE, _SIDE, _SWEEPS, rng) for t in TEMPERATURES]
    labels = np.repeat(np.arange(len(TEMPERATURES)), _PER_TEMPERATURE)
    return Data(np.concatenate(spins).astype(np.float32), labels, len(TEMPERATURES), 3000)


DATA: dict[str, Callable[[], Data]] = {"digits": _digits, "ising": _ising}


@cache
def load(name: str) -> Data:
    """A data set of `DATA`. The Ising configurations take a few seconds to simulate."""
    return DATA[name]()


@dataclass(frozen=True)
class Split:
    """Indices of each seed's training and test images: (seeds, n)."""

    train: Tensor
    test: Tensor


def split(data: Data, seeds: Sequence[int]) -> Split:
    """A random split of its own for every seed."""
    orders = [np.random.default_rng((seed, 1)).permutation(len(data.labels)) for seed in seeds]
    order = torch.from_numpy(np.stack(orders))
    return Split(order[:, : data.training], order[:, data.training :])


def best_by_energy(data: Data) -> float:
    """Share that the best rule on the energy gets right, of the very configurations (so at least what is possible)."""
    found = energy(data.images.astype(np.int8))
    counts = [np.bincount((found[data.labels == k] - found.min()).astype(int)) for k in range(data.classes)]
    table = np.zeros((data.classes, max(map(len, counts))))
    for row, count in zip(table, counts, strict=True):
        row[: len(count)] = count
    return float(table.max(axis=0).sum() / len(found))
