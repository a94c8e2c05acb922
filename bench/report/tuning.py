"""Writes tuning.csv and tuning.md: every trial of a suite's searches, and what they tell. Imports no torch.

Expected best of k trials: Dodge et al., Show Your Work, EMNLP 2019, here without replacement, which is unbiased: the
mean, over all subsets of k of the n trials, of the best value in the subset.
"""

import math
from collections.abc import Iterator, Sequence

from bench.plan import Cell
from bench.plan.model import Choice, Trial
from bench.plan.tuning import shown
from bench.report.folder import TUNING
from bench.report.frame import Frame
from bench.report.layout import MISSING
from bench.report.markdown import MARKDOWN, grid
from bench.store import Store, csv_text, write_whole
from bench.suite.tuning import TUNED

COLUMNS = ("pair", "label", "trial", "epochs", "seed", "parameters", "dev", "status", "chosen", "run")
MIN_TRIALS = 4  # of which a correlation is computed


def write(frame: Frame, store: Store) -> None:
    """Write both files of a suite that searches settings."""
    folder = store.suite_folder(frame.plan.folder)
    for name, text in zip(TUNING, (to_csv(frame), to_markdown(frame)), strict=True):
        write_whole(folder / name, text)


def searches(frame: Frame) -> list[tuple[Cell, Choice]]:
    """Return the cells whose settings are searched, in the order of the table."""
    return [(cell, cell.choice) for cell in frame.plan.cells if cell.choice is not None]


def to_csv(frame: Frame) -> str:
    """Return tuning.csv: one row per trial and seed; `dev` is the primary metric on the dev images in percent."""

    def rows() -> Iterator[dict[str, object]]:
        for cell, choice in searches(frame):
            for trial in choice.trials:
                for run in trial.runs:
                    metrics = frame.records.get(run.id, {}).get("metrics", {})
                    yield {
                        "pair": cell.pair,
                        "label": cell.label.removesuffix(TUNED),
                        "trial": trial.number,
                        "epochs": trial.epochs,
                        "seed": run.seed,
                        "parameters": settings_text(trial),
                        "dev": metrics.get(next(iter(cell.metrics)), ""),
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
    lines = [f"# {MARKDOWN.text(frame.plan.suite.title)}: tuning", ""]
    lines.append(
        "Numbers are percent on the dev images after the last epoch, the mean over a trial's seeds. Trial 0 has the "
        "row's own settings. A trial without a result counts as 0 %."
    )
    for pair in dict.fromkeys(cell.pair for cell, _ in searches(frame)):
        own = [(cell.label.removesuffix(TUNED), choice) for cell, choice in searches(frame) if cell.pair == pair]
        lines += ["", f"## {MARKDOWN.text(pair)}", "", *_chosen(own), "", *_best_of(own), "", *_sensitivities(own)]
    return "\n".join(lines) + "\n"


def _chosen(own: Sequence[tuple[str, Choice]]) -> Iterator[str]:
    yield "Chosen settings. † in the first or last tenth of the range: a wider one may hold better values."
    yield ""
    rows = []
    for label, choice in own:
        default = [trial for trial in choice.trials if trial.number == 0][-1]
        own_value = _number(default.value)
        if choice.best is not None and default.epochs != choice.best.epochs:
            own_value += f" ({default.epochs} epochs)"
        if choice.best is None:
            state = choice.awaits or "no trial has a result: the row keeps its own settings"
            rows.append([label, MISSING, state, own_value, MISSING, ""])
            continue
        settings = ", ".join(
            f"{name}={shown(value)}{'†' if name in choice.on_border else ''}"
            for name, value in choice.best.settings.items()
        )
        rows.append([label, str(choice.best.number), settings, own_value, _number(choice.best.value)])
        ended = [f"{trial.number} {trial.status}" for trial in choice.trials if trial.value is None]
        rows[-1].append(", ".join(ended))
    yield from _table(["row", "trial", "settings", "own settings", "chosen", "without a result"], rows)


def _best_of(own: Sequence[tuple[str, Choice]]) -> Iterator[str]:
    curves = {
        label: expected_best([trial.value or 0.0 for trial in choice.first_rung if not trial.is_open])
        for label, choice in own
    }
    most = min(map(len, curves.values()), default=0)
    budgets = [k for k in range(1, most + 1) if k & (k - 1) == 0 or k == most]
    if not budgets:
        yield "The expected best of k trials: no trial of some row has a result yet."
        return
    yield (
        "Expected best of k trials: the mean over all subsets of k trials of the first rung. The last row is Kendall's "
        f"tau between the order of the rows after k trials and after {most}: 1 is the same order."
    )
    yield ""
    rows = [[label, *(_number(curve[k - 1]) for k in budgets)] for label, curve in curves.items()]
    taus = rank_stability(list(curves.values()))
    rows.append(["Kendall's tau", *(_number(taus[k - 1]) for k in budgets)])
    yield from _table(["row", *(f"k = {k}" for k in budgets)], rows)


def _sensitivities(own: Sequence[tuple[str, Choice]]) -> Iterator[str]:
    yield "Sensitivity: Spearman's rank correlation of each searched number with the dev metric, over the first rung."
    yield ""
    names = list(dict.fromkeys(name for _, choice in own for name in choice.space))
    rows = [
        [label, *(_number(sensitivity(choice, name)) if name in choice.space else "" for name in names)]
        for label, choice in own
    ]
    yield from _table(["row", *names], rows)


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield from grid([MARKDOWN.text(text) for text in head], [[MARKDOWN.text(text) for text in row] for row in rows])
