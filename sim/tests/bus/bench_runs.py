"""Registers and runs; each test has a machine fresh from reset."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
from cocotbext.axi import AxiResp
from host import Host

from lightnorm.bus import register_map
from lightnorm.bus.registers import Access


@cocotb.test()
async def registers(dut: Any) -> None:
    """Every address: constants, reset values, storage, and SLVERR where there is nothing."""
    host = await Host.fresh(dut)
    host.rest("random")
    description = register_map(host.config)
    there = {register.offset: register for register in description.registers}
    for offset in range(0, description.window, 4):
        word, response = await host.access(offset)
        assert response == (AxiResp.OKAY if offset in there else AxiResp.SLVERR), f"reading {offset:#x}: {response!r}"
        if offset in there and there[offset].name not in ("CTRL", "MODE"):
            assert word == there[offset].reset, f"{there[offset].name} is {word:#x} after reset"
        if offset not in there:
            assert (await host.access(offset, 0xFFFFFFFF))[1] == AxiResp.SLVERR
    assert await host.read("ID") == host.constants["ID_VALUE"]
    assert await host.read("CTRL") == host.constants["CTRL_IDLE_MASK"] | host.constants["CTRL_READY_MASK"]
    for register in description.registers:
        written = sum(field.mask for field in register.fields if field.access is Access.READ_WRITE)
        if not written or register.name == "GIE":
            continue
        for value in (0xA5C30F96, 0x5A3CF069):
            await host.write(register.name, value)
            kept = (await host.read(register.name)) & written
            assert kept == value & written, f"{register.name} holds {kept:#x}"
    records = description.record * description.channels
    for index in range(records):
        assert (await host.access(description.window + 4 * index, 0x01010101 * index))[1] == AxiResp.OKAY
    for index in range(records):
        assert await host.access(description.window + 4 * index) == (0x01010101 * index, AxiResp.OKAY)
    for address in range(description.window + 4 * records, 1 << description.address_bits, 4):
        assert (await host.access(address))[1] == AxiResp.SLVERR
        assert (await host.access(address, 0))[1] == AxiResp.SLVERR
    scratch = host.constants["SCRATCH_OFFSET"]
    await host.write("SCRATCH", 0x12345678)
    for offset in (1, 2, 3):
        assert await host.raw_read(scratch + offset) == AxiResp.SLVERR
        assert await host.raw_write(scratch + offset, 0, 0b1111) == AxiResp.SLVERR
        assert await host.raw_write(description.window + offset, 0, 0b1111) == AxiResp.SLVERR
    for strobes in (0b0000, 0b0001, 0b0111, 0b1110):
        assert await host.raw_write(scratch, 0, strobes) == AxiResp.SLVERR
    assert await host.read("SCRATCH") == 0x12345678
    assert await host.read("STATUS") == 0


async def step(host: Host, seed: int, **shape: int) -> None:
    """Train, backward, infer."""
    for mode in ("train", "backward", "infer"):
        await host.run(host.layer(mode, seed=seed, **shape))


@cocotb.test()
async def training_step(dut: Any) -> None:
    """One pass and two, short and long channels; the second step's words stand over those of the first."""
    host = await Host.fresh(dut)
    for seed, (channels, elements) in enumerate([(3, 50), (1, 2), (6, 12), (2, 97)]):
        await step(host, seed, channels=channels, elements=elements)
        two_pass = await host.bit("MODE", "TWO_PASS")
        assert not two_pass  # inference
    layer = host.layer("train", elements=97)
    await host.configure(layer)
    assert await host.bit("MODE", "TWO_PASS") and layer.two_pass
    assert not await host.read("STATUS") & host.constants["STATUS_ERRORS"]


@cocotb.test()
async def idle_and_backpressure(dut: Any) -> None:
    host = await Host.fresh(dut)
    for seed, kind in enumerate(("random", "bursts")):
        host.rest(kind, seed)
        await step(host, seed, channels=4, elements=40 + 60 * seed)


@cocotb.test()
async def small_step(dut: Any) -> None:
    """For the slow simulator, which knows undefined values."""
    host = await Host.fresh(dut)
    host.rest("random")
    for mode in ("train", "backward", "infer"):
        await host.run(host.layer(mode, channels=2, elements=30))


@cocotb.test()
async def backward_keeps_the_running_statistics(dut: Any) -> None:
    host = await Host.fresh(dut)
    train, backward = host.layer("train"), host.layer("backward")
    await host.run(train)
    await host.run(backward, words=False)  # the weights are those of training
    for channel in range(train.channels):
        for word in ("running_mean", "running_sigma"):
            value, _ = await host.access(host.record(channel, f"new_{word}"))
            expected = np.float32(train.results[f"new_{word}"][channel]).view(np.uint32)
            assert value == expected, f"{word} of channel {channel}"


@cocotb.test()
async def inference_only(dut: Any) -> None:
    """The smallest build: other passes are illegal, registers that it does not need read 0."""
    host = await Host.fresh(dut)
    host.rest("random")
    await host.run(host.layer("infer", channels=4, elements=11))
    for name in ("CHUNK_BLOCKS", "INV_COUNT", "RANGE_GAIN", "MOMENTUM"):
        await host.write(name, 0xFFFFFFFF)
        assert await host.read(name) == 0
    for mode in (1, 2, 3):
        await host.write("MODE", mode)
        await host.start()
        await host.failed("ILLEGAL_RUN")
        await host.recover()
    await host.run(host.layer("infer", channels=1, elements=1))


@cocotb.test()
async def largest_window(dut: Any) -> None:
    """The last record is there and nothing behind it; runs use their own records only; as many channels are legal."""
    host = await Host.fresh(dut)
    most = host.constants["MAX_CHANNELS"]
    assert most == 65535
    edges = (0, 1, 255, 256, 300, 4095, 32767, 32768, most - 1)
    for channel in edges:
        for slot in range(8):
            await host.write_at(host.record(channel, "running_mean") + 4 * slot, 8 * channel + slot)
    assert (await host.access(host.record(most, "running_mean")))[1] == AxiResp.SLVERR
    await host.run(host.layer("train", channels=300, elements=3))
    for channel in edges[4:]:
        for slot in range(8):
            assert await host.read_at(host.record(channel, "running_mean") + 4 * slot) == 8 * channel + slot
    await host.configure(host.layer("infer"), channels=most)
    await host.start()
    await host.cycles(20)
    assert not await host.bit("CTRL", "IDLE")
    await host.write("CTRL", host.constants["CTRL_ABORT_MASK"])
    await host.failed("ABORTED")
    await host.recover()
    await host.run(host.layer("infer"))
