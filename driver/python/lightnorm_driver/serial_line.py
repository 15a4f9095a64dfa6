"""Registers and streams of a block behind a serial line: the other end of `lightnorm.board.bridge` (format there).

    device = connect(port, description)        # port: serial.Serial("/dev/ttyUSB0", 500_000, timeout=0.5)
    result = device.train(x)

A request that is not answered, or whose reply is damaged, is sent again with the same number; the board carries out
each number once. So a disturbed line costs time and no data, up to `RETRIES` disturbances in a row.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, Protocol

from . import Device, DeviceError

__all__ = ["Port", "SerialLine", "connect"]

RETRIES = 5
ROOM = 255
"""Bytes of items in a request."""
WRITE, READ, X, GRAD = range(4)
WORD, BEAT = 1, 2
"""Kinds of items in requests and in replies."""
LAST = 0x80
RESET = FAILED = 1
RESTS = 50
"""Requests in a row in which no beat moves, after which a run counts as stuck."""


class Port(Protocol):
    """What is used of pyserial's `Serial`. `read` ends when the bytes are there, or after the port's timeout, which
    must be longer than the bridge's, 8192 bit times."""

    def read(self, size: int, /) -> bytes: ...

    def write(self, data: bytes, /) -> object: ...


class SerialLine:
    """`read`, `write` and `transfer` for `Device`. `description`: the content of lightnorm_uart.json.

    Writes wait for the next read or transfer, so that many of them share a request. Raises DeviceError if the board
    does not answer, or refuses an access.
    """

    def __init__(self, port: Port, description: Mapping[str, Any]) -> None:
        self._port, self._sizes = port, description["beat_bytes"]
        self._number = 0
        self._waiting: list[bytes] = []
        self._exchange(b"", RESET)

    def read(self, offset: int) -> int:
        """The word at a byte offset."""
        self._waiting.append(bytes([READ]) + offset.to_bytes(3, "little"))
        return self._flush()[-1]

    def write(self, offset: int, word: int) -> None:
        """Write a word, at the latest before the next read or transfer."""
        self._waiting.append(bytes([WRITE]) + offset.to_bytes(3, "little") + word.to_bytes(4, "little"))

    def transfer(self, x: Sequence[bytes], grad: Sequence[bytes], outputs: Sequence[int]) -> list[bytes]:
        """Send the packets of x and of the gradient, receive those of the output.

        Where a channel has two packets of the gradient and one of x, the first goes beside x, as the block takes them.
        """
        self._flush()
        passes = len(grad) // len(x) if x and grad else 1
        items = []
        for index in range(max(len(x), len(grad) // passes)):
            for turn in range(passes):
                beside = [self._beats(X, x[index])] if index < len(x) and turn == 0 else []
                beside += [self._beats(GRAD, grad[passes * index + turn])] if grad else []
                items += [item for beats in zip_longest(*beside) for item in beats]
        packets: list[bytes] = []
        open_, rests = b"", 0
        while items or len(packets) < len(outputs):
            sent, beats, _ = self._send(items)
            items = items[sent:]
            rests = 0 if sent or beats else rests + 1
            for last, beat in beats:
                open_ += beat
                if last:
                    packets.append(open_)
                    open_ = b""
            if rests > RESTS:
                raise DeviceError(
                    f"the block stopped: {len(items)} beats were not taken,"
                    f" {len(packets)} of {len(outputs)} channels came"
                )
        sizes = [len(packet) for packet in packets]
        if open_ or sizes != list(outputs):
            raise DeviceError(f"the output has channels of {sizes} bytes, not {list(outputs)}")
        return packets

    def _beats(self, kind: int, packet: bytes) -> list[bytes]:
        size = self._sizes["x" if kind == X else "grad"]
        beats = [packet[first : first + size] for first in range(0, len(packet), size)]
        return [bytes([kind | LAST * (index == len(beats) - 1)]) + beat for index, beat in enumerate(beats)]

    def _flush(self) -> list[int]:
        """Carry out the accesses that wait; the words that were read."""
        words = []
        while self._waiting:
            done, _, got = self._send(self._waiting)
            self._waiting = self._waiting[done:]
            words += got
        return words

    def _send(self, items: Sequence[bytes]) -> tuple[int, list[tuple[bool, bytes]], list[int]]:
        """One request with as many items as fit: how many were carried out, output beats (last?, bytes), words."""
        request, lengths = b"", []
        for item in items:
            if len(request) + len(item) > ROOM:
                break
            request += item
            lengths.append(len(item))
        failed, consumed, reply = self._exchange(request)
        done = 0
        while consumed:
            consumed -= lengths[done]
            done += 1
        if failed:
            item = items[done]
            self._waiting = []
            actions = {WRITE: "a write to", READ: "a read of"}
            if item[0] not in actions:
                raise DeviceError("the block has no stream of gradients")
            raise DeviceError(f"the block refused {actions[item[0]]} {int.from_bytes(item[1:4], 'little'):#x}")
        beats, words = [], []
        size = self._sizes["output"]
        while reply:
            tag, reply = reply[0], reply[1:]
            if tag & ~LAST == BEAT:
                beats.append((bool(tag & LAST), reply[:size]))
                reply = reply[size:]
            else:
                words.append(int.from_bytes(reply[:4], "little"))
                reply = reply[4:]
        return done, beats, words

    def _exchange(self, request: bytes, flags: int = 0) -> tuple[bool, int, bytes]:
        """A request and its reply: whether an item failed, bytes consumed, items."""
        self._number = (self._number + 1) % 128
        frame = bytes([self._number << 1 | flags, len(request)]) + request
        frame += binascii.crc_hqx(frame, 0xFFFF).to_bytes(2, "big")
        for _ in range(1 + RETRIES):
            self._port.write(frame)
            reply = self._port.read(3)
            if len(reply) == 3:
                reply += self._port.read(reply[1] + 2)
                intact = len(reply) == reply[1] + 5 and binascii.crc_hqx(reply, 0xFFFF) == 0
                if intact and reply[0] >> 1 == self._number:
                    return bool(reply[0] & FAILED), reply[2], reply[3:-2]
            while self._port.read(ROOM):  # until the line is quiet: then the board has forgotten what was damaged
                pass
        raise DeviceError(f"the board does not answer ({1 + RETRIES} attempts)")


def connect(port: Port, description: Mapping[str, Any]) -> Device:
    """The block at the other end of the line, after a reset. Raises DeviceError if it is none, or another one."""
    line = SerialLine(port, description)
    return Device(description, line.read, line.write, line.transfer)
