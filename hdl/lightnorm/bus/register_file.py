"""The registers of a map in hardware: storage, decoding, reading."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .registers import WORD_BYTES, Access, Field, Register, RegisterMap

__all__ = ["RegisterFile"]


def _port(register: Register, field: Field) -> str:
    return register.name.lower() if field.name == "value" else f"{register.name.lower()}_{field.name}"


class RegisterFile(wiring.Component):
    """All registers below the window; addresses are numbers of words.

    Ports
    -----
    i_write, i_write_address, i_write_data, o_write_error : a write, and its answer in the same cycle; with an error it
        changes nothing. o_refused : the error is due to i_locked or i_refuse.
    i_read_address, o_read_data, o_read_error : in the next cycle.
    i_locked : locked registers can not be written. i_refuse_<command> : it can not be obeyed.
    o_<register>_<field> : read-write fields, sticky fields, and commands, which pulse.
    i_<register>_<field> : what read-only fields read; pulses that set a sticky field (setting wins over clearing).
    """

    def __init__(self, registers: RegisterMap) -> None:
        self.map = registers
        bits = registers.window.bit_length() - 3  # of the words below the window
        ports = {
            "i_write": In(1),
            "i_write_address": In(bits),
            "i_write_data": In(32),
            "o_write_error": Out(1),
            "o_refused": Out(1),
            "i_read_address": In(bits),
            "o_read_data": Out(32),
            "o_read_error": Out(1),
            "i_locked": In(1),
        }
        for register in registers.registers:
            for field in register.fields:
                name = _port(register, field)
                if field.access in (Access.READ_ONLY, Access.CLEAR):
                    ports[f"i_{name}"] = In(field.bits)
                if field.access in (Access.READ_WRITE, Access.CLEAR, Access.COMMAND):
                    ports[f"o_{name}"] = Out(field.bits)
                if field.access is Access.COMMAND:
                    ports[f"i_refuse_{name}"] = In(field.bits)
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        known = Signal()  # the address that is read
        m.d.comb += self.o_write_error.eq(1)
        m.d.sync += self.o_read_error.eq(~known)
        read: Value = Const(0, 32)
        for register in self.map.registers:
            number = register.offset // WORD_BYTES
            write, named = Signal(name=f"write_{register.name}"), self.i_write_address == number
            selected = Signal(name=f"read_{register.name}")
            refused: Value = self.i_locked if register.locked else Const(0)
            for field in register.fields:
                if field.access is Access.COMMAND:
                    asked = self.i_write_data[field.low : field.low + field.bits]
                    refused = refused | (asked & getattr(self, f"i_refuse_{_port(register, field)}")).any()
            with m.If(named):
                m.d.comb += [self.o_write_error.eq(refused), self.o_refused.eq(refused)]
            m.d.comb += [
                write.eq(self.i_write & named & ~refused),
                selected.eq(self.i_read_address == number),
            ]
            with m.If(selected):
                m.d.comb += known.eq(1)
            word = Signal(32, name=f"word_{register.name}")
            for field in register.fields:
                m.d.comb += word[field.low : field.low + field.bits].eq(self._field(m, register, field, write))
            merged = Signal(32, name=f"merged_{register.name}")
            m.d.comb += merged.eq(read | Mux(selected, word, 0))
            read = merged
        m.d.sync += self.o_read_data.eq(read)
        return m

    def _field(self, m: Module, register: Register, field: Field, write: Signal) -> Value:
        """Builds the field; what it reads."""
        name = _port(register, field)
        written = self.i_write_data[field.low : field.low + field.bits]
        if field.access is Access.CONSTANT:
            return Const(field.value, field.bits)
        if field.access is Access.READ_ONLY:
            return getattr(self, f"i_{name}")
        value = getattr(self, f"o_{name}")
        if field.access is Access.COMMAND:
            m.d.comb += value.eq(written & write.replicate(field.bits))
            return Const(0, field.bits)
        if field.access is Access.CLEAR:
            m.d.sync += value.eq((value & ~(written & write.replicate(field.bits))) | getattr(self, f"i_{name}"))
            return value
        with m.If(write):
            m.d.sync += value.eq(written)
        return value
