"""Any classifier as a network of this benchmark: forward hooks read the outputs of the modules that are its stages.

    build("torchvision.resnet18", num_classes=10, stages=["relu", "layer1", "layer2", "layer3", "layer4"])

Without `stages`, the modules are found: here, the same. Modules are named by their path, as in `named_modules()`. The
state dict keeps the wrapped network's own names.
"""

import hashlib
import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bench.models.base import Network
from bench.models.parts import linear_of
from bench.types import Affine, Features, RequestError, suggest

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

logger = logging.getLogger(__name__)

EXAMINED = [(192, 256), (256, 352)]  # (H, W) of the images that show where a network has its channels
NEW = 0.75  # convolutions without padding shorten maps by less
MOST_WITHIN = 2  # resolutions of a step from one to the next
FIRST_STAYS = [False, False, True, True]  # the dimensions of maps (B, C, H, W) that change with the image
LAST_STAYS = [False, True, True, False]  # those of maps (B, H, W, C)
WRAPPED = "network."  # the prefix of the wrapped network's names in a state dict


class HookedNetwork(Network):
    """A wrapped classifier whose features are read by hooks that exist for one forward pass.

    Args:
        network: maps images (B, C, H, W) to logits (B, K).
        stages: paths of the modules whose outputs are the stages, stem first: maps (B, C, H, W), or (B, H, W, C) as
            Swin's, which are permuted. Without any, those of `stages_by_resolution`.
        classifier: path of the module whose input (B, D) is the embedding; the last `nn.Linear` by default.
        preactivations: paths of the modules whose outputs are the pre-activations, one per stage; by default the
            stages are used.

    Raises:
        RequestError: a path names no module, no stages are given and none are found, or the pre-activations do not
            match the stages.
    """

    def __init__(
        self,
        network: nn.Module,
        stages: Sequence[str] = (),
        classifier: str | None = None,
        preactivations: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.network = network
        self.stage_paths = tuple(stages) or stages_by_resolution(network)
        self.preactivation_paths = tuple(preactivations) or self.stage_paths
        self.classifier_path = classifier or _last_linear(network)
        self.register_state_dict_post_hook(drop_prefix)
        self.register_load_state_dict_pre_hook(add_prefix)
        modules = dict(network.named_modules())
        for path in (*self.stage_paths, *self.preactivation_paths, self.classifier_path):
            if not path or path not in modules:
                raise RequestError(f"the network has no module {path!r}. {suggest(path, _siblings(path, modules))}")
        if len(self.preactivation_paths) != len(self.stage_paths):
            raise RequestError(
                f"preactivations: {len(self.preactivation_paths)} modules for {len(self.stage_paths)} stages; "
                "name one for each stage, or none"
            )
        self.ends_in_classifier = _linear_paths(network)[-1:] == [self.classifier_path]
        self.channels_last = _channels_last(network, {*self.stage_paths, *self.preactivation_paths})

    def features(self, x: Tensor, preactivations: bool = False) -> Features:
        """Return the features of images (B, C, H, W), from the named modules.

        Stages count as tokens where modules give them as (B, H, W, C), as those of Swin do.

        Raises:
            RequestError: a named module does not output maps, has no flat input, or is not used in the forward pass.
        """
        preactivation_paths = self.preactivation_paths if preactivations else ()
        paths = {*self.stage_paths, *preactivation_paths}
        outputs: dict[str, Tensor] = {}
        inputs: dict[str, Tensor] = {}
        find = self.network.get_submodule
        with ExitStack() as hooks:  # removes them again, even if the forward pass fails
            for path in paths:
                keep_output = _output_keeper(path, outputs, partial(self._maps, path, x))
                hooks.enter_context(find(path).register_forward_hook(keep_output))
            keep = _input_keeper(self.classifier_path, inputs)
            hooks.enter_context(find(self.classifier_path).register_forward_pre_hook(keep))
            logits = self.network(x)
        unused = ", ".join(sorted((paths - outputs.keys()) | ({self.classifier_path} - inputs.keys())))
        if unused:
            raise RequestError(f"modules that take no part in the forward pass: {unused}; name others")
        if not isinstance(logits, Tensor):
            raise RequestError(f"the network gives {_describe(logits)}; logits are one tensor (B, K)")
        return Features(
            stages=tuple(outputs[path] for path in self.stage_paths),
            preactivations=tuple(outputs[path] for path in preactivation_paths),
            embedding=inputs[self.classifier_path],
            logits=logits,
            classifier=self.linear_classifier(),
            of_tokens=self.stage_paths[-1] in (self.channels_last or ()),
        )

    def linear_classifier(self) -> Affine | None:
        """Return the classifier if it is the network's last linear layer."""
        return linear_of(self.network.get_submodule(self.classifier_path)) if self.ends_in_classifier else None

    def _maps(self, path: str, x: Tensor, output: Tensor) -> Tensor:
        """Return a module's output as maps (B, C, H, W), for images x."""
        if self.channels_last is None:
            return _in_one_size(path, output, x)
        return output.permute(0, 3, 1, 2) if path in self.channels_last else output

    def trunk(self) -> Sequence[nn.Module]:
        """Return the wrapped network's children, in order, up to the one that holds the last stage."""
        children = dict(self.network.named_children())
        last = self.stage_paths[-1].split(".")[0]
        return list(children.values())[: list(children).index(last) + 1]


def stages_by_resolution(network: nn.Module) -> tuple[str, ...]:
    """Return the paths of the modules that end a resolution: along the forward pass, the last output at each.

    The network's own children count, and the members of a sequence (`nn.Sequential`) that passes more than two
    resolutions. What lies within a block does not count, nor what does not follow the image's size, such as the output
    of a global pooling. A resolution is a new one if its height is less than `NEW` of that before it.

    Raises:
        RequestError: the network takes images of one size only, or none of its modules gives maps.
    """
    outputs = _examined(network, [path for path, _ in network.named_modules() if path])
    if outputs is None:
        sizes = " and ".join(f"{height}x{width}" for height, width in EXAMINED)
        raise RequestError(
            f"stages: it does not take images of both {sizes} pixels, which show where the resolution changes: name "
            "the modules whose outputs are the stages, stem first"
        )
    heights = {path: height for path, pair in outputs.items() if (height := _height(*pair)) is not None}
    ends: list[str] = []
    begun = math.inf  # the height at which the last stage begins
    for path in sorted(_steps(network, heights), key=list(heights).index):
        if heights[path] < NEW * begun:
            ends.append(path)
            begun = heights[path]
        else:
            ends[-1] = path
    if not ends:
        raise RequestError("stages: none of its modules gives maps (B, C, H, W) that grow with the image: name some")
    return tuple(ends)


def _steps(parent: nn.Module, heights: Mapping[str, int], path: str = "") -> Iterator[str]:
    """Yield the paths of the modules in which a network goes from resolution to resolution, as they are registered."""
    for name, child in parent.named_children():
        whole = f"{path}{name}"
        passed = {heights.get(f"{whole}.{member}") for member, _ in child.named_children()} - {None}
        if isinstance(child, nn.Sequential) and len(passed) > MOST_WITHIN:
            yield from _steps(child, heights, f"{whole}.")
        elif whole in heights:
            yield whole


def _channels_last(network: nn.Module, paths: Collection[str]) -> set[str] | None:
    """Return which modules give maps (B, H, W, C), or None if the network takes images of one size only.

    Only networks with a norm over the last dimension have such maps.
    """
    if not any(isinstance(module, nn.LayerNorm | nn.RMSNorm) for module in network.modules()):
        return set()
    outputs = _examined(network, paths)
    if outputs is None:
        return None
    return {path for path, (one, other) in outputs.items() if _changed(one, other) == LAST_STAYS}


def _examined(network: nn.Module, paths: Collection[str]) -> dict[str, tuple[Tensor, Tensor]] | None:
    """Return the outputs with 4 dimensions of modules for images of two sizes, without values, in the forward order.

    A module that is used several times is where it is used last. None if the network does not take both sizes.
    """
    channels = next((module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d)), 3)
    state = {name: value.to("meta") for name, value in (*network.named_parameters(), *network.named_buffers())}
    training = [module for module in network.modules() if module.training]
    found: list[dict[str, Tensor]] = []
    network.eval()
    try:
        with ExitStack() as hooks, torch.no_grad():
            for path in paths:
                keep = partial(_keep_output, found, path)
                hooks.enter_context(network.get_submodule(path).register_forward_hook(keep))
            for height, width in EXAMINED:
                found.append({})
                functional_call(network, state, torch.zeros(1, channels, height, width, device="meta"))
    except (RuntimeError, AssertionError, ValueError):
        return None
    finally:
        for module in training:
            module.training = True
    first, second = found
    return {path: (output, second[path]) for path, output in first.items() if path in second}


def _keep_output(found: list[dict[str, Tensor]], path: str, _: nn.Module, __: object, output: object) -> None:
    found[-1].pop(path, None)  # a dict keeps the place of the first use
    if isinstance(output, Tensor) and output.ndim == 4:
        found[-1][path] = output


def _changed(one: Tensor, other: Tensor) -> list[bool]:
    """Return which of the dimensions of two outputs differ."""
    return [a != b for a, b in zip(one.shape, other.shape, strict=True)]


def _height(one: Tensor, other: Tensor) -> int | None:
    """Return the height of a module's first maps, in either layout; None if its outputs do not grow with the image."""
    changed = _changed(one, other)
    if changed == FIRST_STAYS:
        return one.shape[2]
    return one.shape[1] if changed == LAST_STAYS else None


def _in_one_size(path: str, output: Tensor, x: Tensor) -> Tensor:
    """Return the maps (B, C, H, W) of a network that takes images of one size: their sides relate as the image's do.

    Raises:
        RequestError: they do so in both layouts, or in neither.
    """
    _, height, width, _ = output.shape
    ratio = x.shape[2] / x.shape[3]
    last = height / width == ratio
    first = output.shape[2] / output.shape[3] == ratio
    if first == last:
        a, b, c = output.shape[1:]
        raise RequestError(
            f"module '{path}' gives {_describe(output)}: either {a} channels of {b}x{c}, or {c} channels of {a}x{b}. "
            "The network takes images of one size only, so nothing shows which: name a module whose output has other "
            "sides"
        )
    return output.permute(0, 3, 1, 2) if last else output


def _output_keeper(path: str, outputs: dict[str, Tensor], as_maps: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """Return a forward hook that stores a module's output as maps (B, C, H, W) and passes a copy of it on."""

    def hook(_: nn.Module, __: object, output: Tensor) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 4:
            raise RequestError(f"module '{path}' gives {_describe(output)}; a stage is maps (B, C, H, W)")
        outputs[path] = as_maps(output)
        return output.clone()  # later modules may change it in place, as torchvision's ReLUs do

    return hook


def _input_keeper(path: str, inputs: dict[str, Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    """Return a forward hook that stores a module's first input and gives the module a copy."""

    def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        first, *others = arguments
        if first.ndim != 2:
            raise RequestError(f"the classifier '{path}' gets {_describe(first)}; an embedding is (B, D)")
        inputs[path] = first
        return first.clone(), *others  # a classifier's own dropout may change it in place

    return hook


def _linear_paths(network: nn.Module) -> list[str]:
    return [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]


def _last_linear(network: nn.Module) -> str:
    paths = _linear_paths(network)
    if not paths:
        raise RequestError("classifier: the network has no nn.Linear; name the module whose input is the embedding")
    return paths[-1]


def _siblings(path: str, modules: Mapping[str, nn.Module]) -> list[str]:
    """Return the paths of the modules next to a wrong path: the children of its last parent that exists."""
    parent = path.rpartition(".")[0]
    while parent not in modules:
        parent = parent.rpartition(".")[0]
    return [f"{parent}.{name}" if parent else name for name, _ in modules[parent].named_children()]


def _describe(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def drop_prefix(_: nn.Module, state: dict[str, Any], prefix: str, __: object) -> None:
    """Give the parts of a wrapped network, the submodule `network`, its own names in a state dict."""
    for name in [name for name in state if name.startswith(prefix + WRAPPED)]:
        state[prefix + name.removeprefix(prefix + WRAPPED)] = state.pop(name)


def add_prefix(_: nn.Module, state: dict[str, Any], prefix: str, *__: object) -> None:
    """Give them the names under which the wrapper has them, in a state dict that is loaded."""
    for name in [name for name in state if name.startswith(prefix)]:
        state[prefix + WRAPPED + name.removeprefix(prefix)] = state.pop(name)


def torchvision_network(name: str, num_classes: int, in_channels: int) -> nn.Module:
    """Return one of torchvision's classifiers, untrained.

    The first convolution is drawn again by PyTorch's default if the images do not have 3 channels.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise RequestError(f"unknown network 'torchvision.{name}'. {suggest(name, known)}")
    # with auxiliary logits, it would have three outputs in training
    single_output = {"aux_logits": False, "init_weights": True} if "inception" in name or name == "googlenet" else {}
    # RegNets compute their widths with tensors, which have no values on the device meta
    values = torch.device("cpu") if name.startswith("regnet") else nullcontext()
    device = torch.get_default_device()
    with values:
        network = models.get_model(name, weights=None, num_classes=num_classes, **single_output)
    network = network.to(device)
    if in_channels != 3:
        convolution = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
        shape = (convolution.out_channels, in_channels, *convolution.kernel_size)
        convolution.in_channels = in_channels
        convolution.weight = nn.Parameter(convolution.weight.new_empty(shape))
        convolution.reset_parameters()
    return network


def set_input(network: nn.Module, name: str, checkpoint: str) -> None:
    """Let a network see what torchvision's published weights were trained on, if it gets those.

    GoogLeNet's and Inception's expect another normalisation than that of the images, as torchvision sets by itself.

    Args:
        network: a `HookedNetwork`.
        name: that torchvision gives the classifier.
        checkpoint: the name of published weights, or a file's sha256.
    """
    from torchvision import models

    if hasattr(network.network, "transform_input"):
        published = models.get_model_weights(name).__members__
        sums = tuple(one.url.rpartition("-")[2].partition(".")[0] for one in published.values())
        network.network.transform_input = checkpoint in published or checkpoint.startswith(sums)


def known_weights(name: str, weights: str, classes: int | None = None) -> "WeightsEnum":
    """Return what torchvision says of the weights that it publishes for a classifier under a name.

    Raises:
        RequestError: it publishes none of that name, or they are for another number of classes.
    """
    from torchvision import models  # takes seconds, so only what needs it imports it

    known = models.get_model_weights(name).__members__
    if weights not in known:
        raise RequestError(f"weights: torchvision publishes no {weights!r} for {name}. {suggest(weights, known)}")
    theirs = len(known[weights].meta.get("categories", ()))
    if classes and theirs and classes != theirs:
        raise RequestError(
            f"weights: {weights} has {theirs} classes, the data {classes}: give a checkpoint trained on this data, "
            "or leave 'weights' out to train the network here"
        )
    return known[weights]


def published_weights(name: str, weights: str, folder: Path) -> Path:
    """Return the file of weights that torchvision publishes, downloaded if it is missing.

    The file's name ends in the first digits of its sha256.

    Raises:
        RequestError: the name is unknown, the download fails, or the file does not match its sha256.
    """
    url = known_weights(name, weights).url
    file = folder / url.rpartition("/")[2]
    if not file.exists():
        logger.info("downloading %s", file.name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), progress=False)
        except Exception as error:  # a download can fail in many ways
            raise RequestError(
                f"weights: looked for {file} and did not find it, and {url} cannot be downloaded "
                f"({' '.join(str(error).split())}). Put the file there, or name another folder with --data DIR"
            ) from error
    digits = file.stem.rpartition("-")[2]
    if not hashlib.sha256(file.read_bytes()).hexdigest().startswith(digits):
        raise RequestError(
            f"weights: {file} is not what torchvision publishes: its sha256 does not begin with {digits}"
        )
    return file
