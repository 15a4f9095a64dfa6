"""The mapped netlist, simulated: what was synthesized is what was verified.

The cells' models are made from the Liberty file. They have no delays, so a cycle is a cycle of the emitted Verilog.
"""

import json
from pathlib import Path

from lightnorm.yosys import yosys_version
from lightnorm_sim.tools import fingerprint, make_once

from .console import Step
from .liberty import cell_models, read_cells, read_text
from .synth import synthesize

__all__ = ["map_to_cells"]

RECIPE = [Path(__file__).with_name(f"{name}.py") for name in ("asic", "synth", "liberty", "gate_level", "flat_netlist")]


def map_to_cells(
    verilog: Path, *, top: str, library: Path, lanes: int, out_dir: Path, step: Step = lambda message: None
) -> Path:
    """Synthesize the design for a Liberty file, unless `out_dir` already holds just that; returns the folder.

    The folder has what `synthesize` writes, and gates.v: the netlist with the models of its cells. Memories are in it
    as behavioural Verilog. Raises ValueError for a library of which no such models can be made, ToolError.
    """
    contents = (file.read_bytes() for file in (*RECIPE, verilog))
    key = fingerprint(yosys_version(), top, read_text(library), *contents)
    name = library.name.removesuffix(".gz").removesuffix(".lib")

    def make(folder: Path) -> None:
        synthesize(verilog, top=top, target=str(library), out_dir=folder, lanes=lanes, progress=step)
        modules = json.loads((folder / "synth.json").read_text())["modules"]
        cells = {cell for module in modules.values() for cell in module["cell_types"]} & set(read_cells(library))
        (folder / "gates.v").write_text((folder / "netlist.v").read_text() + cell_models(library, cells))

    folder = out_dir / f"{name}-{key}"
    make_once(folder, make)
    return folder
