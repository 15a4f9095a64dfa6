"""Layouts of everything that travels between stages."""

from __future__ import annotations

from amaranth.lib import data

from lightnorm_golden.formats import BlockFormat

__all__ = ["beat_layout", "block_layout", "element_layout", "head_layout", "lanes_layout", "output_layout"]


def element_layout(fmt: BlockFormat) -> data.StructLayout:
    """Significand below, sign on top. Behind `unpack`, a negative zero marks padding and every zero is positive."""
    return data.StructLayout({"significand": fmt.significand_bits, "sign": 1})


def block_layout(fmt: BlockFormat) -> data.StructLayout:
    """The packed bits of a block: shared exponent lowest, then the elements in order."""
    return data.StructLayout(
        {"shared_exp": fmt.exp_bits, "elements": data.ArrayLayout(element_layout(fmt), fmt.block_size)}
    )


def beat_layout(fmt: BlockFormat, lanes: int) -> data.ArrayLayout:
    """Whole blocks, the first one lowest."""
    return data.ArrayLayout(block_layout(fmt), lanes // fmt.block_size)


def output_layout(width: int) -> data.StructLayout:
    """A beat of packed blocks, `last` on top: it closes a channel."""
    return data.StructLayout({"data": width, "last": 1})


def head_layout(exp_bits: int, segments: int) -> data.StructLayout:
    """What is read of a beat one cycle ahead of its elements: the shared exponent of each segment."""
    return data.StructLayout({"shared_exps": data.ArrayLayout(exp_bits, segments), "last": 1})


def lanes_layout(significand_bits: int, lanes: int) -> data.ArrayLayout:
    """The elements of a beat, their significands aligned to the longest format that the machine applies to."""
    return data.ArrayLayout(data.StructLayout({"significand": significand_bits, "sign": 1}), lanes)
