"""Batch normalization with the hardware's arithmetic as PyTorch layers, equal to lightnorm_golden bit for bit."""

from .modules import FoldedLightNorm, LightNorm1d, LightNorm2d, LightNorm3d, SyncLightNorm
from .swap import convert, revert

__all__ = ["FoldedLightNorm", "LightNorm1d", "LightNorm2d", "LightNorm3d", "SyncLightNorm", "convert", "revert"]
