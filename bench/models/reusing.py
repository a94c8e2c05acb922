"""SimKD's student: a network that ends in a projector and its teacher's classifier.

Chen et al., Knowledge Distillation with the Reused Teacher Classifier, CVPR 2022. The projector and the frozen
classifier are part of the network: they are evaluated, stored and counted with it.
"""

from dataclasses import replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.base import Network
from bench.models.parts import pooled
from bench.types import Affine, Features, Shapes


class Reusing(Network):
    """A network whose final map goes through a projector to a teacher's classifier; its own classifier is not used.

    The projector is a 1x1, a 3x3 and a 1x1 convolution without bias, each followed by a norm and a ReLU, with
    D_t / factor channels between them, as in the authors' code.

    Args:
        student: the network; it gives its final map.
        own: the shapes of its features.
        teacher: those of the teacher.
        factor: by which the projector's inner channels are fewer than the teacher's, at least 1.
    """

    def __init__(self, student: Network, own: Shapes, teacher: Shapes, factor: int) -> None:
        super().__init__()
        assert own.final is not None and teacher.final is not None  # noqa: PT018  # methods have asked
        self.student = student
        self.size = teacher.final[1:]
        inner = max(1, teacher.embedding // factor)
        self.projector = nn.Sequential()
        for kernel, (before, after) in zip(
            (1, 3, 1), pairwise((own.embedding, inner, inner, teacher.embedding)), strict=True
        ):
            convolution = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)
            self.projector.extend([convolution, nn.BatchNorm2d(after), nn.ReLU()])
        self.classifier = nn.Linear(teacher.embedding, teacher.classes).requires_grad_(False)

    @torch.no_grad()
    def take(self, classifier: Affine) -> None:
        """Copy a teacher's classifier."""
        self.classifier.weight.copy_(classifier.weight)
        self.classifier.bias.copy_(classifier.bias if classifier.bias is not None else torch.tensor(0.0))

    def linear_classifier(self) -> Affine | None:
        """Return the teacher's classifier."""
        return Affine(self.classifier.weight, self.classifier.bias)

    def trunk(self) -> list[nn.Module]:
        """Return the trunk of the student."""
        return list(self.student.trunk())

    def features(self, x: Tensor, preactivations: bool = False) -> Features:
        """Return the features of images (B, C, H, W): the student's, with those that `projected` replaces."""
        return self.projected(self.student.features(x, preactivations))

    def projected(self, own: Features) -> Features:
        """Return a student's features, with the final map, embedding, logits and classifier behind the projector.

        A final map larger than the teacher's is first average-pooled to the teacher's size.
        """
        assert own.final is not None  # its shapes say so
        final = own.final
        if tuple(final.shape[2:]) > self.size:
            final = F.adaptive_avg_pool2d(final, self.size)
        final = self.projector(final)
        embedding = pooled(final)
        logits = self.classifier(embedding)
        return replace(own, final=final, embedding=embedding, logits=logits, classifier=self.linear_classifier())
