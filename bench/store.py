"""The Store: the runs' folders, the only memory there is. Imports no torch.

    <root>/runs/<run id>/   spec.json  epochs.jsonl  checkpoint.pt  student.safetensors  record.json | failure.json
    <root>/<suite name>/    table.csv  table.md  table.tex

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
from typing import Any, Literal

from bench.spec import ID_LENGTH, RunSpec
from bench.types import RequestError

State = Literal["done", "failed", "diverged", "inapplicable", "running", "waiting"]
HEARTBEAT_S = 15.0  # how often a live claim is renewed
DEAD_AFTER_S = 120.0  # a claim on another machine that was not renewed for so long is dead
SPEC, EPOCHS, CHECKPOINT, WEIGHTS = "spec.json", "epochs.jsonl", "checkpoint.pt", "student.safetensors"
RECORD, FAILURE, CLAIM = "record.json", "failure.json", "claim.json"


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
        machine: host name and process-id namespace.
        process: process id there.
        started: when that process started, in clock ticks since the machine's start: ids are used again.
        job: the cluster's job id, or "".
        token: unique to the claim.
    """

    machine: str
    process: int
    started: int
    job: str
    token: str


class Store:
    """A results folder. Nothing is created before something is written."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._held: dict[str, Claim] = {}
        self._stop = threading.Event()

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

    # reading

    def state(self, run_id: str) -> State:
        """Return where a run stands: `waiting` is not begun, or begun by a process that is gone."""
        folder = self.folder(run_id)
        if (folder / RECORD).exists():
            return "done"
        if (failure := self.failure(run_id)) is not None:
            return failure.status
        claim = _read_claim(folder / CLAIM)
        return "running" if claim is not None and _alive(claim, folder / CLAIM) else "waiting"

    def record(self, run_id: str) -> dict[str, Any] | None:
        """Return what a finished run recorded, or None."""
        return _read_json(self.folder(run_id) / RECORD)

    def failure(self, run_id: str) -> Failure | None:
        """Return why a run has no record, or None."""
        document = _read_json(self.folder(run_id) / FAILURE)
        return None if document is None else Failure(**document)

    def spec(self, run_id: str) -> RunSpec | None:
        """Return a run's specification, or None for a run that was never begun."""
        document = _read_json(self.folder(run_id) / SPEC)
        return None if document is None else RunSpec.model_validate_json(json.dumps(document))

    def epochs(self, run_id: str) -> list[dict[str, Any]]:
        """Return a run's epochs, one mapping each; a torn last line is read past."""
        try:
            text = (self.folder(run_id) / EPOCHS).read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        rows = []
        for line in text.splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                rows.append(json.loads(line))
        return rows

    # writing

    def begin(self, spec: RunSpec) -> None:
        """Write a run's specification."""
        document = spec.model_dump(mode="json", exclude_none=True)
        write_whole(self.folder(spec.id) / SPEC, json.dumps(document, indent=1) + "\n")

    def write_epochs(self, run_id: str, rows: Iterable[dict[str, Any]]) -> None:
        """Replace a run's epochs by these, as after a resume."""
        write_whole(self.folder(run_id) / EPOCHS, "".join(json.dumps(row) + "\n" for row in rows))

    def append_epoch(self, run_id: str, row: dict[str, Any]) -> None:
        """Add an epoch's row."""
        with (self.folder(run_id) / EPOCHS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def finish(self, run_id: str, record: dict[str, Any], keep_checkpoint: bool = False) -> None:
        """Write a run's record, after its weights; from then on it is done."""
        write_whole(self.folder(run_id) / RECORD, json.dumps(record, indent=1) + "\n")
        if not keep_checkpoint:
            (self.folder(run_id) / CHECKPOINT).unlink(missing_ok=True)

    def fail(self, run_id: str, failure: Failure) -> None:
        """Write why a run ended without a record."""
        write_whole(self.folder(run_id) / FAILURE, json.dumps(asdict(failure), indent=1) + "\n")

    def forget_failure(self, run_id: str) -> None:
        """Let a run that failed be tried again, from its last checkpoint if it has one."""
        (self.folder(run_id) / FAILURE).unlink(missing_ok=True)

    # one writer

    def claim(self, run_id: str) -> bool:
        """Return whether this process now holds the run's claim; a dead process's claim is taken over."""
        folder = self.folder(run_id)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / CLAIM
        with self._claims_locked():
            held = _read_claim(path)
            if held is not None and _alive(held, path):
                return False
            mine = Claim(
                _machine(), os.getpid(), _started(os.getpid()), os.environ.get("SLURM_JOB_ID", ""), uuid.uuid4().hex
            )
            write_whole(path, json.dumps(asdict(mine)) + "\n")
        if not self._held:
            self._stop.clear()
            threading.Thread(target=self._renew, args=(self._stop,), daemon=True).start()
        self._held[run_id] = mine
        return True

    def release(self, run_id: str) -> None:
        """Give a claim back."""
        mine = self._held.pop(run_id, None)
        path = self.folder(run_id) / CLAIM
        with self._claims_locked():
            if mine is not None and _read_claim(path) == mine:
                path.unlink()
        if not self._held:
            self._stop.set()

    def holder(self, run_id: str) -> Claim | None:
        """Return the claim under which a run is held, or None."""
        return _read_claim(self.folder(run_id) / CLAIM)

    def _renew(self, stop: threading.Event) -> None:
        while not stop.wait(HEARTBEAT_S):
            for run_id in list(self._held):
                with contextlib.suppress(FileNotFoundError):
                    os.utime(self.folder(run_id) / CLAIM)

    @contextlib.contextmanager
    def _claims_locked(self) -> Iterator[None]:
        """Hold the store's lock while a claim is judged and written, so that two processes never take over the same."""
        with (self.root / "runs" / ".lock").open("a") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)  # closing the file releases it, a dead process's too
            yield


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that it appears whole or not at all, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
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


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: is no JSON ({error}); the store never writes such a file. Remove it") from None


def _read_claim(path: Path) -> Claim | None:
    document = _read_json(path)
    return None if document is None else Claim(**document)


def _alive(claim: Claim, path: Path) -> bool:
    if claim.machine == _machine():
        return _started(claim.process) == claim.started
    try:
        return time.time() - path.stat().st_mtime < DEAD_AFTER_S
    except FileNotFoundError:
        return False


def _machine() -> str:
    try:
        namespace = os.readlink("/proc/self/ns/pid")  # two containers of one host name count processes apart
    except OSError:
        namespace = ""
    return f"{socket.gethostname()} {namespace}".strip()


def _started(process: int) -> int:
    """Return when a process started, or 0 if there is none."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return 0
    state, fields = text[text.rindex(")") + 2], text[text.rindex(")") + 2 :].split()
    return 0 if state in "ZX" else int(fields[19])  # a zombie writes nothing any more
