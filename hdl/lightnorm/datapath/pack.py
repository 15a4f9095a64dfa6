"""Rounds exact sums once into blocks: shared exponent, then every significand at that exponent's last place.

A sum is kept as a two's complement number whose bits above and below the lane's own belong to its block (see `apply`).
The block's leading bit is found on sums inverted where negative, which is one place low exactly when the largest
magnitude is a negative power of two; the last stage sees that and takes every significand one place higher.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..arith.leading_one import leading_one
from ..arith.rank import Rank, Skid
from ..arith.shift import below
from .beat import beat_layout, output_layout
from .extremum import Extremum
from .shared_exponents import SharedExponents
from .sums import SumFormat
from .windows import Decision, Windows, window, within

__all__ = ["Pack"]


class Pack(wiring.Component):
    """Sums of a beat in, encoded blocks out; one beat per cycle, latency one cycle, `deep` eleven.

    `o_ready` says that everything from `apply` on moves: the last registers are free or being taken; `deep` has room
    for a beat more, and says so from a register. `o_advance` is the same, `deep` from another one, for all that moves.
    The payload of `o` holds while it waits. `o_saturated`: of the beat being taken.
    """

    def __init__(self, *, sums: SumFormat, lanes: int, deep: bool) -> None:
        self.sums, self.lanes, self.deep = sums, lanes, deep
        super().__init__(
            {
                "i": In(sums.layout(lanes)),
                "i_valid": In(1),
                "o_ready": Out(1),
                "o_advance": Out(1),
                "o": Out(stream.Signature(output_layout(sums.beat_bits(lanes)))),
                "o_saturated": Out(range(lanes + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sums, lanes = self.sums, self.lanes
        segments = range(lanes // sums.segment)
        windows, windows_of_gradients = Windows(m, sums), Windows(m, sums.of_gradients)
        previous = self.i_valid

        def rank(name: str) -> Rank:
            nonlocal previous
            made = Rank(m, name, previous, advance=self.o_advance, built=self.deep)
            previous = made.valid
            return made

        shared: Any = self.i.segments
        own_lanes: Any = self.i.lanes
        flags = Cat(self.i.backward, self.i.last, self.i.negated)
        bases: list[Value] = [
            windows.base(shared[segment].exponent - sums.fraction_bits, self.i.backward, name=f"{segment}")
            for segment in segments
        ]
        extrema = [
            Extremum(m, windows_of_gradients, self.i.extrema[block][kind], block, kind)
            for block in range(lanes // sums.spec.activation.block_size if sums.extrema else 0)
            for kind in ("max", "min")
        ]

        def cross(to: Rank) -> None:
            """What all stages up to the windows need."""
            nonlocal shared, own_lanes, flags, bases
            shared, own_lanes = to.keep(shared, "segments"), to.keep(own_lanes, "lanes")
            flags = to.keep(flags, "flags")
            bases = [to.keep(base, f"base_{segment}") for segment, base in enumerate(bases)]
            for extremum in extrema:
                extremum.cross(to)

        # 5: of every block, all sums in one
        spread = rank("spread")
        signs = self._signs(m, shared, own_lanes, "in")
        vectors = [
            spread.keep(self._magnitudes(m, segment, shared[segment], own_lanes, signs), f"vector_{segment}")
            for segment in segments
        ]
        for extremum in extrema:
            extremum.spread(spread)
        cross(spread)

        # 6: its leading bit
        found = rank("found")
        tops = []
        for segment, vector in enumerate(vectors):
            leading, any_bit = leading_one(m, vector, name=f"leading_{segment}")
            tops.append((found.keep(leading, f"leading_{segment}"), found.keep(any_bit, f"any_{segment}")))
        offsets: list[Value | None] = [
            found.keep(windows.offset(base, flags[0]), f"offset_{segment}") if self.deep else None
            for segment, base in enumerate(bases)
        ]
        for extremum in extrema:
            extremum.find(found, deep=self.deep)
        cross(found)

        # 7: the shared exponent that each asks for
        asked = rank("asked")
        candidates: list[Value] = [
            windows.candidate(*top, bases[segment], offsets[segment], flags[0], name=f"{segment}")
            for segment, top in enumerate(tops)
        ]
        for extremum in extrema:
            extremum.ask()
        agreement = SharedExponents(m, sums, lanes, deep=self.deep)
        members = agreement.members(candidates, extrema, flags[0], asked)
        cross(asked)

        # 8: the highest of a block
        agreed = rank("agreed")
        highest = {
            block: agreed.keep(agreement.highest(of_block, "_".join(map(str, block))), f"highest_{block[0]}_{block[1]}")
            for block, of_block in members.items()
        }
        cross(agreed)

        # 9: within the format's range; where the block's significands then lie in its sums
        located = rank("located")
        chosen = agreement.of_segments(highest, flags[0])
        places = []
        for segment, (exponent, _) in enumerate(chosen):
            place = Signal(bases[segment].shape(), name=f"place_{segment}")
            m.d.comb += place.eq(exponent + bases[segment])
            places.append(located.keep(place, f"place_{segment}"))
        for extremum in extrema:
            extremum.place([exponent for exponent, _ in chosen], located)
        exponents = [located.keep(exponent, f"shared_exp_{segment}") for segment, (exponent, _) in enumerate(chosen)]
        may_bump = [located.keep(bump, f"may_bump_{segment}") for segment, (_, bump) in enumerate(chosen)]
        cross(located)

        # 10: the places of the guard bits
        placed = rank("placed")
        whole = sums.fraction_bits + sums.low_bits + sums.high_bits
        masks, amounts, highs_below = [], [], []
        for segment, place in enumerate(places):
            start = windows.start(place, whole, name=f"{segment}")
            known = place if self.deep else start  # not to wait for the other; `start` is shorter
            mask = below(m, known, windows.bits + whole, name=f"dropped_{segment}")
            masks.append(placed.keep(mask, f"dropped_{segment}"))
            of_parts = {
                name: within(m, known, first, first + width + windows.bits, name=f"part_{name}_{segment}")
                for name, (first, width) in self._parts.items()
            }
            amounts.append({name: placed.keep(amount, f"amount_{name}_{segment}") for name, amount in of_parts.items()})
            high_below = (shared[segment].high - 1)[: sums.high_bits]
            highs_below.append(placed.keep(high_below, f"high_below_{segment}"))
        for extremum in extrema:
            extremum.start(placed, deep=self.deep)
        exponents = [placed.keep(exponent, f"shared_exp_{segment}") for segment, exponent in enumerate(exponents)]
        may_bump = [placed.keep(bump, f"may_bump_{segment}") for segment, bump in enumerate(may_bump)]
        cross(placed)

        # 11: each sum's bits from there down
        cut = rank("cut")
        signs = self._signs(m, shared, own_lanes, "placed")
        pieces = []
        for segment in segments:
            pieces += self._cut(
                m, windows, segment, masks[segment], amounts[segment], shared[segment], highs_below[segment],
                own_lanes, signs, cut,
            )  # fmt: skip
        for extremum in extrema:
            extremum.cut(cut)
        exponents = [cut.keep(exponent, f"shared_exp_{segment}") for segment, exponent in enumerate(exponents)]
        may_bump = [cut.keep(bump, f"may_bump_{segment}") for segment, bump in enumerate(may_bump)]
        cross(cut)

        # 12: how they round
        decided = rank("decided")
        decisions = [windows.decision(*piece, flags[0], flags[2]).only_if(valid) for piece, valid in pieces]
        own_decisions = [extremum.decide() for extremum in extrema]
        rounding = []
        for lane, decision in enumerate(decisions):
            others = [
                own.only_if(extremum.is_lane(lane))
                for extremum, own in zip(extrema, own_decisions, strict=True)
                if extremum.may_be_lane(lane)
            ]
            rounding.append(decision.merged(others).kept(decided, f"{lane}"))
        exact_powers: list[Value] = []
        for segment in segments:
            of_segment = range(segment * sums.segment, (segment + 1) * sums.segment)
            powers = [decisions[lane].power for lane in of_segment]
            powers += [
                own.power & extremum.is_segment(segment)
                for extremum, own in zip(extrema, own_decisions, strict=True)
                if extremum.may_be_lane(of_segment[0])
            ]
            kept = powers if self.deep else [Cat(powers).any()]
            exact_powers.append(Cat(
                decided.keep(power, f"exact_power_{segment}_{index}") for index, power in enumerate(kept)
            ))  # fmt: skip
        exponents = [decided.keep(exponent, f"shared_exp_{segment}") for segment, exponent in enumerate(exponents)]
        may_bump = [decided.keep(bump, f"may_bump_{segment}") for segment, bump in enumerate(may_bump)]
        flags = decided.keep(flags, "flags")

        # 13: take everything a place higher if a negative power of two asks for it
        bumped = rank("bumped")
        bumps = [agreement.any_of_block(exact_powers, segment, flags[0]) & may_bump[segment] for segment in segments]
        if self.deep:  # wires would do else, but behind them ABC finds 1 % more area
            bumps = [bumped.keep(bump, f"bump_{segment}") for segment, bump in enumerate(bumps)]
            rounding = [decision.kept(bumped, f"{lane}") for lane, decision in enumerate(rounding)]
            exponents = [bumped.keep(exponent, f"shared_exp_{segment}") for segment, exponent in enumerate(exponents)]
            flags = bumped.keep(flags, "flags")

        # 14: round
        rounded = rank("rounded")
        backward = flags[0]
        elements, saturated = [], []
        for lane, decision in enumerate(rounding):
            significand, exceeds = self._round(m, lane, decision, bumps[lane // sums.segment], backward)
            sign = rounded.keep(decision.sign, f"sign_{lane}")
            elements.append((rounded.keep(significand, f"significand_{lane}"), sign))
            saturated.append(rounded.keep(exceeds, f"exceeds_{lane}"))
        exponents = [
            rounded.keep((exponent + bump)[: sums.exp_bits], f"shared_exp_{segment}")
            for segment, (exponent, bump) in enumerate(zip(exponents, bumps, strict=True))
        ]
        flags = rounded.keep(flags, "flags")

        # 15: encode
        output: Rank | Skid
        if self.deep:
            output = Skid(m, "output", rounded.valid, advance=self.o.ready)
        else:
            output = Rank(m, "output", rounded.valid, advance=self.o_ready)
        m.d.comb += [
            self.o_ready.eq(output.ready if isinstance(output, Skid) else ~output.valid | self.o.ready),
            self.o_advance.eq(~output.full if isinstance(output, Skid) else self.o_ready),
            self.o.valid.eq(output.valid),
            self.o.payload.data.eq(output.keep(self._encode(m, exponents, elements, flags[0]), "data")),
            self.o.payload.last.eq(output.keep(flags[1], "last")),
        ]
        count = Signal(range(lanes + 1))
        m.d.comb += [
            count.eq(sum(saturated[1:], saturated[0])),
            self.o_saturated.eq(Mux(output.valid & self.o.ready, output.keep(count, "saturated"), 0)),
        ]
        return m

    def _carry(self, total: Signal, backward: Value) -> Value:
        """Whether a rounded magnitude needs more bits than its format has."""
        tops = [total[fmt.significand_bits :].any() for fmt in self.sums.formats]
        return tops[0] if len(tops) == 1 else Mux(backward, tops[1], tops[0])

    def _signs(self, m: Module, shared: Any, own_lanes: Any, name: str) -> list[Signal]:
        """Whether each sum is negative: only where the block's high part is 0."""
        signs = []
        for lane in range(self.lanes):
            of_block = shared[lane // self.sums.segment]
            sign = Signal(name=f"sign_{name}_{lane}")
            m.d.comb += sign.eq(~of_block.has_high & own_lanes[lane].low[-1])
            signs.append(sign)
        return signs

    def _magnitudes(self, m: Module, segment: int, shared: Any, own_lanes: Any, lane_signs: list[Signal]) -> Signal:
        """OR over the segment's valid lanes of their sums, inverted where negative; fraction lowest."""
        sums = self.sums
        low: Value = Const(0, sums.low_bits)
        above, below, positive, negative = [], [], [], []
        for lane in range(segment * sums.segment, (segment + 1) * sums.segment):
            bits, sign = own_lanes[lane], lane_signs[lane]
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
        # without a high part, what lies above the low part is sign alone
        high = (shared.high & some["above"].replicate(sums.high_bits)) | (
            (shared.high - 1)[: sums.high_bits] & some["below"].replicate(sums.high_bits)
        )
        fraction = (shared.fraction & some["positive"].replicate(sums.fraction_bits)) | (
            ~shared.fraction & some["negative"].replicate(sums.fraction_bits)
        )
        vector = Signal(sums.fraction_bits + sums.low_bits + sums.high_bits, name=f"vector_{segment}")
        m.d.comb += vector.eq(Cat(fraction, low, high & shared.has_high.replicate(sums.high_bits)))
        return vector

    @property
    def _parts(self) -> dict[str, tuple[int, int]]:
        """First place and width of each part of a sum that has a window's bits of zeros below it. A window at a part's
        first place is below it, as far as that part is concerned: there it finds zeros."""
        sums = self.sums
        return {
            "fraction": (0, sums.fraction_bits),
            "low": (sums.fraction_bits, sums.low_bits),
            "high": (sums.fraction_bits + sums.low_bits, sums.high_bits),
        }

    def _cut(
        self, m: Module, windows: Windows, segment: int, dropped: Value, amounts: dict[str, Signal], shared: Any,
        high_below: Value, own_lanes: Any, lane_signs: list[Signal], rank: Rank,
    ) -> list[tuple[tuple[Signal, Value, Value, Value], Value]]:
        """For each lane of a segment, behind the rank: the bits in its window, whether others are below (in places
        `dropped`) and above it, its sign; and whether the lane is valid."""
        sums, bits = self.sums, windows.bits
        below_it = Const(0, bits)
        low_first = bits + sums.fraction_bits
        high_first = low_first + sums.low_bits
        kept = windows.from_top_down(dropped)
        of_fraction = window(
            m, Cat(below_it, shared.fraction), amounts["fraction"], bits, name=f"fraction_{segment}"
        )  # fmt: skip
        fraction_sticky = Signal(name=f"fraction_sticky_{segment}")
        m.d.comb += fraction_sticky.eq((shared.fraction & dropped[bits:low_first]).any())
        of_block: dict[str, tuple[Value, Value, Value]] = {}  # where a lane goes on above or below the high part
        for name, high in (("above", shared.high), ("below", high_below)):
            sticky, over = Signal(name=f"sticky_{name}_{segment}"), Signal(name=f"over_{name}_{segment}")
            above_it = high[-1].replicate(bits) if name == "below" else Const(0, bits)
            of_high = window(m, Cat(below_it, high, above_it), amounts["high"], bits, name=f"{name}_{segment}")
            m.d.comb += [
                sticky.eq((high & dropped[high_first:]).any() | fraction_sticky),
                over.eq((high & ~kept[high_first:]).any() & shared.has_high),
            ]
            of_block[name] = (
                rank.keep(of_high | of_fraction, f"window_{name}_{segment}"),
                rank.keep(sticky, f"sticky_{name}_{segment}"), rank.keep(over, f"over_{name}_{segment}"),
            )  # fmt: skip
        # only where the format's exponents end can the fraction lie above the window
        fraction_above = ~kept[bits:low_first]
        fraction_over = []
        for name, fraction in (("positive", shared.fraction), ("negative", ~shared.fraction)):
            over = Signal(name=f"over_{name}_{segment}")
            m.d.comb += over.eq((fraction & fraction_above).any())
            fraction_over.append(rank.keep(over, f"over_{name}_{segment}"))
        last_step = rank.keep(amounts["low"][0], f"last_step_{segment}")
        pieces = []
        for lane in range(segment * sums.segment, (segment + 1) * sums.segment):
            low, own_sign = own_lanes[lane].low[:-1], lane_signs[lane]
            long_steps = Cat(Const(0, 1), amounts["low"][1:])
            of_lane: Value = window(m, Cat(below_it, low), long_steps, bits + 1, name=f"lane_{lane}")
            low_sticky, low_over = Signal(name=f"low_sticky_{lane}"), Signal(name=f"low_over_{lane}")
            m.d.comb += [
                low_sticky.eq((low & dropped[low_first:high_first]).any()),
                low_over.eq(((low ^ own_sign.replicate(sums.low_bits)) & ~kept[low_first:high_first]).any()),
            ]
            of_lane, low_sticky, low_over, goes_below, own_sign, valid = (
                rank.keep(value, f"{name}_{lane}")
                for name, value in (
                    ("spread", of_lane), ("low_sticky", low_sticky), ("low_over", low_over),
                    ("goes_below", own_lanes[lane].low[-1]), ("sign", own_sign), ("valid", own_lanes[lane].valid),
                )
            )  # fmt: skip
            bits_of_block, sticky_of_block, over_of_block = (
                Mux(goes_below, *pair) for pair in zip(of_block["below"], of_block["above"], strict=True)
            )
            in_window, sticky, overflow = (
                Signal(bits, name=f"window_{lane}"), Signal(name=f"sticky_{lane}"), Signal(name=f"overflow_{lane}")
            )  # fmt: skip
            m.d.comb += [
                in_window.eq(Mux(last_step, of_lane[1:], of_lane[:-1]) | bits_of_block),
                sticky.eq(low_sticky | sticky_of_block),
                overflow.eq(low_over | over_of_block | Mux(own_sign, fraction_over[1], fraction_over[0])),
            ]
            pieces.append(((in_window, sticky, overflow, own_sign), valid))
        return pieces

    def _round(self, m: Module, lane: int, decision: Decision, bump: Value, backward: Value) -> tuple[Signal, Signal]:
        """A lane's significand, and whether it saturates."""
        bits = self.sums.man_bits + 1
        result, exceeds = Signal(bits, name=f"significand_{lane}"), Signal(name=f"exceeds_{lane}")
        bumped = Signal(name=f"bump_{lane}")
        limit = Windows.by_pass([(1 << fmt.significand_bits) - 1 for fmt in self.sums.formats], backward)
        total = Signal(bits + 1, name=f"rounded_{lane}")
        m.d.comb += bumped.eq(bump)
        m.d.comb += total.eq(
            Mux(bumped, decision.magnitude >> 1, decision.magnitude) + Mux(bumped, decision.up_bumped, decision.up)
        )
        # deep, not as a choice: its registers would get a reset, which comes late
        saturated = (total[:bits] | exceeds.replicate(bits)) & limit
        m.d.comb += [
            exceeds.eq(decision.overflow | self._carry(total, backward)),
            result.eq(saturated if self.deep else Mux(exceeds, limit, total[:bits])),
        ]
        return result, exceeds

    def _encode(
        self, m: Module, exponents: list[Value], elements: list[tuple[Signal, Signal]], backward: Value
    ) -> Value:
        """The bits of a beat: `exponents` of its segments, significand and sign of its elements.

        A block of zeros has exponent 0 already, as nobody asks for another, and its gate could go: `deep` it does, but
        ABC maps the short pipeline 1 % smaller with it.
        """
        sums = self.sums
        nonzero = [
            Cat(significand for significand, _ in elements[first : first + sums.segment]).any()
            for first in range(0, self.lanes, sums.segment)
        ]
        outputs = []
        for index, fmt in enumerate(sums.formats):
            beat = Signal(beat_layout(fmt, self.lanes), name=f"beat_{index}")
            for block in range(self.lanes // fmt.block_size):
                first = block * fmt.block_size
                of_block = range(first // sums.segment, (first + fmt.block_size) // sums.segment)
                some = 1 if self.deep else Cat(nonzero[segment] for segment in of_block).any()
                m.d.comb += beat[block].shared_exp.eq(Mux(some, exponents[of_block[0]], 0))
                for lane, (significand, sign) in enumerate(elements[first : first + fmt.block_size]):
                    element = beat[block].elements[lane]
                    m.d.comb += [element.significand.eq(significand), element.sign.eq(sign & significand.any())]
            outputs.append(beat.as_value())
        data_bits = Signal(sums.beat_bits(self.lanes), name="data")
        m.d.comb += data_bits.eq(outputs[0] if len(outputs) == 1 else Mux(backward, outputs[1], outputs[0]))
        return data_bits
