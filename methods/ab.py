"""AB: transfer of activation boundaries.

Paper:   Heo, Lee, Yun and Choi, Knowledge Transfer via Distillation of Activation Boundaries, AAAI 2019.
Family:  features.
Formula: c = connector(s);  loss = 3/1000 / B * sum over layers i = 1..n of 2^(i-n) * sum of (1 + c)^2 where
         t <= 0 and c > -1, and of (1 - c)^2 where t > 0 and c <= 1.
Reads:   pre-activations of all stages but the stem. Owns a connector per stage, trained in the initial stage.
Weight:  1 in the initial stage, which also trains the student's trunk; the main stage is cross-entropy alone, as in
         the CRD tables.
Code:    reads MobileNetV2's block outputs as its pre-activations, as here. On WRN, it calls the norms behind the
         pre-activations a second time, which moves their statistics twice a step; here they move once.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bench.types import Batch, DataInfo, Features, InitialStage, Shapes
from methods._adapters import regressor, unmappable
from methods.base import Distiller, register, same_stages

SCALE = 3 / 1000  # makes the sum comparable to cross-entropy; from the published tables' code


def boundary_violation(connected: Tensor, teacher: Tensor) -> Tensor:
    """Return how far a map is on the wrong side of the teacher's activation boundary, with a margin of 1.

    Args:
        connected: (B, C, H, W), the student's pre-activations after the connector.
        teacher: (B, C, H, W), the teacher's pre-activations; only their signs matter.

    Returns:
        Sum over all entries of the squared violation: scalar.
    """
    return Violation.apply(connected, teacher)


class Violation(torch.autograd.Function):
    """With y = 1 where t > 0 and -1 elsewhere, v = max(0, 1 - y c) and loss = sum v^2, so dc = -2 y v."""

    @staticmethod
    def forward(ctx: Any, connected: Tensor, teacher: Tensor) -> Tensor:  # noqa: ANN401, D102
        side = teacher.sign().sub_(0.5).sign_()  # arithmetic, since torch.where and masks are slow on CPUs
        violation = (side * connected).sub_(1).clamp_(max=0)  # -v
        ctx.save_for_backward(side.mul_(violation))
        return torch.linalg.vector_norm(violation, dtype=torch.promote_types(violation.dtype, torch.float32)).square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401, D102
        (pull,) = ctx.saved_tensors
        return 2 * grad * pull, None


@register(
    "ab",
    weight=1.0,
    initial_stage=True,
    variant="the weights of the layers, 2^(i-n), and the scale, 3/1000, are those of the code",
)
class AB(Distiller):
    needs_preactivations = True
    autocast = True

    def __init__(self, student: Shapes, teacher: Shapes, data: DataInfo) -> None:
        super().__init__(student, teacher, data)
        pairs = zip(student.preactivations[1:], teacher.preactivations[1:], strict=True)
        self.connectors = nn.ModuleList(nn.Identity() if s == t else regressor(s, t, relu=False) for s, t in pairs)

    def loss(self, student: Features, teacher: Features, batch: Batch) -> None:
        """Return None: the main stage is cross-entropy alone."""

    def initial_stage(self) -> InitialStage:
        """Return the stage that trains the connectors and the student's trunk."""
        return InitialStage(modules=(self.connectors,), trains_student=True, loss=self.initial_loss)

    def initial_loss(self, student: Features | None, teacher: Features, batch: Batch) -> Tensor:
        """Return the term of the pre-activations: scalar, sum over entries and layers, mean over the batch."""
        assert student is not None  # the stage trains the student
        layers = zip(self.connectors, student.preactivations[1:], teacher.preactivations[1:], strict=True)
        losses = [boundary_violation(connector(s), t) for connector, s, t in layers]
        deepest_first = [2.0**-depth * loss for depth, loss in enumerate(reversed(losses))]
        return SCALE * torch.stack(deepest_first).sum() / len(batch.indices)

    @classmethod
    def inapplicable(cls, student: Shapes, teacher: Shapes) -> str | None:
        """Return a reason if stages do not pair up, pre-activations are missing or no connector fits."""
        if reason := same_stages(student, teacher):
            return reason
        for network in (student, teacher):
            if len(network.preactivations) != len(network.stages):
                return f"{network.network} gives no pre-activations, which AB reads"
        for i, (s, t) in enumerate(zip(student.preactivations, teacher.preactivations, strict=True)):
            if i > 0 and (reason := unmappable(s, t)):
                return f"stage {i}: {reason}"
        return None
