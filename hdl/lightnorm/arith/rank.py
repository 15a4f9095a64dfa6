"""A rank of pipeline registers."""

from __future__ import annotations

from typing import TypeVar

from amaranth.hdl import Const, Module, Signal, Value
from amaranth.lib import data

__all__ = ["Rank"]

T = TypeVar("T", Value, data.View)


class Rank:
    """Registers between two parts of a pipeline: `keep` takes a value across, `valid` is that of what lies behind.

    They load what is `valid` when everything may `advance`. A rank that is not `built` is wires: a pipeline names all
    its cuts, and the configuration's `pipeline` says which of them are there.
    """

    def __init__(
        self, m: Module, name: str, valid: Value, *, advance: Value | None = None, built: bool = True
    ) -> None:
        self._module, self._name, self._built = m, name, built
        advance = Const(1) if advance is None else advance
        self.valid = Signal(name=f"{name}_valid")
        self._load = Signal(name=f"{name}_load")
        if built:
            m.d.comb += self._load.eq(valid & advance)
            with m.If(advance):
                m.d.sync += self.valid.eq(valid)
        else:
            m.d.comb += self.valid.eq(valid)

    def keep(self, value: T, name: str) -> T:
        """The value behind the rank."""
        kept = Signal(value.shape(), name=f"{name}_{self._name}", reset_less=self._built)
        if self._built:
            with self._module.If(self._load):
                self._module.d.sync += kept.eq(value)
        else:
            self._module.d.comb += kept.eq(value)
        return kept
