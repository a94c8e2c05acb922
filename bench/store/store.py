"""The Store: the runs' folders, the only memory there is. Imports no torch.

    <root>/runs/<run id>/   spec.json  epochs.jsonl  checkpoint.pt  student.safetensors  outputs.safetensors
                            record.json | failure.json  tensorboard/
                            peer.safetensors, where two networks learn from each other
    <root>/<suite name>/    table.csv  table.md  table.tex  statistics.csv  statistics.md  epochs.csv  report.html
                            sources.json  cost.csv  figures/

Every file appears whole or not at all. One process writes a run: it holds the run's claim, which is taken over when
that process is dead. Stores are merged by copying run folders.
"""

import contextlib
import fcntl
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from bench.spec import ID_LENGTH, RunSpec
from bench.types import RequestError

R = TypeVar("R")
State = Literal["done", "failed", "diverged", "inapplicable", "running", "waiting"]
HEARTBEAT_S = 15.0  # how often a live claim is renewed
DEAD_AFTER_S = 120.0  # a claim on another machine that was not renewed for so long is dead
SPEC, EPOCHS, CHECKPOINT, WEIGHTS = "spec.json", "epochs.jsonl", "checkpoint.pt", "student.safetensors"
OUTPUTS = "outputs.safetensors"  # of classifiers: what they answer to the test images
RECORD, FAILURE, CLAIM = "record.json", "failure.json", "claim.json"
SOURCES = "sources.json"  # beside a suite's tables
TEMPORARY = ".{}.tmp"  # names of files on their way; no reader looks at them

_ONE_THREAD = threading.Lock()  # beside the file lock, which keeps processes apart but not a process's threads


@dataclass(frozen=True)
class Failure:
    """Why a run has no record.

    Attributes:
        status: what the table prints.
        reason: one line.
        details: a traceback, or "".
    """

    status: Literal["failed", "diverged", "inapplicable"]
    reason: str
    details: str = ""


@dataclass(frozen=True)
class Claim:
    """Who writes a run.

    Attributes:
        machine: host name, its boot's id and the process-id namespace: clones share a name, containers a machine.
        process: process id there.
        started: when that process started, in clock ticks since the boot, because ids are used again; 0 if unknown.
        job: the cluster's job id, or "".
        token: unique to the claim.
    """

    machine: str
    process: int
    started: int
    job: str
    token: str


class ClaimLostError(Exception):
    """Another process has taken a run over: it found this one silent for so long that it looked dead."""


class Store:
    """A results folder. Nothing is created before something is written."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._held: dict[str, Claim] = {}
        self._stop = threading.Event()  # ends the thread that renews the claims

    def folder(self, run_id: str) -> Path:
        """Return a run's folder.

        Raises:
            RequestError: the id is no id; nothing outside the store is ever named.
        """
        if not re.fullmatch(rf"[0-9a-f]{{{ID_LENGTH}}}", run_id):
            raise RequestError(
                f"{run_id!r} is no run id: {ID_LENGTH} hex digits, as `status` and `--dry-run` print them"
            )
        return self.root / "runs" / run_id

    def suite_folder(self, name: str) -> Path:
        """Return a suite's folder, for a name that `bench.suite.check_name` has passed."""
        return self.root / name

    def sources(self, suite: str) -> dict[str, Any]:
        """Return what a suite's image folders and checkpoints were when it last ran; see `bench.plan.Sources`."""
        return _read_json(self.suite_folder(suite) / SOURCES) or {}

    # reading

    def state(self, run_id: str) -> State:
        """Return where a run stands: `waiting` is not begun, or begun by a process that is gone."""
        folder = self.folder(run_id)
        if (folder / RECORD).exists():
            return "done"
        if (failure := self.failure(run_id)) is not None:
            return failure.status
        claim = _read_claim(folder / CLAIM)
        if claim is not None and _alive(claim, folder / CLAIM, time.time()):
            return "running"
        return "waiting"

    def record(self, run_id: str) -> dict[str, Any] | None:
        """Return what a finished run recorded, or None.

        Raises:
            RequestError: the file is no record; so do the other readers with theirs.
        """
        path = self.folder(run_id) / RECORD
        document = _read_json(path)
        if document is not None and "metrics" not in document:
            raise _foreign(path, "it has no metrics")
        return document

    def failure(self, run_id: str) -> Failure | None:
        """Return why a run has no record, or None."""
        return _read_as(Failure, self.folder(run_id) / FAILURE)

    def spec(self, run_id: str) -> RunSpec | None:
        """Return a run's specification, or None for a run that was never begun."""
        path = self.folder(run_id) / SPEC
        document = _read_json(path)
        if document is None:
            return None
        try:
            return RunSpec.model_validate_json(json.dumps(document))
        except ValueError as error:
            raise _foreign(path, error) from error

    def epochs(self, run_id: str) -> list[dict[str, Any]]:
        """Return a run's epochs, one mapping each; a torn last line is read past."""
        path = self.folder(run_id) / EPOCHS
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RequestError(f"{path}: cannot be read: {error.strerror or error}") from error
        rows = []
        for line in text.splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                rows.append(json.loads(line))
        return rows

    # writing: each raises `ClaimLostError` instead where this object held the run's claim, and another holds it now

    def write(self, run_id: str, name: str, content: str | bytes) -> None:
        """Write one of a run's files."""
        self._check_claim(run_id)
        write_whole(self.folder(run_id) / name, content)

    def begin(self, spec: RunSpec) -> None:
        """Write a run's specification."""
        self.write(spec.id, SPEC, json.dumps(spec.model_dump(mode="json", exclude_none=True), indent=1) + "\n")

    def write_epochs(self, run_id: str, rows: Iterable[dict[str, Any]]) -> None:
        """Replace a run's epochs by these, as after a resume."""
        self.write(run_id, EPOCHS, "".join(json.dumps(row) + "\n" for row in rows))

    def append_epoch(self, run_id: str, row: dict[str, Any]) -> None:
        """Add an epoch's row."""
        self._check_claim(run_id)
        path = self.folder(run_id) / EPOCHS
        with _writing(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def finish(self, run_id: str, record: dict[str, Any], keep_checkpoint: bool = False) -> None:
        """Write a run's record, after its weights; from then on it is done."""
        self.write(run_id, RECORD, json.dumps(record, indent=1) + "\n")
        if not keep_checkpoint:
            (self.folder(run_id) / CHECKPOINT).unlink(missing_ok=True)

    def fail(self, run_id: str, failure: Failure) -> None:
        """Write why a run ended without a record."""
        self.write(run_id, FAILURE, json.dumps(asdict(failure), indent=1) + "\n")

    def set_aside(self, run_id: str, name: str) -> str:
        """Give one of a run's files another name, under which nobody reads it; return that name."""
        path = self.folder(run_id) / name
        return path.replace(path.with_suffix(".broken")).name

    def forget_failure(self, run_id: str) -> None:
        """Let a run that failed be tried again, from its last checkpoint if it has one."""
        (self.folder(run_id) / FAILURE).unlink(missing_ok=True)

    # one writer

    def claim(self, run_id: str) -> bool:
        """Return whether the run's claim was free, or a dead process's, and is now held by this object.

        Raises:
            RequestError: the store cannot be written.
        """
        folder = self.folder(run_id)
        path = folder / CLAIM
        with self.locked() as now:
            held = _read_claim(path)
            if held is not None and _alive(held, path, now):
                return False
            mine = Claim(
                machine=_machine(),
                process=os.getpid(),
                started=_started(os.getpid()),
                job=os.environ.get("SLURM_JOB_ID", ""),
                token=uuid.uuid4().hex,
            )
            write_whole(path, json.dumps(asdict(mine)) + "\n")
            for leftover in folder.glob(TEMPORARY.format("*")):  # of a writer that was killed
                leftover.unlink(missing_ok=True)
        self._held[run_id] = mine
        if len(self._held) == 1:
            self._stop = threading.Event()
            threading.Thread(target=self._renew, args=(self._stop,), daemon=True).start()
        return True

    def release(self, run_id: str) -> None:
        """Give a claim back; one that this object does not hold is left alone."""
        mine = self._held.pop(run_id, None)
        if mine is None:
            return
        if not self._held:
            self._stop.set()
        with self.locked():
            if self.holder(run_id) == mine:
                (self.folder(run_id) / CLAIM).unlink()

    def holder(self, run_id: str) -> Claim | None:
        """Return the claim under which a run is held, or None."""
        return _read_claim(self.folder(run_id) / CLAIM)

    def _renew(self, stop: threading.Event) -> None:
        while not stop.wait(HEARTBEAT_S):
            for run_id, mine in list(self._held.items()):
                with contextlib.suppress(OSError, RequestError):  # a file server's hiccup must not end the heartbeat
                    if self.holder(run_id) == mine:  # not another's, who took it over while this machine slept
                        os.utime(self.folder(run_id) / CLAIM)

    def _check_claim(self, run_id: str) -> None:
        mine = self._held.get(run_id)
        if mine is None:
            return
        holder = self.holder(run_id)
        if holder != mine:
            by = f"process {holder.process} on {holder.machine.split()[0]}" if holder else "nobody"
            raise ClaimLostError(f"run {run_id} is held by {by} now: this process was silent for too long")

    @contextlib.contextmanager
    def locked(self, what: str = "") -> Iterator[float]:
        """Hold one of the store's locks, which keep apart all threads and processes, on whatever machine.

        Args:
            what: "" while a claim is judged and written, so that two never take over the same; or another's name.

        Yields:
            The time in seconds, by the clock that stamps the store's files: a file server has its own.
        """
        name = f".lock-{what}" if what else ".lock"
        path = self.root / "runs" / name
        with _ONE_THREAD:
            with _writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                file = path.open("a")
            with file:
                with _writing(path):
                    fcntl.lockf(file, fcntl.LOCK_EX)  # closing the file releases it, a dead process's too
                    os.utime(path)
                    now = path.stat().st_mtime
                yield now


class ReadStore(Store):
    """A store as those see it who do what another process does too, and that one writes: what they write is dropped."""

    def write(self, run_id: str, name: str, content: str | bytes) -> None:  # noqa: D102
        pass

    def append_epoch(self, run_id: str, row: dict[str, Any]) -> None:  # noqa: D102
        pass

    def finish(self, run_id: str, record: dict[str, Any], keep_checkpoint: bool = False) -> None:  # noqa: D102
        pass

    def set_aside(self, run_id: str, name: str) -> str:  # noqa: D102
        return Path(name).with_suffix(".broken").name


def weights_file(network: str) -> str:
    """Return the name of the file with the weights of one of a run's networks."""
    return f"{network}.safetensors"


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that it appears whole or not at all, also after a power cut.

    Raises:
        RequestError: it cannot be written.
    """
    temporary = path.with_name(TEMPORARY.format(f"{path.name}.{uuid.uuid4().hex}"))
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # the rename itself
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn what the system says of a file that cannot be written into one clear message."""
    try:
        yield
    except OSError as error:
        raise RequestError(
            f"{path}: cannot be written: {error.strerror or error}. Mend that, or name another folder with --results"
        ) from error


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: is no JSON ({error}); the store never writes such a file. Remove it") from None
    if not isinstance(document, dict):
        raise _foreign(path, f"it holds a {type(document).__name__}")
    return document


def _read_as(kind: type[R], path: Path) -> R | None:
    document = _read_json(path)
    if document is None:
        return None
    try:
        return kind(**document)
    except TypeError as error:
        raise _foreign(path, error) from error


def _foreign(path: Path, reason: object) -> RequestError:
    return RequestError(f"{path}: was written by another version of this project, or by hand: {reason}. Remove it")


def _read_claim(path: Path) -> Claim | None:
    return _read_as(Claim, path)


def _alive(claim: Claim, path: Path, now: float) -> bool:
    if claim.machine == _machine() and claim.started:
        return _started(claim.process) == claim.started
    try:
        return now - path.stat().st_mtime < DEAD_AFTER_S
    except FileNotFoundError:
        return False


def _machine() -> str:
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _started(process: int) -> int:
    """Return when a process started, or 0 if there is none or the system does not say."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return 0
    _, _, rest = text.rpartition(")")  # the command's name before it may hold anything
    fields = rest.split()
    if fields[0] in "ZX":  # a zombie writes nothing any more
        return 0
    return int(fields[19])
