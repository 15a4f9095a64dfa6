"""SyncLightNorm in two gloo processes equals the golden model of the concatenated batch, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import lightnorm_golden
from lightnorm_golden import BlockFormat, NormSpec
from lightnorm_torch import SyncLightNorm, convert
from lightnorm_torch.functional import Settings, train

SPEC = NormSpec(BlockFormat(5, 4, 4), BlockFormat(6, 3, 8))
CHUNKS = 3
CHANNELS = 5


def batch(seed: int, counts: tuple[int, int], spatial: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Both ranks' x and gradient; small integers, so that extrema are attained on both ranks; a constant channel."""
    generator = torch.Generator().manual_seed(seed)
    shape = (sum(counts), CHANNELS, *spatial)
    x = torch.randn(shape, generator=generator)
    x[:, 1] = torch.randint(-2, 3, x[:, 1].shape, generator=generator)
    x[:, 2] = 1.5
    x[: counts[0], 3], x[counts[0] :, 4] = 0.25, -3.0
    return x, torch.randn(shape, generator=generator)


def run(rank: int, body: Callable[..., None], file: str, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    try:
        body(rank, *arguments)
    finally:
        dist.destroy_process_group()


def in_two_processes(body: Callable[..., None], folder: Path, *arguments: Any) -> None:
    multiprocessing.spawn(run, args=(body, str(folder / "rendezvous"), arguments), nprocs=2)


def against_golden(rank: int) -> None:
    cases = [((2, 2), (4, 4)), ((1, 3), (4, 2)), ((3, 1), (2, 4)), ((2, 1), (4, 3)), ((4, 2), (2, 1))]
    for seed, (counts, spatial) in enumerate(cases):
        x, grad = batch(seed, counts, spatial)
        layer = SyncLightNorm(CHANNELS, spec=SPEC, chunks=CHUNKS)
        with torch.no_grad():
            layer.weight.copy_(torch.linspace(-1, 2, CHANNELS))
        own = slice(0, counts[0]) if rank == 0 else slice(counts[0], None)
        leaf = x[own].clone().requires_grad_()
        y = layer(leaf)
        y.backward(grad[own])

        weight = layer.weight.detach().numpy()
        forward = lightnorm_golden.forward(x.numpy(), weight, spec=SPEC, chunks=CHUNKS)
        backward = lightnorm_golden.backward(x.numpy(), grad.numpy(), weight, spec=SPEC, chunks=CHUNKS)
        where = f"case {seed}, rank {rank}"
        assert (y.detach().numpy() == forward.output[own]).all(), where
        assert (layer.running_mean.numpy() == forward.running_mean).all(), where
        assert (layer.running_sigma.numpy() == forward.running_sigma).all(), where
        assert (leaf.grad.numpy() == backward.grad_input[own]).all(), where
        # each process has its own bias gradient, K of its own sum
        signed = lightnorm_golden.decode(
            lightnorm_golden.quantize(np.moveaxis(grad[own].numpy(), 1, 0).reshape(CHANNELS, -1), SPEC.gradient)
        ).sum(axis=1)
        assert np.allclose(layer.bias.grad.numpy(), signed, rtol=2.0**-16, atol=0), where
        # in eval() every process is alone
        layer.eval()(leaf[:1])


def test_two_processes(tmp_path: Path) -> None:
    in_two_processes(against_golden, tmp_path)


def short_blocks(rank: int) -> None:
    """Ranks that do not hold whole blocks, and one that holds a single value: defined, alike on both ranks."""
    for counts in ((3, 2), (1, 1)):
        x, _ = batch(9, counts, (1, 1))
        own = slice(0, counts[0]) if rank == 0 else slice(counts[0], None)
        y, mean, sigma = train(x[own], None, None, Settings(SPEC, 1e-5, 2), dist.group.WORLD)
        every = [torch.empty(2, CHANNELS, dtype=torch.float64) for _ in range(2)]
        dist.all_gather(every, torch.stack([mean, sigma]))
        assert torch.equal(*every) and torch.isfinite(y).all()
        quantized = torch.cat([x[: counts[0]], x[counts[0] :]]).double()
        assert torch.allclose(mean, quantized.mean((0, 2, 3)), rtol=0.1, atol=0.1)


def test_short_blocks(tmp_path: Path) -> None:
    in_two_processes(short_blocks, tmp_path)


def data_parallel(rank: int) -> None:
    """DistributedDataParallel: two steps, after which both ranks' parameters and statistics are alike."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 2))
    parallel = DistributedDataParallel(convert(model, SPEC))
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
    x = torch.randn(4, 3, 6, 6)
    for _ in range(2):
        optimizer.zero_grad()
        parallel(x[2 * rank : 2 * rank + 2]).square().sum().backward()
        optimizer.step()
    flat = torch.cat([value.flatten().double() for value in model.state_dict().values()])
    every = [torch.empty_like(flat) for _ in range(2)]
    dist.all_gather(every, flat)
    assert torch.equal(*every) and model[1].num_batches_tracked == 2


def test_distributed_data_parallel(tmp_path: Path) -> None:
    in_two_processes(data_parallel, tmp_path)


def test_alone() -> None:
    """Without process groups it is the ordinary layer."""
    x = torch.randn(4, 3, 5, 5)
    layer = SyncLightNorm(3)
    want = lightnorm_golden.forward(x.numpy(), spec=layer.spec)
    assert (layer(x).detach().numpy() == want.output).all()
    with pytest.raises(ValueError, match="expected 2D or 3D or 4D or 5D input"):
        layer(x[None, None])
