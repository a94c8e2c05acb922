"""How the golden files' inputs and weights were generated: both follow from seeds and shapes alone."""

import json
from collections.abc import Iterator
from math import sqrt
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

Module = TypeVar("Module", bound=nn.Module)
UNPUBLISHED = {"crd_local", "ofa"}  # methods that the reference implementation lacks: their own tests recompute them
LATER = {  # methods that it lacks, too: later.json holds numbers of their authors' code
    *("catkd", "ctkd", "dist", "dkd", "itrd", "mlld", "nkd", "ofd", "reviewkd", "simkd", "srrl", "ttm", "wttm"),
}


def draw(seed: int, *shape: int) -> Tensor:
    """Return standard normal numbers of a shape, float64, from numpy's legacy generator, the same everywhere."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape))


@torch.no_grad()
def fill(module: Module) -> Module:
    """Return the module itself, its weights replaced by numbers that follow from their shapes, not from their names.

    Parameters of two or more dimensions become normal with std sqrt(2 / fan_in), seeded by their size, where fan_in
    is the size of one of their rows; biases of convolutions and linear layers become 0; all else stays as it is.
    """
    for parameter in module.parameters():
        if parameter.ndim >= 2:
            fan_in = parameter[0].numel()
            parameter.copy_(draw(parameter.numel(), *parameter.shape) * sqrt(2 / fan_in))
    for layer in module.modules():
        if isinstance(layer, _ConvNd | nn.Linear) and layer.bias is not None:
            layer.bias.zero_()
    return module


def golden_losses(folder: Path, files: str) -> Iterator[Any]:
    """Yield a test's parameters (input, name, expected) for each loss in the golden files of a pattern."""
    for path in sorted(folder.glob(files)):
        for place, case in enumerate(json.loads(path.read_text())):
            for name, expected in case["losses"].items():
                yield pytest.param(case["input"], name, expected, id=f"{path.stem}-{place}-{name}")
