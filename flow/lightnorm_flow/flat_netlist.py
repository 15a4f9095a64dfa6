"""A mapped netlist without hierarchy, in which every net is a bit with one name: for simulation and for energy."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightnorm.yosys import run_yosys

__all__ = ["FlatNetlist", "Instance", "Memory", "flatten", "read_flat"]

# Names of Yosys' own everywhere but at the ports: nets must be found again in waves, and some names are no identifiers.
SCRIPT = """\
read_rtlil {netlist}
setattr -mod -unset keep_hierarchy *
hierarchy -check -top {top}
flatten -noscopeinfo -separator /
opt_clean -purge
splitnets
opt_clean -purge
rename -hide w:*
rename -enumerate -pattern n% w:*
write_json flat.json
write_verilog -noattr flat.v
"""

Net = tuple[str, int]
"""A bit: the name of its signal, and its index in it."""


@dataclass(frozen=True)
class Instance:
    """A cell of the library, and what its pins are on: a net, or a constant."""

    cell: str
    stage: str
    pins: dict[str, Net | bool]


@dataclass(frozen=True)
class Memory:
    """A memory: nets that enable each bit of its read and write ports, and all nets that it reads and drives.

    An enable is True where it is constant.
    """

    name: str
    stage: str
    width: int
    depth: int
    read: list[Net | bool]
    write: list[Net | bool]
    inputs: list[Net]
    outputs: list[Net]


@dataclass(frozen=True)
class FlatNetlist:
    """All there is of a design but its wiring inside cells."""

    top: str
    instances: list[Instance]
    memories: list[Memory]
    inputs: list[Net]
    outputs: list[Net]


def flatten(netlist: Path, top: str, folder: Path) -> None:
    """Make flat.v and flat.json of the netlist.il of a synthesis."""
    run_yosys(SCRIPT.format(netlist=netlist.resolve(), top=top), log=folder / "flat.log", cwd=folder)


def read_flat(description: Path, top: str) -> FlatNetlist:
    """The netlist in a flat.json."""
    module = json.loads(description.read_text())["modules"][top]
    names: dict[int, Net] = {}
    for name, wire in module["netnames"].items():
        for index, bit in enumerate(wire["bits"]):
            if name in module["ports"] or bit not in names:
                names[bit] = (name, index)

    def nets(bits: list[Any]) -> list[Net]:
        return [names[bit] for bit in bits if isinstance(bit, int)]

    instances, memories = [], []
    for name, cell in module["cells"].items():
        path = re.sub(r"\$flatten\\", "", name).split("/")[:-1]
        stage, connections = ".".join(path) or top, cell["connections"]
        if cell["type"] == "$mem_v2":
            memories.append(_memory(name, stage, cell, names))
        else:
            pins = {pin: names[bit] if isinstance(bit, int) else bit == "1" for pin, (bit,) in connections.items()}
            instances.append(Instance(cell["type"], stage, pins))
    ports = {
        direction: [bit for port in module["ports"].values() if port["direction"] == direction for bit in port["bits"]]
        for direction in ("input", "output")
    }
    return FlatNetlist(top, instances, memories, nets(ports["input"]), nets(ports["output"]))


def _memory(name: str, stage: str, cell: dict[str, Any], names: dict[int, Net]) -> Memory:
    connections, width = cell["connections"], int(cell["parameters"]["WIDTH"], 2)

    def enables(bits: list[Any]) -> list[Net | bool]:
        return [names[bit] if isinstance(bit, int) else True for bit in bits if bit not in ("0", "x")]

    read = [bits for port, bits in connections.items() if port != "RD_DATA"]

    return Memory(
        name=name.replace("/", "."),
        stage=stage,
        width=width,
        depth=int(cell["parameters"]["SIZE"], 2),
        read=[enable for enable in enables(connections["RD_EN"]) for _ in range(width)],
        write=enables(connections["WR_EN"]),
        inputs=list(dict.fromkeys(names[bit] for bits in read for bit in bits if isinstance(bit, int))),
        outputs=[names[bit] for bit in connections["RD_DATA"] if isinstance(bit, int)],
    )
