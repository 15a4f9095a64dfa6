"""Statistics of a channel while its beats stream by.

    total = sum z, product_total = sum x * z      z = x in training, the gradient in backward
    range_total = sum over chunks of max x - min x

A sum is block-aligned: of a beat's terms each is shifted to the largest exponent that the channel has had so far, cut,
and added as an integer; the accumulator is shifted when that exponent grows. In cycles behind the beat:

    1  exponents, their largest in pieces; first half of the products; extrema in pieces
    2  the largest exponent; second half; extrema of the beat
    3  terms aligned; extrema of the chunk
    4  sum of the lanes
    5  accumulators (each sum a cycle behind the one before it, so that they share what follows)
    6  magnitude, 7 normalized, 8 rounded: a finished total is a number
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lightnorm_golden.baseline import FloatNormSpec
from lightnorm_golden.spec import MAX_ELEMENTS

from ..arith.floating import float_layout, round_float, significand_of
from ..arith.shift import normalize
from .extrema import place_layout, record_layout
from .lanes import align, lanes_layout, largest_of, partial_products, whole_product

__all__ = ["Reduce", "totals"]

Number = tuple[Value, Value, Value]
"""Significand, sign, exponent."""


def totals(spec: FloatNormSpec, backward: bool) -> tuple[str, ...]:
    """The statistics that a build takes, in the order in which they are finished."""
    product = ("product_total",) if spec.statistic == "l2" or backward else ()
    return ("total", *product, *(("range_total",) if spec.statistic == "range" else ()))


class Reduce(wiring.Component):
    """One beat per cycle.

    Ports
    -----
    i_valid, i, i_grad : a beat in the common format, padding marked. i_backward : gradients count.
    i_chunk_end, i_last : the beat closes a chunk, a channel.
    o_free : another channel may end; o_pending : totals are on their way or wait.
    o_request : all totals of a channel are there; they hold still until `i_release`.
    o_record, o_place : a chunk closes in backward, and where its extrema are (range).
    """

    def __init__(self, *, spec: FloatNormSpec, lanes: int, backward: bool) -> None:
        self.spec, self.lanes, self.backward = spec, lanes, backward
        self.names = totals(spec, backward)
        self.ranges = spec.statistic == "range"
        beat = lanes_layout(spec.common, lanes)
        super().__init__(
            {
                "i_valid": In(1),
                "i": In(beat),
                "i_chunk_end": In(1),
                "i_last": In(1),
                "o_pending": Out(1),
                "o_request": Out(1),
                "i_release": In(1),
                **{f"o_{name}": Out(float_layout(spec.coef)) for name in self.names},
            }
            | ({"i_grad": In(beat), "i_backward": In(1)} if backward else {})
            | ({"o_record": Out(1), "o_place": Out(record_layout(lanes))} if self.ranges and backward else {})
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        common = self.spec.common
        backward = self.i_backward if self.backward else Const(0, 1)
        x = [self.i[lane] for lane in range(self.lanes)]
        z = x
        if self.backward:
            z = []
            for lane in range(self.lanes):
                chosen = Signal(float_layout(common), name=f"z_{lane}")
                m.d.comb += chosen.eq(Mux(backward, self.i_grad[lane].as_value(), x[lane].as_value()))
                z.append(chosen)
        finished = []
        numbers = [(significand_of(word), word.sign, word.exponent) for word in z]
        finished.append(self._sum(m, "total", numbers, None, self.i_valid, self.i_last, common.bias, 0))
        if "product_total" in self.names:
            # squares are of no use to range statistics: then the multipliers rest in training
            factors = z if not self.ranges else [self.i_grad[lane] for lane in range(self.lanes)]
            valid = self.i_valid & backward if self.ranges else self.i_valid
            terms = []
            for lane, (a, b) in enumerate(zip(x, factors, strict=True)):
                exponent = Signal(common.exp_bits + 1, name=f"product_exponent_{lane}")
                nonzero = a.exponent.any() & b.exponent.any()
                m.d.comb += exponent.eq((a.exponent + b.exponent) & nonzero.replicate(common.exp_bits + 1))
                terms.append((significand_of(a), a.sign ^ b.sign, exponent))
            others = [significand_of(b) for b in factors]
            finished.append(self._sum(m, "product_total", terms, others, valid, self.i_last, 2 * common.bias, 1))
        if self.ranges:
            closes, extrema = self._extrema(m)
            _, last = self._valid(m, "range", self.i_valid, self.i_last, 3)
            finished.append(self._sum(m, "range_total", extrema, None, closes, last, common.bias, 0))
        self._convert(m, finished)
        return m

    @staticmethod
    def _valid(m: Module, name: str, valid: Value, last: Value, cycles: int) -> tuple[Value, Value]:
        """Both, `cycles` later."""
        for cycle in range(1, cycles + 1):
            following = Signal(name=f"{name}_valid_{cycle}")
            closing = Signal(name=f"{name}_last_{cycle}", reset_less=True)
            m.d.sync += [following.eq(valid), closing.eq(last)]
            valid, last = following, closing
        return valid, last

    def _sum(
        self,
        m: Module,
        name: str,
        numbers: list[Number],
        factors: list[Value] | None,
        valid: Value,
        last: Value,
        bias: int,
        delay: int,
    ) -> tuple[Value, Value, Value, int]:
        """(whether the accumulator holds a channel's total, the accumulator, its exponent, that one's bias)."""
        spec, count = self.spec, len(numbers)
        fraction = spec.common.man_bits * (1 if factors is None else 2)
        kept = spec.sum_fraction

        def register(value: Value, enable: Value, label: str) -> Signal:
            held = Signal(value.shape(), name=f"{name}_{label}", reset_less=True)
            with m.If(enable):
                m.d.sync += held.eq(value)
            return held

        stages = [(valid, last)]
        for cycle in range(1, 5 + delay):
            stages.append(self._valid(m, f"{name}_{cycle}", *stages[-1], 1))
        loads = [stage[0] for stage in stages]

        # 1
        parts: list[list[Value]] = []
        for lane, (significand, _, _) in enumerate(numbers):
            made = [significand]
            if factors is not None:
                made = partial_products(m, significand, factors[lane], name=f"{name}_product_{lane}")
            parts.append([register(part, loads[0], f"part_{lane}_{index}") for index, part in enumerate(made)])
        signs = [register(sign, loads[0], f"sign_1_{lane}") for lane, (_, sign, _) in enumerate(numbers)]
        exponents = [register(exponent, loads[0], f"exponent_1_{lane}") for lane, (*_, exponent) in enumerate(numbers)]
        groups = [
            register(largest_of(m, [exponent for *_, exponent in numbers[first : first + 4]],
                                name=f"{name}_largest_{first}"), loads[0], f"group_{first}")
            for first in range(0, count, 4)
        ]  # fmt: skip

        # 2
        fresh = Signal(init=1, name=f"{name}_fresh")  # the next beat is a channel's first
        largest = Signal(len(groups[0]), name=f"{name}_largest", reset_less=True)
        following = Signal.like(largest, name=f"{name}_following")
        before = Signal.like(largest, name=f"{name}_before")
        m.d.comb += [
            before.eq(largest & (~fresh).replicate(len(largest))),
            following.eq(largest_of(m, [*groups, before], name=f"{name}_of_groups")),
        ]
        with m.If(loads[1]):
            m.d.sync += [largest.eq(following), fresh.eq(stages[1][1])]
        growth = register(following - before, loads[1], "growth_2")
        first = register(fresh, loads[1], "first_2")
        rows = []
        for lane in range(count):
            product = parts[lane][0]
            if factors is not None:
                low = len(factors[lane]) // 2
                product = whole_product(m, parts[lane], low, name=f"{name}_whole_{lane}")
            cut = max(fraction - kept, 0)  # what alignment would drop anyway
            rows.append((register(product[cut:], loads[1], f"magnitude_{lane}"),
                         register(signs[lane], loads[1], f"sign_2_{lane}"),
                         register(exponents[lane], loads[1], f"exponent_2_{lane}")))  # fmt: skip

        # 3
        aligned = []
        for lane, (magnitude, sign, exponent) in enumerate(rows):
            shifted = align(m, magnitude, exponent, largest, fraction=min(fraction, kept), kept=kept,
                            name=f"{name}_{lane}")  # fmt: skip
            inverted = Signal(signed(len(shifted) + 1), name=f"{name}_inverted_{lane}")
            m.d.comb += inverted.eq(Cat(shifted ^ sign.replicate(len(shifted)), sign).as_signed())
            aligned.append((register(inverted, loads[2], f"aligned_{lane}"),
                            register(sign, loads[2], f"sign_3_{lane}")))  # fmt: skip
        held = [register(value, loads[2], label) for value, label in
                ((largest, "largest_3"), (growth, "growth_3"), (first, "first_3"))]  # fmt: skip

        # 4, and a delay
        negatives = Signal(range(count + 1), name=f"{name}_negatives")
        total = Signal(signed(len(aligned[0][0]) + count.bit_length()), name=f"{name}_beat")
        m.d.comb += [
            negatives.eq(sum((sign for _, sign in aligned[1:]), aligned[0][1])),
            total.eq(sum((row for row, _ in aligned[1:]), aligned[0][0]) + negatives),
        ]
        held = [total, *held]
        for cycle in range(4, 5 + delay):
            held = [register(value, loads[cycle - 1], f"{label}_{cycle}") for value, label in
                    zip(held, ("beat", "largest", "growth", "first"), strict=True)]  # fmt: skip

        # 5
        beat, unit, growth, first = held
        whole_bits = len(aligned[0][0]) - kept - 1
        accumulator = Signal(signed(1 + whole_bits + kept + (MAX_ELEMENTS - 1).bit_length()),
                             name=f"{name}_accumulator", reset_less=True)  # fmt: skip
        steps = len(accumulator).bit_length()
        current: Value = Signal.like(accumulator, name=f"{name}_current")
        m.d.comb += current.eq(accumulator & (~first).replicate(len(accumulator)))
        for step in range(steps if steps < len(growth) else len(growth)):
            moved = Signal.like(accumulator, name=f"{name}_grown_by_{1 << step}")
            m.d.comb += moved.eq(Mux(growth[step], current >> (1 << step), current))
            current = moved
        if steps < len(growth):
            gone = Signal.like(accumulator, name=f"{name}_gone")  # all that is left is the sign
            m.d.comb += gone.eq(Mux(growth[steps:].any(), current[-1].replicate(len(current)).as_signed(), current))
            current = gone
        exponent = Signal.like(unit, name=f"{name}_unit", reset_less=True)
        with m.If(loads[4 + delay]):
            m.d.sync += [accumulator.eq(current + beat), exponent.eq(unit)]
        done = Signal(name=f"{name}_done")
        m.d.sync += done.eq(loads[4 + delay] & stages[4 + delay][1])
        return done, accumulator, exponent, bias

    def _convert(self, m: Module, finished: list[tuple[Value, Value, Value, int]]) -> None:
        """Rounds the totals, one after the other."""
        spec = self.spec
        width = max(len(accumulator) for _, accumulator, _, _ in finished) - 1
        exponents = max(spec.coef.exp_bits, *(len(exponent) for _, _, exponent, _ in finished)) + 2
        chosen, unit = Signal(signed(width + 1)), Signal(signed(exponents))
        for done, accumulator, exponent, bias in finished:
            with m.If(done):
                # of the accumulator's top bit
                place = width - 1 - spec.sum_fraction
                m.d.comb += [chosen.eq(accumulator), unit.eq(exponent + (spec.coef.bias - bias + place))]
        selected = Cat(done for done, *_ in finished)
        stage = data.StructLayout(
            {"magnitude": width, "exponent": signed(exponents), "sign": 1, "select": len(finished)}
        )
        absolute, normal = Signal(stage, reset_less=True), Signal(stage, reset_less=True)
        absolute_valid, normal_valid = Signal(), Signal()
        m.d.sync += [absolute_valid.eq(selected.any()), normal_valid.eq(absolute_valid)]
        with m.If(selected.any()):
            m.d.sync += [
                absolute.magnitude.eq((chosen ^ chosen[-1].replicate(width + 1)) + chosen[-1]),
                absolute.exponent.eq(unit),
                absolute.sign.eq(chosen[-1]),
                absolute.select.eq(selected),
            ]
        shifted, places = normalize(m, absolute.magnitude, name="normalize")
        with m.If(absolute_valid):
            m.d.sync += [
                normal.magnitude.eq(shifted),
                normal.exponent.eq(absolute.exponent - places),
                normal.sign.eq(absolute.sign),
                normal.select.eq(absolute.select),
            ]
        number = round_float(m, spec.coef, normal.magnitude, normal.exponent, normal.sign, name="rounded")
        pending = Signal()
        wanted = len(self.names) - 1
        for index, name in enumerate(self.names):
            held = Signal(float_layout(spec.coef), name=f"{name}_number", reset_less=True)
            m.d.comb += getattr(self, f"o_{name}").eq(held)
            with m.If(normal_valid & normal.select[index]):
                m.d.sync += held.eq(number)
        with m.If(normal_valid & normal.select[wanted]):
            m.d.sync += self.o_request.eq(1)
        with m.If(self.i_release):
            m.d.sync += [pending.eq(0), self.o_request.eq(0)]
        with m.If(self.i_valid & self.i_last):
            m.d.sync += pending.eq(1)
        m.d.comb += self.o_pending.eq(pending)

    def _extrema(self, m: Module) -> tuple[Value, list[Number]]:
        """Whether a chunk closed three cycles ago, and its maximum and negated minimum."""
        common, lanes = self.spec.common, self.lanes
        bits = common.exp_bits + common.man_bits
        loads: list[Value] = [self.i_valid]
        ends: list[Value] = [self.i_chunk_end]
        for cycle in (1, 2):
            valid, end = self._valid(m, f"chunk_{cycle}", loads[-1], ends[-1], 1)
            loads.append(valid)
            ends.append(end)
        runs: list[tuple[Value, ...]] = []  # maximum and its lane, minimum and its lane, whether there is an element
        for lane in range(lanes):
            word, key = self.i[lane], Signal(bits + 1, name=f"key_{lane}")
            nonzero = word.exponent.any()
            magnitude = Cat(word.fraction & nonzero.replicate(common.man_bits), word.exponent)
            negative = word.sign & nonzero
            m.d.comb += key.eq(Cat(magnitude ^ negative.replicate(bits), ~negative))
            runs.append((key, Const(lane, range(lanes)), key, Const(lane, range(lanes)), nonzero | ~word.sign))
        level, total = 0, (lanes - 1).bit_length()
        stage = 0
        while len(runs) > 1 or stage == 0:
            if len(runs) > 1:
                joined = [self._join(m, runs[i], runs[i + 1], f"{level}_{i}") for i in range(0, len(runs) - 1, 2)]
                runs, level = joined + runs[len(runs) // 2 * 2 :], level + 1
            if stage == 0 and level >= total // 2:
                runs = [self._held(m, run, loads[0], f"part_{index}") for index, run in enumerate(runs)]
                stage = 1
        high, high_lane, low, low_lane, _ = self._held(m, runs[0], loads[1], "beat")
        fresh = Signal(init=1, name="chunk_fresh")  # the next beat is a chunk's first
        carried = {kind: Signal(bits + 1, name=f"carried_{kind}", reset_less=True) for kind in ("max", "min")}
        place, odd, beat = place_layout(lanes), Signal(), Signal(place_layout(lanes)["beat"].shape)
        chosen: dict[str, Signal] = {}
        numbers = []
        if self.backward:
            recorded, channel_end = self._valid(m, "record", self.i_backward, self.i_last, 2)
        for kind, key, lane in (("max", high, high_lane), ("min", low, low_lane)):
            beyond = Signal(name=f"{kind}_beyond")
            chosen[kind] = Signal(bits + 1, name=f"chunk_{kind}")
            m.d.comb += [
                beyond.eq((key > carried[kind] if kind == "max" else key < carried[kind]) | fresh),
                chosen[kind].eq(Mux(beyond, key, carried[kind])),
            ]
            if self.backward:
                kept, here = Signal(place, name=f"{kind}_kept", reset_less=True), Signal(place, name=f"{kind}_here")
                m.d.comb += here.eq(kept)
                with m.If(beyond):
                    m.d.comb += [here.lane.eq(lane), here.beat.eq(beat)]
                with m.If(loads[2]):
                    m.d.sync += kept.eq(here)
                m.d.comb += self.o_place[kind].eq(here)
            held = Signal(bits + 1, name=f"closed_{kind}", reset_less=True)
            with m.If(loads[2]):
                m.d.sync += [held.eq(chosen[kind]), carried[kind].eq(chosen[kind])]
            magnitude = Signal(bits, name=f"magnitude_{kind}")
            m.d.comb += magnitude.eq(held[:-1] ^ (~held[-1]).replicate(bits))
            exponent = magnitude[common.man_bits :]
            negative = ~held[-1] if kind == "max" else held[-1]
            numbers.append((Cat(magnitude[: common.man_bits], exponent.any()), negative, exponent))
        closes = Signal(name="chunk_closes")
        m.d.sync += closes.eq(loads[2] & ends[2])
        with m.If(loads[2]):
            m.d.sync += fresh.eq(ends[2])
        if self.backward:
            m.d.comb += [self.o_record.eq(loads[2] & ends[2] & recorded), self.o_place.odd.eq(odd)]
            with m.If(loads[2]):
                m.d.sync += [beat.eq(Mux(channel_end, 0, beat + 1)), odd.eq(odd ^ (channel_end & recorded))]
        return closes, numbers

    @staticmethod
    def _held(m: Module, run: tuple[Value, ...], load: Value, name: str) -> tuple[Value, ...]:
        held = []
        for index, value in enumerate(run):
            register = Signal(len(value), name=f"{name}_{index}", reset_less=True)
            with m.If(load):
                m.d.sync += register.eq(value)
            held.append(register)
        return tuple(held)

    def _join(self, m: Module, first: tuple[Value, ...], second: tuple[Value, ...], name: str) -> tuple[Value, ...]:
        """Extrema of neighbouring runs of elements; padding is behind the elements, so the first run has one or none
        has."""
        exists = second[4]
        joined: list[Value] = []
        for kind, at in (("max", 0), ("min", 2)):
            later = Signal(name=f"{kind}_later_{name}")
            key = Signal(len(first[at]), name=f"{kind}_{name}")
            lane = Signal(len(first[at + 1]), name=f"{kind}_lane_{name}")
            m.d.comb += [
                later.eq((second[at] > first[at] if kind == "max" else second[at] < first[at]) & exists),
                key.eq(Mux(later, second[at], first[at])),
                lane.eq(Mux(later, second[at + 1], first[at + 1])),
            ]
            joined += [key, lane]
        return (*joined, first[4])
