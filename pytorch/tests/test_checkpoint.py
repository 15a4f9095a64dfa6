"""The bridge: a layer of a checkpoint through the Verilog, against the PyTorch layer; recorded tensors; errors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from lightnorm.config import load_config
from lightnorm_flow.cli import app
from lightnorm_torch import convert
from lightnorm_torch.checkpoint import export_layer, record, run_layer

CONFIG = Path(__file__).parents[2] / "configs" / "tiny.toml"


def trained(folder: Path) -> tuple[nn.Module, Path]:
    """A small network after a few steps with the configuration's arithmetic, the tensors of its layer, a checkpoint."""
    torch.manual_seed(8)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 2))
    convert(model, load_config(CONFIG).spec)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        with record(model, "1", folder):
            model(torch.randn(4, 1, 8, 8)).square().sum().backward()
        optimizer.step()
    torch.save({"state_dict": model.state_dict()}, folder / "checkpoint.pt")
    return model, folder / "checkpoint.pt"


def simulate(folder: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(
        app, ["simulate", "--config", str(CONFIG), "--out", str(folder / "out"), "--json", *arguments]
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout + result.stderr


def test_a_layer_through_the_verilog(tmp_path: Path) -> None:
    """Inference with the checkpoint's statistics is what the network's own layer computes."""
    model, checkpoint = trained(tmp_path)
    arguments = ["--input", str(tmp_path / "input.npy"), "--from-torch", str(checkpoint), "--layer", "1"]
    status, text = simulate(tmp_path, *arguments, "--mode", "infer")
    assert status == 0, text
    assert json.loads(text)["equals_torch"] is True and json.loads(text)["bit_exact"] is True
    x = torch.from_numpy(np.load(tmp_path / "input.npy"))
    own = model[1].eval()(x).detach().numpy()
    assert np.array_equal(np.load(tmp_path / "out" / "output.npy"), own)


def test_a_difference_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, checkpoint = trained(tmp_path)
    monkeypatch.setattr("lightnorm_torch.checkpoint.run_layer", lambda runs, *_, **__: [np.zeros(1) for _ in runs])
    arguments = ["--input", str(tmp_path / "input.npy"), "--from-torch", str(checkpoint), "--layer", "1"]
    status, text = simulate(tmp_path, *arguments)
    assert status == 1 and "train: differs from the PyTorch layer" in text


def test_recorded_tensors(tmp_path: Path) -> None:
    """Of the last call: the layer gives the recorded output again."""
    model, checkpoint = trained(tmp_path)
    x, y, grad = (np.load(tmp_path / f"{name}.npy") for name in ("input", "output", "grad_output"))
    assert x.shape == y.shape == grad.shape == (4, 3, 6, 6) and grad.any()
    tensors = {"x": x, "grad": grad}
    spec = load_config(CONFIG).spec
    runs = run_layer(["train", "backward", "infer"], tensors, spec, eps=1e-5, momentum=0.1, chunks=16)
    assert [run.shape for run in runs] == [x.shape] * 3 and not np.array_equal(runs[0], runs[2])
    with pytest.raises(ValueError, match="^the model has no layer 'x'$"), record(model, "x", tmp_path):
        pass
    with pytest.raises(ValueError, match="^the layer '1' was not called$"), record(model, "1", tmp_path):
        pass


def test_a_standard_layer(tmp_path: Path) -> None:
    """A checkpoint of nn.BatchNorm2d: sigma is the root of running_var; a plain state dict; no affine part."""
    layer = nn.BatchNorm2d(3, affine=False)
    layer(torch.randn(4, 3, 5, 5) * 3)
    torch.save(layer.state_dict(), tmp_path / "c.pt")
    files = export_layer(tmp_path / "c.pt", "", tmp_path / "layer")
    assert files.keys() == {"running_mean", "running_sigma"}
    sigma = np.load(files["running_sigma"])
    assert sigma.dtype == np.float32 and np.allclose(sigma**2, layer.running_var.numpy())


WRONG: list[tuple[list[str], str]] = [
    (["--from-torch", "{}/c.pt"], "--from-torch and --layer go together: a checkpoint, and the name of a layer in it"),
    (["--layer", "bn"], "--from-torch and --layer go together: a checkpoint, and the name of a layer in it"),
    (["--from-torch", "{}/c.pt", "--layer", "x"], "has no running statistics of a layer 'x'; those with them are bn"),
    (["--from-torch", "{}/no.pt", "--layer", "bn"], "no.pt: there is no such file"),
    (["--from-torch", "{}/x.npy", "--layer", "bn"], "x.npy is not a state dict saved by torch.save"),
    (["--from-torch", "{}/model.pt", "--layer", "bn"], "model.pt is not a state dict saved by torch.save"),
    (["--from-torch", "{}/tensor.pt", "--layer", "bn"], "tensor.pt holds Tensor, not a state dict"),
    (
        ["--from-torch", "{}/c.pt", "--layer", "bn", "--weight", "w.npy"],
        "--from-torch already gives what --weight would",
    ),
]


@pytest.mark.parametrize("arguments, message", WRONG)
def test_errors(tmp_path: Path, arguments: list[str], message: str) -> None:
    model: Any = nn.Sequential()
    model.bn = nn.BatchNorm2d(3)
    torch.save(model.state_dict(), tmp_path / "c.pt")
    torch.save(model, tmp_path / "model.pt")
    torch.save(torch.zeros(2), tmp_path / "tensor.pt")
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 4, 4), np.float32))
    given = [argument.replace("{}", str(tmp_path)) for argument in arguments]
    status, text = simulate(tmp_path, "--input", str(tmp_path / "x.npy"), *given)
    assert status == 1 and re.search(re.escape(message), " ".join(text.replace("\n", " ").split())), text
