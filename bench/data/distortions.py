"""Strong distortions of images, for methods that read a second view of each image."""

import torch
from torch import Tensor
from torchvision.transforms.v2 import RandAugment

OPERATIONS = 2  # of torchvision's 14, one after the other
STRENGTHS = [RandAugment(num_ops=1, magnitude=magnitude) for magnitude in range(31)]  # all that torchvision has
CUT = 0.5  # greatest side of the square that is cut out, as a share of the image's width
GREY = 127  # that fills the square


def distorted(images: Tensor, seeds: Tensor) -> Tensor:
    """Return each image after two random operations of random strength, with a square of random size cut out.

    MLLD's code does the same with the operations of FixMatch. Those of torchvision's RandAugment are the same 14; the
    greatest strength of some is another (images are moved by up to 45 % of their width, not 30 %).

    Args:
        images: (B, 3, H, W) uint8.
        seeds: (B,) int64 on the CPU; all random choices for an image depend on its seed alone.
    """
    with torch.random.fork_rng(devices=[]):
        return torch.stack([_distorted(image, seed) for image, seed in zip(images, seeds.tolist(), strict=True)])


def _distorted(image: Tensor, seed: int) -> Tensor:
    torch.default_generator.manual_seed(seed)
    for strength in torch.randint(len(STRENGTHS), (OPERATIONS,)).tolist():
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
