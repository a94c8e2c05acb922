"""The folders of runs: specifications, epochs, checkpoints, weights, records and failures. Imports no torch.

    <root>/runs/<run id>/   spec.json  suite.yaml  epochs.jsonl  checkpoint.pt  student.safetensors  outputs.safetensors
                            answers.safetensors  record.json | failure.json  tensorboard/
                            source.yaml, of a transfer suite
                            peer.safetensors, if two networks learn from each other
    <root>/runs/<run id>.stale/   an earlier result of a run, until the run has been trained again
    <root>/index.html       the page of all reports
    <root>/<suite name>/    table.csv  table.md  table.tex  statistics.csv  statistics.md  epochs.csv  report.html
                            suite.json  sources.json  cost.csv  figures/

Every file is written atomically. One process writes a run: it holds the run's claim, which another process takes over
if the first one is dead. Stores are merged by copying run folders.

Whatever is read is checked: a folder must be that of its `spec.json`, a record matches its checksum, and a finished
run's files match their hashes in its record. What earlier versions did not record is not checked.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from bench.reading import read_bytes, unreadable
from bench.spec import ID_LENGTH, RunSpec, canonical_document, id_of
from bench.store.claims import CLAIM, HEARTBEAT_S, Claim, HeldClaims, holder_in, is_alive
from bench.store.documents import CHECKSUM, FAILURES, FILES, RECORD, Failure, checksum, record_in, rows_of
from bench.store.files import (
    AGAIN,
    first_reason,
    incompatible,
    read_as,
    read_json,
    remove,
    sealed,
    unsealed,
    write_whole,
    writing,
)
from bench.store.locks import locked
from bench.types import RequestError

T = TypeVar("T")
State = Literal["done", "failed", "diverged", "inapplicable", "running", "waiting"]
SPEC, EPOCHS, CHECKPOINT, WEIGHTS = "spec.json", "epochs.jsonl", "checkpoint.pt", "student.safetensors"
OUTPUTS = "outputs.safetensors"  # of classifiers, on the test images; what figures are drawn from
ANSWERS = "answers.safetensors"  # of classifiers, to the test images: logits in half precision
FAILURE = "failure.json"
SOURCES = "sources.json"  # in a suite's folder
STALE = ".stale"  # at the end of the name of a folder with an earlier result
SETTLED_NS = 2_000_000_000  # a file that was written so long ago has another time stamp if it is written again


class Store:
    """A results folder. Nothing is created before something is written; held claims are renewed at each heartbeat."""

    def __init__(self, root: Path, heartbeat_s: float = HEARTBEAT_S) -> None:
        self.root, self.heartbeat_s = root, heartbeat_s
        self._claims = HeldClaims(self.folder, self.locked, heartbeat_s)
        self._read: dict[str, tuple[tuple[int, int, int], Any]] = {}  # what was read, by path, with the file's stamp

    def __reduce__(self) -> tuple[type["Store"], tuple[Path, float]]:
        """Let another process read the same folder; claims stay here."""
        return type(self), (self.root, self.heartbeat_s)

    def folder(self, run_id: str) -> Path:
        """Return a run's folder; raise a `RequestError` unless it is a run id, so that no path leaves the store."""
        if not re.fullmatch(rf"[0-9a-f]{{{ID_LENGTH}}}", run_id):
            raise RequestError(
                f"{run_id!r} is not a run id ({ID_LENGTH} hex digits, as `status` and `--dry-run` print them)"
            )
        return self.root / "runs" / run_id

    def suite_folder(self, name: str) -> Path:
        """Return a suite's folder, for a name that `bench.suite.check_name` has passed."""
        return self.root / name

    def sources(self, suite: str) -> dict[str, Any]:
        """Return the image folders and checkpoints with which a suite last ran; see `bench.plan.model.Sources`."""
        path = self.suite_folder(suite) / SOURCES
        known = read_json(path) or {}
        for key, value in known.items():
            kind = str if key.startswith("checkpoint ") else dict
            if not isinstance(value, kind):
                raise incompatible(path, f"{key}: {value!r} is not a {kind.__name__}")
        return known

    # reading

    def state(self, run_id: str) -> State:
        """Return a run's state: `waiting` if no process has begun it, or its process is dead."""
        if self.record(run_id) is not None:
            return "done"
        if (failure := self.failure(run_id)) is not None:
            return failure.status
        claim, path = self.holder(run_id), self.folder(run_id) / CLAIM
        return "running" if claim is not None and is_alive(claim, path, time.time()) else "waiting"

    def begun(self) -> set[str]:
        """Return the ids of the runs that have a folder: one look at the disk for all runs."""
        path = self.root / "runs"
        try:
            return set(os.listdir(path))
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise unreadable(path, error) from error

    def run_ids(self) -> list[str]:
        """Return the ids of the runs that have a folder, sorted, without the earlier results beside them."""
        return sorted(name for name in self.begun() if re.fullmatch(rf"[0-9a-f]{{{ID_LENGTH}}}", name))

    def run_id(self, beginning: str) -> str:
        """Return the id of the one run whose id starts so.

        Raises:
            RequestError: no run, or more than one, has such an id.
        """
        if not re.fullmatch(rf"[0-9a-f]{{1,{ID_LENGTH}}}", beginning):
            self.folder(beginning)  # raises an error that explains ids
        matching = [run_id for run_id in self.run_ids() if run_id.startswith(beginning)]
        if len(matching) != 1:
            what = f"{len(matching)} runs begin with it: {', '.join(matching[:5])}" if matching else "no such run"
            raise RequestError(
                f"run {beginning!r} in {self.root / 'runs'}: {what}. `status` and `--dry-run` print the ids"
            )
        return matching[0]

    def record(self, run_id: str) -> dict[str, Any] | None:
        """Return the record of a finished run, without its checksum, or None.

        Raises:
            RequestError: here and in the other readers, a file cannot be read, is damaged or another run's.
        """
        specification = self._check_place(run_id)
        record = self._once(run_id, RECORD, record_in)
        recorded = ((record or {}).get(FILES) or {}).get(SPEC)
        if recorded not in (None, specification):
            fault = f"is not the file that {RECORD} names, or that is another run's"
            if specification is None:
                fault = f"no such file, but {RECORD} names it"
            raise RequestError(f"{self.folder(run_id) / SPEC}: {fault}. {AGAIN}")
        return record

    def failure(self, run_id: str) -> Failure | None:
        """Return why a run has no record, or None."""
        self._check_place(run_id)
        return read_as(FAILURES, self.folder(run_id) / FAILURE)

    def spec(self, run_id: str) -> RunSpec | None:
        """Return a run's specification, or None for a run that was never begun."""
        self._check_place(run_id)
        path = self.folder(run_id) / SPEC
        document = read_json(path)
        try:
            return None if document is None else RunSpec.model_validate_json(json.dumps(document))
        except ValidationError as error:
            raise incompatible(path, first_reason(error)) from None

    def epochs(self, run_id: str) -> list[dict[str, Any]]:
        """Return a run's epochs, one mapping each; a truncated last line of an unfinished run is ignored.

        A report reads them several times: those of a finished run are kept, and must not be changed.
        """
        if not os.path.lexists(self.folder(run_id)):  # one look for most runs of a large suite at its start
            return []
        record = self.record(run_id)
        if record is None:
            return self._epochs(run_id, None)
        return self._once(run_id, EPOCHS, lambda _: self._epochs(run_id, record))

    def _epochs(self, run_id: str, record: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        path = self.folder(run_id) / EPOCHS
        rows = rows_of(self.content(run_id, EPOCHS) or b"", path, is_finished=record is not None)
        if record is not None and FILES not in record:  # of an earlier version
            trained, epochs = sum(row["stage"] == "main" for row in rows), record.get("epochs")
            if epochs is not None and trained != epochs:
                raise RequestError(f"{path}: has {trained} of the {epochs} epochs that {RECORD} counts. {AGAIN}")
        return rows

    def content(self, run_id: str, name: str) -> bytes | None:
        """Return one of a run's files, or None if there is none; a finished run's is what its record says."""
        path, hashes = self.folder(run_id) / name, self._hashes(run_id)
        try:
            content = read_bytes(path)
        except FileNotFoundError:
            if name in hashes:
                raise RequestError(f"{path}: no such file, but {RECORD} names it. {AGAIN}") from None
            return None
        if name in hashes and sha256(content).hexdigest() != hashes[name]:
            raise RequestError(f"{path}: has changed since the run ended: its sha256 is not that of {RECORD}. {AGAIN}")
        return content

    def weights(self, run_id: str, network: str = "student") -> bytes:
        """Return the file with the weights of one of a finished run's networks."""
        name = weights_file(network)
        if (content := self.content(run_id, name)) is None:
            raise RequestError(f"{self.folder(run_id) / name}: no such file. {AGAIN}")
        return content

    def weights_sha256(self, run_id: str) -> str | None:
        """Return the recorded hash of a finished run's weights; None if it has none, or no record of it."""
        return self._hashes(run_id).get(WEIGHTS)

    def checkpoint(self, run_id: str) -> bytes | None:
        """Return a run's checkpoint, or None; raises an error of any kind if it is damaged."""
        try:
            return unsealed(read_bytes(self.folder(run_id) / CHECKPOINT))
        except FileNotFoundError:
            return None

    def _hashes(self, run_id: str) -> Mapping[str, str]:
        return (self.record(run_id) or {}).get(FILES) or {}

    def _check_place(self, run_id: str) -> str | None:
        """Return the hash of `spec.json`, if there is one; raise a `RequestError` if it is another run's."""
        stated, digest = self._once(run_id, SPEC, _identity)
        if stated not in (None, run_id):
            raise RequestError(
                f"{self.folder(run_id) / SPEC}: is the specification of run {stated}, not of {run_id}, or damaged. If "
                f"the folder was copied under a wrong name, rename it; else remove it: run {run_id} is then trained "
                "again"
            )
        return digest

    def _once(self, run_id: str, name: str, read: Callable[[Path], T]) -> T:
        """Return what `read` returns for one of a run's files, which is read again only after it has changed."""
        path = f"{self.root}/runs/{run_id}/{name}"  # making a `Path` takes longer than looking at the file
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            return read(self.folder(run_id) / name)  # raises the error, if it is one
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        known, value = self._read.get(path, (None, None))
        if known != stamp:
            value = read(self.folder(run_id) / name)
            if time.time_ns() - status.st_mtime_ns > SETTLED_NS:
                self._read[path] = (stamp, value)
        return value  # type: ignore[return-value]  # read before by the same function

    # writing: each raises `ClaimLostError` if this object has claimed the run and another process holds the claim now

    def write(self, run_id: str, name: str, content: str | bytes) -> None:
        """Write one of a run's files."""
        self._claims.check(run_id)
        write_whole(self.folder(run_id) / name, content)

    def begin(self, spec: RunSpec, suite_files: Mapping[str, str] | None = None) -> None:
        """Write a run's specification, after the suite files that repeat the run, by name; see `bench.plan.repeat`."""
        for name, text in (suite_files or {}).items():
            self.write(spec.id, name, text)
        self.write(spec.id, SPEC, json.dumps(canonical_document(spec), indent=1) + "\n")

    def write_epochs(self, run_id: str, rows: Iterable[dict[str, Any]]) -> None:
        """Replace a run's epochs, for example after a resume."""
        self.write(run_id, EPOCHS, "".join(json.dumps(row) + "\n" for row in rows))

    def append_epoch(self, run_id: str, row: dict[str, Any]) -> None:
        """Append an epoch's row."""
        self._claims.check(run_id)
        path = self.folder(run_id) / EPOCHS
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def finish(self, run_id: str, record: dict[str, Any], keep_checkpoint: bool = False) -> None:
        """Write a run's record, after its other files, whose hashes it gets: the run is done."""
        self._claims.check(run_id)
        folder = self.folder(run_id)
        left = (path.name for path in folder.glob("[!.]*") if path.is_file() and path.stem != Path(CHECKPOINT).stem)
        hashed = sorted(name for name in left if name not in (RECORD, FAILURE, CLAIM))
        hashes = {name: sha256(read_bytes(folder / name)).hexdigest() for name in hashed}
        if hashes:
            record = record | {FILES: hashes}
        self._write_record(run_id, record)
        if not keep_checkpoint:
            remove(folder / CHECKPOINT)
        shutil.rmtree(folder.with_suffix(STALE), ignore_errors=True)

    def amend(self, run_id: str, facts: Mapping[str, Any], written: Iterable[str] = ()) -> None:
        """Add facts to a finished run's record and the hashes of the files that were `written` since it ended."""
        record = self.record(run_id)
        assert record is not None  # it is finished
        folder = self.folder(run_id)
        hashes = {name: sha256(read_bytes(folder / name)).hexdigest() for name in written}
        if hashes:
            facts = {**facts, FILES: {**(record.get(FILES) or {}), **hashes}}
        self._write_record(run_id, record | dict(facts))

    def accept(self, run_id: str, methods_sha256: Mapping[str, str]) -> None:
        """State that a finished run's methods, whose code has changed, give the same numbers: record the new hashes."""
        record = self.record(run_id)
        assert record is not None  # it is finished
        earlier = {"date": datetime.now(UTC).date().isoformat(), "methods_sha256": record["methods_sha256"]}
        accepted = {"methods_sha256": dict(methods_sha256), "accepted": [*record.get("accepted", ()), earlier]}
        self._write_record(run_id, record | accepted)

    def put_aside(self, run_id: str) -> None:
        """Rename a finished run's folder, so that the run is trained again; `finish` removes the earlier result."""
        folder = self.folder(run_id)
        aside = folder.with_suffix(STALE)
        with writing(aside):
            with suppress(FileNotFoundError):
                shutil.rmtree(aside)
            folder.rename(aside)  # at once: a kill leaves no mixture

    def is_put_aside(self, run_id: str) -> bool:
        """Return whether there is an earlier result of a run that is trained again."""
        return self.folder(run_id).with_suffix(STALE).is_dir()

    def _write_record(self, run_id: str, record: Mapping[str, Any]) -> None:
        self.write(run_id, RECORD, json.dumps({**record, CHECKSUM: checksum(record)}, indent=1) + "\n")

    def fail(self, run_id: str, failure: Failure) -> None:
        """Write why a run ended without a record."""
        self.write(run_id, FAILURE, json.dumps(asdict(failure), indent=1) + "\n")

    def write_checkpoint(self, run_id: str, content: bytes) -> None:
        """Replace a run's checkpoint."""
        self.write(run_id, CHECKPOINT, sealed(content))

    def set_aside(self, run_id: str, name: str, suffix: str = ".broken") -> str:
        """Rename one of a run's files so that nothing reads it; return the new name."""
        path = self.folder(run_id) / name
        with writing(path):
            return path.replace(path.with_suffix(suffix)).name

    def forget_failure(self, run_id: str) -> None:
        """Remove a run's failure, so that it is trained again, from its last checkpoint if it has one."""
        remove(self.folder(run_id) / FAILURE)

    # one writer

    def claim(self, run_id: str) -> bool:
        """Claim a run and return True, or return False if a live process holds its claim.

        Call it within a `try` whose `finally` calls `release`, which does nothing for a run that is not held: a signal
        may arrive at any moment.
        """
        return self._claims.take(run_id)

    def release(self, run_id: str) -> None:
        """Release a claim, if this object holds it."""
        self._claims.release(run_id)

    def holder(self, run_id: str) -> Claim | None:
        """Return the claim under which a run is held, or None."""
        return holder_in(self.folder(run_id))

    def locked(self, what: str = "") -> AbstractContextManager[float]:
        """Hold one of the store's locks, which one thread of one process on one machine holds at a time.

        `what` is the lock's name; claims are read and written under "". For these, yields the time in seconds by the
        clock that stamps the store's files: a file server has its own.
        """
        name = f".lock-{what}" if what else ".lock"
        return locked(self.root / "runs" / name, touches=not what)  # a report changes nothing among the runs


class DiscardingStore(Store):
    """A store that discards all writes: for the processes of a group other than rank 0."""

    def write(self, run_id: str, name: str, content: str | bytes) -> None: ...  # noqa: D102
    def append_epoch(self, run_id: str, row: dict[str, Any]) -> None: ...  # noqa: D102
    def finish(self, run_id: str, record: dict[str, Any], keep_checkpoint: bool = False) -> None: ...  # noqa: D102

    def set_aside(self, run_id: str, name: str, suffix: str = ".broken") -> str:  # noqa: D102
        return Path(name).with_suffix(suffix).name


def weights_file(network: str) -> str:
    """Return the name of the file with the weights of one of a run's networks."""
    return f"{network}.safetensors"


def _identity(path: Path) -> tuple[str | None, str | None]:
    """Return the run id of a specification and the hash of its file; nothing if there is no such file."""
    document = read_json(path)
    return (None, None) if document is None else (id_of(document), sha256(read_bytes(path)).hexdigest())
