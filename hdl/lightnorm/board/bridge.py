"""From bytes to the buses of the machine, and back: requests and replies.

The host sends a request and gets one reply; nothing is sent unasked. Both end in a CRC-16 (polynomial 0x1021, initial
value 0xffff, high byte first) of all bytes before it.

    request   header | length | items, `length` bytes in all | CRC
    reply     header | length | consumed | items, `length` bytes in all | CRC

    header    bits 7..1 number of the request, bit 0: request: reset the machine first; reply: an item failed
    consumed  bytes of the request's items that were carried out, always whole items

    item      tag (bits 1..0 kind, bit 7: the beat has TLAST), then
    request   0 write: address, 3 bytes, word, 4 bytes  1 read: address, 3 bytes  2 beat of x  3 beat of the gradient
    reply     1 word: 4 bytes                           2 beat of the output

Numbers are low byte first, a beat has the bytes of its TDATA. Items are carried out in order; output beats are
collected in between and behind. The reply goes out when for `PATIENCE` cycles nothing has moved, when there is no room
for another item in it, or when an item failed: the bus answered an error, the item is incomplete, or there is no
gradient stream. What was not consumed is for the host to send again.

Why it can not hang: a request is finite, so is the room in the reply, and between two items there are at most
`PATIENCE` cycles, whatever the machine does; the bridge never waits for the machine and never sends while it receives,
and the machine may rest as long as it likes.

Why nothing is lost or done twice: a request whose CRC is wrong, or in which the line rests for `GAP` bit times, is
dropped without a reply; the host repeats what was not answered, with the same number, and a request with the number of
the last one that was carried out is not carried out again: its reply is sent again. (A reset is: that does no harm.)
"""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import crc, memory, wiring
from amaranth.lib.enum import Enum
from amaranth.lib.wiring import In, Member, Out

from ..bus.axi_lite import axi_lite_members
from ..bus.axi_stream import axi_stream_members

__all__ = ["GAP", "PATIENCE", "ROOM", "Bridge"]

GAP = 1 << 13
"""Bit times without a byte after which a request that was begun is forgotten."""
PATIENCE = 1 << 8
ROOM = 255
"""Bytes of items in a request, and in a reply."""

ADDRESS_BYTES, WORD_BYTES = 3, 4
REPLY_WORD, REPLY_BEAT = 1, 2


class Kind(Enum, shape=2):
    """Items of a request."""

    WRITE = 0
    READ = 1
    X = 2
    GRAD = 3


class State(Enum):
    """HEADER to CHECK: bytes of a request. JUDGE: its CRC is known. RESET: of the machine. NEXT: between items. TAG to
    EXECUTE: an item. WRITE, READ: on the bus. DRAIN: bytes into the reply. REPLY to CRC: bytes of the reply."""

    HEADER = 0
    LENGTH = 1
    ITEMS = 2
    CHECK = 3
    JUDGE = 4
    RESET = 5
    NEXT = 6
    TAG = 7
    LOAD = 8
    EXECUTE = 9
    WRITE = 10
    READ = 11
    DRAIN = 12
    REPLY = 13
    REPLY_ITEMS = 14
    REPLY_CRC = 15


def _mirrored(members: dict[str, Member]) -> dict[str, Member]:
    return {name: member.flip() for name, member in members.items()}


class Bridge(wiring.Component):
    """`inputs`: bytes of a beat of each input stream, x first. `output`: those of an output beat.

    Ports
    -----
    i, i_valid, i_tick : from `Receiver`. o, o_valid, i_ready : to `Transmitter`.
    o_reset : of the machine.
    axil_*, x_*, grad_*, output_* : its buses, seen from the other side; `grad_*` only with two inputs.
    """

    def __init__(self, *, inputs: Sequence[int], output: int, address_bits: int) -> None:
        if address_bits > 8 * ADDRESS_BYTES:
            raise ValueError(f"addresses must have at most {8 * ADDRESS_BYTES} bits, not {address_bits}")
        if (largest := max(*inputs, output)) > ROOM - 1:
            raise ValueError(f"a beat must have at most {ROOM - 1} bytes to go over a serial line, not {largest}")
        self.inputs = dict(zip(("x", "grad"), inputs, strict=False))
        self.output, self.address_bits = output, address_bits
        ports = {
            "i": In(8), "i_valid": In(1), "i_tick": In(1), "o": Out(8), "o_valid": Out(1), "i_ready": In(1),
            "o_reset": Out(1), **_mirrored(axi_lite_members("axil", address_bits)),
        }  # fmt: skip
        for name, count in self.inputs.items():
            ports |= axi_stream_members(name, 8 * count, source=True)
        super().__init__(ports | axi_stream_members("output", 8 * output, source=False))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        buffer = m.submodules.buffer = memory.Memory(shape=8, depth=512, init=[])
        check = m.submodules.check = crc.catalog.CRC16_IBM_3740(8).create()
        write, read = buffer.write_port(), buffer.read_port(domain="sync")

        state = Signal(State)
        header, length, last = Signal(8), Signal(8), Signal(7)  # `last`: number of the last request carried out
        place = Signal(9)  # in the items of the request or the reply
        item, made = Signal(8), Signal(8)  # where the item begins; bytes in the reply
        failed, gap, idle = Signal(), Signal(range(GAP + 1)), Signal(range(PATIENCE + 1))
        tag, left = Signal(8), Signal(range(max(*self.inputs.values(), self.output, 8) + 1))
        word = Signal(8 * max(self.output, ADDRESS_BYTES + WORD_BYTES))
        second = Signal()  # byte of a CRC
        replying = state.matches(State.REPLY, State.REPLY_ITEMS, State.REPLY_CRC)

        # the byte at `place`, one cycle after `place` has changed
        fresh, moved = Signal(), Signal()
        byte = read.data
        m.d.comb += [read.en.eq(1), read.addr.eq(Cat(place[:8], replying))]
        m.d.sync += fresh.eq(~moved)

        def go(target: State) -> list:
            return [state.eq(target)]

        def at(value: object) -> None:
            """Let `place` be there from the next cycle on."""
            m.d.sync += place.eq(value)
            m.d.comb += moved.eq(1)

        def finish(failure: object = 0) -> None:
            m.d.sync += [*go(State.REPLY), failed.eq(failure), left.eq(0)]
            m.d.comb += check.start.eq(1)
            at(0)

        def collect(count: int, kind: int, last: object = 0) -> None:
            """Put a tag into the reply, and then `count` bytes of `word`."""
            m.d.comb += [write.en.eq(1), write.addr.eq(Cat(made, 1)), write.data.eq(Cat(Const(kind, 7), last))]
            m.d.sync += [made.eq(made + 1), left.eq(count - 1), *go(State.DRAIN)]

        # the machine's inputs: a beat of each waits here until it is taken
        full = {}
        for name in self.inputs:
            full[name] = getattr(self, f"{name}_tvalid")
            m.d.comb += getattr(self, f"{name}_tkeep").eq(-1)
        blocked = Signal()
        with m.Switch(byte[:2]):
            for kind, name in ((Kind.X, "x"), (Kind.GRAD, "grad")):
                if name in full:
                    with m.Case(kind):
                        m.d.comb += blocked.eq(full[name])
        m.d.comb += [
            self.axil_awaddr.eq(word[: self.address_bits]),
            self.axil_araddr.eq(word[: self.address_bits]),
            self.axil_wdata.eq(word[8 * ADDRESS_BYTES :]),
            self.axil_wstrb.eq(-1),
            self.axil_bready.eq(state == State.WRITE),
            self.axil_rready.eq(state == State.READ),
            self.o_reset.eq(state == State.RESET),
        ]
        for channel in ("aw", "w", "ar"):
            valid = getattr(self, f"axil_{channel}valid")
            with m.If(valid & getattr(self, f"axil_{channel}ready")):
                m.d.sync += valid.eq(0)

        # a request that stops is forgotten
        receiving = state.matches(State.LENGTH, State.ITEMS, State.CHECK)
        with m.If(self.i_valid | ~receiving):
            m.d.sync += gap.eq(0)
        with m.Elif(self.i_tick):
            m.d.sync += gap.eq(gap + 1)
        m.d.comb += check.data.eq(Mux(replying, self.o, self.i))
        with m.If(receiving & self.i_valid):
            m.d.comb += check.valid.eq(1)

        with m.Switch(state):
            with m.Case(State.HEADER):
                m.d.sync += second.eq(0)
                with m.If(self.i_valid):
                    m.d.comb += [check.start.eq(1), check.valid.eq(1)]
                    m.d.sync += [header.eq(self.i), *go(State.LENGTH)]
            with m.Case(State.LENGTH):
                with m.If(self.i_valid):
                    m.d.sync += [length.eq(self.i), state.eq(Mux(self.i == 0, State.CHECK, State.ITEMS))]
                    at(0)
            with m.Case(State.ITEMS):
                m.d.comb += [write.addr.eq(place[:8]), write.data.eq(self.i), write.en.eq(self.i_valid)]
                with m.If(self.i_valid):
                    at(place + 1)
                    with m.If(place + 1 == length):
                        m.d.sync += go(State.CHECK)
            with m.Case(State.CHECK):
                with m.If(self.i_valid):
                    m.d.sync += second.eq(1)
                    with m.If(second):
                        m.d.sync += go(State.JUDGE)
            with m.Case(State.JUDGE):
                m.d.sync += second.eq(0)
                with m.If(~check.match_detected):
                    m.d.sync += go(State.HEADER)
                with m.Elif((header[1:] == last) & ~header[0]):
                    finish(failed)
                with m.Else():
                    m.d.sync += [last.eq(header[1:]), made.eq(0), idle.eq(0)]
                    m.d.sync += state.eq(Mux(header[0], State.RESET, State.NEXT))
                    at(0)

            with m.Case(State.RESET):
                m.d.sync += [*(valid.eq(0) for valid in full.values()), *go(State.NEXT)]
            with m.Case(State.NEXT):
                m.d.sync += [item.eq(place), idle.eq(idle + 1)]
                with m.If(made > ROOM - 1 - max(self.output, WORD_BYTES)):
                    finish()
                with m.Elif(self.output_tvalid):
                    m.d.comb += self.output_tready.eq(1)
                    collect(self.output, REPLY_BEAT, self.output_tlast)
                    m.d.sync += [word.eq(self.output_tdata), idle.eq(0)]
                with m.Elif(idle == PATIENCE):
                    finish()
                with m.Elif((place != length) & fresh):
                    m.d.sync += go(State.TAG)
            with m.Case(State.TAG):
                with m.If(blocked):
                    m.d.sync += go(State.NEXT)
                with m.Else():
                    m.d.sync += [tag.eq(byte), *go(State.LOAD)]
                    at(place + 1)
                    with m.Switch(byte[:2]):
                        with m.Case(Kind.WRITE):
                            m.d.sync += left.eq(ADDRESS_BYTES + WORD_BYTES)
                        with m.Case(Kind.READ):
                            m.d.sync += left.eq(ADDRESS_BYTES)
                        for kind, name in ((Kind.X, "x"), (Kind.GRAD, "grad")):
                            with m.Case(kind):
                                m.d.sync += left.eq(self.inputs.get(name, 0))
            with m.Case(State.LOAD):
                with m.If(left == 0):
                    m.d.sync += go(State.EXECUTE)
                with m.Elif(fresh):
                    m.d.sync += left.eq(left - 1)
                    at(place + 1)
                    with m.Switch(tag[:2]):
                        with m.Case(Kind.WRITE):
                            self._shift(m, word[: 8 * (ADDRESS_BYTES + WORD_BYTES)], byte)
                        with m.Case(Kind.READ):
                            self._shift(m, word[: 8 * ADDRESS_BYTES], byte)
                        for kind, name in ((Kind.X, "x"), (Kind.GRAD, "grad")):
                            if name in self.inputs:
                                with m.Case(kind):
                                    self._shift(m, getattr(self, f"{name}_tdata"), byte)
            with m.Case(State.EXECUTE):
                m.d.sync += [idle.eq(0), *go(State.NEXT)]
                with m.If(place > length):
                    finish(1)
                with m.Else(), m.Switch(tag[:2]):
                    with m.Case(Kind.WRITE):
                        m.d.sync += [self.axil_awvalid.eq(1), self.axil_wvalid.eq(1), *go(State.WRITE)]
                    with m.Case(Kind.READ):
                        m.d.sync += [self.axil_arvalid.eq(1), *go(State.READ)]
                    for kind, name in ((Kind.X, "x"), (Kind.GRAD, "grad")):
                        with m.Case(kind):
                            if name in self.inputs:
                                m.d.sync += [full[name].eq(1), getattr(self, f"{name}_tlast").eq(tag[7])]
                            else:
                                finish(1)
            with m.Case(State.WRITE):
                with m.If(self.axil_bvalid):
                    m.d.sync += go(State.NEXT)
                    with m.If(self.axil_bresp != 0):
                        finish(1)
            with m.Case(State.READ):
                with m.If(self.axil_rvalid):
                    with m.If(self.axil_rresp != 0):
                        finish(1)
                    with m.Else():
                        collect(WORD_BYTES, REPLY_WORD)
                        m.d.sync += word.eq(self.axil_rdata)
            with m.Case(State.DRAIN):
                m.d.comb += [write.en.eq(1), write.addr.eq(Cat(made, 1)), write.data.eq(word[:8])]
                m.d.sync += [made.eq(made + 1), word.eq(word >> 8), left.eq(left - 1)]
                with m.If(left == 0):
                    m.d.sync += go(State.NEXT)

            with m.Case(State.REPLY):
                m.d.comb += self.o_valid.eq(1)
                with m.Switch(left):
                    with m.Case(0):
                        m.d.comb += self.o.eq(Cat(failed, header[1:]))
                    with m.Case(1):
                        m.d.comb += self.o.eq(made)
                    with m.Default():
                        m.d.comb += self.o.eq(item)
                with m.If(self.i_ready):
                    m.d.comb += check.valid.eq(1)
                    m.d.sync += left.eq(left + 1)
                    with m.If(left == 2):
                        m.d.sync += state.eq(Mux(made == 0, State.REPLY_CRC, State.REPLY_ITEMS))
            with m.Case(State.REPLY_ITEMS):
                m.d.comb += [self.o_valid.eq(fresh), self.o.eq(byte)]
                with m.If(self.o_valid & self.i_ready):
                    m.d.comb += check.valid.eq(1)
                    at(place + 1)
                    with m.If(place + 1 == made):
                        m.d.sync += go(State.REPLY_CRC)
            with m.Case(State.REPLY_CRC):
                m.d.comb += [self.o_valid.eq(1), self.o.eq(Mux(second, check.crc[:8], check.crc[8:]))]
                with m.If(self.i_ready):
                    m.d.sync += second.eq(~second)
                    with m.If(second):
                        m.d.sync += go(State.HEADER)
        for name, valid in full.items():
            with m.If(valid & getattr(self, f"{name}_tready")):
                m.d.sync += [valid.eq(0), idle.eq(0)]
        with m.If(receiving & (gap == GAP)):
            m.d.sync += go(State.HEADER)
        return m

    @staticmethod
    def _shift(m: Module, register: Signal, byte: Signal) -> None:
        """The bytes of a number follow each other, the lowest first."""
        m.d.sync += register.eq(Cat(register[8:], byte))
