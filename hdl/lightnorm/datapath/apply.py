"""scale * z + term for every element of a beat, exact; `pack` rounds it once.

All products of a block share one exponent, so only the term needs aligning, once per block. Per lane there remain the
multiplier and one adder a bit wider than the product: the aligned term is split as

    |term| = high * 2^low_bits + low + fraction      (-2^(low_bits-1) <= low < 2^(low_bits-1), 0 <= fraction < 1)

in units of the product's last bit. `low + product` fits a signed number of low_bits + 1 bits, and its sign alone says
how the high part goes on: `high` above a positive sum, `high - 1` above a negative one. Both, and the fraction, belong
to the block, not a lane. Where the term is negative, products take the other sign and `pack` negates what it rounds.

A term so large that every product is below its last bit is moved next to the products (`Placement.far`): neither the
rounding decision nor the leading bit can tell. A term below half the smallest nonzero product loses bits under
`fraction_bits` to a sticky last bit, which is below every rounding position then. Where even the smallest product is
beyond the format, the rounding position stays behind; products are then moved down as far as they and the sum keep
saturating.

In backward, a chunk's maximum and minimum have terms of their own. Such an element is invalid in its lane; its block
has two more, which add the element's product to its term as floating-point numbers (`OwnSum`).
"""

from __future__ import annotations

import functools
import operator
from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..arith.rank import Rank
from ..arith.shift import any_below, shift_right_sticky
from ..arith.wide import significand
from .beat import head_layout, lanes_layout
from .coefficients import MODES, coefficients_layout
from .extrema import marks_layout
from .multiplier import Multiplier
from .own_sum import OwnSum
from .sums import SumFormat

__all__ = ["Apply"]


class ChannelExponents(wiring.Component):
    """What all beats of a channel have in common of their exponents; combinational.

    `o_alone` is the exponent of the unit where the term is at its highest position, far above every product or without
    any. `o_scale` plus a shared exponent is the exponent of the products' last bits, `o_limit` the most that matters
    of it.
    """

    def __init__(self, *, sums: SumFormat) -> None:
        self.sums = sums
        shape = signed(sums.exponent_bits)
        super().__init__(
            {
                "i_scale_exponent": In(sums.spec.coef.exp_bits),
                "i_term_exponent": In(sums.spec.coef.exp_bits),
                "i_backward": In(1),
                **{f"o_{name}": Out(shape) for name in ("alone", "scale", "limit")},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sums, spec = self.sums, self.sums.spec
        shape = signed(sums.exponent_bits)

        def by_pass(values: list[int]) -> Value:
            return Const(values[0]) if len(values) == 1 else Mux(self.i_backward, values[1], values[0])

        # at `beyond` the smallest product is 4 times what any format can hold, at `twice_term` it is twice the term
        offset = by_pass([fmt.bias + sums.man_bits + spec.scale.bias + spec.scale.man_bits for fmt in sums.formats])
        beyond = [fmt.max_shared_exp - fmt.bias + 3 - spec.scale.man_bits for fmt in sums.formats]
        unit = spec.coef.bias + spec.coef.man_bits
        above_term = spec.coef.man_bits - spec.scale.man_bits + 2
        term, twice_term, large = Signal(shape), Signal(shape), Signal()
        m.d.comb += [
            term.eq(self.i_term_exponent - unit),
            twice_term.eq(self.i_term_exponent - (unit - above_term)),
            large.eq(self.i_term_exponent > by_pass([place + unit - above_term for place in beyond])),
            self.o_limit.eq(Mux(large, twice_term, by_pass(beyond))),
            self.o_scale.eq(self.i_scale_exponent - offset),
            # a term that is zero is below every product
            self.o_alone.eq(Mux(self.i_term_exponent.any(), term - sums.far_distance, sums.lowest_products)),
        ]
        return m


class Placement(wiring.Component):
    """Where a term lies among the products of its lanes; combinational. `i_alone`: see `ChannelExponents`. `i_above`:
    how far the products' last bits are above that, `i_limit`: the most that matters of it.

    With a nonzero product among them, the term's significand goes `o_places` below the highest position, down to a
    sticky bit alone, and `o_exponent` is the exponent of the unit.
    """

    def __init__(self, *, sums: SumFormat) -> None:
        self.sums = sums
        shape = signed(sums.exponent_bits)
        super().__init__(
            {
                "i_above": In(signed(sums.exponent_bits + 1)),
                "i_alone": In(shape),
                "i_limit": In(shape),
                "o_places": Out(range(sums.term_bits + 1)),
                "o_exponent": Out(shape),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        above, below_term, lowest = self.i_above, Signal(self.sums.exponent_bits), self.sums.term_bits
        beyond, lower = Signal(), Signal()
        m.d.comb += [
            beyond.eq(above > self.i_limit),
            below_term.eq(Mux(above < 0, 0, Mux(beyond, self.i_limit, above))),
            lower.eq(Mux(beyond, self.i_limit > lowest, above > lowest) & (above >= 0)),
            self.o_places.eq(Mux(lower, lowest, below_term)),
            self.o_exponent.eq(self.i_alone + below_term),
        ]
        return m


FINE_BITS = 3
"""Of a term's shift: so many low bits of the amount in the first of two stages."""


OWN_LANES = 4
"""Of a block, lanes whose elements are brought together before the others'."""


class Apply(wiring.Component):
    """One multiplication and one addition per lane and cycle.

    `i` offers heads of beats, `i_marks` tells where extrema are in the beat on offer (`o_backward`: whether there can
    be any), `i_elements` has the elements of the head on offer, `deep` of the one taken last. Latency one cycle, `deep`
    eight; all moves when `i_advance` says so, and `i_ready`, which is the same (see `Pack`). A channel's
    coefficients are taken before its first beat and held through its last; `deep` they must have been on offer for a
    cycle.
    """

    def __init__(self, *, sums: SumFormat, lanes: int, terms: int, deep: bool) -> None:
        self.sums, self.lanes, self.terms, self.deep = sums, lanes, terms, deep
        fmt = sums.spec.activation
        super().__init__(
            ({"i_marks": In(marks_layout(fmt, lanes // fmt.block_size)), "o_backward": Out(1)} if sums.extrema else {})
            | {
                "i": In(stream.Signature(head_layout(sums.exp_bits, lanes // sums.segment))),
                "i_elements": In(lanes_layout(sums.man_bits + 1, lanes)),
                "i_coefficients": In(stream.Signature(coefficients_layout(sums.spec, terms))),
                "i_ready": In(1),
                "i_advance": In(1),
                "o": Out(sums.layout(lanes)),
                "o_valid": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sums, spec, lanes = self.sums, self.sums.spec, self.lanes
        segments = lanes // sums.segment
        block_size, per_block = spec.activation.block_size, spec.activation.block_size // sums.segment

        # coefficients of the channel
        held, take, free, load = Signal(), Signal(), Signal(), Signal()
        waiting = self.i_coefficients.valid
        settled = Rank(m, "settled", waiting, built=self.deep)
        m.d.comb += [
            self.i.ready.eq(self.i_ready & held),
            take.eq(self.i.valid & self.i.ready),
            free.eq(~held | (take & self.i.payload.last)),
            load.eq(free & waiting & settled.valid),
            self.i_coefficients.ready.eq(free & settled.valid if self.deep else free),
        ]
        with m.If(free):
            m.d.sync += held.eq(waiting & settled.valid)

        def registered(value: Value, name: str) -> Any:
            register = Signal(value.shape(), name=f"channel_{name}", reset_less=True)
            with m.If(load):
                m.d.sync += register.eq(value)
            return register

        def of_channel(value: Value, name: str) -> Any:
            return registered(value, name) if self.deep else value

        coefficients = self.i_coefficients.payload
        if not self.deep:  # fewer registers than of what is made of them
            coefficients = registered(coefficients, "coefficients")
        coming_backward = coefficients.mode == MODES["backward"] if sums.extrema else Const(0)
        exponents = m.submodules.exponents = ChannelExponents(sums=sums)
        m.d.comb += [
            exponents.i_scale_exponent.eq(coefficients.scale.exponent),
            exponents.i_term_exponent.eq(coefficients.terms[0].exponent),
            exponents.i_backward.eq(coming_backward),
        ]
        scale_exponent, highest, limit = (
            settled.keep(getattr(exponents, f"o_{name}"), f"settled_{name}") for name in ("scale", "alone", "limit")
        )
        channel_exponents = {
            name: of_channel(value, name)
            for name, value in (
                ("alone", highest), ("scale", scale_exponent),
                ("above", (scale_exponent - highest)[: sums.exponent_bits].as_signed()),
                ("limit", (limit - highest)[: sums.exponent_bits].as_signed()),
            )
        }  # fmt: skip
        backward: Value = of_channel(coming_backward, "backward")
        channel_scale = of_channel(significand(coefficients.scale), "scale_significand")
        channel_scale_sign = of_channel(coefficients.scale.sign, "scale_sign")
        channel_term = of_channel(significand(coefficients.terms[0]), "term")
        channel_term_sign = of_channel(coefficients.terms[0].sign ^ coming_backward, "term_sign")
        if sums.extrema:
            m.d.comb += self.o_backward.eq(backward)

        def rank(name: str, valid: Value) -> Rank:
            return Rank(m, name, valid, advance=self.i_advance, built=self.deep)

        # 1: exponents of the products
        # it moves with all others, also without a head: what says whether there is one comes late
        offset = Rank(m, "offset", take, advance=self.i_advance, loads=self.i_advance, built=self.deep)
        head = self.i.payload
        above, products_of = [], []
        for segment in range(segments):
            difference = Signal(signed(sums.exponent_bits + 1), name=f"above_{segment}")
            exponent = Signal(signed(sums.exponent_bits), name=f"products_{segment}")
            m.d.comb += [
                difference.eq(head.shared_exps[segment] + channel_exponents["above"]),
                exponent.eq(head.shared_exps[segment] + channel_exponents["scale"]),
            ]
            above.append(offset.keep(difference, f"above_{segment}"))
            products_of.append(offset.keep(exponent, f"products_{segment}"))
        is_backward, is_last = offset.keep(backward, "backward"), offset.keep(head.last, "last")
        multiplier = Multiplier(m, offset.keep(channel_scale, "scale"))
        scale_sign = offset.keep(channel_scale_sign, "scale_sign")
        term, term_sign = offset.keep(channel_term, "term"), offset.keep(channel_term_sign, "term_sign")
        alone, limit = (offset.keep(channel_exponents[name], name) for name in ("alone", "limit"))
        own_terms: dict[str, Any] = {}
        marks: dict[tuple[int, str], tuple[Value, Value]] = {}  # whether there is one, which lane of its block
        for index, kind in enumerate(("max", "min") if sums.extrema else (), 1):
            number = coefficients.terms[index]
            negated = Cat(number.fraction, number.exponent, number.sign ^ coming_backward)
            own_term = data.View(number.shape(), of_channel(negated, f"term_{kind}"))
            own_terms[kind] = offset.keep(own_term, f"term_{kind}")
            for block in range(lanes // block_size):
                mark, name = self.i_marks[block][kind], f"{kind}_{block}"
                marks[block, kind] = offset.keep(mark.valid, f"valid_{name}"), offset.keep(mark.lane, f"lane_{name}")

        # a block RAM's output comes late in a cycle: deep, there are registers behind it, and then time
        read = rank("read", offset.valid)
        above = [read.keep(value, f"above_{segment}") for segment, value in enumerate(above)]
        products_of = [read.keep(exponent, f"products_{segment}") for segment, exponent in enumerate(products_of)]
        is_backward, is_last = read.keep(is_backward, "backward"), read.keep(is_last, "last")
        multiplier.cross(read)
        scale_sign, term, term_sign, alone, limit = (
            read.keep(value, name)
            for name, value in (
                ("scale_sign", scale_sign), ("term", term), ("term_sign", term_sign), ("alone", alone), ("limit", limit)
            )
        )  # fmt: skip
        own_terms = {kind: read.keep(value, f"term_{kind}") for kind, value in own_terms.items()}
        own_lanes = {  # one bit for every lane of the block
            (block, kind): read.keep(self._one_hot(mark, block_size), f"own_lane_{kind}_{block}")
            for (block, kind), mark in marks.items()
        }
        marks = self._kept_marks(marks, read)
        elements: Any = read.keep(self.i_elements, "elements") if self.deep else self.i_elements

        # 2: place the terms among the products
        placed = rank("placed", read.valid)
        places, units = [], []
        for segment in range(segments):
            placement = m.submodules[f"placement_{segment}"] = Placement(sums=sums)
            m.d.comb += [
                placement.i_above.eq(above[segment]), placement.i_alone.eq(alone), placement.i_limit.eq(limit)
            ]  # fmt: skip
            places.append(placed.keep(placement.o_places, f"places_{segment}"))
            units.append(placed.keep(placement.o_exponent, f"unit_{segment}"))
        products_of = [placed.keep(exponent, f"products_{segment}") for segment, exponent in enumerate(products_of)]
        is_backward, is_last = placed.keep(is_backward, "backward"), placed.keep(is_last, "last")
        multiplier.cross(placed)
        scale_sign, alone = placed.keep(scale_sign, "scale_sign"), placed.keep(alone, "alone")
        term, term_sign = placed.keep(term, "term"), placed.keep(term_sign, "term_sign")
        own_terms = {kind: placed.keep(value, f"term_{kind}") for kind, value in own_terms.items()}
        marks = self._kept_marks(marks, placed)

        # which elements are there, and which have terms of their own; not deep, the memory's come behind that rank
        def behind(value: Value, name: str) -> Any:
            return placed.keep(value, name) if self.deep else value

        if not self.deep:
            own_lanes = {key: self._one_hot(mark, block_size) for key, mark in marks.items()}  # fewer registers
        ordinary, valid_lanes = Signal(lanes), Signal(lanes)
        for lane in range(lanes):
            has_own_term = [
                bits[lane % block_size] for (block, _), bits in own_lanes.items() if block == lane // block_size
            ]
            element = elements[lane]
            m.d.comb += [
                ordinary[lane].eq(~Cat(has_own_term).any()),
                valid_lanes[lane].eq((~element.sign | element.significand.any()) & ordinary[lane]),
            ]
        own_elements = {
            (block, kind): [
                behind(part, f"own_lanes_{kind}_{block}_{index}")
                for index, part in enumerate(self._own_parts(m, elements, block, one_hot, f"{kind}_{block}"))
            ]
            for (block, kind), one_hot in own_lanes.items()
        }
        nonzero = []  # whether a segment has an element that is not 0
        for segment in range(segments):
            of_segment = range(segment * sums.segment, (segment + 1) * sums.segment)
            some = Cat(elements[lane].significand.any() & ordinary[lane] for lane in of_segment).any()
            nonzero.append(behind(some, f"nonzero_{segment}"))
        valid_lanes = behind(valid_lanes, "valid_lanes")
        elements = behind(elements, "elements")

        # 3: which segments have products that are not 0
        selected = rank("selected", placed.valid)
        present = [
            selected.keep(some & multiplier.factor.any(), f"present_{segment}") for segment, some in enumerate(nonzero)
        ]
        own_sums = {}
        for (block, kind), (_, in_lane) in marks.items():
            own = own_sums[block, kind] = OwnSum(m, sums, f"{kind}_{block}")
            element = Signal(elements[0].shape(), name=f"own_element_{kind}_{block}")
            exponent = Array(products_of[block * per_block : (block + 1) * per_block])[in_lane // sums.segment]
            m.d.comb += element.as_value().eq(functools.reduce(operator.or_, own_elements[block, kind]))
            own.element(element, exponent, selected)
        places = [selected.keep(value, f"places_{segment}") for segment, value in enumerate(places)]
        units = [selected.keep(value, f"unit_{segment}") for segment, value in enumerate(units)]
        elements = selected.keep(elements, "elements")
        alone, term = selected.keep(alone, "alone"), selected.keep(term, "term")
        multiplier.cross(selected)
        scale_sign = selected.keep(scale_sign, "scale_sign")
        own_terms = {kind: selected.keep(value, f"term_{kind}") for kind, value in own_terms.items()}
        marks = self._kept_marks(marks, selected)
        flags = selected.keep(Cat(is_backward, is_last, term_sign, valid_lanes), "flags")

        # 4: multiply, align the term
        multiplied = rank("multiplied", selected.valid)
        products = []
        for lane in range(lanes):
            product, negative = Signal(sums.product_bits, name=f"product_{lane}"), Signal(name=f"negative_{lane}")
            m.d.comb += [
                product.eq(multiplier.times(elements[lane].significand)),
                negative.eq(elements[lane].sign ^ (scale_sign ^ flags[2])),  # to a positive term
            ]
            products.append(
                (multiplied.keep(product, f"product_{lane}"), multiplied.keep(negative, f"negative_{lane}"))
            )
        magnitudes, coarse = [], []
        for segment in range(segments):
            amount, unit = (
                Signal(value.shape(), name=f"{name}_{segment}")
                for name, value in (("amount", places[segment]), ("chosen_unit", units[segment]))
            )
            m.d.comb += [
                amount.eq(Mux(present[segment], places[segment], 0)),
                unit.eq(Mux(present[segment], units[segment], alone)),
            ]
            highest = Cat(Const(0, sums.term_bits - sums.spec.coef.significand_bits), term)
            fine = self._align(m, highest, amount[:FINE_BITS], 0, name=f"fine_{segment}")
            magnitudes.append(multiplied.keep(fine, f"fine_{segment}"))
            coarse.append(multiplied.keep(amount[FINE_BITS:], f"coarse_{segment}"))
            units[segment] = multiplied.keep(unit, f"unit_{segment}")
        for own in own_sums.values():
            own.multiply(multiplier, scale_sign, multiplied)
        own_terms = {kind: multiplied.keep(value, f"term_{kind}") for kind, value in own_terms.items()}
        marks = self._kept_marks(marks, multiplied)
        flags = multiplied.keep(flags, "flags")

        # 5: the rest of the term's way; line up the sums of extrema
        aligned = rank("aligned", multiplied.valid)
        for segment, amount in enumerate(coarse):
            magnitude = self._align(m, magnitudes[segment], amount, FINE_BITS, name=f"coarse_{segment}")
            magnitudes[segment] = aligned.keep(magnitude, f"term_{segment}")
            units[segment] = aligned.keep(units[segment], f"unit_{segment}")
        products = [
            (aligned.keep(product, f"product_{lane}"), aligned.keep(negative, f"negative_{lane}"))
            for lane, (product, negative) in enumerate(products)
        ]
        for (_, kind), own in own_sums.items():
            own.align(own_terms[kind], aligned)
        marks = self._kept_marks(marks, aligned)
        flags = aligned.keep(flags, "flags")

        # 6: give the products their signs
        added = rank("added", aligned.valid)
        terms = [added.keep(term, f"term_{segment}") for segment, term in enumerate(magnitudes)]
        addends = []
        for lane, (product, negative) in enumerate(products):
            inverted = Signal(signed(sums.product_bits + 1), name=f"inverted_{lane}")
            m.d.comb += inverted.eq(Cat(product ^ negative.replicate(sums.product_bits), negative).as_signed())
            addends.append((added.keep(inverted, f"inverted_{lane}"), added.keep(negative, f"negative_{lane}")))
        for own in own_sums.values():
            own.shift(added)
        marks = self._kept_marks(marks, added)
        flags = added.keep(flags, "flags")

        # 7: add
        following = Signal(sums.layout(lanes))
        m.d.comb += [following.backward.eq(flags[0]), following.last.eq(flags[1]), following.negated.eq(flags[2])]
        for segment, term in enumerate(terms):
            shared = following.segments[segment]
            low_top = sums.fraction_bits + sums.low_bits
            low = term[sums.fraction_bits : low_top].as_signed()
            m.d.comb += [
                shared.fraction.eq(term[: sums.fraction_bits]),
                # the low part is signed: where it is negative the high part is one more
                shared.high.eq(term[low_top:] + term[low_top - 1]),
                shared.has_high.eq(term[low_top - 1 :].any()),
                shared.exponent.eq(added.keep(units[segment], f"unit_{segment}")),
            ]
            for lane in range(segment * sums.segment, (segment + 1) * sums.segment):
                addend, negative = addends[lane]
                m.d.comb += [
                    following.lanes[lane].low.eq(addend + low + negative),
                    following.lanes[lane].valid.eq(flags[3 + lane]),
                ]
        for (block, kind), (valid, in_lane) in marks.items():
            field = following.extrema[block][kind]
            total, negated, exponent = own_sums[block, kind].add()
            m.d.comb += [
                field.sum.eq(total), field.negated.eq(negated), field.exponent.eq(exponent), field.valid.eq(valid),
                field.lane.eq(in_lane),
            ]  # fmt: skip
        summed = Rank(m, "summed", added.valid, advance=self.i_advance)
        m.d.comb += [self.o.eq(summed.keep(following, "sums")), self.o_valid.eq(summed.valid)]
        return m

    def _align(self, m: Module, magnitude: Value, amount: Value, fine_bits: int, *, name: str) -> Value:
        """A term `amount` * 2^fine_bits places further down, the last of its bits sticky."""
        shifted, sticky = shift_right_sticky(m, magnitude, Cat(Const(0, fine_bits), amount), name=name)
        if self.deep and fine_bits:  # not behind the shift
            sticky = any_below(m, magnitude, amount, unit=1 << fine_bits, name=f"dropped_{name}")
        return shifted | sticky

    def _own_parts(self, m: Module, elements: Any, block: int, one_hot: Value, name: str) -> list[Value]:
        """The element of a block that the bit of its lane picks, in parts of which all but one are zeros."""
        size, first = self.sums.spec.activation.block_size, block * self.sums.spec.activation.block_size
        parts: list[Value] = []
        for start in range(0, size, OWN_LANES):
            part = Signal(self.sums.man_bits + 2, name=f"own_lanes_{name}_{start}")
            picked = [
                elements[first + lane].as_value() & one_hot[lane].replicate(len(part))
                for lane in range(start, min(start + OWN_LANES, size))
            ]
            m.d.comb += part.eq(functools.reduce(operator.or_, picked))
            parts.append(part)
        return parts

    @staticmethod
    def _one_hot(mark: tuple[Value, Value], lanes: int) -> Value:
        valid, in_lane = mark
        return Cat(valid & (in_lane == lane) for lane in range(lanes))

    @staticmethod
    def _kept_marks(
        marks: dict[tuple[int, str], tuple[Value, Value]], rank: Rank
    ) -> dict[tuple[int, str], tuple[Value, Value]]:
        return {
            (block, kind): (rank.keep(valid, f"valid_{kind}_{block}"), rank.keep(lane, f"lane_{kind}_{block}"))
            for (block, kind), (valid, lane) in marks.items()
        }
