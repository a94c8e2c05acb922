"""Parts that several networks share: groups that end in a ReLU, pooling, channel shuffle, initial weights."""

import torch.nn.functional as F
from torch import Tensor, nn


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
