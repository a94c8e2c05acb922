"""Exports a finished run's student: weights, an ONNX graph that computes the same logits, and a model card."""

import contextlib
import io
import logging
import warnings
from pathlib import Path

import torch

from bench.launch.inputs import stored_network
from bench.models.base import Network
from bench.share.card import card
from bench.spec import RunSpec
from bench.store import Store
from bench.store.files import write_whole, writing
from bench.types import RequestError

CARD, WEIGHTS, GRAPH = "README.md", "student.safetensors", "student.onnx"
CLOSE = 1e-5  # the largest difference between the graph's logits and the network's, relative to the largest logit
IMAGES = 3  # in the batch that is compared; another number than the graph is traced with


def export(store: Store, run_id: str, folder: Path) -> list[Path]:
    """Write a run's student to a new folder, and return the paths of its files.

    Raises:
        RequestError: the run is not done or has no network of its own; its weights are damaged; the folder has files;
            ONNX is not installed; or the graph does not compute the student's logits.
    """
    run = _finished(store, run_id)
    with writing(folder):
        is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_free:
        raise RequestError(f"--to {folder}: is not an empty folder. Name a new one")
    network = stored_network(run, store).eval()
    contents: dict[str, str | bytes] = {
        WEIGHTS: store.weights(run.id),
        GRAPH: onnx_graph(network, run),
        CARD: card(store, run),  # last: a folder with a card is complete
    }
    for name, content in contents.items():
        write_whole(folder / name, content)
    return [folder / name for name in contents]


def onnx_graph(network: Network, run: RunSpec) -> bytes:
    """Return the network as an ONNX file: `images` (batch, C, H, W) float32, normalised, to `logits` (batch, K).

    It is checked: for random images, onnxruntime's logits differ from the network's by at most `CLOSE`.

    Raises:
        RequestError: ONNX is not installed, torch cannot write the network, or the logits differ by more.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # torch needs it
    except ImportError as error:
        raise RequestError(
            f"export writes an ONNX file, which needs {error.name}. Install the extra: pip install "
            "'distillation-bench[onnx]'"
        ) from None
    images = torch.randn(IMAGES, run.data.channels, *run.data.size, generator=torch.Generator().manual_seed(0))
    for name in ("onnx_ir", "onnxscript", "torch.onnx"):  # each reports its progress
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                network,
                (images[:2],),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
        except Exception as error:  # a network may do what ONNX cannot express
            reason = " ".join(str(error).split())[:300]
            raise RequestError(f"run {run.id}: torch cannot write {run.student.network} as ONNX: {reason}") from error
    assert program is not None  # as always with dynamo=True
    graph = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = network(images)
    difference = (torch.from_numpy(session.run(None, {"images": images.numpy()})[0]) - expected).abs().max().item()
    allowed = CLOSE * max(1.0, expected.abs().max().item())
    if not difference <= allowed:
        raise RequestError(
            f"run {run.id}: the logits of its ONNX graph differ from the student's by {difference:.2g}, and "
            f"{allowed:.2g} is allowed: nothing was written"
        )
    return graph


def _finished(store: Store, run_id: str) -> RunSpec:
    """Return the specification of a finished run that has trained a network of its own."""
    run, record = store.spec(run_id), store.record(run_id)
    if run is None or record is None:
        raise RequestError(f"run {run_id} is {store.state(run_id)}: only a finished run has a student to export")
    if run.is_ensemble:
        raise RequestError(f"run {run_id} evaluates several networks together: export one of {', '.join(run.teachers)}")
    if run.head is not None:
        other = f": export run {run.source}, which has trained that network" if run.source else ""
        raise RequestError(f"run {run_id} evaluates the features of a network{other}")
    return run
