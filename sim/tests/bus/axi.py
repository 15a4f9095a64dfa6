"""A machine on AXI buses or behind a serial line in a simulator, and the cocotb tests that drive it."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path

from lightnorm.config import load_config
from lightnorm.generate import TOPS
from lightnorm_flow.packaging import package
from lightnorm_sim import SIMULATORS, read_ports
from lightnorm_sim.simulators import cocotb_environment
from lightnorm_sim.tools import fingerprint, make_once

HERE = Path(__file__).parent
BUILD_DIR = HERE.parents[2] / "build" / "sim"
MACHINE = HERE / "machine.toml"
STREAMS = HERE / "streams.toml"
PYTHON_DRIVER = HERE.parents[2] / "driver" / "python"
TOP = TOPS["axi"]


@functools.cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="lightnorm-bus-")


@functools.cache
def generated(config: Path = MACHINE, top: str = "axi") -> Path:
    """The folder that `lightnorm generate` made of a configuration, once per process."""
    folder = Path(_directory().name) / f"{config.stem}-{top}"
    package(load_config(config), folder, top=top)
    shutil.copy(config, folder / "config.toml")
    return folder


def frame(ports: Mapping[str, tuple[str, int]], top: str = TOP) -> str:
    """A module `harness` with the ports of the module `top`, which cocotb may drive."""
    declared = ",\n".join(
        f"    {direction} wire [{width - 1}:0] {name} /*verilator public_flat_rw*/" if width > 1 else
        f"    {direction} wire {name} /*verilator public_flat_rw*/"
        for name, (direction, width) in ports.items()
    )  # fmt: skip
    connected = ", ".join(f".{name}({name})" for name in ports)
    return f"module harness (\n{declared}\n);\n    {top} dut ({connected});\nendmodule\n"


@functools.cache
def compiled(simulator: str, verilog: Path) -> Path:
    """The folder of the compiled simulation."""
    tool = SIMULATORS[simulator]
    harness = frame(read_ports(verilog.with_suffix(".json")), verilog.stem)
    directory = BUILD_DIR / f"bus-{simulator}-{fingerprint(tool.identity(), harness, verilog.read_bytes())}"

    def compile_into(unfinished: Path) -> None:
        top = unfinished / "harness.v"
        top.write_text(harness)
        tool.compile([verilog.resolve(), top], unfinished, cache=BUILD_DIR, waves=False)

    make_once(directory, compile_into)
    return directory


def run(
    test: str,
    where: Path,
    *,
    simulator: str = "verilator",
    config: Path = MACHINE,
    verilog: Path | None = None,
    top: str = "axi",
) -> str | None:
    """Run a test such as "misuse.keep" (`keep` in `bench_misuse.py`) in the folder `where`; what failed, or None.

    `verilog`: other Verilog than that of the configuration, with the same ports.
    """
    topic, name = test.split(".")
    folder = generated(config, top)
    verilog = verilog or folder / f"{TOPS[top]}.v"
    where.mkdir(exist_ok=True)
    (where / "machine").symlink_to(folder)
    results = where / "results.xml"
    environment = cocotb_environment()
    environment |= {
        "COCOTB_RESULTS_FILE": str(results),
        "COCOTB_TEST_MODULES": f"bench_{topic}",
        "COCOTB_TEST_FILTER": rf"\.{re.escape(name)}$",
        "COCOTB_LOG_LEVEL": "WARNING",
        "COCOTB_RANDOM_SEED": "1",
        "PYTHONWARNINGS": "ignore::DeprecationWarning",  # cocotbext-axi 0.1.28 uses what cocotb 2 has renamed
        "PYTHONPATH": os.pathsep.join([str(HERE), str(PYTHON_DRIVER), environment["PYTHONPATH"]]),
    }
    command = SIMULATORS[simulator].command(compiled(simulator, verilog), waves=False, seed=1)
    with (where / "simulator.log").open("wb") as log:
        subprocess.run(command, cwd=where, env=environment, stdin=subprocess.DEVNULL, stdout=log,
                       stderr=subprocess.STDOUT, timeout=300)  # fmt: skip
    text = (where / "simulator.log").read_text(errors="replace")
    if not results.exists():
        return f"{simulator} broke off:\n{text[-3000:]}"
    cases = ET.parse(results).getroot().findall(".//testcase")
    if len(cases) != 1:
        return f"{len(cases)} tests ran, not 1:\n{text[-3000:]}"
    failures = cases[0].findall("failure") + cases[0].findall("error")
    return f"{failures[0].get('error_msg') or failures[0].get('message')}\n{text[-3000:]}" if failures else None
