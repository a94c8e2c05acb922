"""MLLD: multi-level logit distillation.

Paper:   Jin, Wang and Lin, Multi-Level Logit Distillation, CVPR 2023.
Family:  logits.
Formula: loss = m_B * sum_T KL_T(w) + KL_2(w) + KL_6(w) + KL_3(x) + KL_4(x) + KL_5(x)
                + m_K * sum_T ||P_t' P_t - P_s' P_s||^2 / K + m_B * sum_T ||P_t P_t' - P_s P_s'||^2 / B
         over T in 2, 3, 4, 5, 6; w and x the plain and the strongly distorted view of the images; KL_T as in KD; P the
         (B, K) matrix of softmax(z / T) of w; m_B the share of samples whose largest teacher probability on w is at
         most the batch's median; m_K the share of classes whose summed one is at most the median of all classes.
         The paper keeps only such samples and classes; its code multiplies the finished means, and so do we. It also
         takes KL_2 and KL_6 of w, not of x. With `one_view`, as in RLD's code, the other five KL are left out.
Reads:   logits of both networks on both views, on which cross-entropy counts, too. Owns no parameters.
Weight:  0.9, with 0.1 for cross-entropy on CIFAR-100; on ImageNet 0.5 and 0.5, and `temperature` 1 in place of 4 (the
         authors' code, which trains 240 epochs at rate 0.025). With `standardise`, 9 and `temperature` 2 (LSKD).
"""

from typing import ClassVar

import torch
from pydantic import PositiveFloat
from torch import Tensor

from bench.types import Batch, DataInfo, Features, Shapes
from methods._logits import logits_of, softened_kl
from methods.base import Distiller, register, same_classes

OTHERS = (2.0, 3.0, 5.0, 6.0)  # the temperatures beside the given one
OF_PLAIN, OF_DISTORTED = (2.0, 6.0), (3.0, 5.0)  # those of the further divergences of each view


def share_up_to_the_median(values: Tensor) -> Tensor:
    """Return the share of values (N,) that are at most their median, the midpoint for an even N: a scalar."""
    return (values <= values.quantile(0.5)).to(values.dtype).mean()


@register("mlld", weight=0.9, task_weight=0.1, version=2, space={"temperature": {"log": [1, 16]}})
class MLLD(Distiller):
    observes: ClassVar[tuple[str, ...]] = ("instance", "class", "batch")  # their sum is the term

    def __init__(
        self,
        student: Shapes,
        teacher: Shapes,
        data: DataInfo,
        *,
        temperature: PositiveFloat = 4.0,
        standardise: bool = False,
        one_view: bool = False,
    ) -> None:
        super().__init__(student, teacher, data)
        self.temperature, self.temperatures = temperature, (temperature, *OTHERS)
        self.standardise, self.needs_second_view = standardise, not one_view

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term of logits (B, K): scalar, each part a mean over samples or classes."""
        p_t = teacher.logits.softmax(dim=1)
        of_samples = share_up_to_the_median(p_t.amax(dim=1))
        of_classes = share_up_to_the_median(p_t.sum(dim=0))
        logits = logits_of(student, teacher, self.standardise)  # in the first part only
        instance = of_samples * sum(softened_kl(*logits, temperature=t) for t in self.temperatures)
        if self.needs_second_view:
            assert student.second is not None and teacher.second is not None  # noqa: PT018  # the trainer fills them
            instance = instance + sum(softened_kl(*logits, temperature=t) for t in OF_PLAIN)
            distorted = logits_of(student.second, teacher.second, self.standardise)
            instance = instance + sum(softened_kl(*distorted, temperature=t) for t in (*OF_DISTORTED, self.temperature))
        between_classes, between_samples = self.relations(student.logits, teacher.logits)
        parts = torch.stack([instance, of_classes * between_classes, of_samples * between_samples])
        self.record(*parts)
        return parts.sum()

    def relations(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Return the squared differences of the Gram matrices over classes and over samples, of logits (B, K)."""
        b, k = student.shape
        between_classes = between_samples = torch.zeros_like(student[0, 0])
        for temperature in self.temperatures:
            p_s, p_t = ((z / temperature).softmax(dim=1) for z in (student, teacher))
            between_classes = between_classes + (p_t.T @ p_t - p_s.T @ p_s).square().sum() / k
            between_samples = between_samples + (p_t @ p_t.T - p_s @ p_s.T).square().sum() / b
        return between_classes, between_samples

    inapplicable = staticmethod(same_classes)
