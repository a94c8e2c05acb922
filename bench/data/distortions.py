"""Strong augmentations: a recipe's RandAugment and random erasing, and the second view that some methods read."""

import math
import random

import torch
from torch import Tensor
from torchvision.transforms.v2 import RandAugment

OPERATIONS = 2  # of torchvision's 14, one after the other
STRENGTHS = [RandAugment(num_ops=1, magnitude=magnitude) for magnitude in range(31)]  # all that torchvision has
CUT = 0.5  # greatest side of the square that is cut out, as a share of the image's width
GREY = 127  # that fills the square


def distorted(images: Tensor, seeds: Tensor, operations: int = OPERATIONS) -> Tensor:
    """Return each image after random operations of random strength, with a square of random size cut out.

    MLLD's code does the same with the operations of FixMatch. torchvision's RandAugment has the same 14 operations,
    but the greatest strength of some differs: it moves images by up to 45 % of their width, FixMatch by 30 %.

    Args:
        images: (B, 3, H, W) uint8.
        seeds: (B,) int64 on the CPU; all random choices for an image depend on its seed alone.
        operations: how many, one after the other.
    """
    places = zip(images, seeds.tolist(), strict=True)
    with torch.random.fork_rng(devices=[]):
        return torch.stack([_distorted(image, seed, operations) for image, seed in places])


def _distorted(image: Tensor, seed: int, operations: int) -> Tensor:
    torch.default_generator.manual_seed(seed)
    for strength in torch.randint(len(STRENGTHS), (operations,)).tolist():
        image = STRENGTHS[strength](image)
    height, width = image.shape[1:]
    share, middle_y, middle_x = torch.rand(3).tolist()
    half = CUT * share * width / 2
    (top, bottom), (left, right) = (
        (round(max(0, middle - half)), round(middle + half)) for middle in (middle_y * height, middle_x * width)
    )
    image = image.clone()  # an operation may have returned the image itself
    image[:, top:bottom, left:right] = GREY
    return image


def randaugmented(images: Tensor, seeds: Tensor, strength: float, deviation: float) -> Tensor:
    """Return each image after two random operations, each of a strength drawn anew.

    Strengths are drawn from a normal distribution and limited to 0 to 10, as in timm's `rand-m9-mstd0.5`. 10 stands for
    torchvision's greatest strength, and they are rounded to its 31 strengths. The 14 operations and their greatest
    strengths are torchvision's, not timm's.

    Args:
        images: (B, 3, H, W) uint8.
        seeds: (B,) int64 on the CPU; all random choices for an image depend on its seed alone.
        strength: the mean, 0 to 10.
        deviation: the standard deviation, at least 0.
    """

    def of(image: Tensor, seed: int) -> Tensor:
        torch.default_generator.manual_seed(seed)
        for drawn in (strength + deviation * torch.randn(OPERATIONS)).clamp(0, 10).tolist():
            image = STRENGTHS[round(drawn / 10 * (len(STRENGTHS) - 1))](image)
        return image

    with torch.random.fork_rng(devices=[]):
        return torch.stack([of(image, seed) for image, seed in zip(images, seeds.tolist(), strict=True)])


def erased(images: Tensor, seeds: Tensor, chance: float) -> Tensor:
    """Return images in which, with some chance, a rectangle is normal noise (mean 0, deviation 1), as timm's `pixel`.

    Zhong et al., Random Erasing Data Augmentation, AAAI 2020. The rectangle has 1/50 to 1/3 of the image's area and a
    ratio of 0.3 to 1/0.3. One that does not fit is drawn again, up to ten times.

    Args:
        images: (B, C, H, W) float, normalised.
        seeds: (B,) int64 on the CPU; all random choices for an image depend on its seed alone.
        chance: 0 to 1.
    """
    images = images.clone()
    height, width = images.shape[2:]
    for image, seed in zip(images, seeds.tolist(), strict=True):
        drawn = random.Random(seed)
        if drawn.random() >= chance:
            continue
        for _ in range(10):
            area = drawn.uniform(1 / 50, 1 / 3) * height * width
            ratio = math.exp(drawn.uniform(math.log(0.3), -math.log(0.3)))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if h < height and w < width:
                top, left = drawn.randint(0, height - h), drawn.randint(0, width - w)
                noise = torch.randn(len(image), h, w, generator=torch.Generator().manual_seed(seed))
                image[:, top : top + h, left : left + w] = noise.to(image.device)
                break
    return images
