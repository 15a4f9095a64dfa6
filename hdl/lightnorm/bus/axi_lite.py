"""AXI4-Lite: one access at a time, every access answered.

Source: AMBA AXI and ACE Protocol Specification (ARM IHI 0022), A3.2 (handshake), A3.4.4 (responses), B1 (AXI4-Lite).
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Member, Out

__all__ = ["OKAY", "SLVERR", "AxiLiteTarget", "axi_lite_members"]

OKAY, SLVERR = 0b00, 0b10


def axi_lite_members(prefix: str, address_bits: int) -> dict[str, Member]:
    """The signals of a target with 32 data bits, by their flat names."""
    members = {
        "awaddr": In(address_bits),
        "awprot": In(3),
        "awvalid": In(1),
        "awready": Out(1),
        "wdata": In(32),
        "wstrb": In(4),
        "wvalid": In(1),
        "wready": Out(1),
        "bresp": Out(2),
        "bvalid": Out(1),
        "bready": In(1),
        "araddr": In(address_bits),
        "arprot": In(3),
        "arvalid": In(1),
        "arready": Out(1),
        "rdata": Out(32),
        "rresp": Out(2),
        "rvalid": Out(1),
        "rready": In(1),
    }
    return {f"{prefix}_{name}": member for name, member in members.items()}


class AxiLiteTarget(wiring.Component):
    """Turns AXI4-Lite into single writes and reads of words.

    A write is done when address and data are both there; a write and a read may be under way at once. A write answers
    two cycles after both are there, a read three cycles after its address; no output depends on an input in the same
    cycle. Unaligned addresses, and writes with WSTRB other than 1111, answer SLVERR and go no further.

    Ports
    -----
    s_* : the bus.
    o_write, o_write_address, o_write_data, i_write_error : a write, and its answer in the same cycle. Addresses are
        numbers of words.
    o_read, o_read_address, i_read_data, i_read_error : a read, and its answer two cycles later; the address holds.
    """

    def __init__(self, address_bits: int) -> None:
        super().__init__(
            axi_lite_members("s", address_bits)
            | {
                "o_write": Out(1),
                "o_write_address": Out(address_bits - 2),
                "o_write_data": Out(32),
                "i_write_error": In(1),
                "o_read": Out(1),
                "o_read_address": Out(address_bits - 2),
                "i_read_data": In(32),
                "i_read_error": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        take, bad_write = Signal(), Signal()
        m.d.comb += [
            self.s_awready.eq(take),
            self.s_wready.eq(take),
            bad_write.eq(Cat(self.s_awaddr[:2], ~self.s_wstrb).any()),
            self.o_write.eq(take & ~bad_write),
            self.o_write_address.eq(self.s_awaddr[2:]),
            self.o_write_data.eq(self.s_wdata),
        ]
        m.d.sync += take.eq(self.s_awvalid & self.s_wvalid & ~take & ~self.s_bvalid)
        with m.If(take):
            m.d.sync += [
                self.s_bvalid.eq(1),
                self.s_bresp.eq(Mux(bad_write | self.i_write_error, SLVERR, OKAY)),
            ]
        with m.Elif(self.s_bready):
            m.d.sync += self.s_bvalid.eq(0)

        reading, answer, bad_read = Signal(), Signal(), Signal()
        m.d.comb += [
            self.s_arready.eq(answer),
            self.o_read.eq(self.s_arvalid & ~reading & ~answer & ~self.s_rvalid),
            self.o_read_address.eq(self.s_araddr[2:]),
            bad_read.eq(self.s_araddr[:2].any() | self.i_read_error),
        ]
        m.d.sync += [reading.eq(self.o_read), answer.eq(reading)]
        with m.If(answer):
            m.d.sync += [
                self.s_rvalid.eq(1),
                self.s_rdata.eq(Mux(bad_read, 0, self.i_read_data)),
                self.s_rresp.eq(Mux(bad_read, SLVERR, OKAY)),
            ]
        with m.Elif(self.s_rready):
            m.d.sync += self.s_rvalid.eq(0)
        return m
