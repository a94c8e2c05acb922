import itertools
import json
import os
from functools import cache
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import plan
from bench.suite import load, rows
from bench.suite.json_schema import json_schema
from bench.suite.pairs import NetworkChoice
from bench.suite.yaml_positions import MAX_FILE_BYTES
from bench.tasks import TASKS
from bench.types import RequestError
from tests.few import short_or_whole
from tests.stores import METHODS, SUITE, write_suite

SUITES = Path(__file__).parents[2] / "suites"
PAIR = {"teacher": "resnet14", "student": "resnet8"}
DATA = {"name": "digits", "resize": 32}
LINES = {"title": 1, "data": 2, "pairs": 3, "methods": 4, "training": 5}  # of SUITE, written with one line per key


def messages(folder: Path, text: str | None = None, *overrides: str, name: str = "table", **changes: object) -> str:
    """Return what is said of a wrong suite file: one that differs from SUITE in some keys, or reads `text`."""
    document = {key: value for key, value in (SUITE | changes).items() if value is not None}
    lines = [f"{key}: {value if isinstance(value, str) else json.dumps(value)}\n" for key, value in document.items()]
    path = write_suite(folder, name, "".join(lines) if text is None else text)
    with pytest.raises(RequestError) as caught:
        plan.build_plan(load(path, METHODS, overrides), path, METHODS)
    return str(caught.value).replace(f"{folder}{os.sep}", "")


def refusal(path: Path) -> list[str]:
    """Return the lines with which a file is refused; none, if it can be planned."""
    try:
        plan.build_plan(load(path, METHODS), path, METHODS)
    except RequestError as error:
        return str(error).splitlines()
    return []


def row_labels(folder: Path, *entries: object) -> list[str]:
    return [row.label for row in rows(load(write_suite(folder, methods=list(entries)), METHODS), METHODS)]


# names that are not known

UNKNOWN = {
    "method": ({"methods": ["ptk"]}, "methods[0]: unknown method 'ptk'. Did you mean 'pkt'? Known: ab, at, catkd,"),
    "method in capitals": ({"methods": ["KD"]}, "methods[0]: unknown method 'KD'. Did you mean 'kd'?"),
    "method among terms": (
        {"methods": [{"terms": ["at", "srp"]}]},
        "methods[0].terms[1]: unknown method 'srp'. Did you",
    ),
    "teacher as a method": ({"methods": ["teacher"]}, "methods[0]: unknown method 'teacher'. Known: ab, at,"),
    "student": (
        {"pairs": [PAIR | {"student": "resnet9"}]},
        "pairs[0].student.network: unknown network 'resnet9'. Did you mean 'resnet8'? Known: MobileNetV2,",
    ),
    "teacher": (
        {"pairs": [PAIR | {"teacher": {"network": "wrn_40_22"}}]},
        "pairs[0].teacher.network: unknown network 'wrn_40_22'. Did you mean 'wrn_40_2'?",
    ),
    "data": ({"data": "cifar1000"}, "data: unknown data set 'cifar1000'. Did you mean 'cifar100'? Known: cifar10,"),
    "teacher_data": ({"teacher_data": "cifar"}, "teacher_data: unknown data set 'cifar'. Did you mean 'cifar10'?"),
    "network of a rate": (
        {"lr_by_network": {"MobileNetV3": 0.01}},
        "lr_by_network.MobileNetV3: unknown network 'MobileNetV3'. Did you mean 'MobileNetV2'?",
    ),
    "published table": (
        {"published": {"source": "x", "table": 99}},
        "published.table: unknown table 99. Known: 1, 10,",
    ),
    "task": ({"task": "compresion"}, "task: unknown task 'compresion'. Did you mean 'compression'? Known:"),
    "precision": ({"training": {"precision": "fp61"}}, "training.precision: found \"fp61\": must be 'fp32'"),
    "augmentation": (
        {"data": DATA | {"augment": "flip"}},
        "data.augment: found \"flip\": must be 'none', 'crop', 'crop_flip' or 'resized_crop_flip'",
    ),
    "key": ({"traning": {}}, "traning: unknown key 'traning'. Did you mean 'training'? Known: controls, data,"),
    "key of training": (
        {"training": {"epoch": 3}},
        "training.epoch: unknown key 'epoch'. Did you mean 'epochs'? Known:",
    ),
    "key of teacher_training": (
        {"teacher_training": {"lrs": 3}},
        "teacher_training.lrs: unknown key 'lrs'. Did you mean",
    ),
    "key of data": (
        {"data": DATA | {"train_per_clas": 3}},
        "data.train_per_clas: unknown key 'train_per_clas'. Did you mean 'train_per_class'?",
    ),
    "key of a teacher": (
        {"pairs": [PAIR | {"teacher": {"network": "resnet14", "chekpoint": "x"}}]},
        "pairs[0].teacher.chekpoint: unknown key 'chekpoint'. Did you mean 'checkpoint'? Known: accuracy,",
    ),
    "parameter": (
        {"methods": [{"method": "crd", "n_negative": 3}]},
        "methods[0]: 'n_negative' is no parameter of crd. Did you mean 'n_negatives'? Known:",
    ),
    "parameter of a pair": (
        {"methods": [{"method": "kd", "by_pair": {"resnet14->resnet8": {"temprature": 2.0}}}]},
        "methods[0]: by_pair.resnet14->resnet8: 'temprature' is no parameter of kd. Did you mean 'temperature'? Known:",
    ),
    "key beside a method": (
        {"methods": [{"method": "crd", "kdd": 1.0}]},
        "methods[0]: 'kdd' is no parameter of crd. Did you",
    ),
    "key of one of several teachers": (
        {"pairs": [{"teachers": [{"network": "resnet14", "chekpoint": "x"}], "student": "resnet8"}]},
        "pairs[0].teachers[0].chekpoint: unknown key 'chekpoint'. Did you mean 'checkpoint'? Known: accuracy,",
    ),
    "kind of evaluation": (
        {"evaluations": [{"kind": "prob", "data": DATA}]},
        "evaluations[0].kind: unknown kind 'prob'. Did you mean 'probe'? Known: finetune, logistic, probe,",
    ),
    "key beside terms": (
        {"methods": [{"terms": ["at", "sp"], "lable": "x"}]},
        "methods[0]: unknown key 'lable'. Did you mean 'label'? Known: combine, kd, kd_temperature, label,",
    ),
    "method key": (
        {"methods": [{"metod": "kd"}]},
        "methods[0]: has no 'method': write {method: NAME} or {terms: [...]}; found",
    ),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_an_unknown_name_is_refused_with_its_line_and_the_nearest_known_one(case, tmp_path):
    changes, said = UNKNOWN[case]
    line = LINES.get(next(iter(changes)), len(SUITE) + 1)
    assert messages(tmp_path, **changes).startswith(f"table.yaml:{line}: {said}")


@pytest.mark.parametrize("file", ["smooth_l1.py", "suites/smooth_l1.py"])
def test_an_unknown_method_with_a_file_here_or_beside_the_suite_is_said_to_be_a_plugin(file, tmp_path, monkeypatch):
    (tmp_path / "suites").mkdir()
    monkeypatch.chdir(tmp_path)
    Path(file).touch()
    path = write_suite(Path("suites"), methods=["smooth_l1"])
    assert refusal(path)[0].endswith(f". Is it {file}? Add --plugin {file}")


def test_an_unknown_pair_of_a_row_is_refused_with_the_nearest_known_one(tmp_path):
    row = {"method": "kd", "by_pair": {"resnet41->resnet8": {"temperature": 2.0}}}
    said = messages(tmp_path, methods=[row])
    assert (
        "methods[0].by_pair.resnet41->resnet8: there is no pair 'resnet41->resnet8'. Did you mean 'resnet14->resnet8'?"
        in said
    )


def test_an_unknown_published_row_is_refused_with_the_nearest_known_one(tmp_path):
    row = {"method": "crd", "kd": 1.0, "published": "CRD-KD"}
    said = messages(tmp_path, methods=[row], published={"source": "x", "table": 1})
    assert "methods[0].published: there is no row 'CRD-KD' in the table. Did you mean 'CRD+KD'? Known: AB," in said
    assert "the suite names no table: add 'published' to the suite" in messages(tmp_path, methods=[row])


# values of a wrong type or out of range

WRONG = {
    "no title": ({"title": None}, "title: is missing"),
    "empty title": ({"title": '" "'}, "title: a title needs a word"),
    "title that is no": (
        {"title": "no"},
        "title: false is a boolean in YAML (as are yes, no, on, off): put the word",
    ),
    "title that is a number": ({"title": "3"}, "title: found 3: must be text"),
    "no pairs": ({"pairs": None}, "pairs: is missing"),
    "empty pairs": ({"pairs": []}, "pairs: found []: must hold at least 1 item(s)"),
    "pairs that are no list": ({"pairs": "resnet14"}, 'pairs: found "resnet14": must be a list'),
    "pair without a student": ({"pairs": [{"teacher": "resnet14"}]}, "pairs[0].student: is missing"),
    "no methods": ({"methods": None}, "methods: is missing"),
    "empty methods": ({"methods": []}, "methods: found []: must hold at least 1 item(s)"),
    "methods left blank": ({"methods": ""}, "methods: found null: must be a list"),
    "method that is a list": ({"methods": [["kd"]]}, 'methods[0]: found ["kd"]: must be a mapping of keys to values'),
    "list for a pair": (
        {"methods": [{"method": "kd", "by_pair": {"resnet14->resnet8": {"temperature": [2.0]}}}]},
        "methods[0]: by_pair.resnet14->resnet8: 'temperature' is a list: a pair has one value",
    ),
    "pair's value of a grid's parameter": (
        {"methods": [{"method": "kd", "temperature": [1.0, 4.0], "by_pair": {"x->y": {"temperature": 2.0}}}]},
        "methods[0]: by_pair.x->y: 'temperature' is a list in the row: give each of its values a row",
    ),
    "value of a pair": (
        {"methods": [{"method": "kd", "by_pair": {"resnet14->resnet8": {"temperature": -2.0}}}]},
        "methods[0]: by_pair.resnet14->resnet8: parameter 'temperature' of kd: found -2.0: must be greater than 0",
    ),
    "empty terms": ({"methods": [{"terms": []}]}, "methods[0].terms: found []: must hold at least 1 item(s)"),
    "none among terms": (
        {"methods": [{"terms": ["none", "kd"]}]},
        "methods[0].terms[0]: 'none' cannot be one of several terms",
    ),
    "terms beside a method": (
        {"methods": [{"method": "kd", "terms": ["at"]}]},
        "methods[0]: 'method' is not allowed next to 'terms'. With 'terms', each term has",
    ),
    "parameter beside terms": (
        {"methods": [{"terms": ["kd", "at"], "temperature": 2.0}]},
        "methods[0]: unknown key 'temperature'. Did you mean 'kd_temperature'? Known: combine, kd, kd_temperature, "
        "label, task_weight, terms. With 'terms', each term has its own method, weight and parameters",
    ),
    "value of one of several terms": (
        {"methods": [{"terms": ["at", {"method": "kd", "weight": -1.0}]}]},
        "methods[0].terms[1].weight: found -1.0: must be greater than or equal to 0",
    ),
    "term without a method": (
        {"methods": [{"terms": [{"metod": "kd"}]}]},
        "methods[0].terms[0]: has no 'method': write {method: NAME}; found 'metod'",
    ),
    "none with a weight": (
        {"methods": [{"method": "none", "weight": 2.0}]},
        "methods[0]: 'none' is the undistilled student",
    ),
    "none with a label": (
        {"methods": [{"method": "none", "label": "x"}]},
        "methods[0]: 'none' is the undistilled student",
    ),
    "temperature without kd": (
        {"methods": [{"method": "crd", "kd_temperature": 2.0}]},
        "methods[0]: 'kd_temperature' is for the KD term added to a method: also give 'kd', the weight of the term",
    ),
    "label that is no": ({"methods": "[{method: kd, label: no}]"}, "methods[0].label: false is a boolean in YAML"),
    "label that is yes": ({"methods": "[{method: kd, label: yes}]"}, "methods[0].label: true is a boolean in YAML"),
    "label of two lines": (
        {"methods": [{"method": "kd", "label": "a\nb"}]},
        r'methods[0].label: found "a\nb": a label is',
    ),
    "label of another row": (
        {"methods": [{"method": "kd", "label": "None"}]},
        "methods[0].label: 'None' is the label of a row that",
    ),
    "weight below 0": (
        {"methods": [{"method": "kd", "weight": -1}]},
        "methods[0].weight: found -1: must be greater than",
    ),
    "weight below 0 in a grid": (
        {"methods": [{"method": "kd", "weight": [1, -2]}]},
        "methods[0].weight[1]: found -2: must be greater than or equal to 0",
    ),
    "warmup below 0": (
        {"methods": [{"method": "dkd", "warmup": -1}]},
        "methods[0].warmup: found -1: must be greater than or equal to 0",
    ),
    "warmup of half an epoch": (
        {"methods": [{"terms": ["at", {"method": "dkd", "warmup": 0.5}]}]},
        "methods[0].terms[1].warmup: found 0.5: must be",
    ),
    "empty grid": (
        {"methods": [{"method": "crd", "temperature": []}]},
        "methods[0]: 'temperature' of crd is an empty list: a grid needs a value",
    ),
    "grid of millions": (
        {
            "methods": [
                {"method": "crd", "weight": [*range(200)], "dim": [*range(1, 200)], "n_negatives": [*range(1, 200)]}
            ]
        },
        "methods: span a grid of 7920200 rows; a table has at most 1000",
    ),
    "parameter out of range": (
        {"methods": [{"method": "crd", "n_negatives": -3}]},
        "methods[0]: parameter 'n_negatives' of crd: found -3: must be greater than 0",
    ),
    "parameter that would fill any memory": (
        {"methods": [{"method": "crd", "n_negatives": 10**12}]},
        "methods[0]: parameter 'n_negatives' of crd: found 1000000000000: must be less than or equal to 1000000",
    ),
    "parameter of a wrong type": (
        {"methods": [{"method": "crd", "n_negatives": 1.5}]},
        "methods[0]: parameter 'n_negatives' of crd: found 1.5: must be a whole number",
    ),
    "parameter that is not a number": (
        {"methods": "[{method: crd, temperature: .nan}]"},
        "methods[0]: parameter 'temperature' of crd: found NaN: must be a finite number",
    ),
    "parameter among its choices": (
        {"methods": [{"method": "crd", "objective": "nce"}]},
        "methods[0]: parameter 'objective' of crd: found \"nce\": must be 'crd' or 'infonce'",
    ),
    "negative epochs": ({"training": {"epochs": -1}}, "training.epochs: found -1: must be greater than 0"),
    "no epochs": ({"training": {"epochs": 0}}, "training.epochs: found 0: must be greater than 0"),
    "half an epoch": ({"training": {"epochs": 1.5}}, "training.epochs: found 1.5: must be a whole number"),
    "epochs in words": ({"training": {"epochs": "two"}}, 'training.epochs: found "two": must be a whole number'),
    "epochs as a truth value": ({"training": {"epochs": True}}, "training.epochs: found true: must be a whole number"),
    "batch of 0": ({"training": {"batch_size": 0}}, "training.batch_size: found 0: must be greater than or equal to 2"),
    "batch of 1": ({"training": {"batch_size": 1}}, "training.batch_size: found 1: must be greater than or equal to 2"),
    "rate that is not a number": ({"training": "{lr: .nan}"}, "training.lr: found NaN: must be a finite number"),
    "infinite rate": ({"training": "{lr: .inf}"}, "training.lr: found Infinity: must be a finite number"),
    "rate of 0": ({"training": {"lr": 0.0}}, "training.lr: found 0.0: must be greater than 0"),
    "rate as text": ({"training": "{lr: 5e-4}"}, 'training.lr: "5e-4" is text in YAML: write 0.0005 (a decimal point,'),
    "epochs as text": ({"training": "{epochs: 1e2}"}, 'training.epochs: "1e2" is text in YAML: write 100 (a decimal'),
    "momentum of 1": ({"training": {"momentum": 1.0}}, "training.momentum: found 1.0: must be less than 1"),
    "milestones that are no list": ({"training": {"milestones": 3}}, "training.milestones: found 3: must be a list"),
    "milestone in words": (
        {"training": {"milestones": [1, "b"]}},
        'training.milestones[1]: found "b": must be a whole',
    ),
    "training that is a list": ({"training": []}, "training: found []: must be a mapping of keys to values"),
    "rate of a network as text": (
        {"lr_by_network": "{resnet8: 5e-4}"},
        'lr_by_network.resnet8: "5e-4" is text in YAML',
    ),
    "no seeds": ({"seeds": 0}, "seeds: found 0: must be greater than or equal to 1"),
    "half a seed": ({"seeds": 1.5}, "seeds: found 1.5: must be a whole number or a list"),
    "empty seeds": ({"seeds": []}, "seeds: found []: must hold at least 1 item(s)"),
    "the same seed twice": ({"seeds": [1, 2, 1]}, "seeds: the same number twice: 1"),
    "seeds without end": ({"seeds": 10**12}, "seeds: found 1000000000000: must be less than or equal to 1000"),
    "seeds in words": ({"seeds": [1, "b"]}, 'seeds[1]: found "b": must be a whole number'),
    "teacher_seeds": ({"teacher_seeds": "pair"}, "teacher_seeds: found \"pair\": must be 'fixed' or 'paired'"),
    "threads": ({"threads": 0}, "threads: found 0: must be greater than 0"),
    "published without its table": ({"published": {"source": "x"}}, "published.table: is missing"),
    "published table as a fraction": (
        {"published": {"source": "x", "table": 1.5}},
        "published.table: found 1.5: must be a whole number or text",
    ),
    "a teacher and teachers": (
        {"pairs": "[{teacher: resnet14, teachers: [resnet20], student: resnet8}]"},
        "pairs[0]: a pair needs either 'teacher' or, for several, 'teachers'",
    ),
    "no teacher": ({"pairs": "[{student: resnet8}]"}, "pairs[0]: a pair needs either 'teacher' or"),
    "no copy of a teacher": (
        {"pairs": "[{teachers: {network: resnet14, n: 0}, student: resnet8}]"},
        "pairs[0].teachers.n: found 0: must be greater than or equal to 1",
    ),
    "misspelt resource": (
        {"slurm": "{partitoin: gpu}"},
        "slurm: unknown key 'partitoin'. Did you mean 'partition'? Known: account, checkpoint_minutes,",
    ),
    "no lanes": ({"max_lanes": 0}, "max_lanes: found 0: must be greater than 0"),
    "time limit with a fraction": ({"slurm": {"timeout_min": 1.5}}, "slurm.timeout_min: found 1.5: must be a whole"),
    "partition that is off": ({"slurm": "{partition: off}"}, "slurm.partition: false is a boolean in YAML"),
    "date": ({"seeds": "2020-01-01"}, 'seeds: found "2020-01-01": must be a whole number or a list'),
    "more images a class than there are": (
        {"data": DATA | {"train_per_class": 91}},
        "data: train_per_class is 91, but digits has 90 images per class",
    ),
    "more than all images": (
        {"data": DATA | {"train_fraction": 1.5}},
        "data.train_fraction: found 1.5: must be less than",
    ),
    "images too small": (
        {"data": "digits"},
        "data: digits's images are smaller than the networks were made for: add resize: 32",
    ),
    "two kinds of subset": (
        {"data": DATA | {"train_per_class": 3, "train_fraction": 0.5}},
        "data: give train_per_class or",
    ),
    "image folder without its facts": ({"data": "imagefolder"}, "data: an imagefolder needs 'path'"),
    "two channel means": (
        {"data": DATA | {"name": "imagefolder", "path": "x", "mean": [0.5, 0.5], "std": [0.5] * 3, "augment": "crop"}},
        "data.mean[2]: is missing",
    ),
    "four channel deviations": (
        {"data": DATA | {"name": "imagefolder", "path": "x", "mean": [0.5] * 3, "std": [0.5] * 4, "augment": "crop"}},
        "data.std: found [0.5, 0.5, 0.5, 0.5]: must hold at most 3 item(s)",
    ),
    "accuracy without a checkpoint": (
        {"pairs": [PAIR | {"teacher": {"network": "resnet14", "accuracy": 70.0}}]},
        "pairs[0].teacher: 'accuracy' is checked against a checkpoint: name one, or leave 'accuracy' out",
    ),
    "network whose stages are not found": (
        {"pairs": [PAIR | {"teacher": "torchvision.vit_b_16"}]},
        "pairs[0].teacher: torchvision.vit_b_16 needs 'stages', the paths of the modules",
    ),
    "unknown network of torchvision": (
        {"pairs": [PAIR | {"teacher": "torchvision.resnet19"}]},
        "pairs[0].teacher: unknown network 'torchvision.resnet19'. Did you mean 'torchvision.resnet1",
    ),
    "stages of a network that has its own": (
        {"pairs": [PAIR | {"teacher": {"network": "resnet14", "stages": ["layer1"]}}]},
        "pairs[0].teacher: 'stages', 'classifier' and 'preactivations' are for torchvision.NAME; resnet14 has its own",
    ),
    "the same pair twice": ({"pairs": [PAIR, PAIR]}, "pairs: the same pair twice: resnet14->resnet8"),
    "the same method twice": (
        {"methods": ["kd", "at", "kd"]},
        "methods: the same method twice: KD. Leave one out, or give",
    ),
    "a method with its default beside it": (
        {"methods": ["kd", {"method": "kd", "temperature": 4.0}]},
        "methods: the same method twice: KD.",
    ),
    "none twice": ({"methods": ["none", "none", "kd"]}, "methods: the same method twice: none."),
    "the same label twice": (
        {"methods": [{"method": "kd", "label": "A"}, {"method": "at", "label": "A"}]},
        "methods: the same method twice: A.",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_value_is_refused_with_its_line_what_was_found_and_what_is_allowed(case, tmp_path):
    changes, said = WRONG[case]
    line = LINES.get(next(iter(changes)), len(SUITE) + 1) if None not in changes.values() else 1
    found = messages(tmp_path, **changes)
    assert found.startswith(f"table.yaml:{line}: {said}")
    assert "\n" not in found


CROSSED = {
    "a source that is none": ({"seeds": {"int": 3}}, "seeds.int: unknown key 'int'. Did you mean 'init'?"),
    "no order": ({"seeds": {"order": 0}}, "seeds.order: found 0: must be greater than or equal to 1"),
    "paired teachers": (
        {"seeds": {"init": 2}, "teacher_seeds": "paired"},
        "'teacher_seeds': crossed seeds state those of teachers as seeds.teacher: leave it out",
    ),
    "too many combinations": ({"seeds": {"init": 40, "order": 40}}, "'seeds': 1,600 combinations; at most 1,000"),
    "given weights": (
        {
            "seeds": {"teacher": 2},
            "pairs": [{"teacher": {"network": "resnet14", "checkpoint": "a.pth"}, "student": "resnet8"}],
        },
        "'seeds': the teacher of pairs[0] has given weights, and no seed: leave out 'teacher'",
    ),
    "peers": (
        {"seeds": {"teacher": 2}, "task": "mutual"},
        "'seeds': with task mutual, no student has a trained teacher: leave out 'teacher'",
    ),
}


@pytest.mark.parametrize("case", CROSSED)
def test_seeds_that_cannot_be_crossed_are_refused_in_one_line(case, tmp_path):
    changes, said = CROSSED[case]
    found = messages(tmp_path, **changes)
    assert said in found
    assert "\n" not in found


def test_all_errors_of_a_file_are_told_at_once_and_each_once(tmp_path):
    text = """title: no
data: {name: digits, resize: 32, train_per_class: 91}
pairs:
  - {teacher: resnet9, student: resnet8}
  - {teacher: resnet14, studnt: resnet8}
methods: [ptk, {method: crd, n_negatives: 0, temprature: 0.1, weight: 5e-4}, {method: kd, temperature: 0}]
seeds: []
training: {epochs: -1, lr: .nan}
teacher: resnet14
"""
    found = messages(tmp_path, text).splitlines()
    assert [line.split(": ")[0] + " " + line.split(": ")[1] for line in found] == [
        "table.yaml:1 title",
        "table.yaml:2 data",
        "table.yaml:4 pairs[0].teacher.network",
        "table.yaml:5 pairs[1].student",
        "table.yaml:5 pairs[1].studnt",
        "table.yaml:6 methods[0]",
        "table.yaml:6 methods[1].weight",
        "table.yaml:6 methods[2]",
        "table.yaml:7 seeds",
        "table.yaml:8 training.lr",
        "table.yaml:8 training.epochs",
        "table.yaml:9 teacher",
    ]


AT_THEIR_KEY = {  # keys of a suite, of which the last line is wrong
    "a parameter of a pair": "methods: [{method: kd,\n  by_pair: {resnet14->resnet8: {\n    temprature: 2.0}}}]",
    "a pair that is not there": "methods: [{method: kd, by_pair: {\n    resnet14->resnet9: {temperature: 2.0}}}]",
    "a parameter of a row": "methods: [{method: crd,\n  n_negatives: 0}]",
    "a parameter of a term": "methods: [{terms: [at,\n  {method: crd,\n  n_negatives: 0}]}]",
    "the label of a tuned row": "tuning: {trials: 3, dev_per_class: 1}\nmethods: [{method: kd,\n  label: x (tuned)}]",
    "a published row": "methods: [{method: kd,\n  published: KD}]",
    "a recipe": "recipe_by_network:\n  resnet8:\n    optimizer: adamw\n    nesterov: true",
    "the recipe of teachers": "teacher_training:\n  epochs: 3\n  min_lr: 0.1",
    "an unknown space": "tuning:\n  trials: 3\n  dev_per_class: 1\n  space:\n    crd.dimm: {choices: [1]}",
    "a space": "tuning:\n  trials: 3\n  dev_per_class: 1\n  space:\n    lr: {choices: [-1.0]}",
    "rungs": "tuning:\n  trials: 3\n  dev_per_class: 1\n  rungs: {1: 2}",
    "crossed seeds": "threads: 1\nseeds: {init: 40, order: 40}",
    "an accuracy": "pairs:\n  - student: resnet8\n    teacher:\n      network: resnet14\n      accuracy: 9.0",
    "a subset": "data:\n  name: digits\n  resize: 32\n  train_per_class: 99",
}


@pytest.mark.parametrize("case", AT_THEIR_KEY)
def test_a_problem_is_refused_with_the_line_of_its_key(case, tmp_path):
    keys = AT_THEIR_KEY[case].splitlines()
    own = {line.split(":")[0] for line in keys}
    lines = [f"{key}: {json.dumps(value)}" for key, value in SUITE.items() if key not in own] + keys
    found = messages(tmp_path, "\n".join(lines))
    assert found.startswith(f"table.yaml:{len(lines)}: ")
    assert "\n" not in found


def test_problems_of_several_keys_are_each_refused_with_their_line(tmp_path):
    recipe = {"resnet8": {"nesterov": True, "optimizer": "adamw"}}
    found = messages(tmp_path, recipe_by_network=recipe, teacher_seeds="paired", seeds={"init": 2})
    assert [line.split(": ")[0] for line in found.splitlines()] == ["table.yaml:7", "table.yaml:6"]


def test_all_errors_of_a_methods_parameters_are_told_at_once(tmp_path):
    found = messages(tmp_path, methods=[{"method": "crd", "n_negatives": 0, "temprature": 0.1, "dim": "x"}])
    assert all(name in found for name in ("'n_negatives'", "'temprature'", "'dim'"))


def test_all_missing_checkpoints_are_told_at_once(tmp_path):
    pairs = [PAIR | {"teacher": {"network": name, "checkpoint": f"{name}.pth"}} for name in ("resnet14", "resnet20")]
    found = messages(tmp_path, pairs=pairs).splitlines()
    assert [line.split(": ")[1] for line in found] == ["pairs[0].teacher.checkpoint", "pairs[1].teacher.checkpoint"]
    assert found[0].startswith("table.yaml: pairs[0].teacher.checkpoint: resnet14.pth: No such file or directory. Put")


def test_a_missing_image_folder_is_named_with_the_key_that_names_it(tmp_path):
    data = {"name": "imagefolder", "path": "photos", "mean": [0.5] * 3, "std": [0.5] * 3, "augment": "crop"}
    assert messages(tmp_path, data=data).startswith("table.yaml: data: looked for the folder photos/train")
    assert messages(tmp_path, teacher_data=data).startswith(
        "table.yaml: teacher_data: looked for the folder photos/train"
    )


@pytest.mark.parametrize(
    ("key", "name", "found"),
    [("data", "stereo_motorcycle", "a label of each pixel"), ("teacher_data", "stl10_unlabelled", "no labels")],
)
def test_data_without_the_labels_that_networks_learn_from_is_refused(key, name, found, tmp_path):
    said = messages(tmp_path, **{key: name})
    assert f"'{key}': {name} has {found}, and one of each image is needed. Known: cifar10, " in said


def test_teacher_data_of_another_size_is_refused(tmp_path):
    assert "teacher_data: images of (40, 40) pixels, but data has (32, 32)" in messages(
        tmp_path, teacher_data={"name": "digits", "resize": 40}
    )


# files that are no suite

HOSTILE = {
    "an empty file": ("", ": found an empty file, not a mapping of keys to values"),
    "a comment": ("# nothing\n", ": found an empty file, not a mapping of keys to values"),
    "a list": ("- a\n", ": found one list, not a mapping of keys to values"),
    "a word": ("words\n", ": found one str, not a mapping of keys to values"),
    "broken YAML": ("a: [1,\n", ":2: is not valid YAML, or not plain data: while parsing a flow node"),
    "a tab": ("a:\n\t- x\n", ":2: is not valid YAML, or not plain data: while scanning"),
    "two documents": ("a: 1\n---\nb: 2\n", ":2: is not valid YAML, or not plain data: expected a single document"),
    "a Python object": (
        'title: !!python/object/apply:os.system ["touch hacked"]\n',
        ":1: title: is not valid YAML, or not plain data: could not determine a constructor for the tag",
    ),
    "a Python name": (
        "title: !!python/name:os.system\n",
        ":1: title: is not valid YAML, or not plain data: could not determine a constructor",
    ),
    "an object of the reader's own": (
        "!!python/object:bench.suite.Suite {}\n",
        ":1: is not valid YAML, or not plain data: could not",
    ),
    "an alias bomb": (
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
        ": expands to more than 100000 values",
    ),
    "a list within itself": ("a: &a [*a]\n", ":1: is nested too deeply"),
    "a mapping within itself": ("&a {title: *a}\n", ":1: is nested too deeply"),
    "deep nesting": (f"a: {'[' * 5000}{']' * 5000}\n", ":1: is nested too deeply"),
    "deep nesting of mappings": (f"a: {'{a: ' * 3000}{'}' * 3000}\n", ":1: is nested too deeply"),
    "a key twice": ("title: x\ndata: y\ntitle: z\n", ":3: title: the same key twice, first at table.yaml:1"),
    "an inner key twice": ("training: {lr: 1.0,\n  lr: 2.0}\n", ":2: training.lr: the same key twice, first at"),
    "a list as a key": ("? [a, b]\n: 3\n", ":1: a list or mapping as a key is not text in YAML"),
    "a tag at odds with its value": (
        "seeds: !!int x\n",
        ":1: seeds: a value does not fit its tag: invalid literal for int()",
    ),
    "a time that is none": ("seeds: !!timestamp x\n", ":1: seeds: a value does not fit its tag"),
    "a number that is none": ("title: x\nseeds: !!int ''\n", ":2: seeds: a value does not fit its tag: string index"),
    "a fraction that is none": ("training:\n  lr: !!float ''\n", ":2: training.lr: a value does not fit its tag"),
    "a truth that is none": ("tensorboard: !!bool 2\n", ":1: tensorboard: a value does not fit its tag"),
    "nothing that is something": ("max_lanes: !!null 2\n", ":1: max_lanes: a value does not fit its tag: '2' is not"),
    "pairs": ("a: 1\npublished: !!pairs [a: {2020-01-01: x}]\n", ":2: published: is not valid YAML, or not plain"),
    "a set": ("methods: !!set {kd}\n", ":1: methods: is not valid YAML, or not plain data"),
    "a list that is said to be text": ("title: !!str [a]\n", ":1: title: is not valid YAML, or not plain data"),
    "an equals sign": ("title: =\n", ":1: title: is not valid YAML, or not plain data"),
    "a merge of what is no mapping": ("title: x\n<<: 3\n", ":2: is not valid YAML, or not plain data: while"),
    "a null character": ("title: x\n# \0\n", ":2: is not valid YAML, or not plain data: special characters are not"),
    "a date as a key": ("slurm: {2020-01-01: x}\n", ':1: "2020-01-01" as a key is not text in YAML: put it in quotes'),
    "a number of ten thousand digits": (
        f"seeds: {'9' * 10_000}\n",
        ":1: seeds: a value does not fit its tag: Exceeds the limit",
    ),
    "half a character": (
        'title: x\nseeds: "\\ud800"\n',
        ':2: seeds: found "\\ud800": control characters are not allowed',
    ),
    "an escape sequence": ('title: "\\e[2J"\n', ':1: title: found "\\u001b[2J": control characters are not allowed'),
    "a control character far into a text": (
        f'title: "{"a" * 100}\\e"\n',
        f':1: title: found "{"a" * 20}\\u001b": control characters are not allowed',
    ),
    "an escape sequence as a key": ('"\\e[2J": x\n', ':1: found "\\u001b[2J": control characters are not allowed'),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, said = HOSTILE[case]
    found = messages(tmp_path, text)
    assert found.startswith(f"table.yaml{said}")
    assert "\n" not in found
    assert not Path("hacked").exists()


@pytest.mark.parametrize("key", ["no", "null", "3", "1.5", "0x10"])
def test_a_key_that_is_no_text_is_refused_with_its_line(key, tmp_path):
    text = write_suite(tmp_path).read_text()
    line = len(text.splitlines()) + 1
    assert messages(tmp_path, f"{text}{key}: 1\n").startswith(f"table.yaml:{line}: ")


ODD_NUMBERS = st.one_of(
    st.integers(1, 77).map(lambda n: f"0{n:o}"),
    st.integers(0, 99).map(hex),
    st.integers(0, 99).map(bin),
    st.integers(1000, 10**9).map(lambda n: f"{n:_}"),
    st.tuples(st.integers(1, 99), st.integers(0, 59)).map(lambda at: f"{at[0]}:{at[1]:02}"),
    st.tuples(st.integers(1, 99), st.integers(0, 59)).map(lambda at: f"{at[0]}:{at[1]:02}:30"),
    st.tuples(st.integers(1, 99), st.integers(0, 59)).map(lambda at: f"{at[0]}:{at[1]:02}.5"),
    st.integers(1000, 10**6).map(lambda n: f"{n:_}.5"),
)


@given(ODD_NUMBERS, st.sampled_from(["seeds", "training.epochs", "training.lr", "slurm.timeout_min", "slurm.mem_gb"]))
@settings(max_examples=60, deadline=None)
def test_a_number_that_yaml_reads_in_its_own_way_is_refused_wherever_one_is_wanted(tmp_path_factory, number, key):
    path = write_suite(tmp_path_factory.getbasetemp(), "odd")
    with pytest.raises(RequestError, match=f"{key}: found {number}, which YAML reads as .*: write "):
        load(path, METHODS, [f"{key}={number}"])


@given(st.integers(1, 999).map(str) | st.floats(1e-3, 1e3).map(str))
@settings(max_examples=60, deadline=None)
def test_a_number_as_people_write_it_is_read_as_it_stands(tmp_path_factory, number):
    suite = load(write_suite(tmp_path_factory.getbasetemp(), "even"), METHODS, [f"training.lr={number}"])
    assert suite.training.lr == float(number)


@pytest.mark.parametrize(
    "key",
    ["threads", "workers", "max_lanes", "seeds", "data.resize", "slurm.timeout_min", "slurm.gpus_per_node"]
    + [f"training.{key}" for key in ("epochs", "batch_size", "initial_epochs", "evaluate_every", "processes")],
)
def test_a_whole_number_has_a_bound(key, tmp_path):
    assert f"{key}: found 10000000000: must be less than" in messages(tmp_path, None, f"{key}=10000000000")


def test_the_mean_probabilities_of_teachers_are_for_methods_that_read_nothing_else(tmp_path):
    row = {"method": "at", "kd": 1.0, "combine": "probabilities"}
    said = messages(tmp_path, None, methods=[row])
    assert "methods: combine: probabilities is for methods of the family logits, and at read more" in said
    load(write_suite(tmp_path, methods=[row | {"method": "dkd"}]), METHODS)


def test_the_length_of_an_initial_stage_is_in_epochs_or_in_steps_not_in_both(tmp_path):
    both = {"training": {"initial_epochs": 5, "initial_steps": 100}}
    assert "found initial_epochs: 5 and initial_steps: 100" in messages(tmp_path, None, **both)
    training = load(write_suite(tmp_path, training={"initial_steps": 100}), METHODS).training
    assert (training.initial_epochs, training.initial_steps) == (0, 100)


def test_a_mapping_merged_from_another_is_read(tmp_path):
    text = write_suite(tmp_path).read_text() + "teacher_training:\n  <<: &of_all {epochs: 7}\n  lr: 0.5\n"
    suite = load(write_suite(tmp_path, text=text), METHODS)
    assert (suite.teacher_schedule.epochs, suite.teacher_schedule.lr) == (7, 0.5)


def test_a_binary_file_is_refused(tmp_path):
    path = tmp_path / "table.yaml"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff")
    with pytest.raises(RequestError, match="cannot be read: 'utf-8' codec"):
        load(path, METHODS)


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "table.yaml"
    with path.open("wb") as file:
        file.truncate(10**12)  # a hole, of which no byte is stored
    with pytest.raises(RequestError, match=f"larger than {MAX_FILE_BYTES} bytes"):
        load(path, METHODS)


def test_a_missing_file_is_told_with_the_nearest_name_beside_it(tmp_path):
    write_suite(tmp_path, "quickstart")
    with pytest.raises(RequestError, match=r"quickstrt.yaml: there is no such file. Did you mean 'quickstart.yaml'"):
        load(tmp_path / "quickstrt.yaml", METHODS)


def test_a_missing_file_in_a_missing_folder_is_told(tmp_path):
    with pytest.raises(RequestError, match=r"nowhere/x.yaml: there is no such file.$"):
        load(tmp_path / "nowhere" / "x.yaml", METHODS)


def test_a_suite_in_a_folder_whose_name_is_not_utf8_is_refused(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    with pytest.raises(RequestError, match="has a name that is not UTF-8 text: rename that folder"):
        load(write_suite(folder), METHODS)


@pytest.mark.parametrize("name", ["runs", "published", "index.html", "..", ".hidden", "-x", "a b", "ü", "a\nb"])
def test_a_name_that_leaves_the_results_folder_or_takes_the_runs_is_refused(name, tmp_path):
    assert "cannot name a results folder" in messages(tmp_path, name=name)


# --set

SETS = {
    "training.epochs": "--set training.epochs: write it as KEY=VALUE, for example --set training.epochs=2",
    "=3": "--set =3: write it as KEY=VALUE",
    "training..epochs=3": "--set training..epochs=3: write it as KEY=VALUE",
    "training.epochs =3": "--set training.epochs =3: write it as KEY=VALUE",
    "methods[0]=kd": "--set methods[0]=kd: write it as KEY=VALUE",
    "training.epochs=": "--set training.epochs=: training.epochs: found null: must be a whole number",
    "training.epochs=abc": '--set training.epochs=abc: training.epochs: found "abc": must be a whole number',
    "training.epocs=3": "--set training.epocs=3: training.epocs: unknown key 'epocs'. Did you mean 'epochs'?",
    "training.lr=.nan": "--set training.lr=.nan: training.lr: found NaN: must be a finite number",
    "training.lr=5e-4": '--set training.lr=5e-4: training.lr: "5e-4" is text in YAML: write 0.0005',
    "training=3": "--set training=3: training: found 3: must be a mapping of keys to values",
    "a.b=1": "--set a.b=1: a: unknown key 'a'. Known: controls, data,",
    "pairs.x=1": "--set pairs.x=1: 'pairs' is not a mapping in the suite file; set it as a whole: --set 'pairs=...'",
    "methods=[kd, ptk]": "--set methods=[kd, ptk]: methods[1]: unknown method 'ptk'. Did you mean 'pkt'?",
    "methods=[kd, kd]": "--set methods=[kd, kd]: methods: the same method twice: KD.",
    "title=a: b: c": "--set title=a: b: c: is not valid YAML, or not plain data: mapping values are not allowed here",
    "title=!!python/name:os.system": "--set title=!!python/name:os.system: title: is not valid YAML, or not plain data",
    "title=*a": "--set title=*a: is not valid YAML, or not plain data: found undefined alias 'a'",
    "title=&a [*a]": "--set title=&a [*a]: is nested too deeply",
    "seeds=!!int x": "--set seeds=!!int x: seeds: a value does not fit its tag",
    f"a{'.b' * 599}=1": f"--set a{'.b' * 42}",
    f"title={'[' * 900}": "--set title=",
    f"title={'x' * 50_000}: y": "--set title=xxx",
    "data={name: digits, resize: 15}": "--set data={name: digits, resize: 15}: data.resize: found 15: must be greater",
}


@pytest.mark.parametrize("override", SETS)
def test_a_wrong_set_is_refused_by_its_own_name(override, tmp_path):
    found = messages(tmp_path, None, override)
    assert found.startswith(SETS[override])
    assert "\n" not in found


def test_a_set_below_the_key_that_is_refused_is_named_after_the_files_line(tmp_path):
    found = messages(tmp_path, None, "data.name=nope")
    assert found.startswith("table.yaml:")
    assert " with --set data.name=nope: data: unknown data set 'nope'" in found


def test_a_file_whose_path_looks_like_a_set_is_not_named_as_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("--set a")
    folder.mkdir()
    (folder / "table.yaml").write_text("data:\n  name: nope\n  resize: 32\n")
    with pytest.raises(RequestError) as caught:
        load(folder / "table.yaml", METHODS)
    assert "--set a/table.yaml:1: data: unknown data set 'nope'" in str(caught.value)


def test_set_changes_one_key_and_leaves_the_rest(tmp_path):
    suite = load(write_suite(tmp_path), METHODS, ["training.lr=0.1", "data.train_per_class=7", "slurm.partition=gpu"])
    assert (suite.training.lr, suite.training.epochs) == (0.1, 1)
    assert (suite.data.train_per_class, suite.data.resize) == (7, 32)
    assert suite.slurm.partition == "gpu"


def test_set_mends_what_the_file_has_wrong(tmp_path):
    path = write_suite(tmp_path, methods=[["ptk", {"x": "y"}]])
    assert load(path, METHODS, ["methods=[at]"]).methods[0].method == "at"


def test_the_last_of_two_sets_counts(tmp_path):
    assert load(write_suite(tmp_path), METHODS, ["seeds=2", "seeds=3"]).seeds == 3


OF_TRANSFER = ("task=transfer", "seeds=[4, 5]", "from={suite: other}", "evaluations=[{data: cifar10}]")


@pytest.mark.parametrize("order", list(itertools.permutations(OF_TRANSFER)), ids=str)
def test_the_order_of_sets_of_different_keys_does_not_matter(order, tmp_path):
    write_suite(tmp_path, "other")
    path = write_suite(tmp_path, text="title: x\n")
    assert load(path, METHODS, order).seeds == (4, 5)


@pytest.mark.parametrize("sets", [("task=transfer", "seeds=x"), ("seeds=x", "task=transfer")])
def test_the_order_of_sets_does_not_change_the_message(sets, tmp_path):
    assert 'from.seeds: found "x": must be a whole number or a list' in messages(tmp_path, None, *sets)


# what a right file means


def test_a_bare_name_stands_for_its_mapping(tmp_path):
    short = load(write_suite(tmp_path, data="cifar10"), METHODS)
    long = {
        "data": {"name": "cifar10"},
        "pairs": [{"teacher": {"network": "resnet14"}, "student": {"network": "resnet8"}}],
        "methods": [{"method": "kd"}],
    }
    assert load(write_suite(tmp_path, **long), METHODS) == short


def test_a_byte_order_mark_is_read_past(tmp_path):
    path = write_suite(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load(path, METHODS).title == "A table"


def test_a_title_of_several_lines_becomes_one(tmp_path):
    assert load(write_suite(tmp_path, title="two\n\nlines\n"), METHODS).title == "two lines"


def test_teachers_train_as_students_do_but_for_what_is_said(tmp_path):
    training = {"epochs": 9, "lr": 0.2, "milestones": [4]}
    suite = load(write_suite(tmp_path, training=training, teacher_training={"epochs": 5}), METHODS)
    assert suite.teacher_schedule == suite.training.model_copy(update={"epochs": 5})


def test_rows_are_labelled_by_class_and_by_what_is_not_the_default(tmp_path):
    assert row_labels(
        tmp_path,
        "kd",
        {"method": "crd", "n_negatives": 8, "temperature": 0.1},
        {"method": "crd", "warmup": 5},
        {"method": "dkd", "warmup": 20},
        {"method": "crd", "kd": 1.0},
        {"method": "crd", "kd": 0.5, "kd_temperature": 2.0, "task_weight": 0.3},
        {"terms": ["at", {"method": "sp", "weight": 10.0}]},
        {"terms": ["at", "sp"], "label": "both"},
    ) == [
        "KD",
        "CRD n_negatives=8",
        "CRD warmup=5",
        "DKD",
        "CRD+KD",
        "CRD+KD kd=0.5, kd_temperature=2, task_weight=0.3",
        "AT+SP weight=10",
        "both",
    ]


def test_lists_of_values_span_a_grid_with_a_label_each(tmp_path):
    assert row_labels(
        tmp_path,
        {"method": "crd", "temperature": [0.05, 0.1], "weight": [0.8, 1], "label": "C"},
        {"terms": ["at", {"method": "kd", "temperature": [2.0, 4.0]}], "label": "two"},
    ) == [
        "C weight=0.8, temperature=0.05",
        "C weight=0.8, temperature=0.1",
        "C weight=1, temperature=0.05",
        "C weight=1, temperature=0.1",
        "two temperature=2",
        "two temperature=4",
    ]


def test_captions_tell_only_what_is_not_the_default(tmp_path):
    entry = {"method": "crd", "temperature": [0.05, 0.1], "n_negatives": 16384, "label": "C"}
    found = rows(load(write_suite(tmp_path, methods=[entry]), METHODS), METHODS)
    assert [row.overrides for row in found] == ["temperature=0.05", ""]


# whatever is written

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.dates()
    | st.binary(max_size=3)
    | st.sampled_from(
        ["kd", "crd", "none", "resnet8", "cifar10", "5e-4", "~x/y", "torchvision.vit_b_16", "imagefolder"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=5,
)


def test_a_network_of_torchvision_without_stages_is_the_one_with_those_by_resolution():
    spelled = {"network": "torchvision.resnet18", "stages": ("relu", "layer1", "layer2", "layer3", "layer4")}
    assert NetworkChoice.model_validate("torchvision.resnet18") == NetworkChoice.model_validate(spelled)


FULL = SUITE | {
    "teacher_data": {"name": "digits", "resize": 32, "train_fraction": 0.5, "augment": "crop"},
    "pairs": [
        PAIR,
        {
            "teacher": {"network": "resnet20", "checkpoint": "x.pth", "accuracy": 70.0},
            "student": {"network": "resnet8"},
        },
        {"teacher": {"network": "torchvision.resnet18", "stages": ["a", "b"], "classifier": "c"}, "student": "vgg8"},
    ],
    "methods": [
        "none",
        "kd",
        {
            "method": "crd",
            "kd": 1.0,
            "kd_temperature": 2.0,
            "temperature": [0.05, 0.1],
            "weight": [0.5, 0.8],
            "label": "C",
        },
        {"terms": ["at", {"method": "sp", "weight": 2.0}], "task_weight": 0.5, "combine": "mean"},
    ],
    "seeds": [1, 2],
    "teacher_seeds": "paired",
    "training": {"epochs": 3, "milestones": [1, 2], "lr": 0.1, "precision": "fp32"},
    "teacher_training": {"epochs": 2},
    "lr_by_network": {"resnet8": 0.01},
    "published": {"source": "x", "table": 1},
    "slurm": {"partition": "gpu", "mem_gb": 3.0, "setup": ["module load x"], "slurm_account": "x"},
}


def places(value: object, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return every place of a document, the whole included."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, item in items for place in places(item, (*at, key)))]


def replaced(value: object, at: tuple[str | int, ...], new: object) -> object:
    """Return a document with another value at a place."""
    if not at:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[at[0]] = replaced(copy[at[0]], at[1:], new)
    return copy


def test_a_key_with_the_end_of_a_line_is_named_in_one_line(tmp_path):
    path = write_suite(tmp_path, **{"a\r\nb": 1})
    assert refusal(path)[0].split(": ", 1)[1].startswith("a\\r\\nb: unknown key ")


@given(st.lists(st.tuples(st.sampled_from(places(FULL)), VALUES), min_size=1, max_size=2))
@settings(max_examples=short_or_whole(100, 300), deadline=None)
def test_whatever_stands_in_a_file_it_is_planned_or_refused_in_words(tmp_path_factory, changes):
    document: object = FULL
    for at, value in changes:
        try:
            document = replaced(document, at, value)
        except (TypeError, KeyError, IndexError, AttributeError):
            return  # the first change took the second's place away
    folder = tmp_path_factory.mktemp("suite")
    (folder / "x.pth").write_bytes(b"weights")
    path = folder / "table.yaml"
    path.write_text(yaml.dump(document, allow_unicode=True), encoding="utf-8")
    said = refusal(path)
    assert all(line.startswith(str(path)) for line in said)
    assert len(set(said)) == len(said)


@given(st.text(max_size=40) | st.text("[]{}:,-&*!?|>'\"\n x", max_size=40))
@settings(max_examples=200, deadline=None)
def test_whatever_a_file_reads_it_is_refused_in_words(tmp_path_factory, text):
    path = write_suite(tmp_path_factory.getbasetemp(), "any", text)
    with pytest.raises(RequestError):
        load(path, METHODS)


# for editors


@cache
def validator() -> jsonschema.protocols.Validator:
    """Return what checks documents by the schema, which takes long to make."""
    kind = jsonschema.validators.validator_for(json_schema())
    kind.check_schema(json_schema())
    return kind(json_schema())


def test_the_committed_schema_is_current():
    """Write it again with `python -m bench.suite.json_schema > suites/suite.schema.json`."""
    assert json.loads((SUITES / "suite.schema.json").read_text(encoding="utf-8")) == json_schema()


def test_every_property_of_the_schema_has_a_description():
    described = {}
    for name, model in json_schema()["$defs"].items():
        for shape in model.get("anyOf", [model]):
            properties = shape.get("properties", {})
            described |= {f"{name}.{key}": value.get("description", "") for key, value in properties.items()}
    assert len(described) > 100
    assert [name for name, text in described.items() if len(text.split()) < 3] == []


def test_the_schema_lists_the_tasks_that_there_are():
    models = json_schema()["$defs"]
    tasks = models["Suite"]["properties"]["task"]["enum"]
    assert {*tasks, *models["EvaluationEntry"]["properties"]["kind"]["enum"]} == {*TASKS, "transfer"}


@pytest.mark.parametrize("path", sorted(SUITES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_suite_loads_fits_the_schema_and_names_it_in_its_first_line(path):
    text = path.read_text(encoding="utf-8")
    schema = "suite.schema.json" if path.parent == SUITES else "../suite.schema.json"
    assert text.splitlines()[0] == f"# yaml-language-server: $schema={schema}"
    validator().validate(json.loads(json.dumps(yaml.safe_load(text))))  # an editor reads keys as text
    assert plan.build_plan(load(path, METHODS), path, METHODS).cells


@pytest.mark.parametrize(
    "changes",
    [
        {"traning": {}},
        {"training": {"epocs": 3}},
        {"training": {"lr": "5e-4"}},
        {"training": {"epochs": -1}},
        {"data": "cifar1000"},
        {"pairs": []},
        {"methods": None},
        {"seeds": 0},
        {"slurm": {"partitoin": "gpu"}},
        {"from": {"suite": "table"}},
    ],
    ids=json.dumps,
)
def test_the_schema_refuses_what_the_reader_refuses(changes):
    document = {key: value for key, value in (SUITE | changes).items() if value is not None}
    with pytest.raises(jsonschema.ValidationError):
        validator().validate(document)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"seeds": 2}, "$"),
        ({"from": {"suite": "table", "pair": ["*"]}}, "$.from"),
        ({"evaluations": [{"data": DATA, "stage": [1]}]}, "$.evaluations[0]"),
        ({"evaluations": [{"data": DATA, "training": {"epoch": 2}}]}, "$.evaluations[0].training"),
        ({"evaluations": [{"data": DATA, "kind": "linear"}]}, "$.evaluations[0].kind"),
    ],
    ids=json.dumps,
)
def test_the_schema_says_where_a_transfer_suite_is_wrong(changes, place):
    document = {"title": "evaluated", "task": "transfer", "from": {"suite": "table"}, "evaluations": [{"data": DATA}]}
    assert validator().is_valid(document)
    assert [error.json_path for error in validator().iter_errors(document | changes)] == [place]


def test_the_schema_takes_all_that_a_suite_may_say():
    validator().validate(FULL)
