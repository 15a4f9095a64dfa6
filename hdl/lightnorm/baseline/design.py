"""The conventional machines that are compared: names, statistics, formats."""

from __future__ import annotations

from dataclasses import dataclass

from lightnorm_golden.baseline import FloatNormSpec
from lightnorm_golden.formats import FloatFormat

__all__ = ["Design", "ladder"]


@dataclass(frozen=True)
class Design:
    """A rung of the ladder: `name` for files and tables, and what it computes."""

    name: str
    spec: FloatNormSpec

    @property
    def statistic(self) -> str:
        return self.spec.statistic

    @property
    def format(self) -> str:
        """Storage, such as fp32_e8m23, gradients behind a slash where they differ."""
        activation, gradient = self.spec.activation, self.spec.gradient
        return str(activation) if activation == gradient else f"{activation}/{gradient}"


def ladder() -> tuple[Design, ...]:
    """From conventional FP32 to LightNorm's precision without blocks; LightNorm's own rungs are configurations.

    Sums and per-channel values are FP32 but for the last, whose are LightNorm's; a scale has as many bits as storage.
    """
    single, half, brain = FloatFormat(8, 23), FloatFormat(5, 10), FloatFormat(8, 7)
    return (
        Design("l2-fp32", FloatNormSpec("l2", single, single)),
        Design("l2-bf16", FloatNormSpec("l2", brain, brain, 23, 7)),
        Design("range-fp32", FloatNormSpec("range", single, single)),
        Design("range-fp16", FloatNormSpec("range", half, half, 23, 10)),
        Design("range-fp10", FloatNormSpec("range", FloatFormat(5, 4), FloatFormat(6, 3), 15, 7)),
    )
