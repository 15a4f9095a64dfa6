"""The machine behind a serial line, with the host's own program at the other end; disturbed lines, broken requests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyosys
import pytest

from lightnorm.config import ConfigError, load_config
from lightnorm.generate import generate
from lightnorm.yosys import run_yosys
from lightnorm_driver.__main__ import main
from lightnorm_flow.place_route import PARTS
from lightnorm_sim import lint

from .axi import HERE, generated, run

TINY = HERE.parents[2] / "configs" / "tiny.toml"
CELLS = Path("share", "ice40", "cells_sim.v")


TESTS = ("program_of_the_host", "disturbed", "requests", "noise", "given_up")


@pytest.mark.parametrize("test", TESTS)
def test_verilator(test: str, tmp_path: Path) -> None:
    problem = run(f"serial.{test}", tmp_path / test, config=TINY, top="uart")
    assert problem is None, problem


def test_icarus(tmp_path: Path) -> None:
    problem = run("serial.inference_only", tmp_path / "infer", simulator="icarus", config=HERE / "inference.toml",
                  top="uart")  # fmt: skip
    assert problem is None, problem


def test_verilog() -> None:
    folder = generated(TINY, "uart")
    assert lint(folder / "lightnorm_uart.v") == []
    description = json.loads((folder / "lightnorm_uart.json").read_text())
    assert set(description["ports"]) == {"clk", "rst", "rx", "tx", "i_divisor"}


def test_beats_too_long(tmp_path: Path) -> None:
    path = tmp_path / "long.toml"
    path.write_text((TINY.parent / "default.toml").read_text().replace("blocks_per_beat = 1", "blocks_per_beat = 32"))
    message = "^a beat must have at most 254 bytes to go over a serial line, not 404$"
    with pytest.raises((ValueError, ConfigError), match=message):
        generate(load_config(path), tmp_path / "out", top="uart")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grad", "x.npy"], "--grad belongs to --mode backward, and backward needs it"),
        (["--mode", "backward"], "--grad belongs to --mode backward, and backward needs it"),
        (["--weight", "no.npy"], "[Errno 2] No such file or directory: 'no.npy'"),
        (["--description", "other.json"], "--description other.json has no registers; give lightnorm_uart.json"),
    ],
)
def test_errors_of_the_program(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((1, 1, 4)))
    Path("d.json").write_text('{"registers": {}}')
    Path("other.json").write_text("{}")
    common = ["--port", "none", "--description", "d.json", "--input", "x.npy", "--output", "y.npy"]

    def no_port(name: str, baud: int) -> object:
        raise AssertionError("the port must not be opened")

    assert main([*common, *arguments], no_port) == 1  # type: ignore[arg-type]
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not Path("y.npy").exists()


@pytest.mark.slow
def test_mapped(tmp_path: Path) -> None:
    """What `lightnorm bitstream` hands to place and route for an iCE40, cell by cell, with the same host."""
    verilog = generated(HERE / "inference.toml", "uart") / "lightnorm_uart.v"
    (tmp_path / "design.v").write_text(verilog.read_text())
    script = f"read_verilog design.v\n{PARTS['ice40'].synthesis} -top lightnorm_uart\nwrite_verilog netlist.v\n"
    run_yosys(script, log=tmp_path / "map.log", cwd=tmp_path)
    cells = "`define NO_ICE40_DEFAULT_ASSIGNMENTS\n" + (Path(pyosys.__file__).parent / CELLS).read_text()
    mapped = tmp_path / "lightnorm_uart.v"
    mapped.write_text(cells + (tmp_path / "netlist.v").read_text())
    shutil.copy(verilog.with_suffix(".json"), tmp_path)
    problem = run("serial.inference_only", tmp_path / "mapped", simulator="icarus", config=HERE / "inference.toml",
                  verilog=mapped, top="uart")  # fmt: skip
    assert problem is None, problem
