"""Products of many elements with one factor."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value

from ..arith.rank import Rank

__all__ = ["Multiplier"]


class Multiplier:
    """Multiplies by a factor two bits of the other number at a time: with 3 * factor made once, half the rows of single
    bits."""

    def __init__(self, m: Module, factor: Value) -> None:
        self.factor = factor
        self._triple: Value = Signal(len(factor) + 2, name="triple")
        m.d.comb += self._triple.eq(factor + (factor << 1))

    def cross(self, rank: Rank) -> None:
        """Behind the rank, with all that is made of the factor."""
        self.factor, self._triple = rank.keep(self.factor, "factor"), rank.keep(self._triple, "triple")

    def times(self, number: Value) -> Value:
        rows = []
        for place in range(0, len(number) - 1, 2):
            low, high = number[place], number[place + 1]
            row = Mux(high, Mux(low, self._triple, self.factor << 1), Mux(low, self.factor, 0))
            rows.append(row << place)
        if len(number) % 2:
            rows.append(Mux(number[-1], self.factor, 0) << (len(number) - 1))
        return sum(rows[1:], rows[0])
