"""Training of one setting with several seeds at once, side by side (see `networks`), and the accuracies they reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .data import Split, load, split
from .networks import Norm, build

__all__ = ["Result", "Training", "train"]

_TEST_BATCH = 300


@dataclass(frozen=True)
class Training:
    """What decides a run besides its seed and normalization.

    SGD with momentum; the rate grows with the batch from `rate` at 32 and falls linearly to 0. Gradients are those of
    the loss times `loss_scale`, and divided by it before the step.
    """

    data: str
    network: str
    batch: int = 32
    epochs: int = 10
    rate: float = 0.05
    momentum: float = 0.9
    decay: float = 5e-4
    loss_scale: float = 1024.0


@dataclass(frozen=True)
class Result:
    """Of one seed: percent of the test images, and the loss over the last epoch's training batches."""

    seed: int
    accuracy: float
    loss: float


def train(
    training: Training, seeds: Sequence[int], norm: Norm, at_test: Callable[[nn.Module], nn.Module] | None = None
) -> list[Result]:
    """Train a copy for each seed. A seed decides split, order and initial weights, whatever the normalization is.

    `at_test` changes the trained model before it is tested.
    """
    data = load(training.data)
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    parts = split(data, seeds)
    model = build(training.network, data.classes, seeds, norm).train()
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=1.0, momentum=training.momentum, weight_decay=training.decay)
    orders = [np.random.default_rng((seed, 2)) for seed in seeds]
    steps = data.training // training.batch
    losses = torch.zeros(len(seeds))
    for epoch in range(training.epochs):
        losses = torch.zeros(len(seeds))
        shuffled = torch.from_numpy(np.stack([order.permutation(data.training) for order in orders]))
        epoch_order = parts.train.gather(1, shuffled)
        for step in range(steps):
            done = (epoch * steps + step) / (training.epochs * steps)
            optimizer.param_groups[0]["lr"] = training.rate * training.batch / 32 * (1 - done)
            chosen = epoch_order[:, step * training.batch : (step + 1) * training.batch]
            optimizer.zero_grad()
            logits = forward(model, images, chosen, data.classes)
            loss = torch.nn.functional.cross_entropy(logits, labels[chosen.T].flatten(), reduction="none")
            (loss.sum() * (training.loss_scale / training.batch)).backward()
            with torch.no_grad():
                torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], 1 / training.loss_scale)
                losses += loss.view(training.batch, -1).mean(0) / steps
            optimizer.step()
    tested = model.eval() if at_test is None else at_test(model.eval())
    right = correct(tested, images, labels, parts, data.classes)
    shares = 100 * right / parts.test.shape[1]
    return [Result(*of) for of in zip(seeds, shares.tolist(), losses.tolist(), strict=True)]


def forward(model: nn.Module, images: Tensor, chosen: Tensor, classes: int) -> Tensor:
    """Logits (N * copies, classes) of the images `chosen` (copies, N) for each copy."""
    logits: Tensor = model(images[chosen].transpose(0, 1))
    return logits.view(-1, classes)


@torch.no_grad()
def correct(model: nn.Module, images: Tensor, labels: Tensor, parts: Split, classes: int) -> Tensor:
    """How many test images each copy gets right: (copies,)."""
    right = torch.zeros(len(parts.test), dtype=torch.int64)
    for chosen in parts.test.split(_TEST_BATCH, dim=1):
        found = forward(model, images, chosen, classes).argmax(1).view(-1, len(chosen))
        right += (found == labels[chosen.T]).sum(0)
    return right
