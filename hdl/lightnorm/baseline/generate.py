"""Writes a conventional machine's Verilog and its description, as `lightnorm.generate` does for a configuration."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..config import PASSES
from ..generate import HEADER, package_version, ports_of, verilog_of, write_files
from ..yosys import yosys_version
from .core import Baseline
from .design import Design

__all__ = ["TOP", "generate_baseline"]

TOP = "baseline"
"""Name of the module, and of its files."""


def generate_baseline(
    design: Design,
    out_dir: Path,
    *,
    lanes: int = 16,
    passes: tuple[str, ...] = PASSES,
    buffer_beats: int = 4096,
    max_chunks: int = 16,
) -> dict[str, Any]:
    """Write `baseline.v` and `baseline.json` into `out_dir`, and return the description.

    One clock `clk`, a synchronous reset `rst`; modules named by stage below `baseline`, for
    `synthesize(out_dir / "baseline.v", top="baseline", ...)`. `passes`: of "train", "infer", "backward".
    `buffer_beats`: beats held on chip, for channels of up to so many in a single pass. The description has the resolved
    design and its hash, every port, and the latency of the coefficients by pass. Raises ValueError for what cannot be
    built, ToolError where Yosys is missing or fails; nothing is left half-written.
    """
    component = Baseline(design.spec, lanes=lanes, passes=passes, buffer_beats=buffer_beats, max_chunks=max_chunks)
    resolved = {
        "design": {"name": design.name, **asdict(design.spec)},
        "implementation": {
            "lanes": lanes,
            "passes": list(passes),
            "buffer_beats": buffer_beats,
            "max_chunks": max_chunks,
        },
    }
    digest = hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()[:8]
    out_dir.mkdir(parents=True, exist_ok=True)
    body = verilog_of(component, TOP, out_dir / "generate.log")
    header = HEADER.format(
        version=package_version(),
        hash=digest,
        summary=f"conventional batch norm {design.name}, {design.format}, {lanes} lanes,"
        f" {buffer_beats} beats of buffer, passes {', '.join(passes)}",
        config=json.dumps(resolved, sort_keys=True),
    )
    description = {
        "name": design.name,
        "hash": digest,
        "config": resolved,
        "statistic": design.statistic,
        "format": design.format,
        "lanes": lanes,
        "ports": ports_of(component),
        "latency": {"coefficients": component.coefficients.latency},
        "tools": {"lightnorm": package_version(), "amaranth": version("amaranth"), "yosys": yosys_version()},
    }
    write_files(out_dir, {f"{TOP}.v": header + body, f"{TOP}.json": json.dumps(description, indent=2) + "\n"})
    return description
