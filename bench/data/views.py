"""What a network sees of an image: all of it, or a part such as its luminance, chrominance or depth."""

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.spec import DataSpec

XYZ_OF_RGB = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
D65_WHITE = (0.95047, 1.0, 1.08883)


class ViewTransform:
    """Converts stored images to a network's normalised view of them.

    Colours are read as sRGB in [0, 1]; L, a and b are those of CIE Lab, L from 0 to 100; depth keeps its stored unit.
    """

    def __init__(self, spec: DataSpec, device: torch.device) -> None:
        self.name = spec.view
        self.mean = torch.tensor(spec.mean, device=device).view(1, -1, 1, 1)
        self.std = torch.tensor(spec.std, device=device).view(1, -1, 1, 1)

    def __call__(self, stored: Tensor) -> Tensor:
        """Return float32 images (B, C, H, W), channels last in memory, of stored ones (B, 3 or 4, H, W)."""
        return ((self._part(stored) - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def _part(self, stored: Tensor) -> Tensor:
        if self.name == "depth":
            return stored[:, 3:].float()
        colours = stored[:, :3].float() / 255
        if self.name is None:
            return colours
        lab = lab_of_srgb(colours)
        return lab[:, :1] if self.name == "luminance" else lab[:, 1:]


def lab_of_srgb(colours: Tensor) -> Tensor:
    """Return CIE Lab (B, 3, H, W), L from 0 to 100, of sRGB colours (B, 3, H, W) in [0, 1].

    sRGB is that of IEC 61966-2-1, Lab that of CIE 15 (1976) with the white D65 and the 2 degree observer. Operations
    and rounded constants are taken from kornia 0.9.
    """
    linear = torch.where(colours > 0.04045, ((colours + 0.055) / 1.055).pow(2.4), colours / 12.92)
    matrix = torch.tensor(XYZ_OF_RGB, device=colours.device)
    if colours.is_cuda:
        xyz = F.conv2d(linear, matrix[:, :, None, None])
    else:
        xyz = torch.einsum("oi,bihw->bohw", matrix, linear).contiguous()
    xyz = xyz / torch.tensor(D65_WHITE, device=colours.device).view(3, 1, 1)
    x, y, z = torch.where(xyz > 0.008856, xyz.clamp(min=0.008856).pow(1 / 3), 7.787 * xyz + 4 / 29).unbind(dim=1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)
