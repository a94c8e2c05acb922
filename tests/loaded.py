"""What the server of forks has done before its first fork: all imports of a command, and the work of a first report.

The report compiles templates and reads fonts, which takes a process more than a second.
"""

import tempfile
from contextlib import suppress
from pathlib import Path

import matplotlib.backends.backend_svg  # noqa: F401
import pytest
import torch._dynamo  # noqa: F401

import bench.cli
import bench.launch.devices
import bench.launch.launcher
import bench.terminal.status
import bench.train.loop  # noqa: F401
import tests.train.conftest  # noqa: F401
from bench.store import Store
from bench.workflow import reported
from tests.few import WHOLE, use_few
from tests.stores import METHODS, finish_all, plan_of

# A report that fails is for its own tests to find: here it would end the server, and with it every test that forks.
with suppress(Exception), tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
    patch.delenv(WHOLE, raising=False)  # one figure is enough
    use_few(patch)
    plan, store = plan_of(Path(folder)), Store(Path(folder, "results"))
    finish_all(store, plan, {cell.label: [60.0 + place] for place, cell in enumerate(plan.cells)})
    reported(plan, store, METHODS)
