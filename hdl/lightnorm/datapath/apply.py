"""scale * z + term for every element of a beat, exact; `pack` rounds it once.

All products of a block share one exponent, so only the term needs aligning, once per block. Per lane there remain the
multiplier and one adder a bit wider than the product: the aligned term is split as

    term = high * 2^low_bits + low + fraction        (-2^(low_bits-1) <= low < 2^(low_bits-1), 0 <= fraction < 1)

in units of the product's last bit. `low + product` fits a signed number of low_bits + 1 bits, and its sign alone says
how the high part goes on: `high` above a positive sum, `high - 1` above a negative one. Both, and the fraction, belong
to the block, not to a lane.

A term so large that every product is below its last bit is moved next to the products (`Placement.far`): neither the
rounding decision nor the leading bit can tell. A term below half the smallest nonzero product loses bits under
`fraction_bits` to a sticky last bit, which is below every rounding position then. Where even the smallest product is
beyond the format, the rounding position stays behind; products are then moved down as far as they and the sum keep
saturating.

In backward, a chunk's maximum and minimum have terms of their own. Such an element is invalid in its lane; its block
has two more, which add the element's product to its term as floating-point numbers (`OwnSum`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lightnorm_golden.formats import BlockFormat
from lightnorm_golden.spec import NormSpec

from ..arith.shift import normalize, shift_left, shift_right_sticky
from ..arith.wide import significand, wide_layout
from .beat import beat_layout, head_layout, lanes_layout
from .coefficients import MODES, coefficients_layout
from .extrema import marks_layout

__all__ = ["Apply", "SumFormat"]

GUARD_BITS = 4
"""Of a sum of two: where it loses bits below them to the sticky last one, at most three leading bits can cancel."""


@dataclass(frozen=True)
class SumFormat:
    """Widths of the exact sums of a machine that applies to each of `formats`: to the first in training and inference,
    to the last in backward. `extrema`: whether some elements have terms of their own."""

    spec: NormSpec
    formats: tuple[BlockFormat, ...]
    extrema: bool

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
    def own_bits(self) -> int:
        """Magnitude of an `OwnSum`."""
        return max(self.product_bits, self.spec.coef.significand_bits) + GUARD_BITS + 1

    @property
    def exponent_bits(self) -> int:
        """Signed: of every exponent of a last bit, and of their differences."""
        spec = self.spec
        largest_scale = 255 - spec.scale.bias - spec.scale.man_bits
        products = [fmt.max_shared_exp - fmt.bias - self.man_bits + largest_scale for fmt in self.formats]
        products += [-fmt.bias - self.man_bits - spec.scale.bias - spec.scale.man_bits for fmt in self.formats]
        terms = [255 - spec.coef.bias - spec.coef.man_bits, -spec.coef.bias - spec.coef.man_bits]
        extremes = [*products, *terms, min(terms) - self.far_distance, min(products) - self.man_bits - self.own_bits]
        extremes += [term - product for term in terms for product in products]
        return 1 + max(abs(extreme) for extreme in extremes).bit_length()

    @property
    def segment(self) -> int:
        """Lanes that share a block in every format, and are of one chunk if there are extrema."""
        recorded = (self.spec.activation,) if self.extrema else ()
        return math.gcd(*(fmt.block_size for fmt in (*self.formats, *recorded)))

    def beat_bits(self, lanes: int) -> int:
        """Of a packed beat of any of the formats."""
        return max(beat_layout(fmt, lanes).size for fmt in self.formats)

    def layout(self, lanes: int) -> data.StructLayout:
        """Sums of a beat. Per segment: the value of lane i is (high * 2^low_bits + low_i + fraction) * 2^exponent.

        Per activation block, elements of a chunk's extrema: sum * 2^exponent."""
        shared = data.StructLayout(
            {
                "fraction": self.fraction_bits,
                "high": signed(self.high_bits),
                "exponent": signed(self.exponent_bits),
            }
        )
        lane = data.StructLayout({"low": signed(self.low_bits + 1), "valid": 1})
        fields: dict[str, Any] = {
            "segments": data.ArrayLayout(shared, lanes // self.segment),
            "lanes": data.ArrayLayout(lane, lanes),
            "backward": 1,
            "last": 1,
        }
        if self.extrema:
            own = data.StructLayout(
                {
                    "sum": signed(self.own_bits + 1),
                    "exponent": signed(self.exponent_bits),
                    "valid": 1,
                    "lane": range(self.spec.activation.block_size),
                }
            )
            blocks = lanes // self.spec.activation.block_size
            fields["extrema"] = data.ArrayLayout(data.StructLayout({"max": own, "min": own}), blocks)
        return data.StructLayout(fields)


class Placement(wiring.Component):
    """Where a term lies among the products of its lanes; combinational.

    With a nonzero product among them, the term's significand goes `o_places` below the highest position, and
    `o_exponent` is the exponent of the unit; without one the term is at the highest position and `o_alone` is.
    `o_products` is the exponent of the products' last bits.
    """

    def __init__(self, *, sums: SumFormat) -> None:
        self.sums = sums
        super().__init__(
            {
                "i_scale_exponent": In(sums.spec.coef.exp_bits),
                "i_shared_exp": In(sums.exp_bits),
                "i_backward": In(1),
                "i_term_exponent": In(sums.spec.coef.exp_bits),
                "o_products": Out(signed(sums.exponent_bits)),
                "o_places": Out(range(sums.term_bits + 1)),
                "o_exponent": Out(signed(sums.exponent_bits)),
                "o_alone": Out(signed(sums.exponent_bits)),
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
            term_exponent.eq(self.i_term_exponent - (spec.coef.bias + spec.coef.man_bits)),
            twice_term.eq(term_exponent + (spec.coef.man_bits - spec.scale.man_bits + 2)),
            limit.eq(Mux(twice_term > beyond, twice_term, beyond)),
            product_exponent.eq(Mux(scaled_exponent > limit, limit, scaled_exponent)),
            distance.eq(term_exponent - product_exponent),
            far.eq((distance > sums.far_distance) & self.i_term_exponent.any()),
            self.o_products.eq(scaled_exponent),
            self.o_alone.eq(term_exponent - sums.far_distance),
            self.o_exponent.eq(Mux(far, self.o_alone, product_exponent)),
        ]
        # the far position is the highest; everything else is some places lower, down to a sticky bit alone
        lowest = sums.term_bits
        below = Signal(signed(bits + 1))
        m.d.comb += [
            below.eq(sums.far_distance - distance),
            self.o_places.eq(Mux(far | (below < 0), 0, Mux(below > lowest, lowest, below))),
        ]
        return m


class Term(wiring.Component):
    """A term's significand, aligned and signed; combinational. `fraction_bits` places of it are behind the point."""

    def __init__(self, *, sums: SumFormat) -> None:
        self.sums = sums
        super().__init__(
            {
                "i_significand": In(sums.spec.coef.significand_bits),
                "i_negative": In(1),
                "i_places": In(range(sums.term_bits + 1)),
                "o": Out(signed(sums.term_bits + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sums = self.sums
        highest = Cat(Const(0, sums.term_bits - sums.spec.coef.significand_bits), self.i_significand)
        shifted, sticky = shift_right_sticky(m, highest, self.i_places, name="align")
        magnitude = Signal(sums.term_bits)
        m.d.comb += [
            magnitude.eq(shifted | sticky),
            self.o.eq((magnitude ^ self.i_negative.replicate(sums.term_bits + 1)).as_signed() + self.i_negative),
        ]
        return m


class OwnSum(wiring.Component):
    """product + term for one element, exact but for bits that only matter as sticky; combinational.

    `i_products` is the exponent of the last bit of a product. The product is normalized by the element's leading zeros,
    so that its leading bit is one of its first two; the number with the lower first bit is shifted to the other.
    """

    def __init__(self, *, sums: SumFormat) -> None:
        self.sums = sums
        super().__init__(
            {
                "i_significand": In(sums.man_bits + 1),
                "i_product": In(sums.product_bits),
                "i_negative": In(1),
                "i_products": In(signed(sums.exponent_bits)),
                "i_term": In(wide_layout(sums.spec.coef)),
                "o": Out(signed(sums.own_bits + 1)),
                "o_exponent": Out(signed(sums.exponent_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sums, coef, bits = self.sums, self.sums.spec.coef, self.sums.exponent_bits
        whole = sums.own_bits - GUARD_BITS - 1
        _, zeros = normalize(m, self.i_significand, name="zeros")
        product = shift_left(m, self.i_product, zeros, sums.product_bits, name="normalized")
        term_first, product_first = Signal(signed(bits)), Signal(signed(bits))  # exponents of the first bits
        distance, term_leads = Signal(signed(bits + 1)), Signal()
        m.d.comb += [
            term_first.eq(self.i_term.exponent - coef.bias),
            product_first.eq(self.i_products - zeros + (sums.product_bits - 1)),
            distance.eq(term_first - product_first),
            term_leads.eq(self.i_term.exponent.any() & (~distance[-1] | ~product.any())),
        ]
        numbers = []
        for name, value, sign in (
            ("term", significand(self.i_term), self.i_term.sign),
            ("product", product, self.i_negative),
        ):
            number = Signal(whole, name=f"{name}_bits")
            m.d.comb += number.eq(value << (whole - len(value)))
            numbers.append((number, sign))
        (term, term_sign), (product, product_sign) = numbers
        leading, following = Signal(whole), Signal(whole)
        leading_sign, following_sign = Signal(), Signal()
        between = Signal(bits)  # of any size where one of them is zero
        places = Signal(range(whole + GUARD_BITS + 1))
        m.d.comb += [
            leading.eq(Mux(term_leads, term, product)),
            following.eq(Mux(term_leads, product, term)),
            leading_sign.eq(Mux(term_leads, term_sign, product_sign)),
            following_sign.eq(Mux(term_leads, product_sign, term_sign)),
            between.eq((distance ^ distance[-1].replicate(len(distance))) + distance[-1]),
            places.eq(Mux(between > whole + GUARD_BITS, whole + GUARD_BITS, between)),
        ]
        shifted, sticky = shift_right_sticky(m, Cat(Const(0, GUARD_BITS), following), places, name="align")
        width = len(self.o)
        aligned, led = Signal(width), Signal(width)
        m.d.comb += [
            aligned.eq(shifted | sticky),
            led.eq(Cat(Const(0, GUARD_BITS), leading)),
            self.o.eq(
                (led ^ leading_sign.replicate(width))
                + (aligned ^ following_sign.replicate(width))
                + (leading_sign + following_sign)
            ),
            self.o_exponent.eq(Mux(term_leads, term_first, product_first) - (whole - 1 + GUARD_BITS)),
        ]
        return m


class Apply(wiring.Component):
    """One multiplication and one addition per lane and cycle.

    `i` offers heads of beats, `i_marks` tells where extrema are in the beat on offer (`o_backward`: whether there can
    be any), `i_elements` holds the elements of the head taken last. Latency two cycles; all moves when `i_advance`
    says so. A channel's coefficients are taken before its first beat and held through its last.
    """

    def __init__(self, *, sums: SumFormat, lanes: int, terms: int) -> None:
        self.sums, self.lanes, self.terms = sums, lanes, terms
        fmt = sums.spec.activation
        super().__init__(
            ({"i_marks": In(marks_layout(fmt, lanes // fmt.block_size)), "o_backward": Out(1)} if sums.extrema else {})
            | {
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
        if sums.extrema:
            m.d.comb += [backward.eq(coefficients.mode == MODES["backward"]), self.o_backward.eq(backward)]

        # 1: place the terms among the products
        occupied = Signal()
        with m.If(self.i_advance):
            m.d.sync += occupied.eq(take)

        def kept(value: Value, name: str) -> Signal:
            register = Signal(value.shape(), name=name, reset_less=True)
            with m.If(take):
                m.d.sync += register.eq(value)
            return register

        head = self.i.payload
        following = Signal(sums.layout(lanes))
        m.d.comb += [
            following.backward.eq(kept(backward, "is_backward")),
            following.last.eq(kept(head.last, "is_last")),
        ]
        scale, scale_sign = kept(significand(coefficients.scale), "scale"), kept(coefficients.scale.sign, "scale_sign")
        term_significand = kept(significand(coefficients.terms[0]), "term")
        term_sign = kept(coefficients.terms[0].sign ^ backward, "term_sign")

        placed = []
        for segment in range(lanes // sums.segment):
            placement = m.submodules[f"placement_{segment}"] = Placement(sums=sums)
            m.d.comb += [
                placement.i_scale_exponent.eq(coefficients.scale.exponent),
                placement.i_shared_exp.eq(head.shared_exps[segment]),
                placement.i_backward.eq(backward),
                placement.i_term_exponent.eq(coefficients.terms[0].exponent),
            ]
            parts = ("places", "exponent", "alone", "products") if sums.extrema else ("places", "exponent", "alone")
            placed.append({part: kept(getattr(placement, f"o_{part}"), f"{part}_{segment}") for part in parts})
        block_size, per_block = spec.activation.block_size, spec.activation.block_size // sums.segment
        own_terms = {}
        for index, kind in enumerate(("max", "min"), 1):
            if sums.extrema:
                number = coefficients.terms[index]
                own_terms[kind] = kept(Cat(number.fraction, number.exponent, number.sign ^ backward), f"term_{kind}")
        own_lanes: dict[tuple[int, str], tuple[Signal, Signal]] = {}  # whether there is one, which lane of its block
        for block in range(lanes // block_size if sums.extrema else 0):
            for kind in own_terms:
                mark, name = self.i_marks[block][kind], f"{kind}_{block}"
                own_lanes[block, kind] = kept(mark.valid, f"valid_{name}"), kept(mark.lane, f"lane_{name}")

        # 2: align the term, multiply and add
        triple = Signal(spec.scale.significand_bits + 2)
        m.d.comb += triple.eq(scale + (scale << 1))
        products, ordinary = [], []
        for lane in range(lanes):
            element, negative = self.i_elements[lane], Signal(name=f"negative_{lane}")
            product = Signal(sums.product_bits, name=f"product_{lane}")
            inverted = Signal(signed(sums.product_bits + 1), name=f"inverted_{lane}")
            has_own_term = [
                valid & (in_lane == lane % block_size)
                for (block, _), (valid, in_lane) in own_lanes.items() if block == lane // block_size
            ]  # fmt: skip
            ordinary.append(~Cat(has_own_term).any())
            m.d.comb += [
                negative.eq(element.sign ^ scale_sign),
                product.eq(self._multiply(element.significand, scale, triple)),
                inverted.eq(Cat(product ^ negative.replicate(sums.product_bits), negative).as_signed()),
                following.lanes[lane].valid.eq((~element.sign | element.significand.any()) & ordinary[lane]),
            ]
            products.append((product, inverted, negative))
        for segment in range(lanes // sums.segment):
            shared = following.segments[segment]
            of_segment = range(segment * sums.segment, (segment + 1) * sums.segment)
            nonzero = Cat(self.i_elements[lane].significand.any() & ordinary[lane] for lane in of_segment).any()
            present, align = Signal(name=f"products_{segment}"), Term(sums=sums)
            m.submodules[f"align_{segment}"] = align
            m.d.comb += [
                present.eq(nonzero & scale.any()),
                align.i_significand.eq(term_significand),
                align.i_negative.eq(term_sign),
                align.i_places.eq(Mux(present, placed[segment]["places"], 0)),
            ]
            term = align.o
            low_top = sums.fraction_bits + sums.low_bits
            m.d.comb += [
                shared.fraction.eq(term[: sums.fraction_bits]),
                # the low part is signed: where it is negative the high part is one more
                shared.high.eq(term[low_top:].as_signed() + term[low_top - 1]),
                shared.exponent.eq(Mux(present, placed[segment]["exponent"], placed[segment]["alone"])),
            ]
            low = term[sums.fraction_bits : low_top].as_signed()
            for lane in of_segment:
                _, inverted, negative = products[lane]
                m.d.comb += following.lanes[lane].low.eq(inverted + low + negative)
        for (block, kind), (valid, in_lane) in own_lanes.items():
            own = following.extrema[block][kind]
            total = m.submodules[f"own_{kind}_{block}"] = OwnSum(sums=sums)
            exponents = Array(placed[block * per_block + segment]["products"] for segment in range(per_block))
            with m.Switch(in_lane):
                for index in range(block_size):
                    lane = block * block_size + index
                    with m.Case(index):
                        m.d.comb += [
                            total.i_significand.eq(self.i_elements[lane].significand),
                            total.i_product.eq(products[lane][0]),
                            total.i_negative.eq(products[lane][2]),
                        ]
            m.d.comb += [
                total.i_products.eq(exponents[in_lane // sums.segment]),
                total.i_term.eq(own_terms[kind]),
                own.sum.eq(total.o),
                own.exponent.eq(total.o_exponent),
                own.valid.eq(valid),
                own.lane.eq(in_lane),
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
