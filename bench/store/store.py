"""The folders of runs: specifications, epochs, checkpoints, weights, records and failures. Imports no torch.

    <root>/runs/<run id>/   spec.json  suite.yaml  epochs.jsonl  checkpoint.pt  student.safetensors  outputs.safetensors
                            record.json | failure.json  tensorboard/  source.yaml, of a transfer suite
                            peer.safetensors, if two networks learn from each other
    <root>/<suite name>/    table.csv  table.md  table.tex  statistics.csv  statistics.md  epochs.csv  report.html
                            sources.json  cost.csv  figures/

Every file is written atomically. One process writes a run: it holds the run's claim, which another process takes over
if the first one is dead. Stores are merged by copying run folders.
"""

import contextlib
import fcntl
import json
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from bench.spec import ID_LENGTH, RunSpec
from bench.store.claims import Claim, ClaimLostError, is_alive, new_claim
from bench.store.files import TEMPORARY, incompatible, read_as, read_json, read_text, write_whole, writing
from bench.types import RequestError

State = Literal["done", "failed", "diverged", "inapplicable", "running", "waiting"]
HEARTBEAT_S = 15.0  # how often a live claim is renewed
SPEC, EPOCHS, CHECKPOINT, WEIGHTS = "spec.json", "epochs.jsonl", "checkpoint.pt", "student.safetensors"
OUTPUTS = "outputs.safetensors"  # of classifiers, on the test images
RECORD, FAILURE, CLAIM = "record.json", "failure.json", "claim.json"
SOURCES = "sources.json"  # in a suite's folder

_ONE_THREAD = threading.Lock()  # the file lock separates processes, but not the threads of one


@dataclass(frozen=True)
class Failure:
    """Why a run has no record."""

    status: Literal["failed", "diverged", "inapplicable"]
    reason: str  # one line
    details: str = ""  # a traceback


class Store:
    """A results folder. Nothing is created before something is written; held claims are renewed at each heartbeat."""

    def __init__(self, root: Path, heartbeat_s: float = HEARTBEAT_S) -> None:
        self.root, self.heartbeat_s = root, heartbeat_s
        self._held: dict[str, Claim] = {}
        self._stop = threading.Event()  # ends the thread that renews the claims

    def folder(self, run_id: str) -> Path:
        """Return a run's folder; raise a `RequestError` if it is no run id, so that no path leaves the store."""
        if not re.fullmatch(rf"[0-9a-f]{{{ID_LENGTH}}}", run_id):
            raise RequestError(
                f"{run_id!r} is not a run id ({ID_LENGTH} hex digits, as `status` and `--dry-run` print them)"
            )
        return self.root / "runs" / run_id

    def suite_folder(self, name: str) -> Path:
        """Return a suite's folder, for a name that `bench.suite.check_name` has passed."""
        return self.root / name

    def sources(self, suite: str) -> dict[str, Any]:
        """Return the image folders and checkpoints with which a suite last ran; see `bench.plan.Sources`."""
        return read_json(self.suite_folder(suite) / SOURCES) or {}

    # reading

    def state(self, run_id: str) -> State:
        """Return a run's state: `waiting` if no process has begun it, or its process is dead."""
        folder = self.folder(run_id)
        if (folder / RECORD).exists():
            return "done"
        if (failure := self.failure(run_id)) is not None:
            return failure.status
        claim = self.holder(run_id)
        return "running" if claim is not None and is_alive(claim, folder / CLAIM, time.time()) else "waiting"

    def record(self, run_id: str) -> dict[str, Any] | None:
        """Return the record of a finished run, or None; this and the other readers raise as `read_json`."""
        path = self.folder(run_id) / RECORD
        document = read_json(path)
        if document is not None and "metrics" not in document:
            raise incompatible(path, "it has no metrics")
        return document

    def failure(self, run_id: str) -> Failure | None:
        """Return why a run has no record, or None."""
        return read_as(Failure, self.folder(run_id) / FAILURE)

    def spec(self, run_id: str) -> RunSpec | None:
        """Return a run's specification, or None for a run that was never begun."""
        path = self.folder(run_id) / SPEC
        document = read_json(path)
        try:
            return None if document is None else RunSpec.model_validate_json(json.dumps(document))
        except ValueError as error:
            raise incompatible(path, error) from error

    def epochs(self, run_id: str) -> list[dict[str, Any]]:
        """Return a run's epochs, one mapping each; a truncated last line is ignored."""
        text = read_text(self.folder(run_id) / EPOCHS, errors="replace")
        rows = []
        for line in (text or "").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                rows.append(json.loads(line))
        return rows

    # writing: each raises `ClaimLostError` if this object has claimed the run and another process holds the claim now

    def write(self, run_id: str, name: str, content: str | bytes) -> None:
        """Write one of a run's files."""
        self._check_claim(run_id)
        write_whole(self.folder(run_id) / name, content)

    def begin(self, spec: RunSpec, suite_files: Mapping[str, str] | None = None) -> None:
        """Write a run's specification, after the suite files that repeat the run, by name; see `bench.plan.repeat`."""
        for name, text in (suite_files or {}).items():
            self.write(spec.id, name, text)
        self.write(spec.id, SPEC, json.dumps(spec.model_dump(mode="json", exclude_none=True), indent=1) + "\n")

    def write_epochs(self, run_id: str, rows: Iterable[dict[str, Any]]) -> None:
        """Replace a run's epochs, for example after a resume."""
        self.write(run_id, EPOCHS, "".join(json.dumps(row) + "\n" for row in rows))

    def append_epoch(self, run_id: str, row: dict[str, Any]) -> None:
        """Append an epoch's row."""
        self._check_claim(run_id)
        path = self.folder(run_id) / EPOCHS
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def finish(self, run_id: str, record: dict[str, Any], keep_checkpoint: bool = False) -> None:
        """Write a run's record, after its weights: the run is done."""
        self.write(run_id, RECORD, json.dumps(record, indent=1) + "\n")
        if not keep_checkpoint:
            (self.folder(run_id) / CHECKPOINT).unlink(missing_ok=True)

    def fail(self, run_id: str, failure: Failure) -> None:
        """Write why a run ended without a record."""
        self.write(run_id, FAILURE, json.dumps(asdict(failure), indent=1) + "\n")

    def set_aside(self, run_id: str, name: str) -> str:
        """Rename one of a run's files so that nothing reads it; return the new name."""
        path = self.folder(run_id) / name
        return path.replace(path.with_suffix(".broken")).name

    def forget_failure(self, run_id: str) -> None:
        """Remove a run's failure, so that it is trained again, from its last checkpoint if it has one."""
        (self.folder(run_id) / FAILURE).unlink(missing_ok=True)

    # one writer

    def claim(self, run_id: str) -> bool:
        """Claim a run and return True, or return False if a live process holds its claim."""
        folder = self.folder(run_id)
        with self.locked() as now:
            held = self.holder(run_id)
            if held is not None and is_alive(held, folder / CLAIM, now):
                return False
            mine = new_claim()
            write_whole(folder / CLAIM, json.dumps(asdict(mine)) + "\n")
            for leftover in folder.glob(TEMPORARY.format("*")):  # of a writer that was killed
                leftover.unlink(missing_ok=True)
        self._held[run_id] = mine
        if len(self._held) == 1:
            self._stop = threading.Event()
            threading.Thread(target=self._renew, args=(self._stop,), daemon=True).start()
        return True

    def release(self, run_id: str) -> None:
        """Release a claim, if this object holds it."""
        if (mine := self._held.pop(run_id, None)) is None:
            return
        if not self._held:
            self._stop.set()
        with self.locked():
            if self.holder(run_id) == mine:
                (self.folder(run_id) / CLAIM).unlink()

    def holder(self, run_id: str) -> Claim | None:
        """Return the claim under which a run is held, or None."""
        return read_as(Claim, self.folder(run_id) / CLAIM)

    def _renew(self, stop: threading.Event) -> None:
        while not stop.wait(self.heartbeat_s):
            for run_id, mine in list(self._held.items()):
                with contextlib.suppress(OSError, RequestError):  # a file server fault must not end the heartbeat
                    if self.holder(run_id) == mine:  # another process may take it over while this machine sleeps
                        os.utime(self.folder(run_id) / CLAIM)

    def _check_claim(self, run_id: str) -> None:
        if (mine := self._held.get(run_id)) is None or (holder := self.holder(run_id)) == mine:
            return
        by = f"process {holder.process} on {holder.machine.split()[0]}" if holder else "nobody"
        raise ClaimLostError(f"run {run_id} is now held by {by}: this process did not renew its claim in time")

    @contextlib.contextmanager
    def locked(self, what: str = "") -> Iterator[float]:
        """Hold one of the store's locks, which one thread of one process on one machine holds at a time.

        `what` is the lock's name; claims are read and written under "". Yields the time in seconds by the clock that
        stamps the store's files: a file server has its own.
        """
        path = self.root / "runs" / (f".lock-{what}" if what else ".lock")
        with _ONE_THREAD:
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                file = path.open("a")
            with file:
                with writing(path):
                    fcntl.lockf(file, fcntl.LOCK_EX)  # closing the file releases it, as does the death of a process
                    os.utime(path)
                    now = path.stat().st_mtime
                yield now


class DiscardingStore(Store):
    """A store that discards all writes: for the processes of a group other than rank 0."""

    def write(self, run_id: str, name: str, content: str | bytes) -> None: ...  # noqa: D102
    def append_epoch(self, run_id: str, row: dict[str, Any]) -> None: ...  # noqa: D102
    def finish(self, run_id: str, record: dict[str, Any], keep_checkpoint: bool = False) -> None: ...  # noqa: D102

    def set_aside(self, run_id: str, name: str) -> str:  # noqa: D102
        return Path(name).with_suffix(".broken").name


def weights_file(network: str) -> str:
    """Return the name of the file with the weights of one of a run's networks."""
    return f"{network}.safetensors"
