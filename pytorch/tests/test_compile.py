"""torch.compile: one graph, the same bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightnorm_torch import LightNorm2d


def step(layer: Any, called: Any, x: torch.Tensor, grad_output: torch.Tensor) -> list[torch.Tensor]:
    leaf = x.clone().requires_grad_()
    y = called(leaf)
    y.backward(grad_output)
    return [y.detach(), leaf.grad, layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_sigma]


def check(backend: str, shapes: list[tuple[int, ...]], **options: Any) -> None:
    torch.manual_seed(0)
    plain, compiled = LightNorm2d(3, **options), LightNorm2d(3, **options)
    called = torch.compile(compiled, backend=backend, fullgraph=True)
    for shape in shapes:
        x, grad_output = torch.randn(shape), torch.randn(shape)
        pairs = zip(step(plain, plain, x, grad_output), step(compiled, called, x, grad_output), strict=True)
        assert all(torch.equal(*pair) for pair in pairs), shape
    assert torch.equal(plain.eval()(x), torch.compile(compiled.eval(), backend=backend, fullgraph=True)(x))


def test_one_graph() -> None:
    """No graph breaks, in training and inference, also for a second batch size (a short last block in both)."""
    check("aot_eager", [(4, 3, 5, 7), (6, 3, 5, 7)], momentum=None)


@pytest.mark.slow
def test_inductor() -> None:
    """Compiled to C++: needs a compiler, and minutes."""
    check("inductor", [(4, 3, 5, 7), (4, 3, 4, 4)])
