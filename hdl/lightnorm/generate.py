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

# Memories start undefined, as they do on an ASIC: initial values would take a statement a word.
SCRIPT = """\
read_rtlil design.il
setattr -unset top m:*
delete t:$meminit t:$meminit_v2
proc -norom
memory_collect
setparam -set INIT 1'x t:$mem_v2
attrmap -remove generator -remove src -remove init t:$dff
opt_clean
write_verilog -norename -noattr design.v
"""


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
    # ports are flattened here: Amaranth would give the same names to a struct payload
    text = rtlil.convert(core, name=TOP, emit_src=False)
    out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lightnorm-") as directory:
        work = Path(directory)
        (work / "design.il").write_text(text, encoding="utf-8")
        run_yosys(SCRIPT, log=out_dir / "generate.log", cwd=work)
        verilog = (work / "design.v").read_text(encoding="utf-8")
    body = verilog.split("\n", 1)[1].lstrip("\n")  # the first line names Yosys and its build
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
        ports["__".join(map(str, path))] = {"direction": direction, "width": len(value.as_value() if hasattr(value, "as_value") else value)}
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
