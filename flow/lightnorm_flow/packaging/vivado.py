"""A script that packages the block for Vivado's IP catalog (UG1118)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightnorm.bus import RegisterMap
from lightnorm.bus.registers import MAP_VERSION, Access, Register

__all__ = ["package_script"]

COMMANDS = Path(__file__).with_name("package_ip.tcl")
RIGHTS = {
    Access.CONSTANT: ("read-only", ""),
    Access.READ_ONLY: ("read-only", ""),
    Access.READ_WRITE: ("read-write", ""),
    Access.CLEAR: ("read-write", "oneToClear"),
    Access.COMMAND: ("write-only", ""),
}
"""What software may do with a field, and what writing does beside storing."""


def package_script(description: Mapping[str, Any], registers: RegisterMap) -> str:
    """The script: what is packaged as data, then commands that are the same for every configuration."""
    clock = ("aclk", "aresetn", "irq")
    buses = sorted({name.rpartition("_")[0] for name in description["ports"] if name not in clock})
    properties = {
        "name": description["name"],
        "version": "{}.{}".format(*MAP_VERSION),
        "display_name": "LightNorm",
        "description": f"Batch normalization in block floating point, configuration {description['hash']}",
    }
    rows = {
        "top": description["name"],
        "properties": _braced(word for pair in properties.items() for word in pair),
        "interfaces": _braced(word for name in (*clock, *buses) for word in (name, str(int(name in buses)))),
        "bus": "s_axil",
        "range": str(1 << registers.address_bits),
    }
    return "\n".join([
        f"# LightNorm, configuration {description['hash']}. Generated: change the configuration, not this file.",
        "# vivado -mode batch -source package_ip.tcl    makes the folder ip beside it",
        *(f"set {name} {value}" for name, value in rows.items()),
        "# name, offset, description; of each field: name, lowest bit, bits, access, effect of writing, description",
        "set registers {",
        *(_register(register) for register in registers.registers),
        "}",
        "",
        COMMANDS.read_text(encoding="utf-8"),
    ])  # fmt: skip


def _register(register: Register) -> str:
    lines = [f"    {register.name} 0x{register.offset:02x} {_braced([register.text])[1:-1]} {{"]
    for field in register.fields:
        words = (field.name, str(field.low), str(field.bits), *RIGHTS[field.access], field.text)
        lines.append(f"        {_braced(words)[1:-1]}")
    return "\n".join([*lines, "    }"])


def _braced(words: Iterable[str]) -> str:
    """A Tcl list. Raises ValueError for words that braces do not keep as they are."""
    listed = list(words)
    if bad := [word for word in listed if set(word) & set("{}\\")]:
        raise ValueError(f"no word of a Tcl list may have braces or backslashes: {bad[0]!r}")
    return "{" + " ".join(word if word.replace("_", "").isalnum() else f"{{{word}}}" for word in listed) + "}"
