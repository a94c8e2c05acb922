"""Mixes the images of a batch with one another: mixup and cutmix, as timm's `Mixup` does for whole batches.

Mixup: Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018. Cutmix: Yun et al., CutMix: Regularization
Strategy to Train Strong Classifiers with Localizable Features, ICCV 2019.
"""

import math
import random
from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn import functional as F

from bench.schedule import Recipe
from bench.types import Batch


@dataclass(frozen=True)
class Mix:
    """How each image of a batch is mixed with its partner: image i with image B - 1 - i."""

    share: float  # of the image itself, in [0, 1]; the partner has the rest
    box: tuple[int, int, int, int] | None = None  # top, bottom, left and right of the partner's part; None for mixup

    def images(self, images: Tensor) -> Tensor:
        """Return mixed images (B, C, H, W), float."""
        partners = images.flip(0)
        if self.box is None:
            return images.lerp(partners, 1 - self.share)
        top, bottom, left, right = self.box
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
        return mixed

    def labels(self, targets: Tensor, classes: int) -> Tensor:
        """Return the labels of mixed images, (B, K) float32 whose rows sum to 1; targets are (B,) class indices."""
        labels = F.one_hot(targets, classes).float()
        return labels.lerp(labels.flip(0), 1 - self.share)


def mixed(batch: Batch, mix: Mix, classes: int) -> Batch:
    """Return a labelled batch with mixed images; the student's and the teacher's views are mixed in the same way.

    `targets` has each image's class with the largest share. Indices are those of the images themselves.
    """
    assert batch.targets is not None  # a suite mixes images with labels only
    images = mix.images(batch.images)
    return replace(
        batch,
        images=images,
        teacher_images=images if batch.teacher_images is batch.images else mix.images(batch.teacher_images),
        targets=batch.targets if mix.share >= 0.5 else batch.targets.flip(0),
        soft_targets=mix.labels(batch.targets, classes),
    )


def draw_mix(recipe: Recipe, size: tuple[int, int], seed: int) -> Mix:
    """Return a batch's mix, which depends on the seed alone.

    The share has the distribution Beta(a, a), with a the recipe's `mixup` or `cutmix`. Cutmix's box has the image's
    ratio and the area 1 - share. Its middle is drawn from the whole image; the part outside is cut off, and the share
    is that of the remaining box.

    Args:
        recipe: with mixup, cutmix or both, one of which is then drawn with equal chance.
        size: (height, width) of the images in pixels.
        seed: of all draws.
    """
    chance = random.Random(seed)
    cuts = recipe.cutmix is not None and (recipe.mixup is None or chance.random() < 0.5)
    parameter = recipe.cutmix if cuts else recipe.mixup
    assert parameter is not None  # the caller has asked whether the recipe mixes
    share = chance.betavariate(parameter, parameter)
    if not cuts:
        return Mix(share)
    side = math.sqrt(1 - share)
    bounds = []
    for length in size:
        part, middle = int(length * side), chance.randrange(length)
        bounds += [max(middle - part // 2, 0), min(middle + (part + 1) // 2, length)]
    top, bottom, left, right = bounds
    return Mix(1 - (bottom - top) * (right - left) / (size[0] * size[1]), (top, bottom, left, right))
