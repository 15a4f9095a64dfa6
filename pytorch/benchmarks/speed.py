"""How much slower LightNorm2d is than torch.nn.BatchNorm2d: ratios, which travel between machines.

Forward and backward of a training step on the CPU, in one process and interleaved. Processor time, and the least of the
repetitions, which other processes on the machine disturb least; one thread unless --threads says otherwise.
Run `python pytorch/benchmarks/speed.py [--repetitions R] [--threads T]`; exits with 1 above the limit.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import torch

from lightnorm_torch import LightNorm2d

SHAPE = (32, 64, 28, 28)
LIMIT = 12.0


def step(layer: torch.nn.Module, x: torch.Tensor, grad_output: torch.Tensor) -> Callable[[], None]:
    """A training step of the layer, gradients of its input and parameters included."""
    leaf = x.clone().requires_grad_()

    def run() -> None:
        leaf.grad = None
        layer.zero_grad()
        layer(leaf).backward(grad_output)

    return run


def least_times(calls: dict[str, Callable[[], None]], repetitions: int) -> dict[str, float]:
    """Least processor seconds of each call; one round before the measured ones warms caches and allocator."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repetitions + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append(time.process_time() - start)
    return {name: min(values[1:]) for name, values in times.items()}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=15, help="measured repetitions (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.repetitions < 1 or options.threads < 1:
        parser.error("--repetitions and --threads must be at least 1")

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    x, grad_output = torch.randn(SHAPE), torch.randn(SHAPE)
    layers = {"BatchNorm2d": torch.nn.BatchNorm2d(SHAPE[1]), "LightNorm2d": LightNorm2d(SHAPE[1])}
    times = least_times({name: step(layer, x, grad_output) for name, layer in layers.items()}, options.repetitions)
    print(f"forward and backward of {'x'.join(map(str, SHAPE))} float32, least of {options.repetitions}")
    for name, seconds in times.items():
        print(f"{name:20} {1000 * seconds:8.1f} ms {seconds / times['BatchNorm2d']:6.1f} x")
    if times["LightNorm2d"] > LIMIT * times["BatchNorm2d"]:
        print(f"LightNorm2d is above its limit of {LIMIT:g} x")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
