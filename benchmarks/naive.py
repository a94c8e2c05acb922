"""The baseline of the speed measurements: a naive loop that trains one method at a time, like the reference code.

Each method makes its own pass over the data. Images are loaded and augmented one by one, the teacher runs forward for
every method and batch, and everything is contiguous (NCHW), eager and fp32. Networks, adapters and weights are this
project's, so that losses can be compared. The terms that the project computes in a faster way than the published
tables' code (AT, VID, NST, CRD) are repeated here as in that code: NST broadcasts, CRD gathers rows of its banks. The
others, and the initial stages, which are not timed, are the project's own.

Where the reference code does unnecessary work (KD's term at weight 0, top-1 and top-5 at each step, the student's pass
while FT's paraphraser trains), this loop omits it, so the comparison favours the reference.
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
from bench.spec import Schedule
from bench.types import Batch, Features
from methods._adapters import match
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

    def for_product(self) -> Batch:
        """Return the batch as the project's own terms take it."""
        return Batch(self.images, self.images, self.targets, self.indices)


class NaiveImages(Dataset[NaiveBatch]):
    """A training set that augments images and draws CRD's negatives one item at a time."""

    def __init__(
        self, images: np.ndarray, targets: np.ndarray, mean: Sequence[float], std: Sequence[float], n_negatives: int
    ) -> None:
        self.images, self.targets, self.n_negatives = images, targets, n_negatives
        self.pools: dict[int, np.ndarray] = {}
        if n_negatives:
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


def energy(maps: Tensor) -> Tensor:
    """Return (B, H*W) of unit length: the channels' mean square of maps (B, C, H, W) at each position."""
    return F.normalize(maps.pow(2).mean(dim=1).reshape(len(maps), -1))


def attention_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """Return AT's term of one stage's maps (B, C, H, W): scalar, mean over batch and positions."""
    student, teacher = match(student, teacher)
    return (energy(student) - energy(teacher)).pow(2).mean()


def gaussian_surprise(guess: Gaussian, student: Tensor, teacher: Tensor) -> Tensor:
    """Return VID's term of one stage's maps (B, C, H, W): scalar, mean over all entries of the teacher's."""
    student, teacher = match(student, teacher)
    variance = (F.softplus(guess.rho) + 1e-5).view(1, -1, 1, 1)
    return (0.5 * ((guess.mean(student) - teacher).pow(2) / variance + variance.log())).mean()


def channel_kernel(first: Tensor, second: Tensor) -> Tensor:
    """Return <x, y>^2 of all pairs of channels, (B, C', C) of (B, C, P) and (B, C', P), broadcast over positions."""
    return (first.unsqueeze(1) * second.unsqueeze(2)).sum(dim=3).pow(2)


def selectivity_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """Return NST's term of one stage's maps (B, C, H, W): scalar, means over batch and pairs of channels."""
    maps = match(student, teacher)
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


Term = Callable[..., Tensor | None]  # maps (adapters, student features, teacher features, batch) to a scalar


def over_stages(formula: Callable[..., Tensor], *of_stages: Iterable[object]) -> Tensor:
    """Return the sum of a formula over the stages, given one sequence per argument of the formula: scalar."""
    return torch.stack([formula(*of_stage) for of_stage in zip(*of_stages, strict=True)]).sum()


TERMS: dict[str, Term] = {
    "at": lambda own, s, t, batch: over_stages(attention_gap, s.stages[1:], t.stages[1:]),
    "vid": lambda own, s, t, batch: over_stages(gaussian_surprise, own.gaussians, s.stages[1:], t.stages[1:]),
    "nst": lambda own, s, t, batch: over_stages(selectivity_gap, s.stages[1:], t.stages[1:]),
}


def main_term(method: str, adapters: Distiller | None) -> Term:
    """Return a method's term of the main stage, which may return None for cross-entropy alone."""
    if isinstance(adapters, CRD):
        return NaiveContrast(adapters)
    return TERMS.get(method, lambda own, s, t, batch: own.loss(s, t, batch.for_product()))


# the loop's body


class NaiveRun:
    """The training of one method, batch by batch: `step` for the main stage, `initial_step` for the stage before it.

    It trains contiguous copies, so networks and adapters may be those of a lane in any stage.

    Args:
        method: a registered name, or `none`.
        student: the network that trains.
        teacher: its teacher; None only for `none`.
        adapters: the method's distiller, whose modules, parameters and weights are used; None only for `none`.
        schedule: the learning rate, momentum and weight decay; milestones are not applied.
    """

    def __init__(
        self, method: str, student: Network, teacher: Network | None, adapters: Distiller | None, schedule: Schedule
    ) -> None:
        self.method, self.schedule = method, schedule
        self.student = contiguous(student)
        self.teacher = None if teacher is None else contiguous(teacher).eval()
        self.adapters = None if adapters is None else contiguous(adapters).requires_grad_()  # a lane freezes some
        self.device = next(self.student.parameters()).device
        self.term = main_term(method, self.adapters)
        self.stage = ""

    def step(self, batch: NaiveBatch) -> float:
        """Train on one batch of the main stage and return the total loss; the host waits for it, as in the reference.

        The teacher runs forward for every method except `none`, even if nothing reads it (`ab`, `fsp`).
        """
        self._enter("main")
        batch = self._received(batch)
        student = self.student.features(batch.images)
        loss = F.cross_entropy(student.logits, batch.targets)
        if self.adapters is not None:
            teacher = self._listen(batch.images)
            loss = self.adapters.task_weight * loss
            term = self.term(self.adapters, student, teacher, batch)
            loss = loss if term is None else loss + self.adapters.weight * term
        self._descend(loss)
        if isinstance(self.term, NaiveContrast) and isinstance(self.adapters, CRD):
            self.term.update(self.adapters.bank_momentum)
        return loss.item()

    def initial_step(self, batch: NaiveBatch) -> float:
        """Train on one batch of the initial stage of `ab`, `fsp` or `ft`, and return its loss."""
        self._enter("initial")
        assert self.adapters is not None
        stage = self.adapters.initial_stage()
        assert stage is not None
        batch = self._received(batch)
        preactivations = self.adapters.needs_preactivations
        teacher = self._listen(batch.images, preactivations)
        student = self.student.features(batch.images, preactivations) if stage.trains_student else None
        loss = stage.loss(student, teacher, batch.for_product())
        self._descend(loss)
        return loss.item()

    def _received(self, batch: NaiveBatch) -> NaiveBatch:
        # channels_last images would make the output of every layer channels_last
        return NaiveBatch(*(tensor.to(self.device).contiguous() for tensor in batch))

    @torch.no_grad()
    def _listen(self, images: Tensor, preactivations: bool = False) -> Features:
        assert self.teacher is not None
        return self.teacher.features(images, preactivations)

    def _descend(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def _enter(self, stage: str) -> None:
        """Set the mode of every module and create the stage's optimizer, unless the run is already in that stage."""
        if stage == self.stage:
            return
        self.stage, rate = stage, self.schedule.lr
        modules = nn.ModuleList([self.student] if self.adapters is None else [self.student, self.adapters])
        initial = None if self.adapters is None else self.adapters.initial_stage()
        own = nn.ModuleList([] if initial is None else initial.modules)
        modules.train(stage == "main")
        if stage == "main":
            frozen = set(own.parameters())
            trained = [parameter for parameter in modules.parameters() if parameter not in frozen]
        else:
            assert initial is not None, f"{self.method} has no initial stage"
            if initial.trains_student:
                own.extend(self.student.trunk())
            trained = list(own.train().parameters())
            rate = initial.lr or rate
        self.optimizer = torch.optim.SGD(trained, rate, self.schedule.momentum, weight_decay=self.schedule.weight_decay)


def contiguous(module: Module) -> Module:
    """Return a copy with contiguous (NCHW) weights."""
    return deepcopy(module).to(memory_format=torch.contiguous_format)
