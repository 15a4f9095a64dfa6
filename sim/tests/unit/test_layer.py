"""Tensors to words and back, and what is said of a machine that is wrong."""

from dataclasses import replace

import numpy as np
import pytest

from lightnorm import Config, Implementation
from lightnorm.datapath.program import RESULTS
from lightnorm_golden import BlockFormat, NormSpec, forward, quantize
from lightnorm_sim import RunResult, Transfers
from lightnorm_sim.layer import Layer, Tensors, compare, output_tensor, pack_beats, prepare, speed, unpack_beats

SPEC = NormSpec(activation=BlockFormat(4, 3, 4), gradient=BlockFormat(5, 2, 8))
CONFIG = Config(SPEC, Implementation(passes=("train", "infer", "backward"), blocks_per_beat=4, buffer_blocks=8))


def tensors(elements: int = 20, channels: int = 3) -> Tensors:
    rng = np.random.default_rng(elements)
    x, grad = rng.normal(size=(2, elements, channels)).astype(np.float32)
    return Tensors(x=x, grad=grad, weight=rng.normal(size=channels), bias=rng.normal(size=channels))


def perfect(layer: Layer) -> RunResult:
    """What a machine without faults gives."""
    beats = pack_beats(layer.blocks, layer.lanes)
    values = np.array(list(layer.results.values()), np.float32)
    return RunResult(
        output=[word for channel in beats for word in channel],
        last=[beat == len(channel) - 1 for channel in beats for beat, _ in enumerate(channel)],
        results=[int(word) for word in values.T.ravel().view(np.uint32)] if layer.results else [],
        two_pass=layer.two_pass,
        transfers={"run": Transfers(0, 9, 9, 9, 0), "x": Transfers(1, 1, 1, 0, 0), "o": Transfers(11, 11, 30, 0, 0)},
    )


@pytest.mark.parametrize("mode", ["train", "infer", "backward"])
@pytest.mark.parametrize("elements", [2, 4, 15, 16, 17, 32, 33, 100])
def test_what_golden_gives_is_right(mode: str, elements: int) -> None:
    layer = prepare(CONFIG, mode, tensors(elements))
    assert len(perfect(layer).output) == layer.run.output_beats
    assert len(perfect(layer).results) == layer.run.result_words == 3 * len(RESULTS[mode])
    assert compare(layer, perfect(layer)) is None


def test_beats_hold_dense_blocks_the_first_lowest() -> None:
    blocks = quantize(np.arange(20.0).reshape(1, 20), SPEC.activation)
    (beats,) = pack_beats(blocks, 16)
    bits = SPEC.activation.block_bits
    assert [word >> bits * block & 15 for word, block in ((beats[0], 0), (beats[0], 3), (beats[1], 0))] == [8, 10, 11]
    assert beats[1] >> bits == 0
    again = unpack_beats(beats, SPEC.activation, 16, 1)
    assert (again.significand[:, :5] == blocks.significand).all() and not again.significand[:, 5:].any()


def test_two_passes_send_each_channel_twice() -> None:
    once = prepare(CONFIG, "infer", tensors(40)).run.x_beats
    train = prepare(CONFIG, "train", tensors(40))
    assert train.two_pass and len(once) == 9
    assert train.run.x_beats == [word for channel in range(3) for word in once[3 * channel : 3 * channel + 3] * 2]
    backward = prepare(CONFIG, "backward", tensors(40)).run
    assert backward.x_beats == once
    assert len(backward.grad_beats) == 18 and backward.grad_beats[:3] == backward.grad_beats[3:6]
    assert not prepare(CONFIG, "train", tensors(32)).two_pass


def test_random_padding_stands_only_behind_the_elements() -> None:
    plain = unpack_beats(prepare(CONFIG, "infer", tensors(18)).run.x_beats, SPEC.activation, 16, 3)
    filled = unpack_beats(prepare(CONFIG, "infer", tensors(18), padding_seed=1).run.x_beats, SPEC.activation, 16, 3)
    assert (plain.shared_exp[:, :5] == filled.shared_exp[:, :5]).all()
    same = (plain.significand == filled.significand).reshape(3, -1)
    assert same[:, :18].all() and not same[:, 18:].all()


def test_the_output_is_the_golden_tensor() -> None:
    given = Tensors(x=np.random.default_rng(0).normal(size=(2, 3, 5, 7)))
    layer = prepare(CONFIG, "train", given)
    expected = forward(given.x, spec=SPEC).output
    output = output_tensor(layer, perfect(layer))
    assert output.dtype == expected.dtype and (output == expected).all()


def test_speed() -> None:
    layer = prepare(CONFIG, "infer", tensors(20))
    made = speed(layer, perfect(layer))
    assert (made.elements, made.beats, made.cycles, made.latency) == (60, 6, 31, 10)
    assert made.beats_per_cycle == 6 / 20


def test_a_wrong_lane_is_named() -> None:
    layer = prepare(CONFIG, "infer", tensors(20))
    result = perfect(layer)
    fmt = SPEC.activation
    position = 2 * fmt.block_bits + fmt.exp_bits + 3 * fmt.element_bits  # block 2 of the beat, lane 3, lowest bit
    result.output[2] ^= 1 << position
    value, wrong = layer.blocks.significand[1, 2, 3], layer.blocks.significand[1, 2, 3] ^ 1
    shared_exp, sign = layer.blocks.shared_exp[1, 2], int(layer.blocks.sign[1, 2, 3])
    unit = (-1) ** sign * 2.0 ** (int(shared_exp) + fmt.min_exponent)
    assert compare(layer, result) == (
        "infer: 1 of 24 blocks differ from the golden model; the first is in channel 1, block 2, lane 3, element 11"
        " (beat 0, bfp4_e4m3)\n"
        f"    hardware: sign {sign}, significand {wrong}, shared_exp {shared_exp}: {wrong * unit:.9g}\n"
        f"    golden:   sign {sign}, significand {value}, shared_exp {shared_exp}: {value * unit:.9g}"
    )


def test_a_wrong_exponent_and_wrong_padding_are_named() -> None:
    layer = prepare(CONFIG, "infer", tensors(20))
    result = perfect(layer)
    result.output[4] ^= 1
    assert "channel 2, block 0, shared_exp (shown with lane " in str(compare(layer, result))
    result = perfect(layer)
    result.output[1] |= 1 << SPEC.activation.block_bits + SPEC.activation.exp_bits
    assert "channel 0, block 5, lane 0, element 20 (padding)" in str(compare(layer, result))


def test_a_wrong_result_word_is_named() -> None:
    layer = prepare(CONFIG, "train", tensors(20))
    result = perfect(layer)
    result.results[6] ^= 1 << 31
    message = str(compare(layer, result))
    assert message.startswith("train: result word new_running_mean of channel 1 differs from the golden model\n")
    assert f": {-layer.results['new_running_mean'][1]:.9g}\n" in message
    assert message.endswith(f": {layer.results['new_running_mean'][1]:.9g}")


def test_wrong_ends_and_passes_are_named() -> None:
    layer = prepare(CONFIG, "train", tensors(20))
    result = perfect(layer)
    message = "train: hardware takes two passes for this run, not one pass"
    assert compare(layer, replace(result, two_pass=True)) == message
    result.last[2] = True
    assert compare(layer, result) == "train: channel 1: `last` is set at beat 0; the last beat is 1"


@pytest.mark.parametrize(
    ("mode", "change", "message"),
    [
        ("test", {}, "mode must be infer, train, backward, not 'test'"),
        ("backward", {"grad": None}, "backward needs the gradient of the layer's output"),
        ("train", {"x": np.zeros((4, 1 << 16))}, "x must have at most 65535 channels, not 65536"),
    ],
)
def test_refused(mode: str, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        prepare(CONFIG, mode, replace(tensors(), **change))  # type: ignore[arg-type]


def test_a_mode_that_is_not_built() -> None:
    config = Config(SPEC, Implementation(passes=("infer",), blocks_per_beat=2))
    with pytest.raises(ValueError, match="built without train .*has infer"):
        prepare(config, "train", tensors())
