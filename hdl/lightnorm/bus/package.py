"""The files beside the Verilog by which tools take the block in: instantiation, constraints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["instance_template", "sdc", "with_attributes", "xdc"]

PERIOD_NS = 10.0
"""Of the clock in the constraints; the integrator's own clock replaces it."""


def with_attributes(verilog: str, top: str, attributes: Mapping[str, Mapping[str, str]]) -> str:
    """The Verilog with attributes before the declarations of ports of `top`. Raises ValueError if a port is missing."""
    head, marker, body = verilog.partition(f"module {top}(")
    lines, left = [], dict(attributes)
    for line in body.split("\n"):
        words = line.split()
        if words and words[0] in ("input", "output") and (given := left.pop(words[-1].rstrip(";"), None)):
            text = ", ".join(f'{name} = "{value}"' for name, value in given.items())
            lines.append(f"  (* {text} *)")
        lines.append(line)
    if left:
        raise ValueError(f"{top} has no port {', '.join(left)}")
    return head + marker + "\n".join(lines)


def instance_template(top: str, ports: Mapping[str, Mapping[str, Any]]) -> str:
    """A Verilog instantiation with a wire's name for every port."""
    notes = {"input": "in", "output": "out"}
    rows = list(ports.items())
    lines = [f"// Instantiation of {top}: copy, and connect.", f"{top} {top}_0 ("]
    for index, (name, port) in enumerate(rows):
        comma = "," if index < len(rows) - 1 else ""
        lines.append(f"    .{name}({name}){comma}  // {notes[port['direction']]}, {port['width']} bit")
    return "\n".join([*lines, ");"]) + "\n"


def sdc(ports: Mapping[str, Mapping[str, Any]]) -> str:
    """Constraints of the block synthesized on its own: its clock, and registers around it."""
    inputs = [name for name, port in ports.items() if port["direction"] == "input" and name != "aclk"]
    outputs = [name for name, port in ports.items() if port["direction"] == "output"]
    return "\n".join([
        "# The block on its own. One clock, no exceptions: every path is single-cycle, no false path is needed.",
        f"create_clock -name aclk -period {PERIOD_NS:g} [get_ports aclk]",
        "# Streams pass through without registers; the neighbours' share of the period is theirs to set.",
        f"set_input_delay -clock aclk {0.2 * PERIOD_NS:g} [get_ports {{{' '.join(inputs)}}}]",
        f"set_output_delay -clock aclk {0.2 * PERIOD_NS:g} [get_ports {{{' '.join(outputs)}}}]",
        "",
    ])  # fmt: skip


def xdc(top: str) -> str:
    """Constraints for Vivado, scoped to the block."""
    return "\n".join([
        f"# Read with `read_xdc -ref {top} -mode out_of_context`: only for synthesis of the block on its own. In a",
        "# design aclk is the design's clock, and the block needs no other constraint (one clock, synchronous reset).",
        f"create_clock -name aclk -period {PERIOD_NS:g} [get_ports aclk]",
        "",
    ])  # fmt: skip
