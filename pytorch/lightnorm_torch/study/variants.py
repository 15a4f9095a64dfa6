"""What stands in the place of a batch normalization in the study: names, and how to make one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from lightnorm_golden import BlockFormat, NormSpec

from ..modules import DEFAULT_SPEC, LightNorm2d
from ..swap import convert
from .authors import AuthorsArithmetic
from .range_norm import BlockArithmetic, RangeNorm2d

__all__ = ["Variant", "authors", "batch_norm", "blocks", "only_inference", "range_norm", "without_extrema"]


@dataclass(frozen=True)
class Variant:
    """`name` for people; `settings`, plain data, decide the result; `norm` makes a layer of so many channels.

    `bits`: of an element of activations and of gradients, where they are not float32. `at_test` changes the trained
    model before it is tested.
    """

    name: str
    settings: dict[str, Any]
    norm: Callable[[int], nn.Module] = field(compare=False)
    bits: tuple[float, float] | None = None
    at_test: Callable[[nn.Module], nn.Module] | None = field(default=None, compare=False)


def batch_norm() -> Variant:
    """What everything is compared with."""
    return Variant("nn.BatchNorm2d FP32", {"kind": "batch"}, nn.BatchNorm2d)


def range_norm(gain: str) -> Variant:
    return Variant(
        f"range FP32, gain {gain}", {"kind": "range", "gain": gain}, lambda channels: RangeNorm2d(channels, gain=gain)
    )


def authors(shared: str = "second", largest: str = "kept", block_size: int = 4, extra_bits: int = 8) -> Variant:
    """Truncation to e5m4 and e6m3 with the authors' gain."""
    settings = AuthorsArithmetic(
        BlockFormat(5, 4, block_size), BlockFormat(6, 3, block_size), extra_bits, shared, largest
    )
    said = {"second": "second-largest exponent", "largest": "largest exponent"}[shared]
    name = "authors: truncation, groups of 4, " + said + ("" if largest == "kept" else ", saturating")
    return Variant(
        name,
        {"kind": "authors", **asdict(settings)},
        lambda channels: RangeNorm2d(channels, gain="lightnorm", block_size=block_size, arithmetic=settings),
        (settings.activations.bits_per_element, settings.gradients.bits_per_element),
    )


def blocks(activation: str = "e5m4", gradient: str = "e6m3", block_size: int = 16) -> Variant:
    """This project's arithmetic, bit for bit. Formats as in names: `e5m4`."""
    spec = NormSpec(_format(activation, block_size), _format(gradient, block_size))
    name = f"{activation}/{gradient}, blocks of {block_size}"
    if spec == DEFAULT_SPEC:
        name += " (default)"
    return Variant(
        name, {"kind": "lightnorm", **asdict(spec)}, lambda channels: LightNorm2d(channels, spec=spec), _bits(spec)
    )


def _bits(spec: NormSpec) -> tuple[float, float]:
    return spec.activation.bits_per_element, spec.gradient.bits_per_element


def _format(name: str, block_size: int) -> BlockFormat:
    exp_bits, man_bits = name.removeprefix("e").split("m")
    return BlockFormat(int(exp_bits), int(man_bits), block_size)


def only_inference(activation: str = "e5m4", block_size: int = 16) -> Variant:
    """Trained with torch.nn.BatchNorm2d, tested in this project's arithmetic."""
    spec = NormSpec(_format(activation, block_size), DEFAULT_SPEC.gradient)
    return Variant(
        f"trained in FP32, tested in {activation}, blocks of {block_size}",
        {"kind": "inference", **asdict(spec.activation)},
        nn.BatchNorm2d,
        at_test=lambda model: convert(model, spec),
    )


def without_extrema(in_blocks: bool) -> Variant:
    """The derivative through maxima and minima left out, in float32 or with the default's block formats."""
    arithmetic = BlockArithmetic(DEFAULT_SPEC) if in_blocks else None
    kind = "default formats" if in_blocks else "range FP32"
    return Variant(
        f"{kind}, extremum terms dropped",
        {"kind": "dropped", "blocks": in_blocks},
        lambda channels: RangeNorm2d(channels, arithmetic=arithmetic, extremum_terms=False),
        _bits(DEFAULT_SPEC) if in_blocks else None,
    )
