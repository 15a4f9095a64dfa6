"""Driver of the LightNorm block for hosts with Python, such as PYNQ boards: tensors in, tensors out.

Needs NumPy and the golden model's package, which encodes and decodes blocks, and the `lightnorm_axi.json` that
`lightnorm generate --top axi` wrote. On PYNQ, with an overlay of the block and an AXI DMA per stream:

    mmio = pynq.MMIO(base, 1 << 16)
    device = Device(json.load(open("lightnorm_axi.json")), mmio.read, mmio.write, transfer)

where `transfer(x, grad, outputs)` sends the packets of x and, in backward, of the gradient, at the same time, and
returns as many packets as `outputs` has numbers, each of so many bytes. Of a block without a window (`max_channels` 0)
the parameters and results are packets too: `transfer(x, grad, outputs, parameters, results)` also sends the packet
`parameters` and, unless `results` is 0, returns behind the others a packet of `results` bytes from the result stream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightnorm_golden import BlockFormat, NormSpec, decode, host_constants, pack, quantize, unpack
from lightnorm_golden.forward import check_channels, check_scalar, check_tensor

__all__ = ["Device", "DeviceError", "Result", "Transfer"]

Array = NDArray[np.float32]
Transfer = Callable[..., Sequence[bytes]]

MODES = {"infer": 0, "train": 1, "backward": 2}
PARAMETERS = {"running_mean": 0.0, "running_sigma": 1.0, "weight": 1.0, "bias": 0.0}
STREAMED = {"infer": tuple(PARAMETERS), "train": tuple(PARAMETERS), "backward": ("weight",)}
MAX_CHANNELS = (1 << 16) - 1
RESULTS = {
    "infer": (),
    "train": ("mean", "sigma", "new_running_mean", "new_running_sigma"),
    "backward": ("grad_bias", "grad_weight"),
}
ERRORS = ("length", "keep", "illegal_run", "aborted")


class DeviceError(RuntimeError):
    """The block is not what the description says, or a run did not end well; the message has what STATUS says."""


@dataclass(frozen=True)
class Result:
    """What a run gave: the tensor, and the values per channel of `RESULTS`."""

    output: NDArray[Any]
    channels: Mapping[str, Array]


class Device:
    """A block and its streams.

    `description`: the content of lightnorm_axi.json. `read(offset)` and `write(offset, word)` reach its registers, in
    bytes from its base. `polls`: reads of CTRL after which a run counts as hanging; it is then aborted. Raises
    DeviceError if another block is there.
    """

    def __init__(
        self,
        description: Mapping[str, Any],
        read: Callable[[int], int],
        write: Callable[[int, int], object],
        transfer: Transfer,
        *,
        polls: int = 1_000_000,
    ) -> None:
        self.description, self.transfer, self.polls = description, transfer, polls
        self._read, self._write = read, write
        arithmetic: dict[str, Any] = dict(description["config"]["arithmetic"])
        arithmetic |= {name: BlockFormat(**arithmetic[name]) for name in ("activation", "gradient")}
        self.spec = NormSpec(**arithmetic)
        self.lanes: int = description["lanes"]
        self._implementation = description["config"]["implementation"]
        self._window = description["window"]  # None: parameters and results are streams
        wanted = int(description["hash"], 16)
        if self.read("ID") != int.from_bytes(b"LNRM", "big"):
            raise DeviceError(f"there is no LightNorm at this address (ID is {self.read('ID'):#010x})")
        if (found := self.read("CONFIG_HASH")) != wanted:
            raise DeviceError(f"the block has configuration {found:08x}, the description has {wanted:08x}")

    # registers

    def read(self, register: str, field: str | None = None) -> int:
        """A register's word, or one field of it."""
        entry = self.description["registers"][register]
        word = self._read(entry["offset"])
        if field is None:
            return word
        place = entry["fields"][field]
        return int(word >> place["low"] & ((1 << place["bits"]) - 1))

    def write(self, register: str, word: int) -> None:
        """Write a register."""
        self._write(self.description["registers"][register]["offset"], word)

    def _mask(self, register: str, *fields: str) -> int:
        places = self.description["registers"][register]["fields"]
        return sum(((1 << places[name]["bits"]) - 1) << places[name]["low"] for name in fields)

    def _record(self, channel: int, word: str) -> int:
        window = self._window
        return int(window["offset"] + channel * window["record_bytes"] + window["words"][word])

    def status(self) -> list[str]:
        """Names of the STATUS fields that are set."""
        return [name for name in self.description["registers"]["STATUS"]["fields"] if self.read("STATUS", name)]

    def recover(self, *, forget: bool = False) -> None:
        """Clear errors and wait until a run can be started; with `forget`, packets that were begun count as ended."""
        self.write("STATUS", self._mask("STATUS", *ERRORS))
        for _ in range(self.polls):
            if self.read("CTRL", "ready"):
                return
            if forget and self.read("CTRL", "idle"):
                self.write("CTRL", self._mask("CTRL", "abort"))
        raise DeviceError("the block does not become ready: an input packet has no end, or its output is not read")

    def counters(self) -> dict[str, int]:
        """Counters of the last run."""
        return {name: self.read(name.upper()) for name in ("cycles", "input_stalls", "output_stalls", "saturated")}

    # runs

    def train(self, x: NDArray[Any], *, momentum: float = 0.1, **given: Any) -> Result:
        """Normalize x, (N, C, *spatial), with its own statistics.

        Also `weight`, `bias`, `running_mean`, `running_sigma` of shape (C,), `eps`, `chunks`; see `lightnorm_golden`.
        """
        return self._run("train", x, None, momentum=momentum, **given)

    def infer(self, x: NDArray[Any], **given: Any) -> Result:
        """Normalize x with the running statistics."""
        return self._run("infer", x, None, **given)

    def backward(self, x: NDArray[Any], grad_output: NDArray[Any], **given: Any) -> Result:
        """The gradient of x from that of the output; `weight`, `eps`, `chunks` as in training."""
        return self._run("backward", x, grad_output, **given)

    def _run(
        self,
        mode: str,
        x: NDArray[Any],
        grad: NDArray[Any] | None,
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
        chunks: int = 16,
        **parameters: NDArray[Any] | None,
    ) -> Result:
        if mode not in self._implementation["passes"]:
            raise ValueError(f"this block is built without {mode}")
        if unknown := sorted(parameters.keys() - PARAMETERS.keys()):
            raise TypeError(f"{mode} takes no {', '.join(unknown)}")
        check_tensor("x", x)
        if grad is not None:
            check_tensor("grad_output", grad, x.shape)
        count = x.shape[1]
        values = {
            name: check_channels(name, parameters.get(name), count, default, self.spec).astype(np.float32)
            for name, default in PARAMETERS.items()
        }
        elements = x.size // count
        host = host_constants(elements, chunks, self.spec)
        words = {
            "MODE": MODES[mode],
            "ELEMENTS": elements,
            "CHUNK_BLOCKS": host.chunk_blocks,
            "INV_COUNT": _word(host.inv_count),
            "RANGE_GAIN": _word(host.range_gain),
            "EPS": _word(check_scalar("eps", eps, 0.0, np.inf, self.spec)),
            "MOMENTUM": _word(check_scalar("momentum", momentum, 0.0, 1.0, self.spec)),
        }
        most: int = self._window["channels"] if self._window else MAX_CHANNELS
        parts = [
            self._channels(mode, words, values, x, grad, slice(first, min(first + most, count)))
            for first in range(0, count, most)
        ]
        return Result(
            np.concatenate([part.output for part in parts], axis=1),
            {name: np.concatenate([part.channels[name] for part in parts]) for name in RESULTS[mode]},
        )

    def _channels(
        self,
        mode: str,
        words: Mapping[str, int],
        values: Mapping[str, Array],
        x: NDArray[Any],
        grad: NDArray[Any] | None,
        part: slice,
    ) -> Result:
        """One run, of at most as many channels as the window holds."""
        count = part.stop - part.start
        if not self.read("CTRL", "ready"):
            raise DeviceError(f"the block is not ready (status: {', '.join(self.status()) or 'none'})")
        for register, word in words.items():
            self.write(register, word)
        self.write("CHANNELS", count)
        streams: tuple[bytes, int] | tuple[()] = ()
        if self._window:
            for channel in range(count):
                for name, vector in values.items():
                    self._write(self._record(channel, name), _word(vector[part][channel]))
        else:
            words_in = np.stack([values[name][part] for name in STREAMED[mode]], axis=1).astype("<f4")
            streams = words_in.tobytes(), 4 * count * len(RESULTS[mode])
        self.write("CTRL", self._mask("CTRL", "start"))
        twice = bool(self.read("MODE", "two_pass"))
        x_packets = self._packets(x[:, part], self.spec.activation, "x", twice and mode == "train")
        grad_packets = [] if grad is None else self._packets(grad[:, part], self.spec.gradient, "grad", twice)
        beats = -(-words["ELEMENTS"] // self.lanes)
        size: int = self.description["beat_bytes"]["output"]
        received = [] if self.status_errors() else self.transfer(
            x_packets, grad_packets, [beats * size] * count, *streams
        )
        self._wait()
        fmt = self.spec.gradient if mode == "backward" else self.spec.activation
        names = RESULTS[mode]
        if self._window:
            data = [[self._read(self._record(channel, name)) for name in names] for channel in range(count)]
            results = np.array(data, np.uint32).reshape(count, len(names)).view(np.float32)
        else:
            results = np.frombuffer(received[count] if names else b"", "<f4").reshape(count, len(names))
        return Result(
            self._tensor(received[:count], fmt, x[:, part].shape),
            {name: np.ascontiguousarray(results[:, index], np.float32) for index, name in enumerate(names)},
        )

    def status_errors(self) -> list[str]:
        """Names of what ended a run and was not recovered from."""
        return [name for name in self.status() if name in ERRORS]

    def _wait(self) -> None:
        for _ in range(self.polls):
            if self.read("CTRL", "done"):
                return
            if self.read("CTRL", "idle"):
                raise DeviceError(f"the run ended with {', '.join(self.status_errors())}; recover() before the next")
        self.write("CTRL", self._mask("CTRL", "abort"))
        raise DeviceError("the run does not end and was aborted; recover() before the next")

    def _packets(self, tensor: NDArray[Any], fmt: BlockFormat, stream: str, twice: bool) -> list[bytes]:
        """A packet per channel and pass: its beats, each padded to whole bytes."""
        flat = np.moveaxis(np.asarray(tensor, np.float64), 1, 0).reshape(tensor.shape[1], -1)
        per_beat = self.lanes // fmt.block_size
        bits = pack(quantize(flat, fmt))
        bits = np.pad(bits, ((0, 0), (0, -bits.shape[1] % per_beat), (0, 0)))
        beats = bits.reshape(len(bits), -1, per_beat * fmt.block_bits)
        packed = np.packbits(beats, axis=-1, bitorder="little")
        size = self.description["beat_bytes"][stream]
        packed = np.pad(packed, ((0, 0), (0, 0), (0, size - packed.shape[-1])))
        return [channel.tobytes() for channel in packed for _ in range(1 + twice)]

    def _tensor(self, packets: Sequence[bytes], fmt: BlockFormat, shape: tuple[int, ...]) -> NDArray[Any]:
        batch, count, *spatial = shape
        size = self.description["beat_bytes"]["output"]
        data = np.frombuffer(b"".join(packets), np.uint8).reshape(count, -1, size)
        width = self.lanes // fmt.block_size * fmt.block_bits
        bits = np.unpackbits(data, axis=-1, bitorder="little")[..., :width].reshape(count, -1, fmt.block_bits)
        values = decode(unpack(bits, fmt), batch * int(np.prod(spatial)))
        return np.ascontiguousarray(np.moveaxis(values.reshape(count, batch, *spatial), 0, 1))


def _word(value: float | np.floating[Any]) -> int:
    return int(np.float32(value).view(np.uint32))
