"""LightNorm in a LiteX SoC: its registers on the SoC's bus, its streams as LiteX endpoints, its interrupt as an event.

    self.lightnorm = LightNorm(platform)
    region = SoCRegion(origin=0x9000_0000, size=LightNorm.SIZE, cached=False)
    self.bus.add_slave("lightnorm", self.lightnorm.bus, region)
    self.irq.add("lightnorm")

Needs `lightnorm_axi.v` and `lightnorm_axi.json` beside this file. Beats are whole: `data` of `x`, `grad` and `output`
is a beat, `last` closes a channel. A DMA of 32-bit words needs a `stream.Converter` in between, and beats in memory
that are padded to whole words.
"""

import json
from pathlib import Path

from litex.gen import LiteXModule
from litex.soc.interconnect import axi, stream
from litex.soc.interconnect.csr_eventmanager import EventManager, EventSourceLevel
from migen import ClockSignal, Constant, Instance, ResetSignal, Signal

FOLDER = Path(__file__).resolve().parent
DESCRIPTION = json.loads((FOLDER / "lightnorm_axi.json").read_text(encoding="utf-8"))
PORTS = DESCRIPTION["ports"]
STREAMS = {
    "s_axis": "x",
    "s_axis_grad": "grad",
    "m_axis": "output",
    "s_axis_param": "parameters",
    "m_axis_result": "results",
}


class LightNorm(LiteXModule):
    """The block in the clock domain `sys`. `bus`: AXI4-Lite; `x`, `grad`, `parameters`: sinks, and `output`,
    `results`: sources, where they are built. `SIZE`: bytes of addresses that the bus needs."""

    SIZE = 1 << PORTS["s_axil_awaddr"]["width"]

    def __init__(self, platform):
        self.bus = axi.AXILiteInterface(data_width=32, address_width=32)
        irq = Signal()
        connections = {"i_aclk": ClockSignal(), "i_aresetn": ~ResetSignal(), "o_irq": irq}
        for channel, name, signal in self._bus_signals():
            port = f"s_axil_{channel}{name}"
            connections[f"{PORTS[port]['direction'][0]}_{port}"] = signal[: PORTS[port]["width"]]
        for prefix, name in STREAMS.items():
            if f"{prefix}_tdata" in PORTS:
                setattr(self, name, self._stream(prefix, connections))
        self.specials += Instance(DESCRIPTION["name"], **connections)
        platform.add_source(str(FOLDER / f"{DESCRIPTION['name']}.v"))

        self.ev = EventManager()
        self.ev.run = EventSourceLevel(description="A run has ended; enabled and cleared by the block's own registers.")
        self.ev.finalize()
        self.comb += self.ev.run.trigger.eq(irq)

    def _bus_signals(self):
        """Channel, name and signal of everything on the bus."""
        for channel in ("aw", "w", "b", "ar", "r"):
            endpoint = getattr(self.bus, channel)
            for name in ("valid", "ready", *(field[0] for field in endpoint.description.payload_layout)):
                yield channel, name, getattr(endpoint, name)

    def _stream(self, prefix, connections):
        """The endpoint of a stream; every byte of what goes in is kept."""
        width = PORTS[f"{prefix}_tdata"]["width"]
        endpoint = stream.Endpoint([("data", width)])
        forth, back = ("o", "i") if prefix.startswith("m_") else ("i", "o")
        for name in ("data", "last", "valid"):
            connections[f"{forth}_{prefix}_t{name}"] = getattr(endpoint, name)
        connections[f"{back}_{prefix}_tready"] = endpoint.ready
        kept = Signal(width // 8)
        connections[f"{forth}_{prefix}_tkeep"] = kept if forth == "o" else Constant((1 << width // 8) - 1, width // 8)
        return endpoint
