"""The machine behind a serial line."""

from __future__ import annotations

from amaranth.hdl import ClockSignal, Module, ResetSignal
from amaranth.hdl import DomainRenamer as InDomain
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..bus.documents import beat_bytes
from ..bus.registers import register_map
from ..bus.top import LightNorm
from ..config import Config
from .bridge import Bridge
from .uart import DIVISOR_BITS, Receiver, Transmitter

__all__ = ["SerialLightNorm"]


class SerialLightNorm(wiring.Component):
    """`LightNorm`, and a bridge that makes its registers and streams requests and replies (`bridge`).

    Ports
    -----
    rx, tx : the line. i_divisor : cycles per bit, at least 4, constant.
    """

    def __init__(self, config: Config) -> None:
        sizes = beat_bytes(config)
        output = sizes.pop("output")
        address_bits = register_map(config).address_bits
        self.bridge = Bridge(inputs=list(sizes.values()), output=output, address_bits=address_bits)
        self.machine = LightNorm(config)
        super().__init__({"i_divisor": In(DIVISOR_BITS), "rx": In(1), "tx": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine = self.machine
        m.submodules.machine = InDomain("machine")(machine)  # it makes a domain of its own, which must not be this one
        m.submodules.receiver, m.submodules.transmitter = receiver, transmitter = Receiver(), Transmitter()
        m.submodules.bridge = bridge = self.bridge
        m.d.comb += [
            machine.aclk.eq(ClockSignal()),
            machine.aresetn.eq(~(ResetSignal() | bridge.o_reset)),
            receiver.rx.eq(self.rx),
            receiver.i_divisor.eq(self.i_divisor),
            bridge.i.eq(receiver.o),
            bridge.i_valid.eq(receiver.o_valid),
            bridge.i_tick.eq(receiver.o_tick),
            transmitter.i_divisor.eq(self.i_divisor),
            transmitter.i.eq(bridge.o),
            transmitter.i_valid.eq(bridge.o_valid),
            bridge.i_ready.eq(transmitter.o_ready),
            self.tx.eq(transmitter.tx),
        ]
        buses = {"axil": "s_axil", "x": "s_axis", "grad": "s_axis_grad", "output": "m_axis"}
        for path, member in bridge.signature.members.items():
            bus, _, role = path.rpartition("_")
            if bus in buses:
                here, there = getattr(bridge, path), getattr(machine, f"{buses[bus]}_{role}")
                m.d.comb += there.eq(here) if member.flow is Out else here.eq(there)
        return m
