"""Conventional floating-point units: add, multiply, multiply-add, each rounded once.

Numbers are those of `FloatFormat`: RNE, subnormals read as 0 and results below the smallest normal number flushed to +0
after rounding, overflow to the largest finite number, no NaN, no infinity, no negative zero as a result. This is less
than IEEE 754 asks, and smaller.

Every unit ends in `round_float`. `stages` registers cut a unit where it hurts most first; an operation may start every
cycle, and its result is there `stages` cycles later, if `i_enable` was high meanwhile.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lightnorm_golden.formats import FloatFormat

from .rounding import round_up
from .shift import normalize, shift_right_sticky

__all__ = ["FloatAdd", "FloatMultiply", "FloatMultiplyAdd", "align_addend", "float_layout", "multiply_add_layout",
           "normalized_layout", "round_float", "significand_of", "unrounded_sum"]  # fmt: skip


def float_layout(fmt: FloatFormat) -> data.StructLayout:
    """The bits of a number, as in IEEE 754."""
    return data.StructLayout({"fraction": fmt.man_bits, "exponent": fmt.exp_bits, "sign": 1})


def significand_of(number: data.View[data.StructLayout]) -> Value:
    """Fraction with its hidden bit, 0 for a zero and for a subnormal."""
    nonzero = number.exponent.any()
    return Cat(number.fraction & nonzero.replicate(len(number.fraction)), nonzero)


def _exponent_bits(fmt: FloatFormat) -> int:
    """Signed: of a sum of two exponents with a significand above it, and of a normalization below it."""
    return 1 + ((2 << fmt.exp_bits) + 3 * fmt.significand_bits + 4).bit_length()


def normalized_layout(width: int, exponent_bits: int) -> data.StructLayout:
    """A magnitude whose top bit leads if it is not 0; `exponent` is the biased exponent of that bit."""
    return data.StructLayout({"magnitude": width, "exponent": signed(exponent_bits), "sign": 1})


def round_float(
    m: Module,
    fmt: FloatFormat,
    magnitude: Value,
    exponent: Value,
    sign: Value,
    *,
    name: str,
    short: FloatFormat | None = None,
    to_short: Value | None = None,
    largest: Value | None = None,
) -> data.View[data.StructLayout]:
    """A normalized magnitude as a number: RNE, overflow, underflow; where `to_short` says so, to the fewer bits of
    `short`.

    `exponent` is that of the top bit, biased and signed; the last bit of the magnitude may stand for any bits below it.
    `largest`: the largest exponent, if it is not that of `fmt`.
    """

    def decision(bits: int) -> Value:
        dropped = magnitude[: len(magnitude) - bits]
        return round_up(magnitude[-bits], dropped[-1], dropped[:-1].any())

    significand = fmt.significand_bits
    if len(magnitude) < significand + 2:  # a short sum is exact: zeros below it
        padded = Signal(significand + 2, name=f"{name}_padded")
        m.d.comb += padded.eq(magnitude << (len(padded) - len(magnitude)))
        magnitude = padded
    increment: Value = Signal(name=f"{name}_increment")
    filler = Signal(significand, name=f"{name}_filler")
    if short is not None and short.man_bits < fmt.man_bits:
        m.d.comb += [
            filler.eq(Mux(to_short, (1 << (fmt.man_bits - short.man_bits)) - 1, 0)),
            increment.eq(Mux(to_short, decision(short.significand_bits), decision(significand))),
        ]
    else:
        m.d.comb += increment.eq(decision(significand))
    rounded = Signal(significand + 1, name=f"{name}_rounded")
    final = Signal(signed(len(exponent) + 1), name=f"{name}_exponent")
    overflow, flush = Signal(name=f"{name}_overflow"), Signal(name=f"{name}_flush")
    largest = Const((1 << fmt.exp_bits) - 2) if largest is None else largest
    number = Signal(float_layout(fmt), name=name)
    m.d.comb += [
        rounded.eq((magnitude[-significand:] | filler) + increment),
        final.eq(exponent + rounded[-1]),
        overflow.eq(final > largest),
        flush.eq(~magnitude[-1] | (final < 1)),
        number.fraction.eq(
            Mux(flush, 0, (rounded[: fmt.man_bits] | overflow.replicate(fmt.man_bits)) & ~filler[: fmt.man_bits])
        ),
        number.exponent.eq(Mux(flush, 0, Mux(overflow, largest, final[: fmt.exp_bits])[: fmt.exp_bits])),
        number.sign.eq(sign & ~flush),
    ]
    return number


def _checked(stages: int, most: int) -> int:
    if not 0 <= stages <= most:
        raise ValueError(f"stages must be between 0 and {most}, not {stages}")
    return stages


class _Cuts:
    """Registers at the first `stages` of the places that a unit may be cut at, the most useful place first."""

    def __init__(self, m: Module, enable: Value, stages: int, places: tuple[str, ...]) -> None:
        self._module, self._enable, self._places = m, enable, places[:stages]

    def __call__(self, place: str, value: data.View[data.StructLayout]) -> data.View[data.StructLayout]:
        """`value`, or where the place is cut a register of it."""
        if place not in self._places:
            return value
        register = Signal(value.shape(), name=f"{place}_register", reset_less=True)
        with self._module.If(self._enable):
            self._module.d.sync += register.eq(value)
        return register


def multiply_add_layout(fmt: FloatFormat) -> data.StructLayout:
    """A product and an addend beside it, in units of the product's last bit and one bit that stands for all below."""
    significand = fmt.significand_bits
    return data.StructLayout(
        {
            "product": 2 * significand,
            "addend": 3 * significand + 3,
            "exponent": signed(_exponent_bits(fmt)),
            "subtract": 1,
            "sign": 1,
        }
    )


def unrounded_sum(
    m: Module, fmt: FloatFormat, parts: data.View[data.StructLayout]
) -> tuple[Signal, Value, Value]:
    """(magnitude, biased exponent of its top bit, sign) of product and addend."""
    width = 3 * fmt.significand_bits + 3
    total = Signal(signed(width + 1), name="total")
    magnitude = Signal(width, name="total_magnitude")
    m.d.comb += [
        total.eq((parts.addend ^ parts.subtract.replicate(width + 1)).as_signed() + (parts.product << 1)
                 + parts.subtract),
        magnitude.eq((total ^ total[-1].replicate(width + 1)) + total[-1]),
    ]  # fmt: skip
    return magnitude, parts.exponent, parts.sign ^ total[-1]


def align_addend(
    m: Module,
    fmt: FloatFormat,
    a: data.View[data.StructLayout],
    b: data.View[data.StructLayout],
    c: data.View[data.StructLayout],
    negate_product: Value,
) -> data.View[data.StructLayout]:
    """a * b and c, c shifted to it. A c that is far above the product stays `significand_bits` + 1 places above it: the
    rounding decision cannot tell."""
    significand, exponents = fmt.significand_bits, _exponent_bits(fmt)
    parts = Signal(multiply_add_layout(fmt), name="parts")
    width = 3 * significand + 3
    # the addend's highest place is `significand` + 2 above the product's first bit, which is worth 2 (or 0)
    highest, below = Signal(signed(exponents)), Signal(signed(exponents))
    nonzero_product = a.exponent.any() & b.exponent.any()
    far = Signal()
    places = Signal(range(width))
    m.d.comb += [
        highest.eq(a.exponent + b.exponent - fmt.bias + significand + 3),
        below.eq(highest - c.exponent),
        far.eq((below < 0) | ~nonzero_product),
        places.eq(Mux(far, 0, Mux(below > width - 1, width - 1, below))),
        parts.product.eq(significand_of(a) * significand_of(b)),
        parts.exponent.eq(Mux(far & c.exponent.any(), c.exponent, highest)),
        parts.sign.eq(a.sign ^ b.sign ^ negate_product),
        parts.subtract.eq(parts.sign ^ c.sign),
    ]
    shifted, sticky = shift_right_sticky(
        m, Cat(Const(0, width - significand), significand_of(c)), places, name="align"
    )
    m.d.comb += parts.addend.eq(shifted | sticky)
    return parts


class FloatMultiplyAdd(wiring.Component):
    """a * b + c, rounded once; `stages` up to 3 cut it at the sum, the product, the normalized sum."""

    def __init__(self, *, fmt: FloatFormat, stages: int = 0) -> None:
        self.format, self.stages = fmt, _checked(stages, 3)
        number = float_layout(fmt)
        super().__init__(
            {"i_a": In(number), "i_b": In(number), "i_c": In(number), "i_enable": In(1), "o": Out(number)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fmt = self.format
        cut = _Cuts(m, self.i_enable, self.stages, ("sum", "product", "normalized"))
        parts = cut("product", align_addend(m, fmt, self.i_a, self.i_b, self.i_c, Const(0, 1)))
        magnitude, exponent, sign = unrounded_sum(m, fmt, parts)
        m.d.comb += self.o.eq(_finish(m, fmt, cut, magnitude, exponent, sign))
        return m


def _finish(m: Module, fmt: FloatFormat, cut: _Cuts, magnitude: Value, exponent: Value, sign: Value) -> Value:
    """Cut, normalize, cut, round."""
    exponents = len(exponent)
    unrounded = Signal(normalized_layout(len(magnitude), exponents), name="unrounded")
    m.d.comb += [unrounded.magnitude.eq(magnitude), unrounded.exponent.eq(exponent), unrounded.sign.eq(sign)]
    unrounded = cut("sum", unrounded)
    shifted, places = normalize(m, unrounded.magnitude, name="normalize")
    normal = Signal(normalized_layout(len(magnitude), exponents), name="normal")
    m.d.comb += [
        normal.magnitude.eq(shifted),
        normal.exponent.eq(unrounded.exponent - places),
        normal.sign.eq(unrounded.sign),
    ]
    normal = cut("normalized", normal)
    return round_float(m, fmt, normal.magnitude, normal.exponent, normal.sign, name="rounded").as_value()


class FloatAdd(wiring.Component):
    """a + b, rounded once; `stages` up to 3 cut it at the sum, the aligned operands, the normalized sum."""

    def __init__(self, *, fmt: FloatFormat, stages: int = 0) -> None:
        self.format, self.stages = fmt, _checked(stages, 3)
        number = float_layout(fmt)
        super().__init__({"i_a": In(number), "i_b": In(number), "i_enable": In(1), "o": Out(number)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fmt, a, b = self.format, self.i_a, self.i_b
        cut = _Cuts(m, self.i_enable, self.stages, ("sum", "aligned", "normalized"))
        swap = Signal()
        large, small = Signal(float_layout(fmt)), Signal(float_layout(fmt))
        distance = Signal(fmt.exp_bits)
        most = fmt.significand_bits + 3
        places = Signal(range(most + 1))
        m.d.comb += [
            swap.eq(Cat(b.fraction, b.exponent) > Cat(a.fraction, a.exponent)),
            large.eq(Mux(swap, b.as_value(), a.as_value())),
            small.eq(Mux(swap, a.as_value(), b.as_value())),
            distance.eq(large.exponent - small.exponent),
            places.eq(Mux(distance > most, most, distance)),
        ]
        # three bits below the last place are enough: two that a normalization can bring up, and one for all below
        width = fmt.significand_bits + 3
        shifted, sticky = shift_right_sticky(m, Cat(Const(0, 3), significand_of(small)), places, name="align")
        layout = data.StructLayout(
            {"large": width, "small": width, "exponent": fmt.exp_bits, "subtract": 1, "sign": 1}
        )
        aligned = Signal(layout, name="aligned")
        m.d.comb += [
            aligned.large.eq(Cat(Const(0, 3), significand_of(large))),
            aligned.small.eq(shifted | sticky),
            aligned.exponent.eq(large.exponent),
            aligned.subtract.eq(a.sign ^ b.sign),
            aligned.sign.eq(large.sign),
        ]
        aligned = cut("aligned", aligned)
        total, exponent = Signal(width + 1), Signal(signed(_exponent_bits(fmt)))
        m.d.comb += [
            total.eq(aligned.large + (aligned.small ^ aligned.subtract.replicate(width + 1)) + aligned.subtract),
            exponent.eq(aligned.exponent + 1),
        ]
        m.d.comb += self.o.eq(_finish(m, fmt, cut, total, exponent, aligned.sign))
        return m


class FloatMultiply(wiring.Component):
    """a * b, rounded once; `stages` up to 1 cuts it at the product."""

    def __init__(self, *, fmt: FloatFormat, stages: int = 0) -> None:
        self.format, self.stages = fmt, _checked(stages, 1)
        number = float_layout(fmt)
        super().__init__({"i_a": In(number), "i_b": In(number), "i_enable": In(1), "o": Out(number)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fmt, a, b = self.format, self.i_a, self.i_b
        cut = _Cuts(m, self.i_enable, self.stages, ("product",))
        product = Signal(normalized_layout(2 * fmt.significand_bits, _exponent_bits(fmt)), name="product")
        m.d.comb += [
            product.magnitude.eq(significand_of(a) * significand_of(b)),
            product.exponent.eq(a.exponent + b.exponent - (fmt.bias - 1)),
            product.sign.eq(a.sign ^ b.sign),
        ]
        product = cut("product", product)
        top = product.magnitude[-1]
        magnitude = Signal(len(product.magnitude))
        m.d.comb += magnitude.eq(Mux(top, product.magnitude, product.magnitude << 1))
        m.d.comb += self.o.eq(
            round_float(m, fmt, magnitude, product.exponent - Mux(top, 0, 1), product.sign, name="rounded")
        )
        return m
