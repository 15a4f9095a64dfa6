"""Synthesis with Yosys: area on a standard-cell library, resources of an FPGA, or a technology-independent estimate.

One level of hierarchy is kept, the design's stages; each stage is flattened. Memories are not logic: they are counted
in bits, and only the FPGA targets map them (to block RAM).
"""

import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightnorm.yosys import ToolError, run_yosys, yosys_version
from lightnorm_sim.tools import fingerprint

from .asic import Recipe, cell_recipe, gate_recipe
from .liberty import Cell, read_cells, read_text
from .timing import measure_clock

__all__ = ["TARGETS", "mapping_key", "synthesize"]

SOURCES = ("synth.py", "liberty.py", "timing.py")
"""What counts and times the netlists; how they are made is in the recipe."""

# In each FPGA family: the command, and for each kind of resource the cells (patterns) with how many of it they take.
FPGAS: dict[str, tuple[str, dict[str, dict[str, float]]]] = {
    "ecp5": (
        "synth_ecp5",
        {
            "luts": {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6},
            "ffs": {"TRELLIS_FF": 1},
            "dsps": {"MULT18X18D": 1},
            "brams": {"DP16KD|PDPW16KD": 1},
        },
    ),
    "ice40": (
        "synth_ice40",
        {"luts": {"SB_LUT4": 1}, "ffs": {"SB_DFF.*": 1}, "dsps": {"SB_MAC16": 1}, "brams": {"SB_RAM40_4K.*": 1}},
    ),
    "xilinx": (
        "synth_xilinx -noiopad -noclkbuf",
        {
            "luts": {r"LUT\d|SRL.*": 1, "RAM(32|64)X1D": 2, "RAM(32M|64M|128X1D)": 4},
            "ffs": {"FD.*": 1},
            "dsps": {"DSP48E1": 1},
            "brams": {"RAMB36E1": 1, "RAMB18E1": 0.5},
        },
    ),
}
TARGETS = ("generic", *FPGAS)

# -norom: tables written as logic must count as logic, not as memories.
READ = """\
read_verilog design.v
hierarchy -check -top {root}
{keep_stages}proc -norom
flatten
delete t:$scopeinfo
opt_expr
opt_clean
check -assert
opt -nodffe -nosdff
opt -nosdff
"""

# The memories as they stand before any target maps them.
LIST_MEMORIES = """\
design -push-copy
memory -nomap
select t:$mem_v2
json -o memories.json
design -pop
"""

FINISH = """\
tee -q -o statistics.json stat -json -top {root}{options}
write_verilog -noattr netlist.v
write_rtlil netlist.il
"""
NETLISTS = ("netlist.v", "netlist.il")


@dataclass(frozen=True)
class Design:
    """A Verilog design: the module to synthesize and the modules below it that keep their boundaries."""

    verilog: str
    root: str
    stages: tuple[str, ...]

    def stage(self, module: str) -> str:
        """A stage's name in reports: its path below the root; the root's own logic has the root's name."""
        return module.removeprefix(f"{self.root}.") if module != self.root else module.rpartition(".")[2]


def synthesize(
    verilog: Path,
    *,
    top: str,
    target: str,
    out_dir: Path,
    lanes: int,
    unit: str | None = None,
    clock_ns: float | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Synthesize ``top``, or of it only the submodule ``unit`` such as "apply"; returns what synth.json then holds.

    ``target`` is "generic", "ecp5", "ice40", "xilinx" or the path of a Liberty file (.lib, .lib.gz). ``clock_ns``, with
    a Liberty file: map for this clock period instead of for area, and measure the clock (`timing`). ``out_dir`` gets
    synth.json, yosys.log and the mapped netlist, as netlist.v and for Yosys as netlist.il. Raises ValueError for what
    cannot be read, ToolError if Yosys fails.
    """
    if lanes < 1:
        raise ValueError(f"lanes must be at least 1, not {lanes}")
    design = _read_design(verilog, top, unit)
    if clock_ns is not None and (target in TARGETS or clock_ns <= 0):
        raise ValueError(f"a clock period must be positive, and is for Liberty files; not {clock_ns:g} ns on {target}")
    for stale in ("synth.json", *NETLISTS):
        (out_dir / stale).unlink(missing_ok=True)
    if target not in TARGETS:
        progress(f"reading {_library_path(target).name}")
    recipe, cells, library_text = _recipe(target, design.root, clock_ns)
    if cells:
        target = _library_path(target).name
    progress(f"synthesizing {design.root} for {target}")
    if clock_ns is not None:
        design = replace(design, stages=())  # a path may cross stages
    statistics, memories, netlists = _run(design, recipe, target == "generic", out_dir / "yosys.log")
    modules = {name: _measure(name, statistics, target, cells, design) for name in statistics}
    result: dict[str, Any] = {"target": target, "tool": f"yosys {yosys_version()}", "top": design.root, "lanes": lanes}
    for key in modules[design.root]:
        result[key] = round(sum(module[key] for module in modules.values()), 3)
    if cells:
        result["logic_area_per_lane_um2"] = round(result["logic_area_um2"] / lanes, 3)
    if clock_ns is not None:
        progress(f"timing {design.root}")
        log = (out_dir / "yosys.log").read_text(errors="replace")
        result["clock_ns"] = clock_ns
        result |= measure_clock(netlists["netlist.v"], library_text, top=design.root, clock_ns=clock_ns, yosys_log=log)
    result["buffer_bits"] = sum(memory["width"] * memory["depth"] for memory in memories)
    result["memories"] = memories
    size = "logic_area_um2" if cells else "luts" if target in FPGAS else "transistors"
    result["stage_unit"] = size
    result["stages"] = {design.stage(name): module[size] for name, module in modules.items()}
    result["modules"] = {
        name: {**modules[name], "cell_types": dict(sorted(module["num_cells_by_type"].items()))}
        for name, module in statistics.items()
    }
    for name, netlist in netlists.items():
        _write(out_dir / name, netlist)
    _write(out_dir / "synth.json", json.dumps(result, indent=2) + "\n")
    return result


def _read_design(verilog: Path, top: str, unit: str | None) -> Design:
    """Reads the Verilog and finds in it the root and its stages: its submodules, and those of a submodule "core"."""
    try:
        text = verilog.read_text()
    except OSError as error:
        raise ValueError(f"Verilog file {verilog} cannot be read: {error.strerror}") from None
    modules = [escaped or plain for escaped, plain in re.findall(r"^module\s+(?:\\(\S+)|([\w$]+))", text, re.MULTILINE)]
    if top not in modules:
        raise ValueError(f"{verilog} has no module {top!r}; it has {', '.join(modules) or 'no module'}")
    if unit is not None:
        below = {name.rpartition(".")[2]: name for name in reversed(modules) if name.startswith(f"{top}.")}
        if unit not in below:
            raise ValueError(f"{top} has no submodule {unit!r}; it has {', '.join(sorted(below)) or 'none'}")
        return Design(text, below[unit], ())
    parents = (top, f"{top}.core")
    return Design(text, top, tuple(name for name in modules if name.rpartition(".")[0] in parents))


def mapping_key(verilog: Path, *, top: str, target: str, lanes: int, clock_ns: float | None = None) -> str:
    """A name for what `synthesize` makes of these: another one if anything is different that decides it, which comments
    and what else is in the library's folder do not. Raises ValueError for a library that cannot be read."""
    recipe, _, _ = _recipe(target, top, clock_ns)
    code = re.sub(r"^//.*\n", "", verilog.read_text(), flags=re.MULTILINE)
    sources = (Path(__file__).with_name(name).read_bytes() for name in SOURCES if clock_ns or name != "timing.py")
    files = (text for item in sorted(recipe.files.items()) for text in item)
    return fingerprint(yosys_version(), top, str(lanes), str(clock_ns), code, recipe.script, *files, *sources)


def _recipe(target: str, root: str, clock_ns: float | None) -> tuple[Recipe, dict[str, Cell], str]:
    """How to map for the target; of a library also its cells and its text."""
    if target in FPGAS:
        # without names: abc9 may give a wire one that another has
        return Recipe(f"rename -hide w:*\n{FPGAS[target][0]} -top {root}\n", {}), {}, ""
    if target == "generic":
        return gate_recipe(), {}, ""
    library = _library_path(target)
    cells, text = read_cells(library), read_text(library)
    return cell_recipe(cells, text, clock_ns), cells, text


def _library_path(target: str) -> Path:
    path = Path(target)
    if path.suffix not in (".lib", ".gz"):
        raise ValueError(f"target must be {', '.join(TARGETS)} or a Liberty file (.lib or .lib.gz), not {target!r}")
    return path


def _run(
    design: Design, recipe: Recipe, gates: bool, log: Path
) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, str]]:
    """Runs Yosys; returns its statistics of each module, the memories, and the mapped netlist in its forms."""
    keep = "".join(f"setattr -mod -set keep_hierarchy 1 {name}\n" for name in design.stages)
    options = " -tech cmos" if gates else ""
    script = READ.format(root=design.root, keep_stages=keep) + LIST_MEMORIES + recipe.script
    script += FINISH.format(root=design.root, options=options)
    with tempfile.TemporaryDirectory(prefix="lightnorm-") as folder:
        for name, text in {"design.v": design.verilog, **recipe.files}.items():
            Path(folder, name).write_text(text)
        run_yosys(script, log=log, cwd=Path(folder))
        statistics = json.loads(Path(folder, "statistics.json").read_text())["modules"]
        memories = json.loads(Path(folder, "memories.json").read_text())["modules"]
        netlists = {name: Path(folder, name).read_text() for name in NETLISTS}
    modules = {name.lstrip("\\"): module for name, module in statistics.items()}
    return modules, list(_memories(design, memories)), netlists


def _memories(design: Design, modules: dict[str, Any]) -> Iterable[dict[str, Any]]:
    for name, module in modules.items():
        for cell in module["cells"].values():
            width, depth = (int(cell["parameters"][key], 2) for key in ("WIDTH", "SIZE"))
            memory = cell["parameters"]["MEMID"].lstrip("\\")
            yield {"name": f"{design.stage(name)}.{memory}", "width": width, "depth": depth}


def _measure(
    name: str, statistics: dict[str, Any], target: str, cells: dict[str, Cell], design: Design
) -> dict[str, float]:
    """The sizes of a module, without the stages below it and without memories."""
    inside = {cell.lstrip("\\"): n for cell, n in statistics[name]["num_cells_by_type"].items()}
    counts = Counter({cell: n for cell, n in inside.items() if cell not in statistics and cell != "$mem_v2"})
    if target in FPGAS:
        return {"cells": counts.total(), **_resources(counts, FPGAS[target][1])}
    if not cells:
        ffs = sum(n for cell, n in counts.items() if cell.startswith("$_DFF"))
        return {"cells": counts.total(), "ffs": ffs, "transistors": _transistors(name, statistics)}
    if unmapped := sorted(set(counts) - set(cells)):
        raise ToolError(f"yosys left {', '.join(unmapped)} of {design.root} unmapped: {target} has no cell for it")
    areas = {cell: n * cells[cell].area for cell, n in counts.items()}
    return {
        "cells": counts.total(),
        "ffs": sum(n for cell, n in counts.items() if cells[cell].group.all("ff")),
        "logic_area_um2": round(sum(areas.values()), 3),
        "sequential_area_um2": round(sum(area for cell, area in areas.items() if cells[cell].sequential), 3),
    }


def _resources(counts: Counter[str], resources: dict[str, dict[str, float]]) -> dict[str, float]:
    """How many of each FPGA resource the cells take."""
    return {
        resource: sum(n * weight for name, n in counts.items() for pattern, weight in weights.items()
                      if re.fullmatch(pattern, name))
        for resource, weights in resources.items()
    }


def _transistors(name: str, statistics: dict[str, Any]) -> int:
    """Yosys' estimate for a module, without the modules inside it (nor memories, which the "+" stands for)."""
    estimates = {module: int(values["estimated_num_transistors"].rstrip("+")) for module, values in statistics.items()}
    inside: dict[str, int] = statistics[name]["num_cells_by_type"]
    return estimates[name] - sum(n * estimates.get(child.lstrip("\\"), 0) for child, n in inside.items())


def _write(path: Path, text: str) -> None:
    """Writes a file under another name first, so that it is never there half-written."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)
