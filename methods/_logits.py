"""Functions of logits that several methods share, such as the divergence of softened probabilities."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.types import Features

EPS = 1e-7  # added to standard deviations, as in the published code of logit standardisation


def logits_of(student: Features, teacher: Features, standardise: bool) -> tuple[Tensor, Tensor]:
    """Return the logits (B, K) of student and teacher, both standardised on request."""
    if standardise:
        return standardised(student.logits), standardised(teacher.logits)
    return student.logits, teacher.logits


def standardised(logits: Tensor) -> Tensor:
    """Return logits (B, K) with mean 0 and standard deviation 1 in each row; constant rows become 0.

    Paper: Sun, Ren, Li, Wang and Cao, Logit Standardization in Knowledge Distillation, CVPR 2024.
    z' = (z - mean z) / (std z + 1e-7) over the K classes; std divides by K - 1. Mean and std have gradients.
    """
    return (logits - logits.mean(dim=1, keepdim=True)) / (logits.std(dim=1, keepdim=True) + EPS)


def softened_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Return T^2 * KL(teacher || student) of logits (B, K), both divided by T > 0: scalar, mean over the batch."""
    log_p_s = F.log_softmax(student_logits / temperature, dim=1)
    p_t = F.softmax(teacher_logits / temperature, dim=1)
    return temperature**2 * F.kl_div(log_p_s, p_t, reduction="batchmean")


def without_target(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the logits (B, K - 1) of the classes other than the target, of logits (B, K) and targets (B,)."""
    others = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, others + (others >= targets[:, None]))
