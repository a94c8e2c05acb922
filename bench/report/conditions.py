"""How the numbers of a suite were produced, in sentences: the first part of a table's caption."""

from collections.abc import Iterable, Iterator, Sequence

from bench.plan import Cell, Plan
from bench.report.paper import settings_used
from bench.schedule import UNUSED, Recipe, Schedule
from bench.spec import DataSpec, RunSpec
from bench.suite import NONE, TEACHER
from bench.suite.protocols import differences, protocols
from bench.tasks import TASKS, Evaluation, task_of
from bench.text import plural

# named if teachers differ in them
COMPARED_SETTINGS = ("batch_size", "lr", "lr_decay", "momentum", "weight_decay", "precision", *UNUSED)


def conditions(plan: Plan) -> str:
    """Return how the numbers were produced, with all differences from the methods' defaults and from the suite file."""
    task = TASKS[plan.suite.task]
    if plan.suite.evaluations:
        measured = "Percent on the test split after the last epoch of each evaluation"
    else:
        metric = task.metrics[0].title
        when = f"after the last of {plural(plan.suite.training.epochs, 'epoch')}"
        measured = f"{metric[0].upper()}{metric[1:]} in percent on the test split {when}"
    sentences = [
        *_protocol(plan),
        f"{measured}, never the best one; mean ± standard deviation (n - 1) over seeds, their number in "
        f"parentheses; of two seeds, mean and both values; "
        f"{plan.suite.asked_for} requested; {_arithmetic(plan.suite.training)}.",
        *_evaluations(plan),
        "" if plan.suite.evaluations else task.caption,
        *_teachers(plan),
        *_recipes(plan),
    ]
    own = [cell for cell in plan.cells if cell.choice is None]
    sentences += settings_used([plan.trained(cell.runs[0]) for cell in own])
    sentences += _tuning(plan)
    sentences += _controls(plan)
    if overrides := list(_overrides(own)):
        sentences.append(f"Not the methods' defaults: {'; '.join(overrides)}.")
    if labels := list(dict.fromkeys(cell.label for cell in plan.cells if plan.trained(cell.runs[0]).student.reuses)):
        layers = "a projector and the teacher's classifier, with which they predict"
        sentences.append(f"Students of {', '.join(labels)} keep {layers}.")
    if files := [*plan.plugins, *plan.suite.plugins]:
        sentences.append(f"Code from other files: {', '.join(files)}.")
    if plan.changes:
        sentences.append(f"Changed on the command line: {', '.join(plan.changes)}.")
    return " ".join(filter(None, sentences))


def _protocol(plan: Plan) -> Iterator[str]:
    """Yield the protocol that a suite names, or how the suite differs from it; nothing if it names none."""
    name = plan.suite.protocol
    if name is None:
        return
    if differing := differences(plan.suite):
        yield f"Not protocol {name}: {'; '.join(differing)}."
    else:
        yield f"Protocol {name} ({protocols()[name].source}); {protocols()[name].tests}."


def _student(plan: Plan) -> RunSpec | None:
    """Return a run that trains a student; None if all keep their initial weights and are only evaluated."""
    runs = (plan.trained(cell.runs[0]) for cell in plan.cells if cell.method != TEACHER)
    return next((run for run in runs if not task_of(run).is_evaluation), None)


def _overrides(cells: Sequence[Cell]) -> Iterator[str]:
    """Yield the label of each row whose settings are not its method's defaults, with these settings.

    Settings that the label already names are left out. Where pairs have different settings, each is followed by its
    pairs; the settings of most pairs come last.
    """
    by_label: dict[str, dict[str, dict[str, None]]] = {}  # pairs by settings by label
    for cell in cells:
        by_label.setdefault(cell.label, {}).setdefault(cell.overrides, {})[cell.pair] = None
    for label, by_settings in by_label.items():
        if len(by_settings) > 1:
            most = max(by_settings, key=lambda settings: len(by_settings[settings]))
            others = {settings or "defaults": pairs for settings, pairs in by_settings.items() if settings != most}
            of_pairs = [f"{settings} for {', '.join(pairs)}" for settings, pairs in others.items()]
            yield f"{label} ({'; '.join(of_pairs)}; otherwise {most or 'defaults'})"
        elif settings := next(iter(by_settings)):
            is_named = all(setting in label for setting in settings.split(", "))
            yield label if is_named else f"{label} ({settings})"


def _arithmetic(schedule: Schedule) -> str:
    """Return a schedule's precision, and the number of its processes if there are several."""
    shared = "" if schedule.processes is None else f", each batch shared by {schedule.processes} processes"
    return f"{schedule.precision}{shared}"


def _evaluations(plan: Plan) -> Iterator[str]:
    """Yield a sentence on each way in which trained networks are evaluated, and one on how they were trained."""
    if not plan.suite.evaluations:
        return
    metrics: dict[str, dict[str, None]] = {}  # the metrics' names, by how they are measured
    for cell in plan.cells:
        run = cell.runs[0]
        task = task_of(run)
        if cell.method != NONE or not isinstance(task, Evaluation):
            continue
        assert run.head is not None
        how = f"{task.sentence(run.head)}, fitted to {_described(run.data)}"
        if run.trains:
            training = run.training
            others = [one for one in plan.cells if (one.pair, one.evaluation) == (cell.pair, cell.evaluation)]
            rates = dict.fromkeys(f"{one.runs[0].training.lr:g}" for one in reversed(others))
            own = f", {NONE} {training.lr:g}" if len(rates) > 1 else ""
            how = (
                f"{task.sentence(run.head)}, trained on {_described(run.data)} for {plural(training.epochs, 'epoch')} "
                f"(learning rate {next(iter(rates))}{own}, batch size {training.batch_size}, {_arithmetic(training)})"
            )
        shown = [name for name, metric in zip(cell.metrics, cell.measured, strict=True) if metric.in_tables]
        metrics.setdefault(how, {}).update(dict.fromkeys(shown))
    for how, names in metrics.items():
        yield f"{', '.join(names)}: {how}."
    student = _student(plan)
    if student is not None and student.trains:
        yield f"Students trained on {_seen(student.data)} for {plural(student.training.epochs, 'epoch')}."
    yield TASKS[plan.suite.task].caption


def _tuning(plan: Plan) -> Iterator[str]:
    """Yield how the settings of tuned rows were chosen; nothing without a search."""
    tuning = plan.suite.tuning
    if tuning is None:
        return
    given = [
        pair.teacher_name for pair in plan.suite.pairs if any(one.checkpoint or one.weights for one in pair.members)
    ]
    dev = f"{tuning.dev_per_class}" if tuning.dev_per_class else f"{100 * (tuning.dev_fraction or 0):g} % of the"
    yield (
        f"Rows (tuned): the best of {tuning.trials} settings, the row's own among them, by "
        f"{TASKS[plan.suite.task].metrics[0].title} on dev images. These are {dev} training images of each class, on "
        f"which {'trials do not train' if given else 'neither trials nor their teachers train'}."
    )
    trials = [cell.choice.trials[0].runs[0] for cell in plan.cells if cell.choice is not None]
    trained = [plan.runs[name] for run in trials for name in run.teachers if plan.runs[name].trains]
    if plan.suite.teacher_data is not None and trained:
        yield f"Teachers of trials train on {_described(trained[0].data)} without the dev images."
    if given:
        yield f"The given weights of {', '.join(given)} may have been trained on the dev images."
    if tuning.rung_trials:
        yield f"All are tried for {plural(min(tuning.rung_trials), 'epoch')}{tuning.later_rungs}."
    yield (
        f"A trial has {plural(tuning.seeds, 'seed')}, which no final run has. Final runs train on the dev images, too. "
        "The test images were not used for the choice. Tuned rows are compared with tuned rows."
    )


def _controls(plan: Plan) -> Iterator[str]:
    """Yield a sentence on each control: the undistilled student, trained for more epochs."""
    labels = list(dict.fromkeys(cell.label for cell in plan.cells if cell.is_control and cell.choice is None))
    staged = dict.fromkeys(
        cell.label
        for cell in plan.cells
        if cell.choice is None
        and plan.trained(cell.runs[0]).trains
        and plan.trained(cell.runs[0]).training.has_initial_stage
    )
    for label in labels:
        yield (
            f"{label}: the student without a teacher, trained for as many more epochs as the initial stage of "
            f"{', '.join(staged)} has. They come first, at the initial learning rate; the milestones move by as many."
        )


def _teachers(plan: Plan) -> Iterator[str]:
    """Yield a sentence for each way in which teachers are trained differently from students."""
    student = _student(plan)
    networks: dict[str, dict[str, None]] = {}  # by how they differ
    for cell in plan.cells:
        if cell.method == TEACHER:
            networks.setdefault(_differences(cell, plan, student), {})[cell.teacher] = None
    yield from (f"Teacher {', '.join(names)} {how}." for how, names in networks.items() if how)


def _differences(cell: Cell, plan: Plan, student: RunSpec | None) -> str:
    """Return how the training of a teacher differs from that of students; "" if it does not."""
    run = plan.trained(cell.runs[0])
    if run.is_ensemble:
        run = plan.runs[run.teachers[0]]
    if not run.trains:
        library = run.student.network.partition(".")[0]
        return f"with {library}'s weights {run.checkpoint}" if run.has_published_weights else "read from a checkpoint"
    ours, theirs = plan.suite.training, plan.suite.teacher_schedule
    differing = []
    if run.training.epochs != ours.epochs:
        differing.append(f"after {plural(run.training.epochs, 'epoch')}")
    settings = [
        f"{key}={getattr(theirs, key)}" for key in COMPARED_SETTINGS if getattr(ours, key) != getattr(theirs, key)
    ]
    if settings:
        differing.append(f"with {', '.join(settings)}")
    if student is not None and run.data != student.data:
        differing.append(f"on {_seen(run.data)}; students on {_seen(student.data)}")
    return " ".join(differing)


def _recipes(plan: Plan) -> Iterator[str]:
    """Yield the settings in which students, or single networks, differ from plain SGD with a schedule of steps."""
    training = plan.suite.training
    stated: dict[str, tuple[Recipe, Iterable[str]]] = {
        "Training": (training, [key for key in UNUSED if getattr(training, key) is not None])
    }
    stated |= {name: (own, own.model_fields_set) for name, own in plan.suite.recipe_by_network.items()}
    for name, (recipe, keys) in stated.items():
        values = {key: getattr(recipe, key) for key in Recipe.model_fields if key in keys}
        if values:
            texts = (f"{key}={UNUSED[key] if value is None else value}" for key, value in values.items())
            yield f"{name} with {', '.join(texts)}."


def _seen(data: DataSpec) -> str:
    """Return a description of a data set and of the network's view of it."""
    return _described(data) if data.view is None else f"the {data.view} of {_described(data)}"


def _described(data: DataSpec) -> str:
    """Return a description of a data set and of the used part of its training split."""
    if data.train_per_class is not None:
        return f"{data.name} ({data.train_per_class} training images per class)"
    if data.train_fraction is not None:
        return f"{data.name} ({100 * data.train_fraction:g} % of the training images)"
    return f"{data.name} (all training images)"
