"""The clock that a mapped netlist reaches: OpenSTA's static timing where it is installed, else ABC's estimate.

Cells with their loads and slews as the library has them; no wires, an ideal clock, inputs at its edge and outputs
until the next one. Memories are black boxes: paths from and to them are not in the result.
"""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from lightnorm.yosys import ToolError

__all__ = ["measure_clock"]

STA_SCRIPT = """\
read_liberty library.lib
read_verilog netlist.v
link_design {top}
create_clock -name clock -period {period} [get_ports {clock}]
set_input_delay 0 -clock clock [all_inputs]
set_output_delay 0 -clock clock [all_outputs]
report_checks -path_delay max -format full -digits 4
exit
"""
CLOCKS = ("aclk", "clk")
ABC_DELAY = re.compile(r"WireLoad = .*Delay = +([0-9.]+) ps")


def measure_clock(netlist: str, library_text: str, *, top: str, clock_ns: float, yosys_log: str) -> dict[str, Any]:
    """`fmax_mhz`, the critical path (points with their arrival in ns) and which tool says so.

    `clock_ns`: the period that was asked for. `yosys_log`: what ABC said, the source of the estimate; it knows neither
    the registers' own delays nor those of the clock gates. Raises ToolError if OpenSTA cannot read the netlist.
    """
    sta = shutil.which("sta")
    if sta is None:
        delays = [float(delay) for delay in ABC_DELAY.findall(yosys_log)]
        longest = max(delays, default=0.0) / 1000
        return {
            "fmax_mhz": round(1000 / longest, 3) if longest else None,
            "clock_tool": "ABC's estimate (OpenSTA was not found)",
            "critical_path": [],
        }
    clocks = [name for name in CLOCKS if re.search(rf"^  input {name};$", netlist, re.MULTILINE)]
    if not clocks:
        raise ToolError(f"the netlist of {top} has no clock port ({' or '.join(CLOCKS)})")
    with tempfile.TemporaryDirectory(prefix="lightnorm-") as folder:
        # OpenSTA's Verilog has no signed ports
        Path(folder, "netlist.v").write_text(re.sub(r"\b(input|output|wire) signed\b", r"\1", netlist))
        Path(folder, "library.lib").write_text(library_text)
        Path(folder, "timing.tcl").write_text(STA_SCRIPT.format(top=top, clock=clocks[0], period=clock_ns))
        done = subprocess.run([sta, "-exit", "timing.tcl"], cwd=folder, capture_output=True, text=True)
    slack = re.search(r"^\s*(-?[0-9.]+)\s+slack", done.stdout, re.MULTILINE)
    if done.returncode != 0 or slack is None:
        tail = "\n".join(f"    {line}" for line in (done.stdout + done.stderr).splitlines()[-12:])
        raise ToolError(f"OpenSTA could not time {top}; it ended with\n{tail}")
    path = []
    for line in done.stdout.splitlines():
        if point := re.match(r"\s*[0-9.]+\s+([0-9.]+)\s+[v^]\s+(\S+)\s+\((\S+)\)", line):
            path.append({"arrival_ns": float(point[1]), "pin": point[2], "cell": point[3]})
        if "data arrival time" in line:
            break
    return {
        "fmax_mhz": round(1000 / (clock_ns - float(slack[1])), 3),
        "clock_tool": "OpenSTA",
        "critical_path": path,
    }
