"""A chunk's extrema as integers that compare: of a block's elements, across blocks, and back to steps."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lightnorm_golden.formats import BlockFormat

from ..arith.rank import Rank
from ..arith.shift import cut_shift_left, normalize

__all__ = ["BlockExtrema", "FixedPoint", "Normalized", "normalized_exponent_bits"]

def _order_key(element: data.View[data.StructLayout]) -> Value:
    """Unsigned integer in the order of the element's value (sign on top, magnitude inverted when negative)."""
    return Cat(element.significand ^ element.sign.replicate(len(element.significand)), ~element.sign)


class BlockExtrema:
    """Maximum and minimum of one block's elements, padding left out.

    The extrema are order keys (see `_order_key`) of man_bits + 2 bits, where `lanes` asks for it with the index of the
    first element that attains each; `empty`: the block is all padding, and they mean nothing. Padding is always behind
    the elements, so that of any run of elements the first one tells whether it holds an element at all.

    Bit by bit, from the top, those elements stay in the search that have the better bit, if one of them has it: half
    the logic of a tree of comparisons. `deep` has that tree, which registers can cut: a level before each of the ranks.
    Everything is behind the last.
    """

    def __init__(
        self,
        m: Module,
        block: data.View[data.StructLayout],
        *,
        size: int,
        lanes: bool,
        deep: bool,
        ranks: tuple[Rank, ...],
        name: str,
    ) -> None:
        self._lanes, self._name = lanes, name
        keys, exist = [], []
        for index in range(size):
            element = block.elements[index]
            exists = Signal(name=f"exists_{name}_{index}")
            key = Signal(len(element.as_value()), name=f"key_{name}_{index}")
            m.d.comb += [
                exists.eq(~element.sign | element.significand.any()),
                key.eq(_order_key(element)),
            ]
            keys.append(key)
            exist.append(exists)
        if deep:
            self._compare(m, keys, exist, ranks)
        else:
            self.max, self.max_lane = self._search(m, keys, exist, "max")
            self.min, self.min_lane = self._search(m, keys, exist, "min")
            self.empty = ~exist[0]

    def _search(self, m: Module, keys: list[Signal], exist: list[Signal], kind: str) -> tuple[Value, Value]:
        """An extremum and its lane."""
        name, size, bits = f"{kind}_{self._name}", len(keys), len(keys[0])
        left: Value = Cat(exist)  # elements that can be it
        found = Signal(bits, name=name)
        for bit in reversed(range(bits)):
            better = Cat(key[bit] if kind == "max" else ~key[bit] for key in keys)
            some, following = Signal(name=f"some_{name}_{bit}"), Signal(size, name=f"left_{name}_{bit}")
            m.d.comb += [
                some.eq((left & better).any()),
                following.eq(left & (better | (~some).replicate(size))),
                found[bit].eq(some if kind == "max" else ~some),
            ]
            left = following
        lane: list[Value] = []  # of the first that is left
        for bit in reversed(range((size - 1).bit_length() if self._lanes else 0)):
            lower, upper = left[: 1 << bit], left[1 << bit :]
            none, half = Signal(name=f"upper_{name}_{bit}"), Signal(1 << bit, name=f"half_{name}_{bit}")
            m.d.comb += [none.eq(~lower.any()), half.eq(Mux(none, upper, lower))]
            lane.insert(0, none)
            left = half
        return found, Cat(lane)

    def _compare(self, m: Module, keys: list[Signal], exist: list[Signal], ranks: tuple[Rank, ...]) -> None:
        """A balanced tree."""
        runs: list[tuple[Value, ...]] = [  # maximum and its lane, minimum and its lane, whether there is an element
            (key, Const(index, 0), key, Const(index, 0), exists)
            for index, (key, exists) in enumerate(zip(keys, exist, strict=True))
        ]
        levels = (len(keys) - 1).bit_length()
        before = [min(number + 1, levels) for number in range(len(ranks) - 1)] + [levels]  # each
        for level in range(levels + 1):
            for number, rank in enumerate(ranks):
                if before[number] == level:
                    runs = [self._kept(run, rank, f"{level}_{index}") for index, run in enumerate(runs)]
            following = [self._join(m, runs[i], runs[i + 1], level, i) for i in range(0, len(runs) - 1, 2)]
            runs = following + runs[len(runs) // 2 * 2 :]
        ((self.max, self.max_lane, self.min, self.min_lane, exists),) = runs
        self.empty = ~exists

    def _kept(self, run: tuple[Value, ...], rank: Rank, name: str) -> tuple[Value, ...]:
        kinds = ("max", "max_lane", "min", "min_lane", "exists")
        return tuple(
            rank.keep(value, f"{kind}_{self._name}_{name}") for kind, value in zip(kinds, run, strict=True)
        )

    def _join(
        self, m: Module, first: tuple[Value, ...], second: tuple[Value, ...], level: int, index: int
    ) -> tuple[Value, ...]:
        """Extrema of two neighbouring runs of elements; between single elements one comparison tells both values.

        A run of level n starts at a multiple of 2^n: a lane is n bits, and which run it lies in the next one.
        """
        first_max, first_max_lane, first_min, first_min_lane, first_exists = first
        second_max, second_max_lane, second_min, second_min_lane, second_exists = second
        name = f"{self._name}_{level}_{index}"
        above, below = Signal(name=f"above_{name}"), Signal(name=f"below_{name}")
        m.d.comb += [
            above.eq((second_max > first_max) & second_exists),
            below.eq(
                (~(second_max > first_max) if not level and not self._lanes else second_min < first_min) & second_exists
            ),
        ]
        joined = []
        for kind, later, a, b, a_lane, b_lane in (
            ("max", above, first_max, second_max, first_max_lane, second_max_lane),
            ("min", below, first_min, second_min, first_min_lane, second_min_lane),
        ):
            key, lane = Signal(len(a), name=f"{kind}_{name}"), Signal(level + 1, name=f"{kind}_lane_{name}")
            m.d.comb += [
                key.eq(Mux(later, b, a)),
                lane.eq(Cat(Mux(later, b_lane, a_lane) if level else Const(0, 0), later)),
            ]
            joined += [key, lane]
        return (*joined, first_exists)


def normalized_exponent_bits(fmt: BlockFormat) -> int:
    """Of a normalized extremum: shared exponents, man_bits places below them, and 0 for the number 0."""
    return (fmt.max_shared_exp + fmt.man_bits + 1).bit_length()


class Normalized(wiring.Component):
    """An extremum of a block as a number whose order key compares across blocks; combinational.

    `o` is the order key of {exponent, significand without its leading bit}; exponent 0 is the number 0, otherwise the
    value is significand * 2^(exponent - 1 - man_bits) steps. `i_exponent` is the one of a significand with a leading
    bit.
    """

    def __init__(self, *, fmt: BlockFormat) -> None:
        self.format = fmt
        self.exponent_bits = normalized_exponent_bits(fmt)
        super().__init__(
            {
                "i_key": In(fmt.element_bits),
                "i_exponent": In(self.exponent_bits),
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
        m.d.comb += exponent.eq(Mux(shifted[-1], self.i_exponent - places, 0))
        ordered = Cat(shifted[:-1], exponent)
        m.d.comb += self.o.eq(Cat(ordered ^ negative.replicate(len(ordered)), ~negative))
        return m


class FixedPoint(wiring.Component):
    """A normalized order key as an integer of steps, or what is `subtracted` for it, inverted where negative;
    combinational, `deep` takes two cycles.

    The value is `o + o_negative`: the caller's adder takes the one that two's complement still needs.
    """

    def __init__(self, *, fmt: BlockFormat, subtracted: bool, deep: bool) -> None:
        self.format, self.subtracted, self.deep = fmt, subtracted, deep
        self.exponent_bits = normalized_exponent_bits(fmt)
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
        below_zero, negative = Signal(), Signal()
        fraction, exponent = Signal(fmt.man_bits), Signal(self.exponent_bits)
        m.d.comb += [
            below_zero.eq(~self.i_key[-1]),
            exponent.eq(self.i_key[fmt.man_bits : -1] ^ below_zero.replicate(len(exponent))),
            negative.eq(~below_zero if self.subtracted else below_zero),
            # inverted where negative: the key's is where below zero
            fraction.eq(~self.i_key[: fmt.man_bits] if self.subtracted else self.i_key[: fmt.man_bits]),
        ]
        number = Signal(signed(fmt.significand_bits + 1))  # inverted before the shift, which has more bits
        m.d.comb += number.eq(Cat(fraction, exponent.any() ^ negative, negative).as_signed())
        # the shift by exponent - 1 - man_bits is made by exponent, and its last man_bits + 1 places, all alike, dropped
        rank, last = (Rank(m, name, Const(1), built=self.deep) for name in ("fine", "coarse"))
        width = len(self.o) + fmt.man_bits + 1
        shifted = cut_shift_left(m, number, exponent, width, rank, fill=negative, name="shift")
        m.d.comb += [
            self.o.eq(last.keep(shifted[fmt.man_bits + 1 :].as_signed(), "steps")),
            self.o_negative.eq(last.keep(shifted[0], "negative")),
        ]
        return m
