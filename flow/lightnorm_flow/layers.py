"""A network as a list of its batch norm layers, and such lists in files."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["NormLayer", "read_layers"]

KEYS = ("name", "channels", "spatial")


@dataclass(frozen=True)
class NormLayer:
    """A batch norm on a tensor (batch, channels, *spatial)."""

    name: str
    channels: int
    spatial: tuple[int, ...]

    def elements(self, batch: int) -> int:
        """Per channel."""
        return batch * math.prod(self.spatial)


def read_layers(path: Path) -> list[NormLayer]:
    """The layers in a .json or .onnx file. Raises ValueError.

    JSON: a list of objects `{"name": "stem", "channels": 32, "spatial": [112, 112]}`. ONNX: every BatchNormalization,
    of a graph whose shapes are known but for the batch; needs the package onnx.
    """
    named = f"--layers {path}"
    if path.suffix not in (".json", ".onnx"):
        raise ValueError(f"{named} must be a .json or an .onnx file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{named} cannot be read: {error.strerror or error}") from None
    layers = _from_json(named, data) if path.suffix == ".json" else _from_onnx(named, data)
    if not layers:
        raise ValueError(f"{named} has no batch norm layer")
    return layers


def _from_json(named: str, data: bytes) -> list[NormLayer]:
    try:
        content = json.loads(data)
    except ValueError as error:
        raise ValueError(f"{named} is not JSON: {error}") from None
    if not isinstance(content, list):
        raise ValueError(f"{named} must hold a list of layers, each with {', '.join(KEYS)}")
    return [_layer(f"{named}, layer {index}", entry) for index, entry in enumerate(content)]


def _layer(named: str, entry: Any) -> NormLayer:
    if not isinstance(entry, dict) or set(entry) != set(KEYS):
        raise ValueError(f"{named} must have {', '.join(KEYS)} and nothing else, not {entry!r}")
    name, channels, spatial = (entry[key] for key in KEYS)
    if not isinstance(name, str):
        raise ValueError(f"{named}: name must be a text, not {name!r}")
    if not _positive(channels):
        raise ValueError(f"{named} ({name}): channels must be an integer of at least 1, not {channels!r}")
    if not isinstance(spatial, list) or not all(_positive(size) for size in spatial):
        raise ValueError(f"{named} ({name}): spatial must be a list of integers of at least 1, not {spatial!r}")
    return NormLayer(name, channels, tuple(spatial))


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _from_onnx(named: str, data: bytes) -> list[NormLayer]:
    try:
        import onnx
    except ModuleNotFoundError:
        raise ValueError(f"{named} needs the package onnx: pip install 'lightnorm[onnx]'") from None
    try:
        model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(data), data_prop=True)
    except Exception as error:  # protobuf's and onnx's own errors have no common class
        raise ValueError(f"{named} is not an ONNX model: {error}") from None
    graph = model.graph
    shapes = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    layers = []
    for node in graph.node:
        if node.op_type == "BatchNormalization":
            name, shape = node.name or node.output[0], shapes.get(node.input[0], [])
            if len(shape) < 2 or 0 in shape[1:]:
                raise ValueError(f"{named}: the shape of the input of {name} is not known but for the batch: {shape}")
            layers.append(NormLayer(name, shape[1], tuple(shape[2:])))
    return layers
