"""The window of per-channel words: one memory, and the sequencer that plays it into the machine and records results."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import Config
from ..datapath.coefficients import MODES
from ..datapath.program import PARAMETERS, RESULTS

__all__ = ["Window"]

SLOTS = PARAMETERS["train"]
"""Parameters of a record, in the order of its words; results follow from word 4 on."""


class Window(wiring.Component):
    """`channels` records of eight words. During a run the machine has it, otherwise the bus.

    Ports
    -----
    i_run : a run is in progress. i_mode, i_channels : of the run, held.
    i_start : a run begins.
    i_write, i_write_address, i_write_data : from the bus.
    i_read, i_read_address, o_read_data : for the bus, two cycles later: a block RAM's output comes late in a cycle.
    o_parameters : the run's parameter words, one per cycle. i_results : its result words, always taken.
    """

    def __init__(self, config: Config) -> None:
        self.config, self.channels = config, config.implementation.max_channels
        self.channel_bits = self.channels.bit_length()
        address_bits = (8 * self.channels - 1).bit_length()
        super().__init__(
            {
                "i_run": In(1),
                "i_start": In(1),
                "i_mode": In(2),
                "i_channels": In(self.channel_bits),
                "i_write": In(1),
                "i_write_address": In(address_bits),
                "i_write_data": In(32),
                "i_read": In(1),
                "i_read_address": In(address_bits),
                "o_read_data": Out(32),
                "o_parameters": Out(stream.Signature(32)),
                "i_results": In(stream.Signature(32)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        words = m.submodules.words = memory.Memory(shape=32, depth=8 * self.channels, init=[])
        write, read = words.write_port(), words.read_port(domain="sync")

        # parameters: the memory's output register is the word on offer
        first, last = Signal(2), Signal(2)
        with m.Switch(self.i_mode):
            for name, used in PARAMETERS.items():
                slots = [SLOTS.index(word) for word in used]
                if slots != list(range(slots[0], slots[0] + len(slots))):
                    raise ValueError(f"the parameters of {name} must follow each other in a record")
                with m.Case(MODES[name]):
                    m.d.comb += [first.eq(slots[0]), last.eq(slots[-1])]
        channel, slot = Signal(self.channel_bits, reset_less=True), Signal(2, reset_less=True)
        fetch, starting = Signal(), Signal()
        m.d.comb += fetch.eq(
            self.i_run & ~starting & (channel != self.i_channels) & (~self.o_parameters.valid | self.o_parameters.ready)
        )
        m.d.sync += starting.eq(self.i_start)
        with m.If(starting):
            m.d.sync += [channel.eq(0), slot.eq(first)]
        with m.Elif(fetch):
            m.d.sync += slot.eq(Mux(slot == last, first, slot + 1))
            with m.If(slot == last):
                m.d.sync += channel.eq(channel + 1)
        with m.If(fetch):
            m.d.sync += self.o_parameters.valid.eq(1)
        with m.Elif(self.o_parameters.ready | ~self.i_run):
            m.d.sync += self.o_parameters.valid.eq(0)
        m.d.comb += [
            read.en.eq(fetch | (self.i_read & ~self.i_run)),
            read.addr.eq(Mux(self.i_run, Cat(slot, 0, channel), self.i_read_address)),
            self.o_parameters.payload.eq(read.data),
        ]

        with m.If(~self.i_run):
            m.d.sync += self.o_read_data.eq(read.data)

        # results
        count = Signal(2)
        result_channel, result = Signal(self.channel_bits, reset_less=True), Signal(2, reset_less=True)
        with m.Switch(self.i_mode):
            for name, made in RESULTS.items():
                with m.Case(MODES[name]):
                    m.d.comb += count.eq(max(len(made) - 1, 0))
        with m.If(starting):
            m.d.sync += [result_channel.eq(0), result.eq(0)]
        with m.Elif(self.i_results.valid):
            m.d.sync += result.eq(Mux(result == count, 0, result + 1))
            with m.If(result == count):
                m.d.sync += result_channel.eq(result_channel + 1)
        m.d.comb += [
            self.i_results.ready.eq(1),
            write.en.eq(Mux(self.i_run, self.i_results.valid, self.i_write)),
            write.addr.eq(Mux(self.i_run, Cat(result, 1, result_channel), self.i_write_address)),
            write.data.eq(Mux(self.i_run, self.i_results.payload, self.i_write_data)),
        ]
        return m
