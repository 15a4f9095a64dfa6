"""Coefficients of a channel from its statistics: one wide unit that plays the micro-program of the pass."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lightnorm_golden.formats import WideFormat
from lightnorm_golden.spec import NormSpec

from ..arith.rank import Rank
from ..arith.wide import Adder, FromFloat32, Order, Rounder, significand, unrounded_layout, wide_layout
from .program import CONSTANTS, PARAMETERS, PROGRAMS, TERMS, ZERO, Kind, Program, schedule
from .reduce import statistic_cycles, statistics_shapes
from .total_select import TotalSelect

__all__ = ["MODES", "Coefficients", "coefficients_layout"]

MODES = {"infer": 0, "train": 1, "backward": 2}
"""Values of the run-time input `mode`."""


def _latency(deep: bool) -> int:
    """Slots from an operation's last one to the first that can read its result: its ranks, `deep` the unrounded result,
    and the result."""
    return 8 if deep else 1


def _quotient_bits_per_cycle(deep: bool) -> int:
    """The longest program of the default formats must not take longer than 31 beats, `deep` than 99."""
    return 1 if deep else 2


def _low_bits(spec: NormSpec) -> int:
    """Bits of a significand that a multiplication takes in its first cycle."""
    return spec.coef.significand_bits // 2


def coefficients_layout(spec: NormSpec, terms: int) -> data.StructLayout:
    """What apply needs of a channel: the scale, the terms (`program.TERMS`), and whether terms are subtracted."""
    wide = wide_layout(spec.coef)
    return data.StructLayout({"scale": wide_layout(spec.scale), "terms": data.ArrayLayout(wide, terms), "mode": 2})


class Reciprocal(wiring.Component):
    """1 / divisor's significand by restoring division, some quotient bits a cycle.

    `i_start` loads; each `i_step` makes the next bits; after `cycles` steps `o` is the quotient, to be rounded.
    The divisor must hold still meanwhile. Source: Ercegovac and Lang, Digital Arithmetic (2004), chapter 5.
    """

    def __init__(self, *, spec: NormSpec, bits_per_cycle: int) -> None:
        self.spec, self.bits_per_cycle = spec, bits_per_cycle
        # an integer bit, the significand behind it and a guard bit
        self.cycles = -(-(spec.coef.significand_bits + 2) // bits_per_cycle)
        super().__init__(
            {
                "i_divisor": In(wide_layout(spec.coef)),
                "i_start": In(1),
                "i_step": In(1),
                "o": Out(unrounded_layout(spec.coef)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fmt = self.spec.coef
        bits = self.cycles * self.bits_per_cycle
        remainder = Signal(fmt.significand_bits + 1, reset_less=True)
        quotient = Signal(bits, reset_less=True)
        divisor = significand(self.i_divisor)
        rest: Value = remainder
        made = []
        for step in range(self.bits_per_cycle):
            difference = Signal(signed(fmt.significand_bits + 2), name=f"difference_{step}")
            following = Signal(fmt.significand_bits + 1, name=f"remainder_{step}")
            m.d.comb += [
                difference.eq(rest - divisor),
                following.eq(Mux(difference < 0, rest, difference) << 1),
            ]
            made.append(difference >= 0)
            rest = following
        with m.If(self.i_start):
            m.d.sync += remainder.eq(1 << fmt.man_bits)
        with m.Elif(self.i_step):
            m.d.sync += [remainder.eq(rest), quotient.eq(Cat(*reversed(made), quotient))]
        m.d.comb += [
            self.o.magnitude.eq(quotient << (len(self.o.magnitude) - bits)),
            self.o.sticky.eq(remainder.any()),
            self.o.exponent.eq(2 * fmt.bias - self.i_divisor.exponent),
            self.o.sign.eq(self.i_divisor.sign),
        ]
        return m


class Coefficients(wiring.Component):
    """The wide unit: plays a pass's program once per `i_request`.

    A program takes `latency[pass]` cycles (fewer than 32 for the default formats, `deep` fewer than 98), longer if
    parameter words are late or result words are not taken. Every operation takes a cycle (two for a full
    multiplication), `deep` eight more of them: for its ranks, for rounding and for the slot itself; a reciprocal runs
    beside the others. `o` offers the coefficients until they are taken.

    Ports
    -----
    i_request : a channel's last beat is in `reduce` (training, backward), or a channel is coming (inference).
    o_begin : the program starts in the next cycle; `i_mode` is taken.
    i_total ... : statistics, each read once, in the program's cycle that `statistic_cycles` says.
    o_idle : no program runs and none is about to.
    i_parameters, o_results : float32 words, in the order of `program.PARAMETERS` and `program.RESULTS`.
    o_nonfinite : pulses when a parameter word was NaN or infinite (it is read as 0).
    """

    def __init__(self, *, spec: NormSpec, passes: tuple[str, ...], deep: bool) -> None:
        self.spec, self.passes, self.deep = spec, passes, deep
        self.terms = max(len(TERMS[name]) for name in passes)
        used = {operand for name in passes for operation in PROGRAMS[name] for operand in operation.operands}
        self.statistics = tuple(name for name in statistics_shapes(spec) if name in used)
        self.constants = tuple(name for name in CONSTANTS if name in used)
        self.reciprocal = Reciprocal(spec=spec, bits_per_cycle=_quotient_bits_per_cycle(deep))
        self.pinned = {"spread": 0, "scale": 1} | {
            term: 2 + index for name in passes for index, term in enumerate(TERMS[name])
        }
        cycles = statistic_cycles(deep, "backward" in passes)
        short = spec.scale.significand_bits <= spec.coef.significand_bits - _low_bits(spec)
        self.programs: dict[str, Program] = {
            name: schedule(
                name,
                divide_cycles=self.reciprocal.cycles,
                scale_is_short=short,
                pinned=self.pinned,
                latency=_latency(deep),
                # a slot acts two cycles after its step
                statistics={statistic: cycle - 2 * deep for statistic, cycle in cycles.items()},
            )
            for name in passes
        }
        self.latency = {name: len(program.slots) + 1 + 2 * deep for name, program in self.programs.items()}
        shapes = statistics_shapes(spec)
        super().__init__(
            {f"i_{name}": In(shapes[name][0]) for name in self.statistics}
            | {f"i_{name}": In(32) for name in self.constants}
            | {
                "i_mode": In(2),
                "i_request": In(1),
                "o_begin": Out(1),
                "o_idle": Out(1),
                "o_nonfinite": Out(1),
                "i_parameters": In(stream.Signature(32)),
                "o_results": Out(stream.Signature(32)),
                "o": Out(stream.Signature(coefficients_layout(spec, self.terms))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fmt = self.spec.coef
        registers = [
            Signal(wide_layout(fmt), name=f"register_{index}", reset_less=True)
            for index in range(max(program.registers for program in self.programs.values()))
        ]
        parameter = Signal(wide_layout(fmt), reset_less=self.deep)
        parameter_valid = Signal()

        # the micro-program's controls; `deep` looks them up, then fetches them, before they act
        slot_count = max(len(program.slots) for program in self.programs.values())
        step = Signal(range(slot_count))
        running, done, advance, ends = Signal(), Signal(), Signal(), Signal()
        executing, fetch, rests = Signal(), Signal(), Signal()
        mode = Signal(2, reset_less=True)
        select_a, select_b = _Selector("a", fmt), _Selector("b", fmt)
        sources: dict[str, Value] = {ZERO: Const(0, wide_layout(fmt).size)}
        for name in self.constants:
            sources[name] = getattr(self, f"i_{name}")[23 - fmt.man_bits :]
        for names in PARAMETERS.values():
            sources |= {name: parameter.as_value() for name in names}
        controls = data.StructLayout(
            dict.fromkeys(("last", "pop", "divide_start", "divide_step", "to_scale"), 1)
            | dict.fromkeys(("first_half", "second_half", "negate_b"), 1)
            | {"kind": Kind, "write": len(registers), "select_a": 5, "select_b": 5}
            | {"select_total": range(max(len(self.statistics), 2))}
        )
        slot: Any = Signal(controls, name="slot")
        # what a slot may wait for is no part of these words: as a memory's output it would come late
        waits: Any = Signal(data.StructLayout({"needs_parameter": 1, "emit": 1}), name="waits")
        place = Cat(step, mode)
        needing, emitting = [], []
        with m.Switch(place):
            for name, program in self.programs.items():
                for index, of_program in enumerate(program.slots):
                    at = MODES[name] << len(step) | index
                    with m.Case(at):
                        values = self._controls(name, index, sources, registers, select_a, select_b)
                        m.d.comb += slot.eq(controls.const(values))  # whole words: no bit is constant by itself
                    words = of_program.operation.operands if of_program.operation else ()
                    if any(word in PARAMETERS[name] for word in words):
                        needing.append(place == at)
                    if of_program.emit:
                        emitting.append(place == at)
        m.d.comb += [waits.needs_parameter.eq(Cat(needing).any()), waits.emit.eq(Cat(emitting).any())]
        with m.Switch(mode):
            for name, program in self.programs.items():
                with m.Case(MODES[name]):
                    m.d.comb += ends.eq(step == len(program.slots) - 1)
        looked_up = Rank(m, "looked_up", running, advance=fetch, built=self.deep)
        following: Any = looked_up.keep(slot, "slot")
        waits_next: Any = looked_up.keep(waits, "waits")
        fetched = Rank(m, "fetched", looked_up.valid, advance=fetch, built=self.deep)
        acting: Any = fetched.keep(following, "slot")
        waits_now: Any = fetched.keep(waits_next, "waits")
        kind, first_half, second_half, negate_b = acting.kind, acting.first_half, acting.second_half, acting.negate_b
        operand_a, operand_b = select_a.choose(m, acting.select_a), select_b.choose(m, acting.select_b)

        # operands
        order = m.submodules.order = Order(fmt=fmt, deep=self.deep)
        reciprocal = m.submodules.reciprocal = self.reciprocal
        selected = Rank(m, "selected", Const(1), advance=advance, built=self.deep)
        kind, first_half, second_half = (
            selected.keep(value, name)
            for name, value in (("kind", kind), ("first_half", first_half), ("second_half", second_half))
        )
        a, b = selected.keep(operand_a, "a"), Signal(wide_layout(fmt), name="operand_b_signed")
        chosen_b, negate_b = selected.keep(operand_b, "b"), selected.keep(negate_b, "negate_b")
        m.d.comb += [
            b.eq(Cat(chosen_b.fraction, chosen_b.exponent, chosen_b.sign ^ negate_b)),
            order.i_a.eq(a),
            order.i_b.eq(b),
            reciprocal.i_divisor.eq(registers[self.pinned["spread"]]),
            reciprocal.i_start.eq(acting.divide_start & advance),
            reciprocal.i_step.eq(acting.divide_step & advance),
        ]
        rank = Rank(m, "operands", Const(1), advance=advance, built=self.deep)
        multiplicand = rank.keep(significand(a), "multiplicand")
        factor = rank.keep(self._factor(b, first_half), "factor")
        a, b = rank.keep(a, "a"), rank.keep(b, "b")
        kind, first_half, second_half = (
            rank.keep(value, name)
            for name, value in (("kind", kind), ("first_half", first_half), ("second_half", second_half))
        )

        adder = m.submodules.adder = Adder(fmt=fmt, deep=self.deep)
        m.d.comb += [
            adder.i_a.eq(a), adder.i_b.eq(b), adder.i_swap.eq(rank.keep(order.o_swap, "swap")),
            adder.i_places.eq(rank.keep(order.o_places, "places")), adder.i_advance.eq(advance),
        ]  # fmt: skip
        unrounded = Signal(unrounded_layout(fmt), reset_less=True)  # not `deep`, of a product's first half
        rank = Rank(m, "partial", Const(1), advance=advance, built=self.deep)
        product = self._multiply(m, a, b, multiplicand, factor, first_half, second_half, unrounded, rank)
        kind, a_exists = rank.keep(kind, "kind"), rank.keep(a.exponent.any(), "a_exists")
        result = Signal(unrounded_layout(fmt))
        with m.Switch(kind):
            with m.Case(Kind.MULTIPLY, Kind.MULTIPLY_SCALE):
                m.d.comb += result.eq(product)
            with m.Case(Kind.RECIPROCAL):
                m.d.comb += result.eq(reciprocal.o)
                with m.If(~a_exists):
                    m.d.comb += [result.magnitude.eq(0), result.sticky.eq(0)]
            if self.statistics:
                total = m.submodules.total = TotalSelect(spec=self.spec, names=self.statistics, deep=self.deep)
                m.d.comb += [getattr(total, f"i_{name}").eq(getattr(self, f"i_{name}")) for name in self.statistics]
                m.d.comb += [total.i_select.eq(acting.select_total), total.i_advance.eq(advance)]
                with m.Case(Kind.TOTAL):
                    m.d.comb += result.eq(total.o)
            with m.Default():
                m.d.comb += result.eq(adder.o)
        with m.If(advance if self.deep else advance & first_half):
            m.d.sync += unrounded.eq(result if self.deep else product)

        # rounding
        rounder = m.submodules.rounder = Rounder(fmt=fmt, scale=self.spec.scale, deep=self.deep)
        m.d.comb += [
            rounder.i.eq(unrounded if self.deep else result), rounder.i_advance.eq(advance),
            rounder.i_scale.eq(acting.to_scale),
        ]  # fmt: skip
        for index, register in enumerate(registers):
            with m.If(acting.write[index] & advance):
                m.d.sync += register.eq(rounder.o)

        # sequence and streams
        may_begin, result_free = Signal(), Signal()
        clear = Signal()  # the slot that acts needs to wait for no stream
        m.d.comb += [
            result_free.eq(~self.o_results.valid | self.o_results.ready),
            executing.eq(fetched.valid),
            advance.eq(executing & clear),
            fetch.eq(advance | ~executing if self.deep else advance),
            rests.eq(~running & ~looked_up.valid & ~executing),
            self.o_begin.eq(may_begin & self.i_request),
            self.o_idle.eq(rests & ~self.i_request),
            self.o.valid.eq(done),
            self.o.payload.scale.eq(
                registers[self.pinned["scale"]].as_value()[fmt.man_bits - self.spec.scale.man_bits :]
            ),
            self.o.payload.mode.eq(mode),
        ]
        for index in range(self.terms):
            m.d.comb += self.o.payload.terms[index].eq(registers[2 + index])
        if self.deep:  # a register cuts the ways from apply and from the program to the entry
            m.d.sync += may_begin.eq(rests & ~done & ~self.o_begin)
        else:
            # the first result of a program must not wait while it reads statistics
            m.d.comb += may_begin.eq(rests & ~done & ~self.o_results.valid)
        with m.If(done & self.o.ready):
            m.d.sync += done.eq(0)
        with m.If(running & fetch):
            m.d.sync += step.eq(step + 1)
            with m.If(ends):
                m.d.sync += running.eq(0)
        with m.If(advance & acting.last):
            m.d.sync += done.eq(1)
        with m.If(self.o_begin):
            m.d.sync += [running.eq(1), step.eq(0), mode.eq(self.i_mode)]

        loaded = m.submodules.parameter = FromFloat32(fmt=fmt)
        take, parameter_free = Signal(), Signal()
        word = Rank(m, "word", self.i_parameters.valid, advance=self.i_parameters.ready, built=self.deep)
        m.d.comb += [
            loaded.i.eq(word.keep(self.i_parameters.payload, "word")),
            parameter_free.eq(~parameter_valid | (acting.pop & advance)),
            self.i_parameters.ready.eq(parameter_free | (~word.valid if self.deep else 0)),
            take.eq(word.valid & parameter_free),
            self.o_nonfinite.eq(take & ~loaded.o_finite),
        ]
        if self.deep:
            with m.If(parameter_free):
                m.d.sync += parameter_valid.eq(word.valid)
        else:  # the stream holds it
            m.d.comb += [parameter_valid.eq(word.valid), parameter.eq(loaded.o)]
        if self.deep:  # known a cycle before, as all of the unit waits for it; a result word must then have left
            needs = Mux(fetch, waits_next.needs_parameter, waits_now.needs_parameter)
            emits = Mux(fetch, waits_next.emit, waits_now.emit)
            parameter_next = Mux(parameter_free, word.valid, 1)
            result_next = Mux(result_free, waits_now.emit & advance, 1)
            m.d.sync += clear.eq((parameter_next | ~needs) & ~(result_next & emits))
        else:
            m.d.comb += clear.eq((parameter_valid | ~waits_now.needs_parameter) & (result_free | ~waits_now.emit))
        if self.deep:
            with m.If(take):
                m.d.sync += parameter.eq(loaded.o)
        result_word = Signal(wide_layout(fmt), reset_less=True)
        m.d.comb += self.o_results.payload.eq(result_word.as_value() << (23 - fmt.man_bits))
        with m.If(result_free):
            m.d.sync += self.o_results.valid.eq(waits_now.emit & advance)
        with m.If(waits_now.emit & advance):
            m.d.sync += result_word.eq(rounder.o)
        return m

    def _controls(
        self,
        name: str,
        index: int,
        sources: dict[str, Value],
        registers: list[Signal],
        select_a: _Selector,
        select_b: _Selector,
    ) -> dict[str, Any]:
        """What a slot of the program asks for."""
        program = self.programs[name]
        slot = program.slots[index]
        values: dict[str, Any] = {
            "last": index == len(program.slots) - 1,
            "pop": slot.pop_parameter,
            "divide_start": slot.divide_start,
            "divide_step": slot.divide_step,
        }
        if slot.write:
            values["write"] = 1 << slot.registers[slot.write.result]
        if decided := program.slots[min(index + self.deep, len(program.slots) - 1)].write:
            values["to_scale"] = decided.kind is Kind.MULTIPLY_SCALE
        if operation := slot.operation:
            values |= {
                "kind": operation.kind,
                "first_half": slot.first_half,
                "second_half": slot.second_half,
                "negate_b": operation.negate_b,
            }
            if operation.kind is Kind.TOTAL:
                values["select_total"] = self.statistics.index(operation.a)
            else:
                for selector, operand in ((select_a, operation.a), (select_b, operation.b)):
                    key, source = (
                        (f"register_{slot.registers[operand]}", registers[slot.registers[operand]].as_value())
                        if operand in slot.registers
                        else ("parameter" if operand in sum(PARAMETERS.values(), ()) else operand, sources[operand])
                    )
                    values[f"select_{selector.name}"] = selector.place(key, source)
        return values

    def _factor(self, b: data.View[data.StructLayout], first_half: Value) -> Value:
        """The half of b's significand that a multiplication takes in this cycle."""
        low_bits = _low_bits(self.spec)
        return Mux(first_half, significand(b)[:low_bits], significand(b)[low_bits:])

    def _multiply(
        self,
        m: Module,
        a: data.View[data.StructLayout],
        b: data.View[data.StructLayout],
        multiplicand: Value,
        factor: Value,
        first_half: Signal,
        second_half: Signal,
        partial: data.View[data.StructLayout],
        rank: Rank,
    ) -> data.View[data.StructLayout]:
        """a's significand, the `multiplicand`, and half of b's per cycle, the low half first; a short b is in the high
        half and needs no first cycle. The rank is between the rows and their sum with the `partial` result."""
        fmt, low_bits = self.spec.coef, _low_bits(self.spec)
        product = Signal(unrounded_layout(fmt), name="product")
        high_bits = fmt.significand_bits - low_bits
        rows = Signal(fmt.significand_bits + high_bits, name="rows")
        carried = Signal(fmt.significand_bits, name="carried")
        total = Signal(fmt.significand_bits + high_bits + 1, name="product_high")
        m.d.comb += rows.eq(multiplicand * factor)
        rows = rank.keep(rows, "rows")
        first_half, second_half = rank.keep(first_half, "first_half"), rank.keep(second_half, "second_half")
        m.d.comb += [
            carried.eq(partial.magnitude[low_bits:] & second_half.replicate(fmt.significand_bits)),
            total.eq(rows + carried),
            product.magnitude.eq(
                Mux(first_half, rows, Cat(partial.magnitude[:low_bits] & second_half.replicate(low_bits), total))
            ),
            product.exponent.eq(rank.keep(a.exponent + b.exponent, "exponents") - (fmt.bias - 2)),
            product.sign.eq(rank.keep(a.sign ^ b.sign, "product_sign")),
        ]
        return product


class _Selector:
    """An operand's multiplexer, grown by the slots that use it."""

    def __init__(self, name: str, fmt: WideFormat) -> None:
        self.name, self._format = name, fmt
        self._sources: dict[str, Value] = {}

    def place(self, key: str, source: Value) -> int:
        """What selects that source."""
        self._sources.setdefault(key, source)
        return list(self._sources).index(key)

    def choose(self, m: Module, select: Value) -> data.View[data.StructLayout]:
        """The operand."""
        operand = Signal(wide_layout(self._format), name=f"operand_{self.name}")
        with m.Switch(select):
            for index, source in enumerate(self._sources.values()):
                with m.Case(index):
                    m.d.comb += operand.eq(source)
        return operand
