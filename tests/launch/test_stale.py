"""Code and weights that change: finished runs are trained again, and a run that was begun does not go on half new."""

import logging
import shutil
from pathlib import Path

import pytest

from bench.launch.launcher import Launcher
from bench.launch.slurm import PLUGINS, _copy_code
from bench.plan import Plan
from bench.plan.status import to_train_again
from bench.store import CHECKPOINT, WEIGHTS, Store
from bench.train.lane import Lane
from bench.types import RequestError
from methods._code import code_of
from methods._description import IMPORTED
from methods.base import REGISTERED
from tests.few import use_few_digits
from tests.train.conftest import OFTEN, Bench, Silent, document, rows, weights

AWAY = '''"""Pull: matches logits."""
from methods.base import Distiller, register


@register("pull", weight=1.0)
class Pull(Distiller):
    def loss(self, student, teacher, batch):
        return -(student.logits - teacher.logits).square().mean().clamp(max=5.0)
'''
MENDED = AWAY.replace("-(student", "(student")


class Own:
    """A suite with a method of one's own, whose file is edited between two starts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.plugin, self.store = folder, folder / "pull.py", Store(folder / "results")
        data = {"name": "digits", "resize": 16, "train_per_class": 2}
        training = {"epochs": 2, "batch_size": 20, "milestones": [1], "evaluate_every": 2}
        self.document = document(methods=["pull"], data=data, training=training, **OFTEN)

    def plan(self) -> Plan:
        return Bench(self.folder, self.document, [self.plugin]).plan()

    def run(self, source: str, accept_changed: bool = False) -> None:
        """Write the method's file and train what is to be trained."""
        self.plugin.write_text(source)
        REGISTERED.pop("pull", None)  # as in a new process
        IMPORTED.clear()
        work = Bench(self.folder, self.document, [self.plugin]).work(accept_changed=accept_changed)
        Launcher(work).run(Silent(), to_train_again(work.wanted, work.plan, self.store))

    def half_trained(self) -> str:
        """Train with the first file until the student's first checkpoint; return the student's id."""

        def write_and_end(store: Store, run_id: str, content: bytes) -> None:
            write(store, run_id, content)
            if store.spec(run_id).terms:
                raise KeyboardInterrupt

        write = Store.write_checkpoint
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Store, "write_checkpoint", write_and_end)
            with pytest.raises(KeyboardInterrupt):
                self.run(AWAY)
        (run,) = (run for run in self.plan().runs.values() if run.terms)
        assert self.store.checkpoint(run.id) is not None
        return run.id

    def signs(self, run_id: str) -> list[bool]:
        """Return of each epoch whether the first file's loss, which is negative, was used."""
        return [row["term0_pull"] < 0 for row in rows(self.store, run_id)]


@pytest.fixture
def own(tmp_path, few, caplog):
    caplog.set_level(logging.INFO)
    return Own(tmp_path)


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """Return a suite whose student is half trained, and the student's id; nothing writes into it."""
    with pytest.MonkeyPatch.context() as patch:
        use_few_digits(patch)
        own = Own(tmp_path_factory.mktemp("half"))
        return own, own.half_trained()


def test_a_cluster_gets_a_plugin_with_the_helpers_that_its_hash_covers(own):
    own.plugin.write_text(AWAY.replace("from methods", "from parts.deep import POWER\nfrom methods", 1))
    (own.folder / "parts").mkdir()
    (own.folder / "parts/deep.py").write_text("POWER = 2\n")
    work = Bench(own.folder, own.document, [own.plugin]).work()
    (own.folder / "copy").mkdir()
    _copy_code(own.folder / "copy", work)
    assert code_of(own.folder / "copy" / PLUGINS / "pull.py").sha256 == work.plan.code["pull"].sha256


def test_a_finished_run_is_trained_again_after_its_method_was_mended_but_not_after_a_comment(own, caplog):
    own.run(AWAY)
    (run,) = (run for run in own.plan().runs.values() if run.terms)
    before = weights(own.store, run.id)
    own.run("# a comment\n" + AWAY)
    assert "trained again" not in caplog.text
    assert weights(own.store, run.id) == before
    own.run(MENDED)
    assert f"run {run.id} is trained again: pull.py has changed since" in caplog.text
    assert own.signs(run.id) == [False, False]
    assert sorted(path.name for path in own.store.root.glob("runs/*.stale")) == []


def test_a_run_that_was_interrupted_does_not_go_on_with_another_file(own, caplog):
    run_id = own.half_trained()
    own.run(MENDED)
    assert f"run {run_id}: pull.py has changed since it began" in caplog.text
    assert own.signs(run_id) == [False, False]
    assert (own.store.folder(run_id) / CHECKPOINT).with_suffix(".stale").exists()


def test_it_goes_on_where_the_change_is_accepted_and_the_record_names_both_files(own):
    run_id = own.half_trained()
    before = own.plan().code["pull"].sha256
    own.run(MENDED, accept_changed=True)
    assert own.signs(run_id) == [True, False]
    record = own.store.record(run_id)
    assert [one["methods_sha256"]["pull"] for one in record["accepted"]] == [before]
    assert record["methods_sha256"] == {"pull": own.plan().code["pull"].sha256}


def test_a_run_fails_whose_method_was_edited_between_the_plan_and_its_import(own, half):
    other, run_id = half
    shutil.copytree(other.folder / "results", own.folder / "results")
    own.plugin.write_text(AWAY)
    work = Bench(own.folder, own.document, [own.plugin]).work()
    own.plugin.write_text(MENDED)
    REGISTERED.pop("pull", None)
    IMPORTED.clear()
    Launcher(work).run(Silent())
    assert "pull.py: has changed since the suite was planned" in own.store.failure(run_id).reason


def test_a_damaged_checkpoint_is_set_aside_and_the_run_starts_anew(own, caplog):
    run_id = own.half_trained()
    path = own.store.folder(run_id) / CHECKPOINT
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)
    own.run(AWAY)
    assert f"run {run_id}: checkpoint.pt is damaged (its content does not match its checksum)" in caplog.text
    assert own.signs(run_id) == [True, True]


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ((Store, "checkpoint"), OSError(5, "Input/output error")),
        ((Store, "checkpoint"), RequestError("cannot be read")),
        ((Lane, "opened"), MemoryError()),
        ((Lane, "restore"), RuntimeError("CUDA out of memory")),
    ],
)
def test_a_checkpoint_that_cannot_be_read_now_is_kept(own, half, place, error):
    other, run_id = half
    shutil.copytree(other.folder / "results", own.folder / "results")

    def fail(*_: object) -> None:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*place, fail)
        own.run(AWAY)
    assert type(error).__name__ in own.store.failure(run_id).reason
    assert [path.name for path in own.store.folder(run_id).glob("checkpoint*")] == [CHECKPOINT]


def test_a_run_does_not_go_on_under_another_teacher(own, caplog):
    run_id = own.half_trained()
    (teacher,) = own.plan().runs[run_id].teachers
    content = bytearray(own.store.weights(teacher))
    content[-1] ^= 0x01
    (own.store.folder(teacher) / WEIGHTS).write_bytes(content)
    with pytest.raises(RequestError, match=f"{teacher}/student.safetensors: has changed since the run ended"):
        own.run(AWAY)
    own.store.finish(teacher, own.store.record(teacher))
    own.run(AWAY)
    assert f"run {run_id}: the weights of its teacher, run {teacher}, have changed" in caplog.text
    assert len(rows(own.store, run_id)) == 2
