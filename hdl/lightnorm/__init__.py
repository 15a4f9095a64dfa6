"""LightNorm: an Amaranth generator of batch-normalization hardware."""

from .config import Config, ConfigError, Implementation, load_config

__all__ = ["Config", "ConfigError", "Implementation", "load_config"]
