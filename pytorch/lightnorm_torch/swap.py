"""Swap the batch normalization layers of a model, keeping weights and running statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from lightnorm_golden import NormSpec

from .modules import DEFAULT_SPEC, LightNorm1d, LightNorm2d, LightNorm3d, SyncLightNorm, _LightNorm

__all__ = ["convert", "revert"]

_LAYERS: tuple[type[_LightNorm], ...] = (LightNorm1d, LightNorm2d, LightNorm3d, SyncLightNorm)

Model = TypeVar("Model", bound=nn.Module)


def convert(model: nn.Module, spec: NormSpec = DEFAULT_SPEC, *, chunks: int = 16) -> nn.Module:
    """Replace every torch.nn.BatchNorm1d, 2d, 3d and SyncBatchNorm by its counterpart; returns the model.

    In place, but for a model that is itself such a layer. Parameters stay the same objects, so that optimizers keep
    them; running_sigma is the root of running_var. Subclasses are left alone. Raises ValueError for a layer that a
    LightNorm refuses.
    """
    by_standard = {layer.standard: layer for layer in _LAYERS}

    def counterpart(old: Any) -> nn.Module | None:
        new_type = by_standard.get(type(old))
        return None if new_type is None else _move(old, new_type, spec=spec, chunks=chunks)

    return _replace(model, counterpart, {})


def revert(model: nn.Module) -> nn.Module:
    """The inverse of `convert`: every LightNorm becomes torch.nn.BatchNorm, running_var the square of running_sigma."""

    def counterpart(old: Any) -> nn.Module | None:
        return _move(old, old.standard) if type(old) in _LAYERS else None

    return _replace(model, counterpart, {})


def _replace(
    module: nn.Module, counterpart: Callable[[Any], nn.Module | None], done: dict[nn.Module, nn.Module]
) -> nn.Module:
    """`done` has the modules seen: one that is used in several places stays one."""
    if module not in done:
        done[module] = counterpart(module) or module
        if done[module] is module:
            for name, child in list(module._modules.items()):  # named_children leaves out what comes again
                if child is not None:
                    setattr(module, name, _replace(child, counterpart, done))
    return done[module]


def _move(old: Any, new_type: Any, **options: Any) -> nn.Module:
    some = old.weight if old.weight is not None else old.running_mean
    if new_type.__name__.startswith("Sync"):
        options["process_group"] = old.process_group
    if some is not None:
        options |= {"device": some.device, "dtype": some.dtype}
    new: nn.Module = new_type(old.num_features, old.eps, old.momentum, old.affine, old.track_running_stats, **options)
    new.load_state_dict(old.state_dict())
    new.weight, new.bias = old.weight, old.bias
    return new.train(old.training)
