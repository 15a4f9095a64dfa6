"""Writes a configuration's Verilog and its description."""

from __future__ import annotations

import json
import re
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from amaranth.back import rtlil
from amaranth.lib import wiring

from .board import SerialLightNorm
from .bus.documents import beat_bytes, c_header, ip_xact, register_page, system_rdl
from .bus.package import instance_template, sdc, with_attributes, xdc
from .bus.registers import WORD_BYTES
from .bus.top import LightNorm
from .config import Config
from .core import Core
from .yosys import run_yosys, yosys_version

__all__ = ["HEADER", "TOP", "TOPS", "generate", "package_version", "ports_of", "verilog_of", "write_files"]

TOP = "lightnorm"
TOPS = {"core": TOP, "axi": f"{TOP}_axi", "uart": f"{TOP}_uart"}
"""What can be generated, and the name of its module: the bare machine, on AXI buses, or behind a serial line."""
COMPONENTS = {"core": Core, "axi": LightNorm, "uart": SerialLightNorm}

Component = Core | LightNorm | SerialLightNorm

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
write_verilog -norename design.v
"""

# Only what a memory says of itself is for the reader of the Verilog.
ATTRIBUTES = re.compile(r'^ *\(\* (?!no_rw_check).* \*\)\n|\(\* src = "[^"]*" \*\) ', re.MULTILINE)

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


def package_version() -> str:
    try:
        return version("lightnorm")
    except PackageNotFoundError:
        return "(not installed)"


def ports_of(component: wiring.Component) -> dict[str, dict[str, Any]]:
    """Direction and width of each port of the Verilog module."""
    clocked = {name: {"direction": "input", "width": 1} for name in ("clk", "rst")}
    ports = {} if isinstance(component, LightNorm) else clocked
    for path, member, value in component.signature.flatten(component):
        direction = "input" if member.flow is wiring.In else "output"
        width = len(value.as_value() if hasattr(value, "as_value") else value)
        ports["__".join(map(str, path))] = {"direction": direction, "width": width}
    return ports


def _latency(core: Core) -> dict[str, Any]:
    """Of the coefficients by pass, and of what is around them: from a channel's last beat to the begin of their
    program, from a beat into the buffer to its head on offer, from the coefficients to the first beat that leaves, and
    from their handover to the earliest begin of the next program.
    """
    deep = core.config.deep
    around = {"reduce": 2, "buffer": 4, "apply": 20} if deep else {"reduce": 0, "buffer": 2, "apply": 3}
    around["handover"] = 2 if deep else 1
    # what is made of them at the handover takes a cycle in a deep pipeline
    coefficients = {name: latency + deep for name, latency in core.coefficients.latency.items()}
    return {"coefficients": coefficients, **around}


def verilog_of(component: wiring.Component, name: str, log: Path) -> str:
    text = rtlil.convert(component, name=name, emit_src=False)
    with tempfile.TemporaryDirectory(prefix="lightnorm-") as directory:
        work = Path(directory)
        (work / "design.il").write_text(text, encoding="utf-8")
        (work / "widen.v").write_text(WIDEN, encoding="utf-8")
        run_yosys(SCRIPT, log=log, cwd=work)
        verilog = (work / "design.v").read_text(encoding="utf-8")
    verilog = ATTRIBUTES.sub("", verilog.split("\n", 1)[1])  # the first line names Yosys and its build
    return _with_defaults(verilog.lstrip("\n"))


def _bus_files(component: LightNorm, name: str, ports: dict[str, dict[str, Any]]) -> dict[str, str]:
    """What an integrator needs beside the Verilog."""
    config, registers = component.config, component.registers
    rdl = system_rdl(config, registers)
    return {
        "lightnorm_registers.h": c_header(config, registers),
        "registers.md": register_page(config, registers),
        "registers.rdl": rdl,
        "registers.xml": ip_xact(name, rdl),
        f"{name}_instance.v": instance_template(name, ports),
        f"{name}.sdc": sdc(ports),
        f"{name}.xdc": xdc(name),
    }


def _bus_description(component: LightNorm) -> dict[str, Any]:
    """Registers and beats, for drivers that do not have this package."""
    registers = component.registers
    return {
        "registers": {
            register.name: {
                "offset": register.offset,
                "fields": {field.name: {"low": field.low, "bits": field.bits} for field in register.fields},
            }
            for register in registers.registers
        },
        "window": {
            "offset": registers.window,
            "channels": registers.channels,
            "record_bytes": WORD_BYTES * registers.record,
            "words": {name: WORD_BYTES * slot for slot, name, _ in registers.slots},
        }
        if registers.channels
        else None,
        "beat_bytes": beat_bytes(component.config),
    }


def generate(config: Config, out_dir: Path, *, top: str = "core") -> dict[str, Any]:
    """Write a configuration's Verilog and its description into `out_dir`, and return the description.

    `top` is "core" (`lightnorm.v`, `lightnorm.json`: one clock `clk` and a synchronous reset `rst`), "axi"
    (`lightnorm_axi.v`, `lightnorm_axi.json` and the files of `bus`: registers in C, SystemRDL, IP-XACT and as a page,
    instantiation, constraints) or "uart" (`lightnorm_uart.v`, `lightnorm_uart.json`: as "core", a serial line instead
    of streams). The Verilog is plain Verilog-2005, the same bytes every time. The description has the resolved
    configuration and its hash, every port, and latencies in cycles (`_latency`); of "axi" and "uart" also registers and
    beats. Raises ValueError for another `top`, ToolError where Yosys is missing or fails; nothing is left half-written.
    """
    if top not in TOPS:
        raise ValueError(f"top must be one of {', '.join(TOPS)}, not {top!r}")
    name = TOPS[top]
    component = COMPONENTS[top](config)
    machine = component.machine if isinstance(component, SerialLightNorm) else component
    core = machine if isinstance(machine, Core) else machine.core
    out_dir.mkdir(parents=True, exist_ok=True)
    body = verilog_of(component, name, out_dir / "generate.log")
    resolved = config.resolved()
    built = config.implementation
    header = HEADER.format(
        version=package_version(),
        hash=config.hash,
        summary=f"{config.spec.activation}, {config.lanes} lanes, {built.buffer_blocks} blocks of buffer,"
        f" passes {', '.join(built.passes)}",
        config=json.dumps(resolved, sort_keys=True),
    )
    ports = ports_of(component)
    description = {
        "name": name,
        "hash": config.hash,
        "config": resolved,
        "lanes": config.lanes,
        "ports": ports,
        "latency": _latency(core),
        "tools": {"lightnorm": package_version(), "amaranth": version("amaranth"), "yosys": yosys_version()},
    }
    if isinstance(machine, LightNorm):
        description |= _bus_description(machine)
    files = {}
    if isinstance(component, LightNorm):
        attributes = {port: getattr(component, port).attrs for port in ports if getattr(component, port).attrs}
        body = with_attributes(body, name, attributes)
        files = _bus_files(component, name, ports)
    files |= {f"{name}.v": header + body, f"{name}.json": json.dumps(description, indent=2) + "\n"}
    write_files(out_dir, files)
    return description


def write_files(out_dir: Path, files: dict[str, str]) -> None:
    """Each file whole or not at all."""
    for file, content in files.items():
        unfinished = out_dir / f".{file}.unfinished"
        unfinished.write_text(content, encoding="utf-8")
        unfinished.replace(out_dir / file)
