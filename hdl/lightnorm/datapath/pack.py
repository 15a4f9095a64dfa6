"""Rounds exact sums once into blocks: shared exponent, then every significand at that exponent's last place.

A sum is kept as a two's complement number whose bits above and below the lane's own belong to its block (see `apply`).
The block's leading bit is found on sums inverted where negative, which is one place low exactly when the largest
magnitude is a negative power of two; the last stage sees that and takes every significand one place higher.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..arith.leading_one import leading_one
from ..arith.rounding import round_up
from .apply import SumFormat
from .beat import beat_layout, output_layout

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


class Pack(wiring.Component):
    """Sums of a beat in, encoded blocks out; one beat per cycle, latency one cycle.

    `o_advance` says that everything from `apply` on moves: the last registers are free or being taken. The rounding
    behind them is combinational up to `o`, whose payload holds while it waits.
    """

    def __init__(self, *, sums: SumFormat, lanes: int) -> None:
        self.sums, self.lanes = sums, lanes
        self.beat_bits = max(beat_layout(fmt, lanes).size for fmt in sums.formats)
        super().__init__(
            {
                "i": In(sums.layout(lanes)),
                "i_valid": In(1),
                "o_advance": Out(1),
                "o": Out(stream.Signature(output_layout(self.beat_bits))),
                "o_saturated": Out(range(lanes + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sums, lanes = self.sums, self.lanes
        segments = lanes // sums.segment
        significand_bits = sums.man_bits + 1
        window_valid = Signal()
        m.d.comb += self.o_advance.eq(~window_valid | self.o.ready)

        # 3: leading bit of every block, and each lane's bits from there down
        last, backward = Signal(reset_less=True), Signal(reset_less=True)
        load = Signal()
        m.d.comb += load.eq(self.o_advance & self.i_valid)
        with m.If(self.o_advance):
            m.d.sync += window_valid.eq(self.i_valid)
        with m.If(load):
            m.d.sync += [last.eq(self.i.last), backward.eq(self.i.backward)]
        lane_signs = self._signs(m)
        vectors = [self._magnitudes(m, segment, lane_signs) for segment in range(segments)]
        shared_exps, may_bump, exact_powers = [], [], []
        rounding: list[tuple[Signal, ...]] = []
        for segment in range(segments):
            position, exponent, bump = self._position(m, segment, self._of_block(m, vectors, segment, "magnitudes"))
            kept_exponent = Signal(exponent.shape(), name=f"shared_exp_{segment}", reset_less=True)
            kept_bump = Signal(name=f"may_bump_{segment}", reset_less=True)
            with m.If(load):
                m.d.sync += [kept_exponent.eq(exponent), kept_bump.eq(bump)]
            shared_exps.append(kept_exponent)
            may_bump.append(kept_bump)
            lane_results, exact_power = self._windows(m, segment, position, lane_signs, load)
            rounding += lane_results
            exact_powers.append(exact_power)

        # 4: round, and take everything a place higher if a negative power of two asks for it
        bumps = [
            self._of_block(m, exact_powers, segment, "power", backward) & may_bump[segment]
            for segment in range(segments)
        ]
        significands, signs, saturated = [], [], []
        for lane, (magnitude, up, up_bumped, sign, overflow) in enumerate(rounding):
            bump = Signal(name=f"bump_{lane}")
            total = Signal(significand_bits + 1, name=f"rounded_{lane}")
            result, exceeds = Signal(significand_bits, name=f"significand_{lane}"), Signal(name=f"exceeds_{lane}")
            limits = [(1 << fmt.significand_bits) - 1 for fmt in sums.formats]
            limit = limits[0] if len(limits) == 1 else Mux(backward, limits[1], limits[0])
            m.d.comb += [
                bump.eq(bumps[lane // sums.segment]),
                total.eq(Mux(bump, magnitude >> 1, magnitude) + Mux(bump, up_bumped, up)),
                exceeds.eq(overflow | self._carry(total, backward)),
                result.eq(Mux(exceeds, limit, total[:significand_bits])),
            ]
            significands.append(result)
            signs.append(sign)
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
                        element.sign.eq(signs[lane] & significands[lane].any()),
                    ]
            outputs.append(beat.as_value())
        m.d.comb += [
            self.o.valid.eq(window_valid),
            self.o.payload.data.eq(outputs[0] if len(outputs) == 1 else Mux(backward, outputs[1], outputs[0])),
            self.o.payload.last.eq(last),
            self.o_saturated.eq(Mux(window_valid & self.o.ready, sum(saturated[1:], saturated[0]), 0)),
        ]
        return m

    def _carry(self, total: Signal, backward: Signal) -> Value:
        """Whether a rounded magnitude needs one bit more than its format has."""
        tops = [total[fmt.significand_bits] for fmt in self.sums.formats]
        return tops[0] if len(tops) == 1 else Mux(backward, tops[1], tops[0])

    def _of_block(
        self, m: Module, values: list[Value], segment: int, name: str, backward: Value | None = None
    ) -> Value:
        """OR of a per-segment value over the block that the segment belongs to."""
        sums = self.sums
        backward = self.i.backward if backward is None else backward
        merged = []
        for index, fmt in enumerate(sums.formats):
            per_block = fmt.block_size // sums.segment
            first = segment // per_block * per_block
            total = Signal(len(values[0]), name=f"{name}_{index}_{segment}")
            joined: Value = Const(0, len(values[0]))
            for value in values[first : first + per_block]:
                joined = joined | value
            m.d.comb += total.eq(joined)
            merged.append(total)
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

    def _position(self, m: Module, segment: int, vector: Value) -> tuple[Signal, Signal, Signal]:
        """(place of the block's leading significand bit plus one, shared exponent, whether it may go one higher).

        Places count from the vector's lowest bit. Where the format's exponents end, the place is that of the last
        exponent.
        """
        sums = self.sums
        shared = self.i.segments[segment]
        bits = sums.exponent_bits + 2
        top = len(vector) + sums.man_bits + 3  # a lowest exponent from here on rounds everything to zero
        whole = Signal(len(vector), name=f"whole_{segment}")
        m.d.comb += whole.eq(vector)
        leading, found = leading_one(m, whole, name=f"leading_{segment}")
        leading_place = Signal(range(top + 2), name=f"leading_place_{segment}")
        lowest, highest = (
            Signal(signed(bits), name=f"lowest_{segment}"),
            Signal(signed(bits), name=f"highest_{segment}"),
        )

        def by_pass(values: list[int]) -> Value:
            return Const(values[0]) if len(values) == 1 else Mux(self.i.backward, values[1], values[0])

        # places, plus one, of the leading bit at shared exponents 0 and max_shared_exp
        base = Signal(signed(bits), name=f"base_{segment}")
        limit = by_pass([fmt.max_shared_exp for fmt in sums.formats])
        m.d.comb += [
            base.eq(by_pass([sums.fraction_bits + 1 - fmt.bias for fmt in sums.formats]) - shared.exponent),
            lowest.eq(Mux(base > top, top, Mux(base < 0, 0, base))),
            highest.eq(Mux(base + limit > top, top, Mux(base + limit < 0, 0, base + limit))),
            leading_place.eq(Mux(found, leading + 1, 0)),
        ]
        under, over = Signal(name=f"under_{segment}"), Signal(name=f"over_{segment}")
        position = Signal(range(top + 1), name=f"position_{segment}")
        exponent = Signal(max(fmt.exp_bits for fmt in sums.formats), name=f"exponent_{segment}")
        may_bump = Signal(name=f"bump_{segment}")
        m.d.comb += [
            under.eq(leading_place < lowest),
            over.eq(leading_place > highest),
            position.eq(Mux(under, lowest, Mux(over, highest, leading_place))),
            exponent.eq(Mux(under, 0, Mux(over, limit, leading_place - base))),
            may_bump.eq(leading_place < highest),
        ]
        return position, exponent, may_bump

    def _windows(
        self, m: Module, segment: int, position: Signal, lane_signs: list[Signal], load: Signal
    ) -> tuple[list[tuple[Signal, ...]], Signal]:
        """Registered. Per lane: truncated magnitude, the two rounding decisions, sign, overflow; and whether a
        lane is exactly the negative power of two that is one place higher than it seems."""
        sums, shared = self.sums, self.i.segments[segment]
        bits = sums.man_bits + 2  # significand and guard bit
        drops = [sums.man_bits - fmt.man_bits for fmt in sums.formats]
        guard_place: Value = position if len(drops) == 1 else position + Mux(self.i.backward, drops[1], drops[0])

        # `start`: place of the guard bit in the vector with `bits` zeros below it
        start = Signal(range((1 << len(position)) + bits), name=f"start_{segment}")
        m.d.comb += start.eq(guard_place)
        low_first = bits + sums.fraction_bits  # of the lanes' own bits
        high_first = low_first + sums.low_bits
        lane_amount = Signal(range(sums.low_bits + bits + 1), name=f"lane_amount_{segment}")
        relative = Signal(signed(len(start) + 1), name=f"relative_{segment}")
        m.d.comb += [
            relative.eq(start - (low_first - bits + 1)),
            lane_amount.eq(Mux((relative < 0) | (relative > sums.low_bits + bits), sums.low_bits + bits, relative)),
        ]
        extended = {
            name: Cat(Const(0, bits), shared.fraction, Const(0, sums.low_bits), high, high[-1].replicate(bits + 4))
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
        results, powers = [], []
        for lane in range(segment * sums.segment, (segment + 1) * sums.segment):
            own, sign = self.i.lanes[lane], lane_signs[lane]
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
            guard, truncated = window[0], window[1:]
            magnitude = truncated ^ sign.replicate(sums.man_bits + 1)
            up = round_up(truncated[0], guard, sticky) ^ sign
            up_bumped = round_up(truncated[1], truncated[0], guard | sticky) ^ sign
            full = [magnitude[: fmt.significand_bits].all() for fmt in sums.formats]
            power = sign & (full[0] if len(full) == 1 else Mux(self.i.backward, full[1], full[0])) & ~guard & ~sticky
            registers = []
            used = own.valid  # padding rounds to zero
            for name, value in (
                ("truncated", magnitude & used.replicate(len(magnitude))), ("up", up & used),
                ("up_bumped", up_bumped & used), ("negative", sign), ("too_large", overflow & used),
            ):  # fmt: skip
                register = Signal(len(value), name=f"{name}_{lane}", reset_less=True)
                with m.If(load):
                    m.d.sync += register.eq(value)
                registers.append(register)
            results.append(tuple(registers))
            powers.append(power & own.valid)
        exact_power = Signal(name=f"exact_power_{segment}", reset_less=True)
        with m.If(load):
            m.d.sync += exact_power.eq(Cat(powers).any())
        return results, exact_power
