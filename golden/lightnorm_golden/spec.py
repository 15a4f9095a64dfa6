"""What a LightNorm machine computes: its formats and calibration, the part of a configuration that decides bits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from .formats import BlockFormat, WideFormat

__all__ = ["GAINS", "MAX_ELEMENTS", "NormSpec"]

MAX_ELEMENTS = 1 << 24
"""Largest number of elements per channel; every exact accumulator is sized for it."""

GAINS = ("d2", "rangebn", "lightnorm")
"""Calibrations of the range (arithmetic specification, section 3); `statistics.gain_constant` computes them."""


@dataclass(frozen=True)
class NormSpec:
    """Formats of activations, gradients and per-channel quantities, and the calibration of the range.

    `coef_man_bits` (8..23) are the fraction bits of `K`, `scale_man_bits` (1..coef_man_bits) those of a scale.
    """

    activation: BlockFormat
    gradient: BlockFormat
    coef_man_bits: int = 15
    scale_man_bits: int = 7
    gain: str = "d2"

    def __post_init__(self) -> None:
        for name in ("activation", "gradient"):
            if not isinstance(getattr(self, name), BlockFormat):
                raise ValueError(f"{name} must be a BlockFormat, not {getattr(self, name)!r}")
        for name, low, high in (("coef_man_bits", 8, 23), ("scale_man_bits", 1, self.coef_man_bits)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{name} must be an integer between {low} and {high}, not {value!r}")
        if self.gain not in GAINS:
            raise ValueError(f"gain must be one of {', '.join(GAINS)}, not {self.gain!r}")

    @cached_property
    def coef(self) -> WideFormat:
        """`K`: per-channel quantities."""
        return WideFormat(self.coef_man_bits)

    @cached_property
    def scale(self) -> WideFormat:
        """`A`: a scale."""
        return WideFormat(self.scale_man_bits)
