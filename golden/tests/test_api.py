"""What callers may rely on besides the numbers: defaults, shapes, dtypes, memory layouts, and inputs left alone."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from comparison import FORWARD, actual
from numpy.typing import NDArray
from stimulus import case, to_columns

from lightnorm_golden import (
    Backward,
    BlockFormat,
    Blocks,
    Inference,
    NormSpec,
    backward,
    decode,
    forward,
    infer,
    quantize,
)

Array = NDArray[Any]

SPEC = NormSpec(BlockFormat(5, 4, 4), BlockFormat(6, 3, 8))


Result = Inference | Backward


def assert_same_bits(got: Result, want: Result, shape: tuple[int, ...] | None = None) -> None:
    """Every field equal; `shape`: the tensors may differ in how their elements are arranged, not in their order."""
    assert type(got) is type(want)
    for name, expected in vars(want).items():
        value = getattr(got, name)
        if isinstance(expected, Blocks):
            for part in ("shared_exp", "sign", "significand"):
                assert (getattr(value, part) == getattr(expected, part)).all(), f"{name}.{part}"
        elif name in ("output", "grad_input") and shape is not None:
            assert value.shape == shape
            assert (to_columns(value) == to_columns(expected)).all(), name
        else:
            assert value.dtype == expected.dtype and (value == expected).all(), name


def random_tensors(shape: tuple[int, ...], seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.normal(1, 1, shape), rng.normal(size=shape)


def test_defaults_of_forward() -> None:
    x, _ = random_tensors((5, 3, 4, 2))
    ones, zeros = np.ones(3), np.zeros(3)
    explicit = forward(
        x, ones, zeros, spec=SPEC, eps=1e-5, momentum=0.1, chunks=16, running_mean=zeros, running_sigma=ones
    )
    assert_same_bits(forward(x, spec=SPEC), explicit)
    assert_same_bits(forward(x, None, None, spec=SPEC, running_mean=None, running_sigma=None), explicit)


def test_defaults_of_inference_and_backward() -> None:
    x, g = random_tensors((5, 3, 4, 2))
    ones, zeros = np.ones(3), np.zeros(3)
    assert_same_bits(
        infer(x, None, None, None, None, spec=SPEC), infer(x, ones, zeros, zeros, ones, spec=SPEC, eps=1e-5)
    )
    assert_same_bits(backward(x, g, spec=SPEC), backward(x, g, ones, spec=SPEC, eps=1e-5, chunks=16))


def test_host_numbers_are_rounded_to_coef() -> None:
    """eps, momentum and the per-channel vectors: the nearest K gives the same bits, in whatever number type it is."""
    x, g = random_tensors((5, 3, 4, 2))
    spec = NormSpec(SPEC.activation, SPEC.gradient, coef_man_bits=8)
    exact, rounded = np.array([1 + 2.0**-9, 1.75, -(1 + 3 * 2.0**-9)]), np.array([1.0, 1.75, -(1 + 4 * 2.0**-9)])
    results: list[Result] = []
    for values, eps, momentum in ((exact, 1 + 2.0**-9, 2.0**-130), (rounded, 1, 0)):
        running: dict[str, Any] = {"running_mean": values, "running_sigma": abs(values)}
        results.append(forward(x, values, values, spec=spec, eps=eps, momentum=momentum, **running))
    assert_same_bits(results[0], results[1])
    single: Any = np.float32(1)
    assert_same_bits(backward(x, g, exact, spec=spec, eps=single), backward(x, g, rounded, spec=spec, eps=1.0))
    half = [rounded.astype(np.float16)] * 2
    assert_same_bits(forward(x, *half, spec=spec), forward(x, rounded, rounded, spec=spec))
    assert_same_bits(forward(x, *map(list, half), spec=spec), forward(x, rounded, rounded, spec=spec))


@pytest.mark.parametrize("shape", [(24, 3), (2, 3, 12), (6, 3, 2, 2), (2, 3, 3, 2, 2), (1, 3, 2, 3, 2, 2)])
def test_number_of_dimensions(shape: tuple[int, ...]) -> None:
    """The same elements in (n, h, w) order give the same bits whatever the spatial dimensions are."""
    columns, grads = random_tensors((3, 24))
    rest = (shape[0], *shape[2:])
    x, g = (np.moveaxis(values.reshape(3, *rest), 0, 1) for values in (columns, grads))
    flat, flat_g = columns.T[:, :, None], grads.T[:, :, None]
    assert_same_bits(forward(x, spec=SPEC, chunks=3), forward(flat, spec=SPEC, chunks=3), shape)
    assert_same_bits(infer(x, None, None, None, None, spec=SPEC), infer(flat, None, None, None, None, spec=SPEC), shape)
    assert_same_bits(backward(x, g, spec=SPEC, chunks=3), backward(flat, flat_g, spec=SPEC, chunks=3), shape)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f2", ">f4", ">f8"])
def test_dtypes(dtype: str) -> None:
    """Equal values give equal bits in every floating-point dtype and byte order."""
    x, g = (values.astype(np.float16) for values in random_tensors((4, 3, 3, 2)))
    as_float64 = x.astype(float), g.astype(float)
    assert_same_bits(forward(x.astype(dtype), spec=SPEC), forward(as_float64[0], spec=SPEC))
    assert_same_bits(backward(x.astype(dtype), g.astype(dtype), spec=SPEC), backward(*as_float64, spec=SPEC))


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "channels last": lambda x: np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "Fortran order": np.asfortranarray,
    "every other element of a larger array": lambda x: np.repeat(np.repeat(x, 2, axis=3), 2, axis=0)[::2, :, :, ::2],
    "negative strides": lambda x: np.ascontiguousarray(x[::-1, ::-1, ::-1, ::-1])[::-1, ::-1, ::-1, ::-1],
    "read-only": lambda x: np.broadcast_to(x, x.shape),
    "unaligned": lambda x: np.frombuffer(b"\0" + x.tobytes(), x.dtype, offset=1).reshape(x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_memory_layouts(layout: str, dtype: Any) -> None:
    x, g = (values.astype(dtype) for values in random_tensors((4, 3, 5, 6)))
    strided = [LAYOUTS[layout](values) for values in (x, g)]
    assert layout == "read-only" or strided[0].strides != x.strides or not strided[0].flags.aligned
    assert (strided[0] == x).all()
    assert_same_bits(forward(strided[0], spec=SPEC), forward(x, spec=SPEC))
    assert_same_bits(infer(strided[0], None, None, None, None, spec=SPEC), infer(x, None, None, None, None, spec=SPEC))
    assert_same_bits(backward(strided[0], strided[1], spec=SPEC), backward(x, g, spec=SPEC))


@pytest.mark.parametrize("shape", [(1, 3, 4), (4, 1, 4), (4, 3), (2, 3, 2, 2), (1, 1, 16)])
@pytest.mark.parametrize("block_size", [1, 4, 16])
def test_inputs_are_not_modified(shape: tuple[int, ...], block_size: int) -> None:
    """In float64, where a view of the input could be taken for a work array (one sample, one channel, one block)."""
    fmt = BlockFormat(5, 4, block_size)
    spec = NormSpec(fmt, fmt)
    tensors = random_tensors(shape)
    vectors = [np.random.default_rng(1).uniform(0.3, 2, shape[1]) for _ in range(4)]
    before = [values.copy() for values in (*tensors, *vectors)]
    weight, bias, mean, sigma = vectors
    forward(tensors[0], weight, bias, spec=spec, running_mean=mean, running_sigma=sigma)
    infer(tensors[0], weight, bias, mean, sigma, spec=spec)
    backward(*tensors, weight, spec=spec)
    columns = tensors[0].reshape(1, -1)
    blocks = quantize(columns, fmt)
    significand = blocks.significand.copy()
    decode(blocks)
    assert (blocks.significand == significand).all()
    for values, original in zip((*tensors, *vectors), before, strict=True):
        assert (values == original).all()


@pytest.mark.parametrize("tile_elements", [1, 50, 1 << 30])
def test_tiles_do_not_change_bits(tile_elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many channels are processed at once is an implementation choice."""
    default = [actual(case(seed)) for seed in range(40)]
    monkeypatch.setattr(importlib.import_module("lightnorm_golden.forward"), "_TILE_ELEMENTS", tile_elements)
    for seed, want in enumerate(default):
        got = actual(case(seed))
        assert all((got[name] == want[name]).all() for name in want), f"seed {seed}"


@pytest.mark.parametrize("exp_bits, dtype", [(2, np.float32), (7, np.float32), (8, np.float64)])
def test_results(exp_bits: int, dtype: Any) -> None:
    """Tensors hold the exact values of the blocks, in float32 where that can hold them; vectors are exactly float32."""
    x, g = random_tensors((5, 3, 4, 2))
    fmt = BlockFormat(exp_bits, 10, 4)
    spec = NormSpec(fmt, fmt)
    trained, grads = forward(x, spec=spec), backward(x, g, spec=spec)
    for tensor, blocks in ((trained.output, trained.blocks), (grads.grad_input, grads.blocks)):
        assert tensor.dtype == dtype and tensor.shape == x.shape
        assert blocks.format == fmt
        dtypes = [getattr(blocks, part).dtype.name for part in ("shared_exp", "sign", "significand")]
        assert dtypes == ["uint8", "bool", "uint16"]
        assert (to_columns(tensor) == decode(blocks, 40)).all()
    vectors = {**vars(trained), **vars(grads)}
    for name in (*FORWARD, "grad_weight", "grad_bias"):
        assert vectors[name].dtype == np.float64 and vectors[name].shape == (3,)
        assert (vectors[name].astype(np.float32) == vectors[name]).all(), name
