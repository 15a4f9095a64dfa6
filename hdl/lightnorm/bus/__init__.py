"""The machine behind AMBA interfaces: AXI4-Stream data, AXI4-Lite control, an interrupt."""

from .registers import RegisterMap, register_map
from .top import LightNorm

__all__ = ["LightNorm", "RegisterMap", "register_map"]
