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
        self._module, self._name, self._built, self._before = m, name, built, valid
        advance = self._advance = Const(1) if advance is None else advance
        self.valid = Signal(name=f"{name}_valid")
        self._load = Signal(name=f"{name}_load")
        if built:
            m.d.comb += self._load.eq(valid & advance if loads is None else loads)
            with m.If(advance):
                m.d.sync += self.valid.eq(valid)
        else:
            m.d.comb += self.valid.eq(valid)

    def vacant(self) -> Signal:
        """Not `valid`, from a register of its own: one that many loads have, such as enables, is seen late by all."""
        vacant = Signal(init=1, name=f"{self._name}_vacant")
        with self._module.If(self._advance):
            self._module.d.sync += vacant.eq(~self._before)
        return vacant

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

    It holds two beats, of which the second comes in while the first may not advance. `full` is the contrary of `ready`,
    from another register: for many loads, such as enables. Not `built` it is wires, `ready` is `advance`, and there is
    no `full`.
    """

    def __init__(self, m: Module, name: str, valid: Value, *, advance: Value, built: bool = True) -> None:
        self._module, self._name, self._built = m, name, built
        self.valid, self.ready = Signal(name=f"{name}_valid"), Signal(name=f"{name}_ready", init=built)
        self.full = Signal(name=f"{name}_spare_valid")
        self._load = Signal(name=f"{name}_load")
        if not built:
            m.d.comb += [self.valid.eq(valid), self.ready.eq(advance)]
            return
        free = self._load
        m.d.comb += free.eq(advance | ~self.valid)
        # no enables or resets of these: they would come later
        m.d.sync += [
            self.valid.eq(valid | self.full | ~free),
            self.full.eq((valid | self.full) & ~free),
            self.ready.eq(~(valid | self.full) | free),
        ]

    def keep(self, value: T, name: str) -> T:
        """The value behind the rank."""
        kept = Signal(value.shape(), name=f"{name}_{self._name}", reset_less=self._built)
        if not self._built:
            self._module.d.comb += kept.eq(value)
            return kept
        spare = Signal(value.shape(), name=f"{name}_{self._name}_spare", reset_less=True)
        with self._module.If(~self.full):
            self._module.d.sync += spare.eq(value)
        with self._module.If(self._load):
            self._module.d.sync += kept.eq(Mux(self.full, spare, value))
        return kept
