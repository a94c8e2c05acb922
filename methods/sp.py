"""SP: similarity-preserving distillation.

Paper:   Tung and Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019.
Family:  relations.
Formula: G = F F^T of flattened maps F (B, C*H*W), each row then L2-normalised;  loss = ||G_t - G_s||^2 / B^2.
Reads:   last stage of both networks. Owns no parameters.
Weight:  3000 (a mean over B*B entries of unit rows is small), as in the CRD tables.
Code:    normalises after the product, as here; the paper's earlier text, before it.
"""

import torch.nn.functional as F
from torch import Tensor

from bench.types import Batch, Features
from methods.base import Distiller, register


def similarities(features: Tensor) -> Tensor:
    """Return the similarity of each sample (row) of maps (B, C, H, W) to every one (column): (B, B), unit rows."""
    flat = features.flatten(1)
    return F.normalize(flat @ flat.T)


@register("sp", weight=3000.0)
class SP(Distiller):
    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term of the last stages: scalar, mean over B*B entries."""
        return F.mse_loss(similarities(student.stages[-1]), similarities(teacher.stages[-1]))
