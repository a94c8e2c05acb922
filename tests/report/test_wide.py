from bench.report import wide
from bench.report.frame import results_frame
from bench.store import Store
from tests.stores import cell_of, finish, plan_of

FIRST, SECOND = "wrn_40_2->wrn_16_2", "vgg13->vgg8"
PAIRS = [{"teacher": "wrn_40_2", "student": "wrn_16_2"}, {"teacher": "vgg13", "student": "vgg8"}]
SUITE = {"data": "cifar100", "pairs": PAIRS, "published": {"source": "a paper", "table": 1}}


def test_each_pair_and_their_average_have_default_tuned_published_and_difference(tmp_path):
    plan = plan_of(tmp_path, tuning={"trials": 2, "dev_per_class": 5}, **SUITE)
    frame = results_frame(plan, Store(tmp_path / "results"))
    kinds = ["result", "tuned", "published", "difference"]
    assert [(head.pair, head.kind) for head in wide.heads(frame)] == [
        (pair, kind) for pair in (FIRST, SECOND, "") for kind in kinds
    ]
    rows = {row.label: row for row in wide.rows(frame)}
    assert "KD (tuned)" not in rows
    assert rows["KD"].entries[1].one.label == "KD (tuned)"


def test_an_average_needs_a_number_in_each_pair(tmp_path):
    plan, store = plan_of(tmp_path, **SUITE), Store(tmp_path / "results")
    finish(store, cell_of(plan, "KD", FIRST), [75.42])
    finish(store, cell_of(plan, "KD", SECOND), [74.0])
    finish(store, cell_of(plan, "none", FIRST), [73.0])
    rows = {row.label: [entry.text for entry in row.entries[-3:]] for row in wide.rows(results_frame(plan, store))}
    # CRD, Table 1: KD has 74.92 and 72.98, the students 73.26 and 70.36
    assert rows["KD"] == ["74.71", "73.95", "+0.76"]
    assert rows["none"] == ["—", "71.81", "—"]
