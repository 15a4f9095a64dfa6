"""The host of the simulated SoC: the Python driver over the SoC's bus runs a layer, every value is compared."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.task import bridge, resume
from cocotb.triggers import ClockCycles, ReadOnly, RisingEdge

from lightnorm_driver import Device
from lightnorm_golden import NormSpec, backward, forward, infer

MEMORY, LIGHTNORM = 0x4000_0000, 0x9000_0000
PLACES = {
    "x": MEMORY, "grad": MEMORY + 0x4000, "output": MEMORY + 0x8000, "parameters": MEMORY + 0xC000,
    "results": MEMORY + 0xD000,
}  # fmt: skip
LIMIT = 10_000  # cycles in which anything must have happened


class Host:
    """Words over the SoC's bus, packets over its memory and DMAs."""

    def __init__(self, dut: Any, description: dict[str, Any], csr: dict[str, Any]) -> None:
        self.dut, self.csr = dut, csr
        self.sizes: dict[str, int] = description["beat_bytes"] | {"parameters": 4}

    async def access(self, address: int, word: int | None = None) -> int:
        """Read a word, or write one."""
        dut = self.dut
        dut.adr.value, dut.we.value, dut.dat_w.value, dut.cyc.value = address >> 2, word is not None, word or 0, 1
        for _ in range(LIMIT):
            await RisingEdge(dut.clk)
            await ReadOnly()
            if int(dut.ack.value):
                break
        else:
            raise AssertionError(f"the bus does not answer at {address:#x}")
        assert not int(dut.err.value), f"the bus answers an error at {address:#x}"
        found = 0 if word is not None else int(dut.dat_r.value)
        await RisingEdge(dut.clk)  # the access ends with this edge
        dut.cyc.value = 0
        await RisingEdge(dut.clk)
        return found

    async def control(self, register: str, word: int | None = None) -> int:
        """A register of the SoC; of a wide one the lowest word."""
        entry = self.csr["csr_registers"][register]
        return await self.access(entry["addr"] + 4 * (entry["size"] - 1), word)

    async def begin(self, stream: str, size: int) -> None:
        """Let the DMA of a stream move so many bytes."""
        await self.control(f"{stream}_dma_enable", 0)
        await self.control(f"{stream}_dma_base", PLACES[stream])
        await self.control(f"{stream}_dma_length", size)
        await self.control(f"{stream}_dma_enable", 1)

    async def end(self, stream: str) -> None:
        for _ in range(LIMIT):
            if await self.control(f"{stream}_dma_done"):
                return
        raise AssertionError(f"the DMA of {stream} does not end")

    def words(self, stream: str, packet: bytes) -> list[int]:
        """The words of a packet in memory: every beat padded to whole words."""
        size = self.sizes[stream]
        beats = [packet[first : first + size] for first in range(0, len(packet), size)]
        padded = b"".join(beat.ljust(-(-size // 4) * 4, b"\0") for beat in beats)
        return [int(word) for word in np.frombuffer(padded, "<u4")]

    async def send(self, stream: str, packet: bytes) -> None:
        """Put a packet into the memory, and let the DMA of its stream send it."""
        words = self.words(stream, packet)
        for index, word in enumerate(words):
            await self.access(PLACES[stream] + 4 * index, word)
        await self.begin(stream, 4 * len(words))

    async def fetch(self, stream: str, size: int) -> bytes:
        """What the DMA of a stream has put into the memory."""
        words = [await self.access(PLACES[stream] + offset) for offset in range(0, size, 4)]
        return np.array(words, "<u4").tobytes()

    async def transfer(
        self,
        x: Sequence[bytes],
        grad: Sequence[bytes],
        outputs: Sequence[int],
        parameters: bytes = b"",
        results: int = 0,
    ) -> list[bytes]:
        """What `Device` wants: packets in, packets out, a channel after the other."""
        received = []
        if parameters:
            await self.send("parameters", parameters)
        if results:
            await self.begin("results", results)
        size, channels = self.sizes["output"], len(outputs)
        padded = -(-size // 4) * 4
        for channel, length in enumerate(outputs):
            beats = length // size
            await self.begin("output", beats * padded)
            for turn in range(max(len(x), len(grad)) // channels):
                moving = []
                for stream, packets in (("x", x), ("grad", grad)):
                    per_channel = len(packets) // channels
                    if turn < per_channel:
                        await self.send(stream, packets[channel * per_channel + turn])
                        moving.append(stream)
                for stream in moving:
                    await self.end(stream)
            await self.end("output")
            data = await self.fetch("output", beats * padded)
            received.append(b"".join(data[first : first + size] for first in range(0, len(data), padded)))
        if results:
            await self.end("results")
            received.append(await self.fetch("results", results))
        return received


@cocotb.test()
async def a_layer(dut: Any) -> None:
    """Every pass that is built, of a small layer."""
    folder = Path("folder")
    description = json.loads((folder / "lightnorm_axi.json").read_text())
    Clock(dut.clk, 10, unit="ns").start()
    dut.cyc.value, dut.rst.value = 0, 0
    await ClockCycles(dut.clk, 2)
    dut.rst.value = 1
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
    host = Host(dut, description, json.loads(Path("csr.json").read_text()))
    read, write = resume(host.access), resume(host.access)
    rng = np.random.default_rng(1)
    x, grad = (rng.standard_normal((1, 2, description["lanes"] * 2 + 1)).astype(np.float32) for _ in range(2))
    weight, bias, mean, sigma = (rng.uniform(0.5, 2, 2).astype(np.float32) for _ in range(4))

    def program() -> None:
        device = Device(description, lambda offset: read(LIGHTNORM + offset),
                        lambda offset, word: write(LIGHTNORM + offset, word), resume(host.transfer))  # fmt: skip
        spec: NormSpec = device.spec
        affine, running = {"weight": weight, "bias": bias}, {"running_mean": mean, "running_sigma": sigma}
        chunks = min(2, description["config"]["implementation"]["max_chunks"])
        passes = description["config"]["implementation"]["passes"]
        for name in passes:
            if name == "train":
                got = device.train(x, **affine, **running, chunks=chunks)
                made = forward(x, weight, bias, **running, spec=spec, chunks=chunks)
                want = made.output
                np.testing.assert_array_equal(got.channels["mean"], made.mean)
                np.testing.assert_array_equal(got.channels["new_running_sigma"], made.running_sigma)
            elif name == "infer":
                got = device.infer(x, **affine, **running)
                want = infer(x, weight, bias, mean, sigma, spec=spec).output
            else:
                got = device.backward(x, grad, weight=weight, chunks=chunks)
                want = backward(x, grad, weight, spec=spec, chunks=chunks).grad_input
            np.testing.assert_array_equal(got.output, want)
            cycles = device.counters()["cycles"]
            print(f"{name}: {got.output.size} values equal the golden model, {cycles} cycles", flush=True)

    await bridge(program)()
