"""SRRL: softmax regression representation learning.

Paper:   Yang, Martinez, Bulat and Tzimiropoulos, Knowledge Distillation via Softmax Regression Representation Learning,
         ICLR 2021.
Family:  features.
Formula: loss = mean (e - t)^2 + b * mean (W_t e + c_t - z_t)^2, means over all entries, with t, z_t, W_t and c_t the
         teacher's embedding, logits and classifier, and e the student's embedding in the teacher's dimensions:
         form=embedding: e = ReLU(norm(linear(embedding))), as the tables for CIFAR-100 have it (SimKD's code);
         form=map: e = mean over positions of ReLU(norm(conv1x1(final map))), the authors' code for ImageNet.
Reads:   embeddings (form=map: the student's final map), the teacher's logits and classifier. Owns e's layers, trained.
Weight:  1, with b = 1, for CIFAR-100 and ImageNet. The authors search a grid per pair: (weight, b) of (1, 1), (1, 5)
         and (10, 1). The published numbers for CIFAR-100 add a KD term of weight 1.
"""

import math
from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from bench.types import Batch, DataInfo, Features, Shapes
from methods.base import Distiller, no_classifier, no_final_map, register, same_classes


@register("srrl", weight=1.0, space={"beta": {"log": [0.25, 4]}})
class SRRL(Distiller):
    observes: ClassVar[tuple[str, ...]] = ("feature", "regression")  # of embeddings; of logits, without its factor b

    def __init__(
        self,
        student: Shapes,
        teacher: Shapes,
        data: DataInfo,
        *,
        beta: NonNegativeFloat = 1.0,
        form: Literal["embedding", "map"] = "embedding",
    ) -> None:
        """Build the layers that map the student's embedding to the teacher's dimensions.

        Args:
            student: shapes of the student's features.
            teacher: shapes of the teacher's features.
            data: the training set.
            beta: b, the factor of the part in which the teacher's classifier reads the student's embedding.
            form: whether the layers come after the mean over positions, or before it.
        """
        super().__init__(student, teacher, data)
        self.beta, self.on_map = beta, form == "map"
        self.connector: nn.Sequential
        if self.on_map:
            convolution = nn.Conv2d(student.embedding, teacher.embedding, 1, bias=False)
            nn.init.normal_(convolution.weight, std=math.sqrt(2 / teacher.embedding))
            self.connector = nn.Sequential(convolution, nn.BatchNorm2d(teacher.embedding), nn.ReLU())
        else:
            linear = nn.Linear(student.embedding, teacher.embedding, bias=False)
            self.connector = nn.Sequential(linear, nn.BatchNorm1d(teacher.embedding), nn.ReLU())

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term: scalar, means over all entries of embedding (B, D_t) and of logits (B, K)."""
        assert teacher.classifier is not None  # `inapplicable` has checked
        embedding = self.connector(student.final).mean((2, 3)) if self.on_map else self.connector(student.embedding)
        feature = F.mse_loss(embedding, teacher.embedding)
        logits = F.linear(embedding, teacher.classifier.weight, teacher.classifier.bias)
        regression = F.mse_loss(logits, teacher.logits)
        self.record(feature, regression)
        return feature + self.beta * regression

    @classmethod
    def inapplicable(cls, student: Shapes, teacher: Shapes, form: str = "embedding") -> str | None:
        """Return a reason if classes differ, or a network lacks the classifier or the map that is read."""
        missing_map = no_final_map(student) if form == "map" else None
        return same_classes(student, teacher) or no_classifier(teacher) or missing_map
