"""Spin configurations of the two-dimensional Ising model in thermal equilibrium: data that a physical process makes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["CRITICAL", "configurations", "energy"]

CRITICAL = 2.0 / np.log(1.0 + np.sqrt(2.0))
"""Critical temperature of the infinite lattice (Onsager 1944), in units of the coupling."""


def configurations(
    temperature: float, count: int, side: int, sweeps: int, rng: np.random.Generator
) -> NDArray[np.int8]:
    """`count` independent chains after `sweeps`: (count, side, side) of +1 and -1, periodic, `side` even.

    Heat bath on the two sublattices in turn. Chains begin ordered, up or down with equal chance: from there, other than
    from disorder, no domain walls have to find each other.
    """
    if side % 2:
        raise ValueError(f"side must be even, for two sublattices on a periodic lattice, not {side}")
    up = 1 / (1 + np.exp(-2 * np.arange(-4, 5, 2) / temperature))  # by the sum of the four neighbours
    black = np.indices((side, side)).sum(axis=0) % 2 == 0
    spins = np.ones((count, side, side), np.int8) * rng.choice(np.array([-1, 1], np.int8), (count, 1, 1))
    for _ in range(sweeps):
        for sublattice in (black, ~black):
            field = sum(np.roll(spins, shift, axis) for shift in (1, -1) for axis in (1, 2))[:, sublattice]
            chance = rng.random(field.shape, np.float32)
            spins[:, sublattice] = np.where(chance < up.astype(np.float32)[(field + 4) // 2], 1, -1)
    return spins


def energy(spins: NDArray[np.int8]) -> NDArray[np.int64]:
    """Energy of each configuration, minus the sum of products of neighbours: (count,)."""
    wide = spins.astype(np.int64)
    return np.asarray(-sum((wide * np.roll(wide, 1, axis)).sum(axis=(1, 2)) for axis in (1, 2)))
