"""Exact statistics of a channel while its beats stream by.

    total = sum x       range_total = sum over chunks of max x - min x       (T - U of the arithmetic specification)
    grad_total = sum g  product_total = sum g * x                            (Q and D; backward)

Every accumulator is an integer in units of the smallest step, so order and lanes cannot change a bit. Sizing: 2^24
elements (`MAX_ELEMENTS`) of less than 2^(man_bits+1) * 2^max_shared_exp steps each need
`24 + man_bits + 1 + max_shared_exp` bits of magnitude; a product of two formats has the sum of both numbers of
significand bits and of both largest exponents. A chunk with a range has at least two elements, so 2^23 ranges, each
below twice the largest magnitude, fit the bits of `total`.

Nothing holds a finished total: the accumulators finish in cycles of their own (`statistic_cycles`), in which the
coefficients' program reads them, and the next channel may overwrite each in the cycle after.
"""

from __future__ import annotations

import math
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, ResetSignal, Shape, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lightnorm_golden.spec import MAX_ELEMENTS, NormSpec

from ..arith.rank import Rank
from ..arith.shift import cut_shift_left
from .beat import beat_layout
from .extrema import found_layout, place_layout
from .multiplier import Multiplier
from .order_keys import BlockExtrema, FixedPoint, Normalized, normalized_exponent_bits

__all__ = ["Reduce", "statistic_cycles", "statistics_shapes"]

ELEMENT_COUNT_BITS = MAX_ELEMENTS.bit_length() - 1


def statistic_cycles(deep: bool, backward: bool) -> dict[str, int]:
    """For every statistic the cycle of the coefficients' program (0 is its first) in which it is complete.

    One a cycle, as the one unit reads them: what a `deep` pipeline has first is read first, in a short one what is
    widest, so that little is delayed.
    """
    if deep:
        return {"total": 4, "grad_total": 5, "product_total": 6, "range_total": 7}
    if backward:
        return {"product_total": 0, "range_total": 1, "total": 2, "grad_total": 3}
    return {"total": 0, "range_total": 1}


def statistics_shapes(spec: NormSpec) -> dict[str, tuple[Shape, int]]:
    """Exact statistics by name: shape, and exponent of their unit."""
    x, g = spec.activation, spec.gradient
    total = ELEMENT_COUNT_BITS + x.significand_bits + x.max_shared_exp
    grad_total = ELEMENT_COUNT_BITS + g.significand_bits + g.max_shared_exp
    product_total = total + g.significand_bits + g.max_shared_exp
    return {
        "total": (signed(total + 1), x.min_exponent),
        "range_total": (unsigned(total), x.min_exponent),
        "grad_total": (signed(grad_total + 1), g.min_exponent),
        "product_total": (signed(product_total + 1), x.min_exponent + g.min_exponent),
    }


LONG_CARRY = 100
"""Bits of a sum from which on its carry takes most of a deep pipeline's cycle."""


def _signed_sum(
    m: Module, magnitudes: list[Value], signs: list[Value], *, name: str, cut: Rank | None = None
) -> Signal:
    """Sum of (-1)^sign * magnitude; a zero may have any sign. With a `cut`, groups of four are summed before that rank.

    A negative one is its inverted magnitude, minus 2^bits, plus 1.
    """
    if cut is not None:
        groups = [
            cut.keep(
                _signed_sum(m, magnitudes[i : i + 4], signs[i : i + 4], name=f"{name}_group_{i}"), f"{name}_group_{i}"
            )
            for i in range(0, len(signs), 4)
        ]
        grouped = Signal(signed(len(magnitudes[0]) + 1 + (len(signs) - 1).bit_length()), name=name)
        m.d.comb += grouped.eq(sum(groups[1:], groups[0]))
        return grouped
    bits = len(magnitudes[0])
    negatives = Signal(range(len(signs) + 1), name=f"{name}_negatives")
    total = Signal(signed(bits + 1 + (len(signs) - 1).bit_length()), name=name)
    rows = [value ^ sign.replicate(bits) for value, sign in zip(magnitudes, signs, strict=True)]
    m.d.comb += [
        negatives.eq(sum(signs[1:], signs[0])),
        total.eq(sum(rows[1:], rows[0]) + negatives - (negatives << bits)),
    ]
    return total


class Reduce(wiring.Component):
    """Statistics of each channel, and in a backward build the places of its chunks' extrema.

    One beat per cycle. A channel's last beat waits, `deep` in the first stage, until the coefficients' program begins
    (`i_begin`); each total is then there in the cycle of the program that `statistic_cycles` says, and in no other.

    Ports
    -----
    i_valid, o_ready : a beat is transferred where both are high. i : activations, marked by `unpack`.
    i_offered (`deep`): one may be valid, known earlier than whether one is.
    i_grad : the gradients of the same elements; `i_backward`: they count, and extrema are recorded.
    i_chunk_end, i_last : blocks that close a chunk, the channel's last beat.
    o_occupied : a beat waits in the first stage. o_request : the one that waits is a channel's last. i_begin : the
    program starts in the next cycle.
    o_total, o_range_total, o_grad_total, o_product_total : in steps, see `statistics_shapes`.
    o_found, o_close : per block, the place of an element that is its chunk's maximum or minimum so far, and whether it
        closes the chunk. i_records_free : a beat's chunks can be closed.
    """

    def __init__(self, *, spec: NormSpec, lanes: int, backward: bool, deep: bool) -> None:
        self.spec, self.lanes, self.backward, self.deep = spec, lanes, backward, deep
        self.records_on_the_way = 5 if deep else 0  # ranks between the first stage and `o_close`
        fmt = spec.activation
        blocks = lanes // fmt.block_size
        self.statistics = {
            name: shape for name, shape in statistics_shapes(spec).items()
            if backward or name in ("total", "range_total")
        }
        ports = {
            "i_valid": In(1),
            "o_ready": Out(1),
            "i": In(beat_layout(fmt, lanes)),
            "i_chunk_end": In(blocks),
            "i_last": In(1),
            "o_occupied": Out(1),
            "o_request": Out(1),
            "i_begin": In(1),
            **{f"o_{name}": Out(shape) for name, (shape, _) in self.statistics.items()},
        }
        if deep:
            ports["i_offered"] = In(1)
        if backward:
            ports |= {
                "i_backward": In(1),
                "i_grad": In(beat_layout(spec.gradient, lanes)),
                "o_found": Out(data.ArrayLayout(found_layout(fmt, blocks), blocks)),
                "o_close": Out(blocks),
                "i_records_free": In(1),
            }
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fmt = self.spec.activation
        blocks = self.lanes // fmt.block_size

        # 1: each block's maximum, minimum and sums
        offered = self.i_offered & self.o_ready if self.deep else None
        first = Rank(m, "first", self.i_valid, advance=self.o_ready, loads=offered, built=self.deep)
        last, chunk_end = first.keep(self.i_last, "last"), first.keep(self.i_chunk_end, "chunk_end")
        records = first.keep(self.i_backward, "records") if self.backward else Const(0)  # of chunks that close
        vacant = first.vacant() if self.deep else ~first.valid
        free, go = Signal(), Signal()
        m.d.comb += [
            free.eq(self.i_records_free | ~records if self.backward else 1),
            self.o_occupied.eq(first.valid if self.deep else 0),
            self.o_request.eq(~vacant & last & free),
            go.eq(~vacant & free & (self.i_begin | ~last)),
            self.o_ready.eq(vacant | go if self.deep else free & (self.i_begin | ~last)),
        ]
        second = Rank(m, "second", go, loads=first.valid, built=self.deep)
        third = Rank(m, "third", second.valid, built=self.deep)
        fourth = Rank(m, "fourth", third.valid, built=self.deep)
        normalized = Rank(m, "normalized", fourth.valid, built=self.deep)

        def joined(value: Value, name: str) -> Value:
            """From the first rank to where the extrema are joined."""
            for rank in (second, third, fourth):
                value = rank.keep(value, name)
            return value

        summaries, sums, block_elements = [], [], []
        for index in range(blocks):
            block = self.i[index]
            extrema = BlockExtrema(
                m, block, size=fmt.block_size, lanes=self.backward, deep=self.deep,
                ranks=(first, second, third, fourth), name=f"{index}",
            )  # fmt: skip
            shared_exp = first.keep(block.shared_exp, f"shared_exp_{index}")
            summaries.append((extrema, joined(shared_exp + (fmt.man_bits + 1), f"highest_{index}")))
            elements = self._elements(block, first, f"{index}")
            block_elements.append(elements)
            block_sum = _signed_sum(m, *elements, name=f"block_sum_{index}", cut=second if self.deep else None)
            sums.append(self._kept_sum(block_sum, shared_exp, (first, second, third), f"sum_{index}"))

        # 2: the running maximum and minimum of the chunk; a beat's blocks in order
        ranges = self._scan(
            m, summaries, joined(chunk_end, "chunk_end"), joined(records, "records"), joined(last, "last"), normalized
        )

        # the totals, each in its cycle; what does not count moves no register of them
        when = [(go, go & records, last)]  # cycles later: there is a beat, a gradient; it is its channel's last

        def total(name: str, addends: list[tuple[Value, Value]], largest_exponent: int, *, behind: int) -> None:
            """`behind`: the cycle in which the addends are there."""
            shape, _ = self.statistics[name]
            cycle = statistic_cycles(self.deep, self.backward)[name]
            of_gradients = name in ("grad_total", "product_total")
            while len(when) <= cycle:
                later = tuple(Signal(name=f"{kind}_{len(when)}") for kind in ("go", "go_backward", "last"))
                m.d.sync += [register.eq(value) for register, value in zip(later, when[-1], strict=True)]
                when.append(later)
            counts = [of_cycle[of_gradients] for of_cycle in when]
            rows = []
            if name == "range_total":
                rows = ranges  # the scan has delayed them
            for index, (value, exponent) in enumerate(addends):
                for delay in range(behind, cycle - 2 * self.deep):
                    rank = Rank(m, f"delay_{delay}", counts[delay])
                    value = rank.keep(value, f"{name}_sum_{index}")
                    exponent = rank.keep(exponent, f"{name}_exp_{index}")
                fine, coarse = (
                    Rank(m, rank, counts[place], built=self.deep)
                    for rank, place in (("fine", cycle - 2 * self.deep), ("coarse", cycle - self.deep))
                )
                width = len(value) + largest_exponent
                shifted = cut_shift_left(m, value, exponent, width, fine, name=f"{name}_shift_{index}")
                rows.append(coarse.keep(shifted, f"{name}_shifted_{index}"))
            if self.deep and shape.width > LONG_CARRY:
                # its carry has no time for a gate: it starts from 0, and the last sum goes to a register of its own
                accumulator = Signal(shape, name=f"{name}_accumulator", reset_less=True)
                finished, following = Signal(shape, name=f"{name}_register", reset_less=True), Signal(shape, name=name)
                m.d.comb += [following.eq(sum(rows, accumulator)), getattr(self, f"o_{name}").eq(finished)]
                with m.If(ResetSignal() | (counts[cycle] & when[cycle][2])):
                    m.d.sync += accumulator.eq(0)
                with m.Elif(counts[cycle]):
                    m.d.sync += accumulator.eq(following)
                with m.If(counts[cycle]):
                    m.d.sync += finished.eq(following)
                return
            fresh = Signal(init=1, name=f"{name}_fresh")  # the next beat is a channel's first
            accumulator = Signal(shape, name=f"{name}_register", reset_less=True)
            before = Signal(shape, name=f"{name}_before")
            m.d.comb += [
                before.eq(accumulator & ~fresh.replicate(shape.width)),
                getattr(self, f"o_{name}").eq(accumulator),
            ]
            with m.If(counts[cycle]):
                m.d.sync += [accumulator.eq(sum(rows, before)), fresh.eq(when[cycle][2])]

        total("total", sums, fmt.max_shared_exp, behind=2 * self.deep)
        total("range_total", [], 0, behind=0)
        if self.backward:
            grad_sums, product_sums = self._gradient_sums(m, block_elements, (first, second, third, fourth))
            largest_grad = self.spec.gradient.max_shared_exp
            total("grad_total", grad_sums, largest_grad, behind=2 * self.deep)
            total("product_total", product_sums, fmt.max_shared_exp + largest_grad, behind=3 * self.deep)
        return m

    def _elements(self, block: Any, first: Rank, name: str) -> tuple[list[Value], list[Value]]:
        """Significands and signs of a block, `deep` behind the first rank: near to what adds and multiplies them."""
        elements = [block.elements[lane] for lane in range(len(block.elements))]
        if self.deep:
            elements = [first.keep(element, f"element_{name}_{lane}") for lane, element in enumerate(elements)]
        return [element.significand for element in elements], [element.sign for element in elements]

    def _kept_sum(
        self, total: Value, shared_exp: Value, ranks: tuple[Rank, Rank, Rank], name: str
    ) -> tuple[Value, Value]:
        """A block's sum, whose `deep` form lies behind the second rank already, and its exponent, behind the first:
        behind the third."""
        first, second, third = ranks
        kept = total if self.deep else first.keep(total, name)
        return third.keep(kept, name), third.keep(second.keep(shared_exp, f"{name}_exp"), f"{name}_exp")

    def _gradient_sums(
        self, m: Module, block_elements: list[tuple[list[Value], list[Value]]], ranks: tuple[Rank, Rank, Rank, Rank]
    ) -> tuple[list[tuple[Value, Value]], list[tuple[Value, Value]]]:
        """Sum and shared exponent of each gradient block, behind the third rank; sum of products and of both exponents
        of each piece that lies in one block of either format, behind the fourth. `block_elements`: see `_elements`."""
        first, second, third, fourth = ranks
        fmt, grad_fmt = self.spec.activation, self.spec.gradient
        grad_sums, grad_elements = [], []
        for index in range(self.lanes // grad_fmt.block_size):
            block = self.i_grad[index]
            elements = self._elements(block, first, f"grad_{index}")
            grad_elements.append(elements)
            block_sum = _signed_sum(m, *elements, name=f"grad_block_sum_{index}", cut=second if self.deep else None)
            shared_exp = first.keep(block.shared_exp, f"grad_shared_exp_{index}")
            grad_sums.append(self._kept_sum(block_sum, shared_exp, (first, second, third), f"grad_sum_{index}"))
        product_sums = []
        piece = math.gcd(fmt.block_size, grad_fmt.block_size)
        for index in range(self.lanes // piece):
            products: list[Value] = []
            signs: list[Value] = []
            for lane in range(index * piece, (index + 1) * piece):
                (x, x_sign), (g, g_sign) = (
                    tuple(values[lane % of.block_size] for values in blocks[lane // of.block_size])
                    for blocks, of in ((block_elements, fmt), (grad_elements, grad_fmt))
                )
                product = Signal(fmt.significand_bits + grad_fmt.significand_bits, name=f"product_{lane}")
                # an FPGA's multipliers are far away: numbers this short are multiplied sooner without
                m.d.comb += product.eq(Multiplier(m, x).times(g) if self.deep else x * g)
                products.append(product)
                signs.append(x_sign ^ g_sign)
            if self.deep:
                products = [second.keep(product, f"product_{index}_{i}") for i, product in enumerate(products)]
                signs = [second.keep(sign, f"product_sign_{index}_{i}") for i, sign in enumerate(signs)]
            piece_sum: Value = _signed_sum(
                m, products, signs, name=f"product_piece_sum_{index}", cut=third if self.deep else None
            )
            if not self.deep:
                piece_sum = first.keep(piece_sum, f"product_sum_{index}")
            exponent: Value = first.keep(
                self.i[index * piece // fmt.block_size].shared_exp
                + self.i_grad[index * piece // grad_fmt.block_size].shared_exp,
                f"product_exp_{index}",
            )
            for rank in (second, third, fourth):
                exponent = rank.keep(exponent, f"product_exp_{index}")
            product_sums.append((fourth.keep(piece_sum, f"product_sum_{index}"), exponent))
        return grad_sums, product_sums

    def _scan(
        self,
        m: Module,
        summaries: list[tuple[BlockExtrema, Signal]],
        chunk_end: Value,
        records: Value,
        last: Value,
        rank: Rank,
    ) -> list[Value]:
        """Registered: the addends of `range_total`; and what is known of a closed chunk's places, as it closes.

        Behind the rank, but for the normalization of the blocks' extrema; the places one more behind it."""
        fmt, go = self.spec.activation, rank.valid
        noted = Rank(m, "noted", go, built=self.deep)
        chunk_end, records, last = (
            rank.keep(value, name) for name, value in (("chunk_end", chunk_end), ("records", records), ("last", last))
        )
        key_bits = normalized_exponent_bits(fmt) + fmt.man_bits + 1
        place = place_layout(fmt, len(summaries))
        carried = {kind: Signal(key_bits, name=f"carried_{kind}", reset_less=True) for kind in ("max", "min")}
        fresh = Signal(init=1)  # the next element is a chunk's first
        beat, odd = Signal(place["beat"].shape), Signal()
        noted_records = noted.keep(records, "records")
        counts = noted.valid & noted_records
        running, begins = dict(carried), fresh
        ranges: list[Value] = []
        for index, (extrema, highest) in enumerate(summaries):
            empty = rank.keep(extrema.empty, f"empty_{index}")
            closes = Signal(name=f"closes_{index}")
            m.d.comb += closes.eq(chunk_end[index] & ~empty & go)
            for kind, key, lane in (
                ("max", extrema.max, extrema.max_lane), ("min", extrema.min, extrema.min_lane)
            ):  # fmt: skip
                normalized = m.submodules[f"{kind}_{index}"] = Normalized(fmt=fmt)
                beyond, chosen = Signal(name=f"{kind}_beyond_{index}"), Signal(key_bits, name=f"chunk_{kind}_{index}")
                before, order_key = running[kind], rank.keep(normalized.o, f"{kind}_{index}")
                m.d.comb += [
                    normalized.i_key.eq(key),
                    normalized.i_exponent.eq(highest),
                    beyond.eq(((order_key > before if kind == "max" else order_key < before) | begins) & ~empty),
                    chosen.eq(Mux(beyond, order_key, before)),
                ]
                running[kind] = chosen
                if self.backward:
                    found, of_block = self.o_found[index][kind], rank.keep(lane, f"{kind}_lane_{index}")
                    m.d.comb += [
                        found.valid.eq(counts & noted.keep(beyond, f"{kind}_beyond_{index}")),
                        found.place.beat.eq(beat),
                        found.place.block.eq(index),
                        found.place.lane.eq(noted.keep(of_block, f"{kind}_lane_{index}")),
                    ]
                # without a chunk's end, the key of the number 0
                closed = Signal(key_bits, name=f"closed_{kind}_{index}", reset_less=True)
                m.d.sync += closed.eq(Cat(chosen[:-1] & closes.replicate(key_bits - 1), chosen[-1] | ~closes))
                steps = FixedPoint(fmt=fmt, subtracted=kind == "min", deep=self.deep)
                m.submodules[f"fixed_{kind}_{index}"] = steps
                m.d.comb += steps.i_key.eq(closed)
                ranges += [steps.o, steps.o_negative]
            following = Signal(name=f"begins_{index}")
            m.d.comb += following.eq(Mux(empty, begins, chunk_end[index]))
            begins = following
            if self.backward:
                m.d.comb += self.o_found[index].odd.eq(odd)
                m.d.comb += self.o_close[index].eq(counts & noted.keep(closes, f"close_{index}"))
        with m.If(go):
            m.d.sync += [fresh.eq(begins), *(carried[kind].eq(running[kind]) for kind in carried)]
        if self.backward:
            last = noted.keep(last, "last")
            with m.If(noted.valid):
                m.d.sync += [beat.eq(Mux(last, 0, beat + 1)), odd.eq(odd ^ (last & noted_records))]
        return ranges
