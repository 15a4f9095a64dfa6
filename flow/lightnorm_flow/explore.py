"""Sweeps formats, block sizes and lanes, and finds the machines that no other one beats."""

import itertools
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from lightnorm.config import Config
from lightnorm_golden import BlockFormat

from .console import PlainTable, Step, number, without_empty
from .designs import LightNorm, with_blocks
from .files import markdown_table, write_json, write_text
from .measure import Job, by_target, failures, measure_all, size_per_lane

__all__ = [
    "Grid", "bits_of_step", "exploration_tables", "grid_designs", "make_exploration", "pareto", "parse_grid",
    "read_grid",
]  # fmt: skip

HEADER = ("design", "{unit} per lane", "MHz", "bits fwd", "bits bwd", "SNR y, dB", "SNR dx, dB", "front")


@dataclass(frozen=True)
class Grid:
    """Every combination is a machine. Formats are such as "e5m4"; None keeps what the configuration has."""

    activation: tuple[str, ...] | None = None
    gradient: tuple[str, ...] | None = None
    block_size: tuple[int, ...] | None = None
    lanes: tuple[int, ...] | None = None


def read_grid(path: Path) -> Grid:
    """A TOML file such as `activation = ["e5m4", "e4m3"]`, `block_size = [4, 16]`. Raises ValueError."""
    named = f"--grid {path}"
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{named} cannot be read: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{named} is not a TOML file: {error}") from None
    keys = [field.name for field in fields(Grid)]
    for key, value in content.items():
        if key not in keys:
            raise ValueError(f"{named} has no key {key!r}; it has {', '.join(keys)}")
        if not isinstance(value, list) or not value:
            raise ValueError(f"{named}: {key} must be a list of values, not {value!r}")
    return Grid(**{key: tuple(value) for key, value in content.items()})


def parse_grid(grid: Grid, texts: Mapping[str, str | None]) -> Grid:
    """The grid with lists such as "1,4,16" in place of its own. Raises ValueError."""
    given: dict[str, Any] = {}
    for key, text in texts.items():
        if text is not None:
            values = [value.strip() for value in text.split(",")]
            given[key] = tuple(int(value) if value.isdecimal() else value for value in values)
    return replace(grid, **given)


def grid_designs(config: Config, grid: Grid) -> tuple[list[LightNorm], list[str]]:
    """The grid's machines, everything else as in `config`, and why some combinations are none. Raises ValueError."""
    spec = config.spec
    activations = [_format("activation", name) for name in grid.activation or ()] or [spec.activation]
    gradients = [_format("gradient", name) for name in grid.gradient or ()] or [spec.gradient]
    block_sizes = _counts("block_size", grid.block_size) or [spec.activation.block_size]
    all_lanes = _counts("lanes", grid.lanes) or [config.lanes]
    designs, refused = [], []
    for activation, gradient, block_size, lanes in itertools.product(activations, gradients, block_sizes, all_lanes):
        name = f"bfp{block_size}_{_short(activation)}_{_short(gradient)}_{lanes}"
        if lanes % block_size:
            refused.append(f"{name}: {lanes} lanes are not whole blocks of {block_size}")
            continue
        try:
            formats = replace(spec, activation=activation, gradient=gradient)
            designs.append(LightNorm(name, with_blocks(config, formats, block_size, lanes)))
        except ValueError as error:
            refused.append(f"{name}: {' '.join(str(error).split())}")
    if not designs:
        raise ValueError("\n".join(["no combination of the grid can be built", *refused]))
    return designs, refused


def _short(fmt: BlockFormat) -> str:
    return f"e{fmt.exp_bits}m{fmt.man_bits}"


def _format(key: str, name: object) -> BlockFormat:
    match = re.fullmatch(r"e(\d+)m(\d+)", name) if isinstance(name, str) else None
    if not match:
        raise ValueError(f"{key} must be a format such as e5m4, not {name!r}")
    try:
        return BlockFormat(int(match[1]), int(match[2]))
    except ValueError as error:
        raise ValueError(f"{key} {name}: {error}") from None


def _counts(key: str, values: Sequence[object] | None) -> list[int]:
    for value in values or ():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{key} must be an integer of at least 1, not {value!r}")
    return [value for value in values or () if isinstance(value, int)]


def make_exploration(
    jobs: Sequence[Job], refused: Sequence[str], pool: Executor, out_dir: Path, *, step: Step
) -> dict[str, Any]:
    """Measure, and write explore.json and explore.md; returns the former. Each design says on which fronts it is."""
    measured = measure_all(jobs, pool, step=step)
    for designs in by_target(measured).values():
        sizes = [size_per_lane(design)[0] for design in designs]
        noise = [-design["snr_db"] for design in designs]
        bits = [bits_of_step(design) for design in designs]
        for design, *front in zip(designs, pareto(sizes, noise), pareto(sizes, bits), strict=True):
            design["pareto"] = {"size_snr": front[0], "size_bits": front[1]}
    exploration = {"designs": measured, "refused": list(refused)}
    write_json(out_dir / "explore.json", exploration)
    write_text(out_dir / "explore.md", _markdown(exploration))
    return exploration


def bits_of_step(design: Mapping[str, Any]) -> float:
    """Bits per element moved in a training step, or in what the design can do of it."""
    return math.fsum(value for value in design["bits_per_element"].values() if value is not None)


def pareto(first: Sequence[float], second: Sequence[float]) -> list[bool]:
    """Whether no other point is at most as large in both, and smaller in one."""
    points = list(zip(first, second, strict=True))
    return [not any(p != q and p[0] <= q[0] and p[1] <= q[1] for p in points) for q in points]


def exploration_tables(exploration: Mapping[str, Any]) -> list[PlainTable]:
    """Title, header and rows for each target, the smallest machine first."""
    tables = []
    for target, designs in by_target(exploration["designs"]).items():
        rows = []
        for design in sorted(designs, key=lambda design: size_per_lane(design)[0]):
            size, unit = size_per_lane(design)
            bits = design["bits_per_element"]
            values = (design["fmax_mhz"], bits["forward"], bits["backward"], design["snr_db"],
                      design["snr_backward_db"])  # fmt: skip
            front = [name for name, on in zip(("SNR", "bits"), design["pareto"].values(), strict=True) if on]
            cells = ["" if value is None else f"{value:.1f}" for value in values]
            rows.append([design["name"], number(round(size)), *cells, ", ".join(front)])
        tables.append((target, *without_empty([name.format(unit=unit) for name in HEADER], rows)))
    return tables


def _markdown(exploration: Mapping[str, Any]) -> str:
    lines = ["# Formats, block sizes and lanes"]
    for target, header, rows in exploration_tables(exploration):
        lines += ["", f"## {target}", "", *markdown_table(header, rows)]
    lines += ["", "Front: no other machine is as small and has as much SNR of y, or moves as few bits."]
    for label, entries in (("Not built", exploration["refused"]), ("Failed", failures(exploration["designs"]))):
        lines += [line for entry in entries for line in ("", f"{label}: {entry.splitlines()[0]}")]
    return "\n".join([*lines, ""])
