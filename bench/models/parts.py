"""Parts that several networks share: the forward pass by stages, groups that end in a ReLU, initial weights."""

from collections.abc import Callable, Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.base import Network
from bench.types import Affine, Features


class StagedNetwork(Network):
    """A network of stages in sequence whose last child is the classifier.

    A subclass is constructed with the number of classes, the channels of the images, and its own keyword arguments.
    """

    def staged(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each stage of images (B, C, H, W) and its pre-activation, both (B, C', H', W'), stem first.

        Here, the trunk is a convolution, its norm, and a `ReluGroup` per stage; the stem is its own pre-activation.
        """
        convolution, norm, *groups = self.trunk()
        stage = F.relu(norm(convolution(x)))
        yield stage, stage
        for group in groups:
            stage, before = group(stage)
            yield stage, before

    def trunk(self) -> Sequence[nn.Module]:
        """Return the stem (`conv1`, `bn1`) and the groups (`layer...` or `block...`), those that the network has."""
        return [module for name, module in self.named_children() if name.startswith(("conv1", "bn1", "layer", "block"))]

    def final_map(self, stage: Tensor, preactivation: Tensor) -> Tensor:
        """Return the map (B, D, H, W) whose mean is the embedding, of the last stage and its pre-activation."""
        return stage

    def norms(self) -> Sequence[nn.Module]:
        """Return the norms that make the pre-activations of all stages but the stem; none if no single norm does."""
        return ()

    def linear_classifier(self) -> Affine | None:
        """Return the last child if it is one linear layer."""
        *_, classifier = self.children()
        return linear_of(classifier)

    def features(self, x: Tensor, preactivations: bool = False) -> Features:
        """Return the features of images (B, C, H, W)."""
        stages, before = zip(*self.staged(x), strict=True)
        final = self.final_map(stages[-1], before[-1])
        embedding = pooled(final)
        *_, classifier = self.children()
        return Features(
            stages=stages,
            preactivations=before if preactivations else (),
            embedding=embedding,
            logits=classifier(embedding),
            final=final,
            classifier=self.linear_classifier(),
            norms=tuple(map(affine, self.norms())) if preactivations else (),
        )


class ReluGroup(nn.Sequential):
    """Blocks without their last ReLU, which runs here so that the group can also return its pre-activation."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the group's output and its output before the last activation, both (B, C, H, W)."""
        for block in self:
            before = block(x)
            x = self.activate(before)
        return x, before

    def activate(self, before: Tensor) -> Tensor:
        """Return the activation that follows each block, same shape; not in place, since `before` may be returned."""
        return F.relu(before)


def group(
    block: Callable[[int, int, int], nn.Module], in_channels: int, channels: int, blocks: int, stride: int
) -> ReluGroup:
    """Return `blocks` blocks, each made of (channels before, channels after, stride); the first changes the shape."""
    return ReluGroup(block(in_channels, channels, stride), *(block(channels, channels, 1) for _ in range(blocks - 1)))


def projection(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    """Return a residual block's shortcut: a 1x1 convolution with norm, or the identity if no shape changes."""
    if stride == 1 and in_channels == channels:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))


def linear_of(classifier: nn.Module) -> Affine | None:
    """Return a classifier's weight and bias if it is one linear layer."""
    if isinstance(classifier, nn.Sequential) and len(classifier) == 1:
        return linear_of(classifier[0])
    return affine(classifier) if isinstance(classifier, nn.Linear) else None


def affine(layer: nn.Module) -> Affine:
    """Return the weight and the bias of a linear layer or a norm."""
    assert isinstance(layer, nn.Linear | nn.BatchNorm2d)
    return Affine(layer.weight, layer.bias)


def last_norm(module: nn.Module) -> nn.Module:
    """Return the last of a module's norms, in the order in which they are registered."""
    return [one for one in module.modules() if isinstance(one, nn.BatchNorm2d)][-1]


def pooled(x: Tensor) -> Tensor:
    """Return the mean over all positions: (B, C) of maps (B, C, H, W) of any size."""
    return x.mean(dim=(2, 3))


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Return maps (B, C, H, W) whose channels are interleaved from `groups` equal parts."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def draw_convolutions(network: nn.Module) -> None:
    """Draw convolution weights from a normal with std sqrt(2 / (k * k * out)), Kaiming's fan-out; biases are zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def draw_linear(linear: nn.Linear) -> None:
    """Draw a classifier's weights from a normal with std 0.01; its bias is zero."""
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
