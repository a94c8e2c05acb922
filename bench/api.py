"""The Python API: read results as data frames, load trained networks, run suites. Importing it imports no torch.

Every function raises a `RequestError`, whose message says what to do, where the command line exits with status 2.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from bench.launch.work import Work
from bench.plan import Cell, Plan, continued
from bench.plan.status import open_runs, run_status
from bench.report import epochs, folder
from bench.report.frame import results_frame
from bench.report.write import write_while_training
from bench.spec import RunSpec
from bench.store import Store
from bench.suite import TEACHER, find_suite
from bench.text import logging_to_stderr
from bench.types import RequestError, suggest
from bench.workflow import (
    accept,
    all_plugins,
    plan_of_report,
    planned,
    raise_damage,
    reported,
    runs_to_retry,
    sides,
    store_in,
    suite_file,
    wanted_runs,
)

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from bench.models.base import Network
    from bench.report.compare import Comparison

__all__ = [
    "RequestError",
    "Results",
    "compare",
    "load_images",
    "load_student",
    "load_teacher",
    "results",
    "run",
    "score",
]

logger = logging.getLogger(__name__)

File = str | os.PathLike[str]
TYPES: dict[str, Any] = {"teacher_seed": "Int64", "epoch": "Int64", "value": float, "best": float, "published": float}


@dataclass(frozen=True)
class Results:
    """The results of suites; see `results`. Each call reads the store again, so runs that have ended since are shown.

    Attributes:
        store: the folder of the runs.
        plans: of the suites; `folder` of each is the suite's name here.
    """

    store: Store
    plans: tuple[Plan, ...]

    def __repr__(self) -> str:
        return f"Results({str(self.store.root)!r}, {', '.join(plan.folder for plan in self.plans)})"

    def frame(self) -> pd.DataFrame:
        """Return one row per suite, pair, row of the table, seed and metric.

        Columns:
            - `suite`: the suite's name: its folder in the results.
            - `pair`: `teacher->student`; `teacher` and `student` have the networks' names.
            - `label`: the row of the table; `method` has the registered name, `teacher` or `none`.
            - `parameters`: the settings that differ from the method's defaults.
            - `network`: `student`, or `peer` for the other network of mutual learning.
            - `seed`: of the run; `teacher_seed` is that of its first teacher, if it has one. `order_seed` is that of
              its batch order; it is `seed` unless the suite crosses seeds.
            - `evaluation`: which one, if a row has several.
            - `metric`: its name in tables; `recorded` is that in the run's record.
            - `value`: after the last epoch, in percent, or in nats (`nll`, `teacher_kl`); missing unless the run is
              done, and where the metric has not been computed.
            - `best`: at the best epoch, in percent; missing where there are no epochs.
            - `epoch`: the last one; 0 for runs that are only evaluated.
            - `published`: the paper's number in percent, if there is one.
            - `status`: `done`, `stale`, `running`, `waiting`, `diverged`, `failed` or `inapplicable`.
            - `reason`: why the run is not done, or "".
            - `run`: the run's id, the name of its folder.

        A run that serves several pairs or suites, such as an undistilled student, has rows in each.

        Examples:
            >>> table = results("results").frame()
            >>> done = table.query("metric == 'top1' and status == 'done'")
            >>> done.pivot_table(index="label", columns="pair", values="value", aggfunc="mean", sort=False).shape
            (3, 1)
        """
        import pandas as pd

        frames = [results_frame(plan, self.store).to_pandas().assign(suite=plan.folder) for plan in self.plans]
        return pd.concat(frames, ignore_index=True).astype(TYPES)

    def curves(self) -> pd.DataFrame:
        """Return one row per run, epoch and recorded number.

        Columns: suite, pair, label, seed, order_seed, teacher_seed, run, as in `frame`; `stage` (`main`, or `initial`
        for what a method trains before); `epoch`, counted from 1 in each stage; `column`, the number's name, such as
        `loss`, `top1` (in percent) or `wall_s` (in seconds); `value`.

        Runs that have not ended are included, stale ones are not. A run that serves several pairs has the pair and
        label of the first.

        Examples:
            >>> curves = results("results").curves()
            >>> curves.query("label == 'KD' and column == 'top1'")[["seed", "stage", "epoch"]].to_numpy().tolist()
            [[1, 'main', 1]]
        """
        import pandas as pd

        table = []
        for plan in self.plans:
            for row in epochs.rows(results_frame(plan, self.store)):
                place = [row.pop(key) for key in epochs.COLUMNS]
                table += [(plan.folder, *place, column, value) for column, value in row.items()]
        names = ["label" if key == "row" else key for key in epochs.COLUMNS]
        return pd.DataFrame(table, columns=["suite", *names, "column", "value"])


def results(results: File = "results", suites: Iterable[File] | None = None, plugins: Iterable[File] = ()) -> Results:
    """Return the results of suites in a folder, without training anything.

    Args:
        results: the folder, as `--results` names it.
        suites: suite files, or names of suites with results in the folder; all of the latter by default. A suite that
            was changed on the command line has the name of its folder, such as `quickstart/with_seeds=3`.
        plugins: method files that the suites use; without them, those that a report names, seen from this folder.

    Raises:
        RequestError: a suite has no results there, or its file is missing or wrong.

    Examples:
        >>> results("results", suites=["digits"])
        Results('results', digits)
    """
    return _results(results, suites, plugins)


def compare(a: File, b: File, *, results: File = "results", plugins: Iterable[File] = ()) -> Comparison:
    """Return two results compared cell by cell: differences with intervals and the settings that differ.

    Args:
        a: a suite file or the name of a suite that comes with the package, a bundle (`.zip`), a folder of results
            (with `runs/`), or the folder of a suite's report (with `table.csv`), such as
            `results/published/quickstart`.
        b: the other side, in any of these forms; differences are b minus a.
        results: the folder of the results of suite files.
        plugins: method files that the suites use.

    Returns:
        `frame()` gives one row per cell and metric as a data frame, `settings_frame()` one per setting that differs;
        `only_a` and `only_b` name the numbers that the other side does not have.

    Raises:
        RequestError: a side is none of these, cannot be read, or has no cell in common with the other.

    Examples:
        >>> compare("digits.yaml", "results/digits").frame()[["label", "difference"]].to_numpy().tolist()[0]
        ['teacher', 0.0]
    """
    from bench.report.compare import compare as compared  # takes a second to import

    with sides(Path(a), Path(b), Path(results), _paths(plugins)) as both:
        return compared(*both)


def load_student(
    suite: File | Results,
    pair: str,
    method: str,
    seed: int | tuple[int, int, int | None] | None = None,
    *,
    results: File = "results",
    plugins: Iterable[File] = (),
) -> Network:
    """Return a trained student with its stored weights, on the CPU and in eval mode.

    Args:
        suite: a suite file, the name of a suite with results in the folder, or `Results`, whose folder is used then.
        pair: `teacher->student`, as in the tables.
        method: the label of the row, or the method's name if only one row has it; `none` for the undistilled student.
        seed: of the run, or (init, order, teacher) in a suite that crosses seeds, where a row without teachers, and a
            suite with one teacher, has None for the last; it may be left out if the row has only one run.
        results: the folder of the results.
        plugins: method files that the suite uses.

    Returns:
        A torch module: `forward` takes normalised images (B, C, H, W), see `load_images`, and gives logits (B, K);
        `features` gives everything that a method may read.

    Raises:
        RequestError: there is no such run, or several; it is not done; or its weights are not those of its record.

    Examples:
        >>> student = load_student("digits", "resnet14->resnet8", "KD", seed=1)
        >>> images, labels = load_images("digits", "resnet14->resnet8", "KD", first=5)
        >>> student(images).argmax(dim=1).shape == labels.shape
        True
    """
    import torch

    from bench.launch.inputs import stored_network
    from bench.models.ensemble import Ensemble

    opened = _opened(suite, results, plugins)
    plan, run, network = _trained(opened, pair, method, seed)
    with torch.random.fork_rng(devices=[]):  # a network gets random weights before the stored ones
        if run.is_ensemble:
            return Ensemble([stored_network(plan.runs[name], opened.store) for name in run.teachers]).eval()
        return stored_network(run, opened.store, network).eval()


def load_teacher(
    suite: File | Results,
    pair: str,
    seed: int | None = None,
    *,
    results: File = "results",
    plugins: Iterable[File] = (),
) -> Network:
    """Return the teacher of a pair, as `load_student` does a student; several teachers as one, their ensemble.

    `seed` is the teacher's, which may be left out unless the suite trains a teacher for each seed.

    Examples:
        >>> teacher = load_teacher("digits", "resnet14->resnet8")
        >>> teacher.training
        False
    """
    return load_student(suite, pair, TEACHER, seed, results=results, plugins=plugins)


def load_images(
    suite: File | Results,
    pair: str,
    method: str,
    *,
    split: Literal["train", "test"] = "test",
    first: int | None = None,
    data: File = "data",
    results: File = "results",
    plugins: Iterable[File] = (),
) -> tuple[Tensor, Tensor | None]:
    """Return images as the network of a row sees them, normalised and not augmented, and their labels.

    Args:
        suite: here and below, as in `load_student`.
        pair: the pair.
        method: the row; `teacher` for what the teacher sees.
        split: the training images are those that the suite keeps of them.
        first: how many images, from the beginning of the split; all by default.
        data: the folder of data sets, to which they are downloaded.
        results: the folder of the results.
        plugins: method files.

    Returns:
        Images (n, C, H, W) float32, and labels (n,) int64; None for data without labels.
    """
    import torch

    from bench.data import images
    from bench.data.views import ViewTransform

    opened = _opened(suite, results, plugins)
    plan, cell = _cells(opened, pair, method)[0]
    spec, device = plan.trained(cell.runs[0]).data, torch.device("cpu")
    # a process that reads would import a script again
    train, test = images.load_data(spec, Path(data), device, workers=0)
    chosen = train if split == "train" else test
    (stored,) = chosen.images.batches([torch.arange(len(chosen))[:first]])
    return ViewTransform(spec, device)(stored), None if chosen.targets is None else chosen.targets[:first]


def run(
    suite: File,
    *,
    only: str | Sequence[str] = (),
    pairs: str | Sequence[str] = (),
    seeds: int | None = None,
    changes: Mapping[str, object] | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    jobs: int | None = None,
    results: File = "results",
    data: File = "data",
    plugins: Iterable[File] = (),
    retry_failed: bool = False,
    accept_changed: bool = False,
    keep_checkpoints: bool = False,
) -> Results:
    """Train whatever is missing from a suite and write its report, as the command line does; return its results.

    Progress is printed to standard error, one line per epoch, unless the program has set up logging for it. Runs
    that fail or diverge are in the frame, with `status` and `reason`. After Ctrl-C, or the interruption of a notebook,
    the same call continues from the last checkpoints. Training seeds torch's default generator.

    A script that trains with several jobs, on several GPUs, or on an image folder, must call this below
    `if __name__ == "__main__":`, since the processes import it.

    Args:
        suite: the suite file, or the name of a suite that comes with the package.
        only: patterns of the rows' labels (or, failing that, methods), such as `["kd", "crd*"]`, or one pattern.
        pairs: patterns of pairs, such as `"resnet56->*"`, or one pattern.
        seeds: the number of seeds, instead of the suite's.
        changes: keys of the suite file with other values, such as `{"training.epochs": 2}`.
        device: `cuda` uses all GPUs; `auto` does so if there are any.
        jobs: how many processes train at a time; by default one per GPU, and one on a CPU, where the command line
            chooses as many as cores and memory allow.
        results: the folder of runs and tables.
        data: the folder of data sets, to which they are downloaded.
        plugins: method files.
        retry_failed: whether to retry runs that failed, diverged, were refused or are stale.
        accept_changed: whether to state that changed code of methods gives the same numbers.
        keep_checkpoints: whether to keep the checkpoints of finished runs.

    Raises:
        RequestError: the suite, an option or a file of the store is wrong.

    Examples:
        >>> done = run("digits.yaml")
        >>> done.frame()["status"].unique().tolist()
        ['done']
    """
    if jobs is not None and jobs < 1:
        raise RequestError(f"jobs={jobs}: must be at least 1")
    files, only, pairs = _paths(plugins), _patterns(only), _patterns(pairs)
    overrides = _overrides(changes, seeds)
    plan, store, methods = planned(find_suite(Path(suite)), overrides, Path(results), files, trains=True)
    wanted = wanted_runs(plan, store, only, pairs)
    with logging_to_stderr():
        if accept_changed:
            for line in accept(plan, store, wanted):
                logger.warning("%s", line)
        retried = runs_to_retry(plan, store, wanted, retry_failed, accept_changed)
        if open_runs(wanted, plan, store, retried):
            work = Work(
                plan,
                runs=tuple(run.id for run in wanted),
                results=Path(results),
                data=Path(data),
                write_tables=write_while_training,
                device=device,
                plugins=all_plugins(plan.file, files),
                keep_checkpoints=keep_checkpoints,
                accept_changed=accept_changed,
                live=False,
            )
            _train(work, jobs, retried)
            while (again := continued(plan, methods, store)) is not None:  # settings were chosen
                plan, wanted = again, wanted_runs(again, store, only, pairs)
                if open_runs(wanted, plan, store):
                    _train(replace(work, plan=plan, runs=tuple(run.id for run in wanted)), jobs)
        frame, failed = reported(plan, store, methods)
        if frame.aside:
            logger.warning("warning: %s. This one is in %s", frame.aside, store.suite_folder(frame.plan.folder))
    raise_damage(failed)
    return Results(store, (frame.plan,))


def score(
    suite: File,
    *,
    changes: Mapping[str, object] | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    results: File = "results",
    data: File = "data",
    plugins: Iterable[File] = (),
) -> Results:
    """Compute all metrics of finished runs from their stored answers or weights, without training; write the report.

    A run that cannot be scored is named on standard error, with the reason.

    Args:
        suite: here and below, as in `run`.
        changes: keys of the suite file with other values.
        device: for the networks of runs without stored answers, or without answers to corrupted images.
        results: the folder of runs and tables.
        data: the folder of data sets.
        plugins: method files.

    Raises:
        RequestError: the suite, an option or a file of the store is wrong, or data is missing.

    Examples:
        >>> scored = score("digits.yaml", device="cpu").frame()
        >>> int(scored.query("metric == 'top1_noise'")["value"].count())
        3
    """
    files = _paths(plugins)
    plan, store, methods = planned(find_suite(Path(suite)), _overrides(changes), Path(results), files)
    folder.in_own_folder(plan, store)  # raises if another suite has its results there
    import torch

    from bench.launch.score import Scorer

    work = Work(
        plan,
        runs=tuple(plan.runs),
        results=Path(results),
        data=Path(data),
        write_tables=write_while_training,
        device=device,
        plugins=all_plugins(plan.file, files),
    )
    threads = torch.get_num_threads()
    try:
        with logging_to_stderr():
            for run_id, outcome in Scorer(work).run():
                if outcome.reason:
                    logger.warning("not scored: run %s: %s", run_id, outcome.reason)
            frame, failed = reported(plan, store, methods)
    finally:
        torch.set_num_threads(threads)
    raise_damage(failed)
    return Results(store, (frame.plan,))


def _train(work: Work, jobs: int | None, retried: Collection[str] = ()) -> None:
    """Do the work and leave torch's number of threads as it was."""
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does; read when torch is imported
    import torch

    from bench.launch.devices import train
    from bench.launch.preparation import choose_device

    threads = torch.get_num_threads()
    if jobs is None and choose_device(work.device).type == "cpu":
        jobs = 1  # other processes import the program, which may not be written for that
    try:
        train(work, jobs, retried)
    finally:
        torch.set_num_threads(threads)


def _overrides(changes: Mapping[str, object] | None, seeds: int | None = None) -> list[str]:
    """Return changes of the suite file as `--set` takes them."""
    given = [f"{key}={_as_yaml(value)}" for key, value in (changes or {}).items()]
    return given if seeds is None else [*given, f"seeds={seeds}"]


def _as_yaml(value: object) -> str:
    """Return a value as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=math.inf).removesuffix("...\n").strip()


def _paths(files: Iterable[File]) -> tuple[Path, ...]:
    return tuple(Path(file) for file in files)


def _reports(store: Store) -> dict[str, folder.Shown]:
    """Return what `suite.json` says in the folder of each suite that has results, by the folder's name."""
    notes = [*store.root.glob(f"*/{folder.SUITE}"), *store.root.glob(f"*/with_*/{folder.SUITE}")]
    noted = {path.parent.relative_to(store.root).as_posix(): folder.noted(path.parent) for path in sorted(notes)}
    return {name: shown for name, shown in noted.items() if shown is not None}


def _patterns(given: str | Sequence[str]) -> Sequence[str]:
    return [given] if isinstance(given, str) else given


def _opened(suite: File | Results, results: File, plugins: Iterable[File]) -> Results:
    return suite if isinstance(suite, Results) else _results(results, [suite], plugins)


def _results(results: File, suites: Iterable[File] | None, plugins: Iterable[File]) -> Results:
    store, files = store_in(Path(results)), _paths(plugins)
    names = list(_reports(store) if suites is None else suites)
    if not names:
        raise RequestError(
            f"{store.root}: no suite has results there. Name the folder that --results named, or run one"
        )
    return Results(store, tuple(_plan(store, suite, files) for suite in names))


def _plan(store: Store, suite: File, plugins: Sequence[Path]) -> Plan:
    """Return the plan of a suite file, or of a suite by the name of its folder in the results."""
    path = Path(suite)
    if path.suffix == ".yaml":
        return planned(path, (), store.root, plugins)[0]
    reports = _reports(store)
    if (shown := reports.get(str(suite))) is None:
        raise RequestError(
            f"{store.root}: no suite named {str(suite)!r} has results there. {suggest(str(suite), reports)}. "
            "A suite file is named by its path, with .yaml"
        )
    file = suite_file(shown, store)
    if not file.exists():
        raise RequestError(
            f"{store.root / str(suite) / folder.SUITE}: its suite file, {file}, is not there. Put it back, or name the "
            f"suites or suite files to read: suites=[...]"
        )
    return plan_of_report(shown, store, str(suite), plugins)


def _cells(opened: Results, pair: str, method: str) -> list[tuple[Plan, Cell]]:
    """Return the cells of a row: one per suite and evaluation."""
    suites = ", ".join(plan.folder for plan in opened.plans)
    cells = [(plan, cell) for plan in opened.plans for cell in plan.cells]
    in_pair = [(plan, cell) for plan, cell in cells if cell.pair == pair]
    if not in_pair:
        raise RequestError(f"{suites}: no pair {pair!r}. {suggest(pair, {cell.pair for _, cell in cells})}")
    exact = [(plan, cell) for plan, cell in in_pair if cell.label == method]
    label = [(plan, cell) for plan, cell in in_pair if cell.label.lower() == method.lower()]
    named = [(plan, cell) for plan, cell in in_pair if cell.method == method.lower()]
    matching = exact or label or named
    labels = list(dict.fromkeys(cell.label for _, cell in matching))
    if not labels:
        raise RequestError(
            f"{suites}: {pair}: no row {method!r}. {suggest(method, {cell.label for _, cell in in_pair})}"
        )
    if len(labels) > 1:
        raise RequestError(f"{suites}: {pair}: several rows of {method!r}. Name one by its label: {', '.join(labels)}")
    return matching


def _trained(
    opened: Results, pair: str, method: str, seed: int | tuple[int, int, int | None] | None
) -> tuple[Plan, RunSpec, str]:
    """Return the finished run that has trained a row's network, with its plan, and which of its networks it is."""
    cells = _cells(opened, pair, method)
    if awaits := cells[0][1].awaits:
        raise RequestError(
            f"{pair}, row {cells[0][1].label}: its settings are not chosen yet ({awaits}): run the suite first"
        )
    row = f"{pair}, row {cells[0][1].label}"
    runs = {plan.trained(run).id: (plan, cell, run) for plan, cell in cells for run in cell.runs}
    chosen = {run_id: one for run_id, one in runs.items() if seed in (None, one[2].seed, one[0].seed_of(one[2]))}
    if len(chosen) != 1:
        known = "; ".join(f"seed {plan.seed_of(run)} in {plan.folder}" for plan, _, run in runs.values())
        what = "several runs" if chosen else "no run"
        with_seed = "" if seed is None else f" with seed {seed}"
        raise RequestError(f"{row}: {what}{with_seed}. Known: {known}")
    (run_id, (plan, cell, _)), *_ = chosen.items()
    trained = plan.runs[run_id]
    status, reason = run_status(trained, plan, opened.store)
    if status != "done":
        told = f" ({reason})" if reason else ""
        raise RequestError(f"{plan.folder}: {row}: run {run_id} is {status}{told}: run the suite first")
    if trained.head is not None:
        raise RequestError(f"{plan.folder}: {row}: the suite trains no network there: it evaluates an untrained one")
    return plan, trained, cell.network
