"""The benchmark runs, prints its ratios, and holds its limit."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SPEED = Path(__file__).parents[1] / "benchmarks" / "speed.py"


def test_speed() -> None:
    result = subprocess.run(
        [sys.executable, str(SPEED), "--repetitions", "9"], capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    ratios = dict(re.findall(r"^(\S+) +[\d.]+ ms +([\d.]+) x$", result.stdout, re.MULTILINE))
    assert set(ratios) == {"BatchNorm2d", "LightNorm2d"} and 0 < float(ratios["LightNorm2d"]) <= 12, result.stdout
