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


class TotalSelect(wiring.Component):
    """An exact statistic as an unrounded wide number: its two leading digits and a sticky bit.

    Combinational; `deep` takes three cycles that end when `i_advance` says so, behind the choice, the search of the
    leading digit, and the sign. A digit is as long as a wide significand, so the pair below the leading digit holds
    every bit that rounding looks at.
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
        with m.Switch(self.i_select):
            for index, name in enumerate(self.names):
                with m.Case(index):
                    exponent = fmt.bias + self.shapes[name][1] + digit
                    m.d.comb += [chosen.eq(getattr(self, f"i_{name}")), base.eq(exponent)]
        digits = [chosen[index * digit : (index + 1) * digit] for index in range(count)]
        nonzero, ones = Signal(count), Signal(count)
        m.d.comb += [
            nonzero.eq(Cat(value.any() for value in digits)),
            ones.eq(Cat(value.all() for value in digits)),
        ]
        rank = Rank(m, "selected", Const(1), advance=self.i_advance, built=self.deep)
        chosen, base = rank.keep(chosen, "chosen"), rank.keep(base, "base")
        nonzero, ones, negative = rank.keep(nonzero, "nonzero"), rank.keep(ones, "ones"), chosen[-1]
        differs = Signal(count)  # from the sign
        m.d.comb += differs.eq(Mux(negative, ~ones, nonzero))
        digits = [chosen[index * digit : (index + 1) * digit] for index in range(count)]
        pair, position, below = Signal(2 * digit), Signal(range(count)), Signal()  # something nonzero under the pair
        found: list[tuple[Value, ...]] = []
        for index in range(count):
            leads = Signal(name=f"leads_{index}")  # the highest that differs, else the lowest
            m.d.comb += leads.eq(~differs[index + 1 :].any() & (differs[index] if index else 1))
            here = Cat(digits[index - 1] if index else Const(0, digit), digits[index])
            found.append(
                (
                    here & leads.replicate(2 * digit),
                    Const(index, len(position)) & leads.replicate(len(position)),
                    nonzero[: max(index - 1, 0)].any() & leads,
                )
            )
        for signal, of_digit in zip((pair, position, below), zip(*found, strict=True), strict=True):
            m.d.comb += signal.eq(functools.reduce(operator.or_, of_digit))
        rank = Rank(m, "found", Const(1), advance=self.i_advance, built=self.deep)
        pair, negative, below = rank.keep(pair, "pair"), rank.keep(negative, "negative"), rank.keep(below, "below")
        unrounded = Signal(unrounded_layout(fmt), name="signed")
        m.d.comb += [
            unrounded.magnitude.eq((pair ^ negative.replicate(2 * digit)) + (negative & ~below)),
            unrounded.sticky.eq(below),
            unrounded.sign.eq(negative),
            unrounded.exponent.eq(rank.keep(base, "base") + rank.keep(position, "position") * digit),
        ]
        rank = Rank(m, "signed", Const(1), advance=self.i_advance, built=self.deep)
        m.d.comb += self.o.eq(rank.keep(unrounded, "total"))
        return m
