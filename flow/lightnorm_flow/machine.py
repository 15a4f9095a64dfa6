"""What a run costs on a machine, without simulating it: cycles, bits that move, bits held on chip.

The cycles are those of streams that never rest. A channel passes the machine in a few events, each of which waits for
what came before it in its own channel and for the channel before:

    start, end    its first and last beat come in, one per cycle while the buffer has room
    begin         its coefficients' program starts
    handed        its coefficients reach `apply`, which has let go of those of the channel before
    taken, gone   its first and last beat leave the buffer, one per cycle

One thing the model does not know: a buffer of one or two beats cannot keep up with one beat per cycle.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from lightnorm.config import Config
from lightnorm.datapath.beat import beat_layout
from lightnorm.datapath.program import PARAMETERS, RESULTS

__all__ = ["Machine", "Stream", "Timing", "Traffic", "conventional", "lightnorm"]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Latencies in cycles, as the description beside the Verilog has them (see `lightnorm.generate`)."""

    coefficients: Mapping[str, int]
    reduce: int
    buffer: int
    apply: int
    handover: int

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> Self:
        return cls(**description["latency"])

    @property
    def entry(self) -> int:
        """Beats that can wait between the input and `reduce` or the buffer."""
        return max(self.reduce - 1, 0)

    def behind_last(self, end: int, begin: int) -> int:
        """The first cycle for another beat, behind a channel's last one, which `reduce` takes at `end`: it lets go of
        it when the program begins."""
        return max(end, begin - self.reduce) + 1


@dataclass(frozen=True)
class Stream:
    """Beats of `bits` bits: how often each moves in one pass and in two, and whether the buffer holds them."""

    name: str
    bits: int
    once: int = 1
    twice: int = 1
    held: bool = False


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What a machine moves that takes a beat of `lanes` elements per cycle, and holds `buffer_beats` of them on chip.

    By mode, `streams` has the beats that move and `words` the number of 32-bit words per channel beside them.
    """

    lanes: int
    buffer_beats: int
    streams: Mapping[str, tuple[Stream, ...]]
    words: Mapping[str, int]

    def beats(self, elements: int) -> int:
        """Of a channel."""
        return -(-elements // self.lanes)

    def two_pass(self, mode: str, elements: int) -> bool:
        return mode != "infer" and self.beats(elements) > self.buffer_beats

    def bits_moved(self, mode: str, channels: int, elements: int) -> int:
        """In and out, the padding of each channel's last beat included."""
        two = self.two_pass(mode, elements)
        per_beat = sum(stream.bits * (stream.twice if two else stream.once) for stream in self.streams[mode])
        return channels * (self.beats(elements) * per_beat + 32 * self.words[mode])

    def stream_bits(self, mode: str, passes: int) -> dict[str, float]:
        """Bits per element of each stream, channels being whole beats."""
        return {
            stream.name: stream.bits * (stream.twice if passes == 2 else stream.once) / self.lanes
            for stream in self.streams[mode]
        }

    def buffer_need(self, mode: str, elements: int) -> int:
        """Bits that must be held on chip for a channel to need one pass only."""
        if mode == "infer":
            return 0
        return self.beats(elements) * sum(stream.bits for stream in self.streams[mode] if stream.held)


@dataclass(frozen=True, kw_only=True)
class Machine(Traffic):
    """A machine in time."""

    timing: Timing

    @classmethod
    def of(cls, traffic: Traffic, timing: Timing) -> Self:
        return cls(**vars(traffic), timing=timing)

    def utilization(self, mode: str, channels: int, elements: int) -> float:
        """Elements per cycle and lane, at most 1; in two passes at most 1/2."""
        return channels * elements / (self.lanes * self.cycles(mode, channels, elements))

    def cycles(self, mode: str, channels: int, elements: int) -> int:
        """From the offer of the run's descriptor to the last word that leaves."""
        beats, latency = self.beats(elements), self.timing.coefficients[mode]
        if mode == "infer":
            gone = self._inference(channels, beats, latency)
        elif self.two_pass(mode, elements):
            gone = self._two_passes(channels, beats, latency)
        else:
            gone = self._one_pass(channels, beats, latency)
        return gone + self.timing.apply

    def _one_pass(self, channels: int, beats: int, latency: int) -> int:
        buffer, entry = _Buffer(beats, self.buffer_beats), self.timing.entry
        end, begin, handed, gone = 0, -latency, -latency, 0
        for channel in range(channels):
            end = max(self.timing.behind_last(end, begin) + beats - 1, buffer.room(channel) - entry)
            begin = max(end + self.timing.reduce, begin + latency, handed + self.timing.handover)
            handed = max(begin + latency, gone)
            buffer.taken.append(handed + 1)
            gone = handed + beats
        return gone

    def _two_passes(self, channels: int, beats: int, latency: int) -> int:
        buffer = _Buffer(beats, self.buffer_beats)
        end, begin, handed, gone = 0, -latency, -latency, 0
        for channel in range(channels):
            reduced = end + beats
            begin = max(reduced + self.timing.reduce, begin + latency, handed + self.timing.handover)
            handed = max(begin + latency, gone)
            accepted = reduced if self.timing.reduce else begin  # `reduce` holds it, or the input does
            _, end, gone = self._through(buffer, channel, accepted + 1, handed)
        return gone

    def _inference(self, channels: int, beats: int, latency: int) -> int:
        """A channel's program begins when the channel before begins to come in, and the channel waits for it."""
        buffer = _Buffer(beats, self.buffer_beats)
        start, end, begin, handed, gone = 0, 0, -latency, -latency, 0
        for channel in range(channels):
            begin = max(start + 1, begin + latency, handed + self.timing.handover)
            handed = max(begin + latency, gone)
            start = max(end, begin) + 1 if channel < channels - 1 else end + 1
            start, end, gone = self._through(buffer, channel, start, handed)
        return gone

    def _through(self, buffer: "_Buffer", channel: int, start: int, handed: int) -> tuple[int, int, int]:
        """When the first and the last beat that go straight to `apply` come in, and when the last one leaves."""
        if not self.buffer_beats:
            start = max(start, handed + 1 - self.timing.entry)
            end = start + buffer.beats - 1
            return start, end, end + self.timing.entry
        taken = max(handed + 1, start + self.timing.buffer)
        buffer.taken.append(taken)
        end = max(start + buffer.beats - 1, buffer.room(channel) - self.timing.entry)
        return start, end, max(taken + buffer.beats - 1, end + self.timing.buffer)


@dataclass
class _Buffer:
    """Room for a beat comes in the cycle after the beat that is `slots` before it has left.

    `taken`: when the first beat of each channel leaves; the others follow without a gap.
    """

    beats: int
    slots: int
    taken: list[int] = field(default_factory=list)

    def room(self, channel: int) -> int:
        """The earliest cycle of a channel's last beat."""
        earliest = 0
        before = channel * self.beats - self.slots  # the beat that makes room for the channel's first
        for source in range(max(0, before // self.beats), (before + self.beats - 1) // self.beats + 1):
            # of this source's beats the first that makes room; those behind it follow at the pace of the input
            place = max(source * self.beats - before, 0)
            left = self.taken[source] + before + place - source * self.beats
            earliest = max(earliest, left + 1 + self.beats - 1 - place)
        return earliest


def lightnorm(config: Config) -> Traffic:
    """Of the machine of a configuration."""
    x = beat_layout(config.spec.activation, config.lanes).size
    g = beat_layout(config.spec.gradient, config.lanes).size
    streams = {
        "train": (Stream("x", x, twice=2, held=True), Stream("y", x)),
        "infer": (Stream("x", x), Stream("y", x)),
        "backward": (Stream("x", x), Stream("dy", g, twice=2, held=True), Stream("dx", g)),
    }
    return Traffic(
        lanes=config.lanes,
        buffer_beats=config.buffer_beats,
        streams={mode: streams[mode] for mode in config.implementation.passes},
        words={mode: len(PARAMETERS[mode]) + len(RESULTS[mode]) for mode in config.implementation.passes},
    )


def conventional(like: Traffic, *, x_bits: int = 32, grad_bits: int = 32, statistic: str = "l2") -> Traffic:
    """Of a conventional batch norm on words, with the lanes, the passes and the buffer of another.

    The derivative of L2 statistics needs x a second time, and so the buffer must hold x and gradient. Mean and the
    reciprocal of sigma are kept from forward to backward.
    """
    x, g = x_bits * like.lanes, grad_bits * like.lanes
    again = statistic == "l2"
    streams = {
        "train": (Stream("x", x, twice=2, held=True), Stream("y", x)),
        "infer": (Stream("x", x), Stream("y", x)),
        "backward": (
            Stream("x", x, twice=1 + again, held=again), Stream("dy", g, twice=2, held=True), Stream("dx", g),
        ),
    }  # fmt: skip
    return Traffic(
        lanes=like.lanes,
        buffer_beats=like.buffer_beats,
        streams={mode: streams[mode] for mode in like.streams},
        # weight, bias and running statistics in, statistics out; weight, mean and reciprocal in, two gradients out
        words={mode: {"train": 8, "infer": 4, "backward": 5}[mode] for mode in like.streams},
    )
