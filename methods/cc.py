"""CC: correlation congruence.

Paper:   Peng, Jin, Liu, Zhou, Wu, Liu, Zhang and Liu, Correlation Congruence for Knowledge Distillation, ICCV 2019.
Family:  relations.
Formula: d_i = |e_s(z_s) - e_t(z_t)| of sample i;  loss = mean_i sum_D d_i * d_{i+1}, i over the B - 1 neighbours.
Reads:   embedding of both networks. Owns two linear maps to 128 dimensions, both trained.
Weight:  0.02 (a sum over 128 dimensions is large), as in the CRD tables.
Code:    the formula is that of the published tables' code; the paper compares kernels of all pairs instead.
"""

from typing import Annotated

from annotated_types import Gt, Le
from torch import Tensor, nn

from bench.types import Batch, DataInfo, Features, Shapes
from methods.base import Distiller, register


@register("cc", weight=0.02, space={"dim": {"choices": [64, 128, 256]}})
class CC(Distiller):
    def __init__(
        self, student: Shapes, teacher: Shapes, data: DataInfo, *, dim: Annotated[int, Gt(0), Le(10_000)] = 128
    ) -> None:
        """Build the two maps.

        Args:
            student: shapes of the student's features.
            teacher: shapes of the teacher's features.
            data: the training set, of which nothing is used.
            dim: the dimension of both maps' outputs.
        """
        super().__init__(student, teacher, data)
        self.student_head = nn.Linear(student.embedding, dim)
        self.teacher_head = nn.Linear(teacher.embedding, dim)

    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term of embeddings (B, D_s), (B, D_t): mean over neighbours; NaN for a batch of one."""
        delta = (self.student_head(student.embedding) - self.teacher_head(teacher.embedding)).abs()
        return (delta[:-1] * delta[1:]).sum(dim=1).mean()
