"""The regime line below a table: how far the teacher is above `none`, and whether `none` has converged.

Distillation was made for a teacher that is clearly better than a student that has learned what it can from labels. A
difference between methods that is found elsewhere need not hold there. Imports no torch.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, linear_regression

from bench.plan.duration import training_images
from bench.report.frame import Frame
from bench.report.layout import span
from bench.report.summary import Summary
from bench.suite import NONE, TEACHER
from bench.tasks import task_of

MIN_GAP = 2.0  # spreads of the seeds between teacher and `none`
CONVERGED = 0.01  # share of the training loss's whole fall that the last tenth of the epochs may add
MIN_EPOCHS = 6  # from which convergence is assessed
MIN_TAIL = 3  # epochs that a line is fitted to


@dataclass(frozen=True)
class Regime:
    """Facts of a pair's teacher and undistilled student, means over seeds; None where they are not known."""

    pair: str
    gap: float | None  # percentage points by which the teacher is above `none`
    spread: float | None  # standard deviation over seeds of `none`, from the row-by-seed model, in percentage points
    ahead: float | None  # percentage points by which the accuracy of `none` in training is above that on test images
    steps: int | None  # optimizer steps of `none`
    last_fall: float | None  # see `last_fall`

    @property
    def spreads(self) -> float | None:
        """Return the gap in spreads."""
        return None if self.gap is None or not self.spread else self.gap / self.spread

    @property
    def faults(self) -> Iterator[str]:
        """Yield why the pair is outside the regime."""
        if self.gap is not None and (self.gap <= 0 or (self.spreads is not None and self.spreads < MIN_GAP)):
            yield f"the teacher is not {MIN_GAP:g} spreads above {NONE}, so its lead may be chance"
        if self.ahead is not None and self.ahead < 0:
            yield f"{NONE} is worse in training than on test images, so labels have more to teach it"
        if self.last_fall == math.inf:
            yield f"the training loss of {NONE} has not fallen"
        elif self.last_fall is not None and self.last_fall > CONVERGED:
            yield f"{NONE} still learns when its training ends"


def last_fall(losses: Sequence[float]) -> float | None:
    """Return by how much a training loss falls in a tenth of the epochs at the end, as a share of its whole fall.

    The slope is that of a straight line through the last tenth, at least three epochs. None for fewer than six epochs;
    infinite if the loss did not fall at all.
    """
    if len(losses) < MIN_EPOCHS:
        return None
    length = max(MIN_TAIL, len(losses) // 10)
    slope = linear_regression(range(length), losses[-length:]).slope
    whole = losses[0] - losses[-1]
    return -slope * (len(losses) - 1) / 10 / whole if whole > 0 else math.inf


def regimes(frame: Frame) -> list[Regime]:
    """Return the regime of each pair whose undistilled student trains on labels and has a result."""
    by_place = {(one.pair, one.label): one for one in frame.primary}
    of_pairs = []
    for (pair, label), plain in by_place.items():
        task = task_of(plain.cell.runs[0])
        if label == NONE and plain.mean is not None and task.objective is not None and not task.is_evaluation:
            of_pairs.append(_regime(frame, plain, by_place.get((pair, TEACHER)), f"train_{task.objective.hit}"))
    return of_pairs


def _regime(frame: Frame, plain: Summary, teacher: Summary | None, hit: str) -> Regime:
    runs = [run for run in plain.cell.runs if frame.plan.seed_of(run) in plain.by_seed]
    curves = [[row for row in frame.store.epochs(run.id) if row["stage"] == "main"] for run in runs]
    reached = [rows[-1][hit] for rows in curves if rows and hit in rows[-1]]
    losses = [fmean(row["loss"] for row in of_epoch) for of_epoch in zip(*curves, strict=False)]
    images, training = training_images(runs[0].data), runs[0].training
    variance = frame.models[plain.contest].variances[NONE] if plain.n > 1 else 0.0
    assert plain.mean is not None  # the caller has asked
    return Regime(
        pair=plain.pair,
        gap=None if teacher is None or teacher.mean is None else teacher.mean - plain.mean,
        spread=math.sqrt(variance) if variance > 0 else None,
        ahead=fmean(reached) - plain.mean if reached else None,
        steps=None if images is None else training.epochs * math.ceil(images / training.batch_size),
        last_fall=last_fall(losses),
    )


def regime_line(frame: Frame) -> str:
    """Return the line under a table: the facts of all pairs, and why pairs are outside the regime; "" without any."""
    of_pairs = regimes(frame)
    if not of_pairs:
        return ""
    sentences = list(_sentences(of_pairs))
    if not sentences:
        return ""
    facts = " ".join(sentences)
    text = f"Regime: {facts[0].lower()}{facts[1:]}"
    outside: dict[str, list[str]] = {}
    for one in of_pairs:
        for fault in one.faults:
            outside.setdefault(fault, []).append(one.pair)
    faults = [f"{why} ({', '.join(pairs)})" if len(of_pairs) > 1 else why for why, pairs in outside.items()]
    if faults:
        text += f" Outside the regime that distillation was made for: {'; '.join(faults)}."
    return text


def _sentences(of_pairs: Sequence[Regime]) -> Iterator[str]:
    """Yield the known facts of all pairs, each with the lowest and the highest value."""
    if gap := _signed([one.gap for one in of_pairs], "{} points above", "{} points below"):
        spreads = span([abs(one.spreads) for one in of_pairs if one.spreads is not None], "{:.1f}")
        yield f"The teacher is {gap} {NONE}{f', {spreads} times the noise over seeds' if spreads else ''}."
    if ahead := _signed([one.ahead for one in of_pairs], "{} points better", "{} points worse"):
        yield f"In training, {NONE} is {ahead} than on test images."
    steps = [one.steps for one in of_pairs if one.steps is not None]
    if steps:
        yield f"Training {NONE} takes {span(steps, '{:,}')} step{'' if max(steps) == 1 else 's'}."
    falls = [100 * fall for one in of_pairs if (fall := one.last_fall) is not None and math.isfinite(fall)]
    if last := _signed(falls, "falls by {} %", "rises by {} %"):
        yield (
            f"In the last tenth of the epochs, the training loss {last} of its whole fall; up to {100 * CONVERGED:g} % "
            "counts as converged."
        )


def _signed(values: Sequence[float | None], up: str, down: str) -> str:
    """Return the lowest and the highest known value in words: `up` from zero on, `down` below; "" if none is known."""
    known = sorted(round(value, 1) for value in values if value is not None)
    if not known:
        return ""
    if known[0] < 0 < known[-1]:
        return f"{down.format(f'{-known[0]:.1f}')} to {up.format(f'{known[-1]:.1f}')}"
    return (down if known[0] < 0 else up).format(span([abs(value) for value in known], "{:.1f}"))
