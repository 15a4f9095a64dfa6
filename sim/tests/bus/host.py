"""A host in simulation: registers over AXI4-Lite, DMA-like stream ends, both by cocotbext-axi."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge, ReadOnly, RisingEdge, with_timeout
from cocotbext.axi import AxiLiteBus, AxiLiteMaster, AxiResp
from cocotbext.axi import AxiStreamBus as StreamBus
from cocotbext.axi import AxiStreamFrame as Packet
from cocotbext.axi import AxiStreamSink as Sink
from cocotbext.axi import AxiStreamSource as Source
from header import read_header

from lightnorm.config import load_config
from lightnorm.datapath.program import PARAMETERS, RESULTS
from lightnorm_sim.layer import Layer, Tensors, compare, pack_beats, prepare
from lightnorm_sim.outcome import RunResult

PERIOD = 2  # ns
LIMIT = 40_000  # cycles in which anything must have happened


def pauses(kind: str, seed: int) -> Iterator[bool]:
    """Endless: whether a stream end rests in a cycle."""
    rng = random.Random(f"{kind} {seed}")
    if kind == "random":
        return (rng.random() < 0.5 for _ in itertools.count())
    if kind == "bursts":
        return (paused for _ in itertools.count() for paused in [rng.random() < 0.5] * rng.randint(1, 20))
    raise ValueError(kind)


class Host:
    """The machine's surroundings."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.config = load_config(Path("machine/config.toml"))
        self.constants = read_header(Path("machine/lightnorm_registers.h"))
        common = (dut.aclk, dut.aresetn, False)
        self.axil = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), *common)
        self.x = Source(StreamBus.from_prefix(dut, "s_axis"), *common)
        if self.config.has("backward"):
            self.grad = Source(StreamBus.from_prefix(dut, "s_axis_grad"), *common)
        self.output = Sink(StreamBus.from_prefix(dut, "m_axis"), *common)
        self.streams = not self.config.implementation.max_channels  # parameters and results are streams
        if self.streams:
            self.parameters = Source(StreamBus.from_prefix(dut, "s_axis_param"), *common)
            self.results = Sink(StreamBus.from_prefix(dut, "m_axis_result"), *common)

    @property
    def sources(self) -> list[Any]:
        """The ends of the input streams."""
        sources = [self.x]
        if self.config.has("backward"):
            sources.append(self.grad)
        if self.streams:
            sources.append(self.parameters)
        return sources

    @property
    def sinks(self) -> list[Any]:
        """The ends of the output streams."""
        return [self.output, self.results] if self.streams else [self.output]

    @classmethod
    async def fresh(cls, dut: Any) -> Host:
        """A machine that has been reset; the bus models look at signals only from then on."""
        Clock(dut.aclk, PERIOD, unit="ns").start()
        dut.aresetn.value = 0
        for name in ("s_axis_tvalid", "s_axis_grad_tvalid", "s_axis_param_tvalid", "m_axis_tready",
                     "m_axis_result_tready", "s_axil_awvalid", "s_axil_wvalid",
                     "s_axil_bready", "s_axil_arvalid", "s_axil_rready"):  # fmt: skip
            if hasattr(dut, name):
                getattr(dut, name).value = 0
        await ClockCycles(dut.aclk, 4)
        host = cls(dut)
        await host.reset()
        cocotb.start_soon(host._check_holding())
        return host

    async def _check_holding(self) -> None:
        """What is offered on an output holds, with all that belongs to it, until it is taken."""
        dut = self.dut
        channels = {
            "m_axis_t": ("data", "keep", "last"),
            "m_axis_result_t": ("data", "keep", "last"),
            "s_axil_b": ("resp",),
            "s_axil_r": ("resp", "data"),
        }
        channels = {name: parts for name, parts in channels.items() if hasattr(dut, f"{name}valid")}
        waiting: dict[str, list[int]] = {}
        while True:
            await RisingEdge(dut.aclk)
            await ReadOnly()
            if not int(dut.aresetn.value):
                waiting.clear()
                continue
            for name, parts in channels.items():
                valid = int(getattr(dut, f"{name}valid").value)
                offered = [int(getattr(dut, f"{name}{part}").value) for part in parts] if valid else []
                assert offered == waiting.pop(name, offered), f"{name}* changed while it was offered"
                if valid and not int(getattr(dut, f"{name}ready").value):
                    waiting[name] = offered

    async def reset(self) -> None:
        self.dut.aresetn.value = 0
        await ClockCycles(self.dut.aclk, 4)
        await FallingEdge(self.dut.aclk)
        self.dut.aresetn.value = 1
        await ClockCycles(self.dut.aclk, 2)

    def rest(self, kind: str, seed: int = 0) -> None:
        """Pauses on every channel of every bus."""
        write, read = self.axil.write_if, self.axil.read_if
        ends = [*self.sources, *self.sinks, write.aw_channel, write.w_channel, write.b_channel, read.ar_channel,
                read.r_channel]  # fmt: skip
        for index, end in enumerate(ends):
            end.set_pause_generator(pauses(kind, 100 * seed + index))

    # registers, by the names of the C header

    async def access(self, address: int, value: int | None = None) -> tuple[int, AxiResp]:
        """Read, or write `value`: the word, and the response."""
        if value is None:
            answer = await with_timeout(self.axil.read(address, 4), LIMIT * PERIOD, "ns")
            return int.from_bytes(answer.data, "little"), answer.resp
        answer = await with_timeout(self.axil.write(address, value.to_bytes(4, "little")), LIMIT * PERIOD, "ns")
        return value, answer.resp

    async def read(self, name: str) -> int:
        word, response = await self.access(self.constants[f"{name}_OFFSET"])
        assert response == AxiResp.OKAY, f"reading {name}: {response!r}"
        return word

    async def write(self, name: str, value: int) -> None:
        _, response = await self.access(self.constants[f"{name}_OFFSET"], value)
        assert response == AxiResp.OKAY, f"writing {name}: {response!r}"

    async def refused(self, name: str, value: int) -> None:
        _, response = await self.access(self.constants[f"{name}_OFFSET"], value)
        assert response == AxiResp.SLVERR, f"writing {name}: {response!r}"

    async def bit(self, register: str, field: str) -> bool:
        return bool(await self.read(register) & self.constants[f"{register}_{field}_MASK"])

    def status(self, *names: str) -> int:
        return sum(self.constants[f"STATUS_{name}_MASK"] for name in names)

    def record(self, channel: int, word: str) -> int:
        """Address of a word of a channel."""
        constants = self.constants
        return constants["WINDOW_OFFSET"] + channel * constants["RECORD_BYTES"] + constants[f"RECORD_{word.upper()}"]

    # runs

    def layer(
        self, mode: str, *, channels: int = 3, elements: int = 50, seed: int = 0, chunks: int = 3, **given: Any
    ) -> Layer:
        """A run with random tensors, except for those that are given."""
        rng = np.random.default_rng(seed)
        shape = (1, channels, elements)
        values: dict[str, Any] = {
            "x": rng.standard_normal(shape),
            "weight": rng.standard_normal(channels),
            "bias": rng.standard_normal(channels),
            "running_mean": rng.standard_normal(channels),
            "running_sigma": rng.uniform(0.5, 2, channels),
        }
        if mode == "backward":
            values["grad"] = rng.standard_normal(shape)
        values = {name: np.asarray(value, np.float32) for name, value in (values | given).items()}
        return prepare(self.config, mode, Tensors(**values), chunks=chunks, padding_seed=seed)

    def frames(self, stream: str, layer: Layer) -> list[bytes]:
        """The packets of an input, one per channel and pass."""
        beats = layer.run.x_beats if stream == "x" else layer.run.grad_beats
        size, per_packet = self.constants[f"{stream.upper()}_BEAT_BYTES"], layer.beats_per_channel
        data = [beat.to_bytes(size, "little") for beat in beats]
        return [b"".join(data[first : first + per_packet]) for first in range(0, len(data), per_packet)]

    async def configure(self, layer: Layer, *, words: bool = True, **changed: int) -> None:
        """Write a run's words, `changed` ones instead of its own."""
        run = layer.run
        values = {name: getattr(run, name) for name in (
            "mode", "channels", "elements", "chunk_blocks", "inv_count", "range_gain", "eps", "momentum")}  # fmt: skip
        for name, value in (values | changed).items():
            await self.write(name.upper(), value)
        names = PARAMETERS[layer.mode]
        for index, word in enumerate(run.parameters if words and not self.streams else ()):
            channel, position = divmod(index, len(names))
            assert (await self.access(self.record(channel, names[position]), word))[1] == AxiResp.OKAY

    def send(self, layer: Layer) -> None:
        if self.streams:
            self.parameters.send_nowait(Packet(words_packet(layer.run.parameters)))
        for packet in self.frames("x", layer):
            self.x.send_nowait(Packet(packet))
        if layer.run.grad_beats:
            for packet in self.frames("grad", layer):
                self.grad.send_nowait(Packet(packet))

    async def start(self) -> None:
        await self.write("CTRL", self.constants["CTRL_START_MASK"])

    async def done(self) -> None:
        """Wait for the end of a run; fails on an error."""
        for _ in range(LIMIT // 10):
            word = await self.read("CTRL")
            if word & self.constants["CTRL_DONE_MASK"]:
                return
            status = await self.read("STATUS")
            assert not status & self.constants["STATUS_ERRORS"], f"STATUS is {status:#x}"
        raise AssertionError("the run does not end")

    async def failed(self, *names: str) -> None:
        """Wait for the end of a run with these errors."""
        wanted = self.status(*names)
        for _ in range(LIMIT // 10):
            if await self.read("STATUS") & self.constants["STATUS_ERRORS"] == wanted:
                assert not await self.bit("CTRL", "DONE")
                return
        raise AssertionError(f"STATUS is {await self.read('STATUS'):#x}, not {wanted:#x}")

    async def recover(self, *, force: bool = False) -> None:
        """Clear the errors, and wait until a run can be started."""
        await self.write("STATUS", self.constants["STATUS_ERRORS"])
        if force:
            await self.write("CTRL", self.constants["CTRL_ABORT_MASK"])
        for _ in range(LIMIT // 10):
            if await self.bit("CTRL", "READY"):
                return
        raise AssertionError("no run can be started any more")

    async def reset_sources(self) -> None:
        """The sources drop what they have not sent, as a DMA does that is reset."""
        for source in self.sources:
            source.clear()
            source.assert_reset()
        await self.cycles(2)

    async def check(self, layer: Layer) -> None:
        """All that came out must be the golden model's."""
        words, last = [], []
        size = self.constants["OUTPUT_BEAT_BYTES"]
        for _ in range(layer.channels):
            packet = await with_timeout(self.output.recv(compact=False), LIMIT * PERIOD, "ns")
            assert all(packet.tkeep), "the output's TKEEP"
            beats = [bytes(packet.tdata[first : first + size]) for first in range(0, len(packet.tdata), size)]
            words += [int.from_bytes(beat, "little") for beat in beats]
            last += [False] * (len(beats) - 1) + [True]
        assert len(words) == layer.run.output_beats, f"{len(words)} beats came out, not {layer.run.output_beats}"
        results = await self._results(layer)
        result = RunResult(output=words, last=last, results=results, two_pass=None, transfers={})
        problem = compare(layer, result)
        assert problem is None, problem
        assert all(sink.empty() for sink in self.sinks), "more came out"

    async def _results(self, layer: Layer) -> list[int]:
        """The result words of a run: a packet, or from the window."""
        names = RESULTS[layer.mode]
        if not self.streams:
            return [await self.read_at(self.record(channel, name)) for channel in range(layer.channels)
                    for name in names]  # fmt: skip
        if not names:
            return []
        packet = await with_timeout(self.results.recv(compact=False), LIMIT * PERIOD, "ns")
        assert all(packet.tkeep), "the results' TKEEP"
        return [int.from_bytes(word, "little") for word in beats(packet.tdata, 4)]

    async def run(self, layer: Layer, *, words: bool = True) -> None:
        """A whole run, which must be right."""
        await self.configure(layer, words=words)
        await self.start()
        self.send(layer)
        await self.done()
        await self.check(layer)
        assert all(source.idle() for source in self.sources)

    def expected(self, layer: Layer) -> bytes:
        """The bytes of the golden model's output."""
        size = self.constants["OUTPUT_BEAT_BYTES"]
        return b"".join(beat.to_bytes(size, "little") for channel in pack_beats(layer.blocks, layer.lanes)
                        for beat in channel)  # fmt: skip

    async def read_at(self, offset: int) -> int:
        word, response = await self.access(offset)
        assert response == AxiResp.OKAY, f"reading {offset:#x}: {response!r}"
        return word

    async def write_at(self, offset: int, word: int) -> None:
        _, response = await self.access(offset, word)
        assert response == AxiResp.OKAY, f"writing {offset:#x}: {response!r}"

    async def raw_write(self, address: int, data: int, strobes: int) -> AxiResp:
        """A write as it is on the bus, which the bus model would split or align."""
        port = self.axil.write_if
        aw, w = port.aw_channel._transaction_obj(), port.w_channel._transaction_obj()
        aw.awaddr, aw.awprot, w.wdata, w.wstrb = address, 0, data, strobes
        await port.aw_channel.send(aw)
        await port.w_channel.send(w)
        answer = await with_timeout(port.b_channel.recv(), LIMIT * PERIOD, "ns")
        return AxiResp(int(answer.bresp))

    async def raw_read(self, address: int) -> AxiResp:
        port = self.axil.read_if
        ar = port.ar_channel._transaction_obj()
        ar.araddr, ar.arprot = address, 0
        await port.ar_channel.send(ar)
        answer = await with_timeout(port.r_channel.recv(), LIMIT * PERIOD, "ns")
        return AxiResp(int(answer.rresp))

    async def cycles(self, count: int) -> None:
        await ClockCycles(self.dut.aclk, count)

    async def edge(self) -> None:
        await RisingEdge(self.dut.aclk)


def words_packet(words: Sequence[int]) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in words)


def beats(data: bytes, size: int) -> Sequence[bytes]:
    return [data[first : first + size] for first in range(0, len(data), size)]
