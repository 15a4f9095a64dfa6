"""Layers of known networks and of files, and what `lightnorm plan` makes of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lightnorm.config import Config, Implementation
from lightnorm_flow.cli import app
from lightnorm_flow.layers import NormLayer, read_layers
from lightnorm_flow.machine import conventional, lightnorm
from lightnorm_flow.models import MODELS, model_layers
from lightnorm_flow.plan import make_plan, read_energy
from lightnorm_golden import BlockFormat, NormSpec

CONFIG = Config(
    NormSpec(BlockFormat(5, 4, 16), BlockFormat(6, 3, 16)),
    Implementation(("train", "infer", "backward"), 1, 4096),
)
LATENCY = {"coefficients": {"train": 26, "infer": 22, "backward": 32}, "reduce": 1, "buffer": 2, "apply": 4,
           "handover": 0}  # fmt: skip
DESCRIPTION = {"latency": LATENCY}

# layers, channels of all layers (half the parameters of the batch norms), elements of an image of 224 x 224: counted on
# torchvision 0.28's networks with a hook on every BatchNorm2d
KNOWN = {
    "mobilenet_v2": (52, 17_056, 6_678_112),
    "resnet18": (20, 4_800, 2_483_712),
    "resnet50": (53, 26_560, 11_113_984),
    "efficientnet_b0": (49, 21_008, 6_737_696),
}


@pytest.mark.parametrize("model", MODELS)
def test_models(model: str) -> None:
    layers = model_layers(model, 224)
    channels = sum(layer.channels for layer in layers)
    elements = sum(layer.channels * layer.elements(1) for layer in layers)
    assert (len(layers), channels, elements) == KNOWN[model]
    assert len({layer.name for layer in layers}) == len(layers)


def test_odd_images_are_rounded_up() -> None:
    """torchvision's MobileNetV2 on 97 x 97."""
    assert [layer.spatial[0] for layer in model_layers("mobilenet_v2", 97)][::13] == [49, 13, 7, 7]
    assert model_layers("mobilenet_v2", 97)[-1] == NormLayer("features.18.1", 1280, (4, 4))


def test_bits_per_element_of_the_readme() -> None:
    """4096 beats fill the buffer exactly; per-channel words vanish beside a channel that long."""
    ours = lightnorm(CONFIG)
    fp32 = conventional(ours)
    for machine, one, two in (
        (ours, {"train": 12.625, "backward": 17.0625}, {"train": 18.9375, "backward": 22.4375}),
        (fp32, {"train": 64, "backward": 96}, {"train": 96, "backward": 160}),
    ):
        for expected, elements in ((one, 65_536), (two, 65_552)):
            for mode, bits in expected.items():
                moved = machine.bits_moved(mode, 8, elements) - 8 * 32 * machine.words[mode]
                assert moved == 8 * elements * bits, (mode, elements)


def test_buffer_need() -> None:
    ours = lightnorm(CONFIG)
    fp32 = conventional(ours)
    assert ours.buffer_need("train", 98) == 7 * (5 + 16 * 6)
    assert ours.buffer_need("backward", 98) == 7 * (6 + 16 * 5)
    assert [fp32.buffer_need(mode, 98) for mode in ("train", "infer", "backward")] == [7 * 512, 0, 7 * 1024]
    ranges = conventional(ours, x_bits=10, grad_bits=8, statistic="range")
    assert ranges.buffer_need("backward", 98) == 7 * 16 * 8
    assert ranges.stream_bits("backward", 2) == {"x": 10, "dy": 16, "dx": 8}


def make(tmp_path: Path, layers: list[NormLayer], **settings: Any) -> dict[str, Any]:
    settings = {"batch": 1, "energy": {}, "energy_missing": "it is not known"} | settings
    return make_plan(CONFIG, DESCRIPTION, "two layers", layers, tmp_path, **settings)


def test_plan(tmp_path: Path) -> None:
    layers = [NormLayer("a", 4, (16, 16)), NormLayer("b", 2, (300, 300))]
    energy = {"lightnorm": {"forward": 2.0, "backward": 3.0}, "fp32": {"forward": 20.0, "backward": 30.0}}
    plan = make(tmp_path, layers, energy=energy, energy_missing="", dram_pj_per_bit=10.0)
    assert json.loads((tmp_path / "plan.json").read_text()) == plan
    small, large = (layer["forward"]["lightnorm"] for layer in plan["layers"])
    # the program's 26 cycles exceed a channel's 16 beats: 16 in, 5 of latency, 4 programs, 16 out, 1 to offer the run
    assert (small["passes"], small["cycles"]) == (1, 1 + 16 + 5 + 4 * 26 + 16 - 1)
    assert (large["passes"], large["cycles"]) == (2, 1 + 5625 + 5 + 26 + 3 * 5625 - 1)
    total = plan["total"]["backward"]["fp32"]
    assert total["elements"] == 4 * 256 + 2 * 90_000
    assert total["bits_moved"] == 1024 * 96 + 180_000 * 160 + 6 * 32 * 5
    assert total["traffic_uj"] == pytest.approx(total["bits_moved"] * 10e-6)
    assert total["logic_uj"] == pytest.approx(total["elements"] * 30e-6)
    text = (tmp_path / "plan.md").read_text()
    assert "| b | 2x300x300 | 22,531* |" in text and "10 pJ per bit moved, and the logic's." in text


def test_unknown_energy_is_not_zero(tmp_path: Path) -> None:
    plan = make(tmp_path, [NormLayer("a", 4, (16, 16))])
    assert plan["total"]["forward"]["lightnorm"]["logic_uj"] is None
    text = (tmp_path / "plan.md").read_text()
    assert "| mJ of logic | ? | ? | ? | ? |" in text and "without that of the logic, as it is not known" in text


def test_energy_of_a_comparison(tmp_path: Path) -> None:
    path = tmp_path / "compare.json"
    assert read_energy(path, CONFIG) == ({}, f"there is no {path}, which lightnorm compare writes")

    def entry(target: str, name: str, forward: float, backward: float | None) -> dict[str, Any]:
        digest = CONFIG.hash if name == "bfp16" else "1"
        energy = {"forward": forward, "backward": backward}
        return {"target": target, "name": name, "hash": digest, "energy_pj_per_element": energy}

    designs = [entry("a.lib", "bfp16", 1.0, 2.0), entry("a.lib", "l2-fp32", 9.0, None)]
    path.write_text(json.dumps(designs))
    found, missing = read_energy(path, CONFIG)
    assert found == {"lightnorm": {"forward": 1.0, "backward": 2.0}}
    assert missing == f"{path} has no energy of fp32"
    path.write_text(json.dumps([*designs, entry("b.lib", "l2-fp32", 90.0, 80.0), entry("b.lib", "bfp16", 3.0, 4.0)]))
    both = {"fp32": {"forward": 90.0, "backward": 80.0}, "lightnorm": {"forward": 3.0, "backward": 4.0}}
    assert read_energy(path, CONFIG) == (both, ""), "both of one library"
    path.write_text('["text"]')
    with pytest.raises(ValueError, match=r"--compare .*compare\.json is not a file that lightnorm compare wrote"):
        read_energy(path, CONFIG)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON: Expecting property name"),
        ("{}", "must hold a list of layers, each with name, channels, spatial"),
        ("[]", "has no batch norm layer"),
        ('[{"name": "a", "channels": 1}]', ", layer 0 must have name, channels, spatial and nothing else, not {'name'"),
        (
            '[{"name": "a", "channels": 1, "spatial": []}, {"name": "b", "channels": true, "spatial": []}]',
            ", layer 1 (b): channels must be an integer of at least 1, not True",
        ),
        (
            '[{"name": "a", "channels": 1, "spatial": [2, 0]}]',
            ", layer 0 (a): spatial must be a list of integers of at least 1, not [2, 0]",
        ),
    ],
)
def test_wrong_layers(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "layers.json"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        read_layers(path)
    assert str(caught.value).startswith(f"--layers {path}") and message in str(caught.value)


def test_layers_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "layers.json"
    path.write_text('[{"name": "a", "channels": 3, "spatial": [5]}, {"name": "b", "channels": 4, "spatial": []}]')
    assert read_layers(path) == [NormLayer("a", 3, (5,)), NormLayer("b", 4, ())]
    assert NormLayer("b", 4, ()).elements(7) == 7
    with pytest.raises(ValueError, match=r"--layers .*none\.json cannot be read: No such file or directory"):
        read_layers(tmp_path / "none.json")
    with pytest.raises(ValueError, match=r"--layers layers\.txt must be a \.json or an \.onnx file"):
        read_layers(Path("layers.txt"))


def test_layers_of_an_onnx_model(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    words = [helper.make_tensor(f"{name}{c}", floats, [c], [1.0] * c) for c in (3, 8) for name in "sbmv"]
    kernel = helper.make_tensor("w", floats, [8, 3, 3, 3], [0.0] * 216)
    nodes = [
        helper.make_node("BatchNormalization", ["x", "s3", "b3", "m3", "v3"], ["n"], name="first"),
        helper.make_node("Conv", ["n", "w"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "s8", "b8", "m8", "v8"], ["y"]),
    ]

    def save(shape: list[Any]) -> Path:
        x, y = (helper.make_tensor_value_info(name, floats, sizes) for name, sizes in (("x", shape), ("y", None)))
        path = tmp_path / "model.onnx"
        onnx.save(helper.make_model(helper.make_graph(nodes, "net", [x], [y], [*words, kernel])), path)
        return path

    assert read_layers(save(["N", 3, 11, 20])) == [NormLayer("first", 3, (11, 20)), NormLayer("y", 8, (6, 10))]
    with pytest.raises(ValueError, match="the shape of the input of first is not known but for the batch"):
        read_layers(save(["N", 3, "H", 20]))
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"--layers .*model\.onnx is not an ONNX model"):
        read_layers(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either --model or --layers"),
        (("--model", "resnet18", "--layers", "l.json"), "give either --model or --layers"),
        (("--model", "vgg"), "--model must be mobilenet_v2, resnet18, resnet50, efficientnet_b0, not 'vgg'"),
        (("--model", "resnet18", "--image", "0"), "--image must be at least 1 pixel, not 0"),
        (("--model", "resnet18", "--batch", "0"), "--batch must be at least 1, not 0"),
        (("--model", "resnet18", "--dram", "-1"), "--dram must be at least 0 pJ per bit, not -1.0"),
        (
            ("--model", "resnet18", "--batch", "2000"),
            "bn1 has 25,088,000 elements per channel at batch 2000; the machine takes at most 16,777,216",
        ),
        (
            ("--model", "resnet18", "--batch", "1", "--image", "8"),
            "layer2.0.bn1 has one element per channel; training needs more",
        ),
    ],
)
def test_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text(
        "[arithmetic]\nactivation = { exp_bits = 4, man_bits = 3, block_size = 4 }\n"
        "gradient = { exp_bits = 5, man_bits = 2, block_size = 4 }\n"
    )
    result = CliRunner().invoke(app, ["plan", "--config", "c.toml", "--out", "out", *arguments])
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"error: {message}\n")
    assert not (tmp_path / "out").exists()
