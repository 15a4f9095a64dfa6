"""A configuration: `[arithmetic]` decides every bit, `[implementation]` decides lanes, memory and passes and no bit."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lightnorm_golden.formats import BlockFormat
from lightnorm_golden.spec import GAINS, MAX_ELEMENTS, NormSpec

__all__ = ["PASSES", "PIPELINES", "Config", "ConfigError", "Implementation", "load_config"]

PASSES = ("train", "infer", "backward")
PIPELINES = ("short", "deep")


class ConfigError(ValueError):
    """A configuration that cannot be built; the message lists everything that is wrong with it."""


@dataclass(frozen=True)
class Implementation:
    """How the machine is built.

    `passes`: what it can do, any of "train", "infer", "backward". `blocks_per_beat`: activation blocks per cycle.
    `buffer_blocks`: activation blocks held on chip (0: no buffer, training takes two passes over its input); a multiple
    of blocks_per_beat. `max_chunks`: most chunks per channel in backward, which keeps a record of each. `max_channels`:
    most channels of a run of the AXI build, which holds their parameters and results; with 0 it holds none, they are
    streams as those of the bare core, and there is no such limit. `pipeline`: "short" for the least area, "deep" for a
    fast clock with more registers and latency.
    """

    passes: tuple[str, ...] = ("train", "infer")
    blocks_per_beat: int = 1
    buffer_blocks: int = 4096
    max_chunks: int = 16
    max_channels: int = 256
    pipeline: str = "short"


@dataclass(frozen=True)
class Config:
    """What `lightnorm generate` builds. Raises ConfigError with every violated rule at once."""

    spec: NormSpec
    implementation: Implementation = Implementation()

    def __post_init__(self) -> None:
        problems = _check_implementation(self.spec, self.implementation)
        if problems:
            raise ConfigError("\n".join(problems))

    @property
    def lanes(self) -> int:
        """Elements per beat."""
        return self.implementation.blocks_per_beat * self.spec.activation.block_size

    @property
    def buffer_beats(self) -> int:
        return self.implementation.buffer_blocks // self.implementation.blocks_per_beat

    @property
    def deep(self) -> bool:
        """Whether every rank of pipeline registers is built."""
        return self.implementation.pipeline == "deep"

    def has(self, name: str) -> bool:
        """Whether the build includes the pass `name`."""
        return name in self.implementation.passes

    def resolved(self) -> dict[str, Any]:
        """Every setting, defaults included, as plain data."""
        return {
            "arithmetic": asdict(self.spec),
            "implementation": {**asdict(self.implementation), "passes": list(self.implementation.passes)},
        }

    @property
    def hash(self) -> str:
        """First 8 hex digits of the SHA-256 of the resolved configuration."""
        text = json.dumps(self.resolved(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def _check_implementation(spec: NormSpec, built: Implementation) -> list[str]:
    problems = []

    def integer(name: str, low: int, high: int) -> bool:
        value = getattr(built, name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            problems.append(f"implementation.{name} must be an integer between {low} and {high}, not {value!r}")
            return False
        return True

    passes = built.passes
    if (
        not isinstance(passes, tuple)
        or not passes
        or any(name not in PASSES for name in passes)
        or len(set(passes)) != len(passes)
    ):
        shown = list(passes) if isinstance(passes, tuple) else passes
        problems.append(f"implementation.passes must list one or more of {', '.join(PASSES)}, each once, not {shown!r}")
    if built.pipeline not in PIPELINES:
        problems.append(f"implementation.pipeline must be one of {', '.join(PIPELINES)}, not {built.pipeline!r}")
    beats_ok = integer("blocks_per_beat", 1, 64)
    buffer_ok = integer("buffer_blocks", 0, MAX_ELEMENTS)
    integer("max_chunks", 1, 1 << 16)
    integer("max_channels", 0, (1 << 16) - 1)
    if beats_ok and buffer_ok and built.buffer_blocks % built.blocks_per_beat:
        problems.append(
            f"implementation.buffer_blocks must be a multiple of blocks_per_beat ({built.blocks_per_beat}),"
            f" not {built.buffer_blocks}"
        )
    if beats_ok and "backward" in passes:
        lanes = built.blocks_per_beat * spec.activation.block_size
        if lanes % spec.gradient.block_size:
            problems.append(
                f"a beat must hold whole gradient blocks: blocks_per_beat * activation.block_size ({lanes}) must be a"
                f" multiple of gradient.block_size ({spec.gradient.block_size})"
            )
    return problems


def _known_keys(table: Any, known: list[str], where: str, problems: list[str]) -> dict[str, Any]:
    if not isinstance(table, dict):
        problems.append(f"{where} must be a table, not {table!r}")
        return {}
    for key in table:
        if key not in known:
            problems.append(f"{where} has no key {key!r}; it has {', '.join(known)}")
    return {key: value for key, value in table.items() if key in known}


def _collect(problems: list[str], where: str, build: Callable[[], Any]) -> Any:
    """build(), or None after noting its complaint."""
    try:
        return build()
    except (ValueError, TypeError) as error:
        problems.extend(f"{where}{line}" for line in str(error).splitlines())
        return None


def _field_by_field(cls: type, table: dict[str, Any], where: str, problems: list[str], valid: dict[str, Any]) -> Any:
    """cls(**table), reporting the complaint about every single field rather than only the first."""
    accepted = dict(valid)
    for key, value in table.items():
        before = len(problems)
        _collect(problems, where, lambda key=key, value=value: cls(**{**valid, key: value}))  # type: ignore[misc]
        if len(problems) == before:
            accepted[key] = value
    return _collect(problems, where, lambda: cls(**accepted))


def load_config(path: Path) -> Config:
    """Read a TOML configuration. Raises ConfigError (all problems at once) or OSError (missing or unreadable file)."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from None
    problems: list[str] = []
    document = _known_keys(document, ["arithmetic", "implementation"], "the configuration", problems)

    spec_keys = [field.name for field in fields(NormSpec)]
    arithmetic = _known_keys(document.get("arithmetic", {}), spec_keys, "arithmetic", problems)
    formats = {}
    for name in ("activation", "gradient"):
        if name not in arithmetic:
            problems.append(f"arithmetic.{name} is missing; give its exp_bits, man_bits and block_size")
            continue
        where = f"arithmetic.{name}"
        keys = [field.name for field in fields(BlockFormat)]
        table = _known_keys(arithmetic.pop(name), keys, where, problems)
        missing = [key for key in keys if key not in table]
        if missing:
            problems.append(f"{where} needs {', '.join(missing)}")
        neutral = {"exp_bits": 5, "man_bits": 4, "block_size": 16}
        formats[name] = _field_by_field(BlockFormat, table, f"{where}.", problems, neutral)
    neutral_format = BlockFormat(5, 4, 16)
    valid = {name: formats.get(name) or neutral_format for name in ("activation", "gradient")}
    spec = _field_by_field(NormSpec, arithmetic, "arithmetic.", problems, {**valid, "gain": GAINS[0]})

    keys = [field.name for field in fields(Implementation)]
    implementation = _known_keys(document.get("implementation", {}), keys, "implementation", problems)
    if isinstance(implementation.get("passes"), list):
        implementation["passes"] = tuple(implementation["passes"])
    built = Implementation(**implementation)
    if spec is not None:
        problems += _check_implementation(spec, built)
    if problems:
        raise ConfigError("\n".join([f"{path}: {len(problems)} problem(s)", *(f"  {line}" for line in problems)]))
    return Config(spec, built)
