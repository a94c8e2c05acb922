"""A real SLURM cluster of one node, started for these tests; where it cannot be, they are skipped with the reason."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from bench.plan import Plan, build_plan
from bench.store import Store
from bench.store.claims import process_start
from bench.suite import load
from methods import catalog
from tests.forks import ROOT, Command
from tests.train.conftest import OFTEN, document, rows, weights

HERE = Path(__file__).parent
FOLDER = Path("/tmp/bench-slurm")  # short, for sockets
PORT = "6917"  # and the next two
SLOW = HERE / "slow.py"


class Cluster:
    """The cluster, as its users see it."""

    env = os.environ | {"SLURM_CONF": str(FOLDER / "slurm.conf"), "SLURM_PORT": PORT}

    def control(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Start or stop it."""
        words = ["bash", str(HERE / "start-slurm"), *arguments, str(FOLDER)]
        return subprocess.run(words, env=self.env, capture_output=True, text=True, timeout=240, check=False)

    def restart_node(self) -> None:
        """Stop and start its slurmd; jobs' own processes go on meanwhile."""
        os.kill(int((FOLDER / "run" / "slurmd.pid").read_text().split()[0]), signal.SIGTERM)
        time.sleep(3)
        log = (FOLDER / "log" / "slurmd.out").open("a")
        daemon = subprocess.Popen(["slurmd", "-D", "-f", self.env["SLURM_CONF"]], stdout=log, stderr=log, env=self.env)
        (FOLDER / "run" / "slurmd.pid").write_text(f"{daemon.pid} {process_start(daemon.pid)}\n")

    def do(self, *words: str) -> str:
        """Return what a command prints."""
        return subprocess.run(words, env=self.env, capture_output=True, text=True, check=True, timeout=60).stdout

    def jobs(self, suite: str) -> dict[str, str]:
        """Return the states of a suite's jobs that are left in the queue, by id."""
        lines = self.do("squeue", "--noheader", "--array", "--format=%i %T %j").splitlines()
        return {job: state for job, state, name in map(str.split, lines) if name.startswith(f"{suite}-20")}


class Submitted:
    """A suite in a folder of its own, and the commands one gives for it.

    It saves often, and its steps with the method `slow` take `step_s` seconds.
    """

    def __init__(self, cluster: Cluster, folder: Path, name: str, step_s: float = 0.0, **changes: object) -> None:
        self.cluster, self.folder, self.name = cluster, folder, name
        self.path, self.results = folder / f"{name}.yaml", folder / "results"
        self.store = Store(self.results)
        slurm = OFTEN["slurm"] | changes.pop("slurm", {})
        self.path.write_text(yaml.safe_dump(document(**changes, slurm=slurm)))
        self._commands = 0
        self.code, self.env = ROOT, cluster.env | {"SLOW_STEP_S": str(step_s)}

    def start(self, *words: str) -> Command:
        """Start a command: `run`, `status`, ..."""
        own = ["--plugin", str(SLOW)] if words[0] in ("run", "status") else []
        self._commands += 1
        streams = self.folder / f"command-{self.name}-{self._commands}"
        settings = {"few": False, "environment": self.env, "code": self.code}
        return Command(words[0], self.path, "--results", self.results, *words[1:], *own, streams=streams, **settings)

    def command(self, *words: str, code: int = 0) -> str:
        """Return what a command says, both streams together."""
        process = self.start(*words)
        status, said = process.wait(), "".join(process.said())
        assert status == code, said
        return said

    @property
    def plan(self) -> Plan:
        methods = catalog([SLOW])
        return build_plan(load(self.path, methods), self.path, methods)

    @property
    def states(self) -> set[str]:
        """Return the states of all its runs."""
        return {self.store.state(run_id) for run_id in self.plan.runs}

    @property
    def tasks(self) -> dict[str, list[str]]:
        """Return the runs of every job ever submitted, by its id."""
        records = self.results.glob("*/jobs/*/submission.json")
        return {job: runs for record in records for job, runs in json.loads(record.read_text())["tasks"].items()}

    @property
    def jobs(self) -> dict[str, str]:
        return self.cluster.jobs(self.name)

    def wait(self, condition: Callable[[], object], seconds: float = 150.0) -> None:
        """Wait until something holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"{self.jobs}\n{self.command('status')}\n{self.logs}"
            time.sleep(0.3)

    def wait_for_the_end(self, seconds: float = 150.0) -> None:
        self.wait(lambda: not self.jobs, seconds)

    @property
    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.results.glob("*/jobs/*/logs/*.err")))

    def assert_equals(self, undisturbed: Store) -> None:
        """Check that every run is done, with the bits and the epochs, each once, of another store's."""
        assert self.states == {"done"}
        for run_id in self.plan.runs:
            assert rows(self.store, run_id) == rows(undisturbed, run_id)
            assert weights(self.store, run_id) == weights(undisturbed, run_id)


@pytest.fixture(scope="session")
def _started():
    cluster = Cluster()
    try:
        answer = cluster.control()
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"no SLURM cluster can be started here: {error}")
    if answer.returncode:
        pytest.skip(f"no SLURM cluster can be started here: {' '.join(answer.stderr.split())[:300]}")
    yield cluster
    if "already running" not in answer.stdout:
        cluster.control("--stop")


@pytest.fixture
def cluster(_started):
    """Return the cluster; nothing that a test leaves in its queue stays there."""
    yield _started
    _started.do("scancel", "--quiet", "--signal=KILL", "--full", "--user=root")
    _started.do("scancel", "--quiet", "--user=root")


@pytest.fixture
def submitted(cluster, tmp_path):
    """Return a way to make a suite: `submitted("name", methods=["kd"])`."""
    return lambda name="tiny", **changes: Submitted(cluster, tmp_path, name, **changes)
