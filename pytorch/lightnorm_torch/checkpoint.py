"""The bridge between trained networks and `lightnorm simulate`: layers and tensors as .npy files, and back."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightnorm_golden import NormSpec

from .modules import LightNorm1d, LightNorm2d, LightNorm3d

__all__ = ["export_layer", "record", "run_layer"]

Array = NDArray[Any]
_NAMES = ("weight", "bias", "running_mean", "running_sigma")


def export_layer(checkpoint: Path, layer: str, folder: Path) -> dict[str, Path]:
    """Write what a checkpoint holds of a batch normalization layer: weight, bias, running_mean, running_sigma (C,).

    The checkpoint is a state dict saved by torch.save, or a dict with one under `state_dict` or `model`; running_sigma
    is the root of its running_var. Only tensors are read, no code is run. -> the files by name, without what the layer
    does not have. Raises ValueError.
    """
    state = _state_dict(checkpoint)
    prefix = f"{layer}." if layer else ""
    found = {name: state[prefix + name] for name in ("weight", "bias", "running_mean") if prefix + name in state}
    if prefix + "running_var" in state:
        found["running_sigma"] = state[prefix + "running_var"].double().sqrt().to(state[prefix + "running_var"].dtype)
    if "running_mean" not in found or "running_sigma" not in found:
        layers = [name.removesuffix("running_var").removesuffix(".") for name in state if name.endswith("running_var")]
        those = f"those with them are {', '.join(layers)}" if layers else "it has none"
        raise ValueError(f"{checkpoint} has no running statistics of a layer {layer!r}; {those}")
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, value in found.items():
        files[name] = folder / f"{name}.npy"
        np.save(files[name], value.detach().float().numpy() if value.dtype != torch.float64 else value.numpy())
    return files


def _state_dict(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError):
        raise ValueError(f"{path} is not a state dict saved by torch.save(model.state_dict(), ...)") from None
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}, not a state dict")
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def run_layer(
    runs: Sequence[str], tensors: dict[str, Array | None], spec: NormSpec, *, eps: float, momentum: float, chunks: int
) -> list[Array]:
    """What the PyTorch layer computes in each of `runs`: the output of `train` or `infer`, dL/dx of `backward`.

    tensors: `x`, and for backward `grad`, (N, C, *spatial); weight, bias, running_mean, running_sigma (C,) or None
    (1, 0, 0, 1). Computed in float64, which holds every format.
    """
    given = {name: torch.from_numpy(np.array(v, np.float64)) for name, v in tensors.items() if v is not None}
    x = given["x"].requires_grad_()
    if not 2 <= x.dim() <= 5:
        raise ValueError(f"a PyTorch layer takes 2 to 5 dimensions (N, C, *spatial), not {x.dim()}")
    layer_type = {2: LightNorm1d, 3: LightNorm1d, 4: LightNorm2d, 5: LightNorm3d}[x.dim()]
    results = []
    for run in runs:
        layer: Any = layer_type(x.shape[1], eps, momentum, dtype=torch.float64, spec=spec, chunks=chunks)
        with torch.no_grad():
            for name in _NAMES:
                if name in given:
                    getattr(layer, name).copy_(given[name])
        y = layer.train(run != "infer")(x)
        result = torch.autograd.grad(y, x, given["grad"])[0] if run == "backward" else y
        results.append(result.detach().numpy())
    return results


@contextmanager
def record(model: nn.Module, layer: str, folder: Path) -> Iterator[None]:
    """While in it, the tensors of a layer's last call are kept, and written when it ends, each (N, C, *spatial).

    input.npy, output.npy and, if there was a backward pass, grad_output.npy; those of `lightnorm simulate --input` and
    `--grad`. Raises ValueError if the model has no such layer or the layer was not called.
    """
    kept: dict[str, Tensor] = {}

    def keep_gradient(gradient: Tensor) -> None:
        kept["grad_output"] = gradient.detach().clone()

    def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kept.pop("grad_output", None)
        kept["input"], kept["output"] = inputs[0].detach().clone(), output.detach().clone()
        if output.requires_grad:
            output.register_hook(keep_gradient)

    modules = dict(model.named_modules())
    if layer not in modules:
        raise ValueError(f"the model has no layer {layer!r}")
    handle = modules[layer].register_forward_hook(keep)
    try:
        yield
    finally:
        handle.remove()
    if not kept:
        raise ValueError(f"the layer {layer!r} was not called")
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in kept.items():
        np.save(folder / f"{name}.npy", (value if value.dtype == torch.float64 else value.float()).cpu().numpy())
