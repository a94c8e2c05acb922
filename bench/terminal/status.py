"""What the store and a plan say, as tables for a terminal. Imports no torch."""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

import yaml
from rich.markup import escape
from rich.table import Table

from bench.data import DATASETS, IMAGEFOLDER, unlabelled
from bench.launch.jobs import Job
from bench.plan import Plan, portions
from bench.plan.status import OPEN, is_open, run_status
from bench.report.frame import results_frame
from bench.report.layout import MISSING
from bench.spec import ID_LENGTH, NetworkSpec, RunSpec, Schedule
from bench.store import Store
from bench.suite import NONE
from bench.types import RequestError
from methods import Method, own_files

BARS = "▁▂▃▄▅▆▇█"
CURVE_WIDTH = 60  # characters


def cells_table(plan: Plan, store: Store) -> Table:
    """Return a row a cell: its status, seeds done, first metric, the epoch of what runs, why others do not."""
    results = results_frame(plan, store).primary
    metrics = {one.metric for one in results}
    several = len(metrics) > 1
    number = "%" if several else f"{metrics.pop()} %"
    rows = []
    for one in results:
        reached = [_progress(run, store) for run in one.cell.runs]
        row = {
            "pair": one.pair,
            "row": one.label,
            "metric": one.metric if several else "",
            "status": one.status,
            "seeds": f"{one.n}/{len(one.cell.runs)}",
            number: MISSING if one.mean is None else f"{one.mean:.2f}",
            "epochs": ", ".join(text for text in reached if text),
            "reason": one.reason,
        }
        rows.append(row)
    heads = [head for head in rows[0] if any(row[head] for row in rows)]  # the columns that say anything
    table = Table(title=escape(f"{plan.name}: {plan.suite.title}"))
    for head in heads:
        justify: Literal["left", "right"] = "right" if head in ("seeds", number) else "left"
        table.add_column(head, overflow="fold", justify=justify, no_wrap=head != "reason")
    for row in rows:
        table.add_row(*(escape(row[head]) for head in heads))
    return table


def _progress(run: RunSpec, store: Store) -> str:
    """Return the epoch an unfinished run has reached, and of one that is being trained its rate and the time left."""
    if run.schedule is None or store.record(run.id) is not None:
        return ""
    rows = store.epochs(run.id)
    if not rows:
        return ""
    last = rows[-1]
    if last["stage"] == "main":
        reached = f"seed {run.seed}: {last['epoch']}/{run.schedule.epochs}"
        epochs_left = run.schedule.epochs - last["epoch"]
    else:
        reached = f"seed {run.seed}: initial {last['epoch']}/{run.schedule.initial_epochs}"
        epochs_left = run.schedule.initial_epochs - last["epoch"] + run.schedule.epochs
    if store.state(run.id) != "running" or "wall_s" not in last:
        return reached
    seconds = epochs_left * last["wall_s"]
    left = f"{seconds / 60:.0f} min" if seconds > 120 else f"{seconds:.0f} s"
    return f"{reached} ({last['wall_s']:.1f} s an epoch, {left} left)"


def job_lines(plan: Plan, store: Store, jobs: Sequence[Job]) -> Iterator[str]:
    """Yield what the cluster says of the runs that are not done: a line a job, and a dead one's last words."""
    titles = plan.titles
    latest = {run_id: job for job in jobs for run_id in job.runs}
    left = {run.id: run for run in plan.runs.values() if run.id in latest and is_open(run, plan, store)}
    for job in dict.fromkeys(latest[run_id] for run_id in left):
        runs = [left[run_id] for run_id in job.runs if run_id in left and latest[run_id] == job]
        pairs = ", ".join(dict.fromkeys(titles[run.id][0] for run in runs))
        labels = ", ".join(dict.fromkeys(titles[run.id][1] for run in runs))
        what = escape(f"job {job.id}: {pairs} seed {runs[0].seed}, {labels}")
        if job.state:
            reason = f" ({job.reason})" if job.reason else ""
            yield f"{what}: {job.state.lower()}{reason}"
        elif any(store.state(run.id) == "waiting" for run in runs):
            yield f"{what}: failed, its log {escape(str(job.log))} ends:"
            for line in job.last_words or ["(nothing: it never began)"]:
                yield f"    {escape(line)}"


def changed_methods(plan: Plan, store: Store, methods: Mapping[str, Method]) -> Iterator[str]:
    """Yield a warning for each method whose file is not the one that finished runs were made with."""
    made: dict[str, list[str]] = {}
    for run in plan.runs.values():
        record = store.record(run.id) or {}
        digests = record.get("methods_sha256") or {}
        for name, digest in digests.items():
            if name in methods and methods[name].sha256 != digest:
                made.setdefault(name, []).append(run.id)
    for name, runs in sorted(made.items()):
        yield (
            f"warning: {methods[name].path.name} has changed since {len(runs)} finished run(s) were made with it "
            f"({runs[0]}, ...). If its numbers moved, raise version= in its @register: the runs are then made anew"
        )


def plan_tables(
    plan: Plan, store: Store, wanted: Sequence[RunSpec], reasons: Mapping[str, str], retried: Collection[str]
) -> Iterator[Any]:
    """Yield what `--dry-run` prints: the cohorts in the order of training, what cannot be trained, and the counts."""
    titles = plan.titles
    states = {run.id: run_status(run, plan, store, retried)[0] for run in wanted}
    to_train = [run for run in wanted if run.id not in reasons and states[run.id] in OPEN]
    for number, cohort in enumerate(portions(to_train, plan.suite.max_lanes), start=1):
        needs = sorted(needed for needed in cohort.needs if states.get(needed) != "done")
        after = f", after {', '.join(needs)}" if needs else ""
        yield f"[bold]cohort {number}[/bold], seed {cohort.runs[0].seed}{after}"
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        for run in cohort.runs:
            table.add_row(f"  {run.id}", _epochs(run.schedule), *map(escape, titles[run.id]))
        yield table
    for reason in dict.fromkeys(reasons.values()):
        rows = dict.fromkeys(" ".join(titles[run_id]) for run_id, why in reasons.items() if why == reason)
        yield f"inapplicable: {escape(', '.join(rows))}: {escape(reason)}"
    shown = {run.id for run in to_train} | set(reasons)
    ended = [status for run_id, status in states.items() if run_id not in shown]
    counts = ", ".join(f"{ended.count(status)} {status}" for status in dict.fromkeys(ended))
    others = f"; {counts}" if counts else ""
    yield f"{len(to_train)} run(s) to train, {len(reasons)} inapplicable{others}"


def _epochs(schedule: Schedule | None) -> str:
    if schedule is None:
        return "evaluate"
    initial = f"{schedule.initial_epochs} + " if schedule.initial_epochs else ""
    return f"{initial}{schedule.epochs} epochs"


def describe(store: Store, run: str) -> Iterator[Any]:
    """Yield all about one run: state, specification, curve, record or failure, and how to repeat it.

    Raises:
        RequestError: no run, or more than one, has an id that begins so.
    """
    run_id = _complete(store, run)
    spec = store.spec(run_id)
    if spec is None:
        raise RequestError(f"run {run_id} has no specification: it was never begun")
    yield f"[bold]run {run_id}[/bold]  {store.state(run_id)}  {store.folder(run_id)}"
    yield escape(_yaml(spec.model_dump(mode="json", exclude_none=True)))
    yield from _curve(store, run_id)
    record = store.record(run_id)
    if record is not None:
        yield escape(_yaml(record))
    failure = store.failure(run_id)
    if failure is not None:
        yield escape(f"{failure.status}: {failure.reason}\n{failure.details}")
    yield "[bold]To repeat it[/bold]"
    yield escape(repetition(store, spec))


def _complete(store: Store, beginning: str) -> str:
    if not re.fullmatch(rf"[0-9a-f]{{1,{ID_LENGTH}}}", beginning):
        store.folder(beginning)  # says what an id is
    folder = store.root / "runs"
    found = sorted(path.name for path in folder.glob(f"{beginning}*") if len(path.name) == ID_LENGTH)
    if len(found) != 1:
        what = f"{len(found)} runs begin so: {', '.join(found[:5])}" if found else "no such run"
        raise RequestError(f"run {beginning!r} in {folder}: {what}. `status` and `--dry-run` print the ids")
    return found[0]


def _curve(store: Store, run_id: str) -> Iterator[str]:
    rows = store.epochs(run_id)
    for name in ("loss", "top1", "peer_top1", "miou"):
        values = [row[name] for row in rows if row["stage"] == "main" and name in row]
        if values:
            picked = values[:: math.ceil(len(values) / CURVE_WIDTH)]
            low = min(picked)
            height = (max(picked) - low) or 1
            bars = "".join(BARS[round((value - low) / height * (len(BARS) - 1))] for value in picked)
            yield f"{name:>5} {bars}  first {values[0]:.4g}, last {values[-1]:.4g}"


def repetition(store: Store, spec: RunSpec) -> str:
    """Return a suite file that holds this one run, and the command that trains it again elsewhere."""
    if spec.is_ensemble:
        return f"Teachers evaluated together: repeat each of {', '.join(spec.teachers)}"
    if spec.schedule is None:
        return f"A checkpoint's evaluation: name it as a pair's teacher\n{_yaml({'teacher': _teacher(spec)})}"
    if spec.head is not None:
        return _judging(spec)
    record = store.record(spec.id) or {}
    teachers = [teacher for name in spec.teachers if (teacher := store.spec(name)) is not None]
    document: dict[str, Any] = {"title": f"run {spec.id}", "data": _data(spec), "seeds": [spec.seed]}
    row: Any = NONE
    only = NONE
    pair: dict[str, Any] = {"teacher": _network(spec.peer or spec.student), "student": _network(spec.student)}
    document["training"] = _training(spec.schedule)
    if "threads" in record:
        document["threads"] = record["threads"]  # two counts round differently
    if teachers or spec.peer is not None:
        terms = [{"method": term.method, "weight": term.weight, **term.parameters} for term in spec.terms]
        only = "+".join(term.method for term in spec.terms)
        row = {"terms": terms, "combine": spec.combine, "label": only}
    if spec.peer is not None:
        document["task"] = spec.task
        row["task_weight"] = spec.task_weight
        if spec.peer_lr is not None:
            document["lr_by_network"] = {spec.peer.network: spec.peer_lr}
    if teachers:
        if spec.task == "cross_modal":
            document |= {"task": spec.task, "evaluations": [_shortest(spec)]}
        else:
            row["task_weight"] = spec.task_weight
        taught = [_teacher(teacher) for teacher in teachers]
        pair = {"teacher": taught[0]} if len(taught) == 1 else {"teachers": taught}
        pair["student"] = _network(spec.student)
        trained = next((teacher for teacher in teachers if teacher.schedule is not None), None)
        if trained is not None and trained.schedule is not None:
            document["teacher_training"] = _training(trained.schedule, exclude={"initial_epochs"})
        if teachers[0].data != spec.data:
            document["teacher_data"] = _data(teachers[0])
        if teachers[0].seed != 0:
            document["teacher_seeds"] = "paired"
    document |= {"pairs": [pair], "methods": [row]}
    elsewhere = sorted({term.method for term in spec.terms} - {path.stem for path in own_files()})
    plugins = "".join(f" --plugin {name}.py" for name in elsewhere)
    return f"{_yaml(document)}\npython run_suite.py THAT_FILE.yaml --only '{only}'{plugins} --results ANOTHER_FOLDER"


def _training(schedule: Schedule, exclude: Collection[str] = ()) -> dict[str, Any]:
    """Return a schedule as a suite file says it; a teacher's one process must be said, or it has the student's."""
    return schedule.model_dump(mode="json", exclude=set(exclude)) | {"processes": schedule.processes or 1}


def _shortest(spec: RunSpec) -> dict[str, Any]:
    """Return an evaluation for a suite that repeats a cross-modal run: such a suite must have one, the run none."""
    data = _data(spec, view=False)
    if unlabelled(spec.data.name, "pixel") is None:
        return {"kind": "segmentation", "data": data, "training": {"epochs": 1}}
    if unlabelled(spec.data.name, "image"):
        data = {"name": "photo_patches"} | {key: value for key, value in data.items() if key == "resize"}
    return {"data": data, "training": {"epochs": 1}}


def _judging(spec: RunSpec) -> str:
    """Return what a suite file says to judge a network as a run has done."""
    assert spec.head is not None
    assert spec.schedule is not None  # it is judged by training
    evaluation: dict[str, Any] = {"kind": spec.task, "data": _data(spec, view=False)}
    if spec.head.stage is not None:
        evaluation |= {"stages": [spec.head.stage], "most_values": spec.head.most_values}
    evaluation["training"] = _training(spec.schedule, exclude={"initial_epochs"})
    if spec.source is None:
        what = f"Judges {spec.student.network} with the initial weights of seed {spec.seed}: the row `{NONE}` of"
        return f"{what} a cross-modal suite with\n{_yaml({'evaluations': [evaluation]})}"
    document = {"title": f"run {spec.id}", "task": "transfer", "from": {"suite": "THAT", "seeds": [spec.seed]}}
    return (
        f"Judges what run {spec.source} has trained: repeat that one first, from a file THAT.yaml; beside it\n"
        f"{_yaml(document | {'evaluations': [evaluation]})}\n"
        "or, if THAT.yaml is a cross-modal suite, with these evaluations in it"
    )


def _teacher(spec: RunSpec) -> str | dict[str, Any]:
    network = _network(spec.student)
    if spec.checkpoint is None:
        return network
    named = {"network": network} if isinstance(network, str) else network
    if spec.has_published_weights:
        return {**named, "weights": spec.checkpoint}
    return {**named, "checkpoint": f"FILE with sha256 {spec.checkpoint}"}


def _yaml(document: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)


def _network(spec: NetworkSpec) -> str | dict[str, Any]:
    document = spec.model_dump(mode="json", exclude_none=True)
    return document["network"] if len(document) == 1 else document


def _data(spec: RunSpec, view: bool = True) -> dict[str, Any]:
    """Return what a suite file says to get a run's data, in the view of it that its network has or without."""
    data = spec.data
    said: dict[str, Any] = {"name": data.name, "augment": data.augment}
    if data.name == IMAGEFOLDER:
        said["path"] = f"FOLDER with fingerprint {data.fingerprint}"
        if data.view is None:
            said |= {"mean": list(data.mean), "std": list(data.std)}
        elif not view:
            said |= {"mean": [0.5] * 3, "std": [0.5] * 3}  # asked for, but a view has its own
    square = data.size[0] == data.size[1]  # a folder's images keep their own size if that is not square
    if square and (data.name not in DATASETS or data.size != DATASETS[data.name].size):
        said["resize"] = data.size[0]
    optional = {
        "train_per_class": data.train_per_class,
        "train_fraction": data.train_fraction,
        "view": data.view if view else None,
    }
    return said | {key: value for key, value in optional.items() if value is not None}
