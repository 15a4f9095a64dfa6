"""Exact statistics of a channel while its beats stream by: S = sum x, and the sum over chunks of max - min.

Every accumulator is an integer in units of the format's smallest step, so order and lanes cannot change a bit. Sizing:
2^24 elements (`MAX_ELEMENTS`) of less than 2^(man_bits+1) * 2^max_shared_exp steps each need
`24 + man_bits + 1 + max_shared_exp` bits of magnitude. A chunk with a range has at least two elements, so 2^23 ranges,
each below twice the largest magnitude, fit the same bits.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lightnorm_golden.formats import BlockFormat
from lightnorm_golden.spec import MAX_ELEMENTS

from ..arith.shift import normalize, shift_left
from .beat import beat_layout, block_layout

__all__ = ["Reduce", "total_bits"]

ELEMENT_COUNT_BITS = MAX_ELEMENTS.bit_length() - 1


def total_bits(fmt: BlockFormat) -> int:
    """Bits of the magnitude of a sum over the largest channel."""
    return ELEMENT_COUNT_BITS + fmt.significand_bits + fmt.max_shared_exp


def _order_key(element: data.View[data.StructLayout]) -> Value:
    """Unsigned integer in the order of the element's value (sign on top, magnitude inverted when negative)."""
    return Cat(element.significand ^ element.sign.replicate(len(element.significand)), ~element.sign)


class BlockSummary(wiring.Component):
    """Maximum, minimum and sum of one block's elements, padding left out; combinational.

    The extrema come as order keys (see `_order_key`) of man_bits + 2 bits; `o_empty`: the block is all padding, and
    they mean nothing. Padding is always behind the elements, so that of any run of elements the first one tells whether
    it holds an element at all.
    """

    def __init__(self, *, fmt: BlockFormat) -> None:
        self.format = fmt
        sum_bits = fmt.element_bits + (fmt.block_size - 1).bit_length()
        super().__init__(
            {
                "i": In(block_layout(fmt)),
                "o_max": Out(fmt.element_bits),
                "o_min": Out(fmt.element_bits),
                "o_empty": Out(1),
                "o_sum": Out(signed(sum_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fmt = self.format
        extrema: list[tuple[Value, Value, Value]] = []  # maximum, minimum, and whether there is an element
        for index in range(fmt.block_size):
            element = self.i.elements[index]
            exists, key = Signal(name=f"exists_{index}"), Signal(fmt.element_bits, name=f"key_{index}")
            m.d.comb += [
                exists.eq(~element.sign | element.significand.any()),
                key.eq(_order_key(element)),
            ]
            extrema.append((key, key, exists))
        level = 0
        while len(extrema) > 1:
            following = [
                self._later(m, extrema[i], extrema[i + 1], f"{level}_{i}") for i in range(0, len(extrema) - 1, 2)
            ]
            extrema, level = following + extrema[len(extrema) // 2 * 2 :], level + 1
        largest, smallest, exists = extrema[0]

        # a negative element is its inverted significand, minus 2^significand_bits, plus 1
        elements = [self.i.elements[index] for index in range(fmt.block_size)]
        unsigned_sum = sum(element.significand ^ element.sign.replicate(fmt.significand_bits) for element in elements)
        negatives = Signal(range(fmt.block_size + 1))
        m.d.comb += [
            negatives.eq(sum(element.sign for element in elements)),
            self.o_max.eq(largest),
            self.o_min.eq(smallest),
            self.o_empty.eq(~exists),
            self.o_sum.eq(unsigned_sum + negatives - (negatives << fmt.significand_bits)),
        ]
        return m

    @staticmethod
    def _later(
        m: Module, first: tuple[Value, Value, Value], second: tuple[Value, Value, Value], name: str
    ) -> tuple[Value, Value, Value]:
        """Extrema of two neighbouring runs of elements; between single elements one comparison tells both."""
        (first_max, first_min, first_exists), (second_max, second_min, second_exists) = first, second
        larger, smaller = Signal(len(first_max), name=f"max_{name}"), Signal(len(first_max), name=f"min_{name}")
        above, below = Signal(name=f"above_{name}"), Signal(name=f"below_{name}")
        single = first_max is first_min
        m.d.comb += [
            above.eq(second_max > first_max),
            below.eq(~above if single else second_min < first_min),
            larger.eq(Mux(above & second_exists, second_max, first_max)),
            smaller.eq(Mux(below & second_exists, second_min, first_min)),
        ]
        return larger, smaller, first_exists


def _exponent_bits(fmt: BlockFormat) -> int:
    """Of a normalized extremum: shared exponents, man_bits places below them, and 0 for the number 0."""
    return (fmt.max_shared_exp + fmt.man_bits + 1).bit_length()


class Normalized(wiring.Component):
    """An extremum of a block as a number whose order key compares across blocks; combinational.

    `o` is the order key of {exponent, significand without its leading bit}; exponent 0 is the number 0, otherwise the
    value is significand * 2^(exponent - 1 - man_bits) steps.
    """

    def __init__(self, *, fmt: BlockFormat) -> None:
        self.format = fmt
        self.exponent_bits = _exponent_bits(fmt)
        super().__init__(
            {
                "i_key": In(fmt.element_bits),
                "i_shared_exp": In(fmt.exp_bits),
                "o": Out(self.exponent_bits + fmt.man_bits + 1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fmt = self.format
        negative = Signal()
        magnitude = Signal(fmt.significand_bits)
        m.d.comb += [
            negative.eq(~self.i_key[-1]),
            magnitude.eq(self.i_key[:-1] ^ negative.replicate(fmt.significand_bits)),
        ]
        shifted, places = normalize(m, magnitude, name="normalize")
        exponent = Signal(self.exponent_bits)
        m.d.comb += exponent.eq(Mux(shifted[-1], self.i_shared_exp + (fmt.man_bits + 1) - places, 0))
        ordered = Cat(shifted[:-1], exponent)
        m.d.comb += self.o.eq(Cat(ordered ^ negative.replicate(len(ordered)), ~negative))
        return m


class FixedPoint(wiring.Component):
    """A normalized order key as an integer of steps, inverted where negative; combinational.

    The value is `o + o_negative`: the caller's adder takes the one that two's complement still needs.
    """

    def __init__(self, *, fmt: BlockFormat) -> None:
        self.format = fmt
        self.exponent_bits = _exponent_bits(fmt)
        super().__init__(
            {
                "i_key": In(self.exponent_bits + fmt.man_bits + 1),
                "o": Out(signed(fmt.significand_bits + fmt.max_shared_exp + 1)),
                "o_negative": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fmt = self.format
        negative = Signal()
        magnitude = Signal(len(self.i_key) - 1)
        m.d.comb += [
            negative.eq(~self.i_key[-1]),
            magnitude.eq(self.i_key[:-1] ^ negative.replicate(len(magnitude))),
        ]
        exponent = magnitude[fmt.man_bits :]
        significand = Cat(magnitude[: fmt.man_bits], exponent.any())
        # the shift by exponent - 1 - man_bits is made by exponent, and its last man_bits + 1 places, all zeros, dropped
        width = fmt.significand_bits + fmt.max_shared_exp + fmt.man_bits + 1
        shifted = shift_left(m, significand, exponent, width, name="shift")
        steps = shifted[fmt.man_bits + 1 :]
        m.d.comb += [
            self.o.eq(Cat(steps, 0) ^ negative.replicate(len(self.o))),
            self.o_negative.eq(negative),
        ]
        return m


class Reduce(wiring.Component):
    """S and the sum of ranges of each channel.

    One beat per cycle, never stalls. `o_valid` pulses four cycles after the beat with `i_last`; `o_total` (steps) and
    `o_range_total` (steps, not negative) then hold until the next channel's pulse.
    """

    def __init__(self, *, fmt: BlockFormat, lanes: int) -> None:
        self.format, self.lanes = fmt, lanes
        blocks = lanes // fmt.block_size
        super().__init__(
            {
                "i_valid": In(1),
                "i": In(beat_layout(fmt, lanes)),
                "i_chunk_end": In(blocks),
                "i_last": In(1),
                "o_valid": Out(1),
                "o_total": Out(signed(total_bits(fmt) + 1)),
                "o_range_total": Out(unsigned(total_bits(fmt))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fmt = self.format
        blocks = self.lanes // fmt.block_size

        # 1: each block's maximum, minimum and sum
        summed_valid = Signal()
        summed_last, summed_end = Signal(reset_less=True), Signal(blocks, reset_less=True)
        m.d.sync += summed_valid.eq(self.i_valid)
        with m.If(self.i_valid):
            m.d.sync += [summed_last.eq(self.i_last), summed_end.eq(self.i_chunk_end)]
        summaries = []
        for block in range(blocks):
            summary = m.submodules[f"block_{block}"] = BlockSummary(fmt=fmt)
            largest = Signal(fmt.element_bits, name=f"max_{block}", reset_less=True)
            smallest = Signal(fmt.element_bits, name=f"min_{block}", reset_less=True)
            empty = Signal(name=f"empty_{block}", reset_less=True)  # a block behind the channel's last element
            total = Signal(summary.o_sum.shape(), name=f"sum_{block}", reset_less=True)
            shared_exp = Signal(fmt.exp_bits, name=f"shared_exp_{block}", reset_less=True)
            m.d.comb += summary.i.eq(self.i[block])
            with m.If(self.i_valid):
                m.d.sync += [
                    largest.eq(summary.o_max),
                    smallest.eq(summary.o_min),
                    empty.eq(summary.o_empty),
                    total.eq(summary.o_sum),
                    shared_exp.eq(self.i[block].shared_exp),
                ]
            summaries.append((largest, smallest, empty, total, shared_exp))

        # 2: the running maximum and minimum of the chunk; a beat's blocks in order
        scanned_valid, scanned_last = Signal(), Signal(reset_less=True)
        m.d.sync += scanned_valid.eq(summed_valid)
        key_bits = _exponent_bits(fmt) + fmt.man_bits + 1
        carried_max, carried_min = Signal(key_bits), Signal(key_bits, init=-1)
        running_max: Value = carried_max
        running_min: Value = carried_min
        scanned = []
        for block, (largest, smallest, empty, total, shared_exp) in enumerate(summaries):
            at_max = m.submodules[f"max_{block}"] = Normalized(fmt=fmt)
            at_min = m.submodules[f"min_{block}"] = Normalized(fmt=fmt)
            end = summed_end[block]
            chunk_max, chunk_min = (
                Signal(key_bits, name=f"chunk_max_{block}"),
                Signal(key_bits, name=f"chunk_min_{block}"),
            )
            next_max, next_min = Signal(key_bits, name=f"next_max_{block}"), Signal(key_bits, name=f"next_min_{block}")
            m.d.comb += [
                at_max.i_key.eq(largest),
                at_min.i_key.eq(smallest),
                at_max.i_shared_exp.eq(shared_exp),
                at_min.i_shared_exp.eq(shared_exp),
                chunk_max.eq(Mux((at_max.o > running_max) & ~empty, at_max.o, running_max)),
                chunk_min.eq(Mux((at_min.o < running_min) & ~empty, at_min.o, running_min)),
                next_max.eq(chunk_max & ~end.replicate(key_bits)),
                next_min.eq(chunk_min | end.replicate(key_bits)),
            ]
            held = [
                Signal(key_bits, name=f"held_max_{block}", reset_less=True),
                Signal(key_bits, name=f"held_min_{block}", reset_less=True),
            ]
            counts = Signal(name=f"counts_{block}")
            m.d.comb += counts.eq(end & ~empty)
            held_sum = Signal(total.shape(), name=f"held_sum_{block}", reset_less=True)
            held_exp = Signal(fmt.exp_bits, name=f"held_exp_{block}", reset_less=True)
            with m.If(summed_valid):
                m.d.sync += [
                    # without a chunk's end, the key of the number 0
                    held[0].eq(Cat(chunk_max[:-1] & counts.replicate(key_bits - 1), chunk_max[-1] | ~counts)),
                    held[1].eq(Cat(chunk_min[:-1] & counts.replicate(key_bits - 1), chunk_min[-1] | ~counts)),
                    held_sum.eq(total),
                    held_exp.eq(shared_exp),
                ]
            scanned.append((held, held_sum, held_exp))
            running_max, running_min = next_max, next_min
        with m.If(summed_valid):
            m.d.sync += [carried_max.eq(running_max), carried_min.eq(running_min), scanned_last.eq(summed_last)]

        # 3: everything in fixed point, into the accumulators
        sums, ranges = [], []
        for block, (held, held_sum, held_exp) in enumerate(scanned):
            at_max = m.submodules[f"fixed_max_{block}"] = FixedPoint(fmt=fmt)
            at_min = m.submodules[f"fixed_min_{block}"] = FixedPoint(fmt=fmt)
            width = len(held_sum) + fmt.max_shared_exp
            m.d.comb += [at_max.i_key.eq(held[0]), at_min.i_key.eq(held[1])]
            sums.append(shift_left(m, held_sum, held_exp, width, name=f"sum_{block}"))
            # max - min = max + ~min + 1, each still short of the one that its own inversion needs
            ranges += [at_max.o, (~at_min.o).as_signed(), at_max.o_negative, ~at_min.o_negative]
        total = Signal(self.o_total.shape(), reset_less=True)
        range_total = Signal(self.o_range_total.shape(), reset_less=True)
        fresh = Signal(init=1)  # the next beat is a channel's first
        next_total, next_range_total = Signal.like(total), Signal.like(range_total)
        m.d.comb += [
            next_total.eq(sum(sums, (total & ~fresh.replicate(len(total))).as_signed())),
            next_range_total.eq(sum(ranges, range_total & ~fresh.replicate(len(range_total)))),
        ]
        closing = Signal()
        m.d.comb += closing.eq(scanned_valid & scanned_last)
        m.d.sync += self.o_valid.eq(closing)
        final_total = Signal(self.o_total.shape(), reset_less=True)
        final_range_total = Signal(self.o_range_total.shape(), reset_less=True)
        m.d.comb += [self.o_total.eq(final_total), self.o_range_total.eq(final_range_total)]
        with m.If(scanned_valid):
            m.d.sync += [total.eq(next_total), range_total.eq(next_range_total), fresh.eq(scanned_last)]
        with m.If(closing):
            m.d.sync += [final_total.eq(next_total), final_range_total.eq(next_range_total)]
        return m
