"""What the figures show, read from their axes."""

import csv
import itertools
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation, Text
from matplotlib.textpath import TextPath
from matplotlib.ticker import AutoLocator, ScalarFormatter
from safetensors.numpy import save
from scipy import stats

from bench.figures import curves, ranks, tsne
from bench.figures.arrangement import arrange
from bench.figures.cka import cka
from bench.figures.cost import COSTS
from bench.figures.drawing import STYLES, grid, number_edges
from bench.figures.findings import Findings
from bench.figures.looks import METHODS as METHOD_ORDER
from bench.figures.looks import look, looks
from bench.figures.parameter import sweeps
from bench.figures.write import FIGURES, _tasks, figures, write_figures
from bench.plan import Cell, Plan
from bench.report import page, statistics_files
from bench.report.folder import note, noted
from bench.report.frame import results_frame
from bench.report.write import write_tables
from bench.store import Failure, Store
from bench.store.files import read_csv
from bench.tasks import task_of
from bench.types import RequestError
from tests.report.test_latex import needs_latex
from tests.stores import METHODS, cell_of, fail, finish, finish_all, plan_of

PAIRS = [{"teacher": "resnet14", "student": "resnet8"}, {"teacher": "resnet20", "student": "resnet8"}]
PAIR = "resnet14-to-resnet8"
GRID = [{"method": "crd", "n_negatives": [4, 16, 64]}]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def drawn(plan: Plan, store: Store) -> dict[str, Figure]:
    return dict(figures(Findings(results_frame(plan, store), store, METHODS)))


def lines(axis: Axes) -> dict[str, Line2D]:
    """Return an axis' lines by their names in the legend."""
    return {str(line.get_label()): line for line in axis.get_lines()}


def points(axis: Axes, label: str) -> list[tuple[float, float]]:
    return [tuple(point) for point in lines(axis)[label].get_xydata().tolist()]


def dots(axis: Axes, number: int = 0) -> dict[str, list[tuple[float, float]]]:
    """Return the points of one of an axis' scatter plots by their colours."""
    plot = [one for one in axis.collections if isinstance(one, PathCollection)][number]
    found: dict[str, list[tuple[float, float]]] = {}
    for colour, (x, y) in zip(plot.get_facecolors(), plot.get_offsets().tolist(), strict=True):
        found.setdefault(to_hex(colour), []).append((x, y))
    return found


def places(axis: Axes) -> dict[str, np.ndarray]:
    """Return the points (n, 2) of an axis' marks by their colours."""
    return {to_hex(line.get_color()): line.get_xydata() for line in axis.get_lines()}


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def names(axis: Axes) -> list[str]:
    """Return what is written at the lines or points of a panel."""
    return [text.get_text() for text in axis.texts if isinstance(text, Annotation)]


def train(store: Store, cell: Cell, columns: Mapping[str, Sequence[Sequence[float]]], stage: str = "main") -> None:
    """Write the epochs of a cell's first runs: by column, a list a seed."""
    for number, run in enumerate(cell.runs[: len(next(iter(columns.values())))]):
        seeds = zip(*(values[number] for values in columns.values()), strict=True)
        rows = [{"stage": stage, "epoch": i} | dict(zip(columns, row, strict=True)) for i, row in enumerate(seeds, 1)]
        store.begin(run)
        store.write_epochs(run.id, [{"loss": 0.0, **row} for row in rows])


def answer(store: Store, cell: Cell, correlation: np.ndarray, seed: int = 0, **others: np.ndarray) -> None:
    whole = {"correlation": correlation.astype(np.float32), **others}
    store.write(cell.runs[seed].id, "outputs.safetensors", save(whole))


def evaluated(folder: Path, methods: Sequence[object], **others: object) -> Plan:
    """Return the plan of a suite whose students are evaluated by linear probes of two stages."""
    evaluation = {"data": {"name": "photo_patches"}, "stages": [1, 3], "training": {"epochs": 1}}
    task = {"task": "cross_modal", "data": {"name": "photo_patches", "view": "chrominance"}}
    views = {"teacher_data": {"name": "photo_patches", "view": "luminance"}}
    return plan_of(folder, **task | views | {"evaluations": [evaluation]} | others, methods=methods)


# which figures there are


def test_a_suite_without_numbers_has_no_figure_and_no_folder_for_them(tmp_path, store):
    plan = plan_of(tmp_path, methods=["kd", *GRID], pairs=PAIRS)
    fail(store, cell_of(plan, "KD"), "failed", "no")
    assert write_figures(results_frame(plan, store), store, METHODS) == []
    assert not store.suite_folder(plan.name).exists()


def test_a_half_finished_suite_draws_what_is_there(tmp_path, store):
    plan = plan_of(tmp_path, methods=["kd", "at"], pairs=PAIRS, seeds=2)
    finish(store, cell_of(plan, "none"), [70.0])
    finish(store, cell_of(plan, "KD"), [72.0])
    train(store, cell_of(plan, "AT"), {"top1": [[10.0]], "ce": [[2.0]]})
    assert sorted(drawn(plan, store)) == [f"curves_{PAIR}", "gain"]


def test_every_figure_is_written_as_pdf_and_svg_and_the_same_store_gives_the_same_bytes(tmp_path, store):
    plan = plan_of(tmp_path)
    finish_all(store, plan, {"teacher": [90.0], "none": [70.0], "KD": [72.0]})
    paths = write_figures(results_frame(plan, store), store, METHODS)
    assert [path.name for path in paths] == ["gain.pdf", "gain.svg"]
    first = [path.read_bytes() for path in paths]
    assert [content[:4] for content in first] == [b"%PDF", b"<?xm"]
    assert [path.read_bytes() for path in write_figures(results_frame(plan, store), store, METHODS)] == first


def test_a_figure_that_no_longer_applies_goes_and_nothing_else_does(tmp_path, store):
    plan = plan_of(tmp_path)
    finish_all(store, plan, {"teacher": [90.0], "none": [70.0], "KD": [72.0]})
    folder = write_figures(results_frame(plan, store), store, METHODS)[0].parent
    gone = ["curves_gone.pdf", "curves_gone.svg", "gain.png"]  # png: as earlier versions wrote
    for name in (*gone, "own.png", "notes.txt"):
        (folder / name).write_text("")
    (folder / "x.png").mkdir()
    note(plan, store, figures=[*gone, "x.png"])
    write_figures(results_frame(plan, store), store, METHODS)
    kept = ["gain.pdf", "gain.svg", "notes.txt", "own.png", "x.png"]
    assert sorted(path.name for path in folder.iterdir()) == kept


def test_the_files_of_a_figure_that_fails_stay_until_it_is_drawn_again(tmp_path, store, monkeypatch):
    plan = plan_of(tmp_path)
    finish_all(store, plan, {"teacher": [90.0], "none": [70.0], "KD": [72.0]})
    written = write_figures(results_frame(plan, store), store, METHODS)
    failed: list[Exception] = []
    with monkeypatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda *_, **__: 1 / 0)
        assert write_figures(results_frame(plan, store), store, METHODS, failed) == []
    assert len(failed) == 1
    assert sorted(written[0].parent.iterdir()) == sorted(written)
    assert sorted(noted(written[0].parents[1]).figures) == sorted(path.name for path in written)


def test_labels_and_titles_are_drawn_as_they_are_written(tmp_path, store):
    plan = plan_of(tmp_path, title=r"$\bar$", methods=[{"method": "kd", "label": r"$\foo$"}])
    finish_all(store, plan, {"teacher": [90.0], "none": [70.0], r"$\foo$": [72.0]})
    assert len(write_figures(results_frame(plan, store), store, METHODS)) == 2


def test_looks_differ_in_grey_and_a_row_keeps_its_own_in_every_figure(tmp_path, store):
    some = [look(number) for number in range(40)]
    assert len({(str(one["linestyle"]), one["marker"]) for one in some}) == len(some)
    plan = plan_of(tmp_path, methods=["kd", "at"], pairs=PAIRS)
    train(store, cell_of(plan, "AT"), {"top1": [[1.0]]})
    train(store, cell_of(plan, "AT", "resnet20->resnet8"), {"top1": [[1.0]]})
    styles = [lines(figure.axes[0])["AT"] for figure in drawn(plan, store).values()]
    assert len(styles) == 2
    own = look(METHOD_ORDER.index("at"))
    assert {(line.get_color(), line.get_marker()) for line in styles} == {(own["color"], own["marker"])}


def test_the_rows_of_all_methods_have_colours_of_their_own(tmp_path, store):
    rows = {name: name for name in METHODS} | {"CRD n_negatives=4": "", "CRD n_negatives=16": ""}
    colours = {one["color"] for one in looks(rows).values()}
    assert len(colours) == len(rows) >= 26


def test_a_row_has_the_same_look_whatever_other_rows_there_are(tmp_path, store):
    alone, beside = ({"AT": "at", "mine": ""}, {"KD": "kd", "SP": "sp", "AT": "at", "mine": ""})
    assert looks(alone).items() <= looks(beside).items()


# how they are drawn


def test_each_pair_can_be_drawn_alone_by_another_process(tmp_path, store):
    plan = plan_of(tmp_path, pairs=PAIRS)
    finish_all(store, plan, {"teacher": [90.0], "none": [70.0], "KD": [72.0]})
    for cell in plan.cells:
        train(store, cell, {"top1": [[10.0, 70.0]], "ce": [[2.0, 1.0]]})
    findings = Findings(results_frame(plan, store), store, METHODS)
    assert [name for name, _ in figures(findings, [curves.draw])] == [f"curves_{PAIR}", "curves_resnet20-to-resnet8"]
    alone = pickle.loads(pickle.dumps(replace(findings, pair="resnet14->resnet8")))
    ((name, sent),) = figures(alone, [curves.draw])
    assert name == f"curves_{PAIR}"
    assert points(sent.axes[0], "KD") == points(drawn(plan, store)[name].axes[0], "KD") == [(1, 10.0), (2, 70.0)]


def test_the_lowest_panel_of_each_column_has_numbers_even_above_an_empty_place():
    _, axes = grid(STYLES["page"], list("abcde"), 3, 1.0, [])
    number_edges(axes)
    assert [axis.get_title() for axis in axes if axis.xaxis.get_tick_params()["labelbottom"]] == ["c", "d", "e"]
    assert [axis.get_title() for axis in axes if axis.yaxis.get_tick_params()["labelleft"]] == ["a", "d"]


def test_of_many_pairs_those_of_which_a_run_has_begun_are_looked_at(tmp_path, store):
    plan = plan_of(tmp_path, pairs=PAIRS)
    train(store, cell_of(plan, "KD"), {"top1": [[10.0, 70.0]], "ce": [[2.0, 1.0]]})
    findings = Findings(results_frame(plan, store), store, METHODS)
    assert {of_task.pair for of_task, _ in _tasks(findings, FIGURES)} == {"", "resnet14->resnet8"}


@pytest.mark.slow
@pytest.mark.parametrize("forks", [True, False])
def test_figures_that_several_processes_draw_are_those_of_one(forks, tmp_path, store, monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")
    monkeypatch.setattr("bench.figures.parallel.can_fork", lambda: forks)
    plan = plan_of(tmp_path, pairs=PAIRS)
    finish_all(store, plan, {"teacher": [90.0], "none": [70.0], "KD": [72.0]})
    for cell in plan.cells:
        train(store, cell, {"top1": [[10.0, 70.0]], "ce": [[2.0, 1.0]]})
    frame = results_frame(plan, store)
    alone = {path.name: path.read_bytes() for path in write_figures(frame, store, METHODS)}
    assert len(alone) > 4
    assert {path.name: path.read_bytes() for path in write_figures(frame, store, METHODS, many_cells=1)} == alone


@pytest.mark.slow
def test_what_a_report_computes_while_other_processes_draw_leaves_their_figures(tmp_path, store, monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")
    monkeypatch.setattr("bench.figures.parallel.can_fork", lambda: False)  # what a fork has is not sent
    plan = plan_of(tmp_path, methods=["kd", "at"])
    for cell in plan.cells:
        finish(store, cell, [70.0])

    class Meanwhile(str):
        def __reduce__(self):
            assert frame.labels  # as if the caller asked for them while the results are sent
            return str, (str(self),)

    frame = replace(results_frame(plan, store), aside=Meanwhile())
    failed = []
    assert write_figures(frame, store, METHODS, failed, many_cells=1)
    assert failed == []


def test_ticks_that_are_the_same_in_all_formats_are_those_that_matplotlib_chooses(tmp_path, store):
    plan = plan_of(tmp_path)
    train(store, cell_of(plan, "KD"), {"top1": [[10.0, 70.0]], "ce": [[2e7, 1e7]]})
    figure = drawn(plan, store)[f"curves_{PAIR}"]
    arrange(figure)
    vertical = figure.axes[1].yaxis
    fixed = [text.get_text() for text in vertical.get_ticklabels()]
    assert vertical.get_major_formatter().get_offset() == "1e7"
    vertical.set_major_locator(AutoLocator())
    vertical.set_major_formatter(ScalarFormatter())
    assert fixed == [text.get_text() for text in vertical.get_ticklabels()] != []


def test_tuned_rows_leave_the_others_their_looks(tmp_path, store):
    methods = ["kd", {"method": "crd", "n_negatives": 8, "label": "CRD"}]
    tuned = plan_of(tmp_path, methods=methods, tuning={"trials": 2, "dev_per_class": 3})
    plain, beside = (
        Findings(results_frame(plan, store), store, METHODS).looks
        for plan in (plan_of(tmp_path, methods=methods), tuned)
    )
    assert plain.items() <= beside.items()
    assert len({one["color"] for one in beside.values()}) == len(beside) == 7


def test_the_lowest_panel_of_each_column_has_the_numbers_of_its_axis():
    _, axes = grid(STYLES["page"], list("abcde"), 4, 1.0, [], sharex=True)
    assert [bool(axis.xaxis.get_tick_params()["labelbottom"]) for axis in axes] == [False, False, True, True, True]


# the style for papers


def test_figures_for_a_paper_are_a_column_wide_and_their_titles_are_in_the_captions(tmp_path, store):
    plan = plan_of(tmp_path, pairs=PAIRS)
    finish_all(store, plan, {"teacher": [90.0], "none": [70.0], "KD": [72.0]})
    frame = results_frame(plan, store)
    found = dict(figures(Findings(frame, store, METHODS, STYLES["paper"])))
    assert list(found) == ["gain_resnet14-to-resnet8", "gain_resnet20-to-resnet8", "gain_all_pairs"]
    assert {figure.get_figwidth() for figure in found.values()} == {3.3}
    assert not any(figure.get_suptitle() or figure.axes[0].get_title() for figure in found.values())
    write_figures(frame, store, METHODS, style="paper")
    folder = store.suite_folder(plan.name) / "figures"
    (whole, *_) = (folder / "paper" / "captions.md").read_text().splitlines()
    assert whole.startswith(
        "- `gain_resnet14-to-resnet8`: A table. resnet14->resnet8. gain over the undistilled student"
    )
    assert (folder / "gain.svg").exists()
    assert {path.suffix for path in (folder / "paper").glob("gain_all_pairs.*")} == {".pdf", ".svg"}


def test_figures_for_a_paper_are_drawn_again_with_the_others(tmp_path, store):
    plan = plan_of(tmp_path)
    finish(store, cell_of(plan, "none"), [70.0])
    finish(store, cell_of(plan, "KD"), [72.0])
    write_figures(results_frame(plan, store), store, METHODS, style="paper")
    file = store.suite_folder(plan.name) / "figures" / "paper" / "gain.svg"
    before = file.read_bytes()
    finish(store, cell_of(plan, "KD"), [74.0])
    write_figures(results_frame(plan, store), store, METHODS)
    assert file.read_bytes() != before


@needs_latex
def test_a_paper_can_include_the_figures(tmp_path, store):
    plan = plan_of(tmp_path)
    finish_all(store, plan, {"teacher": [90.0], "none": [70.0], "KD": [72.0]})
    write_figures(results_frame(plan, store), store, METHODS, style="paper")
    figure = store.suite_folder(plan.name) / "figures" / "paper" / "gain.pdf"
    shutil.copy(figure, tmp_path / "gain.pdf")
    body = r"\includegraphics[width=\columnwidth]{gain.pdf}"
    (tmp_path / "paper.tex").write_text(
        rf"\documentclass[twocolumn]{{article}}\usepackage{{graphicx}}\begin{{document}}\noindent{body}\end{{document}}"
    )
    done = subprocess.run(["pdflatex", "-interaction=batchmode", "paper.tex"], cwd=tmp_path, check=False)
    assert done.returncode == 0
    assert "Overfull" not in (tmp_path / "paper.log").read_text()


# names at lines and points


def test_names_at_lines_and_points_do_not_cover_each_other(tmp_path, store):
    plan = plan_of(tmp_path, methods=["kd", "at", "sp", "cc"])
    for label in ("KD", "AT", "SP", "CC"):
        train(store, cell_of(plan, label), {"top1": [[10.0, 70.0]], "ce": [[2.0, 1.0]]})
        finish(store, cell_of(plan, label), [70.0])
    write_cost(plan, store, [{"pair": cell.pair, "label": cell.label, "stage": "main"} for cell in plan.cells])
    found = drawn(plan, store)
    for name in (f"curves_{PAIR}", f"accuracy_cost_{PAIR}"):
        arrange(found[name])
        texts = [one for one in found[name].axes[0].texts if isinstance(one, Annotation)]
        assert len(texts) == 4
        for text in texts:
            text.update_positions(FigureCanvasAgg(found[name]).get_renderer())
        boxes = [Text.get_window_extent(text) for text in texts]  # without the lines to what they name
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


# learning curves


def test_a_curve_is_the_mean_over_seeds_with_a_band_of_a_standard_deviation(tmp_path, store):
    plan = plan_of(tmp_path, seeds=2)
    train(store, cell_of(plan, "KD"), {"top1": [[10.0, 20.0], [30.0, 40.0]], "ce": [[2.0, 1.0], [4.0, 1.0]]})
    figure = drawn(plan, store)[f"curves_{PAIR}"]
    tested, loss = figure.axes
    assert points(tested, "KD") == [(1, 20), (2, 30)]
    assert points(loss, "KD") == [(1, 3), (2, 1)]
    (band,) = tested.collections
    deviation = 20 / 2**0.5
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((20 - deviation, 30 + deviation))
    assert tested.get_ylabel() == "top-1 accuracy on the test split (%)"
    assert loss.get_ylabel() == "cross-entropy in training"


def test_epochs_without_an_evaluation_and_those_of_an_initial_stage_are_no_points(tmp_path, store):
    plan = plan_of(tmp_path, methods=["ab"])
    run = cell_of(plan, "AB").runs[0]
    rows = [{"stage": "initial", "epoch": 1, "loss": 9.0}, {"stage": "main", "epoch": 1, "loss": 3.0, "ce": 3.0}]
    store.write_epochs(run.id, [*rows, {"stage": "main", "epoch": 2, "loss": 2.0, "ce": 2.0, "top1": 50.0}])
    tested, loss = drawn(plan, store)[f"curves_{PAIR}"].axes
    assert points(tested, "AB") == [(2, 50)]
    assert points(loss, "AB") == [(1, 3), (2, 2)]


def test_one_evaluation_alone_is_marked_at_its_epoch(tmp_path, store):
    plan = plan_of(tmp_path)
    train(store, cell_of(plan, "KD"), {"top1": [[np.nan, np.nan, 10.0]], "ce": [[2.0, 1.0, 0.5]]})
    figure = drawn(plan, store)[f"curves_{PAIR}"]
    for axis in figure.axes:
        shown = [tick for tick in axis.get_xticks() if axis.get_xlim()[0] <= tick <= axis.get_xlim()[1]]
        assert shown == [1, 2, 3]


def test_the_teachers_accuracy_is_a_line_through_the_curves(tmp_path, store):
    plan = plan_of(tmp_path)
    finish(store, cell_of(plan, "teacher"), [90.0])
    train(store, cell_of(plan, "KD"), {"top1": [[10.0]], "ce": [[2.0]]})
    figure = drawn(plan, store)[f"curves_{PAIR}"]
    assert set(lines(figure.axes[0])["teacher"].get_ydata()) == {90}
    assert names(figure.axes[0]) == ["KD", "teacher"]


def test_many_rows_have_a_panel_each_the_best_first_and_all_others_are_a_grey_area(tmp_path, store):
    labels = ["KD", "AT", "SP", "CC", "VID", "RKD", "PKT", "AB"]
    plan = plan_of(tmp_path, methods=[label.lower() for label in labels])
    for number, label in enumerate(labels):
        train(store, cell_of(plan, label), {"top1": [[10.0, 20.0 + number]], "ce": [[2.0, 1.0 + number]]})
    found = drawn(plan, store)
    tested, loss = found[f"curves_{PAIR}"], found[f"curves_loss_{PAIR}"]
    assert [axis.get_title().split()[0] for axis in tested.axes] == labels[::-1]
    assert [axis.get_title().split()[0] for axis in loss.axes] == labels
    (grey, *_), line = tested.axes[0].collections, tested.axes[0].get_lines()[-1]
    assert line.get_ydata().tolist() == [10, 27]
    heights = grey.get_paths()[0].vertices
    assert {tuple(one) for one in heights.tolist()} >= {(1, 10), (2, 20), (2, 27)}


def test_of_many_rows_one_evaluation_alone_is_marked(tmp_path, store):
    labels = ["KD", "AT", "SP", "CC", "VID", "RKD", "PKT", "AB"]
    plan = plan_of(tmp_path, methods=[label.lower() for label in labels])
    for label in labels:
        train(store, cell_of(plan, label), {"top1": [[np.nan, 20.0]], "ce": [[2.0, 1.0]]})
    found = drawn(plan, store)
    assert {axis.get_lines()[-1].get_marker() for axis in found[f"curves_{PAIR}"].axes} == {"o"}
    assert {axis.get_lines()[-1].get_marker() for axis in found[f"curves_loss_{PAIR}"].axes} == {"None"}


def test_the_teachers_band_is_as_wide_as_the_epochs(tmp_path, store):
    plan = plan_of(tmp_path, seeds=2, teacher_seeds="paired")
    finish(store, cell_of(plan, "teacher"), [90.0, 92.0])
    train(store, cell_of(plan, "KD"), {"top1": [[np.nan, 10.0, 20.0]] * 2, "ce": [[2.0, 1.0, 1.0]] * 2})
    *_, band = drawn(plan, store)[f"curves_{PAIR}"].axes[0].collections
    across = band.get_paths()[0].vertices[:, 0]
    assert (across.min(), across.max()) == (2, 3)


def test_a_loss_that_grew_beyond_all_bounds_leaves_the_others_their_room(tmp_path, store):
    plan = plan_of(tmp_path, methods=["kd", "at"])
    train(store, cell_of(plan, "KD"), {"ce": [[4.0, 2.0, 1.0]]})
    train(store, cell_of(plan, "AT"), {"ce": [[4.0, 5.0, 1e12]]})
    store.fail(cell_of(plan, "AT").runs[0].id, Failure("diverged", "the loss is not finite"))
    (axis,) = drawn(plan, store)[f"curves_{PAIR}"].axes
    low, high = axis.get_ylim()
    assert 0.8 < low < 1
    assert 4 < high < 4.2
    assert points(axis, "AT") == [(1, 4), (2, 5), (3, 1e12)]


# gain


def test_gains_are_over_the_undistilled_student_of_the_same_seed(tmp_path, store):
    plan = plan_of(tmp_path, seeds=4)
    finish(store, cell_of(plan, "none"), [70.0, 71.0, 72.0])
    finish(store, cell_of(plan, "KD"), [71.0, 74.0, 73.0, 99.0])
    (axis,) = drawn(plan, store)["gain"].axes
    (strip,) = dots(axis).values()
    assert [x for x, _ in strip] == [1, 3, 1]
    (bar,) = axis.containers
    ((low, _), (high, _)) = bar.lines[2][0].get_segments()[0]
    expected = stats.ttest_1samp([1, 3, 1], 0).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high))


def test_page_statistics_and_figure_show_the_same_interval_of_a_gain(tmp_path, store):
    plan = plan_of(tmp_path, seeds=3)
    finish_all(store, plan, {"teacher": [90.0], "none": [70.0, 71.0, 72.0], "KD": [71.0, 74.0, 73.0]})
    frame = write_tables(plan, store)
    statistics_files.write(frame)
    (row,) = [
        one
        for one in read_csv(frame.folder / "statistics.csv")
        if (one["statistic"], one["metric"], one["label"], one["reference"]) == ("gain", "top1", "KD", "none")
    ]
    low, high = float(row["low"]), float(row["high"])
    (bar,) = drawn(plan, store)["gain"].axes[0].containers
    ((left, _), (right, _)) = bar.lines[2][0].get_segments()[0]
    assert (left, right) == pytest.approx((low, high), abs=1e-4)
    cells = re.findall(r'<td data-value="([^"]*)">([^<]*)</td>', page.render(frame))
    assert (row["low"], f"{low:+.2f} to {high:+.2f}") in cells
    assert f"{low:+.2f} to {high:+.2f}" in (frame.folder / "statistics.md").read_text("utf-8")


def test_a_row_whose_seeds_are_not_all_there_is_marked_wherever_its_mean_is_drawn(tmp_path, store):
    plan = plan_of(tmp_path, methods=["kd", *GRID], seeds=2)
    finish(store, cell_of(plan, "none"), [70.0, 71.0])
    finish(store, cell_of(plan, "KD"), [72.0])
    train(store, cell_of(plan, "KD"), {"top1": [[10.0, 20.0], [10.0, np.nan]], "ce": [[2.0, 1.0], [2.0, 1.0]]})
    for n, top1 in ((4, [70.0, 70.0]), (16, [71.0])):
        finish(store, cell_of(plan, f"CRD n_negatives={n}"), top1)
    write_cost(plan, store, [{"pair": "resnet14->resnet8", "label": "KD", "stage": "main"}])
    found = drawn(plan, store)
    rows = [text.get_text() for text in found["gain"].axes[0].get_yticklabels()]
    assert rows == ["KD †", "CRD n_negatives=16 †", "CRD n_negatives=4"]
    assert "† not all seeds are there" in found["gain"].get_suptitle()
    assert names(found[f"curves_{PAIR}"].axes[0]) == ["KD †"]
    assert names(found[f"accuracy_cost_{PAIR}"].axes[0]) == ["KD †"]
    assert names(found["parameter_crd_n_negatives"].axes[0]) == ["CRD †", "none"]
    assert found["parameter_crd_n_negatives"].legends[0].get_title().get_text() == "† not all seeds are there"


def test_a_row_that_is_not_in_all_pairs_is_marked_where_there_is_a_mean_over_them(tmp_path, store):
    plan = plan_of(tmp_path, pairs=PAIRS, methods=["kd", "at"])
    for cell in plan.cells:
        if (cell.label, cell.teacher) != ("AT", "resnet20"):
            finish(store, cell, [70.0])
    axis = drawn(plan, store)["gain"].axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["KD", "AT †"]


def test_over_several_pairs_each_pair_is_a_dot(tmp_path, store):
    plan = plan_of(tmp_path, pairs=PAIRS, seeds=2)
    finish(store, cell_of(plan, "none"), [70.0, 70.0])
    finish(store, cell_of(plan, "KD"), [71.0, 73.0])
    finish(store, cell_of(plan, "KD", "resnet20->resnet8"), [75.0, 75.0])
    axes = drawn(plan, store)["gain"].axes
    assert [axis.get_title() for axis in axes] == ["resnet14->resnet8", "resnet20->resnet8", "all pairs"]
    assert [[x for x, _ in strip] for strip in dots(axes[2]).values()] == [[2, 5]]


def test_each_way_in_which_pairs_are_evaluated_has_its_own_mean_over_them(tmp_path, store):
    plan = evaluated(tmp_path, ["kd"], pairs=PAIRS)
    finish_all(store, plan, {"teacher": [90.0], "none": [80.0], "KD": [85.0]})
    titles = [axis.get_title() for axis in drawn(plan, store)["gain"].axes]
    groups = [
        f"{pair} {stage}" for pair in ("resnet14->resnet8", "resnet20->resnet8") for stage in ("stage1", "stage3")
    ]
    assert titles == [*groups, "all pairs stage1", "all pairs stage3"]


def test_gains_of_several_metrics_are_each_told_by_its_own(tmp_path, store):
    evaluations = [{"kind": "segmentation", "data": "stereo_motorcycle"}, {"data": "photo_patches", "stages": [1]}]
    plan = evaluated(tmp_path, ["kd"], evaluations=[{**one, "training": {"epochs": 1}} for one in evaluations])
    finish_all(store, plan, {"teacher": [90.0], "none": [80.0], "KD": [85.0]})
    axes = drawn(plan, store)["gain"].axes
    assert [axis.get_xlabel() for axis in axes] == ["points of mIoU", "points of top-1 accuracy"]


def test_long_names_neither_overlap_nor_leave_the_figure(tmp_path, store):
    label = "a label of as many characters as there can be, which is 60."
    plan = plan_of(tmp_path, pairs=PAIRS, methods=["kd", {"method": "at", "label": label}])
    finish_all(store, plan, {cell.label: [70.0] for cell in plan.cells})
    write_cost(plan, store, [{"pair": cell.pair, "label": cell.label, "stage": "main"} for cell in plan.cells])
    for name in ("gain", "cost"):
        figure = drawn(plan, store)[name]
        figure.draw_without_rendering()
        texts = [text for axis in figure.axes for text in (axis.title, *axis.get_yticklabels()) if text.get_text()]
        boxes = [text.get_window_extent() for text in texts]
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
        assert min(box.x0 for box in boxes) >= 0
        assert max(box.x1 for box in boxes) <= figure.bbox.width


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("label", ["CRD+KD (tuned)", "none, +5 epochs", "WWWWWWWWWW", "ffffffffff", "1111111111"])
def test_texts_are_measured_at_least_as_wide_as_pdf_and_svg_draw_them(label, style):
    with mpl.rc_context(STYLES[style].rc):
        figure = Figure()
        text = figure.text(0, 0, label)
        arrange(figure)
        drawn_width = TextPath((0, 0), label, prop=text.get_fontproperties()).get_extents().width  # points
        assert text.get_window_extent().width / figure.dpi * 72 >= 0.99 * drawn_width


def test_one_pair_has_no_mean_over_pairs_however_it_is_evaluated(tmp_path, store):
    plan = evaluated(tmp_path, ["kd"])
    finish_all(store, plan, {"teacher": [90.0], "none": [80.0], "KD": [85.0]})
    titles = [axis.get_title() for axis in drawn(plan, store)["gain"].axes]
    assert titles == ["resnet14->resnet8 stage1", "resnet14->resnet8 stage3"]


# ranks


RANKED = {"KD": (74,) * 4 + (73,) * 2, "AT": (73,) * 4 + (74,) * 2, "SP": (72,) * 6}  # top-1 accuracy by pair


def ranked(folder: Path, store: Store) -> Plan:
    """Return the plan of a suite in whose finished pairs the rows are ranked."""
    pairs = [
        {"teacher": name, "student": "resnet8"}
        for name in ("resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110")
    ]
    plan = plan_of(folder, methods=["kd", "at", "sp"], pairs=pairs)
    for number, pair in enumerate(dict.fromkeys(cell.pair for cell in plan.cells)):
        for label, top1 in RANKED.items():
            finish(store, cell_of(plan, label, pair), [top1[number]])
    finish(store, cell_of(plan, "none"), [70.0])
    return plan


def test_rows_are_ranked_over_pairs_and_those_that_do_not_differ_are_joined(tmp_path, store):
    plan = ranked(tmp_path, store)
    figure = drawn(plan, store)["critical_difference_top1"]
    (axis,) = figure.axes
    table = np.array([*RANKED.values(), (70,) * 6]).T
    means = stats.rankdata(-table, axis=1).mean(axis=0)
    texts = {text.get_text().strip() for text in axis.texts}
    left = {f"{label}  {rank:.2f}" for label, rank in zip(RANKED, means, strict=False) if rank < 2}
    assert left == {"KD  1.33", "AT  1.67"} < texts
    assert {"3.00  SP", "4.00  none"} < texts
    difference = 2.569 * (4 * 5 / (6 * 6)) ** 0.5  # Demsar 2006, table 5: q of 4 classifiers at 5 %
    assert f"critical difference {difference:.2f}" in texts
    bars = [line.get_xdata() for line in axis.get_lines() if len(set(line.get_ydata())) == 1]
    joined = {tuple(round(float(rank), 2) for rank in bar) for bar in bars}
    assert {(1.33, 1.67, 3.0), (3.0, 4.0)} <= joined
    assert (1.67, 3.0, 4.0) not in joined  # AT and none differ
    assert f"p = {stats.friedmanchisquare(*table.T).pvalue:.2g}" in figure.get_suptitle()


def svg_of_ranks(folder: Path) -> bytes:
    store = Store(folder)
    with mpl.rc_context(STYLES["page"].rc):
        findings = Findings(results_frame(ranked(folder, store), store), store, METHODS)
        found = dict(figures(findings, [ranks.draw]))
        found["critical_difference_top1"].savefig(folder / "figure.svg", metadata={"Date": None})
    return (folder / "figure.svg").read_bytes()


def test_the_figure_of_ranks_does_not_depend_on_the_order_in_which_python_keeps_a_set(tmp_path):
    code = "from pathlib import Path; from tests.figures.test_figures import svg_of_ranks; svg_of_ranks(Path('.'))"
    variables = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}  # here, another seed
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "there", env=variables, check=True)
    assert svg_of_ranks(tmp_path / "here") == (tmp_path / "there" / "figure.svg").read_bytes()


def test_one_pair_has_no_ranks(tmp_path, store):
    plan = plan_of(tmp_path, methods=["kd", "at"])
    finish_all(store, plan, {"teacher": [90.0], "none": [70.0], "KD": [72.0], "AT": [71.0]})
    assert "critical_difference_top1" not in drawn(plan, store)


# a metric by a parameter


def test_rows_that_differ_in_one_number_are_a_curve_by_it(tmp_path, store):
    plan = plan_of(tmp_path, methods=GRID, seeds=2)
    finish(store, cell_of(plan, "none"), [60.0, 62.0])
    for n, top1 in ((4, 70.0), (16, 72.0), (64, 74.0)):
        finish(store, cell_of(plan, f"CRD n_negatives={n}"), [top1, top1 + 2])
    (axis,) = drawn(plan, store)["parameter_crd_n_negatives"].axes
    assert points(axis, "CRD") == [(4, 71), (16, 73), (64, 75)]
    assert set(lines(axis)["none"].get_ydata()) == {61}
    assert axis.get_xscale() == "log"
    assert [text.get_text() for text in axis.get_xticklabels()] == ["4", "16", "64"]
    assert axis.get_xlabel() == "n_negatives (default 16384)"
    assert "default" not in lines(axis)  # beyond the curve


def test_a_default_among_the_values_is_marked_and_less_than_a_decade_is_a_plain_axis(tmp_path, store):
    plan = plan_of(tmp_path, methods=[{"method": "kd", "temperature": [2.0, 4.0, 8.0]}])
    for label in ("KD temperature=2", "KD temperature=8"):
        finish(store, cell_of(plan, label), [70.0])
    (axis,) = drawn(plan, store)["parameter_kd_temperature"].axes
    assert points(axis, "KD") == [(2, 70), (8, 70)]
    assert any(set(line.get_xdata()) == {4} for line in axis.get_lines())
    assert axis.get_xscale() == "linear"


def test_a_weight_is_a_parameter_too(tmp_path, store):
    plan = plan_of(tmp_path, methods=[{"method": "at", "weight": [10.0, 1000.0]}])
    assert list(sweeps(Findings(results_frame(plan, store), store, METHODS))) == [("at", "weight")]


def test_of_a_grid_of_two_numbers_each_has_a_figure_with_a_line_for_each_value_of_the_other(tmp_path, store):
    plan = plan_of(tmp_path, methods=[{"method": "crd", "n_negatives": [4, 8], "temperature": [0.1, 0.2]}])
    finish_all(store, plan, {cell.label: [70.0] for cell in plan.cells})
    found = drawn(plan, store)
    assert {"temperature=0.1", "temperature=0.2"} < set(lines(found["parameter_crd_n_negatives"].axes[0]))
    assert {"n_negatives=4", "n_negatives=8"} < set(lines(found["parameter_crd_temperature"].axes[0]))


def test_each_pair_has_a_line_and_an_undistilled_student(tmp_path, store):
    plan = plan_of(tmp_path, methods=GRID, pairs=PAIRS)
    finish_all(store, plan, {cell.label: [70.0] for cell in plan.cells})
    (axis,) = drawn(plan, store)["parameter_crd_n_negatives"].axes
    pairs = [f"{pair['teacher']}->resnet8" for pair in PAIRS]
    assert {*pairs, *(f"none, {pair}" for pair in pairs)} <= set(lines(axis))


def test_a_pairs_undistilled_student_has_the_colour_of_the_pairs_first_line(tmp_path, store):
    grid = [{"method": "crd", "n_negatives": [4, 8], "temperature": [0.1, 0.2]}]
    plan = plan_of(tmp_path, methods=grid, pairs=PAIRS)
    finish_all(store, plan, {cell.label: [70.0] for cell in plan.cells})
    found = lines(drawn(plan, store)["parameter_crd_n_negatives"].axes[0])
    names = [f"{pair['teacher']}->resnet8" for pair in PAIRS]
    colours = [found[f"{name}, temperature=0.1"].get_color() for name in names]
    assert colours[0] != colours[1]
    assert [found[f"none, {name}"].get_color() for name in names] == colours


def test_rows_of_other_task_weights_are_lines_of_their_own(tmp_path, store):
    plain, other = {"method": "kd", "temperature": [2.0, 8.0]}, {"method": "kd", "temperature": [4.0, 8.0]}
    plan = plan_of(tmp_path, methods=[plain, {**other, "task_weight": 1.0}])
    finish_all(store, plan, {cell.label: [90.0 if cell.runs[0].task_weight == 1 else 70.0] for cell in plan.cells})
    (axis,) = drawn(plan, store)["parameter_kd_temperature"].axes
    assert points(axis, "task_weight=0.1") == [(2, 70), (8, 70)]
    assert points(axis, "task_weight=1.0") == [(4, 90), (8, 90)]


def test_rows_that_differ_in_words_or_in_two_numbers_are_no_curve(tmp_path, store):
    words = {"method": "crd", "objective": ["crd", "infonce"]}
    plan = plan_of(tmp_path, methods=[words, {"method": "crd", "n_negatives": 4, "temperature": 0.2}, "kd"])
    assert sweeps(Findings(results_frame(plan, store), store, METHODS)) == {}


def test_a_parameter_of_what_was_trained_has_a_curve_for_each_way_in_which_it_is_evaluated(tmp_path, store):
    plan = evaluated(tmp_path, [{"method": "crd", "n_negatives": [4, 8], "negatives": "other_sample"}])
    finish_all(store, plan, {cell.label: [70.0] for cell in plan.cells})
    (axis,) = drawn(plan, store)["parameter_crd_n_negatives"].axes
    names = [f"resnet14->resnet8 stage{stage}" for stage in (1, 3)]
    assert {*names, *(f"none, {name}" for name in names)} <= set(lines(axis))


def test_of_networks_that_teach_each_other_the_students_are_drawn(tmp_path, store):
    plan = plan_of(tmp_path, task="mutual", methods=[{"method": "kd", "temperature": [2.0, 4.0]}])
    for run in plan.runs.values():
        store.begin(run)
        metrics = {name: 90.0 if name.startswith("peer") else 70.0 for name in task_of(run).recorded}
        store.finish(run.id, {"metrics": metrics, "best": None})
    (axis,) = drawn(plan, store)["parameter_kd_temperature"].axes
    assert points(axis, "KD") == [(2, 70), (4, 70)]


# several teachers


def test_the_error_falls_along_the_number_of_teachers(tmp_path, store):
    pairs = [{"teachers": {"network": "resnet14", "n": n}, "student": "resnet8"} for n in (1, 2)]
    plan = plan_of(tmp_path, pairs=pairs, seeds=2)
    for pair, kd, together in (("resnet14->resnet8", 70.0, 90.0), ("resnet14x2->resnet8", 74.0, 92.0)):
        finish(store, cell_of(plan, "KD", pair), [kd, kd + 2])
        finish(store, cell_of(plan, "teacher", pair), [together])
    finish(store, cell_of(plan, "none"), [60.0, 61.0])
    (axis,) = drawn(plan, store)["ensemble_resnet14-to-resnet8"].axes
    assert points(axis, "KD") == [(1, 29), (2, 25)]
    assert points(axis, "the teachers together") == [(1, 10), (2, 8)]
    assert set(lines(axis)["none"].get_ydata()) == {39.5}
    assert axis.get_ylabel() == "error: 100 - top-1 accuracy (%)"


def test_unlike_teachers_and_one_number_alone_are_no_curve(tmp_path, store):
    pairs = [{"teachers": ["resnet14", "resnet20"], "student": "resnet8"}, PAIRS[0]]
    plan = plan_of(tmp_path, pairs=pairs)
    finish_all(store, plan, {cell.label: [70.0] for cell in plan.cells})
    assert not [name for name in drawn(plan, store) if name.startswith("ensemble")]


# CRD's critic


def test_of_a_student_that_is_evaluated_in_several_ways_the_critic_is_drawn_once(tmp_path, store):
    plan = evaluated(tmp_path, [{"method": "crd", "n_negatives": 4, "negatives": "other_sample", "label": "CRD"}])
    source = plan.trained(cell_of(plan, "CRD").runs[0])
    store.write_epochs(source.id, [{"stage": "main", "epoch": 1, "loss": 1.0, "term0_crd_critic_student": 2.0}])
    assert list(drawn(plan, store)) == [f"critic_{PAIR}"]


def test_the_critics_value_is_drawn_by_side_over_seeds_and_teachers_with_what_it_bounds(tmp_path, store):
    plan = plan_of(tmp_path, methods=["crd", "kd"], seeds=2)
    columns = {
        "term0_crd_critic_student": [[1.0, 2.0], [3.0, 4.0]],
        "term0_crd_critic_teacher": [[5.0, 6.0], [5.0, 6.0]],
        "term1_crd_critic_student": [[3.0, 4.0], [5.0, 6.0]],
    }
    train(store, cell_of(plan, "CRD"), columns)
    train(store, cell_of(plan, "KD"), {"term0_kd": [[1.0, 1.0]]})
    figure = drawn(plan, store)[f"critic_{PAIR}"]
    student, teacher = figure.axes
    assert points(student, "CRD") == [(1, 3), (2, 4)]
    assert points(teacher, "CRD") == [(1, 5), (2, 6)]
    assert names(student) == names(teacher) == ["CRD"]
    assert student.get_ylabel() == "critic's value (nats)"
    assert "lower bound of the embeddings' mutual information only with negatives=other_sample" in " ".join(
        figure.get_suptitle().split()
    )


# the parts of terms


def test_what_a_term_records_is_drawn_by_name_over_teachers(tmp_path, store):
    plan = plan_of(tmp_path, methods=["dkd", {"method": "dkd", "kd": 1.0}, "crd"], seeds=1)
    columns = {"term0_dkd": [[9.0, 9.0]], "term0_dkd_target": [[1.0, 2.0]], "term0_dkd_non_target": [[5.0, 6.0]]}
    train(store, cell_of(plan, "DKD"), columns)
    train(store, cell_of(plan, "DKD+KD"), {"term0_dkd_target": [[3.0, 4.0]], "term2_dkd_target": [[5.0, 6.0]]})
    train(store, cell_of(plan, "CRD"), {"term0_crd_critic_student": [[1.0, 2.0]]})
    figures = drawn(plan, store)
    figure = figures[f"parts_dkd_{PAIR}"]
    target, non_target = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["target", "non target"]
    assert points(target, "DKD") == [(1, 1), (2, 2)]
    assert points(target, "DKD+KD") == [(1, 4), (2, 5)]
    assert points(non_target, "DKD") == [(1, 5), (2, 6)]
    assert [name for name in figures if name.startswith("parts")] == [f"parts_dkd_{PAIR}"]


# correlations


def test_the_correlation_figure_shows_the_difference_of_the_first_seed_that_is_done(tmp_path, store):
    plan = plan_of(tmp_path, methods=["kd", "at"], seeds=2)
    finish(store, cell_of(plan, "teacher"), [90.0])
    answer(store, cell_of(plan, "teacher"), np.array([[1, 0.5], [0.5, 1]]))
    for run in cell_of(plan, "none").runs:
        store.begin(run)
    store.finish(cell_of(plan, "none").runs[1].id, {"metrics": {"top1": 70.0, "top5": 90.0}, "best": None})
    for seed, value in ((0, 9.0), (1, -0.25)):
        answer(store, cell_of(plan, "none"), np.array([[1, value], [value, 1]]), seed)
    finish(store, cell_of(plan, "KD"), [72.0])
    answer(store, cell_of(plan, "KD"), np.array([[1, 0.25], [0.25, 1]]))
    kd, none, bar = drawn(plan, store)[f"correlation_{PAIR}"].axes
    np.testing.assert_array_equal(none.images[0].get_array(), [[0, 0.75], [0.75, 0]])
    np.testing.assert_array_equal(kd.images[0].get_array(), [[0, 0.25], [0.25, 0]])
    assert [axis.get_title().splitlines()[0] for axis in (none, kd)] == ["none", "KD"]
    assert "0.3750" in none.get_title()
    assert "0.1250" in kd.get_title()
    assert none.images[0].get_clim() == kd.images[0].get_clim() == bar.get_ylim() == (-0.75, 0.75)
    assert "0.0" in [text.get_text() for text in bar.get_yticklabels()]


def test_a_difference_of_correlations_is_lighter_in_greyscale_the_higher_it_is(tmp_path, store):
    plan = plan_of(tmp_path)
    finish_all(store, plan, {"teacher": [90.0], "none": [70.0], "KD": [72.0]})
    for label, value in (("teacher", 0.5), ("KD", 0.0)):
        answer(store, cell_of(plan, label), np.array([[1, value], [value, 1]]))
    image = drawn(plan, store)[f"correlation_{PAIR}"].axes[0].images[0]
    shades = image.to_rgba(np.linspace(-0.5, 0.5, 33))[:, :3] @ [0.299, 0.587, 0.114]
    assert (np.diff(shades) > 0.005).all()


def test_networks_that_teach_each_other_are_not_compared_with_a_teacher_of_neither(tmp_path, store):
    plan = plan_of(tmp_path, task="mutual", teacher_seeds="paired")
    for label in ("teacher", "none", "KD"):
        finish(store, cell_of(plan, label), [80.0])
        answer(store, cell_of(plan, label), np.eye(3))
    assert not any(name.startswith("correlation") for name in drawn(plan, store))


def test_another_seeds_teacher_is_compared_with_its_own_student(tmp_path, store):
    plan = plan_of(tmp_path, seeds=2, teacher_seeds="paired")
    teacher, student = cell_of(plan, "teacher"), cell_of(plan, "KD")
    finish(store, teacher, [90.0, 90.0])
    finish(store, student, [70.0, 70.0])
    for seed, value in enumerate((1.0, 0.5)):
        answer(store, teacher, np.full((2, 2), value), seed)
    answer(store, student, np.zeros((2, 2)), seed=1)
    axis = drawn(plan, store)[f"correlation_{PAIR}"].axes[0]
    assert set(axis.images[0].get_array().flat) == {0.5}


# CKA


def gram(features: np.ndarray) -> np.ndarray:
    centred = features - features.mean(axis=0)
    return (centred @ centred.T).astype(np.float32)


def by_features(x: np.ndarray, y: np.ndarray) -> float:
    """Return linear CKA as Kornblith et al. have it: from (n, D) features, not from samples' products."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    return float(np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def test_cka_is_that_of_each_stage_with_each_stage_and_1_of_a_stage_with_itself():
    rng = np.random.default_rng(0)
    teacher, student = ([rng.normal(size=(20, width)) for width in widths] for widths in ((5, 7, 3), (4, 6)))
    found = cka([gram(one) for one in teacher], [gram(one) for one in student])
    np.testing.assert_allclose(found, [[by_features(a, b) for b in student] for a in teacher], rtol=1e-5)
    own = cka([gram(one) for one in teacher], [gram(3 * one) for one in teacher])
    np.testing.assert_allclose(np.diag(own), 1, rtol=1e-6)


def test_a_stage_that_gives_all_images_the_same_is_like_no_other():
    np.testing.assert_array_equal(cka([gram(np.eye(4))], [np.zeros((4, 4))]), [[0]])


def test_the_teachers_stages_are_beside_each_rows(tmp_path, store):
    plan = plan_of(tmp_path)
    finish_all(store, plan, {"teacher": [90.0], "none": [70.0], "KD": [72.0]})
    rng = np.random.default_rng(0)
    stages = {label: [rng.normal(size=(20, 5)) for _ in range(2)] for label in ("teacher", "KD")}
    for label, own in stages.items():
        answer(store, cell_of(plan, label), np.eye(2), **{f"gram{i}": gram(one) for i, one in enumerate(own)})
    answer(store, cell_of(plan, "none"), np.eye(2))  # has no Gram matrices
    axis, _bar = drawn(plan, store)[f"cka_{PAIR}"].axes
    shown = axis.collections[0].get_array()
    expected = [[by_features(a, b) for b in stages["KD"]] for a in stages["teacher"]]
    np.testing.assert_allclose(shown, expected, rtol=1e-5)
    assert axis.get_title() == f"KD\nmean {np.trace(np.array(expected)) / 2:.3f}"
    assert [text.get_text() for text in axis.texts] == [f"{value:.2f}" for value in np.ravel(expected)]


# t-SNE


def embedded(classes: int, each: int, apart: float = 20.0) -> dict[str, np.ndarray]:
    """Return embeddings of images, class by class in turn, that lie far from those of other classes."""
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(classes, dtype=np.int16), each)
    centres = apart * np.eye(classes)
    return {
        "embedding": (centres[labels] + rng.normal(size=(len(labels), classes))).astype(np.float16),
        "labels": labels,
    }


def test_embeddings_that_lie_close_together_are_drawn_so_in_their_classes_looks(tmp_path, store):
    plan = plan_of(tmp_path)
    finish_all(store, plan, {"teacher": [90.0], "none": [70.0], "KD": [72.0]})
    for label in ("teacher", "KD"):
        answer(store, cell_of(plan, label), np.eye(2), **embedded(3, 10))
    figure = drawn(plan, store)[f"tsne_{PAIR}"]
    assert [axis.get_title() for axis in figure.axes] == ["teacher", "KD"]
    assert legend(figure) == ["0", "1", "2"]  # the names of these classes
    for axis in figure.axes:
        by_colour = places(axis)
        shown = [by_colour[to_hex(look(number)["color"])] for number in range(3)]
        assert [len(points) for points in shown] == [10, 10, 10]
        centres = [points.mean(axis=0) for points in shown]
        for own, points in enumerate(shown):
            distances = [np.linalg.norm(points - centre, axis=1) for centre in centres]
            assert (np.argmin(distances, axis=0) == own).all()


def test_more_rows_than_fit_a_page_are_spread_over_several_figures(tmp_path, store):
    rows = [{"method": "kd", "weight": number, "label": f"KD {number}"} for number in (1, 2, 3)]
    plan = plan_of(tmp_path, methods=rows)
    for row in rows:
        finish(store, cell_of(plan, row["label"]), [72.0])
        answer(store, cell_of(plan, row["label"]), np.eye(2), **embedded(3, 10))
    draw = partial(tsne.draw, max_panels=2)
    found = dict(figures(Findings(results_frame(plan, store), store, METHODS), [draw]))
    assert list(found) == [f"tsne_{PAIR}", f"tsne_{PAIR}_2"]
    panels = [[axis.get_title() for axis in figure.axes] for figure in found.values()]
    assert panels == [["KD 1", "KD 2"], ["KD 3"]]
    assert "t-SNE of embeddings, 2 of 2" in found[f"tsne_{PAIR}_2"].get_label()


@pytest.mark.parametrize("style", ["page", "paper"])
def test_a_legend_of_ten_classes_lies_inside_its_figure(style, tmp_path, store):
    labels = [f"KD {number}" for number in range(4)]
    plan = plan_of(tmp_path, methods=[{"method": "kd", "label": label} for label in labels])
    for label in labels:
        finish(store, cell_of(plan, label), [72.0])
        answer(store, cell_of(plan, label), np.eye(2), **embedded(10, 4))
    findings = Findings(results_frame(plan, store), store, METHODS, STYLES[style])
    with mpl.rc_context(findings.style.rc):
        figure = dict(figures(findings, [tsne.draw]))[f"tsne_{PAIR}"]
        figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


def test_of_many_classes_the_first_ten_are_drawn(tmp_path, store):
    plan = plan_of(tmp_path)
    finish(store, cell_of(plan, "KD"), [72.0])
    answer(store, cell_of(plan, "KD"), np.eye(2), **embedded(12, 4))
    figure = drawn(plan, store)[f"tsne_{PAIR}"]
    (axis,) = figure.axes
    colours = Counter(to_hex(look(number)["color"]) for number in range(10) for _image in range(4))
    assert legend(figure) == [str(i) for i in range(10)]
    assert {colour: len(points) for colour, points in places(axis).items()} == colours


@pytest.mark.parametrize("value", [np.inf, 1.0], ids=["not finite", "all alike"])
def test_embeddings_that_cannot_be_told_apart_are_not_drawn(tmp_path, store, value):
    plan = plan_of(tmp_path)
    finish(store, cell_of(plan, "KD"), [72.0])
    found = embedded(3, 10)
    answer(store, cell_of(plan, "KD"), np.eye(2), **found | {"embedding": np.full_like(found["embedding"], value)})
    assert f"tsne_{PAIR}" not in drawn(plan, store)


def test_embeddings_that_are_all_alike_but_for_classes_that_are_not_drawn_are_not_drawn(tmp_path, store):
    plan = plan_of(tmp_path)
    finish(store, cell_of(plan, "KD"), [72.0])
    found = embedded(12, 4)
    found["embedding"][found["labels"] < 10] = 1
    answer(store, cell_of(plan, "KD"), np.eye(2), **found)
    assert f"tsne_{PAIR}" not in drawn(plan, store)


# outputs


def test_outputs_that_cannot_be_read_are_named(tmp_path, store):
    plan = plan_of(tmp_path)
    finish_all(store, plan, {cell.label: [70.0] for cell in plan.cells})
    store.write(cell_of(plan, "KD").runs[0].id, "outputs.safetensors", b"torn")
    with pytest.raises(RequestError, match=r"outputs\.safetensors: cannot be read .* remove the run's folder"):
        drawn(plan, store)


# cost


def write_cost(plan: Plan, store: Store, rows: Sequence[Mapping[str, object]]) -> None:
    whole = [dict.fromkeys(COSTS, 1.0) | row for row in rows]
    path = store.suite_folder(plan.name) / "cost.csv"
    path.parent.mkdir(parents=True)
    with path.open("w", encoding="utf-8") as file:
        writer = csv.DictWriter(file, whole[0])
        writer.writeheader()
        writer.writerows(whole)


def test_accuracy_is_drawn_against_time_and_memory_of_the_main_stage(tmp_path, store):
    plan = plan_of(tmp_path, methods=["ab", "kd"], seeds=2)
    finish(store, cell_of(plan, "AB"), [70.0, 72.0])
    row = {"pair": "resnet14->resnet8", "label": "AB", "stage": "main", "step_ms": 30.0, "peak_mb": 200.0}
    row |= {"teacher_ms": 12.0}
    rows = [row, {**row, "stage": "initial", "step_ms": 99.0}, {**row, "label": "KD"}, {**row, "pair": "other->other"}]
    write_cost(plan, store, rows)
    found = drawn(plan, store)
    time, memory = found[f"accuracy_cost_{PAIR}"].axes
    for axis, x in ((time, 30), (memory, 200)):
        assert list(dots(axis).values()) == [[(x, 71)]]
        (bar,) = next(one for one in axis.collections if isinstance(one, LineCollection)).get_segments()
        np.testing.assert_allclose(bar, [(x, 71 - 2**0.5), (x, 71 + 2**0.5)])
    assert names(time) == names(memory) == ["AB"]
    (phases,) = found["cost"].axes
    assert [text.get_text() for text in phases.get_yticklabels()] == ["AB", "AB (initial)", "KD"]
    assert phases.get_title() == "resnet14->resnet8\nteacher 12 ms, data 1.0 ms once for all rows"


def test_costs_that_cannot_be_read_are_named(tmp_path, store):
    plan = plan_of(tmp_path)
    write_cost(plan, store, [{"pair": "resnet14->resnet8", "label": "KD"}])  # no stage
    with pytest.raises(RequestError, match=r"cost\.csv: cannot be read: .*stage.* Remove it, or measure anew"):
        drawn(plan, store)
