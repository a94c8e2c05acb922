"""The keys of a suite file, as pydantic models; those of `training` are in `bench.schedule`. Imports no torch.

There are two kinds of file: `Suite` trains networks, `TransferSuite` evaluates the networks of another suite on other
data. Names of tasks are checked against `bench.tasks`.
"""

import itertools
from collections.abc import Iterator
from functools import cached_property
from importlib.util import find_spec
from typing import Annotated, Literal, Self

from annotated_types import Le, Len
from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, model_validator

from bench.data import PathText, unlabelled
from bench.schedule import Count, Parallel, Recipe, Schedule, Strict
from bench.suite.entries import TEACHER, MethodEntry, RowEntry, one_of
from bench.suite.evaluations import DataEntry, EvaluationEntry, problems_of_schedule
from bench.suite.messages import ProblemsError
from bench.suite.pairs import NetworkName, PairEntry, repeated
from bench.suite.protocols import protocols
from bench.suite.published import published_tables
from bench.suite.resources import Slurm
from bench.suite.seeds import MAX_SEEDS, CrossedSeeds, Seeds, listed_seeds
from bench.suite.tuning import TUNED, Tuning
from bench.tasks import STUDENT_TASKS, TASKS
from bench.types import suggest

FILE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"  # name of a suite file without `.yaml`
PEERS = f" ({TEACHER})"  # suffix of a label: the row of the teacher, if both networks of a pair train together
TRANSFER = "transfer"  # the task of a `TransferSuite`


def _one_line(title: str) -> str:
    if not (line := " ".join(title.split())):
        raise ValueError("a title needs a word")
    return line


def _distinct_pairs(pairs: tuple[PairEntry, ...]) -> tuple[PairEntry, ...]:
    if twice := repeated(pair.name for pair in pairs):
        raise ValueError(f"the same pair twice: {', '.join(twice)}")
    return pairs


def _installed(wanted: bool) -> bool:
    if wanted and find_spec("tensorboard") is None:
        install = "pip install 'distillation-bench[tensorboard]'"
        raise ValueError(f"needs the package tensorboard, which is not installed: {install}, or leave the key out")
    return wanted


def _known_table(table: int | str) -> int | str:
    if str(table) not in published_tables():
        raise ValueError(f"unknown table {table!r}. {suggest(str(table), published_tables())}")
    return table


Title = Annotated[str, Len(1), AfterValidator(_one_line)]
Workers = Annotated[NonNegativeInt, Le(1_024)]
NeedsTensorBoard = Annotated[bool, AfterValidator(_installed)]
TableName = Annotated[int | str, AfterValidator(_known_table)]
TaskName = Annotated[str, *one_of("task", STUDENT_TASKS, TRANSFER)]
ProtocolName = Annotated[str, *one_of("protocol", protocols())]


class PublishedTable(Strict):
    """A published table to compare with."""

    source: str
    """The paper with the table."""
    table: TableName
    """The table's name in `bench/suite/published.csv`."""


class TeacherTraining(Schedule):
    """Training of teachers; a key that is not given has the value of `training`."""

    def check_whole(self) -> None:
        """Check nothing: only the suite knows the complete schedule, and checks it."""


class NetworkRecipe(Recipe):
    """Keys of `training` for one network; a key that is not given has the value that other networks have."""


class SuiteFile(Strict):
    """The keys of both kinds of suite file."""

    title: Title
    """Title of the table."""
    published: PublishedTable | None = None
    """Published numbers, for the column `published` in table.csv."""
    plugins: tuple[PathText, ...] = ()
    """Files with methods and networks, as for `--plugin`; paths are absolute, or relative to the suite file."""
    max_lanes: Count | None = None
    """Largest number of runs that train together, if memory or time limits require one; default: all that can."""
    slurm: Slurm = Slurm()
    """Resources of a job on a cluster."""
    tensorboard: NeedsTensorBoard = False
    """Whether to write the epochs of each run for TensorBoard too."""


class Suite(SuiteFile):
    """One table or figure: pairs, methods, seeds and how to train."""

    protocol: ProtocolName | None = None
    """Name and version of the protocol that the suite follows, such as `crd-cifar100/1`; captions name it. No part of a
    run's identity.
    """
    task: TaskName = "compression"
    """What students learn from and how they are evaluated; with `mutual`, both networks of a pair teach each other."""
    data: DataEntry
    """The data for training and evaluating students, and teachers unless `teacher_data` is given."""
    teacher_data: DataEntry | None = None
    """The data for training and evaluating teachers, if different."""
    pairs: Annotated[tuple[PairEntry, ...], Len(1), AfterValidator(_distinct_pairs)]
    """Teachers and students; each pair is a column of the table."""
    teachers: PathText | None = None
    """Folder of the published teachers, as RepDistiller or mdistiller lay them out; absolute, or relative to the suite
    file. Every teacher without weights of its own is taken from there.
    """
    methods: Annotated[tuple[RowEntry, ...], Len(1)]
    """The rows of the table; every table also has the rows `teacher` and `none`."""
    seeds: Seeds | CrossedSeeds = 1
    """The number of seeds (1 to n), or a list of them; or a mapping, which crosses the seeds of several sources of
    chance.
    """
    teacher_seeds: Literal["fixed", "paired"] = "fixed"
    """Seeds of teachers: `fixed` trains one teacher with seed 0 for all students, `paired` one per seed."""
    training: Schedule = Schedule()
    """Training of students, and of teachers unless `teacher_training` is given."""
    teacher_training: TeacherTraining | None = None
    """Keys of `training` that differ for teachers."""
    lr_by_network: dict[NetworkName, PositiveFloat] = Field(default_factory=dict)
    """Learning rates by network, for students and teachers; they replace all others."""
    recipe_by_network: dict[NetworkName, NetworkRecipe] = Field(default_factory=dict)
    """Keys of `training` by network, for students and teachers; they replace those of `training` and
    `teacher_training`. Epochs, batches and arithmetic are those of all.
    """
    controls: bool = True
    """Whether tables have a row `none, +N epochs` where a method has an initial stage: the undistilled student, trained
    for N more epochs, as many as the initial stage has.
    """
    tuning: Tuning | None = None
    """A search for better settings of each row, which gets a second row, `LABEL (tuned)`, with the settings found."""
    threads: Parallel = 2
    """CPU threads of torch; the number changes the rounding of results."""
    workers: Workers = 2
    """Processes that decode images if the data set does not fit into memory."""
    evaluations: tuple[EvaluationEntry, ...] = ()
    """Evaluations of cross-modal students; the columns of the tables."""

    @cached_property
    def text(self) -> str:
        """Return the text of the file from which the suite was loaded, which sets it."""
        return ""

    @model_validator(mode="after")
    def _fits_its_task(self) -> Self:
        if problems := list(self._problems()):
            raise ProblemsError(problems)
        return self

    def _problems(self) -> Iterator[str]:
        """Yield which keys the task needs but the suite does not have, and which it does not allow."""
        task = TASKS[self.task]
        yield from (
            f"task {task.name} needs {key!r}: {use}"
            for key, use in task.required_keys.items()
            if not getattr(self, key)
        )
        yield from (f"{key!r}: {reason}" for key, reason in task.rejected_keys.items() if getattr(self, key))
        if self.evaluations and "evaluations" not in task.required_keys:
            evaluated = [name for name, other in TASKS.items() if "evaluations" in other.required_keys]
            yield f"'evaluations' are for task: {' or '.join([*evaluated, TRANSFER])}; the task here is {task.name}"
        if task.objective is None and self.data.has_dev:
            yield f"'data': dev images are evaluated with labels; students of task {task.name} have none"
        if self.tuning is not None:
            yield from self._problems_of_tuning()
        if self.crossed is not None:
            yield from self._problems_of_crossing()
        if task.trains_teachers:
            yield from self._problems_of_peers()
        if self.teachers is not None and (task.trains_teachers or self.crosses_teachers):
            why = f"task {self.task} trains them" if task.trains_teachers else "'seeds' has several of each"
            yield f"'teachers': published teachers have one set of weights, but {why}: leave it out"
        if task.objective is None and any(entry.task_weight is not None for entry in self.methods):
            yield f"'task_weight' is for students that learn from labels; students of task {task.name} have none"
        if task.objective is not None and (reason := unlabelled(self.data.name, task.objective.labels)):
            yield f"'data': {reason}"
        yield from self._problems_of_rows()
        are_tested = task.evaluates_given_teachers or any(one.is_tested for pair in self.pairs for one in pair.members)
        teacher_data = self.teacher_data if are_tested else None
        teaching = TASKS[task.teacher_task].objective
        if teacher_data and teaching and (reason := unlabelled(teacher_data.name, teaching.labels)):
            yield f"'teacher_data': {reason}"
        yield from self._problems_of_recipes()

    def _problems_of_recipes(self) -> Iterator[str]:
        """Yield why networks cannot train as stated."""
        task, teaching = TASKS[self.task], TASKS[TASKS[self.task].teacher_task]
        schedules = {"training": (self.training, task), "teacher_training": (self.teacher_schedule, teaching)}
        for name, own in self.recipe_by_network.items():
            where = f"recipe_by_network.{name}"
            schedules[where] = (self.training.changed(own), task)
            schedules[f"{where} as a teacher"] = (self.teacher_schedule.changed(own), teaching)
            if task.trains_teachers:
                yield f"{where}: with task {task.name}, two networks train together, with one recipe: use 'training'"
            if name in self.lr_by_network and "lr" in own.model_fields_set:
                yield f"{where}.lr: lr_by_network states it too: leave out one of both"
        whole = [schedule for schedule, _ in schedules.values()]
        stated: dict[str, Recipe] = {
            "training": self.training,
            "teacher_training": self.teacher_training or TeacherTraining(),
        }
        stated |= {f"recipe_by_network.{name}": own for name, own in self.recipe_by_network.items()}
        for where, recipe in stated.items():
            yield from (f"{where}.{problem}" for problem in recipe.unused_keys(whole))
        told: set[str] = set()
        for where, (schedule, trained) in schedules.items():
            for problem in problems_of_schedule(schedule, trained):
                if problem not in told:
                    yield f"{where}: {problem}"
                told.add(problem)

    def _problems_of_crossing(self) -> Iterator[str]:
        """Yield why the suite's seeds cannot be crossed."""
        if self.teacher_seeds != "fixed":
            yield "'teacher_seeds': crossed seeds state those of teachers as seeds.teacher: leave it out"
        if self.runs_per_row > MAX_SEEDS:
            yield f"'seeds': {self.runs_per_row:,} combinations; at most {MAX_SEEDS:,} are allowed: state fewer"
        if not self.crosses_teachers:
            return
        if TASKS[self.task].trains_teachers:
            yield f"'seeds': with task {self.task}, no student has a trained teacher: leave out 'teacher'"
        for index, pair in enumerate(self.pairs):
            if any(teacher.checkpoint or teacher.weights for teacher in pair.members):
                yield f"'seeds': the teacher of pairs[{index}] has given weights, and no seed: leave out 'teacher'"

    def _problems_of_tuning(self) -> Iterator[str]:
        """Yield why the settings of the suite's rows cannot be searched."""
        assert self.tuning is not None  # the caller has asked
        task = TASKS[self.task]
        if not task.is_tunable:
            tunable = " or ".join(name for name, other in TASKS.items() if other.is_tunable)
            yield f"'tuning' is for task: {tunable}; the task here is {task.name}"
        if (teacher_data := self.teacher_data) is not None:
            for key in ("name", "path", "test_fraction"):
                theirs, own = getattr(teacher_data, key), getattr(self.data, key)
                if theirs != own:
                    yield (
                        "'teacher_data': with 'tuning', teachers of trials train on these images without the dev "
                        f"images of 'data', so both need the same {key}; found {theirs} and {own}"
                    )
            if teacher_data.has_dev:
                yield "'teacher_data': with 'tuning', dev images are stated there: leave them out here"
        for index, entry in enumerate(self.methods):
            if entry.label is not None and entry.label.endswith(TUNED):
                yield f"methods[{index}].label: {entry.label!r} is the label of a tuned row: leave out {TUNED!r}"
        if self.data.has_dev:
            yield "'data': with 'tuning', dev images are stated there; final runs train on all: leave them out here"
        elif problems := self.data.model_copy(update=self.tuning.dev).problems():
            yield f"tuning: {'; '.join(problems)}"

    def _problems_of_rows(self) -> Iterator[str]:
        """Yield the names of pairs and published rows that are not known."""
        pairs = [pair.name for pair in self.pairs]
        table = published_tables()[str(self.published.table)] if self.published else {}
        published_rows = sorted({method for _, _, _, method, _ in table})
        for index, entry in enumerate(self.methods):
            if not isinstance(entry, MethodEntry):
                continue
            for name in entry.by_pair:
                if name not in pairs:
                    yield f"methods[{index}].by_pair.{name}: there is no pair {name!r}. {suggest(name, pairs)}"
            if entry.published and not self.published:
                yield f"methods[{index}].published: the suite names no table: add 'published' to the suite"
            elif entry.published and entry.published not in published_rows:
                fix = suggest(entry.published, published_rows)
                yield f"methods[{index}].published: there is no row {entry.published!r} in the table. {fix}"

    def _problems_of_peers(self) -> Iterator[str]:
        """Yield why the networks of a pair cannot train together."""
        for index, pair in enumerate(self.pairs):
            if pair.teachers is not None:
                yield f"pairs[{index}]: with task {self.task}, two networks train together: name one 'teacher'"
            if any(teacher.checkpoint or teacher.weights for teacher in pair.members):
                yield f"pairs[{index}]: with task {self.task}, the teacher is trained too: leave out its weights"
        for index, entry in enumerate(self.methods):
            if entry.label is not None and entry.label.endswith(PEERS):
                yield f"methods[{index}].label: {entry.label!r} is the label of a teacher's row: leave out {PEERS!r}"

    @property
    def crossed(self) -> CrossedSeeds | None:
        """Return the seeds by source, or None if each run has one seed for all."""
        return self.seeds if isinstance(self.seeds, CrossedSeeds) else None

    @property
    def crosses_teachers(self) -> bool:
        """Return whether each student learns from each of several teachers in turn."""
        return self.crossed is not None and self.crossed.teacher is not None

    @property
    def student_seeds(self) -> tuple[tuple[int, int], ...]:
        """Return the seeds of initial weights and of order of each student, without regard to teachers."""
        if isinstance(self.seeds, CrossedSeeds):
            return tuple(itertools.product(listed_seeds(self.seeds.init), listed_seeds(self.seeds.order)))
        return tuple((seed, seed) for seed in listed_seeds(self.seeds))

    @property
    def teacher_seed_list(self) -> tuple[int, ...]:
        """Return the seeds of teachers."""
        if self.crossed is not None and self.crossed.teacher is not None:
            return listed_seeds(self.crossed.teacher, first=0)
        return (0,) if self.teacher_seeds == "fixed" else tuple(seed for seed, _ in self.student_seeds)

    @property
    def runs_per_row(self) -> int:
        """Return how many runs a row has in each pair."""
        return len(self.student_seeds) * (len(self.teacher_seed_list) if self.crosses_teachers else 1)

    @property
    def asked_for(self) -> str:
        """Return, as text, how many seeds are requested for each row."""
        if self.crossed is None:
            return str(self.runs_per_row)
        counts = {key: len(listed_seeds(own)) for key, own in self.crossed if own is not None}
        return f"{' x '.join(f'{count} {key}' for key, count in counts.items())}, crossed,"

    @property
    def teacher_schedule(self) -> Schedule:
        """Return the complete schedule of teachers: `training` with the keys of `teacher_training`."""
        if self.teacher_training is None:
            return self.training
        return self.training.changed(self.teacher_training)

    def schedule_of(self, network: str, schedule: Schedule) -> Schedule:
        """Return the schedule with which a network trains, where others train with `schedule`."""
        if network in self.recipe_by_network:
            schedule = schedule.changed(self.recipe_by_network[network])
        return schedule.model_copy(update={"lr": self.lr_by_network.get(network, schedule.lr)})


class TransferSource(Strict):
    """The suite whose networks are evaluated; missing networks are trained first."""

    suite: Annotated[str, Field(pattern=f"^{FILE_NAME}$")]
    """Name of a suite file in the same folder, without `.yaml`."""
    pairs: Annotated[tuple[str, ...], Len(1)] | None = None
    """Names of its pairs, or patterns such as `wrn_*->*`; default: all."""
    methods: Annotated[tuple[str, ...], Len(1)] | None = None
    """Labels or methods of its rows, or patterns; default: all."""
    seeds: Seeds | None = None
    """The number of seeds, or a list of them; default: those of that suite."""


class TransferSuite(SuiteFile):
    """A suite that evaluates the networks of another suite on other data."""

    task: Literal["transfer"]
    """Always `transfer`, the mark of this kind of file."""
    source: TransferSource = Field(alias="from")
    """The suite whose networks are evaluated; the key is `from`."""
    evaluations: Annotated[tuple[EvaluationEntry, ...], Len(1)]
    """Evaluations of the networks; the columns of the tables."""
    threads: Parallel | None = None
    """CPU threads of torch; default: those of the other suite."""
    workers: Workers | None = None
    """Processes that decode images; default: those of the other suite."""
