"""product + term for a chunk's maximum or minimum, which has a term of its own: one floating-point addition."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, ShapeLike, Signal, Value, signed
from amaranth.lib import data

from ..arith.rank import Rank
from ..arith.shift import normalize, shift_left, shift_right_sticky
from ..arith.wide import significand
from .sums import GUARD_BITS, SumFormat

__all__ = ["OwnSum"]


class OwnSum:
    """product + term, exact but for bits that only matter as sticky.

    The product is normalized by its element's leading zeros, so that its leading bit is one of its first two; the
    number with the lower first bit is shifted to the other. Three parts of a pipeline, in the order of the methods;
    what they hold for each other crosses the `Rank` between them.
    """

    def __init__(self, m: Module, sums: SumFormat, name: str) -> None:
        self._module, self._sums, self._name = m, sums, name
        self._whole = sums.own_bits - GUARD_BITS - 1

    def _signal(self, shape: ShapeLike, name: str) -> Signal:
        return Signal(shape, name=f"{name}_{self._name}")

    def element(self, element: Value, products: Value, rank: Rank) -> None:
        """The element's significand; the exponent of the last bit of a product."""
        m, bits = self._module, self._sums.exponent_bits
        _, zeros = normalize(m, element, name=f"zeros_{self._name}")
        first = self._signal(signed(bits), "product_first")
        m.d.comb += first.eq(products - zeros + (self._sums.product_bits - 1))
        self._zeros, self._product_first = (
            rank.keep(value, f"{name}_{self._name}") for name, value in (("zeros", zeros), ("first", first))
        )

    def align(
        self, product: Value, negative: Value, term: data.View[data.StructLayout], rank: Rank
    ) -> None:
        """The product's magnitude and sign, and the term."""
        m, sums, coef, bits = self._module, self._sums, self._sums.spec.coef, self._sums.exponent_bits
        whole = self._whole
        normalized = shift_left(m, product, self._zeros, sums.product_bits, name=f"normalized_{self._name}")
        term_first = self._signal(signed(bits), "term_first")  # exponents of the first bits
        distance, term_leads = self._signal(signed(bits + 1), "distance"), self._signal(1, "term_leads")
        between = self._signal(bits, "between")  # of any size where one of them is zero
        places = self._signal(range(whole + GUARD_BITS + 1), "places")
        numbers = []
        for name, value in (("term", significand(term)), ("product", normalized)):
            number = self._signal(whole, f"{name}_bits")
            m.d.comb += number.eq(value << (whole - len(value)))
            numbers.append(number)
        leading, following = self._signal(whole, "leading"), self._signal(whole, "following")
        leading_sign, following_sign = self._signal(1, "leading_sign"), self._signal(1, "following_sign")
        exponent = self._signal(signed(bits), "exponent")
        m.d.comb += [
            term_first.eq(term.exponent - coef.bias),
            distance.eq(term_first - self._product_first),
            term_leads.eq(term.exponent.any() & (~distance[-1] | ~product.any())),
            leading.eq(Mux(term_leads, *numbers)),
            following.eq(Mux(term_leads, *reversed(numbers))),
            leading_sign.eq(Mux(term_leads, term.sign, negative)),
            following_sign.eq(Mux(term_leads, negative, term.sign)),
            between.eq((distance ^ distance[-1].replicate(len(distance))) + distance[-1]),
            places.eq(Mux(between > whole + GUARD_BITS, whole + GUARD_BITS, between)),
            exponent.eq(Mux(term_leads, term_first, self._product_first) - (whole - 1 + GUARD_BITS)),
        ]
        self._leading, self._following, self._leading_sign, self._following_sign, self._places, self._exponent = (
            rank.keep(value, f"{name}_{self._name}")
            for name, value in (
                ("leading", leading), ("following", following), ("leading_sign", leading_sign),
                ("following_sign", following_sign), ("places", places), ("exponent", exponent),
            )
        )  # fmt: skip

    def add(self) -> tuple[Signal, Value]:
        """The sum, and the exponent of its last bit."""
        m, width = self._module, self._sums.own_bits + 1
        wide = Cat(Const(0, GUARD_BITS), self._following)
        shifted, sticky = shift_right_sticky(m, wide, self._places, name=f"own_align_{self._name}")
        aligned, led = self._signal(width, "aligned"), self._signal(width, "led")
        total = self._signal(signed(width), "own_total")
        m.d.comb += [
            aligned.eq(shifted | sticky),
            led.eq(Cat(Const(0, GUARD_BITS), self._leading)),
            total.eq(
                (led ^ self._leading_sign.replicate(width))
                + (aligned ^ self._following_sign.replicate(width))
                + (self._leading_sign + self._following_sign)
            ),
        ]
        return total, self._exponent
