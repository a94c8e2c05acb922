"""CATKD: class attention transfer (CAT-KD).

Paper:   Guo, Yan, Li and Lin, Class Attention Transfer Based Knowledge Distillation, CVPR 2023.
Family:  features.
Formula: loss = mean over all entries of (A_s - A_t)^2;  A_k = sum_c W[k, c] * f[c] of the classifier's weight W and the
         final map f, averaged over a grid of r x r cells. With `normalise`, each class's grid has unit length.
         The code's networks have a classifier without bias; here, its bias is left out of A.
Reads:   final map and classifier of both networks; the student's classifier gets a gradient, too. Owns no parameters.
Weight:  15 with r = 2, the authors' for resnet32x4 to resnet8x4 on CIFAR-100; theirs are 0.7 to 600 per pair, r = 4 for
         ShuffleNets. On ImageNet: 0.5 with r = 4 (ResNet-50 to MobileNet: 10 with r = 2 and `normalise`).
"""

import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor

from bench.types import Batch, DataInfo, Features, Shapes
from methods.base import Distiller, no_classifier, no_final_map, register, same_classes


@register("catkd", weight=15.0, space={"resolution": {"choices": [1, 2, 4]}})
class CATKD(Distiller):
    def __init__(
        self,
        student: Shapes,
        teacher: Shapes,
        data: DataInfo,
        *,
        resolution: PositiveInt = 2,
        normalise: bool = False,
    ) -> None:
        super().__init__(student, teacher, data)
        self.resolution, self.normalise = resolution, normalise

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term: scalar, mean over samples, classes and cells."""
        return F.mse_loss(self.class_attention(student), self.class_attention(teacher))

    def class_attention(self, features: Features) -> Tensor:
        """Return each class's activation map, flat: (B, K, r * r)."""
        assert features.final is not None and features.classifier is not None  # noqa: PT018
        # averaging first is the same, since the classifier is linear
        cells = F.adaptive_avg_pool2d(features.final, self.resolution).flatten(2)
        attention = features.classifier.weight @ cells
        return F.normalize(attention, dim=2) if self.normalise else attention

    @classmethod
    def inapplicable(cls, student: Shapes, teacher: Shapes) -> str | None:
        """Return a reason if classes differ, or a network lacks the classifier or the final map."""
        for network in (student, teacher):
            if reason := no_classifier(network) or no_final_map(network):
                return reason
        return same_classes(student, teacher)
