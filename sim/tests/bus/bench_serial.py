"""What the simulator runs of a machine behind a serial line; the host's own program is at the other end."""

from __future__ import annotations

import binascii
import contextlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
import pytest
from cocotb.clock import Clock
from cocotb.task import bridge, resume
from cocotb.triggers import ClockCycles, Event, FallingEdge, First, Timer

from lightnorm_driver import Device, DeviceError
from lightnorm_driver.__main__ import main
from lightnorm_driver.serial_line import SerialLine, connect
from lightnorm_golden import backward, forward, infer

PERIOD = 2  # ns
DIVISOR = 4
BIT = PERIOD * DIVISOR
TIMEOUT = 36_000 * PERIOD
"""Of the host; longer than that of the board, 8192 bits."""
DESCRIPTION = Path("machine/lightnorm_uart.json")


class Line:
    """A serial line, and the port at the host's end of it, with what is used of pyserial.

    `to_board`, `to_host`: what becomes of the bytes of a write, of a byte that arrives; here faults are put in.
    """

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.received = bytearray()
        self.arrived = Event()
        self.to_board: Callable[[bytes], bytes] = lambda data: data
        self.to_host: Callable[[int], bytes] = lambda byte: bytes([byte])
        self.requests = 0
        self.read, self.write = resume(self._read), resume(self._write)

    @classmethod
    async def fresh(cls, dut: Any) -> Line:
        Clock(dut.clk, PERIOD, unit="ns").start()
        dut.rx.value, dut.i_divisor.value, dut.rst.value = 1, DIVISOR, 1
        await ClockCycles(dut.clk, 4)
        dut.rst.value = 0
        await ClockCycles(dut.clk, 4)
        await FallingEdge(dut.clk)  # the line changes between edges of the clock
        line = cls(dut)
        cocotb.start_soon(line._receive())
        return line

    async def _receive(self) -> None:
        while True:
            await FallingEdge(self.dut.tx)
            await Timer(BIT // 2, "ns")
            assert int(self.dut.tx.value) == 0, "start bit"
            byte = 0
            for index in range(8):
                await Timer(BIT, "ns")
                byte |= int(self.dut.tx.value) << index
            await Timer(BIT, "ns")
            assert int(self.dut.tx.value) == 1, "stop bit"
            self.received += self.to_host(byte)
            self.arrived.set()

    async def _write(self, data: bytes) -> int:
        self.requests += 1
        for byte in self.to_board(data):
            for bit in (0, *(byte >> index & 1 for index in range(8)), 1):
                self.dut.rx.value = bit
                await Timer(BIT, "ns")
        return len(data)

    async def _read(self, size: int) -> bytes:
        late = Timer(TIMEOUT, "ns")
        expired = cocotb.start_soon(_wait(late))
        while len(self.received) < size and not expired.done():
            self.arrived.clear()
            await First(self.arrived.wait(), expired)
        if not expired.done():
            expired.cancel()
        data = bytes(self.received[:size])
        del self.received[:size]
        return data


async def _wait(timer: Timer) -> None:
    await timer


def program(line: Line, *arguments: str) -> tuple[int, str]:
    """The host's command: its exit status, and what it says."""
    files = ["--port", "simulated", "--description", str(DESCRIPTION), "--input", "x.npy", "--output", "out.npy"]
    said = Path("said.txt")
    with said.open("w") as out, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        status = main([*files, *arguments], lambda name, baud: line)
    return status, said.read_text()


def tensors(seed: int, *shape: int) -> dict[str, np.ndarray[Any, Any]]:
    """x, its gradient, and vectors, also as files."""
    rng = np.random.default_rng(seed)
    made = {name: rng.standard_normal(shape) for name in ("x", "grad")}
    made |= {name: rng.uniform(0.5, 2, shape[1]) for name in ("weight", "bias", "running_mean", "running_sigma")}
    made = {name: value.astype(np.float32) for name, value in made.items()}
    for name, value in made.items():
        np.save(f"{name}.npy", value)
    return made


@cocotb.test()
async def program_of_the_host(dut: Any) -> None:
    """A training step and inference, in two passes over channels longer than the buffer and in one."""
    line = await Line.fresh(dut)

    def steps() -> None:
        for seed, shape in ((1, (2, 3, 5, 4)), (2, (1, 2, 270))):
            t = tensors(seed, *shape)
            spec = Device(json.loads(DESCRIPTION.read_text()), **_dummy()).spec
            vectors = ["--weight", "weight.npy", "--bias", "bias.npy"]
            running = ["--running-mean", "running_mean.npy", "--running-sigma", "running_sigma.npy"]
            status, said = program(line, *vectors, "--chunks", "3", "--check")
            assert (status, said.splitlines()[-1]) == (0, "every value equals the golden model's"), said
            want = forward(t["x"], t["weight"], t["bias"], spec=spec, chunks=3).output
            np.testing.assert_array_equal(np.load("out.npy"), want)
            status, said = program(line, "--mode", "backward", "--grad", "grad.npy", "--weight", "weight.npy")
            assert status == 0, said
            want = backward(t["x"], t["grad"], t["weight"], spec=spec).grad_input
            np.testing.assert_array_equal(np.load("out.npy"), want)
            status, said = program(line, "--mode", "infer", *vectors, *running, "--check")
            assert (status, said.splitlines()[-1]) == (0, "every value equals the golden model's"), said
            want = infer(t["x"], t["weight"], t["bias"], t["running_mean"], t["running_sigma"], spec=spec).output
            np.testing.assert_array_equal(np.load("out.npy"), want)

    await bridge(steps)()


def _dummy() -> dict[str, Any]:
    """Registers that say they are the right block's, for a `Device` whose specification is all that is wanted."""
    description = json.loads(DESCRIPTION.read_text())
    words = {description["registers"]["ID"]["offset"]: 0x4C4E524D,
             description["registers"]["CONFIG_HASH"]["offset"]: int(description["hash"], 16)}  # fmt: skip
    return {"read": words.__getitem__, "write": lambda *_: None, "transfer": lambda *_: ()}


@cocotb.test()
async def disturbed(dut: Any) -> None:
    """Bytes that are changed, lost or come from nowhere, in both directions: it takes longer, and nothing else."""
    line = await Line.fresh(dut)
    rng = random.Random(5)
    faults = 0

    def fault(byte: int) -> bytes:
        nonlocal faults
        if rng.random() > 0.001:
            return bytes([byte])
        faults += 1
        return rng.choice([bytes([byte ^ 1 << rng.randrange(8)]), b"", bytes([byte, rng.randrange(256)])])

    def steps() -> None:
        t = tensors(3, 1, 3, 30)
        line.to_board = lambda data: b"".join(map(fault, data))
        line.to_host = fault
        device = connect(line, json.loads(DESCRIPTION.read_text()))
        want = forward(t["x"], t["weight"], t["bias"], spec=device.spec)
        wanted = backward(t["x"], t["grad"], t["weight"], spec=device.spec).grad_input
        while faults < 10:
            got = device.train(t["x"], weight=t["weight"], bias=t["bias"])
            np.testing.assert_array_equal(got.output, want.output)
            np.testing.assert_array_equal(got.channels["sigma"], want.sigma)
            np.testing.assert_array_equal(device.backward(t["x"], t["grad"], weight=t["weight"]).output, wanted)

    await bridge(steps)()


def framed(number: int, items: bytes, flags: int = 0) -> bytes:
    frame = bytes([number << 1 | flags, len(items)]) + items
    return frame + binascii.crc_hqx(frame, 0xFFFF).to_bytes(2, "big")


@cocotb.test()
async def requests(dut: Any) -> None:
    """Requests that a host of ours never sends."""
    line = await Line.fresh(dut)
    description = json.loads(DESCRIPTION.read_text())
    scratch = description["registers"]["SCRATCH"]["offset"]
    sizes = description["beat_bytes"]

    def write(value: int, offset: int = scratch) -> bytes:
        return bytes([0]) + offset.to_bytes(3, "little") + value.to_bytes(4, "little")

    def read(offset: int = scratch) -> bytes:
        return bytes([1]) + offset.to_bytes(3, "little")

    def word(value: int) -> bytes:
        return bytes([1]) + value.to_bytes(4, "little")

    def ask(request: bytes) -> tuple[int, int, bytes] | None:
        """Header, bytes consumed and items of the reply."""
        line.write(request)
        reply = line.read(3)
        if not reply:
            return None
        reply += line.read(reply[1] + 2)
        assert binascii.crc_hqx(reply, 0xFFFF) == 0
        return reply[0], reply[2], reply[3:-2]

    def steps() -> None:
        assert ask(framed(9, b"", 1)) == (9 << 1, 0, b"")
        assert ask(framed(10, write(1) + read())) == (10 << 1, 12, word(1))
        assert ask(framed(10, write(2) + read())) == (10 << 1, 12, word(1)), "the number was carried out already"
        assert ask(framed(11, read())) == (11 << 1, 4, word(1))
        damaged = bytearray(framed(12, write(3)))
        damaged[5] ^= 0x10
        assert ask(bytes(damaged)) is None
        assert ask(framed(13, read())) == (13 << 1, 4, word(1))
        for stop in (1, 2, 7, 9):  # a request that is broken off, and one behind it too early to be understood
            assert ask(framed(14, write(4))[:stop]) is None
            assert ask(framed(15 + stop, read())) == (15 + stop << 1, 4, word(1))
        line.write(framed(30, write(5))[:6])
        assert ask(framed(31, read())) is None, "this ends the request before, whose CRC is wrong"
        assert ask(framed(31, read())) == (31 << 1, 4, word(1))

        # items that fail: what comes before them is done, what comes behind is not
        for bad in (read(0x2C), write(0, 0x2C), read(scratch + 1), write(7)[:-1], read()[:2], b"\x02"):
            value = random.Random(bad.hex()).randrange(1 << 32)
            behind = b"" if len(bad) not in (4, 8) else write(6)
            assert ask(framed(40, write(value) + bad + behind)) == (40 << 1 | 1, 8, b""), bad
            assert ask(framed(40, read())) == (40 << 1 | 1, 8, b""), "an error is repeated too"
            assert ask(framed(41, read())) == (41 << 1, 4, word(value))

        # beats without a run: the first waits at the machine, the second is not consumed, and nobody waits for either
        beat = bytes([2]) + bytes(sizes["x"])
        assert ask(framed(42, beat + beat + read())) == (42 << 1, len(beat), b"")
        assert ask(framed(43, beat)) == (43 << 1, 0, b"")
        assert ask(framed(44, b"", 1)) == (44 << 1, 0, b"")
        assert ask(framed(45, beat)) == (45 << 1, len(beat), b""), "the reset made room"
        full = read() * 63
        header, consumed, reply = ask(framed(46, full)) or (0, 0, b"")
        assert header == 46 << 1 and reply == word(0) * (consumed // 4) and 40 <= consumed // 4 < 63

    await bridge(steps)()


@cocotb.test()
async def noise(dut: Any) -> None:
    """A broken line, short spikes and random bytes; afterwards the host finds the block as before."""
    line = await Line.fresh(dut)
    description = json.loads(DESCRIPTION.read_text())
    rng = random.Random(6)

    async def disturb() -> None:
        dut.rx.value = 0
        await Timer(200 * BIT, "ns")
        dut.rx.value = 1
        await Timer(3 * BIT, "ns")
        for _ in range(20):
            dut.rx.value = 0
            await Timer(PERIOD * rng.randint(1, 2), "ns")
            dut.rx.value = 1
            await Timer(PERIOD * rng.randint(1, 300), "ns")
        await line._write(rng.randbytes(100))

    def steps() -> None:
        serial = SerialLine(line, description)
        serial.write(description["registers"]["SCRATCH"]["offset"], 0xDEADBEEF)
        device = Device(description, serial.read, serial.write, serial.transfer)
        for _ in range(3):
            resume(disturb)()
            line.received.clear()
            assert device.read("SCRATCH") == 0xDEADBEEF

    await bridge(steps)()


@cocotb.test()
async def given_up(dut: Any) -> None:
    """A host that goes away in the middle of a run, an output that it does not want, and a board that is not there."""
    line = await Line.fresh(dut)
    description = json.loads(DESCRIPTION.read_text())

    def steps() -> None:
        t = tensors(4, 1, 2, 120)
        serial = SerialLine(line, description)
        device = Device(description, serial.read, serial.write, lambda *_: serial.transfer([b""], [], []), polls=20)
        with pytest.raises(DeviceError, match="^the run does not end and was aborted"):
            device.train(t["x"])  # started, and never given a beat
        status, said = program(line, "--check")
        assert (status, said.splitlines()[-1]) == (0, "every value equals the golden model's"), said

        # beats without their gradient
        serial = SerialLine(line, description)
        device = Device(description, serial.read, serial.write, lambda x, grad, out: serial.transfer(x, [], out))
        with pytest.raises(DeviceError, match="^the block stopped: 59 beats were not taken, 0 of 2 channels came$"):
            device.backward(t["x"], t["grad"])
        with pytest.raises(DeviceError, match="^the block refused a read of 0x2c$"):
            serial.read(0x2C)
        status, said = program(line, "--mode", "backward", "--grad", "grad.npy", "--check")
        assert (status, said.splitlines()[-1]) == (0, "every value equals the golden model's"), said
        line.to_board = lambda data: b""
        assert program(line) == (1, "error: the board does not answer (6 attempts)\n")

    await bridge(steps)()


@cocotb.test()
async def inference_only(dut: Any) -> None:
    """A build without gradients: for the slow simulator, which knows undefined values."""
    line = await Line.fresh(dut)

    def steps() -> None:
        t = tensors(7, 1, 2, 10)
        device = connect(line, json.loads(DESCRIPTION.read_text()))
        vectors = {name: t[name] for name in ("weight", "bias", "running_mean", "running_sigma")}
        np.testing.assert_array_equal(
            device.infer(t["x"], **vectors).output, infer(t["x"], **vectors, spec=device.spec).output
        )
        line.write(framed(100, bytes([3]) + bytes(4)))
        assert line.read(5)[:3] == bytes([100 << 1 | 1, 0, 0]), "there is no stream of gradients"

    await bridge(steps)()
