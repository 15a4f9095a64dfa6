"""What can be compared: LightNorm configurations, and conventional machines of the same generator."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lightnorm import baseline
from lightnorm.baseline.apply import word_bits
from lightnorm.baseline.generate import TOP as BASELINE
from lightnorm.config import Config
from lightnorm.generate import TOP, generate
from lightnorm_golden import NormSpec, backward, forward
from lightnorm_golden.baseline import (
    FloatConstants,
    backward_lanes,
    coefficients,
    float_constants,
    forward_lanes,
    gradient_coefficients,
    reduce_lanes,
)
from lightnorm_golden.reference import range_batch_norm, range_batch_norm_backward, signal_to_noise_db
from lightnorm_golden.wide import round_wide
from lightnorm_sim import Run, RunResult
from lightnorm_sim.baseline import compare_baseline, prepare_baseline
from lightnorm_sim.layer import Tensors, compare, prepare
from lightnorm_sim.tools import fingerprint

from .machine import Traffic, conventional, lightnorm
from .report import CHUNKS, EPS, MOMENTUM, snr_db

__all__ = ["CheckedRun", "Conventional", "Design", "LightNorm", "ladder", "with_blocks"]

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class CheckedRun:
    """A run, and what tells where its result is not the golden model's; None where every bit is."""

    run: Run
    mismatch: Callable[[RunResult], str | None]


class Design(Protocol):
    """A batch norm that can be built. Objects travel to other processes."""

    @property
    def name(self) -> str: ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """Of results: hash (of all that decides the Verilog), statistic ("l2", "range"), format, gradient_format,
        lanes."""

    def emit(self, folder: Path) -> tuple[Path, str]:
        """Write the Verilog; its file and its top module."""

    @property
    def traffic(self) -> Traffic: ...

    def snr_db(self, tensors: Tensors) -> dict[str, float | None]:
        """Signal to noise of "forward" and "backward" on real tensors, end to end."""

    def checked_run(self, mode: str, tensors: Tensors) -> CheckedRun:
        """Of "train" or "backward" on real tensors."""


@dataclass(frozen=True)
class LightNorm:
    """A configuration of this generator."""

    name: str
    config: Config

    @property
    def facts(self) -> dict[str, Any]:
        spec = self.config.spec
        return {
            "hash": self.config.hash,
            "statistic": "range",
            "format": str(spec.activation),
            "gradient_format": str(spec.gradient),
            "lanes": self.config.lanes,
        }

    def emit(self, folder: Path) -> tuple[Path, str]:
        generate(self.config, folder)
        return folder / f"{TOP}.v", TOP

    @property
    def traffic(self) -> Traffic:
        return lightnorm(self.config)

    def snr_db(self, tensors: Tensors) -> dict[str, float | None]:
        spec, t = self.config.spec, tensors
        y = forward(t.x, t.weight, t.bias, spec=spec, eps=EPS, chunks=CHUNKS)
        found: dict[str, float | None] = {"forward": snr_db(spec, t, "train", y.output), "backward": None}
        if self.config.has("backward") and t.grad is not None:
            dx = backward(t.x, t.grad, t.weight, spec=spec, eps=EPS, chunks=CHUNKS)
            found["backward"] = snr_db(spec, t, "backward", dx.grad_input)
        return found

    def checked_run(self, mode: str, tensors: Tensors) -> CheckedRun:
        layer = prepare(self.config, mode, tensors, eps=EPS, momentum=MOMENTUM, chunks=CHUNKS)
        return CheckedRun(layer.run, lambda result: compare(layer, result))


@dataclass(frozen=True)
class Conventional:
    """A conventional machine with the lanes, the passes and the buffer of a configuration."""

    design: baseline.Design
    like: Config

    @property
    def name(self) -> str:
        return self.design.name

    @property
    def facts(self) -> dict[str, Any]:
        spec = self.design.spec
        decides = json.dumps([self.name, asdict(spec), self._built, self.like.lanes], sort_keys=True)
        return {
            "hash": fingerprint(decides)[:8],
            "statistic": spec.statistic,
            "format": str(spec.activation),
            "gradient_format": str(spec.gradient),
            "lanes": self.like.lanes,
        }

    @property
    def _built(self) -> dict[str, Any]:
        built = self.like.implementation
        return {"passes": built.passes, "buffer_beats": self.like.buffer_beats, "max_chunks": built.max_chunks}

    def emit(self, folder: Path) -> tuple[Path, str]:
        baseline.generate_baseline(self.design, folder, lanes=self.like.lanes, **self._built)
        return folder / f"{BASELINE}.v", BASELINE

    @property
    def traffic(self) -> Traffic:
        spec = self.design.spec
        x_bits, grad_bits = spec.activation.bits, spec.gradient.bits
        return conventional(lightnorm(self.like), x_bits=x_bits, grad_bits=grad_bits, statistic=spec.statistic)

    def snr_db(self, tensors: Tensors) -> dict[str, float | None]:
        """Against batch norm of the design's statistic in float64; range statistics have chunks of whole beats."""
        spec, lanes = self.design.spec, self.like.lanes
        x, weight, bias = _by_channel(tensors.x), _float64(tensors.weight), _float64(tensors.bias)
        channels = len(x)
        given = round_wide(x, spec.activation)
        constants: FloatConstants = float_constants(x.shape[1], CHUNKS, lanes, spec)
        rounded_weight, rounded_bias = round_wide(weight, spec.coef), round_wide(bias, spec.coef)
        eps, momentum = (float(round_wide(np.array(value), spec.coef)) for value in (EPS, MOMENTUM))
        statistics = reduce_lanes(given, None, lanes=lanes, chunk_beats=constants.chunk_beats, spec=spec)
        found = coefficients(
            statistics, constants, rounded_weight, rounded_bias, np.zeros(channels), np.ones(channels),
            eps=eps, momentum=momentum, spec=spec,
        )  # fmt: skip
        y = forward_lanes(given, found, spec)
        noise: dict[str, float | None] = {
            "forward": signal_to_noise_db(self._exact(x, None, weight, bias), y), "backward": None,
        }  # fmt: skip
        if "backward" in self.like.implementation.passes and tensors.grad is not None:
            grad = _by_channel(tensors.grad)
            grad_given = round_wide(grad, spec.gradient)
            both = reduce_lanes(given, grad_given, lanes=lanes, chunk_beats=constants.chunk_beats, spec=spec)
            applied = gradient_coefficients(
                both, constants, found["mean"], found["invstd"], rounded_weight, spec=spec
            )
            dx = backward_lanes(given, grad_given, applied, both, spec)
            noise["backward"] = signal_to_noise_db(self._exact(x, grad, weight, bias), dx)
        return noise

    def checked_run(self, mode: str, tensors: Tensors) -> CheckedRun:
        spec, t = self.design.spec, tensors
        sigma = _float64(t.running_sigma)
        layer = prepare_baseline(
            spec, mode, t.x, t.grad if mode == "backward" else None, lanes=self.like.lanes,
            buffer_beats=self.like.buffer_beats, weight=t.weight, bias=t.bias, running_mean=t.running_mean,
            running_spread=sigma**2 if spec.statistic == "l2" else sigma, eps=EPS, momentum=MOMENTUM, chunks=CHUNKS,
        )  # fmt: skip
        bits = word_bits(spec, "backward" in self.like.implementation.passes)
        return CheckedRun(layer.run, lambda result: compare_baseline(layer, result, word_bits=bits))

    def _exact(self, x: Float64, grad: Float64 | None, weight: Float64, bias: Float64) -> Float64:
        """y, or with a gradient dx, in float64; all (C, elements)."""
        if self.design.spec.statistic == "range":
            settings: Any = {"block_size": self.like.lanes, "chunks": CHUNKS, "eps": EPS}
            if grad is None:
                return np.moveaxis(range_batch_norm(x.T, weight, bias, **settings), 0, 1)
            return np.moveaxis(range_batch_norm_backward(x.T, grad.T, weight, **settings), 0, 1)
        centered = x - x.mean(axis=1, keepdims=True)
        inverse = 1 / np.sqrt((centered**2).mean(axis=1, keepdims=True) + EPS)
        normal = centered * inverse
        if grad is None:
            y: Float64 = normal * weight[:, None] + bias[:, None]
            return y
        mean, share = grad.mean(axis=1, keepdims=True), (grad * normal).mean(axis=1, keepdims=True)
        dx: Float64 = weight[:, None] * inverse * (grad - mean - normal * share)
        return dx


def _by_channel(tensor: NDArray[Any]) -> Float64:
    """(N, C, *spatial) -> (C, elements)."""
    moved = np.moveaxis(tensor, 1, 0)
    return moved.reshape(len(moved), -1).astype(np.float64)


def _float64(values: NDArray[Any] | None) -> Float64:
    assert values is not None  # the report's data have all of them
    return values.astype(np.float64)


def with_blocks(config: Config, spec: NormSpec, block_size: int, lanes: int) -> Config:
    """The configuration with the formats of `spec` in blocks of `block_size`, and a buffer of as many elements as it
    has. Raises ValueError."""
    blocks_per_beat = lanes // block_size
    beats = config.buffer_beats * config.lanes // lanes
    return Config(
        replace(
            spec,
            activation=replace(spec.activation, block_size=block_size),
            gradient=replace(spec.gradient, block_size=block_size),
        ),
        replace(config.implementation, blocks_per_beat=blocks_per_beat, buffer_blocks=beats * blocks_per_beat),
    )


def ladder(config: Config) -> list[Design]:
    """From conventional FP32 to block floating point, at the lanes of `config`; a beat holds at least one block, so
    rungs with larger blocks have more lanes. The conventional machines have the pipeline of a fast clock; those of
    LightNorm that of the least area, and blocks of 16 both."""
    rungs: list[Design] = [Conventional(design, config) for design in baseline.ladder()]
    for block_size, pipeline, suffix in (*((size, "short", "") for size in (4, 8, 16, 32)), (16, "deep", "-deep")):
        lanes = -(-config.lanes // block_size) * block_size
        built = with_blocks(config, config.spec, block_size, lanes)
        built = replace(built, implementation=replace(built.implementation, pipeline=pipeline))
        rungs.append(LightNorm(f"bfp{block_size}{suffix}", built))
    return rungs
