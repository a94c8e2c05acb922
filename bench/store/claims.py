"""Claims: which process, on which host, writes a run, and whether it is still alive. Imports no torch."""

import contextlib
import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter

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
    with contextlib.suppress(OSError):
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
