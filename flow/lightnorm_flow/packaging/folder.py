"""The folder that an integrator takes in: what `generate` writes, and the files by which tools take it in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightnorm.bus import register_map
from lightnorm.config import Config
from lightnorm.generate import TOPS, generate

from ..files import write_text
from .fusesoc import fusesoc_core
from .readme import LITEX, readme
from .testbench import TESTBENCH, vectors
from .vivado import package_script

__all__ = ["package", "write_readme"]


def package(config: Config, folder: Path, *, top: str = "core") -> dict[str, Any]:
    """`generate`, then a README, and for `top` "axi" what other tools take the block in by; returns the description
    that `generate` makes."""
    description = generate(config, folder, top=top)
    name = description["name"]
    if top == "axi":
        registers = register_map(config)
        for file, text in {
            f"{name}_tb.v": TESTBENCH.read_text(encoding="utf-8"),
            f"{name}_vectors.vh": vectors(config, description, registers),
            f"{name}.core": fusesoc_core(name, description["tools"]["lightnorm"]),
            "package_ip.tcl": package_script(description, registers),
            LITEX.name: LITEX.read_text(encoding="utf-8"),
        }.items():
            write_text(folder / file, text)
    write_readme(config, folder, description)
    return description


def write_readme(
    config: Config, folder: Path, description: Mapping[str, Any], resources: Mapping[str, Any] | None = None
) -> None:
    """The README.md of what `package` wrote, with the sizes that `synthesize` found; none behind a serial line, which
    is docs/board.md's subject."""
    if description["name"] != TOPS["uart"]:
        write_text(folder / "README.md", readme(config, description, resources))
