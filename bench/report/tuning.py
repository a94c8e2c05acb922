"""Writes tuning.csv and tuning.md: every trial of a suite's searches, and what they tell. Imports no torch.

Expected best of k trials: Dodge et al., Show Your Work, EMNLP 2019, here without replacement, which is unbiased: the
mean, over all subsets of k of the n trials, of the best value in the subset.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

from bench.plan.model import Choice, Trial
from bench.plan.tuning import shown
from bench.report.folder import TUNING
from bench.report.frame import Frame
from bench.report.layout import MISSING
from bench.report.markdown import MARKDOWN, markdown_table
from bench.report.words import SIGNIFICANT
from bench.store import csv_text, write_whole
from bench.suite.tuning import TUNED, Tuning
from bench.tasks import task_of
from bench.text import plural

COLUMNS = ("pair", "label", "trial", "epochs", "seed", "parameters", "dev", "status", "chosen", "run")
MIN_TRIALS = 4  # of which a correlation is computed


def write(frame: Frame) -> None:
    """Write both files of a suite that searches settings."""
    for name, text in zip(TUNING, (to_csv(frame), to_markdown(frame)), strict=True):
        write_whole(frame.folder / name, text)


def searches(frame: Frame) -> dict[str, dict[str, Choice]]:
    """Return the searches by pair and by the label of the row whose settings are searched, in the table's order."""
    choices: dict[str, dict[str, Choice]] = {}
    for cell in frame.plan.cells:
        if cell.choice is not None:
            choices.setdefault(cell.pair, {})[cell.label.removesuffix(TUNED)] = cell.choice
    return choices


def to_csv(frame: Frame) -> str:
    """Return tuning.csv: one row per trial and seed; `dev` is the primary metric on the dev images in percent."""

    def rows() -> Iterator[dict[str, object]]:
        for pair, own in searches(frame).items():
            for label, choice in own.items():
                for trial in choice.trials:
                    for run in trial.runs:
                        metrics = frame.records.get(run.id, {}).get("metrics", {})
                        yield {
                            "pair": pair,
                            "label": label,
                            "trial": trial.number,
                            "epochs": trial.epochs,
                            "seed": run.seed,
                            "parameters": settings_text(trial),
                            "dev": metrics.get(task_of(run).metrics[0].name, ""),
                            "status": frame.statuses[run.id][0],
                            "chosen": int(choice.best is trial),
                            "run": run.id,
                        }

    return csv_text(COLUMNS, rows())


def settings_text(trial: Trial) -> str:
    """Return the settings of a trial as text."""
    return ", ".join(f"{name}={shown(value)}" for name, value in trial.settings.items())


def expected_best(values: Sequence[float]) -> list[float]:
    """Return the expected best of k of n values for k from 1 to n: the mean over all subsets of k.

    The value of rank i, from the lowest, is the best of C(i - 1, k - 1) of the C(n, k) subsets.
    """
    ordered, n = sorted(values), len(values)
    return [
        sum(value * math.comb(rank, k - 1) for rank, value in enumerate(ordered)) / math.comb(n, k)
        for k in range(1, n + 1)
    ]


def sensitivity(choice: Choice, name: str) -> float | None:
    """Return Spearman's rank correlation of a parameter with the dev metric over the first rung's trials.

    None where fewer than four trials have a result, or the parameter or the metric is constant.
    """
    from scipy.stats import spearmanr

    finished = [trial for trial in choice.first_rung if trial.value is not None]
    places = [trial.settings[name] for trial in finished]
    if len(finished) < MIN_TRIALS or not all(isinstance(value, int | float) for value in places):
        return None
    values = [trial.value for trial in finished]
    if len(set(places)) == 1 or len(set(values)) == 1:
        return None
    return float(spearmanr(places, values).statistic)


def best_of(own: Mapping[str, Choice]) -> dict[str, list[float]]:
    """Return the expected best of k trials of the first rung, by row, for each k that every row has reached."""
    curves = {
        label: expected_best([trial.value or 0.0 for trial in choice.first_rung if not trial.is_open])
        for label, choice in own.items()
    }
    most = min(map(len, curves.values()), default=0)
    return {label: curve[:most] for label, curve in curves.items()}


def by_chance(choice: Choice) -> float:
    """Return the size of a correlation, of either sign, that one in 20 exceeds by chance.

    From Student's t with n - 2 degrees of freedom, for n trials with a result, at least three.
    """
    from scipy.stats import t

    n = sum(trial.value is not None for trial in choice.first_rung)
    limit = float(t.ppf(1 - SIGNIFICANT / 2, n - 2))
    return limit / math.sqrt(n - 2 + limit**2)


def rank_stability(curves: Sequence[Sequence[float]]) -> list[float | None]:
    """Return, for each number of trials k, Kendall's tau between the rows' order after k trials and after all.

    `curves` has the expected best of each row; None where an order is not defined.
    """
    from scipy.stats import kendalltau

    most = min(map(len, curves), default=0)
    if len(curves) < 2:
        return [None] * most
    last = [curve[most - 1] for curve in curves]
    taus = [float(kendalltau([curve[k] for curve in curves], last).statistic) for k in range(most)]
    return [None if math.isnan(tau) else tau for tau in taus]


def to_markdown(frame: Frame) -> str:
    """Return tuning.md: chosen settings, the expected best of k trials, sensitivity and stability of ranks."""
    tuning = frame.plan.suite.tuning
    assert tuning is not None  # only such suites have this file
    metric = frame.primary[0].title
    lines = [f"# {MARKDOWN.text(frame.plan.suite.title)}: tuning", "", " ".join(_explained(tuning, metric))]
    for pair, own in searches(frame).items():
        lines += ["", f"## {MARKDOWN.text(pair)}", "", *_chosen(own), "", *_best_of(own), "", *_sensitivities(own)]
    return "\n".join(lines) + "\n"


def _explained(tuning: Tuning, metric: str) -> Iterator[str]:
    """Yield how a suite's settings are chosen, and what the choice rests on."""
    yield f"Each row is trained with {tuning.trials} settings, without the dev images. Trial 0 has the row's own."
    if tuning.rung_trials:
        first = plural(min(tuning.rung_trials), "epoch")
        yield f"All of them train for {first}{tuning.later_rungs}. The best of the last ones is chosen."
    yield (
        f"Numbers are {metric} in percent on the dev images after the last epoch, with {plural(tuning.seeds, 'seed')} "
        "per trial. The choice rests on them alone, so a tuned row can lose on the test images to the row with its own "
        "settings."
    )


def _chosen(own: Mapping[str, Choice]) -> Iterator[str]:
    yield (
        "Chosen settings. The columns `own settings` and `chosen` have the accuracy of trial 0 and that of the chosen "
        "trial. †: in the first or last tenth of the range; a wider one may hold better values."
    )
    rows = []
    for label, choice in own.items():
        default = [trial for trial in choice.trials if trial.number == 0][-1]
        own_value = _number(default.value)
        if choice.best is None:
            state = choice.awaits or "no trial has a result: the row keeps its own settings"
            rows.append([label, MISSING, state, own_value, MISSING, ""])
            continue
        settings = ", ".join(
            f"{name}={shown(value)}{'†' if name in choice.on_border else ''}"
            for name, value in choice.best.settings.items()
        )
        ended = ", ".join(f"{trial.number} {trial.status}" for trial in choice.trials if trial.value is None)
        rows.append([label, str(choice.best.number), settings, own_value, _number(choice.best.value), ended])
    yield ""
    yield from _table(["row", "trial", "settings", "own settings", "chosen", "without a result"], rows)


def _best_of(own: Mapping[str, Choice]) -> Iterator[str]:
    curves = best_of(own)
    most = min(map(len, curves.values()), default=0)
    budgets = [k for k in range(1, most + 1) if k & (k - 1) == 0 or k == most]
    if not budgets:
        yield "The expected best of k trials: no trial of some row has ended yet."
        return
    epochs = next(iter(own.values())).first_rung[0].epochs
    yield (
        f"Expected best of k trials of {plural(epochs, 'epoch')}: the accuracy of the best of k trials, as a mean over "
        "all subsets of k. It shows whether more trials would still help. A trial without a result counts as 0 %. The "
        f"last row is Kendall's tau between the order of the rows after k trials and after {most}: 1 is the same order."
    )
    yield ""
    rows = [[label, *(_number(curve[k - 1]) for k in budgets)] for label, curve in curves.items()]
    taus = rank_stability(list(curves.values()))
    rows.append(["Kendall's tau", *(_number(taus[k - 1]) for k in budgets)])
    yield from _table(["row", *(f"k = {k}" for k in budgets)], rows)


def _sensitivities(own: Mapping[str, Choice]) -> Iterator[str]:
    names = list(dict.fromkeys(name for choice in own.values() for name in choice.space))
    sensitivities = {label: {name: sensitivity(choice, name) for name in choice.space} for label, choice in own.items()}
    limits = [by_chance(choice) for label, choice in own.items() if set(sensitivities[label].values()) - {None}]
    yield (
        "Sensitivity: Spearman's rank correlation of each searched number with the accuracy, over the same trials. At "
        "1, larger values are better throughout; at -1, smaller ones. Trials without a result are left out."
        + (f" Of 20 correlations, one exceeds {max(limits):.2f} by chance, above or below 0." if limits else "")
    )
    yield ""
    rows = [
        [label, *(_number(values[name]) if name in values else "" for name in names)]
        for label, values in sensitivities.items()
    ]
    yield from _table(["row", *names], rows)


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield from markdown_table(
        [MARKDOWN.text(text) for text in head], [[MARKDOWN.text(text) for text in row] for row in rows]
    )
