"""The baseline of the speed measurements: a naive loop that trains one method at a time, like the reference code.

Each method makes its own pass over the data. Images are loaded and augmented one by one, the teacher runs forward for
every method and batch, and everything is contiguous (NCHW), eager and fp32. The terms are written as in the published
tables' code: NST broadcasts, CRD gathers rows of its banks. Networks, adapters and weights are this project's,
so that losses can be compared. The formulas are repeated here, so that the baseline stays the same when the project's
terms become faster.

Where the reference code does unnecessary work (KD's term at weight 0, top-1 and top-5 at each step), this loop omits
it, so the comparison favours the reference. Initial stages are left out.
"""

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from bench.models.base import Network
from bench.schedule import Schedule
from bench.types import Features
from methods.base import Distiller
from methods.crd import CRD
from methods.vid import Gaussian

Module = TypeVar("Module", bound=nn.Module)


# data: one image at a time


class NaiveBatch(NamedTuple):
    """One sample from the data set, or B of them, collated by the loader.

    Attributes:
        images: (B, 3, H, W) float32, augmented and normalised.
        targets: (B,) int64 class indices.
        indices: (B,) int64 positions in the training set.
        negatives: (B, N) int64 positions of samples of other classes; N = 0 for all methods except CRD.
    """

    images: Tensor
    targets: Tensor
    indices: Tensor
    negatives: Tensor


class NaiveImages(Dataset[NaiveBatch]):
    """A training set that augments images and draws CRD's negatives one item at a time."""

    def __init__(
        self, images: np.ndarray, targets: np.ndarray, mean: Sequence[float], std: Sequence[float], n_negatives: int
    ) -> None:
        self.images, self.targets, self.n_negatives = images, targets, n_negatives
        self.pools = {int(label): np.flatnonzero(targets != label) for label in np.unique(targets)}
        steps = [transforms.RandomCrop(images.shape[1:3], padding=4), transforms.RandomHorizontalFlip()]
        self.transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(mean, std)])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> NaiveBatch:
        label = int(self.targets[index])
        negatives = np.empty(0, dtype=np.int64)
        if self.n_negatives:
            pool = self.pools[label]
            negatives = np.random.choice(pool, self.n_negatives, replace=self.n_negatives > len(pool))
        image = self.transform(Image.fromarray(self.images[index]))
        return NaiveBatch(image, torch.tensor(label), torch.tensor(index), torch.from_numpy(negatives))


def loader(
    images: np.ndarray,
    targets: np.ndarray,
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int,
    workers: int,
    n_negatives: int = 0,
) -> DataLoader[NaiveBatch]:
    """Return a loader that yields one epoch of `NaiveBatch`es in random order, including the last partial one.

    Args:
        images: (n, H, W, 3) uint8.
        targets: (n,) class indices.
        mean: per channel, for images in [0, 1].
        std: per channel, for images in [0, 1].
        batch_size: B.
        workers: processes that load and augment; 0 to use this one.
        n_negatives: N, drawn for each item; 0 for all methods except CRD.
    """
    dataset = NaiveImages(images, targets, mean, std, n_negatives)
    return DataLoader(dataset, batch_size, shuffle=True, num_workers=workers)


# formulas


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 * KL(teacher || student) of logits (B, K) divided by T: scalar, mean over the batch."""
    log_student, soft_teacher = F.log_softmax(student / temperature, dim=1), F.softmax(teacher / temperature, dim=1)
    return F.kl_div(log_student, soft_teacher, reduction="sum") * temperature**2 / len(student)


def same_height(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return maps (B, C, H, W) and (B, C', H', W'), the higher one pooled to the other's size."""
    (height, width), (other_height, other_width) = first.shape[2:], second.shape[2:]
    if height > other_height:
        return F.adaptive_avg_pool2d(first, (other_height, other_width)), second
    if height < other_height:
        return first, F.adaptive_avg_pool2d(second, (height, width))
    return first, second


def energy(maps: Tensor) -> Tensor:
    """Return (B, H*W) of unit length: the channels' mean square of maps (B, C, H, W) at each position."""
    return F.normalize(maps.pow(2).mean(dim=1).reshape(len(maps), -1))


def attention_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """Return AT's term of one stage's maps (B, C, H, W): scalar, mean over batch and positions."""
    student, teacher = same_height(student, teacher)
    return (energy(student) - energy(teacher)).pow(2).mean()


def similarity_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """Return SP's term of maps (B, C, H, W): scalar, mean over the B*B pairs of samples."""
    rows_s, rows_t = student.reshape(len(student), -1), teacher.reshape(len(teacher), -1)
    gap = F.normalize(rows_t @ rows_t.t()) - F.normalize(rows_s @ rows_s.t())
    return gap.pow(2).sum() / len(student) ** 2


def neighbour_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """Return CC's term of mapped embeddings (B, D): scalar, mean over the B - 1 neighbours."""
    delta = (student - teacher).abs()
    return (delta[:-1] * delta[1:]).sum(dim=1).mean()


def gaussian_surprise(guess: Gaussian, student: Tensor, teacher: Tensor) -> Tensor:
    """Return VID's term of one stage's maps (B, C, H, W): scalar, mean over all entries of the teacher's."""
    student, teacher = same_height(student, teacher)
    variance = (F.softplus(guess.rho) + 1e-5).view(1, -1, 1, 1)
    return (0.5 * ((guess.mean(student) - teacher).pow(2) / variance + variance.log())).mean()


def distances(embedding: Tensor) -> Tensor:
    """Return pairwise distances (B, B) of (B, D), 0 on the diagonal, divided by the mean of the positive ones."""
    squares = embedding.pow(2).sum(dim=1)
    squared = squares[:, None] + squares[None, :] - 2 * (embedding @ embedding.t())
    off_diagonal = 1 - torch.eye(len(embedding), dtype=embedding.dtype, device=embedding.device)
    lengths = squared.clamp(min=1e-12).sqrt() * off_diagonal
    return lengths / lengths[lengths > 0].mean()


def angles(embedding: Tensor) -> Tensor:
    """Return (B, B, B) cosines of the angle at each sample (first axis) between two others, of (B, D)."""
    directions = F.normalize(embedding[None] - embedding[:, None], dim=2)
    return torch.bmm(directions, directions.transpose(1, 2))


def relation_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """Return RKD's term of embeddings (B, D): scalar, means over all pairs and over all triples."""
    with torch.no_grad():
        distances_t, angles_t = distances(teacher), angles(teacher)
    by_distance = F.smooth_l1_loss(distances(student), distances_t)
    return 25 * by_distance + 50 * F.smooth_l1_loss(angles(student), angles_t)


def neighbour_chances(embedding: Tensor) -> Tensor:
    """Return PKT's (B, B) of embeddings (B, D): cosines mapped to [0, 1], each row divided by its sum."""
    unit = embedding / (embedding.pow(2).sum(dim=1, keepdim=True).sqrt() + 1e-7)
    close = (unit @ unit.t() + 1) / 2
    return close / close.sum(dim=1, keepdim=True)


def chance_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Return PKT's term of embeddings (B, D): scalar, mean over the B*B pairs of samples."""
    chances_s, chances_t = neighbour_chances(student), neighbour_chances(teacher)
    return (chances_t * torch.log((chances_t + 1e-7) / (chances_s + 1e-7))).mean()


def factor_gap(student: Tensor, encoder: nn.Module, teacher: Tensor) -> Tensor:
    """Return FT's term of translated and teacher's maps (B, C, H, W): scalar, mean over batch and positions."""
    with torch.no_grad():  # the encoder was trained in the initial stage
        factor = encoder(teacher)
    student, factor = same_height(student, factor)
    return (energy(student) - energy(factor)).abs().mean()


def channel_kernel(first: Tensor, second: Tensor) -> Tensor:
    """Return <x, y>^2 of all pairs of channels, (B, C', C) of (B, C, P) and (B, C', P), broadcast over positions."""
    return (first.unsqueeze(1) * second.unsqueeze(2)).sum(dim=3).pow(2)


def selectivity_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """Return NST's term of one stage's maps (B, C, H, W): scalar, means over batch and pairs of channels."""
    maps = same_height(student, teacher)
    x_s, x_t = (F.normalize(one.reshape(*one.shape[:2], -1), dim=2) for one in maps)
    across = channel_kernel(x_s, x_t).mean()
    return channel_kernel(x_t, x_t).mean().detach() + channel_kernel(x_s, x_s).mean() - 2 * across


def bank_scores(anchors: Tensor, bank: Tensor, rows: Tensor, temperature: float) -> Tensor:
    """Return exp(<anchor, bank row> / T), (B, 1 + N), of anchors (B, D), a bank (M, D) and rows (B, 1 + N) of it."""
    gathered = bank.index_select(0, rows.reshape(-1)).view(*rows.shape, -1)
    return torch.exp(torch.bmm(gathered, anchors.unsqueeze(2)).squeeze(2) / temperature)


def noise_contrast(scores: Tensor, n_samples: int) -> Tensor:
    """Return one direction of CRD's term of scores (B, 1 + N), positives first: scalar, mean over the batch."""
    noise = (scores.shape[1] - 1) / n_samples
    positives, negatives = scores[:, :1], scores[:, 1:]
    log_data = torch.log(positives / (positives + noise + 1e-7))
    log_noise = torch.log(noise / (negatives + noise + 1e-7))
    return -(log_data.sum() + log_noise.sum()) / len(scores)


# terms: the features and adapters that each formula reads; unweighted, like `Distiller.loss`


class NaiveContrast:
    """CRD's term for drawn negatives and the paper's objective; its banks start as copies of the distiller's."""

    def __init__(self, adapters: CRD) -> None:
        self.student_bank, self.teacher_bank = adapters.student_bank.clone(), adapters.teacher_bank.clone()
        self.z: list[Tensor] = []  # of student anchors and teacher anchors, set by the first batch
        self.visited: tuple[Tensor, Tensor, Tensor]

    def __call__(self, adapters: CRD, student: Features, teacher: Features, batch: NaiveBatch) -> Tensor:
        """Return the term, summed over both directions."""
        anchors_s = F.normalize(adapters.student_head(student.embedding))
        anchors_t = F.normalize(adapters.teacher_head(teacher.embedding))
        rows = torch.cat([batch.indices[:, None], batch.negatives], dim=1)
        n_samples = len(self.student_bank)
        scores = [
            bank_scores(anchors_s, self.teacher_bank, rows, adapters.temperature),
            bank_scores(anchors_t, self.student_bank, rows, adapters.temperature),
        ]
        self.z = self.z or [n_samples * one.detach().mean() for one in scores]
        self.visited = (batch.indices, anchors_s.detach(), anchors_t.detach())
        costs = [noise_contrast(one / z, n_samples) for one, z in zip(scores, self.z, strict=True)]
        return torch.stack(costs).sum()

    def update(self, momentum: float) -> None:
        """Move the visited rows of both banks towards the step's embeddings; `momentum` is the share that is kept."""
        indices, anchors_s, anchors_t = self.visited
        for bank, anchors in ((self.student_bank, anchors_s), (self.teacher_bank, anchors_t)):
            moved = momentum * bank.index_select(0, indices) + (1 - momentum) * anchors
            bank.index_copy_(0, indices, F.normalize(moved))


def over_stages(formula: Callable[..., Tensor], *of_stages: Iterable[object]) -> Tensor:
    """Return the sum of a formula over the stages, given one sequence per argument of the formula: scalar."""
    return torch.stack([formula(*of_stage) for of_stage in zip(*of_stages, strict=True)]).sum()


Term = Callable[..., Tensor]  # maps (adapters, student features, teacher features, batch) to a scalar
MAIN: dict[str, Term] = {
    "kd": lambda own, s, t, batch: softened_divergence(s.logits, t.logits, own.temperature),
    "fitnet": lambda own, s, t, batch: F.mse_loss(own.regressor(s.stages[own.layer]), t.stages[own.layer]),
    "at": lambda own, s, t, batch: over_stages(attention_gap, s.stages[1:], t.stages[1:]),
    "sp": lambda own, s, t, batch: similarity_gap(s.stages[-1], t.stages[-1]),
    "cc": lambda own, s, t, batch: neighbour_gap(own.student_head(s.embedding), own.teacher_head(t.embedding)),
    "vid": lambda own, s, t, batch: over_stages(gaussian_surprise, own.gaussians, s.stages[1:], t.stages[1:]),
    "rkd": lambda own, s, t, batch: relation_gap(s.embedding, t.embedding),
    "pkt": lambda own, s, t, batch: chance_divergence(s.embedding, t.embedding),
    "ft": lambda own, s, t, batch: factor_gap(own.translator(s.stages[-1]), own.paraphraser.encoder, t.stages[-1]),
    "nst": lambda own, s, t, batch: over_stages(selectivity_gap, s.stages[1:], t.stages[1:]),
}


def main_term(method: str, adapters: Distiller | None) -> Term | None:
    """Return a method's term of the main stage, or None for cross-entropy alone (`none`, `ab`, `fsp`)."""
    return NaiveContrast(adapters) if isinstance(adapters, CRD) else MAIN.get(method)


# the loop's body


class NaiveRun:
    """The main stage of the training of one method, batch by batch; milestones are not applied.

    It trains contiguous copies, so networks and adapters may be those of a lane in any stage. The adapters are the
    method's distiller, whose modules, parameters and weights are used. Only `none` has no teacher and adapters.
    """

    def __init__(
        self, method: str, student: Network, teacher: Network | None, adapters: Distiller | None, schedule: Schedule
    ) -> None:
        self.student = contiguous(student).train()
        self.teacher = None if teacher is None else contiguous(teacher).eval()
        self.adapters = None if adapters is None else contiguous(adapters).train()
        self.device = next(self.student.parameters()).device
        self.term = main_term(method, self.adapters)
        trained = list(self.student.parameters())
        if self.adapters is not None:
            if initial := self.adapters.initial_stage():
                for module in initial.modules:
                    module.requires_grad_(False)
            trained += [parameter for parameter in self.adapters.parameters() if parameter.requires_grad]
        momentum, weight_decay = schedule.momentum, schedule.weight_decay
        self.optimizer = torch.optim.SGD(trained, schedule.lr, momentum=momentum, weight_decay=weight_decay)

    def step(self, batch: NaiveBatch) -> float:
        """Train on one batch and return the total loss; the host waits for it, as in the reference.

        The teacher runs forward for every method except `none`, even if nothing reads it (`ab`, `fsp`).
        """
        # channels_last images would make the output of every layer channels_last
        batch = NaiveBatch(*(tensor.to(self.device).contiguous() for tensor in batch))
        student = self.student.features(batch.images)
        loss = F.cross_entropy(student.logits, batch.targets)
        if self.teacher is not None and self.adapters is not None:
            with torch.no_grad():
                teacher = self.teacher.features(batch.images)
            loss = self.adapters.task_weight * loss
            if self.term is not None:
                loss = loss + self.adapters.weight * self.term(self.adapters, student, teacher, batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if isinstance(self.term, NaiveContrast) and isinstance(self.adapters, CRD):
            self.term.update(self.adapters.bank_momentum)
        return loss.item()


def contiguous(module: Module) -> Module:
    """Return a copy with contiguous (NCHW) weights."""
    return deepcopy(module).to(memory_format=torch.contiguous_format)
