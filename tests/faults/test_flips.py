"""Damage in any file of a store is reported with the file's name, or the result is the same; never another number."""

import random
import shutil
from pathlib import Path

import pytest

from bench.plan import Plan
from bench.report.table_csv import to_csv
from bench.report.write import write_tables
from bench.store import CHECKPOINT, Store
from bench.types import RequestError
from tests.faults.conftest import TINY
from tests.train.conftest import OFTEN, Bench, document, rows, weights

JSON = ("spec.json", "record.json", "epochs.jsonl")
SMALL, LARGE = 6, 3  # damaged copies of each small file, and of each large one
IN_THE_LONG_FORM = 400


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a suite that has ended, its plan and its store."""
    suite = Bench(tmp_path_factory.mktemp("whole"), document(**TINY, **OFTEN))
    plan, store, _ = suite.run(keep_checkpoints=True)
    return suite, plan, store


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Return the content with one bit changed, or cut off."""
    at = chance.randrange(len(content))
    if chance.random() < 0.2:
        return content[:at]
    return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]


def numbers(plan: Plan, store: Store) -> tuple[str, list]:
    """Return all that is read from records and epochs: the table, and the curves."""
    return to_csv(write_tables(plan, store)), [store.epochs(run_id) for run_id in plan.runs]


def flips(number: int) -> list:
    return [number, pytest.param(IN_THE_LONG_FORM, marks=pytest.mark.slow)]


@pytest.mark.parametrize("number", flips(SMALL))
@pytest.mark.parametrize("name", JSON)
def test_a_damaged_record_is_named_or_the_numbers_are_the_same(whole, name, number, chance, tmp_path):
    _, plan, store = whole
    found, copy = numbers(plan, store), Store(tmp_path / "copy")
    shutil.copytree(store.root, copy.root)
    undetected = silent = 0
    for path in sorted(copy.root.glob(f"runs/*/{name}")):
        content = path.read_bytes()
        for _ in range(number):
            path.write_bytes(damaged(content, chance))
            try:
                undetected += numbers(plan, copy) != found
                silent += 1
            except RequestError as error:
                assert str(path) in str(error)  # noqa: PT017
                assert len(str(error).splitlines()) == 1  # noqa: PT017
        path.write_bytes(content)
    assert not undetected
    print(f"{name}: {3 * number} damaged, {silent} without a message and with the same numbers")  # noqa: T201


@pytest.mark.parametrize("number", flips(LARGE))
def test_damaged_weights_of_a_teacher_are_named_or_its_student_is_the_same(whole, number, chance, tmp_path):
    suite, plan, store = whole
    (student,) = (run for run in plan.runs.values() if run.terms)
    (teacher,) = student.teachers
    content = (store.folder(teacher) / "student.safetensors").read_bytes()
    named = 0
    for copy in map(str, range(number)):
        folder = suite.folder / copy
        shutil.copytree(store.root, folder)
        shutil.rmtree(folder / "runs" / student.id)
        path = folder / "runs" / teacher / "student.safetensors"
        path.write_bytes(damaged(content, chance))
        try:
            _, again, _ = suite.run(copy)
        except RequestError as error:
            assert str(path) in str(error)  # noqa: PT017
            named += 1
        else:
            assert weights(again, student.id) == weights(store, student.id)
        shutil.rmtree(folder)
    print(f"weights: {number} damaged, {named} named")  # noqa: T201


@pytest.mark.parametrize("number", flips(LARGE))
def test_a_run_with_a_damaged_checkpoint_ends_the_same(whole, number, chance):
    suite, plan, store = whole
    (student,) = (run for run in plan.runs.values() if run.terms)

    half = interrupted(suite, store, student.id)
    content = (half / "runs" / student.id / CHECKPOINT).read_bytes()
    named = 0
    for copy in (f"damaged-{i}" for i in range(number)):
        shutil.copytree(half, suite.folder / copy)
        path = suite.folder / copy / "runs" / student.id / CHECKPOINT
        path.write_bytes(damaged(content, chance))
        _, again, _ = suite.run(copy)
        assert weights(again, student.id) == weights(store, student.id)
        assert rows(again, student.id) == rows(store, student.id)
        named += bool(list(path.parent.glob("checkpoint.broken*")))
        shutil.rmtree(suite.folder / copy)
    shutil.rmtree(half)
    print(f"checkpoints: {number} damaged, {named} set aside")  # noqa: T201


def interrupted(suite: Bench, store: Store, student: str) -> Path:
    """Return a store in which the student has one checkpoint, and the others have ended."""
    half, write = suite.folder / "half", Store.write
    shutil.copytree(store.root, half)
    shutil.rmtree(half / "runs" / student)

    def dies_after_the_checkpoint(self: Store, run_id: str, name: str, content: bytes) -> None:
        write(self, run_id, name, content)
        if name == CHECKPOINT:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "write", dies_after_the_checkpoint)
        with pytest.raises(KeyboardInterrupt):
            suite.run("half")
    return half
