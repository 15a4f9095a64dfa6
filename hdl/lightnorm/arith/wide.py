"""Arithmetic in the wide format: operands in, an unrounded `Unrounded` out; `Rounder` is the one place that rounds.

A wide number is a float32 without the fraction bits that are always zero; exponent 0 is the number 0, its fraction
zero.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lightnorm_golden.formats import WideFormat

from .rounding import round_up
from .shift import normalize, shift_right_sticky

__all__ = ["Adder", "FromFloat32", "Rounder", "significand", "unrounded_layout", "wide_layout"]

EXPONENT_BITS = 11


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


class Adder(wiring.Component):
    """a + b, or a - b if `i_negate_b`, exact but for bits that only matter as sticky; combinational."""

    def __init__(self, *, fmt: WideFormat) -> None:
        self.format = fmt
        super().__init__(
            {
                "i_a": In(wide_layout(fmt)),
                "i_b": In(wide_layout(fmt)),
                "i_negate_b": In(1),
                "o": Out(unrounded_layout(fmt)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fmt, a, b = self.format, self.i_a, self.i_b
        swap = Signal()
        large, small = Signal(wide_layout(fmt)), Signal(wide_layout(fmt))
        large_sign, subtract = Signal(), Signal()
        m.d.comb += [
            swap.eq(Cat(b.fraction, b.exponent) > Cat(a.fraction, a.exponent)),
            large.eq(Mux(swap, b.as_value(), a.as_value())),
            small.eq(Mux(swap, a.as_value(), b.as_value())),
            large_sign.eq(Mux(swap, b.sign ^ self.i_negate_b, a.sign)),
            subtract.eq(a.sign ^ b.sign ^ self.i_negate_b),
        ]
        # three bits below the last place are enough: two that a normalization can bring up, and one sticky
        distance = Signal(fmt.exp_bits)
        places = Signal(range(fmt.significand_bits + 4))
        m.d.comb += [
            distance.eq(large.exponent - small.exponent),
            places.eq(Mux(distance > fmt.significand_bits + 3, fmt.significand_bits + 3, distance)),
        ]
        wide_small = Cat(Const(0, 3), significand(small))
        shifted, sticky = shift_right_sticky(m, wide_small, places, name="align")
        aligned, total = Signal(len(wide_small)), Signal(len(wide_small) + 1)
        m.d.comb += [
            aligned.eq(shifted | sticky),
            total.eq(Cat(Const(0, 3), significand(large)) + (aligned ^ subtract.replicate(len(total))) + subtract),
            self.o.sign.eq(large_sign),
            self.o.magnitude.eq(total << (len(self.o.magnitude) - len(total))),
            self.o.exponent.eq(large.exponent + 1),
        ]
        return m


class Rounder(wiring.Component):
    """Normalizes and rounds to the wide format, or to the scale's shorter fraction; combinational.

    RNE; below 2^-126 after rounding +0; above the largest finite value that value (arithmetic specification, section
    1).
    """

    def __init__(self, *, fmt: WideFormat, scale: WideFormat) -> None:
        self.format, self.scale = fmt, scale
        super().__init__({"i": In(unrounded_layout(fmt)), "i_scale": In(1), "o": Out(wide_layout(fmt))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fmt = self.format
        shifted, places = normalize(m, self.i.magnitude, name="normalize")
        low = fmt.man_bits - self.scale.man_bits  # bits of the significand that a scale does not have

        def decision(bits: int) -> Value:
            dropped = shifted[: len(shifted) - bits]
            return round_up(shifted[-bits], dropped[-1], dropped[:-1].any() | self.i.sticky)

        kept, increment = Signal(fmt.significand_bits), Signal()
        filler, rounded = Signal(fmt.significand_bits), Signal(fmt.significand_bits + 1)
        m.d.comb += [
            filler.eq(Mux(self.i_scale, (1 << low) - 1, 0)),  # carries the increment up to the scale's last place
            kept.eq(shifted[-fmt.significand_bits :]),
            increment.eq(Mux(self.i_scale, decision(self.scale.significand_bits), decision(fmt.significand_bits))),
            rounded.eq((kept | filler) + increment),
        ]
        exponent = Signal(signed(EXPONENT_BITS + 1))
        m.d.comb += exponent.eq(self.i.exponent - places + rounded[-1])
        overflow, flush = Signal(), Signal()
        largest = (1 << fmt.exp_bits) - 2
        m.d.comb += [
            overflow.eq(exponent > largest),
            flush.eq(~shifted[-1] | (exponent < 1)),
            self.o.fraction.eq(
                Mux(flush, 0, (rounded[: fmt.man_bits] | overflow.replicate(fmt.man_bits)) & ~filler[: fmt.man_bits])
            ),
            self.o.exponent.eq(Mux(flush, 0, Mux(overflow, largest, exponent[: fmt.exp_bits]))),
            self.o.sign.eq(self.i.sign & ~flush),
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
            rounded = Signal(len(packed) + 1)
            m.d.comb += rounded.eq(packed + round_up(self.i[dropped_bits], self.i[dropped_bits - 1], sticky))
            if dropped_bits > 1:
                # a subnormal has its leading bit one place lower: only the largest ones round up, to 2^-126
                subnormal_up = self.i[22 - fmt.significand_bits : 23].all()
        overflow, zero = Signal(), Signal()
        m.d.comb += [
            self.o_finite.eq(~exponent.all()),
            overflow.eq(rounded[fmt.man_bits : fmt.man_bits + fmt.exp_bits].all()),
            zero.eq(~exponent.any() | ~self.o_finite),
            self.o.fraction.eq(Mux(zero, 0, rounded[: fmt.man_bits] | overflow.replicate(fmt.man_bits))),
            self.o.exponent.eq(
                Mux(zero, ~exponent.any() & subnormal_up, rounded[fmt.man_bits : len(packed)] - overflow)
            ),
            self.o.sign.eq(self.i[31] & (~zero | (~exponent.any() & subnormal_up))),
        ]
        return m
