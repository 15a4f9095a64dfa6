"""Section 8: what software refuses, by the whole message: what was given, what is allowed, and where."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from lightnorm_golden import MAX_ELEMENTS, BlockFormat, NormSpec, backward, forward, infer

SPEC = NormSpec(BlockFormat(5, 4, 4), BlockFormat(6, 3, 4))
X = np.zeros((2, 3, 2))
NUMBERS = np.zeros(3)


def with_nan(*indices: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float64]]:
    x = X.copy()
    for index in indices:
        x[index] = np.nan
    return x


def refuses(message: str, call: Any, *arguments: Any, **options: Any) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call(*arguments, **{"spec": SPEC, **options})


TENSORS: list[tuple[Any, str]] = [
    (with_nan((1, 0, 1), (0, 2, 1)), "x must not hold NaN; the first is at index (0, 2, 1)"),
    (with_nan((1, 2, 1)).astype(np.float16), "x must not hold NaN; the first is at index (1, 2, 1)"),
    ([[1.0], [2.0]], "x must be a NumPy array of float16, float32 or float64, not list"),
    (X.astype(np.int32), "x must be a NumPy array of float16, float32 or float64, not an array of int32"),
    (X.astype(complex), "x must be a NumPy array of float16, float32 or float64, not an array of complex128"),
    (np.zeros(5), "x must have the shape (N, C, *spatial) and at least one element, not (5,)"),
    (np.zeros((0, 3, 2)), "x must have the shape (N, C, *spatial) and at least one element, not (0, 3, 2)"),
    (np.zeros((2, 0, 2)), "x must have the shape (N, C, *spatial) and at least one element, not (2, 0, 2)"),
]


@pytest.mark.parametrize("x, message", TENSORS)
def test_tensor(x: Any, message: str) -> None:
    refuses(message, forward, x)
    refuses(message, infer, x, None, None, None, None)
    refuses(message, backward, x, x)


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize <= 8, reason="this platform's longdouble is float64")
def test_longdouble() -> None:
    name = np.dtype(np.longdouble).name
    message = f"x must be a NumPy array of float16, float32 or float64, not an array of {name}"
    refuses(message, forward, X.astype(np.longdouble))
    message = f"bias must be an array of float16, float32 or float64 of shape (3,), not {name} (3,)"
    refuses(message, forward, X, bias=np.zeros(3, np.longdouble))


def test_too_many_elements() -> None:
    """Refused before anything is computed: the array is one element, broadcast."""
    x = np.broadcast_to(np.zeros(1), (MAX_ELEMENTS + 1, 1))
    refuses("x must have at most 16777216 values per channel, not 16777217", forward, x)
    refuses("x must have at most 16777216 values per channel, not 16777217", infer, x, None, None, None, None)


GRADIENTS: list[tuple[Any, str]] = [
    (np.zeros((2, 3, 3)), "grad_output must have the shape of x, (2, 3, 2), not (2, 3, 3)"),
    (np.zeros((2, 3)), "grad_output must have the shape of x, (2, 3, 2), not (2, 3)"),
    (with_nan((0, 1, 0)), "grad_output must not hold NaN; the first is at index (0, 1, 0)"),
    (None, "grad_output must be a NumPy array of float16, float32 or float64, not NoneType"),
]


@pytest.mark.parametrize("grad_output, message", GRADIENTS)
def test_grad_output(grad_output: Any, message: str) -> None:
    refuses(message, backward, X, grad_output)


VECTORS: list[tuple[Any, str]] = [
    (np.zeros(2), "must be an array of float16, float32 or float64 of shape (3,), not float64 (2,)"),
    (np.zeros((3, 1)), "must be an array of float16, float32 or float64 of shape (3,), not float64 (3, 1)"),
    (1.0, "must be an array of float16, float32 or float64 of shape (3,), not float64 ()"),
    (np.zeros(3, int), "must be an array of float16, float32 or float64 of shape (3,), not int64 (3,)"),
    (np.array([0.0, np.nan, np.inf]), "must be finite; channel 1 is nan"),
    (np.array([0.0, 1.0, -np.inf]), "must be finite; channel 2 is -inf"),
]


@pytest.mark.parametrize("values, message", VECTORS)
@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_sigma"])
def test_per_channel_vectors(name: str, values: Any, message: str) -> None:
    refuses(f"{name} {message}", forward, X, **{name: values})
    names = ("weight", "bias", "running_mean", "running_sigma")
    refuses(f"{name} {message}", infer, X, *(values if n == name else None for n in names))
    if name == "weight":
        refuses(f"{name} {message}", backward, X, X, values)


@pytest.mark.parametrize("negative", [-1.5, -1e-45])
def test_negative_running_sigma(negative: float) -> None:
    """Section 6, also where K would round it to 0; a negative zero is zero. Training only averages it."""
    sigma = np.array([1.0, -0.0, negative])
    refuses(f"running_sigma must not be negative; channel 2 is {negative}", infer, X, None, None, None, sigma)
    infer(X, None, None, None, np.array([1.0, -0.0, 2.0]), spec=SPEC)
    forward(X, running_sigma=sigma, spec=SPEC)


@pytest.mark.parametrize("chunks", [0, -3, 2.0, True, None, "4"])
def test_chunks(chunks: Any) -> None:
    message = f"chunks must be an integer of at least 1, not {chunks!r}"
    refuses(message, forward, X, chunks=chunks)
    refuses(message, backward, X, X, chunks=chunks)


@pytest.mark.parametrize("eps", [-1e-9, -np.inf, np.inf, np.nan, "1e-5", None, [1e-5], 1j, True])
def test_eps(eps: Any) -> None:
    message = f"eps must be a number finite and at least 0, not {eps!r}"
    refuses(message, forward, X, eps=eps)
    refuses(message, infer, X, None, None, None, None, eps=eps)
    refuses(message, backward, X, X, eps=eps)


@pytest.mark.parametrize("momentum", [-0.1, 1.0000001, np.nan, np.inf, None, "0.1"])
def test_momentum(momentum: Any) -> None:
    refuses(f"momentum must be a number in [0, 1], not {momentum!r}", forward, X, momentum=momentum)


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1), (1, 3, 1, 1)])
def test_one_value_per_channel(shape: tuple[int, ...]) -> None:
    """Training needs two; inference does with one."""
    x = np.zeros(shape)
    refuses("training needs more than one value per channel, not 1", forward, x)
    refuses("training needs more than one value per channel, not 1", backward, x, x)
    assert infer(x, None, None, None, None, spec=SPEC).output.shape == shape


def test_infinities_are_accepted() -> None:
    """They saturate in tensors: the same bits as the largest value of the format (e5m4 for x, e6m3 for grad_output)."""
    x = X.copy()
    x[0, 0, 0], x[1, 1, 1] = np.inf, -np.inf
    finite_x, finite_g = (np.where(np.isinf(x), np.sign(x) * value, x) for value in (31 * 2.0**12, 15 * 2.0**29))
    assert (forward(x, spec=SPEC).output == forward(finite_x, spec=SPEC).output).all()
    assert (forward(x, spec=SPEC).mean == forward(finite_x, spec=SPEC).mean).all()
    got, want = backward(x, x, spec=SPEC), backward(finite_x, finite_g, spec=SPEC)
    assert (got.grad_input == want.grad_input).all() and (got.grad_weight == want.grad_weight).all()
