"""Statistics over the processes of a group, exact: sums add, maxima are compared.

The elements of all processes make one channel: rank after rank, each rank's beginning a new block. If every rank but
the last holds whole blocks, that is the golden model's channel of the concatenated batch, bit for bit.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lightnorm_golden import MAX_ELEMENTS

__all__ = ["Share", "merge_extrema", "merge_sums", "share_of"]


@dataclass(frozen=True)
class Share:
    """This process's part of a channel; `group` is None for a process that is alone."""

    elements: int
    first_block: int
    total_blocks: int
    total_elements: int
    group: Any = None


def share_of(x: Tensor, block_size: int, group: Any) -> Share:
    """Of x (N, C, *spatial). With a group, every process of it must call this. Raises ValueError (section 8)."""
    elements = operator.index(x.numel() // x.shape[1])  # the host's constants depend on it: torch.compile must know it
    blocks = -(-elements // block_size)
    first_block, total_blocks, total = 0, blocks, elements
    if group is not None:
        counts = [torch.empty(1, dtype=torch.int64, device=x.device) for _ in range(dist.get_world_size(group))]
        dist.all_gather(counts, torch.tensor([elements], device=x.device), group=group)
        every = torch.cat(counts).tolist()
        before = [-(-count // block_size) for count in every]
        first_block, total_blocks, total = sum(before[: dist.get_rank(group)]), sum(before), sum(every)
    if total < 2:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {tuple(x.shape)}")
    if total > MAX_ELEMENTS:
        raise ValueError(f"Expected at most {MAX_ELEMENTS} values per channel, got {total}")
    return Share(elements, first_block, total_blocks, total, group)


def merge_sums(limbs: Tensor, share: Share) -> Tensor:
    """Limbs of the sum over all processes."""
    if share.group is None:
        return limbs
    total = limbs.clone()
    dist.all_reduce(total, group=share.group)
    return total


def merge_extrema(values: Tensor, share: Share) -> tuple[Tensor, Tensor]:
    """Largest over all processes of values (...), and whether this process is the first that has it."""
    if share.group is None:
        return values, torch.ones_like(values, dtype=torch.bool)
    every = [torch.empty_like(values) for _ in range(dist.get_world_size(share.group))]
    dist.all_gather(every, values.contiguous(), group=share.group)
    largest, rank = torch.stack(every).max(0)  # the first of equals
    return largest, rank == dist.get_rank(share.group)
