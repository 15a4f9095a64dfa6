"""A chunk's maximum or minimum in `pack`, on its way to the lane that it came from."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value

from ..arith.leading_one import leading_one
from ..arith.rank import Rank
from ..arith.shift import below
from .windows import Decision, Windows, window

__all__ = ["Extremum"]

BACKWARD = Const(1)
"""There is an extremum in that pass alone."""


class Extremum:
    """Follows the ranks of `pack`: every method but the questions is a part of a stage, in their order. Its `windows`
    are those of gradients."""

    def __init__(self, m: Module, windows: Windows, own: Any, block: int, kind: str) -> None:
        self._module, self._windows, self._sums = m, windows, windows.sums
        self._name, self._block = f"{kind}_{block}", block
        self._block_size = self._sums.spec.activation.block_size
        self._sum, self._negated, self._valid, self._lane = own.sum, own.negated, own.valid, own.lane
        above = self._sums.own_leading
        self._base: Value = windows.base(own.exponent, BACKWARD, above=above, name=self._name)

    def spread(self, rank: Rank) -> None:
        """The sum inverted where negative, behind the rank."""
        sign = self._sum[-1]
        magnitude = Signal(self._sums.own_bits, name=f"whole_{self._name}")
        self._module.d.comb += magnitude.eq(self._sum[:-1] ^ sign.replicate(self._sums.own_bits))
        self._magnitude = rank.keep(magnitude, f"magnitude_{self._name}")

    def cross(self, rank: Rank) -> None:
        """What is needed to the end."""
        self._sum, self._negated, self._valid, self._lane, self._base = (
            rank.keep(value, f"{name}_{self._name}")
            for name, value in (
                ("sum", self._sum), ("negated", self._negated), ("own_valid", self._valid),
                ("own_lane", self._lane), ("base", self._base),
            )
        )  # fmt: skip

    def may_be_lane(self, lane: int) -> bool:
        """Whether the lane is one of its block's."""
        return lane // self._block_size == self._block

    def is_lane(self, lane: int) -> Value:
        return self._valid & (self._lane == lane % self._block_size)

    def is_segment(self, segment: int) -> Value:
        size = self._sums.segment
        return self._valid & (self._lane // size == segment % (self._block_size // size))

    def find(self, rank: Rank, *, deep: bool) -> None:
        """Its leading bit, behind the rank."""
        self._offset = None
        if deep:
            self._offset = rank.keep(self._windows.offset(self._base, BACKWARD), f"offset_{self._name}")
        leading, any_bit = leading_one(self._module, self._magnitude, name=f"leading_{self._name}")
        self._leading = rank.keep(leading, f"leading_{self._name}")
        self._any = rank.keep(any_bit, f"any_{self._name}")

    def ask(self) -> None:
        """For a shared exponent."""
        self._candidate = self._windows.candidate(
            self._leading, self._any, self._base, self._offset, BACKWARD, name=self._name
        )

    def candidate_in(self, gradient_block: int) -> Signal:
        """Its candidate, in that block of the gradient format; else the lowest number."""
        size = self._sums.formats[-1].block_size
        first = gradient_block * size - self._block * self._block_size
        inside: Value = self._valid
        if first > 0:
            inside = inside & (self._lane >= first)
        if first + size < self._block_size:
            inside = inside & (self._lane < first + size)
        candidate = Signal(self._candidate.shape(), name=f"candidate_{self._name}_in_{gradient_block}")
        lowest = -(1 << (len(candidate) - 1))
        self._module.d.comb += candidate.eq(Mux(inside, self._candidate, lowest))
        return candidate

    def place(self, shared_exps: list[Value], rank: Rank) -> None:
        """`shared_exps`: of each segment of the beat."""
        per_block = self._block_size // self._sums.segment
        of_block = shared_exps[self._block * per_block : (self._block + 1) * per_block]
        place = Signal(self._base.shape(), name=f"place_{self._name}")
        self._module.d.comb += place.eq(Array(of_block)[self._lane // self._sums.segment] + self._base)
        self._place = rank.keep(place, f"place_{self._name}")

    def start(self, rank: Rank, *, deep: bool) -> None:
        """The window's place, and `deep` which places it drops."""
        start = self._windows.start(self._place, self._sums.own_bits, name=self._name)
        self._start, self._dropped = rank.keep(start, f"start_{self._name}"), None
        if deep:  # not behind `start`
            self._dropped = rank.keep(self._below(self._place), f"dropped_{self._name}")

    def _below(self, place: Value) -> Signal:
        return below(
            self._module, place, self._windows.bits + self._sums.own_bits, name=f"dropped_{self._name}"
        )  # fmt: skip

    def cut(self, rank: Rank) -> None:
        """The window, and what lies on both sides of it."""
        m, windows, name = self._module, self._windows, self._name
        self._sign = self._sum[-1]
        value = Cat(Const(0, windows.bits), self._sum, self._sign.replicate(windows.beyond))
        end = windows.bits + self._sums.own_bits
        dropped = self._below(self._start) if self._dropped is None else self._dropped
        kept = windows.from_top_down(dropped)
        sticky, overflow = Signal(name=f"sticky_{name}"), Signal(name=f"overflow_{name}")
        m.d.comb += [
            sticky.eq((value[:end] & dropped).any()),
            overflow.eq(
                ((value[windows.bits : end] ^ self._sign.replicate(self._sums.own_bits)) & ~kept[windows.bits :]).any()
            ),
        ]
        in_window = window(m, value, self._start, windows.bits, name=f"own_window_{name}")
        self._window, self._sticky, self._overflow, self._sign = (
            rank.keep(value, f"{key}_{name}")
            for key, value in (
                ("window", in_window), ("sticky", sticky), ("overflow", overflow), ("sign", self._sign)
            )
        )  # fmt: skip

    def decide(self) -> Decision:
        """How it rounds."""
        return self._windows.decision(
            self._window, self._sticky, self._overflow, self._sign, BACKWARD, self._negated
        )  # fmt: skip
