"""Adapters that several methods share: pooling to a common size, and small networks between features."""

import torch.nn.functional as F
from torch import Tensor, nn

LEAK = 0.1  # slope of the leaky ReLUs in FT's two networks


def match(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return maps (B, C_s, H_s, W_s) and (B, C_t, H_t, W_t), the higher one average-pooled to the other's size."""
    (h_s, w_s), (h_t, w_t) = student.shape[2:], teacher.shape[2:]
    if (h_s, w_s) > (h_t, w_t):  # compares heights, and widths where the heights are equal
        return F.adaptive_avg_pool2d(student, (h_t, w_t)), teacher
    if (h_s, w_s) < (h_t, w_t):
        return student, F.adaptive_avg_pool2d(teacher, (h_s, w_s))
    return student, teacher


def unmappable(student: tuple[int, int, int], teacher: tuple[int, int, int]) -> str | None:
    """Return why `regressor` cannot map a student's (C, H, W) to a teacher's, or None if it can."""
    (_, height, width), (_, t_height, t_width) = student, teacher
    if (2 * height, 2 * width) == (t_height, t_width) or (height >= t_height and width >= t_width):
        return None
    return f"no regressor maps {height}x{width} to {t_height}x{t_width}: it halves, doubles or trims a map"


def regressor(student: tuple[int, int, int], teacher: tuple[int, int, int], relu: bool = True) -> nn.Sequential:
    """Return one convolution with batch norm that maps a student's (C, H, W) to a teacher's.

    Args:
        student: shape of the input maps.
        teacher: shape of the output maps.
        relu: whether a ReLU follows the norm (FitNet) or not (AB, whose targets have both signs).

    Raises:
        ValueError: the sizes cannot be mapped; see `unmappable`.
    """
    if reason := unmappable(student, teacher):
        raise ValueError(reason)
    (channels, height, width), (t_channels, t_height, t_width) = student, teacher
    convolution: nn.Module
    if (height, width) == (2 * t_height, 2 * t_width):
        convolution = nn.Conv2d(channels, t_channels, 3, stride=2, padding=1)
    elif (2 * height, 2 * width) == (t_height, t_width):
        convolution = nn.ConvTranspose2d(channels, t_channels, 4, stride=2, padding=1)
    else:
        convolution = nn.Conv2d(channels, t_channels, (1 + height - t_height, 1 + width - t_width))
    return nn.Sequential(convolution, nn.BatchNorm2d(t_channels), *([nn.ReLU()] if relu else []))


class Paraphraser(nn.Module):
    """FT's teacher side: an autoencoder with half the channels in the middle. Height and width never change."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.encoder, self.decoder = nn.Sequential(), nn.Sequential()
        for before, after in ((channels, channels), (channels, half), (half, half)):
            self.encoder.extend([nn.Conv2d(before, after, 3, padding=1), nn.LeakyReLU(LEAK)])
        for before, after in ((half, half), (half, channels), (channels, channels)):
            self.decoder.extend([nn.ConvTranspose2d(before, after, 3, padding=1), nn.LeakyReLU(LEAK)])

    def forward(self, features: Tensor) -> Tensor:
        """Return the reconstruction (B, C, H, W) of maps (B, C, H, W)."""
        return self.decoder(self.encoder(features))


def translator(student_channels: int, teacher_channels: int) -> nn.Sequential:
    """Return FT's student side: maps (B, C_s, H, W) to (B, C_t / 2, H, W), the encoder's number of channels."""
    half = teacher_channels // 2
    widths = [(student_channels, student_channels), (student_channels, half), (half, half)]
    layers: list[nn.Module] = []
    for before, after in widths:
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.LeakyReLU(LEAK)]
    return nn.Sequential(*layers)
