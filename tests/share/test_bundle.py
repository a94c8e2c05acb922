"""A bundle holds what another machine needs to verify a suite's numbers, and one altered number is named."""

import csv
import hashlib
import io
import json
import math
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from bench.report.frame import results_frame
from bench.report.table_csv import to_csv
from bench.share.bundle import MANIFEST, TABLE, unpacked
from bench.share.verify import accuracies
from bench.spec import PEER
from bench.store import ANSWERS, EPOCHS, WEIGHTS, Store, weights_file
from bench.types import RequestError
from bench.workflow import planned
from tests.few import use_few, use_few_digits
from tests.stores import finish_all, plan_of
from tests.train.conftest import Bench, document

TWO_OF_THREE = {  # answers to two of three images
    "logits": np.zeros((2, 10), np.float16),
    "scale": np.ones(1, np.float32),
    "labels": np.zeros(3, np.int32),
    "indices": np.arange(3, dtype=np.int32),
}


@pytest.fixture(autouse=True)
def few_digits(monkeypatch):
    use_few_digits(monkeypatch)


def make(suite, to: Path, cli, *options: str) -> Path:
    """Make a bundle of a suite by the command line; return its path."""
    status, out, err = cli("bundle", suite.path, "--to", to, "--results", suite.folder / "results", *options)
    assert (status, err) == (0, "")
    assert out.startswith("Written: ")
    return to


@pytest.fixture
def bundle(trained, tmp_path, cli):
    """Return a bundle of the trained suite, with weights."""
    return make(trained, tmp_path / "tiny.zip", cli, "--weights")


def pack(folder: Path, to: Path) -> Path:
    """Pack a folder as a bundle whose manifest has the hashes of what is there."""
    manifest = json.loads((folder / MANIFEST).read_text())
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.*") if path.is_file()}
    files = {name: path for name, path in files.items() if name in manifest["sha256"]}
    manifest["sha256"] = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with zipfile.ZipFile(to, "w") as archive:
        for name, path in (files | {MANIFEST: folder / MANIFEST}).items():
            archive.write(path, name)
    return to


def forged(bundle: Path, tmp_path: Path, forge, makes_table: bool = True) -> tuple[Path, str]:
    """Let `forge` change the store of a bundle, whose hashes then fit; return the new bundle and a run of KD."""
    folder = tmp_path / "forged"
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(folder)
    plan, store, _ = planned(folder / "suites" / "tiny.yaml", (), folder)
    run = next(run.id for run in plan.runs.values() if run.terms)
    forge(store, run)
    if makes_table:
        (folder / TABLE).write_text(to_csv(results_frame(plan, Store(folder))))
    return pack(folder, tmp_path / "forged.zip"), run


def test_the_same_results_give_the_same_bytes(bundle, trained, tmp_path, cli):
    again = make(trained, tmp_path / "again.zip", cli, "--weights")
    assert again.read_bytes() == bundle.read_bytes()


def test_a_bundle_has_weights_only_on_request(bundle, trained, tmp_path, cli):
    without = make(trained, tmp_path / "without.zip", cli)
    names = [set(zipfile.ZipFile(path).namelist()) for path in (bundle, without)]
    assert {name.rpartition("/")[2] for name in names[0] - names[1]} == {WEIGHTS}


def test_a_bundle_is_verified_without_the_results_that_it_was_made_of(bundle, tmp_path, cli, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    shutil.move(bundle, tmp_path / "elsewhere" / bundle.name)
    monkeypatch.chdir(tmp_path / "elsewhere")
    status, out, err = cli("verify", bundle.name, "--device", "cpu")
    assert (status, err) == (0, "")
    assert re.search(r"tiny\.zip: all \d{3} checks hold \(5 runs\)", out)


def test_one_altered_byte_is_named_with_its_file(bundle, tmp_path, cli):
    altered = tmp_path / "altered.zip"
    with zipfile.ZipFile(bundle) as before, zipfile.ZipFile(altered, "w") as after:
        changed = next(name for name in before.namelist() if name.endswith(EPOCHS))
        for name in before.namelist():
            content = before.read(name)
            after.writestr(name, content.replace(b'"epoch": 1', b'"epoch": 3') if name == changed else content)
    status, out, _ = cli("verify", altered)
    assert status == 1
    assert out.startswith(f"{altered}/{changed}: has been altered")
    for command in (["report", altered, "--results", tmp_path / "results"], ["compare", altered, bundle]):
        status, _, err = cli(*command)
        assert (status, f"{changed}: has been altered" in err) == (2, True)


def test_an_accuracy_that_all_files_but_the_answers_agree_on_is_named(bundle, tmp_path, cli):
    def forge(store, run):
        rows = store.epochs(run)
        rows[-1]["top1"] = stated = rows[-1]["top1"] + 10
        store.write_epochs(run, rows)
        record = store.record(run)
        best = {**record["best"], "top1": stated}
        store.amend(run, {"metrics": {**record["metrics"], "top1": stated}, "best": best}, [EPOCHS])

    path, run = forged(bundle, tmp_path, forge)
    status, out, _ = cli("verify", path)
    (line,) = [line for line in out.splitlines() if "by its answers" in line]
    assert status == 1
    place, found, low, high = re.fullmatch(
        r"run (\w+) .*: top1: found ([\d.]+), expected ([\d.]+) to ([\d.]+) \(.*\)", line
    ).groups()
    assert place == run
    assert float(found) == pytest.approx((float(low) + float(high)) / 2 + 10, abs=2)


@pytest.mark.parametrize("name", ["nll", "ece"])
def test_a_score_that_does_not_follow_from_the_answers_is_named(bundle, tmp_path, cli, name):
    def forge(store, run):
        scores = store.record(run)["scores"]
        store.amend(run, {"scores": {**scores, name: scores[name] * 1.001}})

    path, run = forged(bundle, tmp_path, forge)
    status, out, _ = cli("verify", path)
    assert status == 1
    assert re.search(rf"^run {run} .*: {name}: found .*\(by its answers\)$", out, re.MULTILINE)


@pytest.mark.parametrize("content", [b"no tensors", save(TWO_OF_THREE)], ids=["no tensors", "too few logits"])
def test_answers_that_cannot_be_read_are_named_by_their_place_in_the_bundle(bundle, tmp_path, cli, content):
    def forge(store, run):
        store.write(run, ANSWERS, content)
        store.amend(run, {}, [ANSWERS])

    path, run = forged(bundle, tmp_path, forge, makes_table=False)
    status, out, err = cli("verify", path)
    assert (status, err) == (1, "")
    assert f"{path}/runs/{run}/{ANSWERS}: cannot be read" in out


def test_a_number_of_which_there_is_no_mean_is_named_with_its_record(bundle, tmp_path, cli):
    def forge(store, run):
        metrics = {**store.record(run)["metrics"], "top1": math.nan}
        store.amend(run, {"metrics": metrics})

    path, run = forged(bundle, tmp_path, forge, makes_table=False)
    status, out, err = cli("verify", path)
    assert (status, err) == (1, "")
    assert re.search(rf"^{TABLE}: rows: found {path}/runs/{run}/record.json: .* its top1 is NaN", out, re.MULTILINE)


def test_a_cell_of_the_table_that_no_record_has_is_named(bundle, tmp_path, cli):
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path / "forged")
    table = tmp_path / "forged" / TABLE
    rows = list(csv.reader(io.StringIO(table.read_text())))
    place = next(number for number, row in enumerate(rows) if row[4] == "KD" and row[5] == "top1")
    rows[place][7] = "99.9"
    table.write_text("".join(",".join(row) + "\n" for row in rows))
    status, out, _ = cli("verify", pack(tmp_path / "forged", tmp_path / "forged.zip"))
    assert status == 1
    assert f"{TABLE}: resnet8->resnet8, KD, top1: mean: found 99.9, expected" in out


def test_a_row_of_the_table_that_is_there_twice_is_named(bundle, tmp_path, cli):
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path / "forged")
    table = tmp_path / "forged" / TABLE
    head, first, *rest = table.read_text().splitlines(keepends=True)
    table.write_text("".join([head, first.replace(",1,", ",9,"), first, *rest]))
    status, out, _ = cli("verify", pack(tmp_path / "forged", tmp_path / "forged.zip"))
    assert status == 1
    assert re.search(rf"^{TABLE}: number of rows: found \d+, expected \d+ ", out, re.MULTILINE)


def test_weights_that_do_not_give_the_accuracy_are_named(bundle, tmp_path, cli):
    def forge(store, run):
        teacher = store.spec(run).teachers[0]
        store.write(run, WEIGHTS, store.weights(teacher))
        store.amend(run, {}, [WEIGHTS])

    path, run = forged(bundle, tmp_path, forge)
    status, out, _ = cli("verify", path, "--device", "cpu")
    assert status == 1
    assert re.search(rf"^run {run} .*: top[15]: found .*\(by its weights\)$", out, re.MULTILINE)


def test_weights_that_cannot_be_read_are_named_by_their_place_in_the_bundle(bundle, tmp_path, cli):
    def forge(store, run):
        store.write(run, WEIGHTS, b"torn")
        store.amend(run, {}, [WEIGHTS])

    path, run = forged(bundle, tmp_path, forge)
    _, out, _ = cli("verify", path, "--device", "cpu")
    assert f": weights: found {path}/runs/{run}/{WEIGHTS}: the network's weights cannot be read" in out


def test_warnings_of_a_report_name_the_bundle(bundle, tmp_path, cli, monkeypatch, caplog):
    def forge(store, run):
        (store.folder(run) / ANSWERS).write_bytes(b"torn")

    use_few(monkeypatch)
    path, run = forged(bundle, tmp_path, forge, makes_table=False)
    cli("report", path, "--results", tmp_path / "results")
    (said,) = caplog.messages
    assert said.startswith(
        f"warning: {path}/tiny/statistics.csv is not written: {path}/runs/{run}/{ANSWERS}: has changed"
    )


def test_weights_with_logits_that_are_not_finite_are_named(bundle, tmp_path, cli):
    def forge(store, run):
        state = load(store.weights(run))
        store.write(run, WEIGHTS, save(state | {"fc.weight": np.full_like(state["fc.weight"], 3e38)}))
        store.amend(run, {}, [WEIGHTS])

    path, run = forged(bundle, tmp_path, forge)
    status, out, _ = cli("verify", path, "--device", "cpu")
    assert status == 1
    said = (
        "weights: found the logits of the student on the test images are not finite, expected weights that can be read"
    )
    assert re.search(rf"^run {run} .*: {said} ", out, re.MULTILINE)


def test_the_weights_of_a_network_that_teaches_while_it_learns_are_verified_too(tmp_path, cli):
    pairs = [{"teacher": "resnet8", "student": "resnet8"}]
    suite = Bench(tmp_path, document(task="mutual", pairs=pairs))
    suite.run()
    bundle = make(suite, tmp_path / "mutual.zip", cli, "--weights")
    assert cli("verify", bundle, "--device", "cpu")[0] == 0

    def forge(store, run):
        store.write(run, weights_file(PEER), b"no tensors")
        store.amend(run, {}, [weights_file(PEER)])

    path, run = forged(bundle, tmp_path, forge)
    status, out, _ = cli("verify", path, "--device", "cpu")
    assert status == 1
    assert re.search(rf"^run {run} .*: weights: found .*{weights_file(PEER)}", out, re.MULTILINE)


def test_a_run_that_is_trained_again_is_reported_with_its_difference(bundle, cli):
    status, out, _ = cli("verify", bundle, "--retrain", "100", "--device", "cpu")
    assert status == 0
    assert re.findall(r"trained again: run \w+ .*: (top\d): .*: difference ([-+][\d.]+)", out) == [
        ("top1", "+0.0000"),
        ("top5", "+0.0000"),
    ]


def test_half_precision_bounds_an_accuracy_and_only_ties_leave_it_open():
    rng = np.random.default_rng(0)
    logits = (10 + 0.02 * rng.standard_normal((500, 10))).astype(np.float32)  # of which many are equal when rounded
    labels = rng.integers(0, 10, 500)
    for k in (1, 5):
        own = logits[np.arange(500), labels][:, None]
        exact = 100 * float(((logits > own).sum(axis=1) < k).mean())
        low, high = accuracies(logits.astype(np.float16).astype(np.float32), labels)[f"top{k}"]
        assert low <= exact <= high
        assert low < high
        assert accuracies(logits, labels)[f"top{k}"] == (exact, exact)


# reading


def test_a_report_of_a_bundle_has_the_table_of_the_suite(bundle, tmp_path, cli, monkeypatch):
    use_few(monkeypatch)
    status, _, err = cli("report", bundle, "--results", tmp_path / "results")
    assert (status, err) == (0, "")
    with zipfile.ZipFile(bundle) as archive:
        assert (tmp_path / "results" / "tiny" / TABLE).read_bytes() == archive.read(TABLE)
    assert (tmp_path / "results" / "tiny" / "report.html").exists()
    assert "tiny/report.html" in (tmp_path / "results" / "index.html").read_text()
    status, _, err = cli("report", bundle, "--results", tmp_path / "results")
    assert (status, "tiny: exists. Move it away" in err) == (2, True)


def test_a_bundle_and_the_results_that_it_was_made_of_do_not_differ(bundle, trained, cli):
    status, out, err = cli("compare", bundle, trained.path, "--results", trained.folder / "results", "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert {cell["difference"] for cell in found["cells"]} == {0.0}
    assert found["settings"] == []


# what is refused


def test_a_suite_that_is_not_finished_is_refused_and_nothing_is_written(tmp_path, cli):
    plan = plan_of(tmp_path, seeds=2)
    finish_all(Store(tmp_path / "results"), plan, {"teacher": [90.0], "none": [80.0, 81.0], "KD": [85.0]})
    status, _, err = cli(
        "bundle", tmp_path / "table.yaml", "--to", tmp_path / "a.zip", "--results", tmp_path / "results"
    )
    assert status == 2
    assert "1 of 5 runs are not finished" in err
    assert list(tmp_path.glob("*.zip*")) == []


def test_a_name_that_no_file_can_have_is_refused_with_one_message(trained, cli):
    status, _, err = cli("bundle", trained.path, "--to", f"{'a' * 300}.zip", "--results", trained.folder / "results")
    assert (status, err.count("\n")) == (2, 1)
    assert "cannot be written: File name too long" in err


def test_a_bundle_replaces_no_file(bundle, trained, cli):
    before = bundle.read_bytes()
    status, _, err = cli("bundle", trained.path, "--to", bundle, "--results", trained.folder / "results")
    assert (status, "exists. Name a new file" in err) == (2, True)
    assert bundle.read_bytes() == before


@pytest.mark.parametrize("command", ["run", "status", "score", "bundle"])
def test_commands_for_suites_refuse_a_bundle(bundle, cli, command):
    status, _, err = cli(command, bundle)
    assert (status, err.startswith(f"{bundle}: is a bundle")) == (2, True)


def member(
    name: str, content: bytes = b"x", mode: int = 0o100644, compression: int = zipfile.ZIP_DEFLATED
) -> tuple[zipfile.ZipInfo, bytes]:
    one = zipfile.ZipInfo(name)
    one.external_attr, one.compress_type = mode << 16, compression
    return one, content


RECORD = "runs/0123456789abcdef/record.json"
HOSTILE = {
    "a name outside": ([member("../escaped.yaml")], "bundles have no such member"),
    "an absolute name": ([member("/tmp/escaped.yaml")], "bundles have no such member"),
    "code": ([member("suites/plugin.py")], "bundles have no such member"),
    "a link": ([member(RECORD, b"/etc/passwd", 0o120777)], "is a link"),
    "the same name twice": ([member(RECORD), member(RECORD)], "is there twice"),
    "another compression": ([member(RECORD, compression=zipfile.ZIP_LZMA)], "is compressed with a method"),
    "a bomb": ([member(RECORD, bytes(2**25))], "Nothing was unpacked"),
    "no manifest": ([member(TABLE)], f"it has no {MANIFEST}"),
    "no table": ([member(MANIFEST, b"{}")], f"it has no {TABLE}"),
    "another manifest": ([member(MANIFEST, b'{"format": 2}'), member(TABLE)], "format"),
    "no JSON": ([member(MANIFEST, b"{"), member(TABLE)], "is not valid JSON"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_refused(kind, tmp_path, cli):
    members, reason = HOSTILE[kind]
    path = tmp_path / "hostile.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for one, content in members:
            archive.writestr(one, content)
    status, _, err = cli("verify", path)
    assert status == 2
    assert err.startswith(f"{path}")
    assert reason in err
    assert [one.name for one in tmp_path.iterdir()] == ["hostile.zip"]


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_what_is_no_archive_is_refused(content, tmp_path, cli):
    path = tmp_path / "none.zip"
    if content is not None:
        path.write_bytes(content)
    status, _, err = cli("verify", path)
    assert (status, err.startswith(f"{path}: ")) == (2, True)


def test_a_truncated_bundle_is_refused(bundle, cli):
    bundle.write_bytes(bundle.read_bytes()[:-100])
    status, _, err = cli("verify", bundle)
    assert (status, err.startswith(f"{bundle}: is not a bundle, or is damaged")) == (2, True)


def test_a_bundle_whose_suite_names_plugins_is_refused(bundle, tmp_path):
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path / "forged")
    suite = tmp_path / "forged" / "suites" / "tiny.yaml"
    suite.write_text(f"{suite.read_text()}plugins: [{tmp_path}/evil.py]\n")
    (tmp_path / "evil.py").write_text("raise SystemExit(7)\n")
    path = pack(tmp_path / "forged", tmp_path / "forged.zip")
    with pytest.raises(RequestError, match="its suite names plug-ins"), unpacked(path):
        pass
