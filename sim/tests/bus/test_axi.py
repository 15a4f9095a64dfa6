"""The machine on AXI buses: its golden bits, and every misuse, with cocotbext-axi as the bus model."""

from __future__ import annotations

import ctypes
import re
import struct
from pathlib import Path

import pytest

from lightnorm.config import load_config
from lightnorm_golden import host_constants

from .axi import HERE, MACHINE, STREAMS, generated, run
from .drivers import LayerWords, compile_driver
from .test_serial import TESTS as SERIAL_TESTS

TESTS = (
    "runs.registers", "runs.training_step", "runs.idle_and_backpressure", "runs.backward_keeps_the_running_statistics",
    "misuse.misplaced_tlast", "misuse.dropped_until_cleared", "misuse.open_packets_can_be_forgotten", "misuse.keep",
    "misuse.busy", "misuse.illegal_runs", "misuse.nonfinite_parameters", "misuse.reset_in_a_run",
    "misuse.output_never_read", "misuse.aborts_at_any_time",
    "counters.counters", "counters.latency", "counters.saturation", "counters.interrupts",
    "drivers.python_driver",
)  # fmt: skip


STREAM_TESTS = (
    "streams.training_step", "streams.idle_and_backpressure", "streams.most_channels", "streams.misplaced_tlast",
    "streams.words_without_an_end", "streams.early_parameters", "streams.results_never_read", "streams.reset_in_a_run",
    "streams.python_driver",
)  # fmt: skip


@pytest.mark.parametrize("test", TESTS)
def test_verilator(test: str, tmp_path: Path) -> None:
    problem = run(test, tmp_path / test)
    assert problem is None, problem


@pytest.mark.parametrize("test", STREAM_TESTS)
def test_streams(test: str, tmp_path: Path) -> None:
    """The build without a window."""
    problem = run(test, tmp_path / test, config=STREAMS)
    assert problem is None, problem


@pytest.mark.parametrize("test", ("runs.idle_and_backpressure", "misuse.reset_in_a_run", "misuse.aborts_at_any_time"))
def test_deep(test: str, tmp_path: Path) -> None:
    problem = run(test, tmp_path / test, config=HERE / "deep.toml")
    assert problem is None, problem


def test_icarus(tmp_path: Path) -> None:
    problem = run("runs.small_step", tmp_path / "step", simulator="icarus")
    assert problem is None, problem


def test_inference_only(tmp_path: Path) -> None:
    problem = run("runs.inference_only", tmp_path / "infer", simulator="icarus", config=HERE / "inference.toml")
    assert problem is None, problem


def test_every_bench_is_run() -> None:
    benches = {
        f"{path.stem.removeprefix('bench_')}.{name}"
        for path in HERE.glob("bench_*.py")
        for name in re.findall(r"@cocotb\.test\(\)\nasync def (\w+)", path.read_text())
    }
    others = {"runs.small_step", "runs.inference_only", "runs.largest_window", "drivers.c_driver", "diagrams.record"}
    serial = {f"serial.{name}" for name in (*SERIAL_TESTS, "inference_only")}
    assert benches == others.union(TESTS, STREAM_TESTS, serial)


@pytest.mark.slow
def test_largest_window(tmp_path: Path) -> None:
    problem = run("runs.largest_window", tmp_path / "largest", config=HERE / "largest.toml")
    assert problem is None, problem


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C driver and the program that uses it, as a library."""
    library = tmp_path_factory.mktemp("driver") / "driver.so"
    said = compile_driver(generated() / "lightnorm_registers.h", [HERE / "training_step.c"], library)
    assert said == []
    return library


def test_c_program(driver: Path, tmp_path: Path) -> None:
    where = tmp_path / "c"
    where.mkdir()
    (where / "driver.so").symlink_to(driver)
    problem = run("drivers.c_driver", where)
    assert problem is None, problem


def test_c_constants(driver: Path) -> None:
    """The C driver computes the constants of a layer as the golden model does."""
    spec = load_config(MACHINE).spec
    library = ctypes.CDLL(str(driver))
    library.constants.argtypes = [ctypes.c_uint32] * 3 + [ctypes.c_float] * 2 + [ctypes.c_void_p]
    words = LayerWords()
    for elements in (1, 2, 3, 5, 16, 100, 784, 12544, 100352, (1 << 24) - 1, 1 << 24):
        for chunks in (1, 3, 16, 1000, 1 << 24):
            assert library.constants(6, elements, chunks, 1e-5, 0.1, ctypes.byref(words)) == 0
            host = host_constants(elements, chunks, spec)
            assert (words.elements, words.chunk_blocks) == (elements, host.chunk_blocks)
            for word, value in ((words.inv_count, host.inv_count), (words.range_gain, host.range_gain)):
                assert struct.unpack("<f", struct.pack("<I", word))[0] == value, (elements, chunks)
    bad = [(0, 9, 1, 0, 0), (7, 9, 1, 0, 0), (1, 0, 1, 0, 0), (1, (1 << 24) + 1, 1, 0, 0), (1, 9, 0, 0, 0),
           (1, 9, 1, -1, 0), (1, 9, 1, float("nan"), 0), (1, 9, 1, float("inf"), 0), (1, 9, 1, 0, 1.5)]  # fmt: skip
    for arguments in bad:
        assert library.constants(*arguments, ctypes.byref(words)) == 1, arguments
