"""Job arrays that the cluster can take. Its commands are stand-ins here; tests/slurm has a real one."""

from pathlib import Path

import pytest

from bench.launch.slurm import array_size, submit
from bench.store import Store
from bench.types import RequestError

SBATCH = """
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
echo "$((${last:-0} + 1))" >>"$FAKE/arrays"
echo "Submitted batch job $(wc -l <"$FAKE/arrays")"
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Return a way to replace commands by shell scripts, and a folder where they leave files, `arrays` among them."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def command(name: str, script: str) -> Path:
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)
        return folder

    for name in ("srun", "squeue", "scancel"):
        command(name, "exit 0")
    command("sbatch", SBATCH)
    command("scontrol", "exit 1")
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("FAKE", str(folder))
    return command


@pytest.mark.parametrize(
    ("said", "size"),
    [
        ("MaxArraySize            = 1001", 1000),
        ("MaxArraySize            = 4\nMaxJobCount = 10000", 3),
        ("MaxArraySize = 100001\nSchedulerParameters = bf_interval=5,max_array_tasks=501,defer", 500),
        ("", 1000),
    ],
    ids=["default", "small", "scheduler", "silent"],
)
def test_an_array_may_be_as_large_as_the_cluster_says(fake, said, size):
    fake("scontrol", f"cat <<'END'\n{said}\nEND")
    assert array_size() == size


def test_an_array_that_is_too_large_is_split_and_every_run_is_in_one_job(fake, bench):
    folder = fake("scontrol", "echo 'MaxArraySize = 4'")
    suite = bench(seeds=4, max_lanes=1)
    work = suite.work()
    jobs = submit(work)
    assert (folder / "arrays").read_text().split() == ["3", "2", "3", "1"]  # five that wait for nothing, then four
    assert sorted(run_id for job in jobs for run_id in job.runs) == sorted(work.runs)
    assert len({job.id for job in jobs}) == len(jobs) == 9


@pytest.fixture
def stale(bench):
    """Return the work of a suite whose runs are finished and stale: a teacher and what needs it."""
    work = bench().work()
    store = Store(work.results)
    for run in work.plan.runs.values():
        store.begin(run)
        store.finish(run.id, {"metrics": {"top1": 50.0}, "methods_sha256": dict.fromkeys(work.plan.code, "0" * 64)})
    return work


def test_students_wait_for_a_finished_teacher_that_is_trained_again(fake, stale):
    jobs = submit(stale, stale.plan.runs)
    reasons = {run_id: job.reason for job in jobs for run_id in job.runs}
    needing = [run for run in stale.plan.runs.values() if run.needs]
    assert {reasons[run.id] for run in needing} == {"Dependency"}
    assert {reasons[need] for run in needing for need in run.needs} == {""}
    assert not any(Store(stale.results).record(run_id) for run_id in stale.plan.runs)


def test_a_submission_is_complete_only_after_stale_runs_are_put_aside(fake, stale, monkeypatch):
    aside = []

    def put_aside(store: Store, run_id: str) -> None:
        aside.append(run_id)
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "put_aside", put_aside)
    with pytest.raises(KeyboardInterrupt):
        submit(stale, stale.plan.runs)
    assert stale.plan.runs[aside[0]].needs  # what needs a run goes before it
    assert not list(stale.results.glob("*/jobs/*"))


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ("Batch job submission failed: Invalid job array specification", "max_lanes"),
        (
            "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, ...)",
            "--only",
        ),
        ("Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)", "timeout_min"),
        ("Memory specification can not be satisfied", "mem_gb"),
        ("Batch job submission failed: Requested node configuration is not available", "cpus_per_task"),
        ("Batch job submission failed: Invalid account or account/partition combination specified", "account"),
        ("Batch job submission failed: Invalid qos specification", "slurm: qos"),
    ],
)
def test_what_the_cluster_refuses_is_said_with_the_setting_to_change(fake, bench, said, key):
    fake("sbatch", f"echo 'sbatch: error: {said}' >&2; exit 1")
    suite = bench()
    with pytest.raises(RequestError, match=rf"^sbatch refuses the jobs: .*{key}") as error:
        submit(suite.work())
    assert len(str(error.value).splitlines()) == 1
    assert not list((suite.folder / "results").glob("*/jobs/*"))
