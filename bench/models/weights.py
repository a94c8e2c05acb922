"""Published checkpoints: their weights, read without running any code that the file may contain."""

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from bench.types import RequestError

SHOWN = 3  # the most names of each kind that a message lists
PARALLEL = "module."  # the prefix that nn.DataParallel adds to every name


def load_weights(network: nn.Module, path: Path | str) -> None:
    """Copy a checkpoint's weights into a network: either all of them, or none, with an error.

    Args:
        network: the network, on any device.
        path: a `.safetensors` file, or a `torch.save` file of a state dict, alone or under "model" or "state_dict".

    Raises:
        RequestError: the file is missing, is not a checkpoint, does not fit the network, or contains NaN or infinity.
    """
    weights = read_weights(path)
    problems = _misfits(wanted=network.state_dict(), weights=weights)
    if problems:
        raise RequestError(f"{path}: the checkpoint does not fit the network: {'; '.join(problems)}")
    broken = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if broken:
        raise RequestError(f"{path}: weights that are not finite: {_some(broken)}. The training that made it diverged")
    network.load_state_dict(weights)


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """Return a checkpoint's tensors by name, on the CPU, without DataParallel's prefix.

    Raises:
        RequestError: the file is missing or is not a checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise RequestError(f"{path}: no such file; give the path of a checkpoint, or leave it out to train the network")
    try:
        content = _read_file(path)
    except Exception as error:  # torch raises many kinds of errors for a broken or foreign file
        reason = " ".join(str(error).split())[:200]
        raise RequestError(
            f"{path}: not a checkpoint that can be read safely ({type(error).__name__}: {reason}); "
            "give a .safetensors file, or torch.save({'model': network.state_dict()}, FILE)"
        ) from error
    state = _state_dict(content)
    if state is None:
        raise RequestError(
            f"{path}: no weights found, but {_describe(content)}; wanted is a state dict (names and tensors), "
            "alone or under the key 'model' or 'state_dict'"
        )
    if all(name.startswith(PARALLEL) for name in state):
        return {name.removeprefix(PARALLEL): tensor for name, tensor in state.items()}
    return state


def _read_file(path: Path) -> object:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path, device="cpu")
    with torch.serialization.safe_globals([argparse.Namespace]):  # published files contain their options, too
        return torch.load(path, map_location="cpu", weights_only=True)


def _state_dict(content: object) -> dict[str, Tensor] | None:
    """Return the state dict that a file's content is or contains, or None."""
    if not isinstance(content, Mapping):
        return None
    nested = [content[key] for key in ("model", "state_dict") if isinstance(content.get(key), Mapping)]
    state: Mapping[object, object] = nested[0] if nested else content
    weights = {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}
    return weights if weights and len(weights) == len(state) else None


def _describe(content: object) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    return f"the keys {_some(str(key) for key in content)}" if content else "an empty dict"


def _misfits(wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    """Return the reasons why `weights` does not fit, each with a few names; empty if it fits."""
    missing = [name for name in wanted if name not in weights]
    unexpected = [name for name in weights if name not in wanted]
    misshaped = [name for name in wanted if name in weights and weights[name].shape != wanted[name].shape]
    problems = []
    if missing:
        problems.append(f"{len(missing)} names missing ({_some(missing)})")
    if unexpected:
        problems.append(f"{len(unexpected)} names unexpected ({_some(unexpected)})")
    if misshaped:
        shown = (f"{name} is {_shape(weights[name])}, wanted {_shape(wanted[name])}" for name in misshaped)
        problems.append(f"{len(misshaped)} of another shape ({_some(shown)})")
    if problems:
        problems.append(_remedy(wanted, weights, misshaped))
    return problems


def _remedy(wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor], misshaped: list[str]) -> str:
    linear = [name for name, tensor in wanted.items() if tensor.ndim == 2]
    if linear and linear[-1] in misshaped:
        own, other = wanted[linear[-1]], weights[linear[-1]]  # weights of the classifier, (classes, D)
        if own.shape[1:] == other.shape[1:]:
            return (
                f"the checkpoint has {len(other)} classes, the data {len(own)}: "
                "give a checkpoint trained on this data, or leave it out to train the network here"
            )
    return "give a checkpoint of this very network, or name the network that the checkpoint belongs to"


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
