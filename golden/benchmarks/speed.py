"""How much slower the golden model is than conventional batch norm in float32: ratios, which travel between machines.

Processor time of this process, which other processes on the machine disturb least; the median of interleaved
repetitions. Run `python golden/benchmarks/speed.py [--repetitions R]`; exits with 1 if forward is above its limit.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from lightnorm_golden import BlockFormat, NormSpec, backward, forward
from lightnorm_golden.reference import batch_norm_two_pass

SHAPE = (32, 64, 28, 28)
FORWARD_LIMIT = 10.0


def median_times(calls: dict[str, Callable[[], Any]], repetitions: int) -> dict[str, float]:
    """Median processor seconds of each call; one round of calls before the measured ones warms caches and allocator."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repetitions + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=9, help="measured repetitions (default: %(default)s)")
    repetitions = parser.parse_args(arguments).repetitions
    if repetitions < 1:
        parser.error(f"--repetitions must be at least 1, not {repetitions}")

    rng = np.random.default_rng(0)
    x, grad_output = (rng.normal(size=SHAPE).astype(np.float32) for _ in range(2))
    weight, bias = np.ones(SHAPE[1], np.float32), np.zeros(SHAPE[1], np.float32)
    spec = NormSpec(BlockFormat(5, 4, 16), BlockFormat(6, 3, 16))
    times = median_times(
        {
            "two-pass batch norm": lambda: batch_norm_two_pass(x, weight, bias),
            "forward": lambda: forward(x, weight, bias, spec=spec),
            "backward": lambda: backward(x, grad_output, weight, spec=spec),
        },
        repetitions,
    )
    base = times["two-pass batch norm"]
    print(f"{'x'.join(map(str, SHAPE))} float32, {spec.activation}, median of {repetitions}")
    for name, seconds in times.items():
        print(f"{name:20} {1000 * seconds:8.1f} ms {seconds / base:6.1f} x")
    if times["forward"] > FORWARD_LIMIT * base:
        print(f"forward is above its limit of {FORWARD_LIMIT:g} x")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
