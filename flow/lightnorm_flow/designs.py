"""What can be compared: LightNorm configurations now, other batch norms that offer the same."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from lightnorm.config import Config
from lightnorm.generate import TOP, generate
from lightnorm_golden import NormSpec, backward, forward
from lightnorm_sim.layer import Tensors

from .machine import Traffic, lightnorm
from .report import CHUNKS, EPS, snr_db

__all__ = ["Design", "LightNorm", "ladder", "with_blocks"]


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
    """Each rung an idea further, at the lanes of `config`; a beat holds at least one block, so rungs with larger blocks
    have more lanes."""
    rungs: list[Design] = []
    for block_size in (4, 8, 16, 32):
        lanes = -(-config.lanes // block_size) * block_size
        rungs.append(LightNorm(f"bfp{block_size}", with_blocks(config, config.spec, block_size, lanes)))
    return rungs
