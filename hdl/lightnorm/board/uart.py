"""An asynchronous serial line: bytes of 8 bits, lowest first, no parity, one stop bit.

A bit lasts `i_divisor` cycles, at least 4. Both directions are independent.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

__all__ = ["DIVISOR_BITS", "Receiver", "Transmitter"]

DIVISOR_BITS = 16
BITS = 10
"""Of a byte on the line, with start and stop bit."""


class Receiver(wiring.Component):
    """Samples the middle of each bit. A byte without its stop bit is dropped, and what follows waits for an idle line.

    Ports
    -----
    rx : the line, idle high, asynchronous.
    o, o_valid : a byte, for one cycle.
    o_tick : once per bit time while no byte is under way.
    """

    def __init__(self) -> None:
        super().__init__({"rx": In(1), "i_divisor": In(DIVISOR_BITS), "o": Out(8), "o_valid": Out(1), "o_tick": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        line = Signal(init=1)
        m.submodules.line = FFSynchronizer(self.rx, line, init=1, reset_less=False)
        timer, left = Signal(DIVISOR_BITS), Signal(range(BITS + 1))
        over, broken, sample = Signal(), Signal(), Signal()
        m.d.comb += [
            over.eq(timer == 0),
            sample.eq(over & (left != 0)),
            self.o_tick.eq(over & (left == 0)),
            self.o_valid.eq(sample & (left == 1) & line),
        ]
        m.d.sync += timer.eq(timer - 1)
        with m.If(over):
            m.d.sync += timer.eq(self.i_divisor - 1)
        with m.If(line):
            m.d.sync += broken.eq(0)
        with m.If(sample):
            m.d.sync += left.eq(left - 1)
            with m.If(left == BITS):  # the start bit: was it one?
                with m.If(line):
                    m.d.sync += left.eq(0)
            with m.Elif(left == 1):
                m.d.sync += broken.eq(~line)
            with m.Else():
                m.d.sync += self.o.eq(Cat(self.o[1:], line))
        with m.Elif((left == 0) & ~line & ~broken):
            m.d.sync += [left.eq(BITS), timer.eq(self.i_divisor[1:] - 1)]
        return m


class Transmitter(wiring.Component):
    """Sends a byte when it is taken.

    Ports
    -----
    tx : the line.
    i, i_valid, o_ready : the byte; `o_ready` does not depend on `i_valid`.
    """

    def __init__(self) -> None:
        super().__init__(
            {"tx": Out(1), "i_divisor": In(DIVISOR_BITS), "i": In(8), "i_valid": In(1), "o_ready": Out(1)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        timer, left, bits, line = Signal(DIVISOR_BITS), Signal(range(BITS + 1)), Signal(8), Signal(init=1)
        m.d.comb += [self.o_ready.eq(left == 0), self.tx.eq(line)]
        with m.If(left == 0):
            m.d.sync += [bits.eq(self.i), timer.eq(self.i_divisor - 1)]
            with m.If(self.i_valid):
                m.d.sync += [line.eq(0), left.eq(BITS)]
        with m.Else():
            m.d.sync += timer.eq(timer - 1)
            with m.If(timer == 0):
                m.d.sync += [
                    timer.eq(self.i_divisor - 1),
                    left.eq(left - 1),
                    line.eq(bits[0]),
                    bits.eq(Cat(bits[1:], 1)),
                ]
        return m
