"""The one rounding decision of the machine: round to nearest, ties to even."""

from __future__ import annotations

from amaranth.hdl import Value

__all__ = ["round_up"]


def round_up(last: Value, guard: Value, sticky: Value) -> Value:
    """Whether a truncated value with last kept bit `last`, first dropped bit `guard` and OR of the rest goes up by one.

    Holds for two's complement floors as for magnitudes. Source: IEEE 754-2019, 4.3.1.
    """
    return guard & (sticky | last)
