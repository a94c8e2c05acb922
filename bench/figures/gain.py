"""What each row gains over the undistilled student of the same seed, a panel per pair and one over all pairs.

Where students are evaluated in several ways, each evaluation has its own panels.
"""

from collections.abc import Iterable, Iterator, Mapping

import pandas as pd
from matplotlib.figure import Figure

from bench.figures.drawing import LABEL_LINE, PARTIAL_NOTE, grid, marked, marks, wrapped
from bench.figures.findings import Findings
from bench.report.crossed import paired
from bench.report.inference import LEVEL, Contrast
from bench.report.statistics import gain_over_pairs
from bench.suite import NONE


def draw(findings: Findings) -> Iterator[tuple[str, Figure]]:
    """Yield the figure, once a row and the undistilled student have a seed in common; the largest gain is on top.

    In a paper's column, each panel is a figure of its own.
    """
    gains = _gains(findings)
    if gains.empty:
        return
    over_all = gains.groupby(["evaluation", "metric", "label", "panel"], sort=False, as_index=False)["gain"].mean()
    over_all = over_all[over_all.groupby("evaluation")["panel"].transform("nunique") > 1]
    over_all = over_all.assign(panel=("all pairs " + over_all["evaluation"]).str.strip())
    panels = {str(panel): own for panel, own in pd.concat([gains, over_all]).groupby("panel", sort=False)}
    means = gains.groupby(["label", "panel"], sort=False)["gain"].mean().groupby("label", sort=False).mean()
    labels = sorted(map(str, means.index), key=lambda label: (-means[label], list(findings.looks).index(label)))
    counts = gains.groupby(["label", "panel"]).size().unstack(fill_value=0)
    whole = (counts == findings.plan.suite.runs_per_row).all(axis=1)
    names = {label: wrapped(marked(label, bool(whole[label])), LABEL_LINE) for label in labels}
    dots = "seeds" if over_all.empty else "seeds; of all pairs: pairs"
    note = f"bar: mean with its {LEVEL:.0%} interval (Student's t); small marks: {dots}"
    notes = ["gain over the undistilled student of the same seed", note, *([] if whole.all() else [PARTIAL_NOTE])]
    if findings.style.has_titles:
        yield "gain", _figure(findings, panels, names, [findings.title, *notes])
        return
    for name, panel in panels.items():
        own = {label: names[label] for label in labels if label in set(panel["label"])}
        title = "gain" if len(panels) == 1 else f"gain_{name}"
        yield title, _figure(findings, {name: panel}, own, [findings.title, name, *notes])


def _figure(
    findings: Findings, panels: Mapping[str, pd.DataFrame], names: Mapping[str, str], heading: Iterable[str]
) -> Figure:
    """Return panels of gains, with a line for each label, in the order of `names`, which has what is written."""
    labels = list(names)
    height = 1.0 + 0.2 * (1 + 0.6 * max(name.count("\n") for name in names.values())) * len(labels)
    titles = list(panels) if len(panels) > 1 or findings.style.has_titles else [""]
    figure, axes = grid(findings.style, titles, 3 if len(panels) > 1 else 1, height, heading, sharey=True)
    of_pairs = _contrasts(findings)
    for axis, (name, panel) in zip(axes, panels.items(), strict=True):
        axis.axvline(0, color="0.6", linewidth=0.8)
        place = panel["label"].map(labels.index)
        marks(axis, panel, findings.looks, x="gain", y=place - 0.15, s=14, alpha=0.6, legend=False)
        for label, values in panel.groupby("label")["gain"]:
            contrast = of_pairs.get((name, str(label))) or gain_over_pairs(list(values), [0.0] * len(values))
            low, high = contrast.interval or (contrast.value, contrast.value)
            reach = None if contrast.interval is None else [[contrast.value - low], [high - contrast.value]]
            style = {**findings.looks[str(label)], "linestyle": "none"}
            axis.errorbar(
                values.mean(), labels.index(str(label)) + 0.18, xerr=reach, capsize=2.5, markersize=4.5, **style
            )
        axis.set_xlabel(f"points of {panel['metric'].iloc[0]}")
        axis.set_ylabel("")
        axis.set_yticks(range(len(labels)), list(names.values()))
        axis.set_ylim(len(labels) - 0.5, -0.5)
        axis.grid(axis="y", color="0.9")
        axis.set_axisbelow(True)
    return figure


def _contrasts(findings: Findings) -> dict[tuple[str, str], Contrast]:
    """Return the gains of rows, by panel and label, with the intervals that the statistics have too."""
    contrasts = {}
    for group, rows in findings.groups.items():
        for row in rows:
            model, plain = findings.frame.models.get(row.contest), row.contest.named(NONE)
            if model is not None and {row.label, plain} <= model.values.keys():
                contrasts[group, row.label] = model.contrast(row.label, plain)
    return {place: one for place, one in contrasts.items() if one is not None}


def _gains(findings: Findings) -> pd.DataFrame:
    """Return the gains in points: a row for each seed that both a row and the undistilled student have."""
    gains = []
    for group, rows in findings.groups.items():
        for row in rows:
            plain = next((one.by_seed for one in rows if one.label == row.contest.named(NONE)), {})
            both = paired(row.by_seed, plain) if row.is_method else []
            differences = [row.by_seed[seed] - plain[other] for seed, other in both]
            gains += [(row.cell.evaluation, row.title, row.label, group, gain) for gain in differences]
    return pd.DataFrame(gains, columns=["evaluation", "metric", "label", "panel", "gain"])
