"""Semantics of torch.nn.BatchNorm: constructor, state, modes, errors; and what is beyond it."""

from __future__ import annotations

import copy
import io
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lightnorm_golden
from lightnorm_golden import BlockFormat, NormSpec
from lightnorm_torch import LightNorm1d, LightNorm2d, LightNorm3d, SyncLightNorm, convert, revert
from lightnorm_torch.modules import DEFAULT_SPEC

PAIRS = [(LightNorm1d, nn.BatchNorm1d), (LightNorm2d, nn.BatchNorm2d), (LightNorm3d, nn.BatchNorm3d)]
SMALL = NormSpec(BlockFormat(4, 7, 4), BlockFormat(4, 7, 4))


def used(layer: Any, steps: int = 3) -> Any:
    torch.manual_seed(5)
    for _ in range(steps):
        layer(torch.randn(6, layer.num_features, 5, 4) * 2 + 1)
    return layer


@pytest.mark.parametrize("ours, theirs", [*PAIRS, (SyncLightNorm, nn.SyncBatchNorm)])
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False}, {"momentum": None}])
def test_constructor_and_state(ours: Any, theirs: Any, options: dict[str, Any]) -> None:
    """The same arguments, keys, shapes, dtypes and values to begin with."""
    layer, standard = ours(7, 1e-3, **options), theirs(7, 1e-3, **options)
    for name in ("num_features", "eps", "momentum", "affine", "track_running_stats", "training"):
        assert getattr(layer, name) == getattr(standard, name)
    got, want = layer.state_dict(), standard.state_dict()
    assert list(got) == list(want)
    for name, value in want.items():
        assert got[name].dtype == value.dtype and torch.equal(got[name], value), name


def test_positional_arguments() -> None:
    layer = LightNorm2d(3, 1e-4, 0.2, True, True, "cpu", torch.float64)
    assert layer.weight is not None and layer.weight.dtype == torch.float64
    assert layer.running_sigma is not None and layer.running_sigma.dtype == torch.float64


def test_state_loads_both_ways() -> None:
    """Into nn.BatchNorm2d and back, strictly; sigma comes back with the same bits."""
    layer = used(LightNorm2d(4))
    standard = nn.BatchNorm2d(4)
    standard.load_state_dict(layer.state_dict())
    assert torch.equal(standard.running_var, layer.running_sigma**2) and standard.num_batches_tracked == 3
    other = LightNorm2d(4)
    other.load_state_dict(standard.state_dict())
    assert torch.equal(other.running_sigma, layer.running_sigma) and torch.equal(other.weight, layer.weight)
    x = torch.randn(2, 4, 3, 3)
    assert torch.equal(other.eval()(x), layer.eval()(x))


def test_state_of_a_model_survives_a_file() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), LightNorm2d(4))
    used(model[1])
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    standard = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    standard.load_state_dict(torch.load(file))
    assert torch.equal(standard[1].running_var, model[1].running_var)


@pytest.mark.parametrize("coef_man_bits", [8, 15, 23])
def test_sigma_and_variance(coef_man_bits: int) -> None:
    """The root of the rounded square is the same sigma in [2^-63, 2^63], and at 0."""
    rng = np.random.default_rng(2)
    exponents = rng.integers(-63, 63, 100_000)
    sigma = np.ldexp(np.round(rng.uniform(1, 2, exponents.size) * 2.0**coef_man_bits), exponents - coef_man_bits)
    layer = LightNorm1d(sigma.size + 3)
    layer.running_sigma.copy_(torch.from_numpy(np.append(sigma, [0.0, 2.0**-63, 2.0**63])))
    other = LightNorm1d(sigma.size + 3)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.running_sigma, layer.running_sigma)
    layer.running_sigma.fill_(2.0**100)
    other.load_state_dict(layer.state_dict())
    assert torch.isfinite(other.running_sigma).all()


def test_wrong_state() -> None:
    layer = LightNorm2d(3)
    state = layer.state_dict()
    state["running_var"][1] = -1
    with pytest.raises(RuntimeError, match="running_var must not be negative"):
        layer.load_state_dict(state)
    del state["running_var"]
    with pytest.raises(RuntimeError, match='Missing key.*"running_var"'):
        layer.load_state_dict(state)
    with pytest.raises(RuntimeError, match="size mismatch for running_sigma"):
        layer.load_state_dict(nn.BatchNorm2d(4).state_dict())
    with pytest.raises(RuntimeError, match='Unexpected key.*"running_var"'):
        LightNorm2d(3, track_running_stats=False).load_state_dict(nn.BatchNorm2d(3).state_dict())


def test_momentum_none_is_the_cumulative_average() -> None:
    """As in nn.BatchNorm2d, the factor of step n is 1/n; every step equals the golden model's."""
    torch.manual_seed(3)
    layer = LightNorm2d(4, momentum=None)
    mean, sigma = np.zeros(4), np.ones(4)
    for step in range(1, 6):
        x = torch.randn(4, 4, 5, 5) + step
        layer(x)
        want = lightnorm_golden.forward(
            x.numpy(), spec=DEFAULT_SPEC, momentum=1 / step, running_mean=mean, running_sigma=sigma
        )
        mean, sigma = want.running_mean, want.running_sigma
        assert (layer.running_mean.numpy() == mean).all() and (layer.running_sigma.numpy() == sigma).all()
    assert layer.num_batches_tracked == 5


def test_modes() -> None:
    """eval() uses and keeps the running statistics; without them it uses the batch's."""
    layer = used(LightNorm2d(4)).eval()
    before = copy.deepcopy(layer.state_dict())
    x = torch.randn(3, 4, 6, 6) * 3
    alone = torch.cat([layer(part) for part in x.split(1)])
    assert torch.equal(layer(x), alone) or layer.spec.activation.block_size > 1
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())
    untracked = LightNorm2d(4, track_running_stats=False)
    assert untracked.state_dict().keys() == {"weight", "bias"}
    assert torch.equal(untracked.eval()(x), LightNorm2d(4)(x))


def test_close_to_batch_norm() -> None:
    """On normal data with a generous format: range batch norm estimates the same sigma to a few percent."""
    torch.manual_seed(1)
    x, grad = torch.randn(32, 3, 16, 16) * 3 + 1, torch.randn(32, 3, 16, 16)
    results = []
    for layer in (nn.BatchNorm2d(3), LightNorm2d(3, spec=NormSpec(BlockFormat(7, 10, 4), BlockFormat(7, 10, 4)))):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        y.backward(grad)
        results.append((y.detach(), leaf.grad))
    for theirs, ours, part in zip(*results, (0.03, 0.1), strict=True):  # dx: extrema instead of every element
        assert (ours - theirs).norm() < part * theirs.norm()


def test_reset() -> None:
    layer = used(LightNorm2d(4))
    with torch.no_grad():
        layer.weight.fill_(3)
    layer.reset_parameters()
    assert all(torch.equal(value, LightNorm2d(4).state_dict()[name]) for name, value in layer.state_dict().items())


# ---------------------------------------------------------------------------------------------------------------------
# Errors
# ---------------------------------------------------------------------------------------------------------------------

INPUTS: list[tuple[Any, tuple[int, ...], str]] = [
    (LightNorm1d, (2, 3, 4, 4), "expected 2D or 3D input (got 4D input)"),
    (LightNorm2d, (2, 3, 4), "expected 4D input (got 3D input)"),
    (LightNorm3d, (2, 3, 4, 4), "expected 5D input (got 4D input)"),
    (LightNorm2d, (2, 4, 4, 4), "expected input with 3 channels (got 4 channels)"),
    (LightNorm2d, (0, 3, 4, 4), "expected input with at least one element (got size (0, 3, 4, 4))"),
    (LightNorm1d, (1, 3), "Expected more than 1 value per channel when training, got input size (1, 3)"),
    (LightNorm2d, (1, 3, 1, 1), "Expected more than 1 value per channel when training, got input size (1, 3, 1, 1)"),
]


@pytest.mark.parametrize("layer, shape, message", INPUTS)
def test_wrong_inputs(layer: Any, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        layer(3)(torch.zeros(shape))


def test_one_value_per_channel_in_eval() -> None:
    assert LightNorm2d(3).eval()(torch.zeros(1, 3, 1, 1)).shape == (1, 3, 1, 1)
    with pytest.raises(ValueError, match="more than 1 value"):
        LightNorm2d(3, track_running_stats=False).eval()(torch.zeros(1, 3, 1, 1))


def test_too_many_values() -> None:
    with pytest.raises(ValueError, match="^Expected at most 16777216 values per channel, got 16777217$"):
        LightNorm1d(1)(torch.zeros(1, 1).expand((1 << 24) + 1, 1))


ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"eps": -1e-5}, "eps must be a number finite and at least 0, not -1e-05"),
    ({"eps": float("inf")}, "eps must be a number finite and at least 0, not inf"),
    ({"momentum": 1.5}, "momentum must be a number in [0, 1] or None, not 1.5"),
    ({"chunks": 0}, "chunks must be an integer of at least 1, not 0"),
    ({"chunks": 2.0}, "chunks must be an integer of at least 1, not 2.0"),
    ({"spec": "e5m4"}, "spec must be a NormSpec, not 'e5m4'"),
]


@pytest.mark.parametrize("options, message", ARGUMENTS)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        LightNorm2d(3, **options)


def test_dtypes() -> None:
    """A half precision that cannot hold the formats is refused; one that can gives the bits of float32."""
    x = torch.randn(2, 3, 4, 4)
    message = "torch.float16 cannot hold bfp16_e5m4 and bfp16_e6m3: give float32, or compute under autocast"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        LightNorm2d(3)(x.half())
    with pytest.raises(ValueError, match="^torch.int64 cannot hold"):
        LightNorm2d(3)(x.long())
    for dtype, layer in ((torch.bfloat16, LightNorm2d(3)), (torch.float16, LightNorm2d(3, spec=SMALL))):
        y = layer(x.to(dtype))
        assert y.dtype == dtype and torch.equal(y.float(), layer(x.to(dtype).float()))
    with pytest.raises(ValueError, match="^weight must be float32 or float64 to hold the wide format, not torch.bfl"):
        LightNorm2d(3).bfloat16()(x.bfloat16())


def test_eight_exponent_bits_in_float32() -> None:
    """What float32 cannot hold of such a format becomes infinite, the rest is exact."""
    spec = NormSpec(BlockFormat(8, 4, 1), BlockFormat(8, 4, 1))
    x = torch.tensor([1.5, -1.5, 0.3, 0.001])[:, None]
    layer = LightNorm1d(1, spec=spec, chunks=1)
    with torch.no_grad():
        layer.weight.fill_(3.4e38)
    want = lightnorm_golden.forward(x.numpy(), np.array([3.4e38]), np.zeros(1), spec=spec, chunks=1).output
    with np.errstate(over="ignore"):
        assert torch.equal(layer(x).detach(), torch.from_numpy(want.astype(np.float32)))
        assert np.isinf(want.astype(np.float32)).any()


def test_nan_stays_in_its_channel() -> None:
    """As in nn.BatchNorm2d: forward, statistics, gradients."""
    torch.manual_seed(4)
    x, grad = torch.randn(3, 4, 5, 5), torch.randn(3, 4, 5, 5)
    x[1, 2, 3, 1], grad[0, 1, 0, 0] = float("nan"), float("nan")
    for training in (True, False):
        layer = LightNorm2d(4).train(training)
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        y.backward(grad)
        if training:
            assert y[:, 2].isnan().all() and not y[:, [0, 1, 3]].isnan().any()
            assert layer.running_mean.isnan().tolist() == [False, False, True, False]
            assert leaf.grad[:, 1:3].isnan().all() and not leaf.grad[:, [0, 3]].isnan().any()
        assert layer.weight.grad.isnan().tolist() == [False, True, True, False]
        assert layer.bias.grad.isnan()[1] and not layer.bias.grad.isnan()[[0, 3]].any()


def test_no_second_derivative() -> None:
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    (first,) = torch.autograd.grad(LightNorm2d(3)(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


# ---------------------------------------------------------------------------------------------------------------------
# Beyond it
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    """Computed and returned in float32, whatever the convolution gave; the gradient goes back in its dtype."""
    torch.manual_seed(6)
    convolution, layer = nn.Conv2d(3, 4, 3), LightNorm2d(4)
    with torch.autocast("cpu", dtype=dtype):
        hidden = convolution(torch.randn(2, 3, 8, 8))
        hidden.retain_grad()
        y = layer(hidden)
    assert hidden.dtype == dtype and y.dtype == torch.float32
    y.square().sum().backward()
    assert hidden.grad is not None and hidden.grad.dtype == dtype and convolution.weight.grad is not None
    assert torch.equal(LightNorm2d(4)(hidden.detach().float()), y)


@pytest.mark.parametrize("affine", [True, False])
def test_fold(affine: bool) -> None:
    """The bits of eval(), also after a file and in channels_last."""
    layer = used(LightNorm2d(4, affine=affine))
    if affine:
        nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    folded = layer.eval().fold()
    x = torch.randn(3, 4, 5, 5) * 3
    assert torch.equal(folded(x), layer(x))
    assert torch.equal(folded(x.to(memory_format=torch.channels_last)), layer(x))
    assert folded.state_dict().keys() == {"scale", "shift"}
    with pytest.raises(ValueError, match=r"^fold\(\) needs running statistics"):
        LightNorm2d(4, track_running_stats=False).fold()
    with pytest.raises(ValueError, match="expected 4D input"):
        folded(x[0])


def network() -> nn.Sequential:
    shared = nn.BatchNorm2d(4)
    inner = nn.Sequential(nn.Conv2d(4, 4, 1), shared, nn.BatchNorm2d(4, affine=False), shared)
    head = [nn.Flatten(), nn.BatchNorm1d(4 * 36, momentum=None), nn.BatchNorm1d(4 * 36, track_running_stats=False)]
    return nn.Sequential(nn.Conv2d(3, 4, 3), shared, nn.ReLU(), inner, *head)


def test_convert_and_revert() -> None:
    """Every layer changes, once each; parameters stay the same objects, state the same numbers, modes as they were."""
    torch.manual_seed(7)
    model = network()
    x = torch.randn(8, 3, 8, 8)
    model(x)
    model[3][2].eval()
    parameters, state = list(model.parameters()), copy.deepcopy(model.state_dict())
    reference = model.eval()(x)
    model.train()
    model[3][2].eval()

    assert convert(model, SMALL, chunks=4) is model
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert not [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert model[1] is model[3][1] and model[1] is model[3][3]
    assert model[1].spec is SMALL and model[1].chunks == 4 and model[5].momentum is None
    assert model[1].training and not model[3][2].training
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, state[name])
    model(x).sum().backward()

    assert revert(model) is model
    assert [type(m) for m in model.modules()] == [type(m) for m in network().modules()]
    assert list(model.state_dict()) == list(state)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    model.load_state_dict(state)
    assert torch.equal(model.eval()(x), reference)


def test_convert_a_layer_itself() -> None:
    layer = convert(nn.BatchNorm2d(3, eps=1e-3, dtype=torch.float64))
    assert type(layer) is LightNorm2d and layer.eps == 1e-3 and layer.running_mean.dtype == torch.float64
    assert type(revert(layer)) is nn.BatchNorm2d
    assert type(convert(nn.SyncBatchNorm(3))) is SyncLightNorm and type(revert(SyncLightNorm(3))) is nn.SyncBatchNorm


def test_deepcopy_and_repr() -> None:
    layer = used(LightNorm2d(4, chunks=8))
    twin = copy.deepcopy(layer)
    assert torch.equal(twin.running_sigma, layer.running_sigma) and twin.spec == layer.spec
    assert repr(layer) == (
        "LightNorm2d(4, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True, activation=bfp16_e5m4, "
        "gradient=bfp16_e6m3, chunks=8)"
    )
