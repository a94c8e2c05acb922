"""RKD: relational knowledge distillation.

Paper:   Park, Kim, Lu and Cho, Relational Knowledge Distillation, CVPR 2019.
Family:  relations.
Formula: loss = 25 * mean_ij smoothL1(d_s, d_t) + 50 * mean_ijk smoothL1(a_s, a_t) with
         d[i, j] = ||z_i - z_j|| / its mean over i != j,  a[k, i, j] = cos(z_i - z_k, z_j - z_k).
Reads:   embedding of both networks. Owns no parameters.
Weight:  1; 25 and 50 are part of the term, as in the paper and the CRD tables.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.types import Batch, Features
from methods._maps import gram, inverse_root
from methods.base import Distiller, register

DISTANCE_WEIGHT = 25.0
ANGLE_WEIGHT = 50.0
EPS = 1e-12  # smallest squared distance: the root of 0 would have gradient NaN


def relations(embedding: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distances and angles between the samples of embeddings (B, D) of any scale.

    Returns:
        Distances (B, B), mean 1 off the diagonal, 0 on it (NaN for a batch of one), and cosines (B, B, B) of the
        angle at sample k (first axis) between samples i and j, 0 where two of the three are the same point.
    """
    n = len(embedding)
    offsets = embedding[None] - embedding[:, None]  # [k, i] = z_i - z_k
    squared = offsets.square().sum(dim=2)
    distances = squared.clamp(min=EPS).sqrt()
    distances = distances.masked_fill(torch.eye(n, dtype=torch.bool, device=embedding.device), 0.0)
    mean = distances.sum() / (n * (n - 1))  # over all pairs off the diagonal, which are positive since they are clamped
    directions = offsets * inverse_root(squared)[:, :, None]
    return distances / mean, gram(directions, directions)


@register("rkd", weight=1.0)
class RKD(Distiller):
    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term of embeddings (B, D_s), (B, D_t): means over all pairs and over all triples."""
        distances_s, angles_s = relations(student.embedding)
        distances_t, angles_t = relations(teacher.embedding)
        distance_loss, angle_loss = F.smooth_l1_loss(distances_s, distances_t), F.smooth_l1_loss(angles_s, angles_t)
        return DISTANCE_WEIGHT * distance_loss + ANGLE_WEIGHT * angle_loss
