"""SimKD: a student that reuses its teacher's classifier.

Paper:   Chen, Mei, Zhang, Wang, Feng and Chen, Knowledge Distillation with the Reused Teacher Classifier, CVPR 2022.
Family:  features.
Formula: loss = mean over all entries of (p(f_s) - f_t)^2 of final maps f, the higher one average-pooled to the other's
         size first; p = three convolutions (1x1, 3x3, 1x1), each with norm and ReLU, with D_t / `factor` channels
         inside. Prediction: the teacher's classifier on the mean of p(f_s) over positions, also at test time.
Reads:   final map of both networks and the teacher's classifier. The projector p and a frozen copy of that classifier
         are part of the student's network, `bench.models.reusing`; the student's own classifier is never trained.
Weight:  1, with 0 for cross-entropy and `factor` 2, for CIFAR-100 and ImageNet (authors' scripts).
"""

import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor

from bench.types import Batch, DataInfo, Features, Shapes
from methods._adapters import match
from methods.base import Distiller, no_classifier, no_final_map, register, same_classes


@register("simkd", weight=1.0, task_weight=0.0, reuses_classifier=True)
class SimKD(Distiller):
    def __init__(self, student: Shapes, teacher: Shapes, data: DataInfo, *, factor: PositiveInt = 2) -> None:
        super().__init__(student, teacher, data)  # the projector is the network's

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term of final maps (B, D_t, H, W), the student's projected: scalar, over entries."""
        assert student.final is not None and teacher.final is not None  # noqa: PT018  # `inapplicable` has checked
        return F.mse_loss(*match(student.final, teacher.final))

    @classmethod
    def inapplicable(cls, student: Shapes, teacher: Shapes) -> str | None:
        """Return a reason if classes differ, a network lacks the final map, or the teacher a linear classifier."""
        missing = no_final_map(student) or no_final_map(teacher) or no_classifier(teacher)
        return missing or same_classes(student, teacher)
