"""The per-channel operations of each pass, multiply-adds all, and their static schedule on the one unit.

The lists are those of `lightnorm_golden.baseline`, an operation a line.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["CONSTANTS", "LATENCY", "PARAMETERS", "RESULTS", "TOTALS", "Operation", "Program", "Slot", "kept_values",
           "operations", "schedule"]  # fmt: skip

LATENCY = 4
"""Cycles from an operation's start until another can use its result: operands, product, sum, rounding."""

CONSTANTS = ("inv_count", "range_gain", "eps", "momentum")
"""Run-time inputs of the core."""

TOTALS = ("total", "product_total", "range_total")

PARAMETERS = {
    "train": ("running_mean", "running_spread", "weight", "bias"),
    "infer": ("running_mean", "running_spread", "weight", "bias"),
    "backward": ("mean", "invstd", "weight"),
}
"""Words of a channel on the parameter stream, in order. The spread is a variance, in range statistics a sigma."""

RESULTS = {
    "train": ("mean", "new_running_mean", "new_running_spread", "invstd"),
    "infer": (),
    "backward": ("grad_bias", "grad_weight"),
}
"""Words of a channel on the result stream, in order."""

OF_SPREAD = ("mantissa", "half_mantissa", "power", "table_offset", "table_slope")
"""What is read of the register of `spread` beside its value."""


@dataclass(frozen=True)
class Operation:
    """result = a * b + c, with signs flipped as told; `short`: rounded to the scale's format, `clamp`: not below 0."""

    result: str
    a: str
    b: str
    c: str = "zero"
    negate: bool = False
    negate_c: bool = False
    short: bool = False
    clamp: bool = False

    @property
    def operands(self) -> tuple[str, ...]:
        """Values that other operations make, or words."""
        named = ("spread" if operand in OF_SPREAD else operand for operand in (self.a, self.b, self.c))
        return tuple(dict.fromkeys(named))


def _inverse(statistic: str) -> list[Operation]:
    seed = Operation("seed", "table_slope", "mantissa", "table_offset")
    if statistic == "l2":
        return [
            seed,
            Operation("half", "half_mantissa", "seed"),
            Operation("rest", "half", "seed", "one_half", negate=True),
        ]
    return [seed, Operation("rest", "mantissa", "seed", "one", negate=True)]


def _affine(mean: str, spread: list[Operation], statistic: str) -> list[Operation]:
    return [
        *spread,
        *_inverse(statistic),
        Operation("powered_weight", "weight", "power"),
        Operation("weighted", "powered_weight", "seed"),
        Operation("scale", "weighted", "rest", "weighted", short=True),
        Operation("shift", mean, "scale", "bias", negate=True),
    ]


def operations(statistic: str, mode: str) -> list[Operation]:
    """Of a pass."""
    ranges = statistic == "range"
    if mode == "infer":
        return _affine("running_mean", [Operation("spread", "running_spread", "one", "eps")], statistic)
    if mode == "train":
        moment, factor = ("range_total", "range_gain") if ranges else ("moment", "inv_count")
        difference = Operation("moment", "mean", "total", "product_total", negate=True, clamp=True)
        return [
            Operation("mean", "total", "inv_count"),
            *([] if ranges else [difference]),
            *_affine("mean", [Operation("spread", moment, factor, "eps")], statistic),
            Operation("own_spread", moment, factor),
            Operation("powered", "seed", "power"),
            Operation("invstd", "powered", "rest", "powered"),
            Operation("mean_gap", "mean", "one", "running_mean", negate_c=True),
            Operation("spread_gap", "own_spread", "one", "running_spread", negate_c=True),
            Operation("new_running_mean", "mean_gap", "momentum", "running_mean"),
            Operation("new_running_spread", "spread_gap", "momentum", "running_spread"),
        ]
    shared = [
        Operation("grad_bias", "total", "one"),
        Operation("centered", "mean", "total", "product_total", negate=True),
        Operation("grad_weight", "centered", "invstd"),
        Operation("grad_scale", "weight", "invstd", short=True),
        Operation("mean_grad", "total", "inv_count"),
        Operation("center", "mean_grad", "grad_scale"),
    ]
    if ranges:
        return [
            *shared,
            Operation("share", "grad_weight", "range_gain"),
            Operation("term", "center", "one", negate=True),
            Operation("at_max", "share", "grad_scale", "center", negate=True, negate_c=True),
            Operation("at_min", "share", "grad_scale", "center", negate_c=True),
        ]
    return [
        *shared,
        Operation("mean_share", "grad_weight", "inv_count"),
        Operation("share", "mean_share", "invstd"),
        Operation("slope", "share", "grad_scale", short=True),
        Operation("term", "slope", "mean", "center", negate_c=True),
    ]


def kept_values(statistic: str, mode: str) -> tuple[str, ...]:
    """What apply is given, in the order of `coefficients_layout`: the element's factor and term first."""
    if mode != "backward":
        return ("scale", "shift")
    return ("grad_scale", "term", "at_max", "at_min") if statistic == "range" else ("slope", "term", "grad_scale")


@dataclass
class Slot:
    """One cycle of a micro-program."""

    start: Operation | None = None
    write: Operation | None = None
    load: str = ""
    release: bool = False
    registers: dict[str, int] = field(default_factory=dict)


@dataclass
class Program:
    """A pass's slots, and how many registers its values need."""

    slots: list[Slot]
    registers: int


def schedule(statistic: str, mode: str, pinned: dict[str, int]) -> Program:
    """List scheduling by longest remaining path; parameter k is loaded in slot k, results leave in their order.

    `pinned`: registers that certain values have for themselves.
    """
    made = {operation.result: operation for operation in operations(statistic, mode)}
    words, results = PARAMETERS[mode], RESULTS[mode]
    urgency: dict[str, int] = {}
    for name in reversed(made):
        users = [urgency[user.result] for user in made.values() if name in user.operands]
        urgency[name] = LATENCY + max(users, default=0)
    ready = {word: index + 1 for index, word in enumerate(words)}
    start: dict[str, int] = {}
    cycle = 0
    while len(start) < len(made):
        candidates = [
            name for name, operation in made.items()
            if name not in start
            and all(ready.get(operand, 0 if operand not in made else cycle + 1) <= cycle
                    for operand in operation.operands)
            and not (name in results and any(other not in start for other in results[: results.index(name)]))
        ]  # fmt: skip
        if candidates:
            chosen = max(candidates, key=lambda name: urgency[name])
            start[chosen], ready[chosen] = cycle, cycle + LATENCY
        cycle += 1
    length = max(start.values()) + LATENCY
    slots = [Slot() for _ in range(length)]

    written = {word: index for index, word in enumerate(words)} | {name: at + LATENCY - 1 for name, at in start.items()}
    last_use = {
        value: max((start[user.result] for user in made.values() if value in user.operands), default=written[value])
        for value in written
    }
    register = {value: index for value, index in pinned.items() if value in written}
    free_from: dict[int, int] = {}
    reserved = set(pinned.values())
    for value in sorted(written, key=lambda name: written[name]):
        if value in register:
            continue
        index = 0
        while index in reserved or free_from.get(index, -1) > written[value]:
            index += 1
        register[value], free_from[index] = index, max(last_use[value], written[value] + 1)
    for index, word in enumerate(words):
        slots[index].load, slots[index].registers[word] = word, register[word]
    for name, operation in made.items():
        slots[start[name]].start = operation
        slots[start[name]].registers |= {value: register[value] for value in operation.operands if value in register}
        slots[start[name] + LATENCY - 1].write = operation
        slots[start[name] + LATENCY - 1].registers[name] = register[name]
    reads = [at for name, at in start.items() if any(total in made[name].operands for total in TOTALS)]
    if reads:
        slots[max(reads)].release = True
    return Program(slots, 1 + max(register.values()))
