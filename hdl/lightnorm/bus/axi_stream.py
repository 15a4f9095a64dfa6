"""AXI4-Stream: the container of a beat, and which of its bytes must be kept.

Source: AMBA AXI4-Stream Protocol Specification (ARM IHI 0051A), 2.2 (handshake), 2.4 (TKEEP), 2.5 (TLAST).

A beat's packed bits (`datapath.beat`) are bits 0 and up of TDATA, without gaps; above them are zeros up to a whole
number of bytes. Byte 0 of a beat is TDATA[7:0], so that a beat lies in memory as `bytes_per_beat` bytes, lowest first.
"""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Member, Out

from lightnorm_golden.formats import BlockFormat

__all__ = ["StreamInput", "StreamOutput", "axi_stream_members", "bytes_per_beat", "lanes_of_bytes"]


def bytes_per_beat(bits: int) -> int:
    """Bytes of TDATA for a beat of so many bits."""
    return -(-bits // 8)


def lanes_of_bytes(fmt: BlockFormat, lanes: int) -> list[int]:
    """For each byte of a beat, the first lane that has a bit in it; a shared exponent belongs to its block's first."""
    first = []
    for byte in range(bytes_per_beat(lanes // fmt.block_size * fmt.block_bits)):
        block, bit = divmod(8 * byte, fmt.block_bits)
        first.append(block * fmt.block_size + max(bit - fmt.exp_bits, 0) // fmt.element_bits)
    return first


def axi_stream_members(prefix: str, bits: int, *, source: bool) -> dict[str, Member]:
    """The signals of a stream of beats of so many bits, by their flat names."""
    forth, back = (Out, In) if source else (In, Out)
    count = bytes_per_beat(bits)
    members = {
        "tdata": forth(8 * count),
        "tkeep": forth(count),
        "tlast": forth(1),
        "tvalid": forth(1),
        "tready": back(1),
    }
    return {f"{prefix}_{name}": member for name, member in members.items()}


class StreamInput(wiring.Component):
    """Checks the packets of an input stream, and drops beats that no run wants; no register in the data.

    Ports
    -----
    s_* : the bus, without its data.
    o_valid, i_ready : the beat, for the machine; only while `i_run`.
    i_run, i_drop : beats go to the machine; beats are dropped. With neither, an open packet is dropped to its end,
        and further beats wait.
    i_forget : the open packet has no end.
    i_last, i_lane_valid : of the beat on offer, as the machine counts.
    o_open : a packet is open. o_length, o_keep : the beat being transferred ends too early or too late, lacks a byte.
    """

    def __init__(self, lanes_of_bytes: Sequence[int], lanes: int) -> None:
        self.bytes = lanes_of_bytes
        super().__init__(
            {
                "s_tkeep": In(len(self.bytes)),
                "s_tlast": In(1),
                "s_tvalid": In(1),
                "s_tready": Out(1),
                "o_valid": Out(1),
                "i_ready": In(1),
                "i_run": In(1),
                "i_drop": In(1),
                "i_forget": In(1),
                "i_last": In(1),
                "i_lane_valid": In(lanes),
                "o_open": Out(1),
                "o_length": Out(1),
                "o_keep": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        moved, to_machine = Signal(), Signal()
        needed: Value = Cat(self.i_lane_valid[lane] for lane in self.bytes)
        m.d.comb += [
            self.o_valid.eq(self.s_tvalid & self.i_run),
            to_machine.eq(self.o_valid & self.i_ready),
            self.s_tready.eq((self.i_ready & self.i_run) | (~self.i_run & (self.i_drop | self.o_open))),
            moved.eq(self.s_tvalid & self.s_tready),
            self.o_length.eq(to_machine & (self.s_tlast ^ self.i_last)),
            self.o_keep.eq(to_machine & (needed & ~self.s_tkeep).any()),
        ]
        with m.If(self.i_forget):
            m.d.sync += self.o_open.eq(0)
        with m.Elif(moved):
            m.d.sync += self.o_open.eq(~self.s_tlast)
        return m


class StreamOutput(wiring.Component):
    """Offers beats of a run, and ends packets of a run that was given up; no register in the data.

    Ports
    -----
    m_* : the bus, without its data, which must hold while `o_held`.
    i_valid, i_last, o_ready : the beat, from the machine.
    i_run, i_failed : beats are offered; a run was given up, and an open packet is closed by a beat with TLAST.
    o_moved : a beat is transferred. o_held : one was offered in the last cycle and waits. o_open : a packet is open.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "m_tlast": Out(1),
                "m_tvalid": Out(1),
                "m_tready": In(1),
                "i_valid": In(1),
                "i_last": In(1),
                "o_ready": Out(1),
                "i_run": In(1),
                "i_failed": In(1),
                "o_moved": Out(1),
                "o_held": Out(1),
                "o_open": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        passing, closing = Signal(), Signal()
        m.d.comb += [
            passing.eq(self.i_run | self.o_held),
            closing.eq(self.i_failed & self.o_open),
            self.m_tlast.eq(self.i_last | closing),
            self.m_tvalid.eq((self.i_valid & passing) | closing),
            self.o_ready.eq(self.m_tready & passing),
            self.o_moved.eq(self.m_tvalid & self.m_tready),
        ]
        m.d.sync += self.o_held.eq(~self.i_failed & self.m_tvalid & ~self.m_tready)
        with m.If(self.o_moved):
            m.d.sync += self.o_open.eq(~self.m_tlast)
        return m
