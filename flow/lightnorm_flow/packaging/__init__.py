"""What `lightnorm generate` writes for an integrator beside the hardware and its registers."""

from .folder import package

__all__ = ["package"]
