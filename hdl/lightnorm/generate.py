"""Writes a configuration's Verilog and its description."""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from amaranth.back import rtlil
from amaranth.hdl import Signal
from amaranth.lib import wiring

from .config import Config
from .core import Core
from .yosys import run_yosys, yosys_version

__all__ = ["TOP", "generate"]

TOP = "lightnorm"

HEADER = """\
// LightNorm {version}: batch normalization in block floating point. Generated: change the configuration, not this file.
// Configuration {hash}: {summary}
// {config}
// This file belongs to whoever generated it.

"""

# Memories and registers start undefined, as they do on an ASIC: what matters is reset. Operands are widened to their
# operation, which Verilog would do silently and linters complain about.
SCRIPT = """\
read_rtlil design.il
setattr -unset top m:*
delete t:$meminit t:$meminit_v2
proc -nomux -norom
memory_collect
setparam -set INIT 1'x t:$mem_v2
setattr -unset init w:*
techmap -map widen.v
opt_clean -purge
delete w:* s:0 %i
write_verilog -norename -noattr design.v
"""

WIDEN = """\
(* techmap_celltype = "$add $sub $mul $divfloor $lt $le $gt $ge $eq $ne" *)
module widen (A, B, Y);
  parameter A_SIGNED = 0; parameter B_SIGNED = 0; parameter A_WIDTH = 1; parameter B_WIDTH = 1; parameter Y_WIDTH = 1;
  parameter _TECHMAP_CELLTYPE_ = "";
  localparam COMPARES = Y_WIDTH == 1 && _TECHMAP_CELLTYPE_ != "$add" && _TECHMAP_CELLTYPE_ != "$sub";
  localparam DIVIDES = _TECHMAP_CELLTYPE_ == "$divfloor";
  localparam LARGER = A_WIDTH > B_WIDTH ? A_WIDTH : B_WIDTH;
  localparam WIDTH = COMPARES || DIVIDES ? LARGER : Y_WIDTH;
  input [A_WIDTH-1:0] A; input [B_WIDTH-1:0] B; output [Y_WIDTH-1:0] Y;
  wire _TECHMAP_FAIL_ = A_WIDTH == 0 || B_WIDTH == 0 || A_WIDTH == WIDTH && B_WIDTH == WIDTH || DIVIDES && A_SIGNED;
  wire [WIDTH-1:0] a, b;
  generate
    if (A_WIDTH >= WIDTH) assign a = A[WIDTH-1:0];
    else if (A_SIGNED) assign a = {{(WIDTH-A_WIDTH){A[A_WIDTH-1]}}, A};
    else assign a = {{(WIDTH-A_WIDTH){1'b0}}, A};
    if (B_WIDTH >= WIDTH) assign b = B[WIDTH-1:0];
    else if (B_SIGNED) assign b = {{(WIDTH-B_WIDTH){B[B_WIDTH-1]}}, B};
    else assign b = {{(WIDTH-B_WIDTH){1'b0}}, B};
    if (_TECHMAP_CELLTYPE_ == "$add") assign Y = a + b;
    if (_TECHMAP_CELLTYPE_ == "$sub") assign Y = a - b;
    if (_TECHMAP_CELLTYPE_ == "$mul") assign Y = a * b;
    if (DIVIDES) assign Y = a / b;
    if (_TECHMAP_CELLTYPE_ == "$eq") assign Y = a == b;
    if (_TECHMAP_CELLTYPE_ == "$ne") assign Y = a != b;
    if (A_SIGNED) begin
      if (_TECHMAP_CELLTYPE_ == "$lt") assign Y = $signed(a) < $signed(b);
      if (_TECHMAP_CELLTYPE_ == "$le") assign Y = $signed(a) <= $signed(b);
      if (_TECHMAP_CELLTYPE_ == "$gt") assign Y = $signed(a) > $signed(b);
      if (_TECHMAP_CELLTYPE_ == "$ge") assign Y = $signed(a) >= $signed(b);
    end else begin
      if (_TECHMAP_CELLTYPE_ == "$lt") assign Y = a < b;
      if (_TECHMAP_CELLTYPE_ == "$le") assign Y = a <= b;
      if (_TECHMAP_CELLTYPE_ == "$gt") assign Y = a > b;
      if (_TECHMAP_CELLTYPE_ == "$ge") assign Y = a >= b;
    end
  endgenerate
endmodule

(* techmap_celltype = "$logic_not" *)
module narrow_not (A, Y);
  parameter A_SIGNED = 0; parameter A_WIDTH = 1; parameter Y_WIDTH = 1;
  input [A_WIDTH-1:0] A; output [Y_WIDTH-1:0] Y;
  wire _TECHMAP_FAIL_ = A_WIDTH == 1;
  assign Y = ~|A;
endmodule
"""


def _with_defaults(verilog: str) -> str:
    """Give every case statement without one an empty default: values keep what was assigned before it."""
    lines: list[str] = []
    defaults: list[bool] = []  # of the case statements that are open
    for line in verilog.splitlines():
        word = line.split(maxsplit=1)[0] if line.strip() else ""
        if word in ("case", "casez"):
            defaults.append(False)
        elif word == "default:":
            defaults[-1] = True
        elif word == "endcase" and not defaults.pop():
            lines.append(line.replace("endcase", "  default: ;"))
        lines.append(line)
    return "\n".join(lines) + "\n"


def _version() -> str:
    try:
        return version("lightnorm")
    except PackageNotFoundError:
        return "(not installed)"


def _ports(core: Core) -> list[Signal]:
    return [value for _, _, value in core.signature.flatten(core)]


def generate(config: Config, out_dir: Path) -> dict[str, Any]:
    """Write `lightnorm.v` and `lightnorm.json` into `out_dir` and return the description.

    The Verilog is plain Verilog-2005 with one clock `clk` and a synchronous reset `rst`, the same bytes every time. The
    description has the resolved configuration and its hash, every port, and the latency of the coefficients by pass.
    Raises ToolError where Yosys is missing or fails; nothing is left half-written.
    """
    core = Core(config)
    text = rtlil.convert(core, name=TOP, emit_src=False)
    out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lightnorm-") as directory:
        work = Path(directory)
        (work / "design.il").write_text(text, encoding="utf-8")
        (work / "widen.v").write_text(WIDEN, encoding="utf-8")
        run_yosys(SCRIPT, log=out_dir / "generate.log", cwd=work)
        verilog = (work / "design.v").read_text(encoding="utf-8")
    body = _with_defaults(verilog.split("\n", 1)[1].lstrip("\n"))  # the first line names Yosys and its build
    resolved = config.resolved()
    built = config.implementation
    header = HEADER.format(
        version=_version(),
        hash=config.hash,
        summary=f"{config.spec.activation}, {config.lanes} lanes, {built.buffer_blocks} blocks of buffer,"
        f" passes {', '.join(built.passes)}",
        config=json.dumps(resolved, sort_keys=True),
    )
    ports = {"clk": {"direction": "input", "width": 1}, "rst": {"direction": "input", "width": 1}}
    for path, member, value in core.signature.flatten(core):
        direction = "input" if member.flow is wiring.In else "output"
        ports["__".join(map(str, path))] = {
            "direction": direction,
            "width": len(value.as_value() if hasattr(value, "as_value") else value),
        }
    description = {
        "name": TOP,
        "hash": config.hash,
        "config": resolved,
        "lanes": config.lanes,
        "ports": ports,
        "latency": {"coefficients": core.coefficients.latency},
        "tools": {"lightnorm": _version(), "amaranth": version("amaranth"), "yosys": yosys_version()},
    }
    for name, content in (("lightnorm.v", header + body), ("lightnorm.json", json.dumps(description, indent=2) + "\n")):
        unfinished = out_dir / f".{name}.unfinished"
        unfinished.write_text(content, encoding="utf-8")
        unfinished.replace(out_dir / name)
    return description
