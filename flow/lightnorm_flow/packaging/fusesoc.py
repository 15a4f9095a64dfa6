"""A FuseSoC core description (CAPI2)."""

from __future__ import annotations

__all__ = ["fusesoc_core"]


def fusesoc_core(top: str, version: str) -> str:
    """Targets default (the Verilog), lint (Verilator), sim (the testbench in Icarus) and synth (Yosys)."""
    number = ".".join((version.split("+")[0].split(".") + ["0", "0"])[:3]) if version[:1].isdigit() else "0.0.0"
    return "\n".join([
        "CAPI=2:",
        f"name: lightnorm:lightnorm:{top}:{number}",
        "description: Batch normalization in block floating point, AXI4-Stream and AXI4-Lite",
        "filesets:",
        "  rtl:",
        f"    files: [{top}.v]",
        "    file_type: verilogSource-2005",
        "  tb:",
        "    files:",
        f"      - {top}_tb.v",
        f"      - {top}_vectors.vh: {{is_include_file: true}}",
        "    file_type: systemVerilogSource",
        "  vivado:",
        f"    files: [{top}.xdc]",
        "    file_type: xdc",
        "targets:",
        "  default:",
        "    filesets: [rtl, \"tool_vivado? (vivado)\"]",
        f"    toplevel: {top}",
        "  lint:",
        "    filesets: [rtl]",
        f"    toplevel: {top}",
        "    flow: lint",
        "    flow_options: {tool: verilator}",
        "  sim:",
        "    filesets: [rtl, tb]",
        f"    toplevel: {top}_tb",
        "    flow: sim",
        "    flow_options: {tool: icarus}",
        "  synth:",
        "    filesets: [rtl]",
        f"    toplevel: {top}",
        "    flow: generic",
        "    flow_options: {tool: yosys, arch: xilinx, output_format: json}",
        "",
    ])  # fmt: skip
