"""Capture what one batch norm layer of a small mobile network sees in the middle of training.

Trains a MobileNet-like network on scikit-learn's digits and writes, next to this file, the tensors that go in and out
of one batch norm at one training step: activation, grad_output, weight, bias, running_mean and running_sigma (.npy,
float32). README.md beside this file says what each one is.

Needs torch and scikit-learn (which brings numpy); neither is needed to use the files. Runs on the CPU, in one thread:

    python capture.py                write the files here
    python capture.py --out FOLDER   write them elsewhere, to compare
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

try:
    import numpy as np
    import torch  # type: ignore[import-not-found, unused-ignore]
    from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]
    from sklearn.model_selection import train_test_split  # type: ignore[import-untyped, unused-ignore]
    from torch import Tensor, nn  # type: ignore[import-not-found, unused-ignore]
    from torch.nn import functional  # type: ignore[import-not-found, unused-ignore]
except ModuleNotFoundError as error:
    sys.exit(f"capture.py needs torch and scikit-learn, and {error.name} is missing: pip install torch scikit-learn")

HERE = Path(__file__).resolve().parent

SEED = 0
BATCH = 32
EPOCHS = 12
CAPTURE_EPOCH = 4  # counted from 0
CAPTURE_STEP = 20  # within that epoch
LEARNING_RATE = 0.05
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
LOSS_SCALE = 1024.0  # a power of two, so that scaling and unscaling are exact
CAPTURED = "block1_depthwise_bn"
SHAPE = (BATCH, 16, 8, 8)


def add_separable(net: nn.Sequential, name: str, channels_in: int, channels_out: int, stride: int) -> None:
    """Append a depthwise-separable block: 3x3 depthwise, batch norm, ReLU, 1x1 pointwise, batch norm, ReLU."""
    depthwise = nn.Conv2d(channels_in, channels_in, 3, stride=stride, padding=1, groups=channels_in, bias=False)
    net.add_module(f"{name}_depthwise", depthwise)
    net.add_module(f"{name}_depthwise_bn", nn.BatchNorm2d(channels_in))
    net.add_module(f"{name}_depthwise_relu", nn.ReLU())
    net.add_module(f"{name}_pointwise", nn.Conv2d(channels_in, channels_out, 1, bias=False))
    net.add_module(f"{name}_pointwise_bn", nn.BatchNorm2d(channels_out))
    net.add_module(f"{name}_pointwise_relu", nn.ReLU())


def build() -> nn.Sequential:
    """Make the network: a 3x3 stem, three depthwise-separable blocks, global average pooling and a linear layer."""
    net = nn.Sequential()
    net.add_module("stem", nn.Conv2d(1, 16, 3, padding=1, bias=False))
    net.add_module("stem_bn", nn.BatchNorm2d(16))
    net.add_module("stem_relu", nn.ReLU())
    add_separable(net, "block1", 16, 16, stride=1)
    add_separable(net, "block2", 16, 32, stride=2)
    add_separable(net, "block3", 32, 64, stride=1)
    net.add_module("pool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flatten", nn.Flatten())
    net.add_module("classifier", nn.Linear(64, 10))
    return net


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training images, training labels, test images, test labels (20% for the test, pixels from 0 to 1)."""
    data = load_digits()
    x_train, x_test, y_train, y_test = train_test_split(
        data.images, data.target, test_size=0.2, random_state=SEED, stratify=data.target
    )

    def images(x: np.ndarray) -> Tensor:
        return torch.from_numpy((x / 16).astype(np.float32)).unsqueeze(1)

    def labels(y: np.ndarray) -> Tensor:
        return torch.from_numpy(y.astype(np.int64))

    return images(x_train), labels(y_train), images(x_test), labels(y_test)


def array(tensor: Tensor) -> np.ndarray:
    """Return a copy of a tensor as a C-ordered float32 array."""
    return np.array(tensor.detach().numpy(), dtype=np.float32, order="C")


def watched_step(net: nn.Sequential, bn: nn.BatchNorm2d, images: Tensor, labels: Tensor) -> dict[str, np.ndarray]:
    """Run the scaled forward and backward passes once and return what `bn` sees and holds before the update."""
    assert bn.running_mean is not None and bn.running_var is not None
    seen = {
        "weight": array(bn.weight),
        "bias": array(bn.bias),
        "running_mean": array(bn.running_mean),
        "running_sigma": array(torch.sqrt(bn.running_var)),
    }

    def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen["activation"] = array(inputs[0])

        def keep(grad: Tensor) -> None:
            seen["grad_output"] = array(grad)

        output.register_hook(keep)  # type: ignore[no-untyped-call, unused-ignore]

    handle = bn.register_forward_hook(hook)
    scaled_step(net, images, labels)
    handle.remove()
    return seen


def scaled_step(net: nn.Sequential, images: Tensor, labels: Tensor) -> None:
    """Run the forward pass and the backward pass of the scaled, batch-averaged cross entropy."""
    loss = functional.cross_entropy(net(images), labels)
    (loss * LOSS_SCALE).backward()  # type: ignore[no-untyped-call, unused-ignore]


def accuracy(net: nn.Sequential, images: Tensor, labels: Tensor) -> float:
    """Return the fraction of the images that the network labels correctly, using the running statistics."""
    net.eval()
    with torch.no_grad():
        right = (net(images).argmax(dim=1) == labels).sum().item()
    net.train()
    return float(right) / len(labels)


def train() -> dict[str, np.ndarray]:
    """Train the network, print its accuracy, and return the captured tensors."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    x_train, y_train, x_test, y_test = digits()
    net = build()
    bn = net.get_submodule(CAPTURED)
    assert isinstance(bn, nn.BatchNorm2d)
    optimizer = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    captured: dict[str, np.ndarray] = {}
    for epoch in range(EPOCHS):
        order = torch.randperm(len(x_train))
        for step in range(len(order) // BATCH):
            pick = order[step * BATCH : (step + 1) * BATCH]
            optimizer.zero_grad()
            if (epoch, step) == (CAPTURE_EPOCH, CAPTURE_STEP):
                print(f"test accuracy {accuracy(net, x_test, y_test):.4f} when captured (epoch {epoch}, step {step})")
                captured = watched_step(net, bn, x_train[pick], y_train[pick])
            else:
                scaled_step(net, x_train[pick], y_train[pick])
            for parameter in net.parameters():
                assert parameter.grad is not None
                parameter.grad /= LOSS_SCALE
            optimizer.step()
    print(f"test accuracy {accuracy(net, x_test, y_test):.4f} at the end ({EPOCHS} epochs)")
    return captured


def table(tensors: dict[str, np.ndarray]) -> str:
    """Return the statistics of every tensor as a Markdown table."""
    lines = ["| file | shape | min | max | std | zeros |", "|---|---|---|---|---|---|"]
    for name, x in tensors.items():
        shape = " x ".join(str(n) for n in x.shape)
        spread = f"{x.min():.4g} | {x.max():.4g} | {x.std(dtype=np.float64):.4g}"
        lines.append(f"| `{name}.npy` | {shape} | {spread} | {np.mean(x == 0):.1%} |")
    return "\n".join(lines)


def main() -> None:
    """Train, capture, check and save."""
    parser = argparse.ArgumentParser(description="Capture one batch norm layer's tensors in the middle of training.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for the .npy files (default: this script's)")
    out: Path = parser.parse_args().out
    captured = train()
    names = ("activation", "grad_output", "weight", "bias", "running_mean", "running_sigma")
    tensors = {name: captured[name] for name in names}
    out.mkdir(parents=True, exist_ok=True)
    for name, x in tensors.items():
        expected = SHAPE if name in ("activation", "grad_output") else SHAPE[1:2]
        assert x.shape == expected and x.dtype == np.float32 and np.isfinite(x).all(), name
        np.save(out / f"{name}.npy", x, allow_pickle=False)
    print(f"loss scale {LOSS_SCALE:g}\n{table(tensors)}")


if __name__ == "__main__":
    main()
