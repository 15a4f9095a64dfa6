"""The Verilog around the machine in a simulation: its top module, made from the list of the machine's ports.

The ends of the streams, which never change, are in ``harness.v``.
"""

import json
from collections.abc import Mapping
from pathlib import Path

__all__ = ["SINKS", "TOP", "Ports", "descriptor_ports", "harness_text", "read_ports", "stream_widths"]

Ports = Mapping[str, tuple[str, int]]
"""Direction ("input" or "output") and width of each port of the machine."""

TOP = "harness"

SOURCES = {"x": "i_x", "grad": "i_grad", "parameters": "i_parameters"}
"""Streams into the machine, each with the prefix of its ports; the run descriptors are one more, named "run"."""

SINKS = {"o": "o", "results": "o_results"}
"""Streams out of the machine, each with the prefix of its ports."""

DESCRIPTOR = ("mode", "channels", "elements", "chunk_blocks", "inv_count", "range_gain", "eps", "momentum")
"""Fields of a run descriptor: field f is port i_f where the machine has it. The first is the lowest in the word."""

FRAME = """\
module {top} (
    input wire clk /*verilator public_flat_rw*/,
    input wire rst /*verilator public_flat_rw*/,
    output reg finished /*verilator public_flat_rw*/
);
    // How long without a transfer is a hang, and how long to watch after the last expected word.
    integer file, status, patience, watch;
    integer idle, over;
    reg [31:0] cycle;
    reg reset;  // a register in between keeps Verilator from evaluating the machine twice in a cycle
    reg due;
    {declarations}
    wire moved = |{{{moved}}};
    wire pending = |{{{pending}}};
    wire complete = &{{{complete}}};
    wire failed = |{{{failed}}};

    initial begin
        file = $fopen("{top}.in", "r");
        status = $fscanf(file, "%d %d", patience, watch);
        $fclose(file);
        {{finished, due, cycle}} = 0;
        reset = 1;
        {{idle, over}} = 0;
    end

`ifdef WAVES
    initial begin
        $dumpfile("waves.vcd");
        $dumpvars(0, {top});
    end
`endif

    always @(posedge clk) begin
        reset <= rst;
        if (!reset) begin
            cycle <= cycle + 1;
            due <= due || run_valid;
            idle <= moved ? 0 : idle + 1;
            over <= pending || !complete ? 0 : over + 1;
            if (failed || idle >= patience || over >= watch) finished <= 1;
        end
    end

    {instances}
endmodule
"""


def read_ports(description: Path) -> dict[str, tuple[str, int]]:
    """The ports in the JSON file that lies beside generated Verilog."""
    ports = json.loads(description.read_text())["ports"]
    return {name: (port["direction"], port["width"]) for name, port in ports.items()}


def stream_widths(ports: Ports) -> dict[str, int]:
    """Payload width of each stream this machine has; "run" is the run descriptor."""
    widths = {name: ports[f"{prefix}__payload"][1] for name, prefix in (SOURCES | SINKS).items()
              if f"{prefix}__payload" in ports}
    return {"run": sum(width for _, _, width in descriptor_ports(ports))} | widths


def harness_text(ports: Ports, module: str = "lightnorm") -> str:
    """Module ``harness``: ``module`` with every stream's other end, and what ends the simulation."""
    widths = stream_widths(ports)
    sources = [name for name in widths if name not in SINKS]
    sinks = [name for name in widths if name in SINKS]
    wires = {"clk": "clk", "rst": "reset", "i_run_valid": "run_valid", "o_run_ready": "run_ready"}
    low = 0
    for _, port, width in descriptor_ports(ports):
        wires[port] = f"run_payload[{low + width - 1}:{low}]"
        low += width
    for name, prefix in (SOURCES | SINKS).items():
        wires |= {f"{prefix}__{part}": f"{name}_{part}" for part in ("payload", "valid", "ready")}
    if "o_two_pass" in ports:
        wires["o_two_pass"] = "two_pass"

    missing = sorted({"clk", "rst", "i_run_valid", "o_run_ready"} - ports.keys())
    unknown = sorted(name for name, (direction, _) in ports.items() if direction == "input" and name not in wires)
    if missing or unknown:
        raise ValueError(f"the harness does not fit these ports: missing {missing}, unknown inputs {unknown}")
    connections = [f".{port}({wires[port]})" for port in ports if port in wires]

    return FRAME.format(
        top=TOP,
        declarations="\n    ".join(["wire two_pass;", *(_declaration(name, width) for name, width in widths.items())]),
        moved=", ".join(f"{name}_moved" for name in widths),
        pending=", ".join(f"{name}_pending" for name in sources),
        complete=", ".join(f"{name}_complete" for name in sinks) or "1'b1",
        failed=", ".join(f"{name}_failed" for name in widths),
        instances="\n    ".join([
            *(_instance(name, "source", widths[name], "pending") for name in sources),
            *(_instance(name, "sink", widths[name], "complete") for name in sinks),
            f"{module} dut (\n        " + ",\n        ".join(connections) + "\n    );",
        ]),
    )


def descriptor_ports(ports: Ports) -> list[tuple[str, str, int]]:
    """Field, port and width of what a run descriptor of this machine has, lowest bits first."""
    return [(name, f"i_{name}", ports[f"i_{name}"][1]) for name in DESCRIPTOR if f"i_{name}" in ports]


def _declaration(name: str, width: int) -> str:
    state = "complete" if name in SINKS else "pending"
    flags = ", ".join(f"{name}_{part}" for part in ("valid", "ready", "moved", state, "failed"))
    return f"wire [{width - 1}:0] {name}_payload;\n    wire {flags};"


def _instance(name: str, kind: str, width: int, state: str) -> str:
    shared = ".clk(clk), .rst(reset), .cycle(cycle), .close(finished)"
    own = ", ".join(f".{part}({name}_{part})" for part in ("payload", "valid", "ready", "moved", state, "failed"))
    note = "two_pass" if name == "run" else "1'b0"
    extra = ".due(due || run_valid)" if kind == "sink" else f".note({note})"
    return (f'harness_{kind} #(.WIDTH({width}), .NAME("{name}")) {name}_{kind} (\n'
            f"        {shared}, {extra},\n        {own}\n    );")
