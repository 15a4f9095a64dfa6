"""Position of the highest set bit."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

__all__ = ["leading_one"]


def leading_one(m: Module, vector: Value, *, name: str) -> tuple[Value, Value]:
    """(index of the highest set bit, whether any bit is set); a balanced tree, index 0 when none is set."""
    level: list[tuple[Value, Value]] = [(Const(0, 0), vector[i]) for i in range(len(vector))]
    depth = 0
    while len(level) > 1:
        following = []
        for pair in range(0, len(level) - 1, 2):
            (low_index, low_any), (high_index, high_any) = level[pair : pair + 2]
            index, found = Signal(depth + 1, name=f"{name}_{depth}_{pair}"), Signal(name=f"{name}_any_{depth}_{pair}")
            m.d.comb += [
                index.eq(Cat(Mux(high_any, high_index, low_index), high_any) if depth else high_any),
                found.eq(high_any | low_any),
            ]
            following.append((index, found))
        if len(level) % 2:
            index, found = level[-1]
            following.append((Cat(index, Const(0, depth + 1 - len(index))), found))
        level, depth = following, depth + 1
    return level[0]
