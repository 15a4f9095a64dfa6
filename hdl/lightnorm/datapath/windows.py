"""Where the significands of a block lie in its exact sums, and how the bits there are rounded.

A window is a significand of the longest format and its guard bit. Below a sum it meets zeros, above it the sum's sign.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed

from ..arith.rank import Rank
from ..arith.rounding import round_up
from .sums import SumFormat

__all__ = ["Decision", "Windows", "window", "within"]


def window(m: Module, bits: Value, amount: Value, width: int, *, name: str) -> Signal:
    """`width` bits of `bits` from place `amount` up, zeros above; every step drops the bits that no later one can
    reach."""
    current: Value = bits
    for bit in reversed(range(len(amount))):
        reach = width + (1 << bit) - 1
        step = Signal(reach, name=f"{name}_by_{1 << bit}")
        m.d.comb += step.eq(Mux(amount[bit], current >> (1 << bit), current))
        current = step
    return current


def within(m: Module, place: Value, lowest: int, highest: int, *, name: str) -> Signal:
    """`place` between two ends, counted from `lowest`."""
    amount = Signal(range(highest - lowest + 1), name=name)
    inside = Mux(place > highest, highest - lowest, place - lowest if lowest else place)
    if lowest or place.shape().signed:  # an unsigned place is never below 0, and linters say so
        inside = Mux(place < lowest, 0, inside)
    m.d.comb += amount.eq(inside)
    return amount


@dataclass(frozen=True)
class Decision:
    """How an element rounds: its truncated magnitude, whether one is added to it, also if the block's exponent turns
    out
    to be one higher; sign; whether it is beyond the format; whether it is exactly the negative power of two that is one
    place higher than it seems (this one is for the block and has no register)."""

    magnitude: Value
    up: Value
    up_bumped: Value
    sign: Value
    overflow: Value
    power: Value

    def only_if(self, condition: Value) -> Decision:
        """All zeros otherwise."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Decision(**{name: value & condition.replicate(len(value)) for name, value in values.items()})

    def merged(self, others: list[Decision]) -> Decision:
        """OR of decisions of which all but one are zeros."""
        values = {}
        for field in fields(self):
            value = getattr(self, field.name)
            for other in others:
                value = value | getattr(other, field.name)
            values[field.name] = value
        return Decision(**values)

    def kept(self, rank: Rank, name: str) -> Decision:
        """All but `power`, behind the rank."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "power"}
        return Decision(power=Const(0), **{key: rank.keep(value, f"{key}_{name}") for key, value in values.items()})


class Windows:
    """The steps from a sum's leading bit to its rounding, for lanes and extrema alike; each is combinational."""

    def __init__(self, m: Module, sums: SumFormat) -> None:
        self._module, self.sums = m, sums
        self.bits = sums.man_bits + 2
        self._shorter = [sums.man_bits - fmt.man_bits for fmt in sums.formats]
        # how far a window can lie above a sum, see `start`
        self.beyond = sums.man_bits + 6 + max(self._shorter)

    @staticmethod
    def by_pass(values: list[int], backward: Value) -> Value:
        return Const(values[0]) if len(values) == 1 else Mux(backward, values[1], values[0])

    def base(self, unit: Value, backward: Value, *, above: int = 0, name: str) -> Signal:
        """Place of the guard bit at exponent 0, in a sum with zeros below it; `unit`: exponent of the sum's last bit,
        or what is so far `above` it.

        It is that of a significand of the longest format, plus what the format's own is shorter."""
        base = Signal(signed(self.sums.exponent_bits + 2), name=f"base_{name}")
        lowest = [1 - fmt.bias + shorter + above for fmt, shorter in zip(self.sums.formats, self._shorter, strict=True)]
        self._module.d.comb += base.eq(self.by_pass(lowest, backward) - unit)
        return base

    def offset(self, base: Value, backward: Value) -> Value:
        """What a leading bit's place is added to, to give a shared exponent."""
        return self.by_pass([1 + shorter for shorter in self._shorter], backward) - base

    def candidate(
        self, leading: Value, any_bit: Value, base: Value, offset: Value | None, backward: Value, *, name: str
    ) -> Signal:
        """Shared exponent that a leading bit at place `leading` asks for; without a bit the lowest number. `offset`, if
        it was made before: see there."""
        candidate = Signal(base.shape(), name=f"candidate_{name}")
        above = self.by_pass([1 + shorter for shorter in self._shorter], backward)
        wanted = leading + above - base if offset is None else leading + offset
        self._module.d.comb += candidate.eq(Mux(any_bit, wanted, -(1 << (len(base) - 1))))
        return candidate

    def start(self, place: Value, bits: int, *, name: str) -> Signal:
        """Place of the guard bit, within what a window can reach of a sum of `bits`.

        At 0 everything is above the window, at the other end everything rounds to zero."""
        return within(self._module, place, 0, bits + self.sums.man_bits + 3 + max(self._shorter), name=f"start_{name}")

    def from_top_down(self, dropped: Value) -> Value:
        """Of the places under a window, those in it or under it."""
        return Cat(Const(-1, self.bits), dropped)[: len(dropped)]

    def decision(
        self, bits: Signal, sticky: Value, overflow: Value, sign: Value, backward: Value, negated: Value
    ) -> Decision:
        """From the bits of a two's complement sum in the window, whether there are others below and above it, its sign,
        and whether it is minus the number."""
        sums = self.sums
        guard, truncated = bits[0], bits[1:]
        magnitude = truncated ^ sign.replicate(sums.man_bits + 1)
        full = [magnitude[: fmt.significand_bits].all() for fmt in sums.formats]
        all_ones = full[0] if len(full) == 1 else Mux(backward, full[1], full[0])
        return Decision(
            magnitude=magnitude,
            up=round_up(truncated[0], guard, sticky) ^ sign,
            up_bumped=round_up(truncated[1], truncated[0], guard | sticky) ^ sign,
            sign=sign ^ negated,
            overflow=overflow,
            power=sign & all_ones & ~guard & ~sticky,
        )
