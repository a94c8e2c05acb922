"""FitNet: hints for thin deep nets.

Paper:   Romero, Ballas, Kahou, Chassang, Gatta and Bengio, FitNets: Hints for Thin Deep Nets, ICLR 2015.
Family:  features.
Formula: loss = mean (r(s) - t)^2, r = ReLU(norm(convolution)), s and t the feature maps of one stage.
Reads:   stage `layer` of both networks, 2 by default (the stem is 0). Owns the regressor r, trained.
Weight:  100, as in the CRD tables.
Code:    the CRD tables' code adds the term to cross-entropy, as here; the paper pre-trains with it instead.
"""

import torch.nn.functional as F
from pydantic import NonNegativeInt
from torch import Tensor

from bench.types import Batch, DataInfo, Features, Shapes
from methods._adapters import regressor, unmappable
from methods.base import Distiller, register


@register(
    "fitnet",
    weight=100.0,
    variant="adds the term to cross-entropy; the paper first trains the student up to the stage with the term alone",
)
class FitNet(Distiller):
    autocast = True

    def __init__(self, student: Shapes, teacher: Shapes, data: DataInfo, *, layer: NonNegativeInt = 2) -> None:
        """Build the regressor.

        Args:
            student: shapes of the student's features.
            teacher: shapes of the teacher's features.
            data: the training set, of which nothing is used.
            layer: the stage whose maps are compared, counted from 0, the stem.

        Raises:
            ValueError: a network does not have the stage, or no regressor maps one to the other.
        """
        super().__init__(student, teacher, data)
        if reason := self.inapplicable(student, teacher, layer):
            raise ValueError(f"layer={layer}: {reason}")
        self.layer = layer
        self.regressor = regressor(student.stages[layer], teacher.stages[layer])

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term of one stage, (B, C_s, H_s, W_s) and (B, C_t, H_t, W_t): mean over all entries."""
        return F.mse_loss(self.regressor(student.stages[self.layer]), teacher.stages[self.layer])

    @classmethod
    def inapplicable(cls, student: Shapes, teacher: Shapes, layer: int = 2) -> str | None:
        """Return a reason if a network does not have the stage, or no regressor maps one to the other."""
        for network in (student, teacher):
            if layer >= len(network.stages):
                return f"{network.network} has stages 0 to {len(network.stages) - 1}, FitNet reads stage {layer}"
        reason = unmappable(student.stages[layer], teacher.stages[layer])
        return f"stage {layer}: {reason}" if reason else None
