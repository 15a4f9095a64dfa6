"""Which exact statistic a program reads, and its leading digits."""

from __future__ import annotations

import functools
import operator

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lightnorm_golden.spec import NormSpec

from ..arith.rank import Rank
from ..arith.wide import unrounded_layout
from .reduce import statistics_shapes

__all__ = ["TotalSelect"]


PART_BITS = 4
"""Of a statistic, bits that are looked at in a deep pipeline's first cycle."""


class TotalSelect(wiring.Component):
    """An exact statistic as an unrounded wide number: its two leading digits and a sticky bit.

    Combinational; `deep` takes three cycles that end when `i_advance` says so, behind the choice, the search of the
    leading digit, and the choice of the pair. A digit is as long as a wide significand, so the pair below the leading
    digit holds every bit that rounding looks at.
    """

    def __init__(self, *, spec: NormSpec, names: tuple[str, ...], deep: bool) -> None:
        self.spec, self.names, self.deep = spec, names, deep
        self.shapes = statistics_shapes(spec)
        super().__init__(
            {f"i_{name}": In(self.shapes[name][0]) for name in names}
            | {"i_select": In(range(max(len(names), 2))), "i_advance": In(1), "o": Out(unrounded_layout(spec.coef))}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fmt = self.spec.coef
        digit = fmt.significand_bits
        count = max(-(-self.shapes[name][0].width // digit) for name in self.names)
        chosen, base = Signal(signed(count * digit)), Signal(signed(11))
        exists, sign = Signal(count), Signal()
        with m.Switch(self.i_select):
            for index, name in enumerate(self.names):
                with m.Case(index):
                    exponent = fmt.bias + self.shapes[name][1] + digit
                    value = getattr(self, f"i_{name}")
                    m.d.comb += [chosen.eq(value), base.eq(exponent)]
                    if not self.deep:  # zeros above its own digits, which is smaller
                        own_digits = -(-(len(value) + (not value.shape().signed)) // digit)
                        m.d.comb += [
                            chosen[own_digits * digit :].eq(0),
                            exists.eq((1 << own_digits) - 1),
                            sign.eq(value[-1] if value.shape().signed else 0),
                        ]
        part = PART_BITS if self.deep else digit
        parts = [
            chosen[first : min(first + part, end)]
            for end in range(digit, len(chosen) + 1, digit)
            for first in range(end - digit, end, part)
        ]
        nonzero_parts, ones_parts = Signal(len(parts)), Signal(len(parts))
        m.d.comb += [
            nonzero_parts.eq(Cat(value.any() for value in parts)),
            ones_parts.eq(Cat(value.all() for value in parts)),
        ]
        rank = Rank(m, "selected", Const(1), advance=self.i_advance, built=self.deep)
        chosen, base, negative = rank.keep(chosen, "chosen"), rank.keep(base, "base"), Signal()
        nonzero_parts, ones_parts = rank.keep(nonzero_parts, "nonzero"), rank.keep(ones_parts, "ones")
        nonzero, differs = Signal(count), Signal(count)  # from the sign
        of_digits = [slice(first, first + len(parts) // count) for first in range(0, len(parts), len(parts) // count)]
        m.d.comb += [
            negative.eq(chosen[-1] if self.deep else sign),
            nonzero.eq(Cat(nonzero_parts[of_digit].any() for of_digit in of_digits)),
            differs.eq(Mux(negative, ~Cat(ones_parts[of_digit].all() for of_digit in of_digits), nonzero)),
        ]
        candidates: Value = differs if self.deep else differs & exists
        leads = Signal(count)  # the highest that differs, else the lowest
        m.d.comb += leads.eq(
            Cat(~candidates[index + 1 :].any() & (candidates[index] if index else 1) for index in range(count))
        )
        rank = Rank(m, "led", Const(1), advance=self.i_advance, built=self.deep)
        chosen, base, negative = rank.keep(chosen, "chosen"), rank.keep(base, "base"), rank.keep(negative, "negative")
        leads, nonzero = rank.keep(leads, "leads"), rank.keep(nonzero, "nonzero")
        digits = [chosen[index * digit : (index + 1) * digit] for index in range(count)]
        pair, position, below = Signal(2 * digit), Signal(range(count)), Signal()  # something nonzero under the pair
        found: list[tuple[Value, ...]] = []
        for index in range(count):
            here = Cat(digits[index - 1] if index else Const(0, digit), digits[index])
            found.append(
                (
                    here & leads[index].replicate(2 * digit),
                    Const(index, len(position)) & leads[index].replicate(len(position)),
                    nonzero[: max(index - 1, 0)].any() & leads[index],
                )
            )
        for signal, of_digit in zip((pair, position, below), zip(*found, strict=True), strict=True):
            m.d.comb += signal.eq(functools.reduce(operator.or_, of_digit))
        rank = Rank(m, "found", Const(1), advance=self.i_advance, built=self.deep)
        pair, negative, below = rank.keep(pair, "pair"), rank.keep(negative, "negative"), rank.keep(below, "below")
        m.d.comb += [
            self.o.magnitude.eq((pair ^ negative.replicate(2 * digit)) + (negative & ~below)),
            self.o.sticky.eq(below),
            self.o.sign.eq(negative),
            self.o.exponent.eq(rank.keep(base, "base") + rank.keep(position, "position") * digit),
        ]
        return m
