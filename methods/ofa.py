"""OFA: one for all, distillation between networks of different families.

Paper:   Hao, Guo, Han, Tang, Hu, Wang and Xu, One-for-All: Bridge the Gap Between Heterogeneous Architectures in
         Knowledge Distillation, NeurIPS 2023.
Family:  logits.
Formula: loss = term(s) + h * sum over heads of term(head), with p(z) = softmax(z / T), y the target as a one-hot row,
         term(z) = mean over the batch of sum over classes of -((p(t) + y)^e - y) * log p(z).
         Heads 1..n give logits of the student's last n = 4 stages, or of all if it has fewer; i is the stage.
         CNN: n - i times depthwise 3x3 of stride 2, conv1x1, norm, ReLU, depthwise 3x3, conv1x1, norm, ReLU; channels
         double each time, the last time they become D, the larger of both embeddings' widths. For i = n, conv1x1 to D.
         Then the mean over positions, and a linear layer.
         Tokens: 2x2 of them are merged (norm, linear, GELU) as often as their grid halves to 7; then max(n - i, 1)
         transformer blocks with 4 heads, and a linear layer of the class token, or of the tokens' mean without one.
Reads:   logits of both networks, the student's last four stages, and the targets. Owns the heads, trained.
Weight:  1, with h = e = T = 1, as in the authors' code; their example, DeiT-T to ResNet-18, has e = 1.5. Not verified:
         that they search e from 1 to 1.5 for each pair; that norms come first in the transformer blocks, whose inner
         width is 4 times that of the tokens.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from bench.types import Batch, DataInfo, Features, Shapes
from methods.base import Distiller, register, same_classes

STAGES = 4  # that have a head, from the last one
ATTENTION = 4  # attention heads of a transformer block
GRID = 7  # height and width to which grids of tokens are merged


def term(logits: Tensor, teacher: Tensor, targets: Tensor, epsilon: float, temperature: float) -> Tensor:
    """Return the formula's term of logits and the teacher's (B, K), and targets (B,): scalar, mean over the batch."""
    y = F.one_hot(targets, logits.shape[1])
    wanted = (F.softmax(teacher / temperature, dim=1) + y) ** epsilon - y
    return F.cross_entropy(logits / temperature, wanted)


def map_head(channels: int, halvings: int, width: int, classes: int) -> nn.Sequential:
    """Return a head from maps (B, channels, H, W), halved so often, over `width` channels to logits (B, classes)."""
    layers: list[nn.Module] = [] if halvings else [nn.Conv2d(channels, width, 1, bias=False)]
    for left in reversed(range(halvings)):
        out = 2 * channels if left else width
        for stride, after in ((2, channels), (1, out)):
            layers.append(nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False))
            layers += [nn.Conv2d(channels, after, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


class TokenHead(nn.Module):
    """A head of a grid of tokens (B, C, H, W) and, if there is one, its class token (B, C)."""

    def __init__(self, stage: tuple[int, int, int], depth: int, classes: int) -> None:
        super().__init__()
        width, *sides = stage
        merges = max(0, int(math.log2(min(sides) / GRID)))
        merge = [(nn.LayerNorm(4 * width), nn.Linear(4 * width, width, bias=False), nn.GELU()) for _ in range(merges)]
        self.merges = nn.ModuleList(nn.Sequential(*layers) for layers in merge)
        block = partial(nn.TransformerEncoderLayer, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        self.blocks = nn.Sequential(*(block(width, ATTENTION, 4 * width) for _ in range(depth)))
        self.classifier = nn.Linear(width, classes)

    def forward(self, grid: Tensor, class_token: Tensor | None = None) -> Tensor:
        """Return logits (B, K)."""
        for merge in self.merges:
            even = F.pad(grid, (0, grid.shape[3] % 2, 0, grid.shape[2] % 2))  # an odd side gets zeros at its end
            grid = merge(F.pixel_unshuffle(even, 2).movedim(1, -1)).movedim(-1, 1)
        tokens = grid.flatten(2).transpose(1, 2)
        if class_token is None:
            return self.classifier(self.blocks(tokens).mean(dim=1))
        return self.classifier(self.blocks(torch.cat([class_token[:, None], tokens], dim=1))[:, 0])


def initialise(module: nn.Module) -> None:
    """Draw a module's own weights as the authors do."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.MultiheadAttention):
        nn.init.trunc_normal_(module.in_proj_weight, std=0.02)


@register("ofa", weight=1.0, space={"epsilon": {"linear": [1.0, 1.5]}, "temperature": {"log": [0.5, 4]}})
class OFA(Distiller):
    needs_targets = True
    observes: ClassVar[tuple[str, ...]] = ("output", "heads")  # the latter summed, without their factor h

    def __init__(
        self,
        student: Shapes,
        teacher: Shapes,
        data: DataInfo,
        *,
        epsilon: PositiveFloat = 1.0,
        temperature: PositiveFloat = 1.0,
        head_weight: NonNegativeFloat = 1.0,
    ) -> None:
        """Build the heads.

        Args:
            student: shapes of the student's features.
            teacher: shapes of the teacher's features.
            data: the training set.
            epsilon: the formula's e; above 1, it raises the target where the teacher is sure of it.
            temperature: by which all logits are divided; the loss has no factor T^2.
            head_weight: the formula's h, the factor of the heads' part.
        """
        super().__init__(student, teacher, data)
        self.settings, self.head_weight = (epsilon, temperature), head_weight
        width, classes = max(student.embedding, teacher.embedding), student.classes
        stages = student.stages[-STAGES:]
        self.heads = nn.ModuleList()
        for i, stage in enumerate(stages, start=1):
            later = len(stages) - i
            if student.of_tokens:
                self.heads.append(TokenHead(stage, max(later, 1), classes))
            else:
                self.heads.append(map_head(stage[0], later, width, classes))
        self.heads.apply(initialise)

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term: scalar, means over the batch, summed over output and heads."""
        assert batch.targets is not None  # the trainer has checked
        given = teacher.logits, batch.targets, *self.settings
        output = term(student.logits, *given)
        heads = torch.stack([term(logits, *given) for logits in self.logits(student)]).sum()
        self.record(output, heads)
        return output + self.head_weight * heads

    def logits(self, student: Features) -> Iterator[Tensor]:
        """Yield the logits (B, K) of each head, the shallowest stage's first."""
        read = [student.stages, student.class_tokens] if student.class_tokens else [student.stages]
        for head, *given in zip(self.heads, *(one[-STAGES:] for one in read), strict=True):
            yield head(*given)

    @classmethod
    def inapplicable(cls, student: Shapes, teacher: Shapes) -> str | None:
        """Return a reason if classes differ, or a student's tokens have no width that attention can share out."""
        uneven = [width for width, _, _ in student.stages[-STAGES:] if width % ATTENTION]
        if student.of_tokens and uneven:
            return f"{student.network} has tokens of width {uneven[0]}; {ATTENTION} attention heads cannot share it"
        return same_classes(student, teacher)
