"""Rounds exact sums once into blocks: shared exponent, then every significand at that exponent's last place.

A sum is kept as a two's complement number whose bits above and below the lane's own belong to its block (see `apply`).
The block's leading bit is found on sums inverted where negative, which is one place low exactly when the largest
magnitude is a negative power of two; the last stage sees that and takes every significand one place higher.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..arith.leading_one import leading_one
from ..arith.rank import Rank
from ..arith.rounding import round_up
from .beat import beat_layout, output_layout
from .sums import SumFormat

__all__ = ["Pack"]


def _window(m: Module, bits: Value, amount: Value, width: int, *, name: str) -> Signal:
    """`width` bits of `bits` from place `amount` up, zeros above; every step drops the bits that no later one can
    reach."""
    current: Value = bits
    for bit in reversed(range(len(amount))):
        reach = width + (1 << bit) - 1
        step = Signal(reach, name=f"{name}_by_{1 << bit}")
        m.d.comb += step.eq(Mux(amount[bit], current >> (1 << bit), current))
        current = step
    return current


def _below(m: Module, place: Value, width: int, *, name: str) -> Signal:
    """A mask of the places under `place` (unsigned), for `width` places."""
    mask = Signal(width, name=name)
    m.d.comb += mask.eq(Cat(place.any(), *(place > index for index in range(1, width))))
    return mask


@dataclass(frozen=True)
class _Decision:
    """How an element rounds: its truncated magnitude, whether one is added to it, also if the block's exponent turns
    out
    to be one higher; sign; whether it is beyond the format; whether it is exactly the negative power of two that is one
    place higher than it seems (this one is for the block and has no register)."""

    magnitude: Value
    up: Value
    up_bumped: Value
    sign: Value
    overflow: Value
    power: Value

    def only_if(self, condition: Value) -> _Decision:
        """All zeros otherwise."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return _Decision(**{name: value & condition.replicate(len(value)) for name, value in values.items()})

    def merged(self, others: list[_Decision]) -> _Decision:
        """OR of decisions of which all but one are zeros."""
        values = {}
        for field in fields(self):
            value = getattr(self, field.name)
            for other in others:
                value = value | getattr(other, field.name)
            values[field.name] = value
        return _Decision(**values)

    def kept(self, rank: Rank, name: str) -> _Decision:
        """All but `power`, behind the rank."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "power"}
        return _Decision(power=Const(0), **{key: rank.keep(value, f"{key}_{name}") for key, value in values.items()})


class Pack(wiring.Component):
    """Sums of a beat in, encoded blocks out; one beat per cycle, latency one cycle, `deep` three.

    `o_advance` says that everything from `apply` on moves: the last registers are free or being taken. The rounding
    behind them is combinational up to `o`, whose payload holds while it waits.
    """

    def __init__(self, *, sums: SumFormat, lanes: int, deep: bool) -> None:
        self.sums, self.lanes, self.deep = sums, lanes, deep
        # how far a window can lie above a sum, see `_position` and `_start`
        self.beyond = 2 * sums.man_bits + 6 - min(fmt.man_bits for fmt in sums.formats)
        super().__init__(
            {
                "i": In(sums.layout(lanes)),
                "i_valid": In(1),
                "o_advance": Out(1),
                "o": Out(stream.Signature(output_layout(sums.beat_bits(lanes)))),
                "o_saturated": Out(range(lanes + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sums, lanes = self.sums, self.lanes
        segments = lanes // sums.segment
        significand_bits = sums.man_bits + 1
        advance = self.o_advance

        # 5: the leading bit of every sum
        signs = self._signs(m)
        found = Rank(m, "found", self.i_valid, advance=advance, built=self.deep)
        block_size = sums.spec.activation.block_size
        extrema = [
            _Extremum(m, self, block, kind, found)
            for block in range(lanes // block_size if sums.extrema else 0)
            for kind in ("max", "min")
        ]
        tops = []
        for segment in range(segments):
            unit = self.i.segments[segment].exponent - sums.fraction_bits
            tops.append(self._leading(m, self._magnitudes(m, segment, signs), unit, f"{segment}", found))
        shared = found.keep(self.i.segments, "segments")
        own_lanes = found.keep(self.i.lanes, "lanes")
        signs = list(found.keep(Cat(signs), "signs"))
        backward, last = found.keep(self.i.backward, "backward"), found.keep(self.i.last, "last")

        # 6: the shared exponent of every block
        placed = Rank(m, "placed", found.valid, advance=advance, built=self.deep)
        candidates = [self._candidate(m, top, backward, f"{segment}") for segment, top in enumerate(tops)]
        for extremum in extrema:
            extremum.ask(m, backward)
        of_segments = self._shared_exps(m, [candidate for candidate, _ in candidates], extrema, backward)
        whole = sums.fraction_bits + sums.low_bits + sums.high_bits
        starts = []
        for segment, (exponent, _) in enumerate(of_segments):
            position = self._position(m, exponent, candidates[segment][1], whole, name=f"{segment}")
            starts.append(placed.keep(self._start(m, position, backward, name=f"{segment}"), f"start_{segment}"))
        for extremum in extrema:
            extremum.place(m, [exponent for exponent, _ in of_segments], backward, placed)
        exponents = [placed.keep(exponent, f"shared_exp_{i}") for i, (exponent, _) in enumerate(of_segments)]
        bumpable = [placed.keep(bump, f"may_bump_{i}") for i, (_, bump) in enumerate(of_segments)]
        shared, own_lanes = placed.keep(shared, "segments"), placed.keep(own_lanes, "lanes")
        signs = list(placed.keep(Cat(signs), "signs"))
        backward, last = placed.keep(backward, "backward"), placed.keep(last, "last")

        # 7: each lane's bits from there down
        decided = Rank(m, "decided", placed.valid, advance=advance)
        m.d.comb += advance.eq(~decided.valid | self.o.ready)
        decisions: list[_Decision] = []
        for segment in range(segments):
            decisions += self._windows(m, segment, starts[segment], shared[segment], own_lanes, signs, backward)
        exact_powers: list[Value] = []
        own_decisions = [extremum.decide(m, backward) for extremum in extrema]
        rounding = []
        for lane, decision in enumerate(decisions):
            others = [
                own.only_if(extremum.is_lane(lane))
                for extremum, own in zip(extrema, own_decisions, strict=True)
                if extremum.may_be_lane(lane)
            ]
            rounding.append(decision.merged(others).kept(decided, f"{lane}"))
        for segment in range(segments):
            of_segment = range(segment * sums.segment, (segment + 1) * sums.segment)
            powers = [decisions[lane].power for lane in of_segment]
            powers += [
                own.power & extremum.is_segment(segment)
                for extremum, own in zip(extrema, own_decisions, strict=True)
                if extremum.may_be_lane(of_segment[0])
            ]
            exact_powers.append(decided.keep(Cat(powers).any(), f"exact_power_{segment}"))
        shared_exps = [decided.keep(exponent, f"shared_exp_{segment}") for segment, exponent in enumerate(exponents)]
        may_bump = [decided.keep(bump, f"may_bump_{segment}") for segment, bump in enumerate(bumpable)]
        backward, last = decided.keep(backward, "backward"), decided.keep(last, "last")

        # 8: round, and take everything a place higher if a negative power of two asks for it
        bumps = [self._of_block(m, exact_powers, segment, backward) & may_bump[segment] for segment in range(segments)]
        significands, sign_bits, saturated = [], [], []
        for lane, decision in enumerate(rounding):
            bump = Signal(name=f"bump_{lane}")
            total = Signal(significand_bits + 1, name=f"rounded_{lane}")
            result, exceeds = Signal(significand_bits, name=f"significand_{lane}"), Signal(name=f"exceeds_{lane}")
            limits = [(1 << fmt.significand_bits) - 1 for fmt in sums.formats]
            limit = limits[0] if len(limits) == 1 else Mux(backward, limits[1], limits[0])
            m.d.comb += [
                bump.eq(bumps[lane // sums.segment]),
                total.eq(
                    Mux(bump, decision.magnitude >> 1, decision.magnitude) + Mux(bump, decision.up_bumped, decision.up)
                ),
                exceeds.eq(decision.overflow | self._carry(total, backward)),
                result.eq(Mux(exceeds, limit, total[:significand_bits])),
            ]
            significands.append(result)
            sign_bits.append(decision.sign)
            saturated.append(exceeds)
        outputs = []
        nonzero = [Cat(significands[s * sums.segment : (s + 1) * sums.segment]).any() for s in range(segments)]
        for index, fmt in enumerate(sums.formats):
            beat = Signal(beat_layout(fmt, lanes), name=f"beat_{index}")
            for block in range(lanes // fmt.block_size):
                first = block * fmt.block_size
                of_block = range(first // sums.segment, (first + fmt.block_size) // sums.segment)
                exponent = shared_exps[of_block[0]] + bumps[of_block[0]]
                m.d.comb += beat[block].shared_exp.eq(Mux(Cat(nonzero[s] for s in of_block).any(), exponent, 0))
                for lane in range(first, first + fmt.block_size):
                    element = beat[block].elements[lane - first]
                    m.d.comb += [
                        element.significand.eq(significands[lane]),
                        element.sign.eq(sign_bits[lane] & significands[lane].any()),
                    ]
            outputs.append(beat.as_value())
        m.d.comb += [
            self.o.valid.eq(decided.valid),
            self.o.payload.data.eq(outputs[0] if len(outputs) == 1 else Mux(backward, outputs[1], outputs[0])),
            self.o.payload.last.eq(last),
            self.o_saturated.eq(Mux(decided.valid & self.o.ready, sum(saturated[1:], saturated[0]), 0)),
        ]
        return m

    def _carry(self, total: Signal, backward: Signal) -> Value:
        """Whether a rounded magnitude needs more bits than its format has."""
        tops = [total[fmt.significand_bits :].any() for fmt in self.sums.formats]
        return tops[0] if len(tops) == 1 else Mux(backward, tops[1], tops[0])

    def _of_block(self, m: Module, powers: list[Signal], segment: int, backward: Value) -> Value:
        """Whether any segment of the block that the segment belongs to has the property."""
        merged = []
        for fmt in self.sums.formats:
            per_block = fmt.block_size // self.sums.segment
            first = segment // per_block * per_block
            merged.append(Cat(powers[first : first + per_block]).any())
        return merged[0] if len(merged) == 1 else Mux(backward, merged[1], merged[0])

    def _signs(self, m: Module) -> list[Signal]:
        """Sign of every sum: its own where the block's high part is 0, otherwise that of the high part."""
        signs = []
        for lane in range(self.lanes):
            shared = self.i.segments[lane // self.sums.segment]
            sign = Signal(name=f"sign_{lane}")
            m.d.comb += sign.eq(Mux(shared.high.any(), shared.high[-1], self.i.lanes[lane].low[-1]))
            signs.append(sign)
        return signs

    def _magnitudes(self, m: Module, segment: int, lane_signs: list[Signal]) -> Value:
        """OR over the segment's valid lanes of their sums, inverted where negative; fraction lowest."""
        sums, shared = self.sums, self.i.segments[segment]
        low: Value = Const(0, sums.low_bits)
        above, below, positive, negative = [], [], [], []
        for lane in range(segment * sums.segment, (segment + 1) * sums.segment):
            bits, sign = self.i.lanes[lane], lane_signs[lane]
            magnitude = Signal(sums.low_bits, name=f"magnitude_{lane}")
            m.d.comb += magnitude.eq(
                (bits.low[:-1] ^ sign.replicate(sums.low_bits)) & bits.valid.replicate(sums.low_bits)
            )
            low = low | magnitude
            above.append(bits.valid & ~bits.low[-1])
            below.append(bits.valid & bits.low[-1])
            positive.append(bits.valid & ~sign)
            negative.append(bits.valid & sign)
        some = {}
        for name, flags in (("above", above), ("below", below), ("positive", positive), ("negative", negative)):
            some[name] = Signal(name=f"some_{name}_{segment}")
            m.d.comb += some[name].eq(Cat(flags).any())
        # with a high part every lane has its sign; without, what lies above the low part is sign alone
        high_sign, high_below = shared.high[-1].replicate(sums.high_bits), (shared.high - 1)[: sums.high_bits]
        high = ((shared.high ^ high_sign) & some["above"].replicate(sums.high_bits)) | (
            (high_below ^ high_sign) & some["below"].replicate(sums.high_bits)
        )
        fraction = (shared.fraction & some["positive"].replicate(sums.fraction_bits)) | (
            ~shared.fraction & some["negative"].replicate(sums.fraction_bits)
        )
        vector = Signal(sums.fraction_bits + sums.low_bits + sums.high_bits, name=f"vector_{segment}")
        m.d.comb += vector.eq(Cat(fraction, low, high & shared.high.any().replicate(sums.high_bits)))
        return vector

    @staticmethod
    def _by_pass(values: list[int], backward: Value) -> Value:
        return Const(values[0]) if len(values) == 1 else Mux(backward, values[1], values[0])

    @staticmethod
    def _leading(m: Module, vector: Value, unit: Value, name: str, rank: Rank) -> tuple[Value, Value, Value]:
        """(place of the vector's leading bit, whether there is one, exponent of its lowest bit), behind the rank."""
        whole = Signal(len(vector), name=f"whole_{name}")
        m.d.comb += whole.eq(vector)
        leading, any_bit = leading_one(m, whole, name=f"leading_{name}")
        return (
            rank.keep(leading, f"leading_{name}"), rank.keep(any_bit, f"any_{name}"), rank.keep(unit, f"unit_{name}")
        )  # fmt: skip

    def _candidate(
        self, m: Module, top: tuple[Value, Value, Value], backward: Value, name: str
    ) -> tuple[Signal, Signal]:
        """(shared exponent that a leading bit asks for, place plus one of a leading bit at exponent 0).

        Without a bit: the lowest number.
        """
        leading, any_bit, unit = top
        shape = signed(self.sums.exponent_bits + 2)
        base, candidate = Signal(shape, name=f"base_{name}"), Signal(shape, name=f"candidate_{name}")
        m.d.comb += [
            base.eq(self._by_pass([1 - fmt.bias for fmt in self.sums.formats], backward) - unit),
            candidate.eq(Mux(any_bit, leading + 1 - base, -(1 << (shape.width - 1)))),
        ]
        return candidate, base

    def _shared_exps(
        self, m: Module, candidates: list[Signal], extrema: list[_Extremum], backward: Value
    ) -> list[tuple[Signal, Value]]:
        """For each segment, its block's shared exponent, and whether that may go one higher.

        The highest that a segment or an extremum of the block asks for, within the format's range.
        """
        sums = self.sums
        choices = []  # per block size, the values of each segment
        for size in dict.fromkeys(fmt.block_size for fmt in sums.formats):
            of_size = []
            limits = [fmt.max_shared_exp for fmt in sums.formats if fmt.block_size == size]
            limit = self._by_pass(limits, backward)
            for block in range(self.lanes // size):
                of_block = range(block * size // sums.segment, (block + 1) * size // sums.segment)
                members = [candidates[segment] for segment in of_block]
                if size == sums.formats[-1].block_size:
                    members += [
                        extremum.candidate_in(m, block) for extremum in extrema
                        if any(extremum.may_be_lane(segment * sums.segment) for segment in of_block)
                    ]  # fmt: skip
                highest: Value = members[0]
                for index, member in enumerate(members[1:]):
                    higher = Signal(candidates[0].shape(), name=f"higher_{size}_{block}_{index}")
                    m.d.comb += higher.eq(Mux(member > highest, member, highest))
                    highest = higher
                exponent = Signal(max(fmt.exp_bits for fmt in sums.formats), name=f"exponent_{size}_{block}")
                m.d.comb += exponent.eq(Mux(highest < 0, 0, Mux(highest > limit, limit, highest)))
                of_size += [(exponent, highest < limit)] * len(of_block)
            choices.append(of_size)
        if len(choices) == 1:
            return choices[0]
        selected = []
        for segment, (training, gradient) in enumerate(zip(*choices, strict=True)):
            exponent = Signal(training[0].shape(), name=f"exponent_{segment}")
            m.d.comb += exponent.eq(Mux(backward, gradient[0], training[0]))
            selected.append((exponent, Mux(backward, gradient[1], training[1])))
        return selected

    def _position(self, m: Module, shared_exp: Value, base: Signal, bits: int, *, name: str) -> Signal:
        """Place of the leading significand bit plus one in a sum of `bits`, within what a window can reach."""
        top = bits + self.sums.man_bits + 3  # from here on everything rounds to zero
        place = Signal(base.shape(), name=f"place_{name}")
        position = Signal(range(top + 1), name=f"position_{name}")
        m.d.comb += [
            place.eq(shared_exp + base),
            position.eq(Mux(place < 0, 0, Mux(place > top, top, place))),
        ]
        return position

    def _start(self, m: Module, position: Signal, backward: Value, *, name: str) -> Signal:
        """Place of the guard bit in a sum with `man_bits + 2` zeros below it."""
        start = Signal(range((1 << len(position)) + 2 * self.sums.man_bits + 2), name=f"start_{name}")
        shorter = [self.sums.man_bits - fmt.man_bits for fmt in self.sums.formats]
        m.d.comb += start.eq(position + self._by_pass(shorter, backward))
        return start

    def _windows(
        self, m: Module, segment: int, start: Value, shared: Any, lanes: Any, lane_signs: list[Value], backward: Value
    ) -> list[_Decision]:
        """How each lane of a segment rounds."""
        sums = self.sums
        bits = sums.man_bits + 2  # significand and guard bit
        low_first = bits + sums.fraction_bits  # of the lanes' own bits
        high_first = low_first + sums.low_bits
        lane_amount = Signal(range(sums.low_bits + bits + 1), name=f"lane_amount_{segment}")
        relative = Signal(signed(len(start) + 1), name=f"relative_{segment}")
        m.d.comb += [
            relative.eq(start - (low_first - bits + 1)),
            lane_amount.eq(Mux((relative < 0) | (relative > sums.low_bits + bits), sums.low_bits + bits, relative)),
        ]
        extended = {
            name: Cat(Const(0, bits), shared.fraction, Const(0, sums.low_bits), high, high[-1].replicate(self.beyond))
            for name, high in (("above", shared.high), ("below", (shared.high - 1)[: sums.high_bits]))
        }
        windows, stickies, overflows = {}, {}, {}
        dropped = _below(m, start, high_first + sums.high_bits, name=f"dropped_{segment}")
        kept = _below(m, start + bits, high_first + sums.high_bits, name=f"kept_{segment}")  # the window, and below it
        for name, value in extended.items():
            windows[name] = _window(m, value, start, bits, name=f"{name}_{segment}")
            stickies[name], overflows[name] = (
                Signal(name=f"sticky_{name}_{segment}"),
                Signal(name=f"over_{name}_{segment}"),
            )
            sign = shared.high[-1]
            m.d.comb += [
                stickies[name].eq((value[: len(dropped)] & dropped).any()),
                overflows[name].eq(
                    ((value[high_first : len(kept)] ^ sign.replicate(sums.high_bits)) & ~kept[high_first:]).any()
                    & shared.high.any()
                ),
            ]
        # only where the format's exponents end can the fraction lie above the window
        fraction_above = ~kept[bits:low_first]
        fraction_over = {
            0: (shared.fraction & fraction_above).any(), 1: (~shared.fraction & fraction_above).any()
        }  # fmt: skip
        over_positive, over_negative = Signal(name=f"over_positive_{segment}"), Signal(name=f"over_negative_{segment}")
        m.d.comb += [over_positive.eq(fraction_over[0]), over_negative.eq(fraction_over[1])]
        decisions = []
        for lane in range(segment * sums.segment, (segment + 1) * sums.segment):
            own, sign = lanes[lane], lane_signs[lane]
            low, goes_below = own.low[:-1], own.low[-1]
            spread = _window(m, Cat(Const(0, bits - 1), low), lane_amount, bits, name=f"lane_{lane}")
            window, sticky, overflow = (
                Signal(bits, name=f"window_{lane}"),
                Signal(name=f"sticky_{lane}"),
                Signal(name=f"overflow_{lane}"),
            )
            m.d.comb += [
                window.eq(spread | Mux(goes_below, windows["below"], windows["above"])),
                sticky.eq(
                    (low & dropped[low_first:high_first]).any() | Mux(goes_below, stickies["below"], stickies["above"])
                ),
                overflow.eq(
                    ((low ^ sign.replicate(sums.low_bits)) & ~kept[low_first:high_first]).any()
                    | Mux(goes_below, overflows["below"], overflows["above"])
                    | Mux(sign, over_negative, over_positive)
                ),
            ]
            decisions.append(self._decision(window, sticky, overflow, sign, backward).only_if(own.valid))
        return decisions

    def _decision(self, window: Signal, sticky: Value, overflow: Value, sign: Value, backward: Value) -> _Decision:
        """From the bits of a two's complement sum in the window, and whether there are others below and above it."""
        sums = self.sums
        guard, truncated = window[0], window[1:]
        magnitude = truncated ^ sign.replicate(sums.man_bits + 1)
        full = [magnitude[: fmt.significand_bits].all() for fmt in sums.formats]
        all_ones = full[0] if len(full) == 1 else Mux(backward, full[1], full[0])
        return _Decision(
            magnitude=magnitude,
            up=round_up(truncated[0], guard, sticky) ^ sign,
            up_bumped=round_up(truncated[1], truncated[0], guard | sticky) ^ sign,
            sign=sign,
            overflow=overflow,
            power=sign & all_ones & ~guard & ~sticky,
        )


class _Extremum:
    """A chunk's maximum or minimum on its way to the lane that it came from."""

    def __init__(self, m: Module, pack: Pack, block: int, kind: str, rank: Rank) -> None:
        own = pack.i.extrema[block][kind]
        self._pack, self._name = pack, f"{kind}_{block}"
        self._block, self._block_size = block, pack.sums.spec.activation.block_size
        sign = own.sum[-1]
        magnitude = own.sum[:-1] ^ sign.replicate(pack.sums.own_bits)
        self._top = pack._leading(m, magnitude, own.exponent, self._name, rank)
        self._cross(own.sum, own.valid, own.lane, rank)

    def _cross(self, total: Value, valid: Value, lane: Value, rank: Rank) -> None:
        self._sum, self._valid, self._lane = (
            rank.keep(value, f"{name}_{self._name}")
            for name, value in (("sum", total), ("own_valid", valid), ("own_lane", lane))
        )
        self._sign = self._sum[-1]

    def may_be_lane(self, lane: int) -> bool:
        """Whether the lane is one of its block's."""
        return lane // self._block_size == self._block

    def is_lane(self, lane: int) -> Value:
        return self._valid & (self._lane == lane % self._block_size)

    def is_segment(self, segment: int) -> Value:
        size = self._pack.sums.segment
        return self._valid & (self._lane // size == segment % (self._block_size // size))

    def ask(self, m: Module, backward: Value) -> None:
        """For a shared exponent."""
        self._candidate, self._base = self._pack._candidate(m, self._top, backward, self._name)

    def candidate_in(self, m: Module, gradient_block: int) -> Signal:
        """Its candidate, in that block of the gradient format; else the lowest number."""
        size = self._pack.sums.formats[-1].block_size
        first = gradient_block * size - self._block * self._block_size
        inside: Value = self._valid
        if first > 0:
            inside = inside & (self._lane >= first)
        if first + size < self._block_size:
            inside = inside & (self._lane < first + size)
        candidate = Signal(self._candidate.shape(), name=f"candidate_{self._name}_in_{gradient_block}")
        m.d.comb += candidate.eq(Mux(inside, self._candidate, -(1 << (len(candidate) - 1))))
        return candidate

    def place(self, m: Module, shared_exps: list[Signal], backward: Value, rank: Rank) -> None:
        """`shared_exps`: of each segment of the beat."""
        pack, sums, name = self._pack, self._pack.sums, self._name
        per_block = self._block_size // sums.segment
        of_block = shared_exps[self._block * per_block : (self._block + 1) * per_block]
        position = pack._position(m, Array(of_block)[self._lane // sums.segment], self._base, sums.own_bits, name=name)
        self._start = rank.keep(pack._start(m, position, backward, name=name), f"start_{name}")
        self._cross(self._sum, self._valid, self._lane, rank)

    def decide(self, m: Module, backward: Value) -> _Decision:
        """How it rounds."""
        pack, sums, name, start = self._pack, self._pack.sums, self._name, self._start
        bits = sums.man_bits + 2
        value = Cat(Const(0, bits), self._sum, self._sign.replicate(pack.beyond))
        end = bits + sums.own_bits
        dropped = _below(m, start, end, name=f"dropped_{name}")
        kept = _below(m, start + bits, end, name=f"kept_{name}")
        window = Signal(bits, name=f"window_{name}")
        sticky, overflow = Signal(name=f"sticky_{name}"), Signal(name=f"overflow_{name}")
        m.d.comb += [
            window.eq(_window(m, value, start, bits, name=name)),
            sticky.eq((value[:end] & dropped).any()),
            overflow.eq(((value[bits:end] ^ self._sign.replicate(end - bits)) & ~kept[bits:]).any()),
        ]
        return pack._decision(window, sticky, overflow, self._sign, backward)
