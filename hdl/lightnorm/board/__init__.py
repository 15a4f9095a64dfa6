"""The machine on an evaluation board: behind a serial line, driven by `lightnorm_driver.serial_line`."""

from .top import SerialLightNorm

__all__ = ["SerialLightNorm"]
