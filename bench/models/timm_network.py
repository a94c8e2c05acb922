"""Any of timm's classifiers as a network of this benchmark, by its name: `timm.NAME`, or `timm.NAME.TAG`.

    build("timm.vit_tiny_patch16_224", num_classes=10, image_size=(32, 32))

Stages are maps of timm's own `forward_intermediates`, channels first. Tokens become maps, without class and other
prefix tokens; class tokens are given beside the maps. The state dict has timm's names. The package is an extra of this
project: `[timm]`.
"""

import copy
import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from bench.models.base import Network
from bench.models.hooked import add_prefix, drop_prefix
from bench.models.parts import linear_of
from bench.models.timm_names import TIMM, check_installed
from bench.types import Affine, Features, RequestError, did_you_mean, suggest

QUARTERS = 4  # stages of a network whose maps all have one resolution, such as ViT


class TimmNetwork(Network):
    """One of timm's classifiers, read by `forward_intermediates` and `forward_head`.

    Args:
        model: timm's network, for images of `image_size` pixels if it takes one size only.
        stages: indices of the maps of `forward_intermediates`, ascending; by default those of `stage_indices`.
        in_channels: channels of the images.
        image_size: (height, width) of images that it takes.

    Raises:
        RequestError: timm gives no features of this network, or an index is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        stages: Sequence[int] = (),
        in_channels: int = 3,
        image_size: tuple[int, int] = (224, 224),
    ) -> None:
        super().__init__()
        self.network: Any = model  # timm's networks share methods, but no class that states them
        self.register_state_dict_post_hook(drop_prefix)
        self.register_load_state_dict_pre_hook(add_prefix)
        self.image = (1, in_channels, *image_size)
        self.indices = list(stages) or stage_indices(model)
        if wrong := [index for index in self.indices if index not in range(len(_reductions(model)))]:
            raise RequestError(f"stages: there is no {wrong[0]}: timm gives 0 to {len(_reductions(model)) - 1}")
        if self.indices != sorted(set(self.indices)):
            raise RequestError(f"stages: {self.indices}: name each once, in ascending order")
        self.is_mean = _pools_by_mean(model)
        self.has_class_tokens = _gives_class_tokens(model)

    @property
    def classifier(self) -> nn.Linear | None:
        """Return the linear layer that gives the logits; None if it is another module, or several."""
        classifier = self.network.get_classifier()
        return classifier if isinstance(classifier, nn.Linear) else None

    def linear_classifier(self) -> Affine | None:
        """Return the linear layer from embedding to logits; None if it is another module, or several."""
        return linear_of(self.classifier) if self.classifier else None

    def features(self, x: Tensor, preactivations: bool = False) -> Features:
        """Return the features of images (B, C, H, W); the stages stand in for pre-activations.

        The embedding is the classifier's input, or what timm calls the features before the logits if there are several
        classifiers. `final` is only given where its mean over positions is the embedding. Stages count as tokens where
        timm's own features are (B, N, C) or (B, H, W, C).
        """
        class_tokens: Sequence[Tensor] = ()
        if self.has_class_tokens:
            last, staged = self.network.forward_intermediates(x, indices=self.indices, return_prefix_tokens=True)
            stages, class_tokens = zip(*((grid, prefix[:, 0]) for grid, prefix in staged), strict=True)
        else:
            last, stages = self.network.forward_intermediates(x, indices=self.indices)
        classifier = self.classifier
        embedding, logits = self._head(last, classifier)
        final = self._map(last, stages[-1]) if self.is_mean and classifier else None
        return Features(
            stages=tuple(stages),
            preactivations=tuple(stages) if preactivations else (),
            embedding=embedding,
            logits=logits,
            final=final if final is not None and final.shape[1] == embedding.shape[1] else None,
            classifier=self.linear_classifier(),
            of_tokens=last.ndim == 3 or self._is_channels_last,
            class_tokens=tuple(class_tokens),
        )

    @property
    def _is_channels_last(self) -> bool:
        """Return whether timm's features are (B, H, W, C), as those of Swin are."""
        return getattr(self.network, "output_fmt", "NCHW") == "NHWC"

    def _head(self, last: Tensor, classifier: nn.Linear | None) -> tuple[Tensor, Tensor]:
        """Return embedding (B, D) and logits (B, K) of timm's features."""
        if classifier is None:
            return self.network.forward_head(last, pre_logits=True).flatten(1), self.network.forward_head(last)
        inputs: list[Tensor] = []
        keep = classifier.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
        try:
            logits = self.network.forward_head(last)
        finally:
            keep.remove()
        if len(inputs) != 1 or inputs[0].ndim != 2:
            raise RequestError("the classifier of timm's network does not take one embedding (B, D)")
        return inputs[0], logits

    def _map(self, last: Tensor, stage: Tensor) -> Tensor | None:
        """Return timm's features as a map (B, D, H, W); None if they are tokens of another grid than the last stage."""
        if last.ndim == 4:
            return last.permute(0, 3, 1, 2) if self._is_channels_last else last
        height, width = stage.shape[-2:]
        tokens = last[:, getattr(self.network, "num_prefix_tokens", 0) :]
        return tokens.transpose(1, 2).unflatten(2, (height, width)) if tokens.shape[1] == height * width else None

    def trunk(self) -> Sequence[nn.Module]:
        """Return the children of timm's network that take part in the forward pass up to the last stage, in order."""
        twin = copy.deepcopy(self.network).to("meta")
        called: set[str] = set()
        for name, child in twin.named_children():
            for module in child.modules():
                module.register_forward_pre_hook(lambda *_, name=name: called.add(name))
        twin.eval().forward_intermediates(
            torch.zeros(self.image, device="meta"), indices=self.indices, stop_early=True, intermediates_only=True
        )
        return [child for name, child in self.network.named_children() if name in called]


def stage_indices(model: nn.Module) -> list[int]:
    """Return the index of the last map at each resolution, of the maps that timm lists for a network.

    If all have one resolution, as those of ViT or Mixer, the stages end after each quarter of them.
    """
    reductions = _reductions(model)
    count = len(reductions)
    if len(set(reductions)) > 1:
        return [i for i in range(count) if i + 1 == count or reductions[i + 1] != reductions[i]]
    stages = min(QUARTERS, count)
    return [round(count * (i + 1) / stages) - 1 for i in range(stages)]


def _reductions(model: nn.Module) -> list[int]:
    """Return how many times smaller than the image each map of a network is, as timm states it."""
    listed: Any = model.feature_info
    return [one["reduction"] for one in getattr(listed, "info", listed)]


def _gives_class_tokens(model: Any) -> bool:  # noqa: ANN401
    """Return whether timm gives a class token, as the first of its prefix tokens, next to each map."""
    has_one = getattr(model, "cls_token", None) is not None
    return has_one and "return_prefix_tokens" in inspect.signature(model.forward_intermediates).parameters


def _pools_by_mean(model: Any) -> bool:  # noqa: ANN401
    """Return whether timm's features are averaged over positions, and only the classifier's weights follow."""
    head = getattr(model, "head", None)
    pool = getattr(head, "global_pool", None) or getattr(model, "global_pool", None)
    names = ["fc_norm"] if hasattr(model, "bn2") else ["fc_norm", "conv_head"]  # EfficientNet pools after both
    between = [model.get_submodule(name) for name in names if hasattr(model, name)]
    between += [] if head is None else [one for name, one in head.named_children() if name in ("norm", "pre_logits")]
    has_weights = any(True for module in between for _ in module.parameters())
    return (pool if isinstance(pool, str) else getattr(pool, "pool_type", None)) == "avg" and not has_weights


def timm_network(
    name: str,
    num_classes: int,
    in_channels: int = 3,
    image_size: tuple[int, int] = (224, 224),
    stages: Sequence[int] = (),
    pretrained: bool = False,
) -> TimmNetwork:
    """Return one of timm's classifiers.

    Args:
        name: as timm has it, with or without a tag of weights.
        num_classes: K, the number of logits.
        in_channels: channels of the images.
        image_size: (height, width) of the images; a network that takes images of one size is built for it.
        stages: see `TimmNetwork`.
        pretrained: whether timm's loader gives the weights, downloaded if they are missing; else they are drawn.

    Raises:
        RequestError: timm is missing, has no such network, or cannot build it so.
    """
    check_installed(TIMM + name)
    import timm

    if not timm.is_model(name):
        known = sorted(timm.list_models())
        raise RequestError(f"unknown network 'timm.{name}'. {did_you_mean(name, known)}timm has {len(known)}")
    settings: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_channels, "pretrained": pretrained}
    try:
        model = timm.create_model(name, img_size=image_size, **settings)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        model = timm.create_model(name, **settings)  # one that takes images of any size
    if not hasattr(model, "forward_intermediates"):
        raise RequestError(f"timm.{name}: timm gives no features of this network (forward_intermediates)")
    return TimmNetwork(model, stages, in_channels, image_size)


def known_tag(name: str, weights: str | None = None) -> str:
    """Return the tag of weights that timm publishes for a network: `weights`, or its default if None.

    Raises:
        RequestError: there is no such network, or no such weights.
    """
    import timm

    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        raise RequestError(f"unknown network 'timm.{base}'")
    known = [one.partition(".")[2] for one in timm.list_pretrained(base)]
    default = getattr(timm.get_pretrained_cfg(base), "tag", None)
    wanted = weights or tag or default
    if not wanted or wanted not in known:
        raise RequestError(f"weights: timm publishes no {wanted!r} for {base}. {suggest(str(wanted), known)}")
    return wanted


def published_weights(
    name: str, tag: str, num_classes: int, in_channels: int, image_size: tuple[int, int], folder: Path
) -> Path:
    """Return a file of weights that timm publishes, adapted to classes and images by timm's loader.

    The loader downloads the weights if the file is missing.

    Args:
        name: of the network, as timm has it.
        tag: of the weights.
        num_classes: of the data; timm draws a new classifier if the weights have another number.
        in_channels: of the images.
        image_size: (height, width) of the images.
        folder: where the file is kept.

    Raises:
        RequestError: the download fails.
    """
    base, (height, width) = name.partition(".")[0], image_size
    file = folder / f"timm-{base}.{tag}-{num_classes}x{in_channels}x{height}x{width}.safetensors"
    if not file.exists():
        try:
            network = timm_network(f"{base}.{tag}", num_classes, in_channels, image_size, pretrained=True)
        except RequestError:
            raise
        except Exception as error:  # a download can fail in many ways
            raise RequestError(
                f"weights: looked for {file} and did not find it, and timm cannot load {base}.{tag} "
                f"({' '.join(str(error).split())[:200]}). Put the file there, or name another folder with --data DIR"
            ) from error
        folder.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f"{file.name}.{os.getpid()}.part")  # an interrupted download leaves no file of that name
        safetensors.torch.save_file({key: value.contiguous() for key, value in network.state_dict().items()}, part)
        part.replace(file)
    return file
