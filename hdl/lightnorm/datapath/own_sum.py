"""product + term for a chunk's maximum or minimum, which has a term of its own: one floating-point addition."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, ShapeLike, Signal, Value, signed
from amaranth.lib import data

from ..arith.rank import Rank
from ..arith.shift import normalize, shift_right_sticky
from ..arith.wide import significand
from .multiplier import Multiplier
from .sums import GUARD_BITS, SumFormat

__all__ = ["OwnSum"]


FINE_BITS = 4
"""Of the shift: so many low bits of the amount in the first of two stages; the last bit then stands for those below."""


class OwnSum:
    """product + term, exact but for bits that only matter as sticky.

    The element is normalized, so that the product's leading bit is one of its first two; the number with the lower
    first bit is shifted to the other. Five parts of a pipeline, in the order of the methods; what they hold for each
    other crosses the `Rank` between them.
    """

    def __init__(self, m: Module, sums: SumFormat, name: str) -> None:
        self._module, self._sums, self._name = m, sums, name
        self._whole = sums.own_whole

    def _signal(self, shape: ShapeLike, name: str) -> Signal:
        return Signal(shape, name=f"{name}_{self._name}")

    def _keep(self, rank: Rank, **values: Value) -> tuple[Value, ...]:
        return tuple(rank.keep(value, f"{name}_{self._name}") for name, value in values.items())

    def element(self, element: data.View[data.StructLayout], products: Value, rank: Rank) -> None:
        """The element; the exponent of the last bit of a lane's product."""
        significand_bits = element.significand[self._sums.product_bits - self._sums.own_product_bits :]
        normalized, zeros = normalize(self._module, significand_bits, name=f"zeros_{self._name}")
        self._element, self._zeros, self._products, self._negative = self._keep(
            rank, element=normalized, zeros=zeros, products=products, negative=element.sign
        )

    def multiply(self, multiplier: Multiplier, scale_sign: Value, rank: Rank) -> None:
        """By the scale."""
        sums = self._sums
        # exponent of the product's first bit, biased as a term's
        first = self._signal(signed(sums.exponent_bits + 1), "product_first")
        product = self._signal(sums.own_product_bits, "product")
        self._module.d.comb += [
            first.eq(self._products - self._zeros + (sums.product_bits - 1 + sums.spec.coef.bias)),
            product.eq(multiplier.times(self._element)),
        ]
        self._first, self._product, self._negative = self._keep(
            rank, first=first, product=product, negative=self._negative ^ scale_sign
        )

    def align(self, term: data.View[data.StructLayout], rank: Rank) -> None:
        """With the term: which of the numbers leads, and by how many places."""
        m, bits = self._module, self._sums.exponent_bits
        distance, term_leads = self._signal(signed(bits + 1), "distance"), self._signal(1, "term_leads")
        exponent = self._signal(signed(bits + 1), "exponent")  # of the leading bit, biased as a term's
        most = self._whole + GUARD_BITS
        places, far = self._signal(range(most + 1), "places"), self._signal(1, "far")
        # of any size where one of the numbers is zero; where the distance is negative it is one more than `between`
        between = self._signal(bits + 1, "between")
        low = between[: len(places)]
        m.d.comb += [
            distance.eq(term.exponent - self._first),
            term_leads.eq(term.exponent.any() & (~distance[-1] | ~self._product.any())),
            between.eq(distance ^ distance[-1].replicate(len(distance))),
            far.eq(between[len(places) :].any() | (low > most)),
            places.eq(Mux(far, most, low)),
            exponent.eq(Mux(term_leads, term.exponent, self._first)),
        ]
        self._term, self._term_sign, self._product, self._negative, self._term_leads, self._places, self._exponent = (
            self._keep(
                rank, term=significand(term), term_sign=term.sign, product=self._product, negative=self._negative,
                term_leads=term_leads, places=places, exponent=exponent,
            )
        )  # fmt: skip

    def shift(self, rank: Rank) -> None:
        """The number that does not lead, some of its way."""
        m, whole, term_leads = self._module, self._whole, self._term_leads
        numbers = []
        for name, value in (("term", self._term), ("product", self._product)):
            number = self._signal(whole, f"{name}_bits")
            m.d.comb += number.eq(value << (whole - len(value)))
            numbers.append(number)
        term, product = numbers
        leading, following = self._signal(whole, "leading"), self._signal(whole + GUARD_BITS, "following")
        m.d.comb += [
            leading.eq(Mux(term_leads, term, product)),
            # a term that does not lead has one more place to go, see `align`
            following.eq(Mux(term_leads, product << GUARD_BITS, term << (GUARD_BITS - 1))),
        ]
        leading_sign = Mux(term_leads, self._term_sign, self._negative)
        fine, coarse = self._places[:FINE_BITS], self._places[FINE_BITS:]
        shifted, sticky = shift_right_sticky(m, following, fine, name=f"own_fine_{self._name}")
        self._leading, self._shifted, self._coarse, self._negated, self._subtract, self._exponent = self._keep(
            rank, leading=leading, shifted=shifted | sticky, coarse=coarse, negated=leading_sign,
            subtract=self._term_sign ^ self._negative, exponent=self._exponent[: self._sums.exponent_bits].as_signed(),
        )  # fmt: skip

    def add(self) -> tuple[Signal, Value, Value]:
        """The rest of the way; the sum as if the leading number were positive, whether it is not, and its exponent,
        biased."""
        m, width = self._module, self._sums.own_bits + 1
        amount = Cat(Const(0, FINE_BITS), self._coarse)
        shifted, sticky = shift_right_sticky(m, self._shifted, amount, name=f"own_coarse_{self._name}")
        aligned = self._signal(width, "own_aligned")
        total = self._signal(signed(width), "own_total")
        m.d.comb += [
            aligned.eq(shifted | sticky),
            total.eq((self._leading << GUARD_BITS) + (aligned ^ self._subtract.replicate(width)) + self._subtract),
        ]
        return total, self._negated, self._exponent
