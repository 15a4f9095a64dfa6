"""The benchmark runs, prints its ratios, and holds its limit."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SPEED = Path(__file__).parents[1] / "benchmarks" / "speed.py"


def test_speed() -> None:
    result = subprocess.run(
        [sys.executable, str(SPEED), "--repetitions", "5"], capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    ratios = dict(re.findall(r"^(\S.*?) +[\d.]+ ms +([\d.]+) x$", result.stdout, re.MULTILINE))
    assert set(ratios) == {"two-pass batch norm", "forward", "backward"}, result.stdout
    assert 0 < float(ratios["forward"]) <= 10
