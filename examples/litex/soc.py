"""A LiteX SoC around LightNorm: memory, a DMA for each stream, and a Wishbone port for the host instead of a processor.

    python examples/litex/soc.py FOLDER OUT    FOLDER: from `lightnorm generate --top axi`; OUT: for soc.v and csr.json
"""

import sys
from pathlib import Path

from litex.build.generic_platform import GenericPlatform, Pins, Subsignal
from litex.gen import LiteXModule
from litex.soc.cores.dma import WishboneDMAReader, WishboneDMAWriter
from litex.soc.integration.builder import Builder
from litex.soc.integration.soc import SoCRegion
from litex.soc.integration.soc_core import SoCMini
from litex.soc.interconnect import stream, wishbone
from migen import ClockDomain

MEMORY, MEMORY_SIZE, LIGHTNORM = 0x4000_0000, 1 << 16, 0x9000_0000
HOST = wishbone.Interface(data_width=32, address_width=32, addressing="word")


class Simulated(GenericPlatform):
    """A "board" that has a clock, a reset and the host's port."""

    def __init__(self):
        signals = [Subsignal(name, Pins(width)) for name, width, _ in HOST.layout]
        super().__init__("none", [("clk", 0, Pins(1)), ("rst", 0, Pins(1)), ("host", 0, *signals)])

    def build(self, soc, build_dir, build_name, run, **_):
        made = self.get_verilog(soc, name=build_name)
        for name, text in {f"{build_name}.v": made.main_source, **made.data_files}.items():
            Path(build_dir, name).write_text(text, encoding="utf-8")


class Clocks(LiteXModule):
    """The clock domain of everything."""

    def __init__(self, platform):
        self.cd_sys = ClockDomain()
        self.comb += [self.cd_sys.clk.eq(platform.request("clk")), self.cd_sys.rst.eq(platform.request("rst"))]


class Soc(SoCMini):
    """The SoC. A beat in memory is padded to whole 32-bit words; a DMA transfer is a packet, its end is TLAST."""

    def __init__(self, platform, wrapper):
        self.crg = Clocks(platform)
        super().__init__(platform, clk_freq=100e6)
        host = wishbone.Interface(data_width=32, address_width=32, addressing="word")
        self.comb += host.connect_to_pads(platform.request("host"), mode="slave")
        self.bus.add_master("host", host)
        self.add_ram("memory", MEMORY, MEMORY_SIZE)
        self.lightnorm = wrapper.LightNorm(platform)
        region = SoCRegion(origin=LIGHTNORM, size=wrapper.LightNorm.SIZE, cached=False)
        self.bus.add_slave("lightnorm", self.lightnorm.bus, region)
        for name in wrapper.STREAMS.values():
            if (endpoint := getattr(self.lightnorm, name, None)) is not None:
                self._add_dma(name, endpoint, reads=name not in ("output", "results"))

    def _add_dma(self, name, endpoint, *, reads):
        bus = wishbone.Interface(data_width=32, address_width=32, addressing="word")
        self.bus.add_master(name, bus)
        dma = (WishboneDMAReader if reads else WishboneDMAWriter)(bus, endianness="big", with_csr=True)
        width = len(endpoint.data)
        words = -(-width // 32)
        sizes = (32, 32 * words) if reads else (32 * words, 32)
        converter = stream.Converter(*sizes)
        setattr(self, f"{name}_dma", dma)
        setattr(self, f"{name}_converter", converter)
        if reads:
            self.comb += [
                dma.source.connect(converter.sink),
                converter.source.connect(endpoint, omit={"data"}),
                endpoint.data.eq(converter.source.data[:width]),
            ]
        else:
            self.comb += [
                endpoint.connect(converter.sink, omit={"data"}),
                converter.sink.data.eq(endpoint.data),
                converter.source.connect(dma.sink),
            ]


def build(folder: Path, out: Path) -> None:
    """Write soc.v and csr.json."""
    sys.path.insert(0, str(folder.resolve()))
    import lightnorm_litex

    out.mkdir(parents=True, exist_ok=True)
    soc = Soc(Simulated(), lightnorm_litex)
    builder = Builder(soc, output_dir=str(out), gateware_dir=str(out), csr_json=str(out / "csr.json"),
                      compile_software=False, compile_gateware=True)  # fmt: skip
    builder.build(build_name="soc", run=False)


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]))
