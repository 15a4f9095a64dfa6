"""What the simulator runs: each test has a machine fresh from reset."""

from __future__ import annotations

import ctypes
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
import pytest
from cocotb.task import bridge, resume
from cocotb.triggers import ReadOnly
from cocotbext.axi import AxiResp, AxiStreamFrame
from drivers import READ, START_DMA, WRITE, Bus, LayerWords
from host import Host, beats, pauses

from lightnorm.bus import register_map
from lightnorm.bus.registers import Access
from lightnorm_driver import Device, DeviceError
from lightnorm_golden import backward, forward, infer
from lightnorm_sim.layer import Layer


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


async def misplaced(host: Host, mode: str, stream: str, kind: str) -> None:
    """One packet of a run ends too early, too late, or not at all; then the machine must be as new."""
    layer = host.layer(mode, channels=3, elements=30)
    good = {name: host.frames(name, layer) for name in ("x", "grad")}
    size = host.constants[f"{stream.upper()}_BEAT_BYTES"]
    packets = list(good[stream])
    if kind == "early":
        packets[-1] = packets[-1][:-size]
    elif kind == "late":
        packets[1] += bytes(size)
    else:  # missing: two channels in one packet
        packets[1:3] = [packets[1] + packets[2]]
    await host.configure(layer)
    await host.start()
    for name, source in (("x", host.x), ("grad", host.grad)):
        for packet in packets if name == stream else good[name]:
            source.send_nowait(AxiStreamFrame(packet))
    await host.failed("LENGTH")
    await host.recover()
    await host.cycles(300)  # what was sent after the error may be dropped until now
    assert host.output.idle(), "an output packet that was begun must be closed"
    while not host.output.empty():
        host.output.recv_nowait()
    for source in (host.x, host.grad):
        source.clear()


@cocotb.test()
async def misplaced_tlast(dut: Any) -> None:
    host = await Host.fresh(dut)
    for index, (mode, stream) in enumerate([("train", "x"), ("infer", "x"), ("backward", "x"), ("backward", "grad")]):
        for kind in ("early", "late", "missing"):
            dut._log.warning("%s %s %s", mode, stream, kind)
            await misplaced(host, mode, stream, kind)
            await host.reset_sources()
            await host.run(host.layer("train", seed=index))


@cocotb.test()
async def dropped_until_cleared(dut: Any) -> None:
    """After an error everything that comes is dropped, an open packet even after the error was cleared."""
    host = await Host.fresh(dut)
    layer = host.layer("train", channels=2, elements=30)
    size = host.constants["X_BEAT_BYTES"]
    first, second = host.frames("x", layer)
    await host.configure(layer)
    await host.start()
    host.x.send_nowait(AxiStreamFrame(first[:size]))
    await host.failed("LENGTH")
    assert not await host.bit("CTRL", "READY") and await host.bit("CTRL", "IDLE")
    await host.refused("CTRL", host.constants["CTRL_START_MASK"])
    for packet in (first, second):
        host.x.send_nowait(AxiStreamFrame(packet))
    await host.cycles(50)
    assert host.x.idle(), "beats are dropped"
    host.x.send_nowait(AxiStreamFrame(first * 10))
    await host.cycles(5)
    host.x.pause = True  # in the middle of a packet
    await host.write("STATUS", host.constants["STATUS_ERRORS"])
    await host.cycles(50)
    assert not await host.bit("CTRL", "READY"), "a packet is open"
    host.x.pause = False
    await host.recover()
    assert host.x.idle()
    host.x.send_nowait(AxiStreamFrame(first))  # of the next run: waits
    await host.cycles(50)
    assert not host.x.idle(), "no beat is taken without a run"
    await host.start()
    host.x.send_nowait(AxiStreamFrame(second))
    await host.done()
    await host.check(layer)


@cocotb.test()
async def open_packets_can_be_forgotten(dut: Any) -> None:
    host = await Host.fresh(dut)
    layer = host.layer("infer", channels=2, elements=120)
    first, _ = host.frames("x", layer)
    await host.configure(layer)
    await host.start()
    host.x.send_nowait(AxiStreamFrame(first))
    await host.cycles(8)
    host.x.pause = True
    await host.cycles(20)
    await host.write("CTRL", host.constants["CTRL_ABORT_MASK"])
    await host.failed("ABORTED")
    await host.write("STATUS", host.constants["STATUS_ERRORS"])
    await host.cycles(50)
    assert not await host.bit("CTRL", "READY"), "the source's packet is open"
    await host.reset_sources()  # the rest of it never comes
    await host.recover(force=True)
    assert await host.read("STATUS") & host.constants["STATUS_ERRORS"] == 0
    await host.cycles(10)
    packet = host.output.recv_nowait(compact=False)
    whole = layer.beats_per_channel * host.constants["OUTPUT_BEAT_BYTES"]
    assert 0 < len(packet.tdata) < whole, "the output packet was begun, and is closed"
    assert host.output.empty()
    host.x.pause = False
    await host.run(host.layer("train"))


@cocotb.test()
async def keep(dut: Any) -> None:
    """TKEEP may leave out bytes behind a channel's last element, and no other."""
    host = await Host.fresh(dut)
    size = host.constants["X_BEAT_BYTES"]
    layer = host.layer("train", channels=2, elements=12 + 5)  # the last beat holds a block and an element
    block = host.config.spec.activation
    used = -(-(block.block_bits + block.exp_bits + block.element_bits) // 8)
    assert used < size
    packets = host.frames("x", layer)
    await host.configure(layer)
    await host.start()
    for packet in packets:
        kept = [1] * (len(packet) - size + used) + [0] * (size - used)
        host.x.send_nowait(AxiStreamFrame(packet, kept))
    await host.done()
    await host.check(layer)

    bad = {
        "an element's byte": [1] * (len(packets[0]) - size + used - 1) + [0] * (size - used + 1),
        "a hole": [1] * (len(packets[0]) - size) + [1, 0] + [1] * (size - 2),
        "not the last beat": [1] * (size - 1) + [0] + [1] * (len(packets[0]) - size),
        "nothing": [0] * len(packets[0]),
    }
    for what, kept in bad.items():
        dut._log.warning(what)
        await host.configure(layer)
        await host.start()
        host.x.send_nowait(AxiStreamFrame(packets[0], kept))
        await host.failed("KEEP")
        await host.recover()
        await host.run(layer)


@cocotb.test()
async def busy(dut: Any) -> None:
    """A start, run-time words and the window are refused during a run, which goes on undisturbed."""
    host = await Host.fresh(dut)
    for mode in ("train", "backward"):
        layer = host.layer(mode)
        await host.configure(layer)
        await host.start()
        await host.refused("CTRL", host.constants["CTRL_START_MASK"])
        assert await host.read("STATUS") == host.status("REFUSED")
        for name in ("MODE", "CHANNELS", "ELEMENTS", "CHUNK_BLOCKS", "INV_COUNT", "RANGE_GAIN", "EPS", "MOMENTUM"):
            before = await host.read(name)
            await host.refused(name, 0)
            assert await host.read(name) == before
        for word in ("weight", "bias"):
            assert (await host.access(host.record(0, word), 0))[1] == AxiResp.SLVERR
            assert (await host.access(host.record(0, word)))[1] == AxiResp.SLVERR
        await host.write("SCRATCH", 7)
        assert not await host.bit("CTRL", "IDLE") and not await host.bit("CTRL", "DONE")
        host.send(layer)
        await host.done()
        await host.check(layer)
        await host.write("STATUS", 0xFFFFFFFF)
        assert await host.read("STATUS") == 0


@cocotb.test()
async def illegal_runs(dut: Any) -> None:
    """Each is refused with an error, and the machine works afterwards."""
    host = await Host.fresh(dut)
    train, backward = host.layer("train", elements=24), host.layer("backward", elements=24)
    limits = host.constants
    cases: list[tuple[Any, dict[str, int]]] = [
        (train, {"mode": 3}),
        (train, {"channels": 0}),
        (train, {"channels": limits["MAX_CHANNELS"] + 1}),
        (train, {"channels": 0x8001}),
        (train, {"elements": 0}),
        (train, {"elements": (1 << 24) + 1}),
        (train, {"chunk_blocks": 0}),
        (backward, {"chunk_blocks": 0}),
        # a chunk more than there are records: 24 elements are 6 blocks, in chunks of 1
        (backward, {"chunk_blocks": 1}),
        (backward, {"elements": limits["MAX_CHUNKS"] * limits["BLOCK_SIZE"] * 2 + 1, "chunk_blocks": 2}),
    ]
    for layer, changed in cases:
        dut._log.warning(str(changed))
        await host.configure(layer, **changed)
        await host.start()
        await host.failed("ILLEGAL_RUN")
        await host.recover()
    # as many chunks as there are records
    await host.run(host.layer("backward", elements=24, chunks=3))
    await host.run(host.layer("train", elements=24, chunks=6))


@cocotb.test()
async def nonfinite_parameters(dut: Any) -> None:
    host = await Host.fresh(dut)
    for bad in (0x7FC00000, 0x7F800000, 0xFF800000):
        layer = host.layer("train", bias=np.array([0.5, 0, 1]))
        await host.configure(layer)
        await host.access(host.record(1, "bias"), bad)
        await host.start()
        host.send(layer)
        await host.done()
        await host.check(layer)  # the bias of channel 1 counts as 0
        assert await host.read("STATUS") & ~host.status("SATURATED") == host.status("NONFINITE")
        await host.write("STATUS", host.status("NONFINITE"))
        assert not await host.bit("STATUS", "NONFINITE")


class Watch:
    """Counts on the pins what the machine counts inside."""

    def __init__(self, host: Host) -> None:
        self.host, self.counts = host, dict.fromkeys(("CYCLES", "INPUT_STALLS", "OUTPUT_STALLS"), 0)
        self.task = cocotb.start_soon(self._count())

    async def _count(self) -> None:
        """A run is from the cycle after its start was written to the one before its interrupt."""
        dut, running = self.host.dut, False
        while True:
            await self.host.edge()
            await ReadOnly()
            if running and int(dut.irq.value):
                running = False
            if running:
                self.counts["CYCLES"] += 1
                waits = [
                    int(getattr(dut, f"{name}_tready").value) and not int(getattr(dut, f"{name}_tvalid").value)
                    for name in ("s_axis", "s_axis_grad")
                ]
                self.counts["INPUT_STALLS"] += any(waits)
                self.counts["OUTPUT_STALLS"] += int(dut.m_axis_tvalid.value) and not int(dut.m_axis_tready.value)
            if int(dut.s_axil_awready.value) and int(dut.s_axil_awaddr.value) == 0 and int(dut.s_axil_wdata.value) & 1:
                running, self.counts = True, dict.fromkeys(self.counts, 0)


@cocotb.test()
async def counters(dut: Any) -> None:
    """Each counter equals what is seen on the pins."""
    host = await Host.fresh(dut)
    watch = Watch(host)
    await host.write("GIE", 1)
    await host.write("IER", 1)
    for seed, (mode, rests) in enumerate(
        [("train", ()), ("train", (host.x,)), ("infer", (host.output,)), ("train", (host.x, host.output)),
         ("backward", (host.grad, host.output)), ("backward", (host.x,))]
    ):  # fmt: skip
        for end in (host.x, host.grad, host.output):
            end.set_pause_generator(None)
            end.pause = False
        for index, end in enumerate(rests):
            end.set_pause_generator(pauses("bursts", seed + 10 * index))
        layer = host.layer(mode, elements=150, seed=seed)
        await host.configure(layer)
        if mode == "backward":
            # the machine waits for both streams: keep the one that does not rest on offer before the start
            host.send(layer)
            await host.cycles(5)
            await host.start()
        else:
            await host.start()
            host.send(layer)
        await host.done()
        await host.check(layer)
        counted = {name: await host.read(name) for name in watch.counts}
        assert counted == watch.counts, f"{mode} {len(rests)}: the machine has {counted}, the pins {watch.counts}"
        await host.write("ISR", 1)
        assert not int(dut.irq.value)


@cocotb.test()
async def saturation(dut: Any) -> None:
    """Elements beyond the format are counted exactly: with a huge weight, all that are not zero."""
    host = await Host.fresh(dut)
    rng = np.random.default_rng(5)
    x = rng.choice([0.0, 1.0, -1.5, 2.0], (1, 3, 40))
    ones, zeros = np.ones(3), np.zeros(3)
    for weight, expected in ((1.0, 0), (2.0**100, np.count_nonzero(x))):
        layer = host.layer("infer", x=x, weight=weight * ones, bias=zeros, running_mean=zeros, running_sigma=ones)
        await host.run(layer)
        assert await host.read("SATURATED") == expected
        assert await host.bit("STATUS", "SATURATED") == bool(expected)


@cocotb.test()
async def reset_in_a_run(dut: Any) -> None:
    host = await Host.fresh(dut)
    for mode, after in (("train", 10), ("train", 40), ("infer", 20), ("backward", 60)):
        layer = host.layer(mode, elements=60)
        await host.configure(layer)
        await host.start()
        host.send(layer)
        await host.cycles(after)
        host.x.clear()
        host.grad.clear()
        await host.reset()
        while not host.output.empty():
            host.output.recv_nowait()
        assert not int(dut.m_axis_tvalid.value) and not int(dut.irq.value)
        assert await host.read("STATUS") == 0
        assert await host.read("CTRL") == host.constants["CTRL_IDLE_MASK"] | host.constants["CTRL_READY_MASK"]
        await host.run(host.layer("train", seed=after))


@cocotb.test()
async def output_never_read(dut: Any) -> None:
    """The run stands still and can be aborted; the beat on offer holds until it is taken, as AXI demands."""
    host = await Host.fresh(dut)
    host.output.pause = True
    layer = host.layer("train", elements=80)
    await host.configure(layer)
    await host.start()
    host.send(layer)
    await host.cycles(500)
    assert int(dut.m_axis_tvalid.value)
    offered = int(dut.m_axis_tdata.value)
    before = await host.read("OUTPUT_STALLS")
    assert before > 300 and await host.read("OUTPUT_STALLS") > before
    assert not await host.bit("CTRL", "IDLE")
    await host.write("CTRL", host.constants["CTRL_ABORT_MASK"])
    await host.failed("ABORTED")
    for _ in range(50):
        await host.edge()
        assert int(dut.m_axis_tvalid.value) and int(dut.m_axis_tdata.value) == offered
    await host.write("STATUS", host.constants["STATUS_ERRORS"])
    assert not await host.bit("CTRL", "READY")
    host.output.pause = False
    await host.recover()
    packet = host.output.recv_nowait(compact=False)
    size = host.constants["OUTPUT_BEAT_BYTES"]
    assert int.from_bytes(beats(packet.tdata, size)[0], "little") == offered
    assert len(packet.tdata) == 2 * size, "the beat on offer, and one that closes the packet"
    assert host.output.empty()
    await host.reset_sources()
    await host.run(host.layer("backward"))


@cocotb.test()
async def interrupts(dut: Any) -> None:
    host = await Host.fresh(dut)
    layer = host.layer("train")
    events = {"DONE": host.constants["ISR_DONE_MASK"], "ERROR": host.constants["ISR_ERROR_MASK"]}
    for enabled in (0, *events.values()):
        for globally in (0, 1):
            await host.write("IER", enabled)
            await host.write("GIE", globally)
            for event, mask in events.items():
                await host.configure(layer, **({"channels": 0} if event == "ERROR" else {}))
                await host.start()
                if event == "DONE":
                    host.send(layer)
                    await host.done()
                    await host.check(layer)
                assert await host.read("ISR") == mask
                assert bool(dut.irq.value) == bool(enabled & mask and globally)
                await host.write("ISR", 0xFFFFFFFF ^ mask)
                assert await host.read("ISR") == mask, "only ones clear"
                await host.write("ISR", mask)
                assert await host.read("ISR") == 0 and not int(dut.irq.value)
                if event == "ERROR":
                    await host.recover()


@cocotb.test()
async def c_driver(dut: Any) -> None:
    """A C program drives a training step; its DMA is the bus models."""
    host = await Host.fresh(dut)
    library = ctypes.CDLL(str(Path("driver.so").resolve()))
    train, backward = host.layer("train", channels=4, elements=60), host.layer("backward", channels=4, elements=60)
    read = resume(host.read_at)
    write = resume(host.write_at)

    async def send(mode: int) -> None:
        host.send(backward if mode == host.constants["MODE_BACKWARD"] else train)

    def floats(words: list[int]) -> Any:
        return (ctypes.c_uint32 * len(words))(*words)

    def values(layer: Layer, names: tuple[str, ...]) -> list[int]:
        """Words of all channels, a channel after the other."""
        columns = [np.asarray(layer.results[name], np.float32).view(np.uint32) for name in names]
        return [int(word) for row in zip(*columns, strict=True) for word in row]

    run = train.run
    words = LayerWords(run.channels, run.elements, run.chunk_blocks, run.inv_count, run.range_gain, run.eps,
                       run.momentum)  # fmt: skip
    bus = Bus(READ(lambda _, offset: read(offset)), WRITE(lambda _, offset, word: write(offset, word)), None)
    dma = START_DMA(resume(send))
    statistics = values(train, ("mean", "sigma", "new_running_mean", "new_running_sigma"))
    gradients = values(backward, ("grad_bias", "grad_weight"))

    def program() -> int:
        given = floats(list(run.parameters)), floats(statistics), floats(gradients)
        return int(library.training_step(bus, dma, ctypes.byref(words), *given))

    found = await bridge(program)()
    assert found == 0, f"training_step.c, line {found}"
    assert not int(dut.irq.value) or await host.read("ISR")
    output = []
    for _ in range(2 * train.channels):
        output.append(bytes(host.output.recv_nowait(compact=False).tdata))
    assert host.output.empty()
    for layer, packets in ((train, output[: train.channels]), (backward, output[train.channels :])):
        assert b"".join(packets) == host.expected(layer)


@cocotb.test()
async def python_driver(dut: Any) -> None:
    """The Python driver on tensors: more channels than the window holds, all three passes, and errors."""
    host = await Host.fresh(dut)
    rng = np.random.default_rng(3)
    x, grad = (rng.standard_normal((2, 8, 5, 3)).astype(np.float32) for _ in range(2))
    given = {name: rng.uniform(0.5, 2, 8).astype(np.float32) for name in ("weight", "bias")}
    running = {name: rng.uniform(0.5, 2, 8).astype(np.float32) for name in ("running_mean", "running_sigma")}
    lose = False

    async def transfer(x: Sequence[bytes], grad: Sequence[bytes], outputs: Sequence[int]) -> list[bytes]:
        for packet in x:
            host.x.send_nowait(AxiStreamFrame(packet[: -host.constants["X_BEAT_BYTES"]] if lose else packet))
        for packet in grad:
            host.grad.send_nowait(AxiStreamFrame(packet))
        if lose:
            return []
        packets = [bytes((await host.output.recv(compact=False)).tdata) for _ in outputs]
        assert [len(packet) for packet in packets] == list(outputs)
        return packets

    def program() -> None:
        nonlocal lose
        description = json.loads(Path("machine/lightnorm_axi.json").read_text())
        read, write, move = resume(host.read_at), resume(host.write_at), resume(transfer)
        device = Device(description, read, write, move, polls=2000)
        spec = device.spec
        got = device.train(x, **given, **running, chunks=3, eps=1e-3, momentum=0.2)
        want = forward(x, given["weight"], given["bias"], spec=spec, chunks=3, eps=1e-3, momentum=0.2, **running)
        np.testing.assert_array_equal(got.output, want.output)
        for name in ("mean", "sigma"):
            np.testing.assert_array_equal(got.channels[name], getattr(want, name))
            np.testing.assert_array_equal(got.channels[f"new_running_{name}"], getattr(want, f"running_{name}"))
        back = device.backward(x, grad, weight=given["weight"], chunks=3, eps=1e-3)
        wanted = backward(x, grad, given["weight"], spec=spec, chunks=3, eps=1e-3)
        np.testing.assert_array_equal(back.output, wanted.grad_input)
        np.testing.assert_array_equal(back.channels["grad_weight"], wanted.grad_weight)
        np.testing.assert_array_equal(back.channels["grad_bias"], wanted.grad_bias)
        inferred = device.infer(x, **given, **running)
        np.testing.assert_array_equal(
            inferred.output, infer(x, given["weight"], given["bias"], *running.values(), spec=spec).output
        )
        assert device.counters()["cycles"] > 0

        with pytest.raises(ValueError, match=r"^weight must be an array of .* of shape \(8,\), not float32 \(3,\)$"):
            device.train(x, weight=np.ones(3, np.float32))
        with pytest.raises(TypeError, match="^infer takes no gain$"):
            device.infer(x, gain=given["weight"])
        lose = True
        with pytest.raises(DeviceError, match=r"^the run ended with length; recover\(\) before the next$"):
            device.infer(x, **given)
        with pytest.raises(DeviceError, match=r"^the block is not ready \(status: length"):
            device.infer(x, **given)
        lose = False
        device.recover()
        with pytest.raises(DeviceError, match="^the run ended with illegal_run"):
            device.backward(x, grad, chunks=4)
        device.recover()
        with pytest.raises(DeviceError, match="^the block has configuration"):
            Device(description | {"hash": "00000000"}, read, write, move)
        with pytest.raises(DeviceError, match="^there is no LightNorm at this address"):
            Device(description, lambda offset: 0, write, move)
        np.testing.assert_array_equal(device.train(x, **given, **running, chunks=3).output,
                                      forward(x, given["weight"], given["bias"], spec=spec, chunks=3).output)

    await bridge(program)()


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
async def aborts_at_any_time(dut: Any) -> None:
    """A run is given up in any cycle, with any part of the surroundings standing still; the next one is right."""
    host = await Host.fresh(dut)
    rng = random.Random(7)
    for attempt in range(40):
        host.rest("bursts", attempt)
        layer = host.layer(rng.choice(["train", "infer", "backward"]), elements=rng.choice([12, 60, 130]), seed=attempt)
        await host.configure(layer)
        await host.start()
        host.send(layer)
        await host.cycles(rng.randrange(150))
        stopped = [end for end in (host.x, host.grad, host.output) if rng.random() < 0.3]
        for end in stopped:
            end.set_pause_generator(None)
            end.pause = True
        await host.cycles(rng.randrange(40))
        await host.write("CTRL", host.constants["CTRL_ABORT_MASK"])
        if rng.random() < 0.5:
            await host.write("STATUS", host.constants["STATUS_ERRORS"])  # while the output may still stand still
        await host.reset_sources()
        host.output.pause = False
        host.output.set_pause_generator(None)
        for source in host.sources:
            source.pause = False
        await host.recover(force=True)
        await host.cycles(30)
        whole = layer.beats_per_channel * host.constants["OUTPUT_BEAT_BYTES"]
        assert host.output.idle(), "a packet has no end"
        while not host.output.empty():
            assert len(host.output.recv_nowait(compact=False).tdata) <= whole + host.constants["OUTPUT_BEAT_BYTES"]
        await host.run(host.layer(rng.choice(["train", "backward"]), elements=40, seed=attempt))
