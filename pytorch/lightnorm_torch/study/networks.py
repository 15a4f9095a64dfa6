"""Small ResNet- and MobileNet-like networks; several copies train side by side as groups of channels.

Batch norm works on each channel alone and convolutions on groups, so that copies of a network, one for each seed, are
one network with `copies` times the channels. Copies never mix, and the many small operations are paid once for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

__all__ = ["NETWORKS", "Norm", "build"]

Norm = Callable[[int], nn.Module]
"""Makes the normalization of a number of channels."""


class _Maker:
    """Layers of `copies` networks; sizes are those of one."""

    def __init__(self, copies: int, norm: Norm) -> None:
        self.copies, self.norm = copies, norm

    def conv(self, inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
        """A convolution without bias, and its normalization."""
        n = self.copies
        convolution = nn.Conv2d(n * inputs, n * outputs, size, stride, size // 2, groups=n * groups, bias=False)
        return [convolution, self.norm(n * outputs)]

    def head(self, inputs: int, classes: int) -> list[nn.Module]:
        """Mean over the image, and a linear layer, as a convolution with a group for each copy."""
        n = self.copies
        return [nn.AdaptiveAvgPool2d(1), nn.Conv2d(n * inputs, n * classes, 1, groups=n)]


class _Residual(nn.Module):
    """Two convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, make: _Maker, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        first, second = make.conv(inputs, outputs, 3, stride), make.conv(outputs, outputs, 3)
        self.body = nn.Sequential(*first, nn.ReLU(), *second)
        change = inputs != outputs or stride != 1
        self.shortcut = nn.Sequential(*(make.conv(inputs, outputs, 1, stride) if change else []))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def _resnet(make: _Maker, classes: int) -> list[nn.Module]:
    """Six normalizations: a stem, a plain residual block, one that halves the image and doubles the channels."""
    c = 8
    blocks = [_Residual(make, c, c), _Residual(make, c, 2 * c, stride=2)]
    return [*make.conv(1, c, 3), nn.ReLU(), *blocks, *make.head(2 * c, classes)]


def _mobilenet(make: _Maker, classes: int) -> list[nn.Module]:
    """Seven normalizations: a stem and three depthwise-separable blocks."""
    c = 12
    layers = [*make.conv(1, c, 3), nn.ReLU()]
    for inputs, outputs, stride in ((c, c, 1), (c, 2 * c, 2), (2 * c, 2 * c, 1)):
        layers += [*make.conv(inputs, inputs, 3, stride, groups=inputs), nn.ReLU()]
        layers += [*make.conv(inputs, outputs, 1), nn.ReLU()]
    return [*layers, *make.head(2 * c, classes)]


NETWORKS = {"resnet": _resnet, "mobilenet": _mobilenet}


def build(name: str, classes: int, seeds: Sequence[int], norm: Norm) -> nn.Sequential:
    """A network of `NETWORKS`, a copy for each seed: (N, copies, H, W) -> (N, copies * classes, 1, 1).

    The weights of a copy are those of its seed (normal, He et al. 2015), whichever copies are beside it.
    """
    model = nn.Sequential(*NETWORKS[name](_Maker(len(seeds), norm), classes))
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            shape = (layer.out_channels // len(seeds), *layer.weight.shape[1:])
            deviation = (2 / layer.weight[0].numel()) ** 0.5
            own = [torch.randn(shape, generator=generator) * deviation for generator in generators]
            with torch.no_grad():
                layer.weight.copy_(torch.cat(own))
                if layer.bias is not None:
                    layer.bias.zero_()
    return model
