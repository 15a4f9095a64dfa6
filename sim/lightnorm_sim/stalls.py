"""When the streams around the machine rest."""

from dataclasses import dataclass
from typing import Self
from zlib import crc32

__all__ = ["STALL_PATTERNS", "StallPattern"]


@dataclass(frozen=True, kw_only=True)
class StallPattern:
    """In each cycle a rest of ``shortest`` to ``longest`` cycles begins with ``probability``.

    An input of the machine then is not valid, an output not ready. With ``after_valid`` an output is ready only once it
    has seen valid: a machine that waits for ready hangs.
    """

    probability: float = 0.0
    shortest: int = 1
    longest: int = 1
    after_valid: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.probability < 1:
            raise ValueError(f"probability must be at least 0 and less than 1, not {self.probability}")
        if not 1 <= self.shortest <= self.longest < 1 << 15:
            raise ValueError(f"a rest must have 1 to 32767 cycles, not {self.shortest} to {self.longest}")

    @classmethod
    def none(cls) -> Self:
        """No rests: the machine at full speed."""
        return cls()

    @classmethod
    def random(cls, probability: float) -> Self:
        """Single cycles."""
        return cls(probability=probability)

    @classmethod
    def bursts(cls, probability: float = 0.01, shortest: int = 20, longest: int = 200) -> Self:
        """Seldom, but long."""
        return cls(probability=probability, shortest=shortest, longest=longest)

    @classmethod
    def lazy(cls) -> Self:
        """Outputs are ready only after valid."""
        return cls(after_valid=True)

    def encode(self, seed: str) -> str:
        """These stalls as the harness reads them; equal seeds give the same cycles in every simulator."""
        threshold = round(self.probability * 65536)
        span = self.longest - self.shortest + 1
        return f"{crc32(seed.encode()) or 1:x} {threshold} {self.shortest} {span} {self.after_valid:d}"


STALL_PATTERNS = {
    "none": StallPattern.none(),
    "random": StallPattern.random(0.3),
    "bursts": StallPattern.bursts(),
    "lazy": StallPattern.lazy(),
}
"""Patterns by name, for users."""
