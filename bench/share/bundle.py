"""Bundles: a suite's text, its finished runs and its table in one zip file, with the hash of each. Imports no torch.

    manifest.json                  the suite, the options it was run with, and the sha256 of every other member
    suites/NAME.yaml               the suite, and the suite whose networks it evaluates, if it is of task transfer
    table.csv                      the table
    NAME/sources.json              identities of the suite's image folders and checkpoints
    runs/<run id>/FILE             the files of its runs as the store has them; weights on request only

A bundle may come from anybody: every name, size and hash is checked before a member is used, and no code is run from
it.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter

from bench import __version__
from bench.plan import OPEN, Plan
from bench.reading import open_regular
from bench.report import index
from bench.report.folder import SUITE, TABLES
from bench.report.frame import Frame
from bench.report.table_csv import to_csv
from bench.spec import ID_LENGTH, PEER, STUDENT
from bench.store import ANSWERS, EPOCHS, OUTPUTS, SOURCES, Store, weights_file
from bench.store.documents import RECORD
from bench.store.files import checked, parsed, whole_file, writing
from bench.store.store import FAILURE, SPEC
from bench.suite.load import source_of
from bench.suite.schema import FILE_NAME
from bench.suite.yaml_positions import read_yaml
from bench.types import RequestError

MANIFEST, TABLE, SUITES, RUNS = "manifest.json", TABLES[0], "suites", "runs"
KEPT = (SPEC, "suite.yaml", "source.yaml", EPOCHS, OUTPUTS, ANSWERS, RECORD, FAILURE)  # of each run
WEIGHTS = (weights_file(STUDENT), weights_file(PEER))
NAMES = re.compile(  # of members; with no others, no path leads out of the folder and no member is code
    rf"{MANIFEST}|{TABLE}|{SUITES}/{FILE_NAME}\.yaml|{FILE_NAME}/{SOURCES}"
    rf"|{RUNS}/[0-9a-f]{{{ID_LENGTH}}}/(?:{'|'.join(map(re.escape, (*KEPT, *WEIGHTS)))})"
)
SUFFIX = ".zip"
COMPRESSION = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
MAX_MEMBERS = 200_000
MAX_BYTES = 2**36  # of all members together, unpacked: 64 GiB
MAX_MEMBER_BYTES = 2**32  # bytes of one member, unpacked: 4 GiB
MAX_RATIO = 100  # members may be so many times as large as the file; text and answers compress 2 to 10 times
ALWAYS_ALLOWED = 2**24  # bytes that members may have in any case: small bundles compress better
EPOCH = (1980, 1, 1, 0, 0, 0)  # the time of every member, so that the same results give the same bytes
CHUNK = 2**20  # bytes


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    format: Literal[1]
    suite: str  # the member with the suite's text
    changes: tuple[str, ...]  # of the suite, from the command line
    plugins: tuple[str, ...]  # names of plug-in files that its runs use; a bundle has no code
    version: str  # of this project
    sha256: dict[str, str]  # of the other members, by name


MANIFESTS = TypeAdapter(Manifest)


@dataclass(frozen=True)
class Bundle:
    """A bundle whose members lie in a folder, which is a folder of results."""

    file: Path
    root: Path  # the folder
    manifest: Manifest
    sha256: str  # of the bundle itself
    altered: Sequence[str]  # a line for each member whose hash differs from the manifest's

    @property
    def suite(self) -> Path:
        """Return the suite file."""
        return self.root / self.manifest.suite


def is_bundle(path: Path) -> bool:
    """Return whether a path of the command line names a bundle."""
    return path.suffix == SUFFIX


# writing


def write_bundle(frame: Frame, store: Store, to: Path, weights: bool = False) -> None:
    """Write a suite's results to a new file, whole or not at all.

    Args:
        frame: the results.
        store: has the runs.
        to: the file, whose name ends in `.zip`.
        weights: whether to add the runs' weights.

    Raises:
        RequestError: runs are missing or damaged, the suite names plug-ins, or the file exists or cannot be written.
    """
    _check_request(frame, to)
    plan, hashes = frame.plan, {}
    with whole_file(to) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:

        def add(name: str, content: bytes) -> None:
            member = zipfile.ZipInfo(name, EPOCH)
            member.compress_type, member.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(member, content)
            hashes[name] = hashlib.sha256(content).hexdigest()

        suite = f"{SUITES}/{plan.name}.yaml"
        for name, content in _texts(plan, suite).items():
            add(name, content.encode())
        add(TABLE, to_csv(frame).encode())
        for run_id in sorted(plan.runs):
            for name in (*KEPT, *(WEIGHTS if weights else ())):
                if (kept := store.content(run_id, name)) is not None:
                    add(f"{RUNS}/{run_id}/{name}", kept)
        plugins = tuple(Path(path).name for path in plan.plugins)
        manifest = Manifest(1, suite, tuple(plan.changes), plugins, __version__, hashes)
        add(MANIFEST, json.dumps(asdict(manifest), indent=1).encode())


def _check_request(frame: Frame, to: Path) -> None:
    plan = frame.plan
    if to.suffix != SUFFIX:
        raise RequestError(f"--to {to}: the name of a bundle ends in {SUFFIX}")
    if os.path.lexists(to):  # False for an impossible path, which cannot be written either
        raise RequestError(f"--to {to}: exists. Name a new file")
    if plan.suite.plugins:
        raise RequestError(
            f"{plan.file}: plugins: a bundle has no code, and cannot name files of this machine. Leave the key out, "
            "and name the files with --plugin; the runs stay the same"
        )
    left = {run_id: status for run_id, (status, _) in frame.statuses.items() if status in (*OPEN, "stale")}
    if left or plan.awaited:
        few = ", ".join(f"{run_id} {status}" for run_id, status in list(left.items())[:3])
        what = f"{len(left)} of {len(frame.statuses)} runs are not finished ({few}{', ...' if len(left) > 3 else ''})"
        raise RequestError(
            f"{plan.file}: {what if left else 'the search for settings has not ended'}. Run the suite first, or leave "
            "out rows, pairs or seeds with --set and --seeds"
        )


def _texts(plan: Plan, suite: str) -> dict[str, str]:
    """Return the texts of a plan's suite, of the suite that it evaluates, and of its sources, by member."""
    texts = {suite: plan.text}
    if (source := source_of(plan.file)) is not None:
        texts[f"{SUITES}/{source.name}"] = read_yaml(source)[2]
    if plan.sources:
        texts[f"{plan.name}/{SOURCES}"] = json.dumps(dict(plan.sources), indent=1)
    return texts


# reading


def keep_report(folder: Path, to: Path) -> None:
    """Copy the report made from a bundle to a new folder, whole or not at all, as a report without its runs.

    The page of all reports in the folder's parent then lists it.

    Raises:
        RequestError: it cannot be written.
    """
    with writing(to):
        to.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{to.name}.", dir=to.parent) as beside:
            shutil.copytree(folder, Path(beside, to.name), ignore=shutil.ignore_patterns(SUITE, SOURCES))
            Path(beside, to.name).rename(to)
    index.write(Store(to.parent))


@contextmanager
def unpacked(path: Path, allows_altered: bool = False) -> Iterator[Bundle]:
    """Yield a bundle with its members unpacked to a temporary folder; errors and logs name the bundle in its place.

    Args:
        path: the bundle.
        allows_altered: whether the hashes of members may differ from the manifest's; the bundle lists these members.

    Raises:
        RequestError: it cannot be read, is not a bundle, is too large unpacked, names files elsewhere, has altered
            members, or names plug-ins.
    """
    with tempfile.TemporaryDirectory(prefix="bundle-") as folder, _logged_as(folder, path):
        try:
            bundle = _unpack(path, Path(folder))
            if bundle.altered and not allows_altered:
                raise RequestError("\n".join(bundle.altered))
            yield bundle
        except RequestError as error:
            raise RequestError(str(error).replace(folder, str(path))) from error


@contextmanager
def _logged_as(folder: str, path: Path) -> Iterator[None]:
    """Let what is logged name a path in place of a folder."""
    before = logging.getLogRecordFactory()

    def record(*args: object, **keywords: object) -> logging.LogRecord:
        made = before(*args, **keywords)
        made.msg, made.args = made.getMessage().replace(folder, str(path)), None
        return made

    logging.setLogRecordFactory(record)
    try:
        yield
    finally:
        logging.setLogRecordFactory(before)


def _unpack(path: Path, folder: Path) -> Bundle:
    try:
        with open_regular(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            with zipfile.ZipFile(file) as archive:
                members = _checked_members(path, archive)
                manifest = _manifest(path, archive, members)
                hashes = {name: _write(archive, one, folder) for name, one in members.items()}
    except FileNotFoundError:
        raise RequestError(f"{path}: there is no such file") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise RequestError(f"{path}: is not a bundle, or is damaged: {error}. Copy it again") from error
    del hashes[MANIFEST]
    altered = []
    for name in sorted({**hashes, **manifest.sha256}):
        found, expected = hashes.get(name, "missing"), manifest.sha256.get(name, "not listed")
        if found != expected:
            altered.append(f"{path}/{name}: has been altered: its sha256 is {found}, but in {MANIFEST} {expected}")
    if read_yaml(folder / manifest.suite)[0].get("plugins"):
        raise RequestError(f"{path}: its suite names plug-ins: a bundle that this project writes has none")
    return Bundle(path, folder, manifest, digest, altered)


def _checked_members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the members of an archive by name, after checking that a bundle may have them; nothing is unpacked."""
    members: dict[str, zipfile.ZipInfo] = {}
    size = path.stat().st_size
    for one in archive.infolist():
        if fault := _fault(one, members):
            raise RequestError(f"{path}: the member {one.filename!r}: {fault}. Nothing was unpacked")
        members[one.filename] = one
    sizes = [one.file_size for one in members.values()]
    total, largest = sum(sizes), max(sizes, default=0)
    allowed = min(MAX_BYTES, max(ALWAYS_ALLOWED, MAX_RATIO * size))
    if len(members) > MAX_MEMBERS or largest > MAX_MEMBER_BYTES or total > allowed:
        raise RequestError(
            f"{path}: would unpack to {len(members)} files of {total} bytes, the largest of {largest}. Allowed are "
            f"{MAX_MEMBERS} files, {MAX_MEMBER_BYTES} bytes each, and {allowed} in all. Nothing was unpacked"
        )
    return members


def _fault(one: zipfile.ZipInfo, members: Mapping[str, zipfile.ZipInfo]) -> str:
    """Return why a bundle may not have a member, or ""; `members` are those before it."""
    if (one.external_attr >> 16) & 0o170000 == 0o120000:
        return "is a link"
    if one.filename in members:
        return "is there twice"
    if one.compress_type not in COMPRESSION:
        return "is compressed with a method that bundles do not use"
    return "" if NAMES.fullmatch(one.filename) else "bundles have no such member"


def _manifest(path: Path, archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]) -> Manifest:
    if missing := [name for name in (MANIFEST, TABLE) if name not in members]:
        raise RequestError(f"{path}: is not a bundle: it has no {missing[0]}")
    try:
        document = parsed(archive.read(MANIFEST))
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path}/{MANIFEST}: is not valid JSON: {error}") from None
    manifest = checked(MANIFESTS, document, path / MANIFEST)
    if manifest.suite not in members or not manifest.suite.startswith(f"{SUITES}/"):
        raise RequestError(f"{path}/{MANIFEST}: suite: {manifest.suite!r} is not a member of {SUITES}/")
    return manifest


def _write(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> str:
    """Write a member below a folder; return its sha256."""
    path, digest = folder / member.filename, hashlib.sha256()
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path), archive.open(member) as source, path.open("xb") as target:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            target.write(chunk)
    return digest.hexdigest()
