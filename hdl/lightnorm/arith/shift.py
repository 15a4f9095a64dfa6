"""Logarithmic shifters. Each step is a named signal: Amaranth expressions are trees, and would double at every step."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Shape, Signal, Value

from .rank import Rank

__all__ = ["normalize", "shift_left", "shift_right_sticky"]


def shift_left(m: Module, value: Value, amount: Value, width: int, *, unit: int = 1, name: str) -> Signal:
    """value << (amount * unit), kept to `width` bits, with the sign of a signed value. Short steps first."""
    is_signed = value.shape().signed
    current = value
    for bit in range(len(amount)):
        size = unit << bit
        reach = min(width, len(current) + size)
        step = Signal(Shape(reach, is_signed), name=f"{name}_by_{size}")
        m.d.comb += step.eq(Mux(amount[bit], current << size, current))
        current = step
    shifted = Signal(Shape(width, is_signed), name=f"{name}_out")
    m.d.comb += shifted.eq(current)
    return shifted


def shift_right_sticky(m: Module, value: Value, amount: Value, *, name: str) -> tuple[Signal, Signal]:
    """(value >> amount, whether any dropped bit was set); unsigned, the width of `value`. Short steps first."""
    current, sticky = Signal(len(value), name=f"{name}_in"), Signal(name=f"{name}_sticky_in")
    m.d.comb += current.eq(value)
    for bit in range(len(amount)):
        size = 1 << bit
        step = Signal(len(value), name=f"{name}_by_{size}")
        dropped = Signal(name=f"{name}_sticky_{size}")
        m.d.comb += [
            step.eq(Mux(amount[bit], current >> size, current)),
            dropped.eq(sticky | (amount[bit] & current[:size].any())),
        ]
        current, sticky = step, dropped
    return current, sticky


def normalize(m: Module, value: Value, *, name: str, cut: Rank | None = None) -> tuple[Signal, Signal]:
    """(value shifted left until its top bit is set, number of places); zero gives all places and zero.

    Long steps first; with a `cut`, the short half of them is behind that rank, and so are both results.
    """
    width = len(value)
    current = Signal(width, name=f"{name}_in")
    m.d.comb += current.eq(value)
    places: list[Value] = []
    steps = (width - 1).bit_length()
    for bit in reversed(range(steps)):
        if cut is not None and bit == steps // 2 - 1:
            current = cut.keep(current, f"{name}_coarse")
            places = [cut.keep(place, f"{name}_place_{index}") for index, place in enumerate(places)]
        size = 1 << bit
        empty, step = Signal(name=f"{name}_empty_{size}"), Signal(width, name=f"{name}_by_{size}")
        m.d.comb += [
            empty.eq(~current[max(width - size, 0) :].any()),
            step.eq(Mux(empty, current << size, current)),
        ]
        places.append(empty)
        current = step
    count = Signal(max(len(places), 1), name=f"{name}_places")
    m.d.comb += count.eq(Cat(reversed(places)))
    return current, count
