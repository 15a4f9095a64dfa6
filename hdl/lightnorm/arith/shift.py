"""Logarithmic shifters. Each step is a named signal: Amaranth expressions are trees, and would double at every step."""

from __future__ import annotations

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value

from .rank import Rank

__all__ = ["any_below", "below", "cut_shift_left", "normalize", "normalize_groups", "shift_left", "shift_right_sticky"]

FINE_BITS = 3
"""Of a shift that is cut: so many low bits of the amount before the registers."""


def shift_left(
    m: Module, value: Value, amount: Value, width: int, *, unit: int = 1, fill: Value | None = None, name: str
) -> Signal:
    """value << (amount * unit), kept to `width` bits, with the sign of a signed value. Short steps first. `fill`: the
    bits that come in below, else zeros."""
    is_signed = value.shape().signed
    current = value
    for bit in range(len(amount)):
        size = unit << bit
        reach = min(width, len(current) + size)
        step = Signal(Shape(reach, is_signed), name=f"{name}_by_{size}")
        moved: Value = current << size
        if fill is not None:
            moved = Cat(fill.replicate(size), current)
            moved = moved.as_signed() if is_signed else moved
        m.d.comb += step.eq(Mux(amount[bit], moved, current))
        current = step
    shifted = Signal(Shape(width, is_signed), name=f"{name}_out")
    m.d.comb += shifted.eq(current)
    return shifted


def cut_shift_left(
    m: Module, value: Value, amount: Value, width: int, rank: Rank, *, fill: Value | None = None, name: str
) -> Signal:
    """value << amount, kept to `width` bits; the short steps of it before the rank, the long ones behind."""
    fine, coarse = amount[:FINE_BITS], amount[FINE_BITS:]
    reach = min(width, len(value) + (1 << len(fine)) - 1)
    started = rank.keep(shift_left(m, value, fine, reach, fill=fill, name=f"{name}_fine"), f"{name}_fine")
    coarse = rank.keep(coarse, f"{name}_coarse")
    fill = rank.keep(fill, f"{name}_fill") if fill is not None else None
    return shift_left(m, started, coarse, width, unit=1 << len(fine), fill=fill, name=name)


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


def below(m: Module, place: Value, width: int, *, name: str) -> Signal:
    """A mask of the places under `place`, for `width` places; from the mask of its lower bits, twice."""
    mask: Value = Const(0, 1)
    bits = len(place) if not place.shape().signed else min(len(place) - 1, width.bit_length())
    for bit in range(bits):
        step = Signal(min(2 * len(mask), width), name=f"{name}_{bit}")
        top = place[bit].replicate(len(mask))
        m.d.comb += step.eq(Cat(top | mask, top & mask))
        mask = step
    if place.shape().signed:
        mask = (mask | place[bits:-1].any().replicate(width)) & ~place[-1].replicate(width)
    whole = Signal(width, name=name)
    m.d.comb += whole.eq(mask)
    return whole


def any_below(m: Module, value: Value, places: Value, *, unit: int = 1, name: str) -> Value:
    """Whether `value` has a bit under place `places` * `unit`: the sticky bit of a shift right, not behind it."""
    groups = Cat(value[first : first + unit].any() for first in range(0, len(value), unit))
    return (groups & below(m, places, len(groups), name=name)).any()


def normalize(m: Module, value: Value, *, top: int | None = None, name: str) -> tuple[Signal, Signal]:
    """(value shifted left until its top bit is set, number of places); zero gives all places and zero.

    `top`: a value that is not 0 has a bit among so many at its top.
    """
    width = len(value)
    current = Signal(width, name=f"{name}_in")
    m.d.comb += current.eq(value)
    places = []
    for bit in reversed(range(((top or width) - 1).bit_length())):
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


def normalize_groups(m: Module, value: Value, *, group: int, name: str) -> tuple[Signal, Signal]:
    """(value shifted left by whole groups of bits until its top group is not 0, number of groups).

    All groups are looked at at once, which is larger and faster than `normalize`. Zero gives zero and no groups.
    """
    width = len(value)
    count = -(-width // group)
    padded = Cat(Const(0, count * group - width), value)
    exists = Signal(count, name=f"{name}_exists")  # of the groups, from the top
    groups = [padded[(count - 1 - index) * group : (count - index) * group] for index in range(count)]
    m.d.comb += exists.eq(Cat(bits.any() for bits in groups))
    shifted, places = Signal(width, name=f"{name}_by_groups"), Signal(range(count), name=f"{name}_groups")
    leads = [exists[index] & ~exists[:index].any() for index in range(count)]
    moved = [(value << (group * index))[:width] & lead.replicate(width) for index, lead in enumerate(leads)]
    numbers = [Const(index, len(places)) & lead.replicate(len(places)) for index, lead in enumerate(leads)]
    m.d.comb += [shifted.eq(reduce(or_, moved)), places.eq(reduce(or_, numbers))]
    return shifted, places
