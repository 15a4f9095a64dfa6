"""The C driver as Python sees it."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Sequence
from pathlib import Path

DRIVER = Path(__file__).parents[3] / "driver" / "c"
READ = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32)
WRITE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32)
START_DMA = ctypes.CFUNCTYPE(None, ctypes.c_int)


class Bus(ctypes.Structure):
    """lightnorm_bus."""

    _fields_ = [("read", READ), ("write", WRITE), ("context", ctypes.c_void_p)]


class LayerWords(ctypes.Structure):
    """lightnorm_layer."""

    _fields_ = [
        (name, ctypes.c_uint32)
        for name in ("channels", "elements", "chunk_blocks", "inv_count", "range_gain", "eps", "momentum")
    ]


def compile_driver(header: Path, sources: Sequence[Path], library: Path) -> list[str]:
    """Compile with every warning an error; what the compiler says."""
    command = [
        "cc", "-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-O1", "-shared", "-fPIC",
        f"-I{header.parent}", f"-I{DRIVER}", *map(str, sorted(DRIVER.glob("*.c"))), *map(str, sources), "-lm",
        "-o", str(library),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stderr.splitlines() if done.returncode or done.stderr else []
