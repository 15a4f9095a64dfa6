"""scale * z + term for every element of a beat, exact; `pack` rounds it once.

All products of a block share one exponent, so only the term needs aligning, once per block. Per lane there remain the
multiplier and one adder a bit wider than the product: the aligned term is split as

    term = high * 2^low_bits + low + fraction        (-2^(low_bits-1) <= low < 2^(low_bits-1), 0 <= fraction < 1)

in units of the product's last bit. `low + product` fits a signed number of low_bits + 1 bits, and its sign alone says
how the high part goes on: `high` above a positive sum, `high - 1` above a negative one. Both, and the fraction, belong
to the block, not to a lane.

A term so large that every product is below its last bit is moved next to the products (`Alignment.far`): neither the
rounding decision nor the leading bit can tell. A term below half the smallest nonzero product loses bits under
`fraction_bits` to a sticky last bit, which is below every rounding position then. Where even the smallest product is
beyond the format, the rounding position stays behind; products are then moved down as far as they and the sum keep
saturating.
"""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lightnorm_golden.formats import BlockFormat
from lightnorm_golden.spec import NormSpec

from ..arith.shift import shift_right_sticky
from ..arith.wide import significand
from .beat import head_layout, lanes_layout
from .coefficients import MODES, coefficients_layout

__all__ = ["Apply", "SumFormat"]


@dataclass(frozen=True)
class SumFormat:
    """Widths of the exact sums of a machine that applies to each of `formats` (by pass, see `Apply`)."""

    spec: NormSpec
    formats: tuple[BlockFormat, ...]

    @property
    def man_bits(self) -> int:
        """Significands of shorter formats are aligned to this one."""
        return max(fmt.man_bits for fmt in self.formats)

    @property
    def product_bits(self) -> int:
        return self.man_bits + 1 + self.spec.scale.significand_bits

    @property
    def exp_bits(self) -> int:
        return max(fmt.exp_bits for fmt in self.formats)

    @property
    def low_bits(self) -> int:
        return self.product_bits + 1

    @property
    def far_distance(self) -> int:
        """Places from the product's last bit to the term's from which on products only matter by their sign."""
        return self.product_bits + max(0, self.man_bits + 3 - self.spec.coef.man_bits)

    @property
    def fraction_bits(self) -> int:
        """Enough that a term of at least half the smallest nonzero product is exact, and a rounding position is 2
        above."""
        return max(
            self.spec.coef.man_bits - self.spec.scale.man_bits + 1, self.man_bits - self.spec.scale.man_bits + 5, 1
        )

    @property
    def term_bits(self) -> int:
        """Magnitude of an aligned term, fraction included."""
        return self.fraction_bits + self.far_distance + self.spec.coef.significand_bits

    @property
    def high_bits(self) -> int:
        """Signed."""
        return self.term_bits + 1 - self.fraction_bits - self.low_bits + 1

    @property
    def exponent_bits(self) -> int:
        """Signed: of every exponent of a last bit, and of their differences."""
        spec = self.spec
        largest_scale = 255 - spec.scale.bias - spec.scale.man_bits
        products = [fmt.max_shared_exp - fmt.bias - self.man_bits + largest_scale for fmt in self.formats]
        products += [-fmt.bias - self.man_bits - spec.scale.bias - spec.scale.man_bits for fmt in self.formats]
        terms = [255 - spec.coef.bias - spec.coef.man_bits, -spec.coef.bias - spec.coef.man_bits]
        extremes = [*products, *terms, min(terms) - self.far_distance]
        extremes += [term - product for term in terms for product in products]
        return 1 + max(abs(extreme) for extreme in extremes).bit_length()

    @property
    def segment(self) -> int:
        """Lanes that share a block in every format."""
        import math

        return math.gcd(*(fmt.block_size for fmt in self.formats))

    def layout(self, lanes: int) -> data.StructLayout:
        """Sums of a beat. Per segment: the value of lane i is (high * 2^low_bits + low_i + fraction) *
        2^exponent."""
        shared = data.StructLayout(
            {
                "fraction": self.fraction_bits,
                "high": signed(self.high_bits),
                "exponent": signed(self.exponent_bits),
            }
        )
        lane = data.StructLayout({"low": signed(self.low_bits + 1), "valid": 1})
        return data.StructLayout(
            {
                "segments": data.ArrayLayout(shared, lanes // self.segment),
                "lanes": data.ArrayLayout(lane, lanes),
                "backward": 1,
                "last": 1,
            }
        )


class Alignment(wiring.Component):
    """A term in units of the products of one segment; combinational.

    `o_term` is signed with `fraction_bits` places behind the point; `o_exponent` is the exponent of the unit.
    """

    def __init__(self, *, sums: SumFormat) -> None:
        self.sums = sums
        spec = sums.spec
        super().__init__(
            {
                "i_scale_exponent": In(spec.coef.exp_bits),
                "i_shared_exp": In(sums.exp_bits),
                "i_no_products": In(1),
                "i_backward": In(1),
                "i_term": In(data.StructLayout({"fraction": spec.coef.man_bits, "exponent": 8, "sign": 1})),
                "o_term": Out(signed(sums.term_bits + 1)),
                "o_exponent": Out(signed(sums.exponent_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sums, spec, bits = self.sums, self.sums.spec, self.sums.exponent_bits
        offsets = [fmt.bias + sums.man_bits for fmt in sums.formats]
        offset: Value = Const(offsets[0])
        if len(offsets) > 1:
            offset = Mux(self.i_backward, offsets[1], offsets[0])
        scaled_exponent, limit = Signal(signed(bits)), Signal(signed(bits))
        product_exponent, term_exponent = Signal(signed(bits)), Signal(signed(bits))
        # at `beyond` the smallest product is 4 times what any format can hold, at `twice_term` it is twice the term
        beyonds = [fmt.max_shared_exp - fmt.bias + 3 - spec.scale.man_bits for fmt in sums.formats]
        beyond = Const(beyonds[0]) if len(beyonds) == 1 else Mux(self.i_backward, beyonds[1], beyonds[0])
        twice_term = Signal(signed(bits))
        distance, far = Signal(signed(bits)), Signal()
        m.d.comb += [
            scaled_exponent.eq(
                self.i_shared_exp - offset + self.i_scale_exponent - (spec.scale.bias + spec.scale.man_bits)
            ),
            term_exponent.eq(self.i_term.exponent - (spec.coef.bias + spec.coef.man_bits)),
            twice_term.eq(term_exponent + (spec.coef.man_bits - spec.scale.man_bits + 2)),
            limit.eq(Mux(twice_term > beyond, twice_term, beyond)),
            product_exponent.eq(Mux(scaled_exponent > limit, limit, scaled_exponent)),
            distance.eq(term_exponent - product_exponent),
            far.eq(self.i_no_products | ((distance > sums.far_distance) & self.i_term.exponent.any())),
            self.o_exponent.eq(Mux(far, term_exponent - sums.far_distance, product_exponent)),
        ]
        # the far position is the highest; everything else is some places lower, down to a sticky bit alone
        lowest = sums.term_bits
        below, places = Signal(signed(bits + 1)), Signal(range(lowest + 1))
        m.d.comb += [
            below.eq(sums.far_distance - distance),
            places.eq(Mux(far | (below < 0), 0, Mux(below > lowest, lowest, below))),
        ]
        highest = Cat(Const(0, sums.term_bits - spec.coef.significand_bits), significand(self.i_term))
        shifted, sticky = shift_right_sticky(m, highest, places, name="align")
        magnitude, negative = Signal(sums.term_bits), Signal()
        m.d.comb += [
            magnitude.eq(shifted | sticky),
            negative.eq(self.i_term.sign ^ self.i_backward),
            self.o_term.eq((magnitude ^ negative.replicate(sums.term_bits + 1)).as_signed() + negative),
        ]
        return m


class Apply(wiring.Component):
    """One multiplication and one addition per lane and cycle.

    `i` offers heads of beats, `i_elements` holds the elements of the head taken last. Latency two cycles;
    everything moves when `i_advance` says so. A channel's coefficients are taken before its first beat and held through
    its last.
    """

    def __init__(self, *, sums: SumFormat, lanes: int, terms: int) -> None:
        self.sums, self.lanes, self.terms = sums, lanes, terms
        super().__init__(
            {
                "i": In(stream.Signature(head_layout(sums.exp_bits, lanes // sums.segment))),
                "i_elements": In(lanes_layout(sums.man_bits + 1, lanes)),
                "i_coefficients": In(stream.Signature(coefficients_layout(sums.spec, terms))),
                "i_advance": In(1),
                "o": Out(sums.layout(lanes)),
                "o_valid": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sums, spec, lanes = self.sums, self.sums.spec, self.lanes

        # coefficients of the channel
        held = Signal()
        coefficients = Signal(coefficients_layout(spec, self.terms), reset_less=True)
        take = Signal()
        m.d.comb += [
            self.i.ready.eq(self.i_advance & held),
            take.eq(self.i.valid & self.i.ready),
            self.i_coefficients.ready.eq(~held | (take & self.i.payload.last)),
        ]
        with m.If(self.i_coefficients.ready):
            m.d.sync += held.eq(self.i_coefficients.valid)
        with m.If(self.i_coefficients.ready & self.i_coefficients.valid):
            m.d.sync += coefficients.eq(self.i_coefficients.payload)
        backward = Signal()
        if len(sums.formats) > 1:
            m.d.comb += backward.eq(coefficients.mode == MODES["backward"])

        # 1: align the term to each segment
        occupied = Signal()
        backward_1, last_1, scale_sign_1 = Signal(reset_less=True), Signal(reset_less=True), Signal(reset_less=True)
        scale_1 = Signal(spec.scale.significand_bits, reset_less=True)
        triple = Signal(spec.scale.significand_bits + 2)
        m.d.comb += triple.eq(scale_1 + (scale_1 << 1))
        with m.If(self.i_advance):
            m.d.sync += occupied.eq(take)
        with m.If(take):
            m.d.sync += [
                backward_1.eq(backward),
                last_1.eq(self.i.payload.last),
                scale_sign_1.eq(coefficients.scale.sign),
                scale_1.eq(significand(coefficients.scale)),
            ]
        segment_terms, exponents = [], []
        for segment in range(lanes // sums.segment):
            alignment = m.submodules[f"alignment_{segment}"] = Alignment(sums=sums)
            term = Signal(signed(sums.term_bits + 1), name=f"term_{segment}", reset_less=True)
            exponent = Signal(signed(sums.exponent_bits), name=f"exponent_{segment}", reset_less=True)
            m.d.comb += [
                alignment.i_scale_exponent.eq(coefficients.scale.exponent),
                alignment.i_shared_exp.eq(self.i.payload.shared_exps[segment]),
                alignment.i_no_products.eq(~self.i.payload.nonzero[segment] | ~coefficients.scale.exponent.any()),
                alignment.i_backward.eq(backward),
                alignment.i_term.eq(coefficients.terms[0]),
            ]
            with m.If(take):
                m.d.sync += [term.eq(alignment.o_term), exponent.eq(alignment.o_exponent)]
            segment_terms.append(term)
            exponents.append(exponent)

        # 2: multiply and add
        following = Signal(sums.layout(lanes))
        m.d.comb += [following.backward.eq(backward_1), following.last.eq(last_1)]
        for segment, (term, exponent) in enumerate(zip(segment_terms, exponents, strict=True)):
            shared = following.segments[segment]
            low_top = sums.fraction_bits + sums.low_bits
            m.d.comb += [
                shared.fraction.eq(term[: sums.fraction_bits]),
                # the low part is signed: where it is negative the high part is one more
                shared.high.eq(term[low_top:].as_signed() + term[low_top - 1]),
                shared.exponent.eq(exponent),
            ]
        for lane in range(lanes):
            element, negative = self.i_elements[lane], Signal(name=f"negative_{lane}")
            low = segment_terms[lane // sums.segment][
                sums.fraction_bits : sums.fraction_bits + sums.low_bits
            ].as_signed()
            product = Signal(sums.product_bits, name=f"product_{lane}")
            m.d.comb += [
                negative.eq(element.sign ^ scale_sign_1),
                product.eq(self._multiply(element.significand, scale_1, triple)),
                following.lanes[lane].low.eq(
                    Cat(product ^ negative.replicate(sums.product_bits), negative).as_signed() + low + negative
                ),
                following.lanes[lane].valid.eq(~element.sign | element.significand.any()),
            ]
        kept_sums = Signal(sums.layout(lanes), reset_less=True)
        m.d.comb += self.o.eq(kept_sums)
        with m.If(self.i_advance):
            m.d.sync += self.o_valid.eq(occupied)
        with m.If(self.i_advance & occupied):
            m.d.sync += kept_sums.eq(following)
        return m

    @staticmethod
    def _multiply(factor: Signal, scale: Signal, triple: Signal) -> Value:
        """factor * scale two bits of the factor at a time: with 3 * scale made once, half the rows of single bits."""
        rows = []
        for place in range(0, len(factor) - 1, 2):
            low, high = factor[place], factor[place + 1]
            row = Mux(high, Mux(low, triple, scale << 1), Mux(low, scale, 0))
            rows.append(row << place)
        if len(factor) % 2:
            rows.append(Mux(factor[-1], scale, 0) << (len(factor) - 1))
        return sum(rows[1:], rows[0])
