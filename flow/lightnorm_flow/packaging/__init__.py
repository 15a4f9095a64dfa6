"""What `lightnorm generate` writes for an integrator beside the hardware and its registers."""

from .folder import package, write_readme

__all__ = ["package", "write_readme"]
