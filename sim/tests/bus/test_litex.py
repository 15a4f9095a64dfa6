"""LiteX builds a SoC around the block, and a host in it runs a layer: `examples/litex`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .axi import HERE, MACHINE, STREAMS, generated

ROOT = HERE.parents[2]


@pytest.mark.parametrize(
    "config", [MACHINE, pytest.param(STREAMS, marks=pytest.mark.slow)], ids=lambda path: path.stem
)
def test_soc(config: Path, tmp_path: Path) -> None:
    shutil.copytree(generated(config), tmp_path / "block")
    command = [sys.executable, "examples/litex/run.py", str(tmp_path / "block")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for name in ("train", "infer", "backward"):
        assert f"{name}: 50 values equal the golden model" in done.stdout
    assert done.stdout.splitlines()[-1] == "PASS"
