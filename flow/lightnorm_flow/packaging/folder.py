"""The folder that an integrator takes in: what `generate` writes, and the files by which tools take it in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightnorm.bus import register_map
from lightnorm.config import Config
from lightnorm.generate import generate

from ..files import write_text
from .fusesoc import fusesoc_core
from .testbench import TESTBENCH, vectors
from .vivado import package_script

__all__ = ["package"]

LITEX = Path(__file__).with_name("lightnorm_litex.py")


def package(config: Config, folder: Path, *, top: str = "core") -> dict[str, Any]:
    """`generate`, and for `top` "axi" the scripts of other tools; returns the description that `generate` makes."""
    description = generate(config, folder, top=top)
    files: dict[str, str] = {}
    if top == "axi":
        registers = register_map(config)
        name = description["name"]
        files |= {
            "package_ip.tcl": package_script(description, registers),
            LITEX.name: LITEX.read_text(encoding="utf-8"),
            f"{name}.core": fusesoc_core(name, description["tools"]["lightnorm"]),
            f"{name}_tb.v": TESTBENCH.read_text(encoding="utf-8"),
            f"{name}_vectors.vh": vectors(config, description, registers),
        }
    for name, text in files.items():
        write_text(folder / name, text)
    return description
