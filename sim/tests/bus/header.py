"""Reads the generated C header."""

from __future__ import annotations

import re
from pathlib import Path


def read_header(path: Path) -> dict[str, int]:
    """The constants of the generated C header, without their prefix."""
    found = re.findall(r"^#define LIGHTNORM_(\w+) (0x[0-9a-f]+)u$", path.read_text(), re.M)
    return {name: int(value, 16) for name, value in found}
