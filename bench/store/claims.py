"""Claims: which process, on which host, writes a run, and whether it is still alive. Imports no torch."""

import json
import os
import socket
import threading
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter

from bench.store.files import TEMPORARY, read_as, remove, write_whole
from bench.types import RequestError

CLAIM = "claim.json"  # in a run's folder
HEARTBEAT_S = 15.0  # how often a live claim is renewed
DEAD_AFTER_S = 120.0  # a claim on another machine that was not renewed for this long is dead


@dataclass(frozen=True)
class Claim:
    """Which process writes a run."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    machine: str  # host name, boot id and process-id namespace: clones share a name, containers a machine
    process: int  # process id there
    started: int  # when that process started, in clock ticks since the boot, because ids are reused; 0 if unknown
    job: str  # the cluster's job id, or ""
    token: str  # unique to the claim


CLAIMS = TypeAdapter(Claim)


class ClaimLostError(Exception):
    """Another process has taken over a run: this one did not renew its claim in time and was considered dead."""


class HeldClaims:
    """The claims that one object of a store holds; a thread renews them at each heartbeat."""

    def __init__(
        self, folder: Callable[[str], Path], lock: Callable[[], AbstractContextManager[float]], heartbeat_s: float
    ) -> None:
        """Hold no claim yet; `folder` returns that of a run, and `lock` the store's lock for claims."""
        self.folder, self.lock, self.heartbeat_s = folder, lock, heartbeat_s
        self._held: dict[str, Claim] = {}
        self._stop = threading.Event()  # ends the thread that renews the claims

    def take(self, run_id: str) -> bool:
        """Claim a run and return True, or return False if a live process holds its claim."""
        folder = self.folder(run_id)
        with self.lock() as now:
            held = holder_in(folder)
            if held is not None and is_alive(held, folder / CLAIM, now):
                return False
            mine = new_claim()
            self._held[run_id] = mine  # before it is written: `release` also removes it if a signal arrives now
            write_whole(folder / CLAIM, json.dumps(asdict(mine)) + "\n")
            for leftover in folder.glob(TEMPORARY.format("*")):  # of a writer that was killed
                remove(leftover)
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
        with self.lock():
            if holder_in(self.folder(run_id)) == mine:
                remove(self.folder(run_id) / CLAIM)

    def check(self, run_id: str) -> None:
        """Raise `ClaimLostError` if this object has claimed a run and another process holds the claim now."""
        if (mine := self._held.get(run_id)) is None or (holder := holder_in(self.folder(run_id))) == mine:
            return
        by = f"process {holder.process} on {holder.machine.partition(' ')[0]}" if holder else "nobody"
        raise ClaimLostError(f"run {run_id} is now held by {by}: this process did not renew its claim in time")

    def _renew(self, stop: threading.Event) -> None:
        while not stop.wait(self.heartbeat_s):
            for run_id, mine in list(self._held.items()):
                with suppress(OSError, RequestError):  # a file server fault must not end the heartbeat
                    folder = self.folder(run_id)
                    if holder_in(folder) == mine:  # another process may take it over while this machine sleeps
                        os.utime(folder / CLAIM)


def holder_in(folder: Path) -> Claim | None:
    """Return the claim under which the run of a folder is held, or None."""
    return read_as(CLAIMS, folder / CLAIM)


def new_claim() -> Claim:
    """Return a claim of this process."""
    return Claim(
        machine=this_machine(),
        process=os.getpid(),
        started=process_start(os.getpid()),
        job=os.environ.get("SLURM_JOB_ID", ""),
        token=uuid.uuid4().hex,
    )


def is_alive(claim: Claim, path: Path, now: float) -> bool:
    """Return whether a claim's process is alive.

    A process of this machine is looked up. One elsewhere is alive if it renewed its claim in the last `DEAD_AFTER_S`:
    the modification time of the claim's file `path` is compared with `now`, by the clock that stamps the store's files.
    A time further ahead than a heartbeat comes from a wrong clock.
    """
    if claim.machine == this_machine() and claim.started:
        return process_start(claim.process) == claim.started
    try:
        return -HEARTBEAT_S <= now - path.stat().st_mtime < DEAD_AFTER_S
    except FileNotFoundError:
        return False


def this_machine() -> str:
    """Return what `Claim.machine` is on this machine."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def process_start(process: int) -> int:
    """Return when a process started, in clock ticks since the boot; 0 if there is none or the system does not say."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()  # the command's name before it may contain any character
    return 0 if fields[0] in "ZX" else int(fields[19])  # a zombie writes nothing any more
