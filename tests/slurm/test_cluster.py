"""A suite on a cluster: the same numbers as here, whatever becomes of its jobs."""

import csv
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from bench.store import Failure, Store
from tests.data.test_imagefolder import write_folder
from tests.slurm.conftest import ROOT, Submitted
from tests.stores import cell_of
from tests.train.conftest import document

pytestmark = pytest.mark.slurm  # a minute, those that are slow another twelve

ONE_EPOCH = {"epochs": 1, "batch_size": 16, "initial_epochs": 1}
HELD = {"slurm_additional_parameters": {"hold": True}}  # jobs that wait until they are released
# digits have 897 images to test on, and these tests evaluate on all
BIRDS = {"data": {"name": "imagefolder", "path": "birds", "resize": 32, "mean": [0.5] * 3, "std": [0.2] * 3}}
LONG = {  # cohorts that train for long enough to be disturbed
    "methods": ["slow"],
    "training": {"epochs": 12, "batch_size": 16, "evaluate_every": 12},
    "teacher_training": {"epochs": 1},
    "seeds": 4,
}


def table(results: Path) -> list[dict[str, str]]:
    with (results / "tiny" / "table.csv").open() as file:
        return list(csv.DictReader(file))


def epochs_said(suite) -> list[str]:
    """Return which epochs of students ended, by seed, as the logs of all jobs tell it."""
    return re.findall(r"seed ([1-9]\d* \| epoch \d+)/", suite.logs)


@pytest.fixture(scope="module")
def undisturbed(_started, tmp_path_factory):
    """Return the store in which `LONG` was trained here, from its beginning to its end."""
    suite = Submitted(_started, tmp_path_factory.mktemp("here"), "tiny", **LONG)
    suite.command("run")
    return suite.store


@pytest.mark.parametrize(
    ("seeds", "data"), [(2, BIRDS), pytest.param(12, {}, marks=pytest.mark.slow)], ids=["2 seeds", "12 seeds"]
)
def test_a_suite_of_many_cohorts_fills_the_same_table_as_here_with_the_same_bits(seeds, data, submitted, tmp_path):
    write_folder(tmp_path / "birds")
    suite = submitted(methods=["kd"], seeds=seeds, training=ONE_EPOCH, **data)
    (tmp_path / "here").mkdir()
    said = suite.command("run", "--slurm")
    assert len(suite.tasks) == 1 + seeds
    students = rf"job \d+: {seeds} task\(s\), {2 * seeds} run\(s\), after"
    assert re.search(rf"job \d+: 1 task\(s\), 1 run\(s\)\n{students}", said)
    suite.command("run", "--results", str(tmp_path / "here"))
    suite.wait_for_the_end()
    assert table(suite.results) == table(tmp_path / "here")
    suite.assert_equals(Store(tmp_path / "here"))
    assert "Nothing" not in suite.command("run", "--slurm")  # but the table
    assert len(suite.tasks) == 1 + seeds


@pytest.mark.slow
def test_jobs_that_are_preempted_go_on_from_their_last_epoch(submitted, cluster, undisturbed):
    suite = submitted(step_s=0.15, **LONG, slurm={"partition": "low", "cpus_per_task": 2})
    suite.command("run", "--slurm")
    suite.wait(lambda: len(set(epochs_said(suite))) >= 8)
    words = ["--parsable", "--partition=main", "--cpus-per-task=8", "--output=/dev/null", "--wrap=sleep 3"]
    pushing = cluster.do("sbatch", *words).strip()
    suite.wait(lambda: pushing not in cluster.do("squeue", "--noheader", "--format=%i"))
    suite.wait_for_the_end()
    suite.assert_equals(undisturbed)
    restarts = suite.logs.count("this job is preempted")
    assert restarts == 4
    said = epochs_said(suite)
    assert len(set(said)) == 4 * 12
    assert len(said) - len(set(said)) <= restarts  # an epoch that ended, but was not saved yet


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "delay_s"),
    [(number, delay_s) for number in ("USR2", "TERM") for delay_s in (0.2, 1.0, 2.0, 4.0, 8.0)],
)
def test_a_job_that_gets_a_signal_while_it_starts_finishes_without_a_second_submission(submitted, number, delay_s):
    """A cluster that preempts a job sends USR2, which this project asks for, or TERM."""
    suite = submitted(methods=["kd"], training=ONE_EPOCH)
    suite.command("run", "--slurm")
    teacher = min(suite.tasks, key=lambda job: len(suite.tasks[job]))
    suite.wait(lambda: suite.jobs.get(teacher) == "RUNNING")
    time.sleep(delay_s)
    suite.cluster.do("scancel", f"--signal={number}", teacher)
    suite.wait_for_the_end(300)
    assert suite.states == {"done"}, suite.logs
    assert len(suite.tasks) == 2


@pytest.mark.slow
def test_what_died_with_its_job_is_all_that_the_same_command_submits_again(submitted, cluster, undisturbed):
    suite = submitted(step_s=0.15, **LONG, slurm={"mem_gb": 1})
    suite.command("run", "--slurm")
    suite.wait(lambda: len(set(epochs_said(suite))) >= 8)
    first = suite.tasks
    students = sorted(job for job, runs in first.items() if suite.plan.runs[runs[0]].seed)
    cluster.do("scancel", *students[:2])
    running = {suite.store.holder(first[job][0]) for job in students[2:]}
    os.kill(min(claim.process for claim in running if claim), signal.SIGKILL)
    suite.wait(lambda: len([job for job in students if job in suite.jobs]) == 1)
    said = suite.command("status")
    assert said.count("failed, its log") == 3
    assert re.search(r"failed, its log \S+ ends:\n.*\n.*epoch \d+/12", said)
    assert re.search(r"job \S+: resnet14->resnet8 seed \d, none, Slow: running", said)
    assert re.search(r"seed \d: \d+/12 \(\d+\.\d s per epoch, \d+ s left\)", said)

    suite.command("run", "--slurm")
    again = {job: runs for job, runs in suite.tasks.items() if job not in first}
    assert len(again) == 3
    suite.wait_for_the_end()
    suite.assert_equals(undisturbed)
    repeated = epochs_said(suite)
    assert len(repeated) - len(set(repeated)) <= 3


def test_a_teacher_that_fails_is_the_reason_in_its_students_cells_and_nothing_waits_for_ever(submitted):
    suite = submitted(methods=["kd", "at"], training=ONE_EPOCH, teacher_training={"lr": 1e30})
    suite.command("run", "--slurm")
    suite.wait_for_the_end(60)
    states = {row["label"]: (row["status"], row["reason"]) for row in table(suite.results)}
    teacher = next(iter(suite.plan.runs))
    reason = f"the loss is not finite in epoch 1 (run {teacher})"
    assert states["teacher"] == ("diverged", reason)
    assert states["KD"] == states["AT"] == ("diverged", f"its teacher resnet14 diverged: {reason}")
    assert len(suite.tasks) == 2


@pytest.mark.slow
def test_jobs_run_the_code_as_it_was_when_they_were_submitted(submitted, tmp_path):
    suite = submitted(methods=["kd"], training=ONE_EPOCH, slurm=HELD)
    suite.code = tmp_path / "code"
    for part in ("bench", "methods"):
        shutil.copytree(ROOT / part, suite.code / part)
    shutil.copy(ROOT / "run_suite.py", suite.code)
    git = ["git", "-C", str(suite.code), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=all"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    (suite.code / "methods" / "kd.py").open("a").write("# not committed\n")
    assert "changes that are not committed" in suite.command("run", "--slurm")

    for part in ("bench", "methods"):
        shutil.rmtree(suite.code / part)
    suite.path.unlink()
    suite.cluster.do("scontrol", "release", *{job.partition("_")[0] for job in suite.tasks})
    suite.wait(lambda: not suite.jobs)
    suite.path.write_text(yaml.safe_dump(document(methods=["kd"], training=ONE_EPOCH)))
    assert suite.states == {"done"}
    for run_id in suite.plan.runs:
        record = suite.store.record(run_id)
        assert (record["commit"], record["dirty"]) == (commit, True)


def test_two_who_submit_at_once_get_each_run_into_one_job(submitted):
    suite = submitted(methods=["kd"], seeds=3, slurm=HELD)
    both = [suite.start("run", "--slurm") for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    said = [process.said()[0] for process in both]
    assert sorted("Nothing to submit" in one for one in said) == [False, True]
    runs = [run_id for runs in suite.tasks.values() for run_id in runs]
    assert sorted(runs) == sorted(suite.plan.runs)
    assert len(suite.jobs) == 4


@pytest.mark.slow
def test_another_suite_waits_for_the_job_that_trains_its_teacher(submitted, cluster):
    first, second = submitted("first", slurm=HELD), submitted("second", methods=["at"], slurm=HELD)
    first.command("run", "--slurm")
    second.command("run", "--slurm")
    (teacher,) = cell_of(first.plan, "teacher").runs
    (job,) = (job for job, runs in first.tasks.items() if teacher.id in runs)
    (new,) = (job for job in second.jobs)
    assert f"afterok:{job}" in cluster.do("squeue", "--noheader", "--format=%E", f"--jobs={new}")


def test_cancel_ends_the_jobs_of_its_suite_alone(submitted):
    suite, other = submitted("tiny", slurm=HELD), submitted("tiny-2", methods=["at"], slurm=HELD)
    for one in (suite, other):
        one.command("run", "--slurm")
    assert "(JobHeldUser)" in suite.command("status")
    left = other.jobs
    assert left
    assert "Cancelled: " in suite.command("cancel")
    suite.wait(lambda: not suite.jobs, 20)
    assert other.jobs == left
    assert "No job is left" in suite.command("cancel")


@pytest.mark.parametrize(
    ("slurm", "message"),
    [
        ({"partition": "huge"}, "sbatch refuses the jobs: .*invalid partition specified: huge"),
        ({"slurm_exlude": "node7"}, "unknown key 'slurm_exlude'. Did you mean 'slurm_exclude'\\? Known: "),
        ({"partitoin": "main"}, "unknown key 'partitoin'. Did you mean 'partition'\\?"),
        ({"slurm_time": 3}, "unknown key 'slurm_time'"),
    ],
    ids=["partition", "submitit's key", "key", "key that has another name here"],
)
def test_a_request_that_the_cluster_cannot_serve_is_one_message_and_nothing_is_submitted(submitted, slurm, message):
    suite = submitted(slurm=slurm)
    said = suite.command("run", "--slurm", code=2)
    assert re.search(message, said)
    assert len(said.splitlines()) == 1
    assert not suite.jobs
    assert not list(suite.results.glob("*/jobs/*"))


@pytest.mark.slow
def test_what_was_submitted_is_cancelled_when_a_later_part_is_refused(submitted, cluster, tmp_path):
    """Here an sbatch that takes no dependency."""
    suite = submitted(slurm=HELD)
    picky = tmp_path / "bin" / "sbatch"
    picky.parent.mkdir()
    picky.write_text(
        f'#!/bin/sh\nif grep -q dependency "$1"; then echo "sbatch: error: no more" >&2; exit 1; fi\n'
        f'exec {shutil.which("sbatch")} "$@"\n'
    )
    picky.chmod(0o755)
    suite.env = cluster.env | {"PATH": f"{picky.parent}:{os.environ['PATH']}"}
    assert suite.command("run", "--slurm", code=2) == "sbatch refuses the jobs: no more\n"
    suite.wait(lambda: not suite.jobs, 20)
    assert not list(suite.results.glob("*/jobs/*"))


@pytest.mark.slow
def test_students_wait_for_a_teacher_that_is_tried_again(submitted, cluster):
    suite = submitted(slurm=HELD)
    (teacher,) = cell_of(suite.plan, "teacher").runs
    suite.store.begin(teacher)
    suite.store.fail(teacher.id, Failure("failed", "disk full"))
    suite.command("run", "--slurm", "--retry-failed")
    assert suite.store.failure(teacher.id) is None
    (first, second) = suite.tasks
    assert f"afterok:{first}" in cluster.do("squeue", "--noheader", "--format=%E", f"--jobs={second}")


@pytest.mark.slow
def test_jobs_whose_submission_was_killed_half_way_end_at_once_and_are_submitted_anew(submitted, cluster):
    suite = submitted(training=ONE_EPOCH, slurm=HELD)
    suite.command("run", "--slurm")
    (submission,) = suite.results.glob("*/jobs/*/submission.json")
    submission.unlink()
    cluster.do("scontrol", "release", *suite.jobs)
    suite.wait_for_the_end(60)
    assert "the command that submitted this job was killed: submit again" in suite.logs
    assert suite.states == {"waiting"}
    suite.command("run", "--slurm")
    assert len(suite.tasks) == 2


@pytest.mark.slow
def test_a_time_limit_that_is_shorter_than_the_run_costs_no_epoch(submitted, undisturbed):
    suite = submitted(step_s=1.0, **LONG | {"seeds": 1}, slurm={"timeout_min": 1})
    suite.command("run", "--slurm")
    suite.wait_for_the_end(600)
    if suite.states != {"done"}:
        suite.command("run", "--slurm")
        suite.wait_for_the_end(600)
    suite.assert_equals(undisturbed)
    assert suite.logs.count("this job is timed-out") >= 1


@pytest.mark.slow
def test_a_node_that_stops_and_starts_again_loses_nothing(submitted, cluster, undisturbed):
    suite = submitted(step_s=0.15, **LONG)
    suite.command("run", "--slurm")
    suite.wait(lambda: len(set(epochs_said(suite))) >= 4)
    cluster.restart_node()
    suite.wait_for_the_end(300)
    if suite.states != {"done"}:
        suite.command("run", "--slurm")
        suite.wait_for_the_end(300)
    suite.assert_equals(undisturbed)


@pytest.mark.slow
def test_a_search_submits_its_final_runs_when_its_trials_have_ended(submitted):
    suite = submitted(methods=["kd"], training=ONE_EPOCH, tuning={"trials": 2, "dev_per_class": 1})
    said = suite.command("run", "--slurm")
    assert "chooses settings, and submits the next runs, after the jobs they depend on" in said
    suite.wait_for_the_end()  # the last job of the first submission submits others before it ends
    suite.command("report")
    statuses = {row["label"]: row["status"] for row in table(suite.results)}
    assert statuses == dict.fromkeys(["teacher", "none", "none (tuned)", "KD", "KD (tuned)"], "done"), suite.logs
