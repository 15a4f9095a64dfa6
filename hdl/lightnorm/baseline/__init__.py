"""Conventional batch norm from the same generator: what LightNorm is compared with.

One machine with a statistic (L2, range) and formats; streams, lanes, buffer rule and rate are those of
`lightnorm.core`.
"""

from .core import Baseline
from .design import Design, ladder
from .generate import generate_baseline

__all__ = ["Baseline", "Design", "generate_baseline", "ladder"]
