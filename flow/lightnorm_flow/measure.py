"""Measures designs on targets, many at a time, and keeps what it has measured.

A synthesis is a folder of the cache, named by all that decides it: the emitted Verilog, the library, how it is mapped,
and the version of Yosys. So an interrupted sweep goes on where it was, sweeps share what they have in common, and a
change of the generator costs only the designs whose Verilog it changes.
"""

import json
import multiprocessing
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lightnorm.yosys import ToolError
from lightnorm_sim import RunResult, SimulationError, read_ports
from lightnorm_sim.layer import Tensors
from lightnorm_sim.tools import fingerprint, make_once

from .console import Step, number
from .designs import Design
from .energy import Assumptions, energy_of_netlist
from .synth import TARGETS, mapping_key, synthesize

__all__ = [
    "Job", "NotMeasured", "by_target", "executor", "failures", "measure", "measure_all", "size_per_lane",
]  # fmt: skip

ENERGY_SOURCES = ("activity.py", "cell_power.py", "energy.py", "flat_netlist.py", "liberty.py")
MODES = {"forward": "train", "backward": "backward"}
SCALARS = ("logic_area_per_lane_um2", "fmax_mhz", "clock_ns", "clocked_area_per_lane_um2", "snr_db", "snr_backward_db")
PAIRS = ("energy_pj_per_element", "memory_pj_per_element", "bits_per_element")
"""Keys with a value for each direction."""
SIZES = {"logic_area_um2": "um^2", "luts": "LUTs", "transistors": "transistors"}


Entry = TypeVar("Entry", bound=Mapping[str, Any])


class NotMeasured(Exception):
    """Why a value is not there."""


@dataclass(frozen=True, eq=False)
class Job:
    """A design on a target ("ecp5", ..., or the path of a Liberty file), with real tensors.

    `clock_ns`: on a Liberty file also map for this clock period, and measure the clock. `energy`: on a Liberty file
    also simulate the netlist on the tensors, and measure the energy.
    """

    design: Design
    target: str
    tensors: Tensors
    cache: Path
    clock_ns: float | None = None
    energy: bool = False

    @property
    def target_name(self) -> str:
        return Path(self.target).name.removesuffix(".gz")

    def __str__(self) -> str:
        return f"{self.design.name} on {self.target_name}"


@contextmanager
def executor(jobs: int, dask: str | None) -> Iterator[Executor]:
    """Where jobs run: processes of this machine, or the Dask cluster at an address such as tcp://host:8786, whose
    workers must see the same files and have this package. Raises ValueError."""
    if dask is None:
        # forked processes would inherit the threads of the progress display
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(jobs, mp_context=context)
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)
        return
    try:
        import distributed
    except ModuleNotFoundError:
        raise ValueError("--dask needs Dask: pip install 'lightnorm[dask]'") from None
    connect: Any = distributed.Client  # without types
    try:
        client = connect(dask, timeout="10s")
    except (OSError, ValueError) as error:
        raise ValueError(f"--dask {dask}: there is no scheduler: {error}") from None
    with client:
        yield client.get_executor(pure=False)


def measure_all(jobs: Sequence[Job], pool: Executor, *, step: Step) -> list[dict[str, Any]]:
    """What `measure` says of each job, in their order; of a job that failed only its `error`. `step` hears of each that
    is done."""
    order = {pool.submit(_attempt, job): index for index, job in enumerate(jobs)}
    found: dict[int, dict[str, Any]] = {}
    for done in as_completed(order):
        index = order[done]
        try:
            outcome = done.result()
        except Exception as error:  # a process that was killed, or an error nobody foresaw: the others go on
            outcome = _failed(jobs[index], f"{type(error).__name__}: {error}")
        found[index] = outcome
        if outcome["error"] is not None:
            step(f"{jobs[index]}: FAILED")
        else:
            size, unit = size_per_lane(outcome)
            step(f"{jobs[index]}: {number(round(size, 3))} {unit} per lane")
    return [found[index] for index in range(len(jobs))]


def failures(designs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What failed, a line or more each."""
    return [f"{each['name']} on {each['target']}: {each['error']}" for each in designs if each["error"] is not None]


def by_target(designs: Sequence[Entry]) -> dict[str, list[Entry]]:
    """The designs that did not fail."""
    measured: dict[str, list[Entry]] = {}
    for design in designs:
        if design["error"] is None:
            measured.setdefault(design["target"], []).append(design)
    return measured


def _attempt(job: Job) -> dict[str, Any]:
    """A failure as a value: not every exception can travel between processes."""
    try:
        return measure(job)
    except (ValueError, OSError, ToolError, SimulationError) as error:
        return _failed(job, str(error))


def _failed(job: Job, error: str) -> dict[str, Any]:
    known = {"name": job.design.name, **job.design.facts, "target": job.target_name}
    return known | dict.fromkeys(SCALARS) | {key: dict.fromkeys(MODES) for key in PAIRS} | {"error": error}


def measure(job: Job) -> dict[str, Any]:
    """What is known of a design on a target; synthesizes it unless that is in the cache. Raises ValueError, ToolError,
    SimulationError.

    Values that nothing measures are None, and `missing` says why.
    """
    design, facts = job.design, job.design.facts
    with tempfile.TemporaryDirectory(prefix="lightnorm-") as name:
        emitted = Emitted(Path(name), *design.emit(Path(name)))
        folder = _mapped(job, emitted)
        synth = json.loads((folder / "synth.json").read_text())
        snr, missing = design.snr_db(job.tensors), {}
        measured: dict[str, Any] = dict.fromkeys(SCALARS) | {key: dict.fromkeys(MODES) for key in PAIRS}
        for name, analysis in ANALYSES.items():
            try:
                measured |= analysis(job, emitted, folder)
            except NotMeasured as reason:
                missing[name] = str(reason)
    return {
        "name": design.name,
        **facts,
        "target": job.target_name,
        **measured,
        "tool": synth["tool"],
        "size_unit": synth["stage_unit"],
        **{key: synth[key] for key in (*SIZES, "cells", "ffs", "dsps", "brams", "buffer_bits") if key in synth},
        "logic_area_per_lane_um2": synth.get("logic_area_per_lane_um2"),
        "bits_per_element": _bits_per_element(job),
        "snr_db": snr["forward"],
        "snr_backward_db": snr["backward"],
        "stages": synth["stages"],
        "missing": missing,
        "error": None,
    }


@dataclass(frozen=True)
class Emitted:
    """The Verilog of a design and what is beside it, as long as it is measured."""

    folder: Path
    verilog: Path
    top: str


def _mapped(job: Job, emitted: Emitted, clock_ns: float | None = None) -> Path:
    """The folder of the cache with the design's synthesis."""
    what: Any = {"top": emitted.top, "target": job.target, "lanes": job.design.facts["lanes"], "clock_ns": clock_ns}
    folder = job.cache.resolve() / mapping_key(emitted.verilog, **what)

    def make(unfinished: Path) -> None:
        synthesize(emitted.verilog, out_dir=unfinished, **what)

    make_once(folder, make)
    return folder


def _bits_per_element(job: Job) -> dict[str, float | None]:
    """Moved in and out for the layer of the tensors, with its per-channel words."""
    x, traffic = job.tensors.x, job.design.traffic
    channels = x.shape[1]
    return {
        direction: traffic.bits_moved(mode, channels, x.size // channels) / x.size if mode in traffic.streams else None
        for direction, mode in MODES.items()
    }


def _clock(job: Job, emitted: Emitted, folder: Path) -> dict[str, Any]:
    """Highest clock frequency when mapped for the clock period, which is another netlist than that of the area."""
    if job.target in TARGETS:
        raise NotMeasured("it takes place and route: lightnorm pnr")
    if job.clock_ns is None:
        raise NotMeasured("--clock-ns was not given")
    synth = json.loads((_mapped(job, emitted, job.clock_ns) / "synth.json").read_text())
    return {
        "fmax_mhz": synth["fmax_mhz"],
        "clock_ns": job.clock_ns,
        "clock_tool": synth["clock_tool"],
        "clocked_area_per_lane_um2": synth["logic_area_per_lane_um2"],
    }


def _energy(job: Job, emitted: Emitted, folder: Path) -> dict[str, Any]:
    """Energy of the netlist in `folder`, mapped for area, on the job's tensors. Every bit is held against the model."""
    if job.target in TARGETS:
        raise NotMeasured("it takes a Liberty file")
    if not job.energy:
        raise NotMeasured("--energy was not given")
    design, given = job.design, Assumptions()
    modes = [mode for mode in MODES.values() if mode in design.traffic.streams]
    runs = {mode: design.checked_run(mode, job.tensors) for mode in modes}
    sources = (Path(__file__).with_name(name).read_bytes() for name in ENERGY_SOURCES)
    words = (repr(run.run) for run in runs.values())
    kept = folder.with_name(f"{folder.name}-energy-{fingerprint(repr(given), *words, *sources)}")

    def check(mode: str, result: RunResult) -> None:
        if mismatch := runs[mode].mismatch(result):
            raise SimulationError(mismatch)

    def make(unfinished: Path) -> None:
        result = energy_of_netlist(
            folder / "netlist.il", ports=read_ports(emitted.verilog.with_suffix(".json")), top=emitted.top,
            library=Path(job.target), runs={mode: run.run for mode, run in runs.items()}, check=check,
            work_dir=unfinished, build_dir=unfinished / "sim", given=given,
        )  # fmt: skip
        (unfinished / "energy.json").write_text(json.dumps(result))
        for name in ("flat", "sim"):  # large, and of no use any more
            shutil.rmtree(unfinished / name)

    make_once(kept, make)
    energy = json.loads((kept / "energy.json").read_text())
    spent = {direction: energy["runs"].get(mode) for direction, mode in MODES.items()}
    return {
        "energy_pj_per_element": {key: run and run["logic_pj_per_element"]["total"] for key, run in spent.items()},
        "memory_pj_per_element": {key: run and run["memory_pj_per_element"] for key, run in spent.items()},
        "energy": {
            **{key: energy[key] for key in ("voltage", "wire_ff", "clock_mhz", "memory_fj_per_bit")},
            **{key: run and {
                "elements": run["elements"],
                **run["logic_pj_per_element"],
                "clock": run["clock_pj_per_element"],
                "stages": {stage: parts["total"] for stage, parts in run["stages"].items()},
            } for key, run in spent.items()},
        },
    }  # fmt: skip


ANALYSES: dict[str, Callable[[Job, Emitted, Path], dict[str, Any]]] = {
    "fmax_mhz": _clock,
    "energy_pj_per_element": _energy,
}
"""Of a job whose synthesis is in a folder: what they add to the result. They raise NotMeasured."""


def size_per_lane(measured: Mapping[str, Any]) -> tuple[float, str]:
    """Area, or what stands for it on the target, and its unit."""
    unit: str = measured["size_unit"]
    return measured[unit] / measured["lanes"], SIZES[unit]
