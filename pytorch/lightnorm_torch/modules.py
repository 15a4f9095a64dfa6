"""Layers with the constructor and semantics of torch.nn.BatchNorm, computing with the hardware's arithmetic."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightnorm_golden import BlockFormat, NormSpec

from .block import holds
from .functional import Settings, affine, infer, scale_and_shift, train, update_running
from .wide import round_wide

__all__ = ["DEFAULT_SPEC", "FoldedLightNorm", "LightNorm1d", "LightNorm2d", "LightNorm3d", "SyncLightNorm"]

DEFAULT_SPEC = NormSpec(activation=BlockFormat(5, 4, 16), gradient=BlockFormat(6, 3, 16))
"""Formats of configs/default.toml."""

_LARGEST = torch.finfo(torch.float32).max


def check_input(x: Tensor, spec: NormSpec, channels: int, dimensions: tuple[int, ...]) -> None:
    if x.dim() not in dimensions:
        wanted = " or ".join(f"{dimension}D" for dimension in dimensions)
        raise ValueError(f"expected {wanted} input (got {x.dim()}D input)")
    if x.shape[1] != channels:
        raise ValueError(f"expected input with {channels} channels (got {x.shape[1]} channels)")
    if x.numel() == 0:
        raise ValueError(f"expected input with at least one element (got size {tuple(x.shape)})")
    if x.dtype in (torch.float32, torch.float64):
        return
    if not x.is_floating_point() or not all(holds(x.dtype, fmt) for fmt in (spec.activation, spec.gradient)):
        raise ValueError(
            f"{x.dtype} cannot hold {spec.activation} and {spec.gradient}: give float32, or compute under autocast"
        )


class _LightNorm(nn.Module):
    """See LightNorm2d."""

    dimensions: tuple[int, ...]
    standard: type[nn.Module]
    """The layer of torch.nn that this one replaces."""

    running_mean: Tensor | None
    running_sigma: Tensor | None
    num_batches_tracked: Tensor | None
    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        spec: NormSpec = DEFAULT_SPEC,
        chunks: int = 16,
    ) -> None:
        super().__init__()
        if not isinstance(spec, NormSpec):
            raise ValueError(f"spec must be a NormSpec, not {spec!r}")
        if isinstance(chunks, bool) or not isinstance(chunks, int) or chunks < 1:
            raise ValueError(f"chunks must be an integer of at least 1, not {chunks!r}")
        if not 0 <= eps < math.inf:
            raise ValueError(f"eps must be a number finite and at least 0, not {eps!r}")
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be a number in [0, 1] or None, not {momentum!r}")
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.spec, self.chunks = spec, chunks
        options = {"device": device, "dtype": dtype}
        self.register_parameter("weight", nn.Parameter(torch.ones(num_features, **options)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(num_features, **options)) if affine else None)
        tracked = track_running_stats
        self.register_buffer("running_mean", torch.zeros(num_features, **options) if tracked else None)
        self.register_buffer("running_sigma", torch.ones(num_features, **options) if tracked else None)
        count = torch.tensor(0, dtype=torch.long, device=device) if tracked else None
        self.register_buffer("num_batches_tracked", count)

    # -- As in torch.nn.BatchNorm --------------------------------------------------------------------------------------

    def reset_running_stats(self) -> None:
        """Mean 0, sigma 1, no batches."""
        if self.running_mean is not None and self.running_sigma is not None and self.num_batches_tracked is not None:
            self.running_mean.zero_()
            self.running_sigma.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """And weight 1, bias 0."""
        self.reset_running_stats()
        if self.weight is not None and self.bias is not None:
            nn.init.ones_(self.weight)
            nn.init.zeros_(self.bias)

    @property
    def running_var(self) -> Tensor | None:
        """running_sigma squared, as the state dict has it; a copy."""
        return None if self.running_sigma is None else _variance(self.running_sigma)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}, activation={self.spec.activation}, "
            f"gradient={self.spec.gradient}, chunks={self.chunks}"
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, *spatial) -> the same shape, dtype and memory format; float32 under autocast."""
        if x.device.type != "meta" and torch.is_autocast_enabled(x.device.type) and x.is_floating_point():
            x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        check_input(x, self.spec, self.num_features, self.dimensions)
        self._check_state()
        group = self._group()
        settings = Settings(self.spec, self.eps, self.chunks)
        if not self.training and self.running_mean is not None and self.running_sigma is not None:
            return infer(x, self.weight, self.bias, self.running_mean, self.running_sigma, settings)
        y, mean, sigma = train(x, self.weight, self.bias, settings, group)
        if self.training and self.running_mean is not None and self.running_sigma is not None:
            self._track(mean, sigma)
        return y

    # -- Beyond it -----------------------------------------------------------------------------------------------------

    def fold(self) -> FoldedLightNorm:
        """The layer for inference only: a scale and a shift per channel, the bits of eval(). Raises ValueError."""
        if self.running_mean is None or self.running_sigma is None:
            raise ValueError("fold() needs running statistics; this layer has track_running_stats=False")
        settings = Settings(self.spec, self.eps, self.chunks)
        with torch.no_grad():
            mean, sigma = (round_wide(v.double(), self.spec.coef) for v in (self.running_mean, self.running_sigma))
            _, scale, shift = scale_and_shift(mean, sigma, self.weight, self.bias, settings)
        return FoldedLightNorm(scale, shift, self.spec, self.dimensions)

    def _group(self) -> Any:
        """Process group whose batches are normalized together, None for this process alone."""
        return None

    def _check_state(self) -> None:
        for name in ("weight", "bias", "running_mean", "running_sigma"):
            value = getattr(self, name)
            if value is not None and value.dtype not in (torch.float32, torch.float64):
                raise ValueError(f"{name} must be float32 or float64 to hold the wide format, not {value.dtype}")

    @torch.no_grad()
    def _track(self, mean: Tensor, sigma: Tensor) -> None:
        assert self.running_mean is not None and self.running_sigma is not None and self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 / self.num_batches_tracked.double() if self.momentum is None else self.momentum
        update_running(self.running_mean, mean, momentum, self.spec)
        update_running(self.running_sigma, sigma, momentum, self.spec)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.running_sigma is not None:
            destination[prefix + "running_var"] = _variance(destination.pop(prefix + "running_sigma"))
            if prefix + "num_batches_tracked" in destination:  # the order of torch.nn.BatchNorm
                destination.move_to_end(prefix + "num_batches_tracked")

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool, missing_keys: list[str],
        unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        state = dict(state_dict)
        if self.running_sigma is not None:
            variance = state.pop(prefix + "running_var", None)
            if variance is not None and (variance < 0).any():
                error_msgs.append(f"{prefix}running_var must not be negative")
                variance = variance.abs()
            if variance is not None:
                # in float64: torch's root of a float32 is not always the nearest one
                state[prefix + "running_sigma"] = variance.double().sqrt().to(variance.dtype)
        absent: list[str] = []
        super()._load_from_state_dict(state, prefix, local_metadata, strict, absent, unexpected_keys, error_msgs)
        missing_keys += [name.replace("running_sigma", "running_var") for name in absent]
        if prefix + "running_var" in unexpected_keys and self.running_sigma is not None:
            unexpected_keys.remove(prefix + "running_var")


def _variance(sigma: Tensor) -> Tensor:
    """The square; it stays finite, so that its root is at most what float32 holds."""
    return sigma.detach().square().clamp(max=_LARGEST)


class LightNorm1d(_LightNorm):
    """torch.nn.BatchNorm1d with the hardware's arithmetic: (N, C) or (N, C, L); see LightNorm2d."""

    dimensions = (2, 3)
    standard = nn.BatchNorm1d


class LightNorm2d(_LightNorm):
    """torch.nn.BatchNorm2d with the hardware's arithmetic, bit for bit: range batch norm in block floating point.

    spec: formats and calibration (lightnorm_golden.NormSpec). chunks: pieces of a channel whose ranges are averaged.
    The other arguments are those of torch.nn.BatchNorm2d, with three differences that the arithmetic makes:
    y = (x - mean) / (sigma + eps) instead of (x - mean) / sqrt(var + eps); momentum must be in [0, 1]; parameters and
    running statistics are float32 or float64 and rounded to the wide format where they are used.

    The buffer is `running_sigma`; the state dict has its square as `running_var`, so that it loads into and from
    torch.nn.BatchNorm2d. The root of the square is again the same sigma if that is in [2^-63, 2^63].

    Shapes: (N, C, H, W) of float32 or float64, or of a half precision that holds both formats; the output has its dtype
    and memory format. (Formats of 8 exponent bits reach 2^129; what float32 cannot hold of them becomes infinite.)
    Under autocast half precision is computed and returned in float32. Infinities saturate; a NaN makes its channel NaN.
    Gradients are those of the specification's section 7 (in eval() with constant statistics), once differentiable.
    Raises ValueError for another shape or dtype, and in training for one value per channel.
    """

    dimensions = (4,)
    standard = nn.BatchNorm2d


class LightNorm3d(_LightNorm):
    """torch.nn.BatchNorm3d with the hardware's arithmetic: (N, C, D, H, W); see LightNorm2d."""

    dimensions = (5,)
    standard = nn.BatchNorm3d


class SyncLightNorm(_LightNorm):
    """torch.nn.SyncBatchNorm with the hardware's arithmetic: statistics of all processes of a group, merged exactly.

    Its output and input gradient are those of one machine that sees the ranks' batches one after the other, bit for bit
    if every rank but the last holds whole blocks; each rank's elements begin a block. As in torch.nn.SyncBatchNorm the
    gradients of weight and bias are each process's own: DistributedDataParallel averages them. Any dimensions from 2D.
    """

    dimensions = (2, 3, 4, 5)
    standard = nn.SyncBatchNorm

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: Any = None,
        dtype: Any = None,
        *,
        spec: NormSpec = DEFAULT_SPEC,
        chunks: int = 16,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, spec=spec, chunks=chunks
        )
        self.process_group = process_group

    def _group(self) -> Any:
        if not self.training or not dist.is_available() or not dist.is_initialized():
            return None
        group = self.process_group or dist.group.WORLD
        return group if dist.get_world_size(group) > 1 else None


class FoldedLightNorm(nn.Module):
    """A layer of fixed scale and shift, float64 (C,) buffers of K values: the bits of eval(). Not differentiable."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor, spec: NormSpec, dimensions: tuple[int, ...]) -> None:
        super().__init__()
        self.spec, self.dimensions = spec, dimensions
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, *spatial) -> the same shape, dtype and memory format; float32 under autocast."""
        if torch.is_autocast_enabled(x.device.type) and x.dtype in (torch.float16, torch.bfloat16):
            x = x.float()
        check_input(x, self.spec, len(self.scale), self.dimensions)
        return affine(x, self.scale.double(), self.shift.double(), self.spec)
