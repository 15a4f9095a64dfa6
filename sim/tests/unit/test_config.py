"""Configurations: what is read, and that every wrong setting is named, all of them at once."""

from pathlib import Path

import pytest

from lightnorm import Config, ConfigError, Implementation, load_config
from lightnorm_golden import BlockFormat, NormSpec

CONFIGS = Path(__file__).parents[3] / "configs"
ACTIVATION = "activation = { exp_bits = 5, man_bits = 4, block_size = 16 }"
GRADIENT = "gradient = { exp_bits = 6, man_bits = 3, block_size = 16 }"
GOOD = f"[arithmetic]\n{ACTIVATION}\n{GRADIENT}\n"


def load(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "some.toml"
    path.write_text(text)
    return load_config(path)


def refuse(tmp_path: Path, text: str) -> list[str]:
    """The problems named, without the line that counts them."""
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    first, *problems = str(error.value).splitlines()
    assert first == f"{tmp_path / 'some.toml'}: {len(problems)} problem(s)"
    return [problem.removeprefix("  ") for problem in problems]


@pytest.mark.parametrize(("name", "lanes", "beats"), [("tiny", 4, 64), ("default", 16, 4096), ("paper", 16, 4096)])
def test_committed_configurations(name: str, lanes: int, beats: int) -> None:
    config = load_config(CONFIGS / f"{name}.toml")
    assert (config.lanes, config.buffer_beats) == (lanes, beats)
    assert config.has("train") and config.has("infer") and config.has("backward")


def test_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD)
    assert config == Config(NormSpec(BlockFormat(5, 4, 16), BlockFormat(6, 3, 16)), Implementation())
    assert config.resolved()["arithmetic"]["coef_man_bits"] == 15


def test_the_hash_is_of_the_meaning(tmp_path: Path) -> None:
    reordered = f'# comment\n[arithmetic]\ngain = "d2"\n{GRADIENT}\n{ACTIVATION}\n'
    assert load(tmp_path, reordered).hash == load(tmp_path, GOOD).hash
    assert load(tmp_path, GOOD + "scale_man_bits = 8\n").hash != load(tmp_path, GOOD).hash


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "[other]\n", "the configuration has no key 'other'; it has arithmetic, implementation"),
        (
            GOOD + "lanes = 4\n",
            "arithmetic has no key 'lanes'; it has activation, gradient, coef_man_bits, scale_man_bits, gain",
        ),
        (
            GOOD + "[implementation]\nlanes = 4\n",
            "implementation has no key 'lanes'; it has passes, blocks_per_beat, buffer_blocks, max_chunks,"
            " max_channels, pipeline",
        ),
        (
            GOOD.replace("block_size = 16 }", "block_size = 16, size = 2 }", 1),
            "arithmetic.activation has no key 'size'; it has exp_bits, man_bits, block_size",
        ),
        (
            f"[arithmetic]\n{ACTIVATION}\n",
            "arithmetic.gradient is missing; give its exp_bits, man_bits and block_size",
        ),
        (GOOD.replace("exp_bits = 5, ", ""), "arithmetic.activation needs exp_bits"),
        (
            GOOD.replace("exp_bits = 5", "exp_bits = 9"),
            "arithmetic.activation.exp_bits must be an integer between 2 and 8, not 9",
        ),
        (
            GOOD.replace("man_bits = 4", "man_bits = 0"),
            "arithmetic.activation.man_bits must be an integer between 1 and 10, not 0",
        ),
        (
            GOOD.replace("block_size = 16", "block_size = true", 1),
            "arithmetic.activation.block_size must be an integer between 1 and 64, not True",
        ),
        (GOOD + 'gain = "d3"\n', "arithmetic.gain must be one of d2, rangebn, lightnorm, not 'd3'"),
        (GOOD + "coef_man_bits = 24\n", "arithmetic.coef_man_bits must be an integer between 8 and 23, not 24"),
        (GOOD + "scale_man_bits = 16\n", "arithmetic.scale_man_bits must be an integer between 1 and 15, not 16"),
        (
            GOOD + "[implementation]\nblocks_per_beat = 0\n",
            "implementation.blocks_per_beat must be an integer between 1 and 64, not 0",
        ),
        (
            GOOD + "[implementation]\nblocks_per_beat = 3\nbuffer_blocks = 4\n",
            "implementation.buffer_blocks must be a multiple of blocks_per_beat (3), not 4",
        ),
        (
            GOOD + '[implementation]\npasses = ["train", "test"]\n',
            "implementation.passes must list one or more of train, infer, backward, each once, not ['train', 'test']",
        ),
        (
            GOOD + '[implementation]\npipeline = "long"\n',
            "implementation.pipeline must be one of short, deep, not 'long'",
        ),
        (
            GOOD.replace("man_bits = 3, block_size = 16", "man_bits = 3, block_size = 32")
            + '[implementation]\npasses = ["backward"]\n',
            "a beat must hold whole gradient blocks: blocks_per_beat * activation.block_size (16) must be a multiple of"
            " gradient.block_size (32)",
        ),
    ],
)
def test_one_wrong_setting(tmp_path: Path, text: str, message: str) -> None:
    assert refuse(tmp_path, text) == [message]


def test_all_problems_are_reported_together(tmp_path: Path) -> None:
    text = GOOD.replace("exp_bits = 5", "exp_bits = 1").replace("man_bits = 3", "man_bits = 11")
    problems = refuse(tmp_path, text + 'gain = "none"\nsurplus = 1\n[implementation]\nblocks_per_beat = 65\n')
    assert [problem.split()[0] for problem in problems] == [
        "arithmetic",
        "arithmetic.activation.exp_bits",
        "arithmetic.gradient.man_bits",
        "arithmetic.gain",
        "implementation.blocks_per_beat",
    ]


def test_not_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"some\.toml: not a TOML file: .*line 1"):
        load(tmp_path, "[arithmetic\n")


def test_not_text(tmp_path: Path) -> None:
    path = tmp_path / "some.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not a TOML file"):
        load_config(path)


def test_a_configuration_made_in_python_is_checked() -> None:
    spec = NormSpec(BlockFormat(5, 4, 16), BlockFormat(6, 3, 16))
    with pytest.raises(ConfigError, match="buffer_blocks must be an integer between 0 and 16777216, not -1"):
        Config(spec, Implementation(buffer_blocks=-1))
