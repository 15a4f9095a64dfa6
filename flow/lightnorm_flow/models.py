"""The batch norm layers of known networks, from the tables of the papers that define them.

Every convolution is followed by a batch norm on its output. Names are torchvision's, and where papers and torchvision
differ (ResNet-50 strides in the 3x3 convolution) torchvision is followed. A stride of 2 leaves half of each side,
rounded up.
"""

from collections.abc import Iterator, Sequence

from .layers import NormLayer

__all__ = ["MODELS", "model_layers"]


def model_layers(model: str, image: int) -> list[NormLayer]:
    """The layers of a network on square images, in order. Raises ValueError."""
    if model not in MODELS:
        raise ValueError(f"--model must be {', '.join(MODELS)}, not {model!r}")
    if image < 1:
        raise ValueError(f"--image must be at least 1 pixel, not {image}")
    return [NormLayer(name, channels, (size, size)) for name, channels, size in MODELS[model](image)]


Layers = Iterator[tuple[str, int, int]]
"""Name, channels, and height and width."""


def _halved(size: int) -> int:
    return -(-size // 2)


def _strided(size: int, stride: int) -> int:
    return _halved(size) if stride == 2 else size


Block = tuple[list[tuple[int, int]], tuple[int, int]]
"""Channels and size: of the expansion, where there is one, and of the depthwise convolution; of the projection."""


def _inverted_residuals(table: Sequence[tuple[int, int, int, int]], size: int) -> Iterator[tuple[int, int, Block]]:
    """Stage, number in its stage, and block; of each row of expansion, channels, blocks, and stride of the first."""
    channels = 32
    for stage, (expansion, out, blocks, first_stride) in enumerate(table, 1):
        for block in range(blocks):
            hidden = expansion * channels
            inner = [(hidden, size)] if expansion > 1 else []
            size, channels = _strided(size, 1 if block else first_stride), out
            yield stage, block, ([*inner, (hidden, size)], (out, size))


def _mobilenet_v2(size: int) -> Layers:
    """Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks (CVPR 2018), table 2."""
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    size = _halved(size)
    yield "features.0.1", 32, size
    for index, (_, _, (inner, projection)) in enumerate(_inverted_residuals(table, size), 1):
        for place, layer in enumerate(inner):
            yield f"features.{index}.conv.{place}.1", *layer
        yield f"features.{index}.conv.{len(inner) + 1}", *projection
    yield f"features.{index + 1}.1", 1280, projection[1]


def _efficientnet_b0(size: int) -> Layers:
    """Tan and Le, EfficientNet: Rethinking Model Scaling for CNNs (ICML 2019), table 1. Its squeeze-and-excitation has
    no batch norm."""
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 40, 2, 2), (6, 80, 3, 2), (6, 112, 3, 1), (6, 192, 4, 2), (6, 320, 1, 1))
    size = _halved(size)
    yield "features.0.1", 32, size
    for stage, block, (inner, projection) in _inverted_residuals(table, size):
        for place, layer in enumerate(inner):
            yield f"features.{stage}.{block}.block.{place}.1", *layer
        yield f"features.{stage}.{block}.block.{len(inner) + 1}.1", *projection
    yield f"features.{len(table) + 1}.1", 1280, projection[1]


RESNET_CHANNELS = (64, 128, 256, 512)


def _resnet18(size: int) -> Layers:
    """He et al., Deep Residual Learning for Image Recognition (CVPR 2016), table 1: two 3x3 convolutions per block."""
    size = _halved(size)
    yield "bn1", 64, size
    size, channels = _halved(size), 64  # pooled
    for stage, out in enumerate(RESNET_CHANNELS, 1):
        for block in range(2):
            name = f"layer{stage}.{block}"
            size = _strided(size, 2 if stage > 1 and block == 0 else 1)
            yield f"{name}.bn1", out, size
            yield f"{name}.bn2", out, size
            if channels != out:
                yield f"{name}.downsample.1", out, size
            channels = out


def _resnet50(size: int) -> Layers:
    """He et al., table 1: bottlenecks of 1x1, 3x3 (which strides) and 1x1 to four times the channels."""
    size = _halved(size)
    yield "bn1", 64, size
    size, channels = _halved(size), 64  # pooled
    for stage, (inner, blocks) in enumerate(zip(RESNET_CHANNELS, (3, 4, 6, 3), strict=True), 1):
        for block in range(blocks):
            name, out = f"layer{stage}.{block}", 4 * inner
            yield f"{name}.bn1", inner, size
            size = _strided(size, 2 if stage > 1 and block == 0 else 1)
            yield f"{name}.bn2", inner, size
            yield f"{name}.bn3", out, size
            if channels != out:
                yield f"{name}.downsample.1", out, size
            channels = out


MODELS = {
    "mobilenet_v2": _mobilenet_v2,
    "resnet18": _resnet18,
    "resnet50": _resnet50,
    "efficientnet_b0": _efficientnet_b0,
}
