"""Ranks of pipeline registers."""

from __future__ import annotations

from typing import TypeVar

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import data

__all__ = ["Rank", "Skid"]

T = TypeVar("T", Value, data.View)


class Rank:
    """Registers between two parts of a pipeline: `keep` takes a value across, `valid` is that of what lies behind.

    They load what is `valid` when everything may `advance`; or by `loads`, which is true at least then, where that is
    known earlier. A rank that is not `built` is wires: a pipeline names all its cuts, and the configuration's
    `pipeline` says which of them are there.
    """

    def __init__(
        self,
        m: Module,
        name: str,
        valid: Value,
        *,
        advance: Value | None = None,
        loads: Value | None = None,
        built: bool = True,
    ) -> None:
        self._module, self._name, self._built = m, name, built
        advance = Const(1) if advance is None else advance
        self.valid = Signal(name=f"{name}_valid")
        self._load = Signal(name=f"{name}_load")
        if built:
            m.d.comb += self._load.eq(valid & advance if loads is None else loads)
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


class Skid:
    """A rank that cuts what lies before it from `advance`: `ready` is a register.

    It holds two beats, of which the second comes in while the first may not advance. Not `built` it is wires, and
    `ready` is `advance`.
    """

    def __init__(self, m: Module, name: str, valid: Value, *, advance: Value, built: bool = True) -> None:
        self._module, self._name, self._built = m, name, built
        self.valid, self.ready = Signal(name=f"{name}_valid"), Signal(name=f"{name}_ready")
        self._spare = Signal(name=f"{name}_spare_valid")
        self._load, self._save = Signal(name=f"{name}_load"), Signal(name=f"{name}_save")
        if not built:
            m.d.comb += [self.valid.eq(valid), self.ready.eq(advance)]
            return
        free = Signal(name=f"{name}_free")
        m.d.comb += [
            free.eq(advance | ~self.valid),
            self.ready.eq(~self._spare),
            self._load.eq(free),
            self._save.eq(~self._spare),
        ]
        with m.If(free):
            m.d.sync += [self.valid.eq(valid | self._spare), self._spare.eq(0)]
        with m.Elif(valid):
            m.d.sync += self._spare.eq(1)

    def keep(self, value: T, name: str) -> T:
        """The value behind the rank."""
        kept = Signal(value.shape(), name=f"{name}_{self._name}", reset_less=self._built)
        if not self._built:
            self._module.d.comb += kept.eq(value)
            return kept
        spare = Signal(value.shape(), name=f"{name}_{self._name}_spare", reset_less=True)
        with self._module.If(self._save):
            self._module.d.sync += spare.eq(value)
        with self._module.If(self._load):
            self._module.d.sync += kept.eq(Mux(self._spare, spare, value))
        return kept
