"""A small library, and a machine that is mapped to it in seconds."""

from pathlib import Path

import numpy as np

from lightnorm.config import Config, Implementation
from lightnorm_flow.simulate import prepare_layers
from lightnorm_golden import BlockFormat, NormSpec
from lightnorm_sim.layer import Layer, Tensors

LIBRARY = Path(__file__).with_name("small.lib")
BUILD_DIR = Path(__file__).parents[3] / "build" / "sim"
FORMAT = BlockFormat(3, 2, 2)
MACHINE = Config(NormSpec(FORMAT, FORMAT, 8, 3), Implementation(passes=("train", "infer"), buffer_blocks=8))


def layers(seed: int) -> list[Layer]:
    """Three runs on random tensors."""
    rng = np.random.default_rng(seed)
    tensors = Tensors(
        x=rng.normal(size=(3, 4, 9)).astype(np.float32),
        weight=rng.normal(size=4).astype(np.float32),
        bias=rng.normal(size=4).astype(np.float32),
    )
    return prepare_layers(MACHINE, ("train", "infer", "train"), tensors, eps=1e-5, momentum=0.1, chunks=4)
