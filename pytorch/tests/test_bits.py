"""Forward, backward, running statistics and inference equal the golden model, bit for bit, gradients through autograd.

Stimulus comes from the golden model's own suite: boundary-weighted layers, each from a printed seed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from stimulus import KINDS, Case, case, channel_values, to_tensor

import lightnorm_golden
from lightnorm_golden import BlockFormat, NormSpec, host_constants
from lightnorm_golden.backward import product_sum
from lightnorm_golden.block import encode, to_block_major
from lightnorm_golden.coefficients import grad_terms
from lightnorm_golden.statistics import binned_sum
from lightnorm_torch import LightNorm1d, LightNorm2d, LightNorm3d, SyncLightNorm
from lightnorm_torch.functional import Settings, infer, inv_count, range_gain, train, update_running

DEFAULT = NormSpec(BlockFormat(5, 4, 16), BlockFormat(6, 3, 16))


def tensor(values: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64))


def words(values: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    array = values.detach().numpy() if isinstance(values, torch.Tensor) else values
    return np.asarray(array, np.float64).view(np.int64)


def compare(named: str, got: dict[str, torch.Tensor], want: dict[str, Any]) -> None:
    """Bits, so that the sign of a zero counts too."""
    for name, expected in want.items():
        assert tuple(got[name].shape) == np.shape(expected), f"{named}: {name}"
        differs = np.argwhere(words(got[name]) != words(expected))
        if len(differs):
            index = tuple(map(int, differs[0]))
            pair = f"{got[name][index].item().hex()}, not {float(expected[index]).hex()}"
            raise AssertionError(f"{named}: {len(differs)} of {name} differ; the first is at {index}: {pair}")


def golden(c: Case) -> dict[str, Any]:
    with np.errstate(all="ignore"):
        forward = lightnorm_golden.forward(
            c.x, c.weight, c.bias, spec=c.spec, eps=c.eps, momentum=c.momentum, chunks=c.chunks,
            running_mean=c.running_mean, running_sigma=c.running_sigma,
        )  # fmt: skip
        backward = lightnorm_golden.backward(c.x, c.grad_output, c.weight, spec=c.spec, eps=c.eps, chunks=c.chunks)
        inference = lightnorm_golden.infer(
            c.x, c.weight, c.bias, c.running_mean, c.running_sigma, spec=c.spec, eps=c.eps
        )
    return {
        "output": forward.output, "mean": forward.mean, "sigma": forward.sigma,
        "running_mean": forward.running_mean, "running_sigma": forward.running_sigma,
        "grad_input": backward.grad_input, "grad_weight": backward.grad_weight, "grad_bias": backward.grad_bias,
        "inferred": inference.output,
    }  # fmt: skip


def ours(c: Case) -> dict[str, torch.Tensor]:
    settings = Settings(c.spec, c.eps, c.chunks)
    x, weight, bias = (tensor(values).requires_grad_() for values in (c.x, c.weight, c.bias))
    running_mean, running_sigma = tensor(c.running_mean), tensor(c.running_sigma)
    inferred = infer(x, weight, bias, running_mean, running_sigma, settings)
    y, mean, sigma = train(x, weight, bias, settings)
    y.backward(tensor(c.grad_output))
    update_running(running_mean, mean, c.momentum, c.spec)
    update_running(running_sigma, sigma, c.momentum, c.spec)
    assert x.grad is not None and weight.grad is not None and bias.grad is not None
    return {
        "output": y, "mean": mean, "sigma": sigma, "running_mean": running_mean, "running_sigma": running_sigma,
        "grad_input": x.grad, "grad_weight": weight.grad, "grad_bias": bias.grad, "inferred": inferred,
    }  # fmt: skip


@pytest.mark.parametrize("first", range(0, 800, 50))
def test_random_layers(first: int) -> None:
    """Formats e2..8 m1..10, blocks of 1..64, wide formats, chunk counts, shapes, dtypes, gains, eps and momentum."""
    for seed in range(first, first + 50):
        compare(str(case(seed)), ours(case(seed)), golden(case(seed)))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(800, 20_800, 500))
def test_many_random_layers(first: int) -> None:
    for seed in range(first, first + 500):
        compare(str(case(seed)), ours(case(seed)), golden(case(seed)))


def layer_case(spec: NormSpec, shape: tuple[int, ...], chunks: int, seed: int) -> Case:
    """Every channel of another kind: ties, constant, boundary, ..."""
    rng = np.random.default_rng(seed)
    channels, elements = shape[1], int(np.prod(shape)) // shape[1]
    columns = [
        channel_values(rng, spec.activation, elements, (seed + i) % len(KINDS))[0].clip(-1e30, 1e30)
        for i in range(channels)
    ]
    grads = [channel_values(rng, spec.gradient, elements)[0].clip(-1e30, 1e30) for _ in range(channels)]
    return Case(
        seed=seed, spec=spec, x=to_tensor(np.array(columns, np.float32), shape),
        grad_output=to_tensor(np.array(grads, np.float32), shape), weight=rng.normal(size=channels).astype(np.float32),
        bias=rng.normal(size=channels).astype(np.float32), running_mean=rng.normal(size=channels).astype(np.float32),
        running_sigma=rng.random(channels).astype(np.float32), eps=1e-5, momentum=0.1, chunks=chunks, kinds=(),
    )  # fmt: skip


def layer_results(layer: Any, c: Case, x: torch.Tensor, grad_output: torch.Tensor) -> dict[str, torch.Tensor]:
    """A training step of the layer with the case's state, then eval() with the state before it."""
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(c.weight))
        layer.bias.copy_(torch.from_numpy(c.bias))
        layer.running_mean.copy_(torch.from_numpy(c.running_mean))
        layer.running_sigma.copy_(torch.from_numpy(c.running_sigma))
    inferred = layer.eval()(x)
    leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = layer.train()(leaf)
    y.backward(grad_output)
    strides = [[s for s, size in zip(t.stride(), t.shape, strict=True) if size > 1] for t in (x, y)]
    assert y.dtype == x.dtype and strides[0] == strides[1] and leaf.grad is not None
    return {
        "output": y, "running_mean": layer.running_mean, "running_sigma": layer.running_sigma, "grad_input": leaf.grad,
        "grad_weight": layer.weight.grad, "grad_bias": layer.bias.grad, "inferred": inferred,
    }  # fmt: skip


def without_batch(results: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in results.items() if name not in ("mean", "sigma")}


@pytest.mark.parametrize("block_size", [1, 3, 4, 16])
@pytest.mark.parametrize("exp_bits", range(2, 8))
def test_formats(exp_bits: int, block_size: int) -> None:
    """Float32 layers over all fractions; the gradient's format and block differ; 39 values end in a short block."""
    for man_bits in range(1, 11):
        spec = NormSpec(BlockFormat(exp_bits, man_bits, block_size), BlockFormat(9 - exp_bits, 11 - man_bits, 4))
        c = layer_case(spec, (3, 6, 13), chunks=3, seed=100 * exp_bits + man_bits)
        layer = LightNorm1d(6, spec=spec, chunks=3)
        got = layer_results(layer, c, torch.from_numpy(c.x), torch.from_numpy(c.grad_output))
        compare(str(c), got, without_batch(golden(c)))


SHAPES: list[tuple[type, tuple[int, ...]]] = [
    (LightNorm1d, (5, 3)), (LightNorm1d, (2, 3)), (LightNorm1d, (4, 3, 16)), (LightNorm1d, (1, 3, 7)),
    (LightNorm2d, (4, 3, 4, 8)), (LightNorm2d, (3, 12, 5, 7)), (LightNorm2d, (1, 2, 4, 4)),
    (LightNorm2d, (16, 1, 1, 1)), (LightNorm3d, (2, 3, 2, 3, 4)), (SyncLightNorm, (4, 3, 5, 5)),
]  # fmt: skip


@pytest.mark.parametrize("chunks", [1, 2, 16, 1000])
@pytest.mark.parametrize("layer, shape", SHAPES)
def test_shapes_and_chunks(layer: type, shape: tuple[int, ...], chunks: int) -> None:
    for seed in range(6):
        c = layer_case(DEFAULT, shape, chunks, seed)
        got = layer_results(layer(shape[1], chunks=chunks), c, torch.from_numpy(c.x), torch.from_numpy(c.grad_output))
        compare(str(c), got, without_batch(golden(c)))


@pytest.mark.parametrize("shape", [(4, 3, 4, 8), (2, 5, 3, 5), (3, 4, 1, 1)])
def test_memory_formats(shape: tuple[int, ...]) -> None:
    """channels_last in, the same bits out in channels_last; a transposed or sliced tensor too."""
    c = layer_case(DEFAULT, shape, 4, 7)
    want = without_batch(golden(c))
    for last_x, last_grad in ((True, True), (True, False), (False, True)):
        formats = [torch.channels_last if last else torch.contiguous_format for last in (last_x, last_grad)]
        x, grad = (torch.from_numpy(v).to(memory_format=f) for v, f in zip((c.x, c.grad_output), formats, strict=True))
        compare(str(c), layer_results(LightNorm2d(shape[1], chunks=4), c, x, grad), want)
    x = torch.from_numpy(c.x).transpose(2, 3).contiguous().transpose(2, 3)
    compare(str(c), layer_results(LightNorm2d(shape[1], chunks=4), c, x, torch.from_numpy(c.grad_output)), want)


@pytest.mark.parametrize("spec", [DEFAULT, NormSpec(BlockFormat(8, 7, 4), BlockFormat(8, 7, 4), 23, 23)])
def test_a_gradient_of_one_value(spec: NormSpec) -> None:
    """What y.sum().backward() gives: an expanded tensor, stride 0; and gradients that are all zero."""
    c = layer_case(spec, (4, 5, 6, 6), 3, 11)
    for value in (1.0, 0.0):
        x = torch.from_numpy(c.x).requires_grad_()
        y, _, _ = train(x, None, None, Settings(spec, c.eps, c.chunks))
        (value * y).sum().backward()
        grad = np.full(c.x.shape, value, np.float32)
        want = lightnorm_golden.backward(c.x, grad, spec=spec, eps=c.eps, chunks=c.chunks)
        assert x.grad is not None
        compare(str(c), {"grad_input": x.grad.double()}, {"grad_input": want.grad_input})


@pytest.mark.parametrize("seed", range(0, 120))
def test_inference_backward(seed: int) -> None:
    """Section 7 with constant statistics, from the golden model's parts: dx = scale * g, rounded once."""
    c = case(seed)
    spec, elements = c.spec, c.x.size // c.x.shape[1]
    x, weight, bias = (tensor(values).requires_grad_() for values in (c.x, c.weight, c.bias))
    y = infer(x, weight, bias, tensor(c.running_mean), tensor(c.running_sigma), Settings(spec, c.eps, c.chunks))
    y.backward(tensor(c.grad_output))

    with np.errstate(over="ignore", invalid="ignore"):
        inference = lightnorm_golden.infer(c.x, c.weight, c.bias, c.running_mean, c.running_sigma, spec=spec, eps=c.eps)
        nothing = np.zeros(c.x.shape[1])
        columns = [np.moveaxis(v, 1, 0).reshape(c.x.shape[1], -1) for v in (c.x, c.grad_output)]
        formats = (spec.activation, spec.gradient)
        pairs = [encode(to_block_major(v, f.block_size), f) for v, f in zip(columns, formats, strict=True)]
    mean = lightnorm_golden.forward(c.x, spec=spec, momentum=0.0, running_mean=c.running_mean).running_mean
    totals = binned_sum(pairs[1][0].sum(axis=0), pairs[1][1]), product_sum(pairs[0], pairs[1], elements)
    terms = grad_terms(*totals, mean, inference.invstd, inference.scale, 0.0, 0.0, spec)
    # an inference of g with the layer's scale and without a shift rounds scale * g into the gradient's format
    signed, shared_exp = pairs[1]
    exact = inference.scale[:, None] * np.ldexp(signed, shared_exp + spec.gradient.min_exponent)
    signed, shared_exp = encode(exact, spec.gradient)
    values = np.ldexp(signed, shared_exp + spec.gradient.min_exponent).transpose(1, 2, 0) + 0.0
    grad_input = to_tensor(values.reshape(len(nothing), -1)[:, :elements], c.x.shape)
    assert x.grad is not None and weight.grad is not None and bias.grad is not None
    compare(
        str(c),
        {"grad_input": x.grad, "grad_weight": weight.grad, "grad_bias": bias.grad},
        {"grad_input": grad_input, "grad_weight": terms.grad_weight, "grad_bias": terms.grad_bias},
    )


def test_beyond_53_bits() -> None:
    """The widest formats: scale * x just beside a tie, and a shift that crosses it by less than float64 resolves."""
    rng = np.random.default_rng(12)
    spec = NormSpec(BlockFormat(8, 10, 1), BlockFormat(8, 10, 1), 23, 23)
    n = rng.integers(512, 1024, 4000) * 2 + 1
    beside = rng.integers(1, 9, n.size) * rng.choice([-1, 1], n.size)  # in units of 2^-23
    inverse = np.array([pow(int(value), -1, 1 << 23) for value in n])
    scale = (1 << 23) + ((1 << 22) + beside) * inverse % (1 << 23)  # n * scale = 2^22 + beside (mod 2^23)
    kept = n * scale < 2048 << 23
    x, weight = n[kept][None].astype(np.float64), scale[kept] * 2.0**-23
    bias = -beside[kept] * 2.0**-23 * (1 + rng.integers(-3, 4, kept.sum()) * 2.0**-23)
    ones, zeros = np.ones(kept.sum()), np.zeros(kept.sum())
    want = lightnorm_golden.infer(x, weight, bias, zeros, ones, spec=spec, eps=0.0).output
    assert (np.rint(x * weight + bias) != want).any()
    got = infer(*(tensor(v) for v in (x, weight, bias, zeros, ones)), Settings(spec, 0.0, 1))
    compare("widest formats", {"output": got}, {"output": want})


def test_host_constants() -> None:
    """Ours, which also serve several processes, are the golden model's."""
    rng = np.random.default_rng(1)
    for gain in lightnorm_golden.GAINS:
        for coef_man_bits in (8, 15, 23):
            spec = NormSpec(BlockFormat(5, 4, 4), BlockFormat(6, 3, 4), coef_man_bits, gain=gain)
            for elements in [2, 3, 4, 5, 1 << 24, *map(int, rng.integers(2, 5000, 20))]:
                for chunks in (1, 3, 16):
                    host = host_constants(elements, chunks, spec)
                    assert inv_count(elements, spec) == host.inv_count
                    assert range_gain(elements, 4 * host.chunk_blocks, host.chunks, spec) == host.range_gain
