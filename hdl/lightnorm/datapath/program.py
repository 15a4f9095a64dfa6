"""The per-channel operations of each pass, and their static schedule on the one wide unit.

The lists below are sections 5 to 7 of the arithmetic specification, an operation a line. `schedule` gives every
operation its cycle and every value its register; the result is the micro-program that `coefficients` plays.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from amaranth.hdl import unsigned
from amaranth.lib.enum import Enum

__all__ = [
    "CONSTANTS",
    "PARAMETERS",
    "PROGRAMS",
    "RESULTS",
    "TERMS",
    "Kind",
    "Operation",
    "Program",
    "Slot",
    "schedule",
]


class Kind(Enum, shape=unsigned(3)):
    """What the wide unit does; every result is rounded once."""

    ADD = 0
    MULTIPLY = 1
    MULTIPLY_SCALE = 2  # rounded to the scale's format
    RECIPROCAL = 3  # of the second operand; 0 where the first is 0
    TOTAL = 4  # an exact statistic


@dataclass(frozen=True)
class Operation:
    """result = kind(a, b); `negate_b` flips that operand's sign."""

    result: str
    kind: Kind
    a: str
    b: str = ""
    negate_b: bool = False

    @property
    def operands(self) -> tuple[str, ...]:
        return (self.a, self.b) if self.b else (self.a,)


CONSTANTS = ("inv_count", "range_gain", "eps", "momentum")
"""Run-time inputs of the core."""

PARAMETERS = {
    "train": ("running_mean", "running_sigma", "weight", "bias"),
    "infer": ("running_mean", "running_sigma", "weight", "bias"),
    "backward": ("weight",),
}
"""Words of a channel on the parameter stream, in order."""

RESULTS = {
    "train": ("mean", "sigma", "new_running_mean", "new_running_sigma"),
    "infer": (),
    "backward": ("grad_bias", "grad_weight"),
}
"""Words of a channel on the result stream, in order."""

TERMS = {"train": ("shift",), "infer": ("shift",), "backward": ("center", "at_max", "at_min")}
"""What apply adds to the product (in backward: subtracts), for an ordinary element, a chunk's maximum, its minimum."""

ZERO = "zero"
_STATISTICS = [
    Operation("rounded_range", Kind.TOTAL, "range_total"),
    Operation("sigma", Kind.MULTIPLY, "rounded_range", "range_gain"),
    Operation("rounded_total", Kind.TOTAL, "total"),
    Operation("mean", Kind.MULTIPLY, "rounded_total", "inv_count"),
]


def _affine(mean: str, sigma: str) -> list[Operation]:
    return [
        Operation("spread", Kind.ADD, sigma, "eps"),
        Operation("invstd", Kind.RECIPROCAL, sigma, "spread"),
        Operation("scale", Kind.MULTIPLY_SCALE, "weight", "invstd"),
        Operation("offset", Kind.MULTIPLY, mean, "scale"),
        Operation("shift", Kind.ADD, "bias", "offset", negate_b=True),
    ]


def _running(name: str) -> list[Operation]:
    return [
        Operation(f"{name}_gap", Kind.ADD, name, f"running_{name}", negate_b=True),
        Operation(f"{name}_move", Kind.MULTIPLY, f"{name}_gap", "momentum"),
        Operation(f"new_running_{name}", Kind.ADD, f"{name}_move", f"running_{name}"),
    ]


PROGRAMS = {
    "train": [*_STATISTICS, *_affine("mean", "sigma"), *_running("mean"), *_running("sigma")],
    "infer": [
        Operation("mean", Kind.ADD, "running_mean", ZERO),
        Operation("sigma", Kind.ADD, "running_sigma", ZERO),
        *_affine("mean", "sigma"),
    ],
    "backward": [
        *_STATISTICS,
        Operation("spread", Kind.ADD, "sigma", "eps"),
        Operation("invstd", Kind.RECIPROCAL, "sigma", "spread"),
        Operation("scale", Kind.MULTIPLY_SCALE, "weight", "invstd"),
        Operation("grad_bias", Kind.TOTAL, "grad_total"),
        Operation("product", Kind.TOTAL, "product_total"),
        Operation("mean_part", Kind.MULTIPLY, "grad_bias", "mean"),
        Operation("centered_product", Kind.ADD, "product", "mean_part", negate_b=True),
        Operation("grad_weight", Kind.MULTIPLY, "centered_product", "invstd"),
        Operation("mean_grad", Kind.MULTIPLY, "grad_bias", "inv_count"),
        Operation("center", Kind.MULTIPLY, "mean_grad", "scale"),
        Operation("range_grad", Kind.MULTIPLY, "grad_weight", "range_gain"),
        Operation("ext", Kind.MULTIPLY, "range_grad", "scale"),
        Operation("at_max", Kind.ADD, "center", "ext"),
        Operation("at_min", Kind.ADD, "center", "ext", negate_b=True),
    ],
}


@dataclass
class Slot:
    """One cycle of a micro-program: what the operand stage starts, and where the rounding stage puts its result."""

    operation: Operation | None = None
    first_half: bool = False  # of a multiplication that takes two cycles
    second_half: bool = False
    divide_start: bool = False
    divide_step: bool = False
    pop_parameter: bool = False
    write: Operation | None = None
    emit: bool = False
    registers: dict[str, int] = field(default_factory=dict)  # of the operands, and of the result written


@dataclass
class Program:
    """A pass's slots, one a cycle, and how many registers its values need."""

    slots: list[Slot]
    registers: int


def schedule(
    name: str,
    *,
    divide_cycles: int,
    scale_is_short: bool,
    pinned: dict[str, int],
    latency: int,
    statistics: dict[str, int],
) -> Program:
    """List scheduling of pass `name` by longest remaining path, around the slots in which its statistics are read.

    `latency`: slots from an operation's last one to the first that can read its result. `statistics`: the only slot in
    which each statistic can be read.
    `divide_cycles`: cycles of a reciprocal's digit recurrence. `scale_is_short`: a scale fits half a significand, so
    that multiplying by it takes one cycle. `pinned`: registers that certain values must have (wired elsewhere).
    Parameter words are consumed, and result words emitted, in their streams' order.
    """

    def cycles(operation: Operation) -> int:
        """From an operation's start to its last cycle in the operand stage; rounding takes one more."""
        if operation.kind is Kind.RECIPROCAL:
            return divide_cycles + 1
        multiplies = operation.kind in (Kind.MULTIPLY, Kind.MULTIPLY_SCALE)
        return int(multiplies and not (operation.b == "scale" and scale_is_short))

    operations = {operation.result: operation for operation in PROGRAMS[name]}
    words, results, kept = PARAMETERS[name], RESULTS[name], ("scale", *TERMS[name])
    urgency: dict[str, int] = {}
    for operation in reversed(PROGRAMS[name]):
        users = [urgency[user.result] for user in operations.values() if operation.result in user.operands]
        urgency[operation.result] = cycles(operation) + latency + max(users, default=0)

    start: dict[str, int] = {}
    end: dict[str, int] = {}  # last cycle in the operand stage; readable `latency` cycles later
    totals = [operation for operation in operations.values() if operation.kind is Kind.TOTAL]
    for operation in totals:
        start[operation.result] = end[operation.result] = statistics[operation.a]
    busy = set(start.values())
    cycle = 0
    while len(start) < len(operations):
        ready = []
        for operation in operations.values():
            length = cycles(operation)
            first_busy = cycle + length if operation.kind is Kind.RECIPROCAL else cycle
            occupied = range(first_busy, cycle + length + 1)
            if (
                operation.result not in start
                and all(
                    end.get(operand, cycle) + latency <= cycle
                    for operand in operation.operands if operand in operations
                )
                and not busy.intersection(occupied)
                and _in_order(operation, words, operations, end, cycle)
                and all(result in start for result in results[: _rank(operation.result, results)])
            ):
                ready.append(operation)
        if not ready:
            cycle += 1
            continue
        chosen = max(ready, key=lambda operation: urgency[operation.result])
        length = cycles(chosen)
        start[chosen.result], end[chosen.result] = cycle, cycle + length
        busy.update(range(cycle + length if chosen.kind is Kind.RECIPROCAL else cycle, cycle + length + 1))
    return _assemble(operations, start, end, words, results, kept, pinned, latency)


def _rank(value: str, ordered: tuple[str, ...]) -> int:
    return ordered.index(value) if value in ordered else 0


def _in_order(
    operation: Operation, words: tuple[str, ...], operations: dict[str, Operation], end: dict[str, int], cycle: int
) -> bool:
    """Whether every use of the words before those that the operation takes lies behind."""
    for operand in operation.operands:
        earlier = words[: _rank(operand, words)]
        for user in operations.values():
            if any(word in user.operands for word in earlier) and end.get(user.result, cycle) >= cycle:
                return False
    return True


def _assemble(
    operations: dict[str, Operation],
    start: dict[str, int],
    end: dict[str, int],
    words: tuple[str, ...],
    results: tuple[str, ...],
    kept: tuple[str, ...],
    pinned: dict[str, int],
    latency: int,
) -> Program:
    length = max(end.values()) + latency
    slots = [Slot() for _ in range(length)]
    last_use = {
        value: length
        if value in kept
        else max(
            (
                # the recurrence's divisor is looked at until its result is rounded
                end[user.result] + (max(latency - 2, 0) if user.kind is Kind.RECIPROCAL else 0)
                for user in operations.values() if value in user.operands
            ),
            default=end[value] + latency - 1,
        )  # fmt: skip
        for value in operations
    }
    register = _allocate(operations, end, last_use, pinned, latency)
    for operation in operations.values():
        result, first, last = operation.result, start[operation.result], end[operation.result]
        for cycle in (first, last) if operation.kind is not Kind.RECIPROCAL else (last,):
            slots[cycle].operation = operation
            slots[cycle].first_half = cycle == first < last and operation.kind is not Kind.RECIPROCAL
            slots[cycle].second_half = first < cycle == last and operation.kind is not Kind.RECIPROCAL
            slots[cycle].registers |= {value: register[value] for value in operation.operands if value in register}
        if operation.kind is Kind.RECIPROCAL:
            slots[first].divide_start = True
            for cycle in range(first + 1, last):
                slots[cycle].divide_step = True
        written = slots[last + latency - 1]
        written.write, written.emit = operation, result in results
        written.registers[result] = register[result]
    for word in words:
        slots[max(end[user.result] for user in operations.values() if word in user.operands)].pop_parameter = True
    totals = [operation for operation in operations.values() if operation.kind is Kind.TOTAL]
    reading = slots[: max((end[operation.result] + 1 for operation in totals), default=0)]
    # a program begins when the result word before is gone, so that its first one need not wait
    if any(slot.pop_parameter for slot in reading) or sum(slot.emit for slot in reading) > 1:
        raise ValueError("a slot that reads a statistic, or one before it, would wait for a stream")
    return Program(slots, 1 + max(register.values()))


def _allocate(
    operations: dict[str, Operation],
    end: dict[str, int],
    last_use: dict[str, int],
    pinned: dict[str, int],
    latency: int,
) -> dict[str, int]:
    """A register for every value; two values share one if the second is written after the first's last use."""

    def overlap(a: str, b: str) -> bool:  # written at the end of cycle end + latency - 1, read through last_use
        written = latency - 1
        return end[a] + written < last_use[b] and end[b] + written < last_use[a] or end[a] == end[b]

    register: dict[str, int] = {value: pinned[value] for value in operations if value in pinned}
    for value in sorted(operations, key=lambda name: end[name]):
        if value not in register:
            taken = {register[other] for other in register if overlap(value, other)}
            register[value] = min(set(range(len(operations) + len(pinned))) - taken)
    for a in register:
        for b in register:
            if a != b and register[a] == register[b] and overlap(a, b):
                raise ValueError(f"{a} and {b} are pinned to one register while both are needed")
    return register
