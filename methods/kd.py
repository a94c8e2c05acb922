"""KD: knowledge distillation by softened logits.

Paper:   Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, NIPS workshop 2014, arXiv 2015.
Family:  logits.
Formula: loss = T^2 * KL(softmax(t / T) || softmax(s / T)), summed over classes, mean over the batch; T = 4.
         With `standardise`, each sample's logits first get mean 0 and standard deviation 1 (Sun et al., CVPR 2024).
Reads:   logits of both networks. Owns no parameters.
Weight:  0.9, with 0.1 for cross-entropy, as in the CRD tables; T^2 keeps the size of the gradient as T changes.
         With `standardise`, its authors take weight 9 and T = 2 on most CIFAR-100 pairs, and the same on ImageNet.
"""

from pydantic import PositiveFloat
from torch import Tensor

from bench.types import Batch, DataInfo, Features, Shapes
from methods._logits import logits_of, softened_kl
from methods.base import Distiller, register, same_classes


@register("kd", weight=0.9, task_weight=0.1, added=("standardise",), space={"temperature": {"log": [1, 16]}})
class KD(Distiller):
    def __init__(
        self,
        student: Shapes,
        teacher: Shapes,
        data: DataInfo,
        *,
        temperature: PositiveFloat = 4.0,
        standardise: bool = False,
    ) -> None:
        super().__init__(student, teacher, data)
        self.temperature, self.standardise = temperature, standardise

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term of logits (B, K): scalar, mean over the batch."""
        return softened_kl(*logits_of(student, teacher, self.standardise), self.temperature)

    inapplicable = staticmethod(same_classes)
