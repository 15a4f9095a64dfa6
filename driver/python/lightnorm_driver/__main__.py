"""Runs a tensor through a board: `python -m lightnorm_driver --help`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightnorm_golden import backward, forward, infer

from . import Device, DeviceError, Result
from .serial_line import Port, connect

__all__ = ["main"]

VECTORS = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_sigma": 1.0}
TIMEOUT = 0.5
"""Seconds; longer than the board's, 8192 bit times, from 38,400 baud on."""


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lightnorm_driver", description="Send a tensor to a board with LightNorm and receive the result."
    )
    parser.add_argument("--port", required=True, help="serial port, such as /dev/ttyUSB0 or COM3")
    parser.add_argument("--baud", type=int, default=500_000, help="as the bitstream was built (default: %(default)s)")
    parser.add_argument("--description", type=Path, required=True, help="lightnorm_uart.json, made with the bitstream")
    parser.add_argument("--mode", choices=("train", "infer", "backward"), default="train")
    parser.add_argument("--input", type=Path, required=True, help="x, a .npy file (N, C, *spatial)")
    parser.add_argument("--grad", type=Path, help="gradient of the output, like the input; backward only")
    for name, default in VECTORS.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=Path, help=f"a .npy file (C,) (default: all {default:g})")
    parser.add_argument("--eps", type=float, default=1e-5)
    parser.add_argument("--momentum", type=float, default=0.1)
    parser.add_argument("--chunks", type=int, default=16)
    parser.add_argument("--output", type=Path, required=True, help="y, in backward the gradient of x, a .npy file")
    parser.add_argument("--check", action="store_true", help="compare every value with the golden model")
    return parser


def open_port(name: str, baud: int) -> Port:
    """A port of this computer. Raises DeviceError."""
    try:
        import serial
    except ImportError:
        raise DeviceError("pyserial was not found: run `pip install pyserial` (the extra serial has it)") from None
    try:
        port: Port = serial.Serial(name, baud, timeout=TIMEOUT)
    except (serial.SerialException, ValueError) as error:
        raise DeviceError(f"--port {name}: {error}") from None
    return port


def main(arguments: Sequence[str] | None = None, opened: Callable[[str, int], Port] = open_port) -> int:
    """The exit status. `opened`: opens a port, given its name and the baud rate."""
    options = _arguments().parse_args(arguments)
    try:
        description = json.loads(options.description.read_text())
        if "registers" not in description:
            raise ValueError(f"--description {options.description} has no registers; give lightnorm_uart.json")
        tensors = {name: _load(getattr(options, name)) for name in ("input", "grad", *VECTORS)
                   if getattr(options, name) is not None}  # fmt: skip
        if ("grad" in tensors) != (options.mode == "backward"):
            raise ValueError("--grad belongs to --mode backward, and backward needs it")
        device = connect(opened(options.port, options.baud), description)
        x, grad = tensors.pop("input"), tensors.pop("grad", None)
        settings = {"eps": options.eps, "chunks": options.chunks}
        result = _run(device, options.mode, x, grad, tensors, settings, options.momentum)
        partial = options.output.with_name(f".{options.output.name}.partial")
        with partial.open("wb") as file:
            np.save(file, result.output)
        partial.replace(options.output)
        print(f"{options.mode}: {x.size} values, {device.counters()['cycles']} cycles of the machine; {options.output}")
        if options.check:
            expected = _expected(device, options.mode, x, grad, tensors, settings)
            if wrong := int(np.sum(result.output != expected)):
                raise DeviceError(f"{wrong} of {x.size} values differ from the golden model")
            print("every value equals the golden model's")
    except (DeviceError, ValueError, KeyError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _load(path: Path) -> NDArray[Any]:
    array = np.load(path, allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} is a .npz archive; give one array, saved by numpy.save")
    return array


def _run(
    device: Device, mode: str, x: NDArray[Any], grad: NDArray[Any] | None, vectors: dict[str, NDArray[Any]],
    settings: dict[str, Any], momentum: float,
) -> Result:  # fmt: skip
    if mode == "train":
        return device.train(x, momentum=momentum, **vectors, **settings)
    if mode == "infer":
        return device.infer(x, **vectors, **settings)
    assert grad is not None
    return device.backward(x, grad, **vectors, **settings)


def _expected(
    device: Device, mode: str, x: NDArray[Any], grad: NDArray[Any] | None, vectors: dict[str, NDArray[Any]],
    settings: dict[str, Any],
) -> NDArray[Any]:  # fmt: skip
    """The output by the golden model."""
    full = {name: vectors.get(name, np.full(x.shape[1], default, np.float32)) for name, default in VECTORS.items()}
    spec = device.spec
    if mode == "train":
        return forward(x, full["weight"], full["bias"], spec=spec, **settings).output
    if mode == "infer":
        return infer(x, *full.values(), spec=spec, eps=settings["eps"]).output
    assert grad is not None
    return backward(x, grad, full["weight"], spec=spec, **settings).grad_input


if __name__ == "__main__":
    sys.exit(main())
