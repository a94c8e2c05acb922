"""What the store reads is checked: damage is named, and never another number."""

import json
import math
import os
import re
import shutil
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.schedule import Schedule
from bench.spec import DataSpec, NetworkSpec, RunSpec
from bench.store import CHECKPOINT, EPOCHS, OUTPUTS, WEIGHTS, Failure, Store
from bench.store.claims import CLAIM, DEAD_AFTER_S, HEARTBEAT_S, Claim
from bench.store.documents import RECORD
from bench.store.files import count_in, read_csv, sealed, unsealed, write_whole
from bench.store.store import FAILURE, SPEC
from bench.types import RequestError
from tests.test_reading import KINDS, special

DATA = DataSpec(name="digits", classes=10, size=(8, 8), mean=(0.3,) * 3, std=(0.3,) * 3, augment="none")
RUN = RunSpec(student=NetworkSpec(network="resnet8"), data=DATA, schedule=Schedule(milestones=(1,)), seed=3)
ROWS = [{"stage": "main", "epoch": epoch, "loss": 1.5 / epoch, "top1": float("nan")} for epoch in (1, 2, 3)]
METRICS = {"metrics": {"top1": 70.25, "top5": float("nan")}, "best": {"epoch": 2, "top1": 71.0}, "epochs": 3}


@pytest.fixture
def store(tmp_path):
    """Return a store with one finished run, `RUN`."""
    store = Store(tmp_path / "results")
    store.begin(RUN)
    store.write_epochs(RUN.id, ROWS)
    store.write(RUN.id, WEIGHTS, b"weights")
    store.write(RUN.id, OUTPUTS, b"outputs")
    store.finish(RUN.id, METRICS)
    return store


def read_all(store: Store) -> str:
    """Read every file of the run as its readers do; return what was read."""
    run = RUN.id
    whole = [store.state(run), store.record(run), store.failure(run), store.spec(run), store.epochs(run)]
    return repr([*whole, store.weights(run), store.content(run, OUTPUTS)])


# bit flips and truncation


def refused_or(check, read):
    """Read; a refusal is one line that names the file, and an answer passes the check."""
    try:
        answer = read()
    except RequestError as error:
        message = str(error)
    else:
        check(answer)
        return
    assert re.search(r"/(spec|record|failure|claim)\.json: |/epochs\.jsonl: |\.safetensors: ", message)
    assert "\n" not in message


FILES = [RECORD, SPEC, EPOCHS, WEIGHTS, OUTPUTS]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_in_any_byte_is_named_or_changes_nothing(name, store):
    path = store.folder(RUN.id) / name
    whole, before = path.read_bytes(), read_all(store)
    changed = []
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 7)]) + whole[place + 1 :])
        refused_or(lambda after, place=place: after == before or changed.append(place), lambda: read_all(store))
    # with another name, the checksum is an unknown key, and the numbers are as they were
    name_of_checksum = whole.find(b'"checksum"') if name == RECORD else len(whole)
    assert set(changed) <= set(range(name_of_checksum, name_of_checksum + 10))


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named(name, store):
    path = store.folder(RUN.id) / name
    whole = path.read_bytes()
    for length in {0, 1, len(whole) // 2, len(whole) - 2}:
        path.write_bytes(whole[:length])
        with pytest.raises(RequestError, match=name):
            read_all(store)


@pytest.mark.parametrize("name", [EPOCHS, WEIGHTS, OUTPUTS])
def test_a_file_that_the_record_names_and_that_is_gone_is_named(name, store):
    (store.folder(RUN.id) / name).unlink()
    with pytest.raises(RequestError, match=rf"{name}: no such file, but record\.json names it"):
        read_all(store)


@pytest.mark.parametrize("left", ["nothing", "another record"])
def test_a_record_without_the_specification_that_it_names_is_refused(left, store):
    if left == "nothing":
        (store.folder(RUN.id) / SPEC).unlink()
    else:
        other = RUN.but(seed=4)
        store.begin(other)
        store.finish(other.id, METRICS)
        shutil.copy(store.folder(other.id) / RECORD, store.folder(RUN.id) / RECORD)
    for read in (store.record, store.state, store.epochs):
        with pytest.raises(RequestError, match=rf"{RUN.id}/spec\.json: .*{RECORD}.* the run is then trained again"):
            read(RUN.id)


@given(content=st.binary(max_size=200), place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_seal_notices_every_flipped_bit_of_the_content(content, place, bit):
    whole = sealed(content)
    assert unsealed(whole) == content
    place %= len(whole)
    damaged = whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :]
    with suppress(ValueError):
        assert unsealed(damaged).startswith(content)  # the mark of the seal: then it is as if there were none


def test_what_an_earlier_version_wrote_without_hashes_is_read(store):
    (store.folder(RUN.id) / RECORD).write_text(json.dumps(METRICS))
    write_whole(store.folder(RUN.id) / CHECKPOINT, b"not sealed")
    assert store.record(RUN.id)["metrics"]["top1"] == 70.25
    assert [row["epoch"] for row in store.epochs(RUN.id)] == [1, 2, 3]
    assert store.weights(RUN.id) == b"weights"
    assert store.checkpoint(RUN.id) == b"not sealed"


def test_missing_epochs_of_an_earlier_versions_record_are_counted(store):
    (store.folder(RUN.id) / RECORD).write_text(json.dumps(METRICS))
    store.write_epochs(RUN.id, ROWS[:2])
    with pytest.raises(RequestError, match=r"epochs\.jsonl: has 2 of the 3 epochs that record\.json counts"):
        store.epochs(RUN.id)


# a folder under another run's id


@pytest.mark.parametrize("left", [RECORD, FAILURE, EPOCHS])
def test_a_folder_with_another_runs_specification_is_named(left, store):
    other = RUN.but(seed=4)
    for name in (RECORD, EPOCHS):
        if name != left:
            (store.folder(RUN.id) / name).unlink()
    if left == FAILURE:
        store.fail(RUN.id, Failure("failed", "why"))
    store.folder(RUN.id).rename(store.folder(other.id))
    read = {RECORD: store.record, FAILURE: store.failure, EPOCHS: store.epochs}[left]
    for reader in (read, store.state, store.spec):
        with pytest.raises(RequestError, match=rf"{other.id}/spec\.json: is the specification of run {RUN.id}, not"):
            reader(other.id)


# what is no record, no failure, no claim and no row

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
KEYS = ["metrics", "best", "epochs", "versions", "methods_sha256", "teachers_sha256", "date", "wall_s", "accepted"]


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Return a store for a run of which only its specification is there."""
    store = Store(tmp_path_factory.mktemp("bare"))
    store.begin(RUN)
    return store


@settings(max_examples=30)
@given(key=st.sampled_from(KEYS), value=VALUES)
def test_any_value_in_a_record_is_refused_by_name_or_is_one_that_readers_can_show(bare, key, value):
    (bare.folder(RUN.id) / RECORD).write_text(json.dumps({"metrics": {"top1": 1.0}, key: value}))

    def check(record):
        assert all(
            f"{float(number):.2f}" for number in (*record["metrics"].values(), *(record.get("best") or {}).values())
        )
        assert isinstance(record.get("epochs") or 0, int)
        assert all(isinstance(text, str) for text in (record.get("versions") or {}).values())

    refused_or(check, lambda: bare.record(RUN.id))
    (bare.folder(RUN.id) / RECORD).unlink()


@pytest.mark.parametrize("document", [{"wall_s": math.nan}, {"scores": {"nll": math.nan}}], ids=["time", "score"])
def test_what_pages_and_means_cannot_have_is_refused(bare, document):
    (bare.folder(RUN.id) / RECORD).write_text(json.dumps({"metrics": {}, **document}))
    with pytest.raises(RequestError, match="is not a finite number"):
        bare.record(RUN.id)
    (bare.folder(RUN.id) / RECORD).unlink()


@pytest.mark.parametrize(
    ("key", "value"), [("lanes", "2"), ("lanes", -1), ("device", {}), ("host", ["a"]), ("threads", True)]
)
def test_a_fact_about_machine_and_cohort_of_another_type_is_refused(key, value, bare):
    (bare.folder(RUN.id) / RECORD).write_text(json.dumps({"metrics": {}, key: value}))
    with pytest.raises(RequestError, match=rf"record\.json: is damaged.*: {key}: "):
        bare.record(RUN.id)
    (bare.folder(RUN.id) / RECORD).unlink()


@settings(max_examples=30)
@given(changes=st.dictionaries(st.sampled_from(["status", "reason", "details", "more"]), VALUES, min_size=1))
def test_any_failure_is_refused_by_name_or_is_one(bare, changes):
    document = {"status": "failed", "reason": "why", "details": ""} | changes
    (bare.folder(RUN.id) / FAILURE).write_text(json.dumps(document))

    def check(failure):
        assert failure.status in ("failed", "diverged", "inapplicable")
        assert isinstance(failure.reason, str)

    refused_or(check, lambda: bare.failure(RUN.id))
    (bare.folder(RUN.id) / FAILURE).unlink()


@settings(max_examples=30)
@given(row=st.dictionaries(st.sampled_from(["stage", "epoch", "loss", "top1"]), VALUES) | VALUES)
def test_any_row_of_epochs_is_refused_by_name_or_is_one(bare, row):
    (bare.folder(RUN.id) / EPOCHS).write_text(json.dumps(row) + "\n")

    def check(rows):
        assert rows[0]["stage"] in ("initial", "main")
        assert all(float(value) or True for name, value in rows[0].items() if name != "stage")

    refused_or(check, lambda: bare.epochs(RUN.id))
    (bare.folder(RUN.id) / EPOCHS).unlink()


NOT_JSON = {
    "deep": b"[" * 100_000,
    "many digits": b'{"metrics": {"top1": ' + b"1" * 5000 + b"}}",
    "infinity": b'{"metrics": {"top1": Infinity}}',
    "overflow": b'{"metrics": {"top1": 1e999}}',
    "large integer": b'{"metrics": {"top1": ' + b"1" * 400 + b"}}",
    "not UTF-8": b'{"metrics": {"\xff": 1}}',
    "half a pair": b'{"metrics": {"\\ud800": 1}}',
    "true": b'{"metrics": {"top1": true}}',
    "text": b'{"metrics": {"top1": "70"}}',
    "null": b"null",
    "nothing": b"",
}


@pytest.mark.parametrize("content", NOT_JSON.values(), ids=NOT_JSON)
@pytest.mark.parametrize("name", [RECORD, FAILURE, CLAIM, SPEC])
def test_hostile_json_is_refused_by_name_in_one_line(content, name, bare):
    path = bare.folder(RUN.id) / name
    before = path.read_bytes() if path.exists() else None
    path.write_bytes(content)
    with pytest.raises(RequestError, match=rf"{name}: ") as refusal:
        bare.state(RUN.id)
    assert "\n" not in str(refusal.value)
    path.unlink() if before is None else path.write_bytes(before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [RECORD, FAILURE, CLAIM, SPEC, EPOCHS])
def test_no_special_file_is_opened(kind, name, bare, tmp_path):
    path = bare.folder(RUN.id) / name
    before = path.read_bytes() if path.exists() else None
    if before is not None:
        path.unlink()
    try:
        if kind in ("too long", "Not a directory", "null"):
            pytest.skip("the store chooses the names")
        special(tmp_path, kind).rename(path) if kind != "symbolic links" else path.symlink_to(path.name)
        with pytest.raises(RequestError, match=kind):
            bare.epochs(RUN.id) if name == EPOCHS else bare.state(RUN.id)
    finally:
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        if before is not None:
            path.write_bytes(before)


@pytest.mark.parametrize("content", [b"a,b\n" + 200_000 * b"x", b"a\xff"], ids=["a long value", "no UTF-8"])
def test_a_csv_file_that_cannot_be_read_is_refused_by_name(content, tmp_path):
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(RequestError, match=r"/table\.csv: "):
        read_csv(tmp_path / "table.csv")


@pytest.mark.parametrize("text", ["", "-1", "x", "9" * 5_000, "²"])
def test_what_is_no_count_counts_as_none(text):
    assert count_in({"n": text}, "n") == 0


def test_a_fifo_in_place_of_the_lock_does_not_block(bare):
    path = bare.root / "runs" / ".lock"
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(RequestError, match=r"\.lock: is a FIFO"):
        bare.claim(RUN.id)
    path.unlink()


# claims


def test_a_claim_from_the_future_is_no_sign_of_life(store):
    path = store.folder(RUN.id) / CLAIM
    (store.folder(RUN.id) / RECORD).unlink()
    write_whole(path, json.dumps(vars(Claim("elsewhere", 1, 0, "", "token"))))
    ages = {-365 * 86400.0: "waiting", -2 * HEARTBEAT_S: "waiting", -HEARTBEAT_S / 2: "running", 0.0: "running"}
    for age_s, state in ages.items():
        os.utime(path, (time.time() - age_s,) * 2)
        assert (age_s, store.state(RUN.id)) == (age_s, state)
    os.utime(path, (time.time() + DEAD_AFTER_S,) * 2)
    assert store.claim(RUN.id)


# an earlier result


def test_a_run_that_is_put_aside_waits_and_its_earlier_result_goes_with_the_next_one(store):
    store.put_aside(RUN.id)
    aside = store.folder(RUN.id).with_suffix(".stale")
    assert (store.state(RUN.id), store.is_put_aside(RUN.id), (aside / RECORD).exists()) == ("waiting", True, True)
    store.begin(RUN)
    store.finish(RUN.id, METRICS)
    assert (store.state(RUN.id), aside.exists()) == ("done", False)


def test_an_accepted_record_names_the_code_before_and_after(store):
    store.finish(RUN.id, METRICS | {"methods_sha256": {"kd": "old"}})
    for new in ("newer", "newest"):
        store.accept(RUN.id, {"kd": new})
    record = Store(store.root).record(RUN.id)
    assert record["methods_sha256"] == {"kd": "newest"}
    assert [one["methods_sha256"]["kd"] for one in record["accepted"]] == ["old", "newer"]
    assert record["metrics"]["top1"] == 70.25


# writes


def test_a_file_that_cannot_be_removed_is_named(store):
    (store.folder(RUN.id) / FAILURE).mkdir()
    with pytest.raises(RequestError, match=r"failure\.json: cannot be written"):
        store.forget_failure(RUN.id)


def test_stores_merge_by_copying_finished_runs(store, tmp_path):
    before = read_all(store)
    shutil.copytree(store.root, tmp_path / "copy")
    assert read_all(Store(tmp_path / "copy")) == before
