"""LightNorm's golden model: the arithmetic specification made executable, in NumPy only."""

from .backward import Backward, backward
from .block import Blocks, decode, pack, quantize, unpack
from .formats import BlockFormat, FloatFormat, WideFormat
from .forward import Forward, Inference, forward, infer
from .spec import GAINS, MAX_ELEMENTS, NormSpec
from .statistics import HostConstants, host_constants

__all__ = [
    "GAINS", "MAX_ELEMENTS", "Backward", "BlockFormat", "Blocks", "FloatFormat", "Forward", "HostConstants",
    "Inference", "NormSpec", "WideFormat", "backward", "decode", "forward", "host_constants", "infer", "pack",
    "quantize", "unpack",
]  # fmt: skip
