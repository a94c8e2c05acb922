"""The base classes of tasks: what a run learns, how it is evaluated, what its suite file needs. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from bench.spec import PEER, STUDENT, DataSpec, HeadSpec, NetworkSpec, RunSpec, column
from bench.tasks.objectives import CLASSIFICATION, Metric, Objective

if TYPE_CHECKING:
    from bench.models.base import Network
    from bench.models.heads import Frozen
    from bench.types import Shapes


class Task:
    """A kind of run. Subclasses state what differs; no other code branches on a task's name."""

    name: str  # in suite files, specifications and `list`
    objective: Objective | None = CLASSIFICATION  # the loss and metrics with labels; None where students see no labels
    networks: tuple[str, ...] = (STUDENT,)  # that a run trains; each has its own row in the tables
    shares_batches_with: str = ""  # the task whose batches a run sees, so that both train in one cohort; its own if ""
    teacher_task: str = "compression"  # of the runs that train or evaluate the teachers of its suites
    is_evaluation: bool = False  # whether it evaluates networks that other runs have trained; see `Evaluation`
    keeps_outputs: bool = False  # whether a run stores what figures show of its network on the test images
    same_view: bool = True  # whether teacher and student see the same image, so that their data must have one size
    evaluates_given_teachers: bool = True  # whether teachers with given weights and no stated accuracy are evaluated
    is_tunable: bool = False  # whether a suite can search the settings of its rows
    has_controls: bool = False  # whether its undistilled students train, so that they can train for more epochs
    allows_transfer: bool = False  # whether a suite of task `transfer` can evaluate its students on other data
    required_keys: ClassVar[Mapping[str, str]] = {}  # of a suite file, and the purpose of each
    rejected_keys: ClassVar[Mapping[str, str]] = {}  # of a suite file, and the reason for each
    caption: str = ""  # a sentence for captions

    @property
    def trains_teachers(self) -> bool:
        """Return whether the teacher of a pair trains together with the student."""
        return PEER in self.networks

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Return the metrics of one network, the primary one first; none without labels."""
        return () if self.objective is None else self.objective.metrics

    def measured(self, has_dev: bool = False) -> tuple[Metric, ...]:
        """Return the metrics of one network; with dev images, those of the dev images follow those of the test ones."""
        return (*self.metrics, *(metric.on_dev for metric in self.metrics)) if has_dev else self.metrics

    @property
    def answered(self) -> tuple[Metric, ...]:
        """Return the metrics that are computed from the stored answers of one network; none unless it classifies."""
        return () if self.objective is None else self.objective.answered

    def columns(self, network: str = STUDENT, has_dev: bool = False) -> list[str]:
        """Return the names under which a run records the metrics of one of its networks."""
        return [column(network, metric.name) for metric in self.measured(has_dev)]

    @property
    def recorded(self) -> list[str]:
        """Return the names under which a run records the metrics of all its networks."""
        return [name for network in self.networks for name in self.columns(network)]

    def student(self, run: RunSpec, teacher_data: DataSpec) -> RunSpec:
        """Return the run of an undistilled student, made from one that trains it only on labels."""
        return run

    def distilled(self, run: RunSpec, teacher: NetworkSpec, teacher_lr: float) -> RunSpec:
        """Return the run of a distilled student, made from that of `student` with the row's terms and its teachers.

        `teacher` is the network of the first teacher, and `teacher_lr` the learning rate with which it trains.
        """
        return run

    def learns(self, run: RunSpec) -> bool:
        """Return whether a run changes its network's weights."""
        return True

    def is_published(self, run: RunSpec) -> bool:
        """Return whether papers print a number for such a run."""
        return False


class Evaluation(Task):
    """Evaluates the features of a trained network: the network, with a new head, is trained on data with labels."""

    is_evaluation = True
    head_class: str  # the name of the new head's class in `bench.models.heads`
    what_trains: str  # for captions
    freezes: bool = False  # whether the network itself does not train, so that several heads share its forward pass
    is_solved: bool = False  # whether a solver fits the head, with a choice made on dev images, instead of epochs
    reads_stages: bool = False  # whether the head can read one of the network's stages instead of its embedding

    def prefix(self, several_data: bool, stages: Sequence[int] | None) -> str:
        """Return the prefix of the metrics' names in tables, unless the suite names the evaluation.

        With several data sets, the name of the data comes before it. `stages` is None for the embedding.
        """
        return self.name

    def sentence(self, head: HeadSpec) -> str:
        """Return what is trained, for captions."""
        return self.what_trains

    def head_options(self, head: HeadSpec) -> dict[str, Any]:
        """Return further arguments of the head's class."""
        return {}

    def headed(self, network: Network | Frozen, shapes: Shapes, classes: int, head: HeadSpec) -> Network:
        """Return the network, frozen if `freezes`, with a new head of `classes` logits; `shapes` are the network's."""
        from bench.models import heads

        new_head: type[Network] = getattr(heads, self.head_class)
        return new_head(network, shapes, classes, **self.head_options(head))
