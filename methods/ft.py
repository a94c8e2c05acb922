"""FT: factor transfer.

Paper:   Kim, Park and Kwak, Paraphrasing Complex Network: Network Compression via Factor Transfer, NeurIPS 2018.
Family:  features.
Formula: a(f) = flatten(mean_C f^2) / ||.||_2;  loss = mean_{B,HW} |a(translator(s)) - a(encoder(t))|.
         Initial stage: mean (decoder(encoder(t)) - t)^2.
Reads:   last stage of both networks. Owns the paraphraser (encoder and decoder), trained in the initial stage, which
         does not train the student, and the translator, trained in the main stage.
Weight:  500, the CRD paper's.
Code:    the CRD paper's scripts have the weight 200.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.types import Batch, DataInfo, Features, InitialStage, Shapes
from methods._adapters import Paraphraser, match, translator
from methods._maps import attention
from methods.base import Distiller, register

SLOW_FAMILIES = ("resnet", "wrn")  # with these the paraphraser trains at 0.01, as in the published tables' code


@register("ft", weight=500.0, initial_stage=True)
class FT(Distiller):
    autocast = True

    def __init__(self, student: Shapes, teacher: Shapes, data: DataInfo) -> None:
        super().__init__(student, teacher, data)
        self.paraphraser = Paraphraser(teacher.stages[-1][0])
        self.translator = translator(student.stages[-1][0], teacher.stages[-1][0])
        self.initial_lr = 0.01 if student.network.startswith(SLOW_FAMILIES) else None

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term of the last stages: scalar, mean over batch and positions."""
        with torch.no_grad():  # the paraphraser trains in the initial stage only
            teacher_factor = self.paraphraser.encoder(teacher.stages[-1])
        factors = match(self.translator(student.stages[-1]), teacher_factor)
        return F.l1_loss(attention(factors[0]), attention(factors[1]))

    def initial_stage(self) -> InitialStage:
        """Return the stage that trains the paraphraser on the teacher's maps."""
        return InitialStage((self.paraphraser,), False, self.reconstruction_loss, self.initial_lr)

    def reconstruction_loss(self, student: Features | None, teacher: Features, batch: Batch) -> Tensor:
        """Return the paraphraser's squared error on the teacher's last stage: scalar, mean over all entries."""
        return F.mse_loss(self.paraphraser(teacher.stages[-1]), teacher.stages[-1])
