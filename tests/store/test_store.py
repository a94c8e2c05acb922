"""The Store: files are whole or not there, and a run has one writer. Other writers are real processes."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bench.schedule import Schedule
from bench.spec import DataSpec, NetworkSpec, RunSpec, TermSpec, id_of
from bench.store import CHECKPOINT, EPOCHS, ClaimLostError, Failure, Store, write_whole
from bench.store.claims import CLAIM, DEAD_AFTER_S, Claim
from bench.store.documents import RECORD
from bench.types import RequestError
from tests.few import short_or_whole

RUN = "0123456789abcdef"
IMPORTS = "import sys; from bench.store.store import *"
HOLDER = f"{IMPORTS}; print(Store(Path(sys.argv[1])).claim(sys.argv[2]), flush=True); input()"
DATA = DataSpec(name="digits", classes=10, size=(32, 32), mean=(0.3,) * 3, std=(0.3,) * 3, augment="crop")
SPEC = RunSpec(
    student=NetworkSpec(network="resnet8"),
    data=DATA,
    schedule=Schedule(milestones=(1, 2)),
    seed=3,
    teachers=(RUN,),
    terms=(TermSpec(method="kd", version=1, weight=0.9, parameters={"temperature": 4.0, "n": 2, "on": True}),),
)

ROWS = [{"stage": "main", "epoch": epoch, "loss": 1 / epoch} for epoch in (1, 2)]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


@pytest.fixture
def start():
    """Return a function that starts Python code in a process of its own, ended with the test."""
    processes = []

    def start(code, *arguments):
        command = [sys.executable, "-c", code, *map(str, arguments)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def write_claim(store, claim, age_s=0.0):
    path = store.folder(RUN) / CLAIM
    write_whole(path, json.dumps(asdict(claim)))
    os.utime(path, (time.time() - age_s,) * 2)


def wait_until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.01)


@pytest.fixture
def own_claim(store):
    """Return the claim that this process would write."""
    assert store.claim(RUN)
    claim = store.holder(RUN)
    store.release(RUN)
    return claim


# names


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../../etc", "0123456789abcde", RUN.upper(), RUN + "\n", RUN + "/x", f"/{RUN}", "x" * 16]
)
def test_what_is_no_run_id_names_no_folder(name, store):
    with pytest.raises(RequestError, match=r"is not a run id \(16 hex digits"):
        store.folder(name)


def test_reading_creates_nothing(store):
    answers = [store.state(RUN), store.record(RUN), store.failure(RUN), store.spec(RUN), store.epochs(RUN)]
    store.release(RUN)
    assert answers == ["waiting", None, None, None, []]
    assert not store.root.exists()


# files


def test_a_writer_killed_at_any_moment_leaves_a_whole_file(start, tmp_path):
    size, path = 1 << 20, tmp_path / "checkpoint.pt"
    code = (
        "import itertools, sys; from bench.store.store import *\n"
        "for i in itertools.cycle(range(256)): write_whole(Path(sys.argv[1]), bytes([i]) * int(sys.argv[2]))"
    )
    moment = random.Random(0)
    for _ in range(short_or_whole(3, 8)):
        writer = start(code, path, size)
        wait_until(path.exists)
        end = time.monotonic() + moment.uniform(0.0, 0.1)
        while time.monotonic() < end:
            content = path.read_bytes()
            assert (len(content), len(set(content))) == (size, 1)
        writer.kill()
        writer.wait()
        content = path.read_bytes()
        assert (len(content), len(set(content))) == (size, 1)
        path.unlink()


def test_leftovers_of_killed_writers_are_not_read_and_go_when_the_run_is_claimed(store):
    store.begin(SPEC)
    for name in (RECORD, "failure.json", CLAIM, CHECKPOINT):
        (store.folder(SPEC.id) / f".{name}.5f3a.tmp").write_text('{"torn": ')
    assert (store.state(SPEC.id), store.record(SPEC.id), store.failure(SPEC.id)) == ("waiting", None, None)
    assert store.claim(SPEC.id)
    assert sorted(path.name for path in store.folder(SPEC.id).iterdir()) == [CLAIM, "spec.json"]


def test_a_failed_write_leaves_the_old_file_and_no_other(start, tmp_path):
    path = tmp_path / "record.json"
    path.write_text("old")
    code = (
        "import resource, sys; from bench.store.store import *\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # a disk that is full\n"
        "try: write_whole(Path(sys.argv[1]), b'x' * 5000)\n"
        "except RequestError as error: print(error)"
    )
    answer, _ = start(code, path).communicate()
    assert answer.startswith(f"{path}: cannot be written: File too large.")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("record.json", "old")]


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.claim(RUN),
        lambda store: store.begin(SPEC),
        lambda store: store.append_epoch(RUN, {}),
        lambda store: store.fail(RUN, Failure("failed", "why")),
    ],
    ids=["claim", "begin", "append_epoch", "fail"],
)
def test_a_results_folder_that_cannot_be_written_is_one_clear_message(write, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RequestError, match=r"file/results/.*: cannot be written: Not a directory.*--results"):
        write(Store(tmp_path / "file" / "results"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_results_folder_is_one_clear_message(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RequestError, match="cannot be written: Permission denied"):
        Store(tmp_path / "results").claim(RUN)


def test_a_specification_comes_back_as_it_was(store):
    store.begin(SPEC)
    assert store.spec(SPEC.id) == SPEC
    assert store.spec(SPEC.id).id == SPEC.id


def test_a_specification_of_another_version_is_named(store):
    store.begin(SPEC)
    text = (store.folder(SPEC.id) / "spec.json").read_text().replace('"seed"', '"trial"')
    run_id = id_of(json.loads(text))
    write_whole(store.folder(run_id) / "spec.json", text)
    fault = r"spec\.json: is damaged, or was written by another version"
    with pytest.raises(RequestError, match=rf"{fault} of this project: seed: .* remove the run's folder") as caught:
        store.spec(run_id)
    assert str(caught.value).isprintable()  # one line


def test_a_torn_last_line_of_epochs_is_read_past(store):
    store.begin(SPEC)
    for row in ROWS:
        store.append_epoch(SPEC.id, row)
    with (store.folder(SPEC.id) / EPOCHS).open("a") as file:
        file.write('{"stage": "main", "epo')
    assert store.epochs(SPEC.id) == ROWS


def test_rewritten_epochs_replace_a_torn_file(store):
    store.begin(SPEC)
    (store.folder(SPEC.id) / EPOCHS).write_text('{"epoch": 1}\n{"epoch": 2}\n{"ep')
    store.write_epochs(SPEC.id, ROWS[:1])
    store.append_epoch(SPEC.id, ROWS[1])
    assert store.epochs(SPEC.id) == ROWS


@pytest.mark.parametrize("keep", [False, True])
def test_the_checkpoint_goes_once_the_record_stands_unless_it_is_kept(keep, store):
    write_whole(store.folder(RUN) / CHECKPOINT, b"weights")
    store.finish(RUN, {"metrics": {"top1": 70.0}}, keep_checkpoint=keep)
    assert (store.folder(RUN) / CHECKPOINT).exists() == keep
    assert store.record(RUN) == {"metrics": {"top1": 70.0}}


def test_a_damaged_file_is_named(store):
    store.finish(RUN, {})
    (store.folder(RUN) / RECORD).write_text("{")
    cure = "remove the run's folder: the run is then trained again"
    with pytest.raises(RequestError, match=rf"{RUN}/record\.json: is not valid JSON .* {cure}"):
        store.record(RUN)


# states


def test_a_run_waits_then_runs_then_is_done(store):
    states = [store.state(RUN)]
    store.claim(RUN)
    states.append(store.state(RUN))
    store.finish(RUN, {"metrics": {}})
    states.append(store.state(RUN))
    store.release(RUN)
    assert [*states, store.state(RUN)] == ["waiting", "running", "done", "done"]


@pytest.mark.parametrize("status", ["failed", "diverged", "inapplicable"])
def test_a_run_that_left_says_how_until_that_is_forgotten(status, store):
    failure = Failure(status, "the loss is not finite", "Traceback …")
    store.fail(RUN, failure)
    assert (store.state(RUN), store.failure(RUN)) == (status, failure)
    store.forget_failure(RUN)
    assert (store.state(RUN), store.failure(RUN)) == ("waiting", None)


def test_a_run_begun_by_a_process_that_was_killed_waits(start, store):
    holder = start(HOLDER, store.root, RUN)
    assert holder.stdout.readline() == "True\n"
    running = store.state(RUN)
    holder.kill()
    holder.wait()
    assert (running, store.state(RUN)) == ("running", "waiting")


# claims


def test_a_claim_that_another_process_holds_is_not_taken(start, store):
    holder = start(HOLDER, store.root, RUN)
    assert holder.stdout.readline() == "True\n"
    assert not store.claim(RUN)
    assert store.holder(RUN).process == holder.pid


def test_a_claim_of_a_stopped_process_is_not_taken(start, store):
    holder = start(HOLDER, store.root, RUN)
    assert holder.stdout.readline() == "True\n"
    holder.send_signal(signal.SIGSTOP)
    write_claim(store, store.holder(RUN), age_s=10 * DEAD_AFTER_S)  # it does not renew its claim, but it lives
    assert not store.claim(RUN)


def test_a_killed_process_loses_its_claim_at_once(start, store):
    holder = start(HOLDER, store.root, RUN)
    assert holder.stdout.readline() == "True\n"
    holder.kill()
    holder.wait()
    assert store.claim(RUN)
    assert store.holder(RUN).process == os.getpid()


def test_a_zombie_loses_its_claim_at_once(start, store):
    holder = start(HOLDER, store.root, RUN)
    assert holder.stdout.readline() == "True\n"
    holder.kill()  # and nobody waits for it
    wait_until(lambda: Path(f"/proc/{holder.pid}/stat").read_text().rpartition(") ")[2].startswith("Z"))
    assert store.claim(RUN)


def test_a_claim_is_given_back_even_if_a_signal_arrives_as_it_is_written(store, monkeypatch):
    def interrupted(path, content):
        write_whole(path, content)
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.store.claims.write_whole", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.claim(RUN)
    assert store.holder(RUN) is not None
    store.release(RUN)
    assert store.holder(RUN) is None


def test_a_process_that_was_given_a_dead_ones_id_does_not_keep_its_claim(own_claim, store):
    write_claim(store, replace(own_claim, started=own_claim.started - 1, token="older"))
    assert store.claim(RUN)


def test_another_machines_claim_lives_while_it_is_renewed(own_claim, store):
    write_claim(store, replace(own_claim, machine="elsewhere"), age_s=DEAD_AFTER_S - 20)
    assert (store.claim(RUN), store.state(RUN)) == (False, "running")


def test_another_machines_claim_is_dead_when_it_was_not_renewed_for_long(own_claim, store):
    write_claim(store, replace(own_claim, machine="elsewhere"), age_s=DEAD_AFTER_S + 1)
    assert (store.state(RUN), store.claim(RUN), store.state(RUN)) == ("waiting", True, "running")


def test_a_machine_of_the_same_name_is_another_machine(own_claim, store):
    name, boot, namespace = own_claim.machine.split()
    assert name == socket.gethostname()
    for other in (f"{name} {boot[::-1]} {namespace}", f"{name} {boot} pid:[1]"):  # a clone, a container
        write_claim(store, replace(own_claim, machine=other, process=2**22 + 1))
        assert not store.claim(RUN)


def test_a_claim_is_judged_by_the_file_servers_clock(own_claim, store, monkeypatch):
    write_claim(store, replace(own_claim, machine="elsewhere"))
    ahead = time.time() + 10 * DEAD_AFTER_S
    monkeypatch.setattr(time, "time", lambda: ahead)  # this machine's clock goes wrong
    assert not store.claim(RUN)


def test_where_the_system_does_not_say_when_a_process_started_the_heartbeat_decides(own_claim, store):
    write_claim(store, replace(own_claim, started=0), age_s=DEAD_AFTER_S - 20)
    assert not store.claim(RUN)
    write_claim(store, replace(own_claim, started=0), age_s=DEAD_AFTER_S + 1)
    assert store.claim(RUN)


def test_a_claim_is_held_by_one_object_not_by_its_process(store):
    assert store.claim(RUN)
    again = Store(store.root)
    assert (store.claim(RUN), again.claim(RUN)) == (False, False)
    again.release(RUN)  # not its own: nothing happens
    assert store.state(RUN) == "running"
    store.release(RUN)
    assert again.claim(RUN)


def test_processes_that_race_for_runs_get_each_run_exactly_once(start, store, own_claim):
    dead = replace(own_claim, process=2**22 + 1, token="dead")  # beyond the largest process id
    runs = [f"{number:016x}" for number in range(60)]
    for run in runs[::2]:
        write_whole(store.folder(run) / CLAIM, json.dumps(asdict(dead)))
    code = (
        "import sys, time; from bench.store.store import *\n"
        "store, runs = Store(Path(sys.argv[1])), sys.argv[2:]\n"
        "print('ready', flush=True); input()\n"
        "print(*[run for run in runs if store.claim(run)], flush=True); input()"
    )
    racers = [start(code, store.root, *runs) for _ in range(6)]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("\n")
        racer.stdin.flush()
    won = [run for racer in racers for run in racer.stdout.readline().split()]
    assert sorted(won) == runs


def test_threads_that_race_for_runs_get_each_run_exactly_once(store):
    runs = [f"{number:016x}" for number in range(30)]
    won, go = [], threading.Barrier(6)

    def race():
        mine = Store(store.root)
        go.wait()
        won.extend(run for run in runs if mine.claim(run))

    threads = [threading.Thread(target=race) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == runs


def test_a_claim_names_the_clusters_job(store, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    store.claim(RUN)
    assert store.holder(RUN).job == "4711"


def test_a_released_claim_is_free(store):
    store.claim(RUN)
    store.release(RUN)
    assert store.holder(RUN) is None
    assert Store(store.root).claim(RUN)


def test_a_claim_that_was_taken_over_is_not_given_back_by_its_old_holder(own_claim, store):
    store.claim(RUN)
    other = replace(own_claim, machine="elsewhere", token="other")
    write_claim(store, other)
    store.release(RUN)
    assert store.holder(RUN) == other


WRITERS = {
    "begin": lambda store: store.begin(SPEC),
    "write": lambda store: store.write(SPEC.id, CHECKPOINT, b""),
    "write_epochs": lambda store: store.write_epochs(SPEC.id, []),
    "append_epoch": lambda store: store.append_epoch(SPEC.id, {}),
    "finish": lambda store: store.finish(SPEC.id, {}),
    "fail": lambda store: store.fail(SPEC.id, Failure("failed", "")),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_process_whose_claim_was_taken_over_writes_nothing_more(own_claim, store, write):
    store.claim(SPEC.id)
    taken = replace(own_claim, machine="elsewhere", token="other")
    write_whole(store.folder(SPEC.id) / CLAIM, json.dumps(asdict(taken)))
    with pytest.raises(ClaimLostError, match=rf"run {SPEC.id} is now held by process \d+ on elsewhere"):
        write(store)
    assert [path.name for path in store.folder(SPEC.id).iterdir()] == [CLAIM]


def test_the_heartbeat_renews_what_is_held_also_after_all_was_released_once(tmp_path):
    store = Store(tmp_path / "results", heartbeat_s=0.02)
    path = store.folder(RUN) / CLAIM
    for _ in range(3):
        store.claim(RUN)
        os.utime(path, (0, 0))
        wait_until(lambda: path.stat().st_mtime > time.time() - 60)
        store.release(RUN)


def test_the_heartbeat_does_not_renew_a_claim_that_was_taken_over(own_claim, tmp_path):
    store = Store(tmp_path / "results", heartbeat_s=0.02)
    store.claim(RUN)
    write_claim(store, replace(own_claim, machine="elsewhere", token="other"))
    os.utime(store.folder(RUN) / CLAIM, (0, 0))
    time.sleep(0.2)
    assert (store.folder(RUN) / CLAIM).stat().st_mtime == 0


def test_the_heartbeat_ends_when_nothing_is_held(tmp_path):
    store = Store(tmp_path / "results", heartbeat_s=0.02)
    before = set(threading.enumerate())
    store.claim(RUN)
    store.claim(RUN[::-1])
    (heartbeat,) = set(threading.enumerate()) - before
    store.release(RUN)
    time.sleep(0.1)
    assert heartbeat.is_alive()
    store.release(RUN[::-1])
    wait_until(lambda: not heartbeat.is_alive())


# merging


def test_stores_merge_by_copying_run_folders(store, tmp_path):
    other = Store(tmp_path / "other")
    other.begin(SPEC)
    other.claim(SPEC.id)
    other.append_epoch(SPEC.id, ROWS[0])
    other.finish(SPEC.id, {"metrics": {"top1": 70.0}})
    other.release(SPEC.id)
    store.fail(RUN, Failure("failed", "why"))
    shutil.copytree(other.root / "runs" / SPEC.id, store.root / "runs" / SPEC.id)
    assert (store.state(SPEC.id), store.state(RUN)) == ("done", "failed")
    assert store.spec(SPEC.id) == SPEC
    assert store.epochs(SPEC.id) == ROWS[:1]
    assert store.record(SPEC.id)["metrics"] == {"top1": 70.0}


def test_a_copied_claim_of_a_dead_process_does_not_stop_the_run(start, store, tmp_path):
    holder = start(HOLDER, tmp_path / "other", RUN)
    assert holder.stdout.readline() == "True\n"
    shutil.copytree(tmp_path / "other" / "runs" / RUN, store.root / "runs" / RUN)
    holder.kill()
    holder.wait()
    assert store.claim(RUN)


def test_a_claim_is_readable_by_people(store):
    store.claim(RUN)
    document = json.loads((store.folder(RUN) / CLAIM).read_text())
    assert document.keys() == {"machine", "process", "started", "job", "token"}
    assert Claim(**document) == store.holder(RUN)
