"""Place and route: the clock that a machine reaches on an FPGA, its share of the device, and the path that limits it.

A machine has more ports than a device has pins. A frame around it feeds its inputs from a shift register and folds its
outputs into a signature register, so that three pins serve and every path, also one through the machine, has a register
at both ends. The frame is part of what is measured: a register per input bit, a register and at most one LUT per output
bit.
"""

import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightnorm.yosys import run_yosys, yosys_version
from lightnorm_sim import read_ports

from .files import write_json
from .nextpnr import run_tool, tool_version

__all__ = ["PARTS", "Part", "implement", "place_and_route"]

CLOCKS = ("clk", "aclk")
FRAME = "frame"


@dataclass(frozen=True)
class Part:
    """A device: its name, how Yosys and nextpnr are told, and nextpnr's names for what is counted."""

    name: str
    synthesis: str
    nextpnr: str
    options: tuple[str, ...]
    design: str  # the option that names the placed design
    constraints: str  # the option that names the file of pins
    resources: Mapping[str, str]


PARTS = {
    "ecp5": Part(
        name="LFE5U-85F-6BG381",
        synthesis="synth_ecp5 -nowidelut",  # one function of many inputs cannot be spread; without, clocks are faster
        nextpnr="nextpnr-ecp5",
        options=("--85k", "--package", "CABGA381", "--speed", "6"),
        design="--textcfg",
        constraints="--lpf",
        resources={"luts": "TRELLIS_COMB", "ffs": "TRELLIS_FF", "dsps": "MULT18X18D", "brams": "DP16KD"},
    ),
    "ice40": Part(
        name="iCE40HX8K-CT256",
        synthesis="synth_ice40",
        nextpnr="nextpnr-ice40",
        options=("--hx8k", "--package", "ct256"),
        design="--asc",
        constraints="--pcf",
        resources={"logic_cells": "ICESTORM_LC", "brams": "ICESTORM_RAM"},
    ),
}


def place_and_route(
    verilog: Path,
    *,
    top: str,
    target: str,
    out_dir: Path,
    clock_mhz: float = 100.0,
    seed: int = 1,
    progress: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Place and route ``top`` of a generated Verilog file, beside which its description lies.

    ``target`` is a key of ``PARTS``; ``clock_mhz`` is what the tools aim at; the placer begins at random from ``seed``.
    Returns what ``out_dir``/pnr.json then holds: achieved clock, resources, critical path. Logs are yosys.log and
    nextpnr.log there. Raises ToolError where a tool is missing, or fails because the machine is too large for the
    device.
    """
    part = PARTS[target]
    (out_dir / "pnr.json").unlink(missing_ok=True)
    frame, bits = _frame(top, read_ports(verilog.with_suffix(".json")))
    files = {verilog.name: verilog.read_text(encoding="utf-8"), "frame.v": frame}
    with tempfile.TemporaryDirectory(prefix="lightnorm-") as folder:
        measured = implement(
            part, FRAME, f"read_verilog {verilog.name} frame.v\n", files, Path(folder), out_dir,
            clock_mhz=clock_mhz, seed=seed, progress=progress,
        )  # fmt: skip
    result = {"top": top, **measured, "frame_bits": bits}
    write_json(out_dir / "pnr.json", result)
    return result


def implement(
    part: Part,
    top: str,
    read: str,
    files: Mapping[str, str],
    work: Path,
    out_dir: Path,
    *,
    clock_mhz: float,
    seed: int = 1,
    constraints: str | None = None,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Synthesize and place a design in the directory ``work``, where the placed design is then ``placed``.

    ``read``: the Yosys commands that read ``files``. ``constraints``: of these the file with pins, else they are free.
    """
    tool = tool_version(part.nextpnr)  # missing? then before the long work
    for name, text in files.items():
        (work / name).write_text(text, encoding="utf-8")
    progress(f"synthesizing {top} for {part.name}")
    script = f"{read}{part.synthesis} -top {top} -json netlist.json\n"
    run_yosys(script, log=out_dir / "yosys.log", cwd=work)
    progress(f"placing and routing on {part.name}")
    arguments = [*part.options, "--json", "netlist.json", part.design, "placed", "--report", "report.json",
                 "--freq", f"{clock_mhz:g}", "--seed", str(seed), "--timing-allow-fail"]  # fmt: skip
    if constraints is not None:
        arguments += [part.constraints, constraints]
    elif part.constraints == "--lpf":
        arguments += ["--lpf-allow-unconstrained"]
    run_tool(part.nextpnr, arguments, log=out_dir / "nextpnr.log", cwd=work)
    return {
        "part": part.name,
        "tools": {"yosys": yosys_version(), "nextpnr": tool},
        "goal_mhz": clock_mhz,
        "seed": seed,
        **summary(json.loads((work / "report.json").read_text()), part),
    }


def summary(report: Mapping[str, Any], part: Part) -> dict[str, Any]:
    """What matters of nextpnr's report: the clock of the design's slowest domain, resources, the critical path."""
    clock, fmax = min(report["fmax"].items(), key=lambda entry: entry[1]["achieved"])
    used = {name: report["utilization"][kind] for name, kind in part.resources.items()}
    edge = f"posedge {clock}"
    slowest = next(path for path in report["critical_paths"] if path["from"] == path["to"] == edge)
    return {
        "fmax_mhz": round(fmax["achieved"], 2),
        "resources": {name: {"used": entry["used"], "available": entry["available"]} for name, entry in used.items()},
        "critical_path": _path(slowest["path"]),
    }


def _path(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A path in the words of the RTL: mapped logic is named after a register near it, so only these names are kept."""
    routing = sum(step["delay"] for step in steps if step["type"] == "routing")
    total = sum(step["delay"] for step in steps)
    names = [_name(steps[0]["from"]["cell"]), *(_name(step["to"]["cell"]) for step in steps)]
    through = [name for index, name in enumerate(names) if name and name not in names[:index]]
    return {
        "ns": round(total, 2),
        "routing_ns": round(routing, 2),
        "levels": sum(step["type"] == "logic" and step["delay"] > 0 for step in steps),
        "from": names[0],
        "to": names[-1],
        "through": through,
    }


def _name(cell: str) -> str:
    """The RTL's name in that of a mapped cell, such as "pack.up_8" for "dut.pack.up_8_TRELLIS_FF_Q_DI_LUT4_Z"."""
    cell = re.split(r"_(?:TRELLIS_|LUT4|CCU2C|PFUMX|L6MUX21|DP16KD|PDPW16KD|MULT18X18D|SB_)|\$", cell)[0]
    return cell.removeprefix("dut.")


def _frame(machine: str, ports: Mapping[str, tuple[str, int]]) -> tuple[str, dict[str, int]]:
    """The Verilog of the frame around a machine, and how many register bits it has for inputs and outputs."""
    connected, bits = [], {"input": 0, "output": 0}
    register = {"input": "inputs", "output": "outputs"}
    for name, (direction, width) in ports.items():
        if name in CLOCKS:
            connected.append(f".{name}(clk)")
            continue
        low = bits[direction]
        bits[direction] += width
        connected.append(f".{name}({register[direction]}[{low}+:{width}])")
    inputs, outputs = bits["input"], bits["output"]
    text = f"""\
module {FRAME} (input clk, input i, output o);
  reg [{inputs - 1}:0] inputs;
  reg [{outputs - 1}:0] signature;
  wire [{outputs - 1}:0] outputs;
  assign o = signature[{outputs - 1}];
  always @(posedge clk) begin
    inputs <= {{inputs, i}};
    signature <= {{signature, signature[{outputs - 1}]}} ^ outputs;
  end
  {machine} dut ({", ".join(connected)});
endmodule
"""
    return text, {"inputs": inputs, "outputs": outputs}
