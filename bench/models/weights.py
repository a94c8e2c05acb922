"""Reads the weights of checkpoints without running any code that a file may contain."""

import argparse
import codecs
import hashlib
import io
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from bench.models.owner import owner_of
from bench.reading import read_bytes
from bench.types import RequestError

MAX_RATIO = 20  # the parts of a zip file may be so many times as large: weights hardly compress
MAX_NAMES = 3  # of each kind in a message
# the first under which a file has weights
KEYS = ("model", "state_dict", "model_state_dict", "net", "network", "state_dict_ema", "model_ema", "ema")
PREFIXES = (  # of wrappers, Lightning's modules among them
    *("module.", "model.", "_orig_mod.", "backbone.", "net.", "network.", "encoder."),
    *("student.", "teacher."),
)
SHARD = re.compile(r"-\d{5}-of-\d{5}\.\w+$|\.index\.json$")  # ends the name of a part of a checkpoint, or of their list
TEXT_START = re.compile(rb"\s*<|version https://git-lfs")  # of a web page and of a Git LFS pointer
# around the reason for which torch refuses a file: how to load it although it may run code
TORCH_ADVICE = re.compile(
    r"^Weights only load failed.*?WeightsUnpickler error: | Check the documentation of torch\.load.*$"
)
COUNTER = ".num_batches_tracked"  # missing in files from before torch 0.4.1, infinite in half precision; not used
AVERAGED = "n_averaged"  # the number of networks that torch's AveragedModel has averaged, beside their weights
# names in torchvision's published DenseNets, which torchvision's own loader mends
DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")
NOT_FINITE, NEGATIVE = "not finite", "negative variances"
REMEDIES = {
    NOT_FINITE: "The training that made it diverged",
    NEGATIVE: "The file is damaged, or its variances are stored in another form",
}
OTHER_REMEDY = "Save them as float32 numbers"
OTHER_CLASSES = "the checkpoint has"  # begins the remedy for another number of classes
_SCALAR, _ARRAY = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]  # numpy's constructors
SAFE: list[Any] = [  # what may lie beside the weights: options, and numpy's numbers and arrays; none runs any code
    argparse.Namespace,
    *(np.ndarray, np.dtype, codecs.encode),
    *{type(np.dtype(code)) for code in "?bhilqBHILQefdFDSU"},
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_ARRAY, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Reading:
    """Where a file has its weights, and how it names them, if the user says so.

    Attributes:
        key: the path of keys to the weights, joined by dots, such as `ema` or `state_dict.student`; None for the first
            of `KEYS` that has weights, or the whole file. The last ones may be how the names of the weights begin.
        rename: new by old parts of names: `linear: fc` makes `linear.weight` to `fc.weight`. A part is one or several
            words between dots, anywhere in a name; all are renamed at once.
    """

    key: str | None = None
    rename: Mapping[str, str] = field(default_factory=dict)


AS_FOUND = Reading()


def load_weights(network: nn.Module, path: Path | str, sha256: str | None = None, reading: Reading = AS_FOUND) -> None:
    """Copy all of a checkpoint's weights into a network, or none with an error; see `fitting_weights`."""
    copy_weights(network, fitting_weights(network, path, sha256, reading))


def copy_weights(network: nn.Module, weights: State) -> None:
    """Copy weights into a network; raises a `RuntimeError` unless they fit."""
    state = OrderedDict(weights)
    metadata = network.state_dict()._metadata  # type: ignore[attr-defined]
    state._metadata = metadata  # type: ignore[attr-defined]  # MNASNet takes no weights without its version
    network.load_state_dict(state)


def fitting_weights(
    network: nn.Module, path: Path | str, sha256: str | None = None, reading: Reading = AS_FOUND
) -> State:
    """Return a checkpoint's weights under the network's names; of the network, only names and shapes are read.

    Names are mended as torch and torchvision do when they load: counters of batches that are missing begin at 0, the
    published names of DenseNet are changed, and classifiers that the network has left out are dropped. Prefixes of
    wrappers are removed. Counters that are not finite, as half precision makes them, begin at 0 too.

    Args:
        network: the network, on any device.
        path: a `.safetensors` file, or a `torch.save` file of a state dict, alone or under one of `KEYS`.
        sha256: of the file when the suite was planned; None if it is not known.
        reading: where the file has its weights, and how it names them.

    Raises:
        RequestError: the file is missing, has changed, is damaged, is not a checkpoint, does not fit the network, or
            has weights that are not finite floating-point numbers, or negative variances.
    """
    wanted = network.state_dict()
    unwrapped = [
        _renamed(state, reading.rename, path) for state in _unwrapped(read_weights(Path(path), sha256, reading.key))
    ]
    candidates = [_mended(network, wanted, state) for state in unwrapped]
    weights = next((state for state in candidates if not _misfits(wanted, state)), None)
    if weights is None:
        nearest = max(candidates, key=lambda state: len(wanted.keys() & state.keys()))
        problems = _misfits(wanted, nearest)
        if not problems[-1].startswith(OTHER_CLASSES) and (owner := owner_of(unwrapped)):
            problems.append(owner)
        raise RequestError(f"{path}: the checkpoint does not fit the network: {'; '.join(problems)}")
    faults = {name: _fault(weights[name], wanted[name]) or _negative(name, weights[name]) for name in wanted}
    for fault in filter(None, faults.values()):
        names = _some(name for name in faults if faults[name] == fault)
        raise RequestError(f"{path}: weights that are {fault}: {names}. {REMEDIES.get(fault, OTHER_REMEDY)}")
    return weights


def read_weights(path: Path, sha256: str | None = None, key: str | None = None) -> State:
    """Return a checkpoint's tensors by name, on the CPU; raises as `fitting_weights`. `key` is that of `Reading`."""
    if SHARD.search(path.name):
        raise RequestError(
            f"{path}: one of several files of a checkpoint, or the list of them. Give one file with all weights: load "
            "the parts with safetensors.torch.load_file, and save their union with save_file"
        )
    try:
        whole = read_bytes(path)
    except FileNotFoundError:
        raise RequestError(
            f"{path}: no such file; give the path of a checkpoint, or leave it out to train the network"
        ) from None
    if sha256 is not None and hashlib.sha256(whole).hexdigest() != sha256:
        raise RequestError(f"{path}: has changed since the suite was planned. Start again")
    try:
        if path.suffix == ".safetensors":
            content: object = safetensors.torch.load(whole)
        else:
            _check_sums(io.BytesIO(whole))
            with torch.serialization.safe_globals(SAFE):
                content = torch.load(io.BytesIO(whole), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds of errors for a broken or foreign file
        reason = TORCH_ADVICE.sub("", " ".join(str(error).split())).strip()
        if TEXT_START.match(whole):
            reason = f"it begins with {whole[:30]!r}: perhaps a web page or a Git LFS pointer was saved in its place"
        elif match := re.search(r"(?:GLOBAL|global|class|function) ([\w.]+\.\w+)", reason):
            reason = f"it holds {match[1]}, and making that could run code"
        raise RequestError(
            f"{path}: not a checkpoint that can be read safely ({type(error).__name__}: {reason[:200]}); "
            "give a .safetensors file, or torch.save({'model': network.state_dict()}, FILE)"
        ) from error
    state = _state_dict(content) if key is None else _state_at(content, key)
    if nested := [name for name, tensor in state.items() if tensor.is_nested]:  # torch gives them no shape
        raise RequestError(f"{path}: weights that are nested tensors: {_some(nested)}. {OTHER_REMEDY}")
    if state:
        return state
    has = f"a {type(content).__name__}"
    if isinstance(content, Mapping):
        has = f"the keys {_some(map(str, content))}" if content else "an empty dict"
    if key is not None:
        raise RequestError(f"{path}: no weights found under key {key!r}; the file has {has}. Correct 'key'")
    raise RequestError(
        f"{path}: no weights found, but {has}; wanted is a state dict (names and tensors), "
        "alone or under the key 'model' or 'state_dict'"
    )


def _check_sums(file: io.BytesIO) -> None:
    """Raise a `ValueError` if a part of a zip file differs from its checksum, at which torch does not look.

    One that unpacks to much more than it has is refused before: torch does not compress.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as parts:
            size, unpacked = file.getbuffer().nbytes, sum(part.file_size for part in parts.infolist())
            if unpacked > MAX_RATIO * size:
                raise ValueError(f"its {size} bytes would unpack to {unpacked}")
            has_sums = any(part.CRC for part in parts.infolist())  # torch writes zeros if told to leave them out
            if has_sums and (broken := parts.testzip()):
                raise ValueError(f"the file is damaged: its part {broken} differs from its checksum")


def _unwrapped(state: State) -> Iterator[State]:
    """Yield weights as they are, then without one prefix of a wrapper after another, while all names share one."""
    yield state
    state = {name: tensor for name, tensor in state.items() if name != AVERAGED}
    while prefix := next((known for known in PREFIXES if all(name.startswith(known) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        yield state


def _mended(network: nn.Module, wanted: State, state: State) -> State:
    """Return weights with the names that the network has for them today; see `fitting_weights`."""
    inner = getattr(network, "network", network)  # torchvision's own
    mended = {}
    for name, tensor in state.items():
        today = DENSENET.sub(r"\1\2", name)
        now = name if name in wanted or today in state else today
        if now in wanted or getattr(inner, name.split(".")[0], inner) is not None:
            mended[now] = tensor
    counted = (name for name in wanted if name.endswith(COUNTER))
    counters = [name for name in counted if name not in mended or _fault(mended[name], wanted[name]) == NOT_FINITE]
    return mended | {name: torch.tensor(0) for name in counters}


def _fault(given: Tensor, wanted: Tensor) -> str | None:
    """Return why a tensor cannot be copied to a wanted one without changing its values; None if it can."""
    kinds = {
        "without values (on the device meta)": given.is_meta,
        f"sparse ({given.layout})": given.layout != torch.strided,
        f"quantised ({given.dtype})": given.is_quantized,
        f"complex numbers ({given.dtype})": given.is_complex(),
        f"truth values ({given.dtype})": given.dtype is torch.bool != wanted.dtype,
        f"whole numbers ({given.dtype})": wanted.is_floating_point() and not given.is_floating_point(),
        f"numbers of 8 bits ({given.dtype})": given.is_floating_point() and given.dtype.itemsize < 2,
    }
    if named := next((kind for kind, is_so in kinds.items() if is_so), None):
        return named
    if not given.isfinite().all():
        return NOT_FINITE
    too_large = given.dtype is torch.float64 and not given.float().isfinite().all()
    return f"too large for float32 ({given.dtype})" if too_large else None


def _negative(name: str, given: Tensor) -> str | None:
    """Return a fault if a batch norm's running variance is negative, from which it makes NaN; None if all is well."""
    return NEGATIVE if name.endswith(".running_var") and (given < 0).any() else None


def _state_dict(content: object) -> State:
    """Return the state dict that a file's content is or contains; empty if there is none."""
    if not isinstance(content, Mapping):
        return {}
    # a mapping under one of the keys may hold settings instead
    return next((state for key in KEYS if (state := _tensors(content.get(key)))), None) or _tensors(content)


def _tensors(state: object) -> State:
    """Return an object if it is a state dict; else an empty one."""
    if not isinstance(state, Mapping):
        return {}
    weights = {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}
    return weights if len(weights) == len(state) else {}


def _state_at(content: object, key: str) -> State:
    """Return the state dict at a path of keys; see `Reading`. Empty if there is none."""
    if not isinstance(content, Mapping):
        return {}
    if state := _tensors(content.get(key)):
        return state
    first, _, rest = key.partition(".")
    if rest and (state := _state_at(content.get(first), rest)):
        return state
    below = f"{key}."
    return _tensors({name.removeprefix(below): content[name] for name in content if str(name).startswith(below)})


def _renamed(state: State, rename: Mapping[str, str], path: Path | str) -> State:
    """Return weights with the names that `Reading.rename` gives them."""
    if not rename:
        return state
    parts = sorted(rename, key=len, reverse=True)  # of two that begin alike, the longer one
    pattern = re.compile(rf"(?<![^.])({'|'.join(map(re.escape, parts))})(?![^.])")
    renamed: dict[str, Tensor] = {}
    used = set()
    for name, tensor in state.items():
        used.update(pattern.findall(name))
        now = pattern.sub(lambda match: rename[match[0]], name)
        if now in renamed:
            raise RequestError(f"{path}: rename: two weights become {now!r}. Give them different names")
        renamed[now] = tensor
    if unused := [part for part in parts if part not in used]:
        raise RequestError(
            f"{path}: rename: {unused[0]!r} is not a part of any name in the checkpoint, which has {_some(state)}. "
            "Correct it, or leave it out"
        )
    return renamed


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
            f"{OTHER_CLASSES} {len(given[classifier])} classes, the data {len(wanted[classifier])}: "
            "give a checkpoint trained on this data, or leave it out to train the network here"
        )
    return [*problems, remedy]


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
