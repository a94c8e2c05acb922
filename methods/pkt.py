"""PKT: probabilistic knowledge transfer.

Paper:   Passalis and Tefas, Learning Deep Representations with Probabilistic Knowledge Transfer, ECCV 2018.
Family:  relations.
Formula: P[i, j] = c[i, j] / sum_j c[i, j],  c = (1 + cos(z_i, z_j)) / 2;  loss = mean_ij P_t * log(P_t / P_s).
Reads:   embedding of both networks. Owns no parameters.
Weight:  30000 (a mean over B*B entries is small), as in the CRD tables' scripts; cross-entropy keeps 1.
Code:    turns similarities that are not numbers into 0. Here the loss is not a number either, so the run ends as
         diverged.
"""

from torch import Tensor

from bench.types import Batch, Features
from methods.base import Distiller, register

EPS = 1e-7  # added to norms and inside the log, not a clamp: the published numbers were made so


def affinities(embedding: Tensor) -> Tensor:
    """Return how likely each sample (row) picks each other one (column) as its neighbour.

    Args:
        embedding: (B, D), any scale.

    Returns:
        (B, B), entries >= 0, rows sum to 1.
    """
    unit = embedding / (embedding.norm(dim=1, keepdim=True) + EPS)
    closeness = (1 + unit @ unit.T) / 2
    return closeness / closeness.sum(dim=1, keepdim=True)


@register("pkt", weight=30000.0)
class PKT(Distiller):
    def loss(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return the unweighted term of embeddings (B, D_s) and (B, D_t): scalar, mean over B*B entries."""
        p_s, p_t = affinities(student.embedding), affinities(teacher.embedding)
        return (p_t * ((p_t + EPS) / (p_s + EPS)).log()).mean()
