"""Exact statistics of a channel while its beats stream by: S = sum x, and the sum over chunks of max - min.

Every accumulator is an integer in units of the format's smallest step, so order and lanes cannot change a bit. Sizing:
2^24 elements (`MAX_ELEMENTS`) of less than 2^(man_bits+1) * 2^max_shared_exp steps each need
`24 + man_bits + 1 + max_shared_exp` bits of magnitude. A chunk with a range has at least two elements, so 2^23 ranges,
each below twice the largest magnitude, fit the same bits.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
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


def _max_tree(m: Module, keys: list[Value], name: str) -> Value:
    level = 0
    while len(keys) > 1:
        following: list[Value] = []
        for pair in range(0, len(keys) - 1, 2):
            larger = Signal(len(keys[0]), name=f"{name}_{level}_{pair}")
            m.d.comb += larger.eq(Mux(keys[pair + 1] > keys[pair], keys[pair + 1], keys[pair]))
            following.append(larger)
        keys, level = following + keys[len(keys) // 2 * 2 :], level + 1
    return keys[0]


def _sum_tree(m: Module, terms: list[Value], name: str) -> Value:
    level = 0
    while len(terms) > 1:
        following: list[Value] = []
        for pair in range(0, len(terms) - 1, 2):
            total = terms[pair] + terms[pair + 1]
            kept = Signal(total.shape(), name=f"{name}_{level}_{pair}")
            m.d.comb += kept.eq(total)
            following.append(kept)
        terms, level = following + terms[len(terms) // 2 * 2 :], level + 1
    return terms[0]


class BlockSummary(wiring.Component):
    """Maximum, minimum and sum of one block's elements, padding left out; combinational.

    The extrema come as order keys (see `_order_key`) of man_bits + 2 bits; without any element they are 0 and all ones.
    """

    def __init__(self, *, fmt: BlockFormat) -> None:
        self.format = fmt
        sum_bits = fmt.element_bits + (fmt.block_size - 1).bit_length()
        super().__init__(
            {
                "i": In(block_layout(fmt)),
                "o_max": Out(fmt.element_bits),
                "o_min": Out(fmt.element_bits),
                "o_sum": Out(signed(sum_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fmt = self.format
        max_keys, inverted_min_keys, terms, ones = [], [], [], []
        for index in range(fmt.block_size):
            element = self.i.elements[index]
            padding, key = Signal(name=f"padding_{index}"), Signal(fmt.element_bits, name=f"key_{index}")
            m.d.comb += [
                padding.eq(element.sign & ~element.significand.any()),
                key.eq(_order_key(element)),
            ]
            # padding's own key is 0 followed by ones, its inverse 1 followed by zeros
            max_keys.append(Cat(key[:-1] & ~padding.replicate(fmt.significand_bits), key[-1]))
            inverted_min_keys.append(Cat(~key[:-1], ~key[-1] & ~padding))
            terms.append(
                Cat(element.significand ^ element.sign.replicate(fmt.significand_bits), element.sign).as_signed()
            )
            ones.append(element.sign)
        m.d.comb += [
            self.o_max.eq(_max_tree(m, max_keys, "max")),
            self.o_min.eq(~_max_tree(m, inverted_min_keys, "min")),
            self.o_sum.eq(_sum_tree(m, terms, "sum") + _sum_tree(m, ones, "negative")),
        ]
        return m


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
            total = Signal(summary.o_sum.shape(), name=f"sum_{block}", reset_less=True)
            shared_exp = Signal(fmt.exp_bits, name=f"shared_exp_{block}", reset_less=True)
            m.d.comb += summary.i.eq(self.i[block])
            with m.If(self.i_valid):
                m.d.sync += [
                    largest.eq(summary.o_max),
                    smallest.eq(summary.o_min),
                    total.eq(summary.o_sum),
                    shared_exp.eq(self.i[block].shared_exp),
                ]
            summaries.append((largest, smallest, total, shared_exp))

        # 2: the running maximum and minimum of the chunk; a beat's blocks in order
        scanned_valid, scanned_last = Signal(), Signal(reset_less=True)
        m.d.sync += scanned_valid.eq(summed_valid)
        key_bits = _exponent_bits(fmt) + fmt.man_bits + 1
        carried_max, carried_min = Signal(key_bits), Signal(key_bits, init=-1)
        running_max: Value = carried_max
        running_min: Value = carried_min
        scanned = []
        for block, (largest, smallest, total, shared_exp) in enumerate(summaries):
            at_max = m.submodules[f"max_{block}"] = Normalized(fmt=fmt)
            at_min = m.submodules[f"min_{block}"] = Normalized(fmt=fmt)
            empty, end = Signal(name=f"empty_{block}"), summed_end[block]
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
                empty.eq(~largest.any() & smallest.all()),  # a block behind the channel's last element
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
        total, range_total = Signal.like(self.o_total), Signal.like(self.o_range_total)
        next_total, next_range_total = Signal.like(total), Signal.like(range_total)
        m.d.comb += [
            next_total.eq(sum(sums, total)),
            next_range_total.eq(sum(ranges, range_total)),
        ]
        closing = Signal()
        m.d.comb += closing.eq(scanned_valid & scanned_last)
        m.d.sync += self.o_valid.eq(closing)
        with m.If(scanned_valid):
            m.d.sync += [
                total.eq(Mux(scanned_last, Const(0), next_total)),
                range_total.eq(Mux(scanned_last, Const(0), next_range_total)),
            ]
        with m.If(closing):
            m.d.sync += [self.o_total.eq(next_total), self.o_range_total.eq(next_range_total)]
        return m
