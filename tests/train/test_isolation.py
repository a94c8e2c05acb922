"""A plug-in that misbehaves fails alone and by name: the lanes beside it end as if it were not there."""

import gc
import logging
import logging.config
import os
import signal
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import ImageFile
from torch.utils.flop_counter import FlopCounterMode

from bench.models import build, own
from bench.models import shapes as shapes_of
from bench.spec import NetworkSpec
from bench.store import Failure
from bench.train.isolation import lent
from bench.train.lane import SharedDataError, failure_of
from bench.train.learner import MAIN, Teacher
from bench.train.networks import network_shapes
from bench.train.plugin_trial import try_out
from bench.types import DataInfo, RequestError
from methods import catalog, own_files
from methods._errors import described, ends_process, interrupt
from methods._settings import kept_settings, settings
from methods.base import REGISTERED
from tests.few import short_or_whole
from tests.methods.samples import TOKENS, features, tensors
from tests.stores import cell_of
from tests.train.conftest import Bench, cell, document, weights

HEAD = """
import gc, os, sys
import torch
from torch.overrides import TorchFunctionMode
from bench.models.base import Network
from methods.base import Distiller, register

KEPT = []


class Mode(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {})) * 2 if func is torch.mean else func(*args, **(kwargs or {}))


class Unreadable(Exception):
    def __str__(self):
        raise SystemExit(3)


def keep(mode):
    KEPT.append(mode)
    mode.__enter__()


def fail(error):
    raise error


def reach():
    for one in gc.get_objects():
        if isinstance(one, Network):
            next(one.parameters()).data.mul_(2)
"""
EVIL = """

@register("evil", weight=1.0)
class Evil(Distiller):
    def __init__(self, student, teacher, data, *, does: str = ""):
        super().__init__(student, teacher, data)
        self.does, self.steps = does, 0
        if does.startswith("at start: "):
            exec(does.removeprefix("at start: "), globals())

    def loss(self, student, teacher, batch):
        self.steps += 1
        if self.steps == 2 and ": " not in self.does[:20]:
            exec(self.does, globals(), {"student": student, "teacher": teacher, "batch": batch})
        return (student.logits - teacher.logits).square().mean()

    def after_step(self):
        if self.does.startswith("after step: "):
            exec(self.does.removeprefix("after step: "), globals())

    def get_extra_state(self):
        return self.steps

    def set_extra_state(self, state):
        self.steps = state
"""
WRITES = "writes into its batch or teacher, or into another run's networks"
DEEDS = {  # what the plug-in does, and what its failure says
    **dict.fromkeys(
        [
            *("teacher.logits.mul_(0)", "teacher.stages[1].data.add_(1)", "teacher.embedding.numpy()[:] = 0"),
            *("batch.images.data.copy_(batch.images.flip(0))", "batch.teacher_images.mul_(0)"),
            *("batch.targets.numpy()[:] = 0", "batch.indices.data.zero_()", "teacher.logits.resize_(1)"),
            "teacher.logits.data = teacher.logits.half()",
            *("teacher.logits.data[0, 0] = float('nan')", "reach()", "reach(); fail(ValueError('too late'))"),
        ],
        WRITES,
    ),
    "torch.set_default_dtype(torch.float64)": "changes the default dtype",
    "torch.set_num_threads(3)": "changes the number of threads",
    "keep(torch.no_grad())": "changes the grad mode",
    "torch.autocast('cpu', torch.bfloat16).__enter__()": "changes autocast",
    "keep(torch.autograd.graph.saved_tensors_hooks(lambda one: one * 2, abs))": "the hooks of saved tensors",
    "keep(Mode())": "changes the default device or another mode of torch functions",
    "after step: torch.set_default_device('meta')": "changes the default device or another mode of torch functions",
    "after step: os.chdir('/')": "changes the working folder",
    "at start: torch.use_deterministic_algorithms(True)": "changes deterministic algorithms",
    "sys.exit(0)": "SystemExit: 0",
    "fail(KeyboardInterrupt())": "KeyboardInterrupt (",
    "at start: fail(KeyboardInterrupt())": "KeyboardInterrupt (",
    "after step: fail(KeyboardInterrupt('x'))": "KeyboardInterrupt: x",
    "fail(type('Exit', (SystemExit,), {})(2))": "Exit: 2",
    "fail(GeneratorExit())": "GeneratorExit (",
    "fail(StopIteration())": "StopIteration (",
    "at start: sys.exit(0)": "SystemExit: 0",
    "after step: fail(BaseException('odd'))": "BaseException: odd",
    "fail(Unreadable())": "Unreadable: its text raises SystemExit",
    "fail(ValueError('\\ud800 \\x1b[31m \\u202e'))": "ValueError: \\ud800 \\x1b[31m \\u202e (",
    "fail(ValueError('x' * 10_000_000))": f"ValueError: {'x' * 300}... (",
    "torch.empty(2**50)": "out of memory: lower training: batch_size, or set max_lanes",
    "fail(MemoryError())": "MemoryError: out of memory: lower training: batch_size, or set max_lanes",
}


@pytest.fixture(scope="module")
def _ctrl_c_is_told():
    """Handle Ctrl-C as a command does."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, interrupt)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, _ctrl_c_is_told):
    """Train KD and the undistilled student alone, then beside a run for each deed; return the plan and both stores."""
    folder = tmp_path_factory.mktemp("isolation")
    short = {"epochs": 1, "batch_size": 10, "milestones": []}
    common = {"training": short, "data": {"name": "digits", "resize": short_or_whole(16, 32), "train_per_class": 2}}
    _, alone, _ = Bench(folder, document(**common), name="alone").run("alone")
    (folder / "evil.py").write_text(HEAD + EVIL)
    rows = [{"method": "evil", "does": deed, "label": f"deed {i}"} for i, deed in enumerate(DEEDS)]
    suite = Bench(folder, document(methods=[*rows, "kd"], **common), [folder / "evil.py"])
    before = settings()
    plan, together, observer = suite.run("together", teachers=alone)
    assert settings() == before
    assert len(observer.cohorts) == 1
    return plan, alone, together


@pytest.mark.parametrize("label", ["none", "KD"])
def test_lanes_beside_plugins_that_misbehave_end_with_the_same_bits(label, trained):
    plan, alone, together = trained
    run_id = cell(plan, label).runs[0].id
    assert weights(together, run_id) == weights(alone, run_id)


@pytest.mark.parametrize("deed", DEEDS)
def test_a_plugin_that_misbehaves_fails_by_name(deed, trained):
    plan, _, together = trained
    failure = together.failure(cell(plan, f"deed {list(DEEDS).index(deed)}").runs[0].id)
    assert failure.status == "failed"
    assert DEEDS[deed] in failure.reason
    assert failure.reason.isprintable()
    assert len(failure.details) < 30_000
    assert together.record(cell(plan, f"deed {list(DEEDS).index(deed)}").runs[0].id) is None


def test_a_failure_names_file_and_line_of_the_methods_innermost_frame(trained):
    plan, _, together = trained
    label = f"deed {list(DEEDS).index('fail(StopIteration())')}"
    line = (HEAD + EVIL).splitlines().index("    raise error") + 1
    reason = together.failure(cell(plan, label).runs[0].id).reason
    assert reason.endswith(f"/evil.py:{line}, in epoch 1)")


NETWORKS = """
import os, sys, traceback
import torch
from torch import nn
from bench.models import register_network


def within(function):
    return any(one.name == function for one in traceback.extract_stack())


class Does(nn.Module):
    def __init__(self, deed):
        super().__init__()
        self.deed = deed

    def forward(self, x):
        exec(self.deed, globals(), {"x": x, "self": self})
        return x


def network(deed, channels, classes):
    convolution, pool = nn.Conv2d(channels, 4, 3, padding=1), nn.MaxPool2d(2)
    return nn.Sequential(Does(deed), convolution, pool, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))
"""
REGISTERED_AS = """

@register_network("{name}")
def {name}(num_classes, in_channels):
    return network({deed!r}, in_channels, num_classes)
"""
OF_NETWORKS = {  # what a user's network does, and what the failure of its runs says; None where it does no harm
    "x.data.add_(1)": WRITES,
    "x if self.training else x.data.add_(1)": None,
    "x if self.training or len(x) == 1 else sys.exit(0)": "SystemExit: 0 (",
    "len(x) == 1 or torch.set_default_dtype(torch.float64)": "changes the default dtype",
    "self.training or len(x) == 1 or x.fill_(float('inf'))": " on the test images are not finite in epoch 1",
    "within('keep_outputs') and sys.exit(0)": None,
    "within('keep_answers') and torch.set_default_dtype(torch.float64)": None,
}


@pytest.fixture(scope="module")
def of_networks(trained, tmp_path_factory):
    """Train KD and the undistilled student beside a user's network for each deed; return the plan and both stores."""
    plan, alone, _ = trained
    folder = tmp_path_factory.mktemp("networks")
    named = {f"net{number}": deed for number, deed in enumerate(OF_NETWORKS)}
    text = NETWORKS + "".join(REGISTERED_AS.format(name=name, deed=deed) for name, deed in named.items())
    (folder / "nets.py").write_text(text)
    short = {"epochs": 1, "batch_size": 10, "milestones": []}
    pairs = [{"teacher": "resnet14", "student": name} for name in (*named, "resnet8")]
    data = {"name": "digits", "resize": short_or_whole(16, 32), "train_per_class": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own, "FILES", {})
        patch.setattr(own, "FACTORIES", {})
        own.add_networks([folder / "nets.py"], [])
        suite = Bench(folder, document(methods=["kd"], training=short, data=data, pairs=pairs), [folder / "nets.py"])
        plan, together, _ = suite.run("together", teachers=alone)
    return plan, alone, together


@pytest.mark.parametrize("label", ["none", "KD"])
def test_lanes_beside_users_networks_that_misbehave_end_with_the_same_bits(label, of_networks):
    plan, alone, together = of_networks
    run_id = cell_of(plan, label, "resnet14->resnet8").runs[0].id
    assert weights(together, run_id) == weights(alone, run_id)
    assert together.record(run_id)["metrics"] == alone.record(run_id)["metrics"]


@pytest.mark.parametrize("deed", OF_NETWORKS)
def test_a_users_network_that_misbehaves_fails_by_name(deed, of_networks):
    plan, _, together = of_networks
    run_id = cell_of(plan, "KD", f"resnet14->net{list(OF_NETWORKS).index(deed)}").runs[0].id
    if OF_NETWORKS[deed] is None:
        assert together.record(run_id) is not None
    else:
        assert OF_NETWORKS[deed] in together.failure(run_id).reason


@pytest.mark.usefixtures("forgets_networks")
def test_a_users_teacher_cannot_write_into_the_images_of_its_students(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(NETWORKS + REGISTERED_AS.format(name="writer", deed="x.data.add_(1)"))
    own.add_networks([path], [])
    network = build("writer", num_classes=5)
    images = torch.zeros(2, 3, 8, 8)
    Teacher(network.eval(), shapes_of(network, "writer", 3, 8, 8)).features(images, preactivations=False)
    assert not images.any()


def test_a_package_of_networks_that_changes_a_setting_is_refused_by_name(bench, monkeypatch, tmp_path):
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange/__init__.py").write_text("import torch\n\ntorch.set_default_dtype(torch.float64)\n")
    (tmp_path / "strange/nets.py").write_text("from torchvision.models import resnet18 as make\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RequestError, match=r"strange\.nets:make .*changes the default dtype"):
        network_shapes(NetworkSpec(network="strange.nets:make"), cell(bench().plan(), "none").runs[0].data)
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.usefixtures("_ctrl_c_is_told")
def test_an_own_method_that_writes_into_any_of_a_teachers_features_is_noticed(cohort):
    lanes, data, _, _ = cohort(methods=["kd"])
    batch = next(iter(data.epoch(1, MAIN, 1, 16)))
    taught = features(TOKENS, seed=0)
    for tensor in (one for view in (taught, taught.second) for one in tensors(view)):
        with pytest.raises(SharedDataError), lent(lanes["KD"], [lanes["KD"]], {}, batch, {"teacher": taught}):
            tensor.add_(1)


def test_ctrl_c_within_a_method_is_no_failure_of_its_run(bench, tmp_path):
    (tmp_path / "evil.py").write_text(HEAD + "import signal\n" + EVIL)
    rows = [{"method": "evil", "does": "signal.raise_signal(signal.SIGINT)"}]
    suite = bench(methods=rows, plugins=[tmp_path / "evil.py"])
    with pytest.raises(KeyboardInterrupt):
        suite.run()


def test_with_pythons_handler_of_ctrl_c_a_keyboard_interrupt_ends_the_process(monkeypatch):
    handlers = {signal.SIGINT: signal.default_int_handler}
    monkeypatch.setattr(signal, "getsignal", handlers.get)
    assert ends_process(KeyboardInterrupt())
    handlers[signal.SIGINT] = signal.SIG_IGN
    assert not ends_process(KeyboardInterrupt())


def entered(mode):
    mode.__enter__()
    return mode


@pytest.mark.parametrize(
    "change",
    [
        lambda: entered(torch.inference_mode()),
        lambda: torch.set_float32_matmul_precision("medium"),
        lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
        lambda: setattr(torch.backends.cudnn, "benchmark", True),
        lambda: setattr(torch.backends.mkldnn, "enabled", False),
        lambda: torch.set_flush_denormal(True),
        lambda: torch.nn.modules.module.register_module_forward_hook(print),
        lambda: entered(torch.device("meta")),
        lambda: entered(FlopCounterMode(display=False)),
        lambda: torch.autograd.set_detect_anomaly(True),
        lambda: torch.backends.cuda.enable_flash_sdp(False),
        lambda: torch.backends.mha.set_fastpath_enabled(False),
        lambda: setattr(torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", False),
        lambda: setattr(torch.backends.opt_einsum, "strategy", "greedy"),
        lambda: np.seterr(all="raise"),
        lambda: setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True),
        lambda: os.environ.update(CUDA_VISIBLE_DEVICES="7"),
        lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
        lambda: logging.disable(logging.CRITICAL),
        lambda: logging.config.dictConfig({"version": 1}),
        gc.disable,
        lambda: sys.setrecursionlimit(200_000),
    ],
)
def test_a_setting_that_is_changed_is_set_back_and_named(change):
    before = settings()
    kept = []
    with pytest.raises(RuntimeError, match=r"changes .*, which all runs share"), kept_settings():
        kept.append(change())
    assert settings() == before


def test_filters_of_warnings_which_packages_change_are_set_back_without_a_word():
    before = list(warnings.filters)
    with kept_settings():
        warnings.simplefilter("error")
    assert list(warnings.filters) == before


DRAWS = """
import random
import numpy as np
import torch
from methods.base import Distiller, register


@register("draws", weight=1.0)
class Draws(Distiller):
    def __init__(self, student, teacher, data, *, times: int = 1):
        super().__init__(student, teacher, data)
        self.times, self.scale = times, random.random() + np.random.rand()

    def loss(self, student, teacher, batch):
        drawn = sum(random.random() + np.random.rand() + torch.rand(()) for _ in range(self.times))
        return self.scale * drawn * (student.logits - teacher.logits).square().mean()
"""


@pytest.mark.usefixtures("forgets_networks")
def test_runs_that_draw_random_numbers_of_any_kind_end_with_the_same_bits_beside_others(tmp_path):
    drops = "within('measured') or within('teacher_features') and x.copy_(torch.dropout(x, 0.5, True))"
    (tmp_path / "draws.py").write_text(DRAWS)
    (tmp_path / "nets.py").write_text(NETWORKS + REGISTERED_AS.format(name="drops", deed=drops))
    own.add_networks([tmp_path / "nets.py"], [])
    rows = ["kd", *({"method": "draws", "times": n, "label": f"draws {n}"} for n in (1, 3))]
    short = {"epochs": 1, "batch_size": 10, "milestones": []}
    data = {"name": "digits", "resize": short_or_whole(16, 32), "train_per_class": 2}
    pairs = [{"teacher": "drops", "student": "resnet8"}]
    suite = document(methods=rows, training=short, data=data, pairs=pairs)
    bench = Bench(tmp_path, suite, [tmp_path / "draws.py", tmp_path / "nets.py"])
    plan, together, _ = bench.run("together")
    for label in ("draws 1", "KD"):
        run_id = cell(plan, label).runs[0].id
        _, alone, _ = bench.run(f"only {label}", only=[label], teachers=together)
        assert weights(together, run_id) == weights(alone, run_id)


def test_an_error_of_a_data_loading_process_is_told_by_its_own_text():
    text = (
        "Caught UnidentifiedImageError in DataLoader worker process 1.\nOriginal Traceback (most recent call last):\n"
        '  File "a.py", line 3, in f\n    raise\nPIL.UnidentifiedImageError: cannot identify a.png\n'
    )
    assert described(RuntimeError(text)) == "UnidentifiedImageError: cannot identify a.png"


def test_an_allocation_that_fails_says_what_to_change():
    failure = failure_of(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), "in epoch 2")
    assert isinstance(failure, Failure)
    assert "lower training: batch_size, or set max_lanes: N" in failure.reason


# what is refused before anything trains

REFUSED = {
    "torch.ones(3, requires_grad=True)": "its loss has the shape (3,), not that of a scalar",
    "student.logits.square().mean(dim=0)": "its loss has the shape (10,), not that of a scalar",
    "0.5": "its loss is a float, not a tensor",
    "None": "its loss is None: return a scalar, or the student trains as without a teacher",
    "torch.tensor(3)": "its loss has the type torch.int64, not that of a real number",
    "torch.view_as_complex(student.logits[0, :2].contiguous())": "its loss has the type torch.complex64",
    "student.logits.square().mean().detach()": "its loss reaches no parameter of the student",
    "torch.zeros(())": "its loss reaches no parameter of the student",
    "torch.zeros((), requires_grad=True) + teacher.logits.mean()": "its loss reaches no parameter of the student",
    "self.own(teacher.logits).square().mean()": "its loss reaches parameters of its own, but not the student",
    "self.own(student.logits.detach()).mean()": "its loss reaches parameters of its own, but not the student",
}
REASONS = {
    "True": "inapplicable() of evil: it returns a bool; it returns the reason as text, or None",
    "['a']": "inapplicable() of evil: it returns a list",
    "1 / 0": "inapplicable() of evil: ZeroDivisionError: division by zero",
    "sys.exit(0)": "inapplicable() of evil: SystemExit: 0",
    "fail(KeyboardInterrupt())": "inapplicable() of evil: KeyboardInterrupt",
    "torch.set_default_dtype(torch.float64)": "inapplicable() of evil: RuntimeError: changes the default dtype",
}
FAIR = "(student.logits - teacher.logits).square().mean()"


def plugin(loss: str = FAIR, inapplicable: str = "None", state: str = "None") -> str:
    return HEAD + (
        '\n\n@register("evil", weight=1.0)\nclass Evil(Distiller):\n'
        "    def __init__(self, student, teacher, data):\n        super().__init__(student, teacher, data)\n"
        "        self.own = torch.nn.Linear(student.classes, 1)\n\n"
        f"    def loss(self, student, teacher, batch):\n        return {loss}\n\n"
        f"    def get_extra_state(self):\n        return {state}\n\n"
        "    def set_extra_state(self, state):\n        pass\n\n"
        f"    @classmethod\n    def inapplicable(cls, student, teacher):\n        return {inapplicable}\n"
    )


@pytest.fixture(autouse=True)
def _forgets_the_plugin():
    yield
    REGISTERED.pop("evil", None)


@pytest.fixture
def refused(bench, tmp_path):
    """Return a way to run a suite with a plug-in that is refused, and to learn what was said."""

    def run(text: str) -> str:
        path = tmp_path / "evil.py"
        path.write_text(text)
        with pytest.raises(RequestError) as caught:
            bench(plugins=[path], methods=["evil", "kd"]).run()
        assert str(path) in str(caught.value)
        assert str(caught.value).isprintable()
        assert not (tmp_path / "results").exists()
        return str(caught.value)

    return run


@pytest.mark.parametrize("loss", REFUSED)
def test_a_loss_that_nothing_can_learn_from_is_refused_before_the_teacher_trains(loss, refused):
    assert f"term evil: {REFUSED[loss]}" in refused(plugin(loss))


@pytest.mark.parametrize("value", REASONS)
def test_an_inapplicable_that_gives_no_reason_is_refused(value, refused):
    assert REASONS[value] in refused(plugin(inapplicable=value))


@pytest.mark.parametrize("state", ["lambda: 1", "Unreadable()", "[torch.zeros(2), Mode]"])
def test_a_state_that_no_checkpoint_can_hold_is_refused_by_name(state, refused):
    assert "term evil: its state '_extra_state' is a " in refused(plugin(state=state))


@pytest.mark.usefixtures("_ctrl_c_is_told")
def test_an_import_that_raises_keyboard_interrupt_is_refused_by_name(refused):
    assert "cannot be imported: KeyboardInterrupt" in refused(plugin() + "\n\nraise KeyboardInterrupt\n")


@pytest.mark.parametrize("name", [path.stem for path in own_files()])
def test_each_of_the_projects_methods_would_pass_as_a_plugin(name, bench, caplog):
    caplog.set_level(logging.DEBUG)
    try_on(name, "resnet8", cell(bench().plan(), "none").runs[0].data)
    assert "raises an error" not in caplog.text


def test_a_method_that_reads_tokens_would_pass_as_a_plugin(bench, caplog):
    caplog.set_level(logging.DEBUG)
    try_on("ofa", "timm.test_vit", cell(bench().plan(), "none").runs[0].data)
    assert "raises an error" not in caplog.text


def try_on(name, student, data):
    """Try a method out on random features of a pair."""
    shapes, teacher = (network_shapes(NetworkSpec(network=one), data) for one in (student, "resnet14"))
    info = DataInfo(20, data.classes, torch.arange(20) % data.classes)
    distiller = catalog()[name].load()(shapes, teacher, info)
    try_out(name, distiller, shapes, teacher, info, data)
