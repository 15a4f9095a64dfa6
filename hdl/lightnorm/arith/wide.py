"""Arithmetic in the wide format: operands in, an unrounded `Unrounded` out; `Rounder` is the one place that rounds.

A wide number is a float32 without the fraction bits that are always zero; exponent 0 is the number 0, its fraction
zero.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lightnorm_golden.formats import WideFormat

from .rank import Rank
from .rounding import round_up
from .shift import any_below, normalize, normalize_groups, shift_right_sticky

__all__ = ["Adder", "FromFloat32", "Order", "Rounder", "significand", "unrounded_layout", "wide_layout"]

EXPONENT_BITS = 11
GROUP = 8
"""Bits that `deep` normalizes by in its first cycle."""


def wide_layout(fmt: WideFormat) -> data.StructLayout:
    """The bits of a wide number, those of a float32 from the top."""
    return data.StructLayout({"fraction": fmt.man_bits, "exponent": fmt.exp_bits, "sign": 1})


def significand(number: data.View[data.StructLayout]) -> Value:
    """Fraction with its hidden bit; the fraction of a zero is zero."""
    return Cat(number.fraction, number.exponent.any())


def unrounded_layout(fmt: WideFormat) -> data.StructLayout:
    """(-1)^sign * magnitude, where `exponent` (biased, signed) is the result's if the magnitude's top bit leads.

    The magnitude holds a product and a bit above it; `sticky` stands for nonzero bits below.
    """
    return data.StructLayout(
        {"magnitude": 2 * fmt.significand_bits + 1, "exponent": signed(EXPONENT_BITS), "sign": 1, "sticky": 1}
    )


def _places_shape(fmt: WideFormat, deep: bool) -> Shape:
    return Shape(fmt.exp_bits) if deep else Shape.cast(range(fmt.significand_bits + 4))


class Order(wiring.Component):
    """Which of two numbers has the smaller magnitude; combinational.

    `o_swap`: b has the larger. `o_places`: how far the smaller must be shifted down to the larger, not `deep` at most
    as far as it is long.
    """

    def __init__(self, *, fmt: WideFormat, deep: bool) -> None:
        self.format, self.deep = fmt, deep
        wide = wide_layout(fmt)
        places = _places_shape(fmt, deep)
        super().__init__({"i_a": In(wide), "i_b": In(wide), "o_swap": Out(1), "o_places": Out(places)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fmt, a, b = self.format, self.i_a, self.i_b
        ahead, behind, distance = Signal(signed(fmt.exp_bits + 1)), Signal(fmt.exp_bits), Signal(fmt.exp_bits)
        # three bits below the last place are enough: two that a normalization can bring up, and one sticky
        most = fmt.significand_bits + 3
        m.d.comb += [
            self.o_swap.eq(Cat(b.fraction, b.exponent) > Cat(a.fraction, a.exponent)),
            ahead.eq(a.exponent - b.exponent),
            behind.eq(b.exponent - a.exponent),
            distance.eq(Mux(ahead < 0, behind, ahead)),  # not behind `o_swap`, which is the same or does not matter
            self.o_places.eq(distance if self.deep else Mux(distance > most, most, distance)),
        ]
        return m


class Adder(wiring.Component):
    """The sum of two numbers of which `Order` says which is smaller, exact but for bits that only matter as sticky.

    Combinational; `deep` takes a cycle that ends when `i_advance` says so, between alignment and addition.
    """

    def __init__(self, *, fmt: WideFormat, deep: bool) -> None:
        self.format, self.deep = fmt, deep
        super().__init__(
            {
                "i_a": In(wide_layout(fmt)),
                "i_b": In(wide_layout(fmt)),
                "i_swap": In(1),
                "i_places": In(_places_shape(fmt, deep)),
                "i_advance": In(1),
                "o": Out(unrounded_layout(fmt)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        large, small = (Signal(wide_layout(self.format), name=name) for name in ("large", "small"))
        m.d.comb += [
            large.eq(Mux(self.i_swap, self.i_b.as_value(), self.i_a.as_value())),
            small.eq(Mux(self.i_swap, self.i_a.as_value(), self.i_b.as_value())),
        ]
        subtract, total = Signal(), Signal(self.format.significand_bits + 4)
        wide_small = Cat(Const(0, 3), significand(small))
        near = (len(wide_small) - 1).bit_length()
        shifted, sticky = shift_right_sticky(m, wide_small, self.i_places[:near], name="align")
        if self.deep:  # not behind the shift, nor behind what limits the places
            shifted &= ~self.i_places[near:].any().replicate(len(wide_small))
            sticky = any_below(m, wide_small, self.i_places, name="align_dropped")
        rank = Rank(m, "aligned", Const(1), advance=self.i_advance, built=self.deep)
        differ = rank.keep(large.sign ^ small.sign, "differ")
        aligned, large = rank.keep(shifted, "small") | rank.keep(sticky, "sticky"), rank.keep(large, "large")
        m.d.comb += [
            subtract.eq(differ),
            total.eq(Cat(Const(0, 3), significand(large)) + (aligned ^ subtract.replicate(len(total))) + subtract),
            self.o.sign.eq(large.sign),
            self.o.magnitude.eq(total << (len(self.o.magnitude) - len(total))),
            self.o.exponent.eq(large.exponent + 1),
        ]
        return m


class Rounder(wiring.Component):
    """Normalizes and rounds to the wide format, or to the scale's shorter fraction.

    Combinational; `deep` takes three cycles that end when `i_advance` says so: in the middle of the normalization,
    behind it, and behind the rounding decision. `i_scale` belongs to that decision.
    RNE; below 2^-126 after rounding +0; above the largest finite value that value (arithmetic specification, section
    1).
    """

    def __init__(self, *, fmt: WideFormat, scale: WideFormat, deep: bool) -> None:
        self.format, self.scale, self.deep = fmt, scale, deep
        super().__init__(
            {"i": In(unrounded_layout(fmt)), "i_advance": In(1), "i_scale": In(1), "o": Out(wide_layout(fmt))}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fmt = self.format
        cut, rank = (
            Rank(m, name, Const(1), advance=self.i_advance, built=self.deep) for name in ("coarse", "normalized")
        )
        magnitude, exponent = self.i.magnitude, Signal(signed(EXPONENT_BITS + 1), name="unrounded_exponent")
        m.d.comb += exponent.eq(self.i.exponent)
        above: Value = Const(0, 0)  # places of the first cycle
        if self.deep:
            magnitude, groups = normalize_groups(m, magnitude, group=GROUP, name="coarse")
            exponent, above = cut.keep(exponent, "exponent"), cut.keep(groups, "groups")
            magnitude = cut.keep(magnitude, "magnitude")
        normalized, places = normalize(m, magnitude, top=GROUP if self.deep else None, name="normalize")
        leading_exponent = Signal(signed(EXPONENT_BITS + 1))
        m.d.comb += leading_exponent.eq(exponent - Cat(places, above))
        shifted, leading_exponent = rank.keep(normalized, "shifted"), rank.keep(leading_exponent, "exponent")
        sticky, sign = (
            rank.keep(cut.keep(value, name), name) for value, name in ((self.i.sticky, "sticky"), (self.i.sign, "sign"))
        )
        low = fmt.man_bits - self.scale.man_bits  # bits of the significand that a scale does not have

        def decision(bits: int) -> Value:
            dropped = shifted[: len(shifted) - bits]
            return round_up(shifted[-bits], dropped[-1], dropped[:-1].any() | sticky)

        kept, filler, increment = Signal(fmt.significand_bits), Signal(fmt.significand_bits), Signal()
        largest = (1 << fmt.exp_bits) - 2
        m.d.comb += [
            filler.eq(Mux(self.i_scale, (1 << low) - 1, 0)),  # carries the increment up to the scale's last place
            kept.eq(shifted[-fmt.significand_bits :]),
            increment.eq(Mux(self.i_scale, decision(self.scale.significand_bits), decision(fmt.significand_bits))),
        ]
        rank = Rank(m, "decided", Const(1), advance=self.i_advance, built=self.deep)
        full = rank.keep((kept | filler).all(), "full") if self.deep else None  # it carries if incremented
        kept, filler, increment, leading_exponent, sign = (
            rank.keep(value, name)
            for name, value in (
                ("kept", kept), ("filler", filler), ("increment", increment), ("exponent", leading_exponent),
                ("sign", sign),
            )
        )  # fmt: skip
        # all that the carry decides is there before it
        rounded, following = Signal(fmt.significand_bits + 1), Signal(signed(EXPONENT_BITS + 1))
        final = Signal(signed(EXPONENT_BITS + 1))
        carry, overflow, flush = Signal(), Signal(), Signal()
        m.d.comb += [
            rounded.eq((kept | filler) + increment),
            carry.eq(rounded[-1] if full is None else full & increment),  # not behind the addition
            following.eq(leading_exponent + 1),
            final.eq(Mux(carry, following, leading_exponent)),
            overflow.eq((leading_exponent > largest) | ((leading_exponent == largest) & carry)),
            flush.eq(~kept[-1] | (leading_exponent < 0) | ((leading_exponent == 0) & ~carry)),
            self.o.fraction.eq(
                Mux(flush, 0, (rounded[: fmt.man_bits] | overflow.replicate(fmt.man_bits)) & ~filler[: fmt.man_bits])
            ),
            self.o.exponent.eq(Mux(flush, 0, Mux(overflow, largest, final[: fmt.exp_bits]))),
            self.o.sign.eq(sign & ~flush),
        ]
        return m


class FromFloat32(wiring.Component):
    """A host's float32 word rounded to the wide format; combinational. `o_finite` is 0 for NaN and infinity (read as
    0)."""

    def __init__(self, *, fmt: WideFormat) -> None:
        self.format = fmt
        super().__init__({"i": In(32), "o": Out(wide_layout(fmt)), "o_finite": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fmt = self.format
        dropped_bits = 23 - fmt.man_bits
        exponent = self.i[23:31]
        packed = Signal(fmt.man_bits + fmt.exp_bits)
        m.d.comb += packed.eq(self.i[dropped_bits:31])
        rounded: Value = packed
        subnormal_up: Value = Const(0)
        if dropped_bits:
            sticky = self.i[: dropped_bits - 1].any() if dropped_bits > 1 else Const(0)
            rounded, largest = Signal(len(packed)), Signal()
            m.d.comb += [
                largest.eq(packed == (255 << fmt.man_bits) - 1),  # saturates
                rounded.eq(
                    packed + (round_up(self.i[dropped_bits], self.i[dropped_bits - 1], sticky) & ~largest)
                ),
            ]
            if dropped_bits > 1:
                # a subnormal has its leading bit one place lower: only the largest ones round up, to 2^-126
                subnormal_up = self.i[22 - fmt.significand_bits : 23].all()
        zero = Signal()
        m.d.comb += [
            self.o_finite.eq(~exponent.all()),
            zero.eq(~exponent.any() | ~self.o_finite),
            self.o.fraction.eq(Mux(zero, 0, rounded[: fmt.man_bits])),
            self.o.exponent.eq(Mux(zero, ~exponent.any() & subnormal_up, rounded[fmt.man_bits :])),
            self.o.sign.eq(self.i[31] & (~zero | (~exponent.any() & subnormal_up))),
        ]
        return m
