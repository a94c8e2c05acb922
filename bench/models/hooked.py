"""Any classifier as a network of this benchmark: forward hooks read the outputs of the modules that are its stages.

    build("torchvision.resnet18", num_classes=10, stages=["relu", "layer1", "layer2", "layer3", "layer4"])

Without `stages`, `resolution` finds the modules; here, it finds the same. Modules are named by their path, as in
`named_modules()`. The state dict keeps the wrapped network's own names.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import Tensor, nn

from bench.models.base import Network
from bench.models.parts import linear_of
from bench.models.resolution import channels_last, stages_by_resolution
from bench.types import Affine, Features, RequestError, suggest

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
        self.channels_last = channels_last(network, {*self.stage_paths, *self.preactivation_paths})

    def features(self, x: Tensor, preactivations: bool = False) -> Features:
        """Return the features of images (B, C, H, W), from the named modules.

        Stages count as tokens where modules give them as (B, H, W, C), as Swin's do.

        Raises:
            RequestError: a named module does not output maps, has no flat input, or is not used in the forward pass, or
                the stages are named in another order than the network computes them.
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
        if (order := [path for path in outputs if path in self.stage_paths]) != list(self.stage_paths):
            raise RequestError(f"stages: the network computes them in another order: name {', '.join(order)}")
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


def _in_one_size(path: str, output: Tensor, x: Tensor) -> Tensor:
    """Return the maps (B, C, H, W) of a network that takes images of one size.

    The layout is the one in which the ratio of the sides is the image's.

    Raises:
        RequestError: that is so in both layouts, or in neither.
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
        outputs.pop(path, None)  # so that paths are in the order of their last calls
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
    """Remove the prefix of the wrapped network, the submodule `network`, from the names in a state dict."""
    for name in [name for name in state if name.startswith(prefix + WRAPPED)]:
        state[prefix + name.removeprefix(prefix + WRAPPED)] = state.pop(name)


def add_prefix(_: nn.Module, state: dict[str, Any], prefix: str, *__: object) -> None:
    """Add the prefix again to the names in a state dict that is loaded."""
    for name in [name for name in state if name.startswith(prefix)]:
        state[prefix + WRAPPED + name.removeprefix(prefix)] = state.pop(name)
