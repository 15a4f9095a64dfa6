"""Which shared exponent the segments and the extrema of a block agree on, in `pack`."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value

from ..arith.rank import Rank
from .extremum import Extremum
from .sums import SumFormat
from .windows import Windows

__all__ = ["SharedExponents"]


class SharedExponents:
    """Segments are lanes that share a block in every format; the formats' blocks consist of them.

    Each method but `any_of_block` is a part of a stage, in their order; all are combinational but for the rank that
    `members` is given.
    """

    def __init__(self, m: Module, sums: SumFormat, lanes: int, *, deep: bool) -> None:
        self._module, self._sums, self._lanes, self._deep = m, sums, lanes, deep

    def _blocks_of_formats(self) -> dict[int, list[int]]:
        """By block size: the block of that size that each segment lies in."""
        sizes = dict.fromkeys(fmt.block_size for fmt in self._sums.formats)
        return {size: [first // size for first in range(0, self._lanes, self._sums.segment)] for size in sizes}

    def _limit(self, size: int, backward: Value) -> Value:
        """The largest shared exponent of the format with such blocks."""
        return Windows.by_pass([fmt.max_shared_exp for fmt in self._sums.formats if fmt.block_size == size], backward)

    def _in_range(self, wanted: Value, size: int, backward: Value, name: str) -> Value:
        """A shared exponent that the format has."""
        limit = self._limit(size, backward)
        exponent = Signal(self._sums.exp_bits, name=f"exponent_{name}")
        inside: Value = Mux(wanted > limit, limit, wanted)
        if self._deep:  # without the carries of a comparison
            of_formats = [
                wanted[: fmt.exp_bits] | wanted[fmt.exp_bits : -1].any().replicate(fmt.exp_bits)
                for fmt in self._sums.formats
                if fmt.block_size == size
            ]
            inside = of_formats[0] if len(of_formats) == 1 else Mux(backward, of_formats[1], of_formats[0])
        self._module.d.comb += exponent.eq(Mux(wanted < 0, 0, inside))
        return exponent

    def members(
        self, candidates: list[Value], extrema: list[Extremum], backward: Value, rank: Rank
    ) -> dict[tuple[int, int], list[Value]]:
        """By size and number of a block: the candidates of its segments and, in backward, of its extrema, behind the
        rank; `deep` each within the format's range, which is sooner than the highest alone and leaves less to compare.
        """
        members: dict[tuple[int, int], list[Value]] = {}

        def add(size: int, block: int, candidate: Value, name: str) -> None:
            value: Value = candidate
            if self._deep:
                value = self._in_range(candidate, size, backward, f"{name}_{size}")
            members.setdefault((size, block), []).append(rank.keep(value, f"candidate_{name}_{size}"))

        for size, blocks in self._blocks_of_formats().items():
            for segment, block in enumerate(blocks):
                add(size, block, candidates[segment], f"{segment}")
            if size == self._sums.formats[-1].block_size:
                for block in dict.fromkeys(blocks):
                    lanes = range(block * size, (block + 1) * size, self._sums.segment)
                    for index, extremum in enumerate(extrema):
                        if any(extremum.may_be_lane(lane) for lane in lanes):
                            add(size, block, extremum.candidate_in(block), f"own_{index}_{block}")
        return members

    def highest(self, members: list[Value], name: str) -> Value:
        """A balanced tree; `deep` compares three at a time, each with each."""
        level, most = 0, 3 if self._deep else 2
        while len(members) > 1:
            following: list[Value] = []
            for index in range(0, len(members), most):
                first, *others = members[index : index + most]
                higher = Signal(first.shape(), name=f"higher_{name}_{level}_{index}")
                if not others:
                    self._module.d.comb += higher.eq(first)
                elif len(others) == 1:
                    self._module.d.comb += higher.eq(Mux(others[0] > first, others[0], first))
                else:
                    second, third = others
                    is_third = (third > first) & (third > second)
                    self._module.d.comb += higher.eq(Mux(is_third, third, Mux(second > first, second, first)))
                following.append(higher)
            members, level = following, level + 1
        return members[0]

    def of_segments(self, highest: dict[tuple[int, int], Value], backward: Value) -> list[tuple[Value, Value]]:
        """For each segment, its block's shared exponent, and whether that may go one higher.

        The highest that a segment or an extremum of the block asks for, within the format's range.
        """
        choices = []  # per block size, the values of each segment
        for size, blocks in self._blocks_of_formats().items():
            limit = self._limit(size, backward)
            values = {}
            for block in dict.fromkeys(blocks):
                wanted = highest[size, block]
                within_range = wanted if self._deep else self._in_range(wanted, size, backward, f"{size}_{block}")
                values[block] = within_range, wanted < limit
            choices.append([values[block] for block in blocks])
        if len(choices) == 1:
            return choices[0]
        selected: list[tuple[Value, Value]] = []
        for segment, (training, gradient) in enumerate(zip(*choices, strict=True)):
            exponent = Signal(self._sums.exp_bits, name=f"exponent_{segment}")
            self._module.d.comb += exponent.eq(Mux(backward, gradient[0], training[0]))
            selected.append((exponent, Mux(backward, gradient[1], training[1])))
        return selected

    def any_of_block(self, powers: list[Value], segment: int, backward: Value) -> Value:
        """Whether any segment of the block that the segment belongs to has the property."""
        merged = []
        for fmt in self._sums.formats:
            per_block = fmt.block_size // self._sums.segment
            first = segment // per_block * per_block
            merged.append(Cat(powers[first : first + per_block]).any())
        return merged[0] if len(merged) == 1 else Mux(backward, merged[1], merged[0])
