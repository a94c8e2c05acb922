"""Published checkpoints: their weights, read without running any code that the file may contain."""

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from bench.types import RequestError

MAX_NAMES = 3  # of each kind in a message
PARALLEL = "module."  # the prefix that nn.DataParallel adds to every name

State = Mapping[str, Tensor]


def load_weights(network: nn.Module, path: Path | str) -> None:
    """Copy a checkpoint's weights into a network: either all of them, or none, with an error.

    Args:
        network: the network, on any device.
        path: a `.safetensors` file, or a `torch.save` file of a state dict, alone or under "model" or "state_dict".

    Raises:
        RequestError: the file is missing, is not a checkpoint, does not fit the network, or contains NaN or infinity.
    """
    weights = read_weights(Path(path))
    if problems := _misfits(network.state_dict(), weights):
        raise RequestError(f"{path}: the checkpoint does not fit the network: {'; '.join(problems)}")
    broken = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if broken:
        raise RequestError(f"{path}: weights that are not finite: {_some(broken)}. The training that made it diverged")
    network.load_state_dict(weights)


def read_weights(path: Path) -> State:
    """Return a checkpoint's tensors by name, on the CPU, without DataParallel's prefix."""
    if not path.is_file():
        raise RequestError(f"{path}: no such file; give the path of a checkpoint, or leave it out to train the network")
    try:
        if path.suffix == ".safetensors":
            content: object = safetensors.torch.load_file(path, device="cpu")
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):  # published files contain their options, too
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds of errors for a broken or foreign file
        reason = " ".join(str(error).split())[:200]
        raise RequestError(
            f"{path}: not a checkpoint that can be read safely ({type(error).__name__}: {reason}); "
            "give a .safetensors file, or torch.save({'model': network.state_dict()}, FILE)"
        ) from error
    state = _state_dict(content)
    if not state:
        kind = f"a {type(content).__name__}"
        if isinstance(content, Mapping):
            kind = f"the keys {_some(map(str, content))}" if content else "an empty dict"
        raise RequestError(
            f"{path}: no weights found, but {kind}; wanted is a state dict (names and tensors), "
            "alone or under the key 'model' or 'state_dict'"
        )
    prefix = PARALLEL if all(name.startswith(PARALLEL) for name in state) else ""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _state_dict(content: object) -> State:
    """Return the state dict that a file's content is or contains; empty if there is none."""
    if not isinstance(content, Mapping):
        return {}
    state = next((content[key] for key in ("model", "state_dict") if isinstance(content.get(key), Mapping)), content)
    weights = {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}
    return weights if len(weights) == len(state) else {}


def _misfits(wanted: State, given: State) -> list[str]:
    """Return the reasons why weights do not fit, each with a few names; empty if they fit."""
    misshaped = [name for name in wanted if name in given and given[name].shape != wanted[name].shape]
    kinds = {
        "names missing": [name for name in wanted if name not in given],
        "names unexpected": [name for name in given if name not in wanted],
        "of another shape": [f"{name} is {_shape(given[name])}, wanted {_shape(wanted[name])}" for name in misshaped],
    }
    problems = [f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds.items() if names]
    if not problems:
        return []
    remedy = "give a checkpoint of this very network, or name the network that the checkpoint belongs to"
    classifier = ["", *(name for name in wanted if wanted[name].ndim == 2)][-1]  # its weight is (classes, D)
    if classifier in misshaped and given[classifier].shape[1:] == wanted[classifier].shape[1:]:
        remedy = (
            f"the checkpoint has {len(given[classifier])} classes, the data {len(wanted[classifier])}: "
            "give a checkpoint trained on this data, or leave it out to train the network here"
        )
    return [*problems, remedy]


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
