"""How many processes train at a time: by cores, threads, memory, and what there is to do."""

import pytest
import torch

from bench.launch.jobs import chosen_jobs, cores, free_bytes, job_bytes, jobs_for
from bench.models import own
from bench.plan import widest
from tests.stores import plan_of

PLENTY = {"cores": 64, "threads": 2, "free_bytes": 1e12, "job_bytes": 1e9, "lanes": 100}
NETWORK = """
import sys
import torch
from bench.models import register_network


class Fails(torch.nn.Linear):
    def forward(self, x):
        if len(x) > 1:  # one image gives the shapes
            {deed}
        return super().forward(x.flatten(1))


@register_network("{name}")
def {name}(num_classes, in_channels):
    return Fails(32 * 32 * in_channels, num_classes)
"""


@pytest.mark.parametrize(
    ("changes", "jobs"),
    [
        ({}, 32),
        ({"threads": 1}, 64),
        ({"threads": 3}, 21),
        ({"cores": 2}, 1),
        ({"cores": 1}, 1),
        ({"free_bytes": 5.5e9}, 5),
        ({"free_bytes": 5e8}, 1),
        ({"lanes": 7}, 7),
        ({"lanes": 0}, 1),
    ],
)
def test_the_number_of_jobs_is_what_threads_memory_and_lanes_allow(changes, jobs):
    assert jobs_for(**PLENTY | changes) == jobs


def test_cores_can_be_limited_from_outside(monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert cores() == 1


def test_there_is_memory_for_this_test():
    assert free_bytes() > 1e6


def test_a_suite_with_work_for_one_process_has_one_job(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.launch.jobs.cores", lambda: 64)
    (teacher, *_) = plan_of(tmp_path).runs.values()
    assert chosen_jobs([teacher], 2, None) == 1


def test_a_suite_has_as_many_jobs_as_runs_that_can_train_at_the_same_time(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.launch.jobs.cores", lambda: 64)
    monkeypatch.setattr("bench.launch.jobs.free_bytes", lambda: 1e12)
    runs = list(plan_of(tmp_path, seeds=5).runs.values())
    assert chosen_jobs(runs, 2, None) == widest(runs) == 6  # a teacher, and five students that need none


def test_runs_that_are_trained_by_several_processes_each_take_the_cores_of_all(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.launch.jobs.cores", lambda: 8)
    monkeypatch.setattr("bench.launch.jobs.free_bytes", lambda: 1e12)
    runs = list(plan_of(tmp_path, methods=["kd"], seeds=8, training={"epochs": 1, "processes": 2}).runs.values())
    assert chosen_jobs(runs, 2, None) == 2


def bytes_of(folder, **changes):
    return job_bytes(list(plan_of(folder, **changes).runs.values()))


def test_every_lane_of_a_cohort_takes_the_memory_of_its_weights(tmp_path):
    pairs = [{"teacher": "resnet14", "student": "vgg8"}]
    one, two = (bytes_of(tmp_path, pairs=pairs, methods=methods) for methods in (["kd"], ["kd", "at"]))
    assert two - one == 4 * 4 * 3_918_858  # weights, gradients, momenta and copies, in float32


@pytest.mark.usefixtures("forgets_networks")
def test_a_users_network_that_fails_is_left_to_its_run_and_changes_no_setting(tmp_path):
    deeds = {"exits": "sys.exit(0)", "raises": "1 / 0", "changes": "torch.set_default_dtype(torch.float64)"}
    for name, deed in deeds.items():
        (tmp_path / f"{name}.py").write_text(NETWORK.format(name=name, deed=deed))
        own.add_networks([tmp_path / f"{name}.py"], [])
        assert bytes_of(tmp_path, pairs=[{"teacher": "resnet14", "student": name}]) > 0  # of the teacher
    assert torch.get_default_dtype() == torch.float32


def test_what_a_forward_pass_keeps_is_part_of_a_jobs_memory(tmp_path):
    """A resnet14 at 64 images of 32x32 keeps at least its 13 convolutions' inputs of 16 to 64 maps."""
    inputs = 64 * 4 * (5 * 16 * 32 * 32 + 4 * 32 * 16 * 16 + 4 * 64 * 8 * 8)
    assert bytes_of(tmp_path) - bytes_of(tmp_path, training={"epochs": 1, "batch_size": 2}) > 62 / 64 * inputs
