"""Coefficients of a channel from its totals: one multiply-add unit that plays the micro-program of the pass."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lightnorm_golden.baseline import SEED_INDEX_BITS, FloatNormSpec, encode_floats, seed_table
from lightnorm_golden.formats import WideFormat

from ..arith.floating import (
    align_addend,
    float_layout,
    multiply_add_layout,
    normalized_layout,
    round_float,
    unrounded_sum,
)
from ..arith.shift import normalize
from ..arith.wide import FromFloat32
from ..datapath.coefficients import MODES
from .program import CONSTANTS, RESULTS, Program, kept_values, operations, schedule
from .reduce import totals

__all__ = ["Coefficients", "coefficients_layout"]

SPREAD = 0
"""The register whose parts are operands."""


def coefficients_layout(spec: FloatNormSpec, backward: bool) -> data.StructLayout:
    """What apply needs of a channel; which values these are says `program.kept_values`."""
    count = max(len(kept_values(spec.statistic, mode)) for mode in (("train", "backward") if backward else ("train",)))
    return data.StructLayout({"values": data.ArrayLayout(float_layout(spec.coef), count), "backward": 1})


class Coefficients(wiring.Component):
    """Plays a pass's program once per `i_request`, `latency[pass]` cycles of it, longer if words are late or not taken.

    Ports
    -----
    i_request : a channel's totals are there, or a channel is coming (inference). o_begin : the program starts in the
    next cycle; `i_mode` is taken. o_release : the totals have been read. o_idle : no program runs, none is about to.
    i_parameters, o_results : float32 words, in the order of `program.PARAMETERS` and `program.RESULTS`.
    o_nonfinite : a parameter word was NaN or infinite and is read as 0.
    """

    def __init__(self, *, spec: FloatNormSpec, passes: tuple[str, ...]) -> None:
        self.spec, self.passes = spec, passes
        backward = "backward" in passes
        self.layout = coefficients_layout(spec, backward)
        self.kept = self.layout["values"].shape.length
        self.pinned = {"spread": SPREAD} | {
            value: 1 + index for mode in passes for index, value in enumerate(kept_values(spec.statistic, mode))
        }
        self.programs: dict[str, Program] = {name: schedule(spec.statistic, name, self.pinned) for name in passes}
        self.latency = {name: len(program.slots) + 1 for name, program in self.programs.items()}
        used = {operand for name in passes for one in operations(spec.statistic, name)
                for operand in (one.a, one.b, one.c)}  # fmt: skip
        self.constants = tuple(name for name in CONSTANTS if name in used)
        self.totals = totals(spec, backward) if passes != ("infer",) else ()
        number = float_layout(spec.coef)
        super().__init__(
            {f"i_{name}": In(number) for name in self.totals}
            | {f"i_{name}": In(32) for name in self.constants}
            | {
                "i_mode": In(2),
                "i_request": In(1),
                "o_begin": Out(1),
                "o_release": Out(1),
                "o_idle": Out(1),
                "o_nonfinite": Out(1),
                "i_parameters": In(stream.Signature(32)),
                "o_results": Out(stream.Signature(32)),
                "o": Out(stream.Signature(self.layout)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, fmt = self.spec, self.spec.coef
        number = float_layout(fmt)
        count = max(max(program.registers for program in self.programs.values()), 1 + self.kept)
        registers = [Signal(number, name=f"register_{index}", reset_less=True) for index in range(count)]
        sources = self._sources(m, registers[SPREAD])

        # the micro-program's controls
        slots = max(len(program.slots) for program in self.programs.values())
        step, mode = Signal(range(slots)), Signal(2, reset_less=True)
        running, advance, last, done = Signal(), Signal(), Signal(), Signal()
        starts, load, write, emit, release = Signal(), Signal(), Signal(count), Signal(), Signal()
        loaded_into = Signal(count)
        negate, negate_c, short, clamp = Signal(), Signal(), Signal(), Signal()
        selectors = {port: _Selector(m, port) for port in "abc"}
        with m.Switch(mode):
            for name, program in self.programs.items():
                with m.Case(MODES[name]), m.Switch(step):
                    for index, slot in enumerate(program.slots):
                        with m.Case(index):
                            m.d.comb += [last.eq(index == len(program.slots) - 1), release.eq(slot.release)]
                            if slot.load:
                                m.d.comb += [load.eq(1), loaded_into.eq(1 << slot.registers[slot.load])]
                            if slot.write:
                                m.d.comb += [
                                    write.eq(1 << slot.registers[slot.write.result]),
                                    emit.eq(slot.write.result in RESULTS[name]),
                                    short.eq(slot.write.short),
                                    clamp.eq(slot.write.clamp),
                                ]
                            if slot.start:
                                m.d.comb += [
                                    starts.eq(1),
                                    negate.eq(slot.start.negate),
                                    negate_c.eq(slot.start.negate_c),
                                ]
                                named = (slot.start.a, slot.start.b, slot.start.c)
                                for port, operand in zip("abc", named, strict=True):
                                    if operand in slot.registers:
                                        key = f"register_{slot.registers[operand]}"
                                        selectors[port].choose(key, registers[slot.registers[operand]].as_value())
                                    else:
                                        selectors[port].choose(operand, sources[operand])

        # operands; product and addend; sum; rounding
        layout = data.StructLayout({"a": number, "b": number, "c": number, "negate": 1})
        operands = Signal(layout, reset_less=True)
        with m.If(advance & starts):
            m.d.sync += [
                operands.a.eq(selectors["a"].finish(number)),
                operands.b.eq(selectors["b"].finish(number)),
                operands.c.eq(selectors["c"].finish(number) ^ negate_c << (fmt.bits - 1)),
                operands.negate.eq(negate),
            ]
        fresh = Signal(2)
        with m.If(advance):
            m.d.sync += fresh.eq(Cat(starts, fresh))
        parts = Signal(multiply_add_layout(fmt), name="parts_register", reset_less=True)
        with m.If(advance & fresh[0]):
            m.d.sync += parts.eq(align_addend(m, fmt, operands.a, operands.b, operands.c, operands.negate))
        magnitude, exponent, sign = unrounded_sum(m, fmt, parts)
        total = Signal(normalized_layout(len(magnitude), len(exponent)), name="total_register", reset_less=True)
        with m.If(advance & fresh[1]):
            m.d.sync += [total.magnitude.eq(magnitude), total.exponent.eq(exponent), total.sign.eq(sign)]
        shifted, places = normalize(m, total.magnitude, name="normalize")
        normal = Signal(signed(len(exponent)), name="normal_exponent")
        m.d.comb += normal.eq(total.exponent - places)
        rounded = round_float(
            m, fmt, shifted, normal, total.sign, name="rounded", short=spec.scale, to_short=short
        )
        result = Signal(number)
        m.d.comb += result.eq(Mux(clamp & rounded.sign, 0, rounded.as_value()))

        # words in
        word = m.submodules.word = FromFloat32(fmt=WideFormat(fmt.man_bits))
        m.d.comb += [
            word.i.eq(self.i_parameters.payload),
            self.i_parameters.ready.eq(load & advance),
            self.o_nonfinite.eq(load & advance & ~word.o_finite),
        ]
        for index, register in enumerate(registers):
            with m.If(advance & (write[index] | loaded_into[index])):
                m.d.sync += register.eq(Mux(loaded_into[index], word.o.as_value(), result.as_value()))

        # words out, sequence
        result_free, kept_free = Signal(), Signal()
        out = Signal(32, reset_less=True)
        m.d.comb += [
            result_free.eq(~self.o_results.valid | self.o_results.ready),
            kept_free.eq(~done | self.o.ready | ~write[1 : 1 + self.kept].any()),
            advance.eq(running & (~load | self.i_parameters.valid) & (~emit | result_free) & kept_free),
            self.o_begin.eq(self.i_request & (~running | (last & advance))),
            self.o_release.eq(release & advance),
            self.o_idle.eq(~running & ~self.i_request),
            self.o_results.payload.eq(out),
            self.o.valid.eq(done),
        ]
        with m.If(result_free):
            m.d.sync += self.o_results.valid.eq(emit & advance)
        with m.If(emit & advance):
            m.d.sync += out.eq(result.as_value() << (23 - fmt.man_bits))
        made_by = Signal(reset_less=True)  # the kept values are a backward pass's
        m.d.comb += self.o.payload.backward.eq(made_by)
        for index in range(self.kept):
            m.d.comb += self.o.payload.values[index].eq(registers[1 + index])
        with m.If(done & self.o.ready):
            m.d.sync += done.eq(0)
        with m.If(advance):
            m.d.sync += step.eq(step + 1)
            with m.If(last):
                m.d.sync += [running.eq(0), done.eq(1), made_by.eq(mode == MODES["backward"])]
        with m.If(self.o_begin):
            m.d.sync += [running.eq(1), step.eq(0), mode.eq(self.i_mode)]
        return m

    def _sources(self, m: Module, spread: Signal) -> dict[str, Value]:
        """Operands that are in no register."""
        spec, fmt = self.spec, self.spec.coef
        dropped = 23 - fmt.man_bits

        def constant(value: float) -> Value:
            return Const(int(encode_floats(value, fmt)), fmt.bits)

        sources: dict[str, Value] = {"zero": constant(0.0), "one": constant(1.0), "one_half": constant(0.5)}
        sources |= {name: getattr(self, f"i_{name}")[dropped:] for name in self.constants}
        sources |= {name: getattr(self, f"i_{name}").as_value() for name in self.totals}
        # spread = mantissa / power^2 (L2), mantissa / power (range); an exponent of 0 stands for 2^-127
        table = seed_table(spec.statistic)
        exponent, index = spread.exponent, Signal(range(len(table)))
        odd, power = Signal(), Signal(fmt.exp_bits)
        if spec.statistic == "l2":
            m.d.comb += [odd.eq(~exponent[0]), power.eq((3 * fmt.bias - exponent + odd) >> 1)]
        else:
            m.d.comb += power.eq(2 * fmt.bias - exponent)
        m.d.comb += index.eq(Cat(spread.fraction[-SEED_INDEX_BITS:] & exponent.any().replicate(SEED_INDEX_BITS), odd))
        fraction = spread.fraction & exponent.any().replicate(fmt.man_bits)
        for part, name in enumerate(("table_offset", "table_slope")):
            entry = Signal(fmt.bits, name=name)
            with m.Switch(index):
                for at, line in enumerate(table):
                    with m.Case(at):
                        m.d.comb += entry.eq(int(encode_floats(line[part], fmt)))
            sources[name] = entry
        return sources | {
            "mantissa": Cat(fraction, Mux(odd, fmt.bias + 1, fmt.bias)[: fmt.exp_bits], Const(0, 1)),
            "half_mantissa": Cat(fraction, Mux(odd, fmt.bias, fmt.bias - 1)[: fmt.exp_bits], Const(0, 1)),
            "power": Cat(Const(0, fmt.man_bits), power, Const(0, 1)),
        }


class _Selector:
    """An operand's multiplexer, grown by the slots that use it."""

    def __init__(self, m: Module, name: str) -> None:
        self._module, self._name = m, name
        self._sources: dict[str, Value] = {}
        self._select = Signal(5, name=f"select_{name}")

    def choose(self, key: str, source: Value) -> None:
        """In the current condition the operand is `source`."""
        self._sources.setdefault(key, source)
        self._module.d.comb += self._select.eq(list(self._sources).index(key))

    def finish(self, layout: data.StructLayout) -> Value:
        operand = Signal(layout, name=f"operand_{self._name}")
        with self._module.Switch(self._select):
            for index, source in enumerate(self._sources.values()):
                with self._module.Case(index):
                    self._module.d.comb += operand.eq(source)
        return operand.as_value()
