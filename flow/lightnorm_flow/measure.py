"""Measures designs on targets, many at a time, and keeps what it has measured.

A synthesis is a folder of the cache, named by all that decides it: design, target, the sources of generator and flow,
and the version of Yosys. An interrupted sweep goes on where it was, and sweeps share what they have in common.
"""

import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import lightnorm
import lightnorm_golden
from lightnorm.yosys import ToolError, yosys_version
from lightnorm_sim.layer import Tensors
from lightnorm_sim.tools import fingerprint, make_once

from .console import Step, number
from .designs import Design
from .synth import TARGETS, synthesize

__all__ = [
    "Job", "NotMeasured", "by_target", "executor", "failures", "measure", "measure_all", "size_per_lane",
]  # fmt: skip

PACKAGES = (lightnorm, lightnorm_golden)
RECIPE = ("asic.py", "liberty.py", "synth.py", "timing.py")
MODES = {"forward": "train", "backward": "backward"}
SCALARS = ("logic_area_per_lane_um2", "fmax_mhz", "snr_db", "snr_backward_db")
PAIRS = ("energy_pj_per_element", "bits_per_element")
"""Keys with a value for each direction."""
SIZES = {"logic_area_um2": "um^2", "luts": "LUTs", "transistors": "transistors"}


Entry = TypeVar("Entry", bound=Mapping[str, Any])


class NotMeasured(Exception):
    """Why a value is not there."""


@dataclass(frozen=True, eq=False)
class Job:
    """A design on a target ("ecp5", ..., or the path of a Liberty file), with real tensors.

    `clock_ns`: on a Liberty file also map for this clock period, and measure the clock.
    """

    design: Design
    target: str
    tensors: Tensors
    cache: Path
    clock_ns: float | None = None

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
    except (ValueError, OSError, ToolError) as error:
        return _failed(job, str(error))


def _failed(job: Job, error: str) -> dict[str, Any]:
    known = {"name": job.design.name, **job.design.facts, "target": job.target_name}
    return known | dict.fromkeys(SCALARS) | {key: dict.fromkeys(MODES) for key in PAIRS} | {"error": error}


def measure(job: Job) -> dict[str, Any]:
    """What is known of a design on a target; synthesizes it unless that is in the cache. Raises ValueError, ToolError.

    Values that nothing measures are None, and `missing` says why.
    """
    design, facts = job.design, job.design.facts
    folder = job.cache.resolve() / _key(job)

    def synthesize_into(unfinished: Path) -> None:
        verilog, top = design.emit(unfinished)
        synthesize(verilog, top=top, target=job.target, out_dir=unfinished, lanes=facts["lanes"])

    make_once(folder, synthesize_into)
    synth = json.loads((folder / "synth.json").read_text())
    snr, missing = design.snr_db(job.tensors), {}
    measured: dict[str, Any] = dict.fromkeys(SCALARS) | {key: dict.fromkeys(MODES) for key in PAIRS}
    for name, analysis in ANALYSES.items():
        try:
            measured[name] = analysis(folder, job)
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


def _bits_per_element(job: Job) -> dict[str, float | None]:
    """Moved in and out for the layer of the tensors, with its per-channel words."""
    x, traffic = job.tensors.x, job.design.traffic
    channels = x.shape[1]
    return {
        direction: traffic.bits_moved(mode, channels, x.size // channels) / x.size if mode in traffic.streams else None
        for direction, mode in MODES.items()
    }


def _fmax_mhz(folder: Path, job: Job) -> float:
    """Highest clock frequency when mapped for the clock period, which is another netlist than that of the area."""
    if job.target in TARGETS:
        raise NotMeasured("it takes place and route: lightnorm pnr")
    if job.clock_ns is None:
        raise NotMeasured("--clock-ns was not given")

    def synthesize_into(unfinished: Path) -> None:
        verilog, top = job.design.emit(unfinished)
        lanes = job.design.facts["lanes"]
        synthesize(verilog, top=top, target=job.target, out_dir=unfinished, lanes=lanes, clock_ns=job.clock_ns)

    timed = folder / f"clock-{job.clock_ns:g}ns"
    make_once(timed, synthesize_into)
    fmax: float = json.loads((timed / "synth.json").read_text())["fmax_mhz"]
    return fmax


def _energy_pj_per_element(folder: Path, job: Job) -> dict[str, float]:
    """Energy of the netlist in `folder`, "forward" and "backward", on the job's tensors."""
    raise NotMeasured("lightnorm energy measures it, of a LightNorm configuration")


ANALYSES: dict[str, Callable[[Path, Job], Any]] = {
    "fmax_mhz": _fmax_mhz,
    "energy_pj_per_element": _energy_pj_per_element,
}
"""Of a synthesis, given its folder, where an analysis may keep what took long. They raise NotMeasured."""


def size_per_lane(measured: Mapping[str, Any]) -> tuple[float, str]:
    """Area, or what stands for it on the target, and its unit."""
    unit: str = measured["size_unit"]
    return measured[unit] / measured["lanes"], SIZES[unit]


def _key(job: Job) -> str:
    target = job.target if job.target in TARGETS else _digest(Path(job.target))
    return fingerprint(json.dumps(dict(job.design.facts)), target, yosys_version(), _sources())


@cache
def _digest(path: Path) -> str:
    return fingerprint(path.read_bytes())


@cache
def _sources() -> str:
    """Of all that makes and maps a design."""
    files = [Path(__file__).with_name(name) for name in RECIPE]
    for package in PACKAGES:
        files += sorted(Path(package.__path__[0]).rglob("*.py"))
    return fingerprint(*(file.read_bytes() for file in files))
