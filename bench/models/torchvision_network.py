"""torchvision's classifiers, and the weights that it publishes for them."""

import hashlib
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from bench.types import RequestError, suggest

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

logger = logging.getLogger(__name__)


def torchvision_network(name: str, num_classes: int, in_channels: int) -> nn.Module:
    """Return one of torchvision's classifiers, untrained.

    If images do not have 3 channels, the first convolution is a new one, drawn as PyTorch does by default.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise RequestError(f"unknown network 'torchvision.{name}'. {suggest(name, known)}")
    # with auxiliary logits, the network would have several outputs in training
    single_output = {"aux_logits": False, "init_weights": True} if "inception" in name or name == "googlenet" else {}
    # RegNets compute their widths with tensors, which have no values on the device meta
    values = torch.device("cpu") if name.startswith("regnet") else nullcontext()
    device = torch.get_default_device()
    with values:
        network = models.get_model(name, weights=None, num_classes=num_classes, **single_output)
    network = network.to(device)
    if in_channels != 3:
        convolution = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
        shape = (convolution.out_channels, in_channels, *convolution.kernel_size)
        convolution.in_channels = in_channels
        convolution.weight = nn.Parameter(convolution.weight.new_empty(shape))
        convolution.reset_parameters()
    return network


def set_input(network: nn.Module, name: str, checkpoint: str) -> None:
    """Let a network normalise its images as torchvision's published weights expect, if it gets those weights.

    GoogLeNet and Inception convert images for them, which torchvision turns on when it loads the weights itself.

    Args:
        network: a `HookedNetwork`.
        name: that torchvision gives the classifier.
        checkpoint: the name of published weights, or a file's sha256.
    """
    from torchvision import models

    if hasattr(network.network, "transform_input"):
        published = models.get_model_weights(name).__members__
        sums = tuple(one.url.rpartition("-")[2].partition(".")[0] for one in published.values())
        network.network.transform_input = checkpoint in published or checkpoint.startswith(sums)


def known_weights(name: str, weights: str, classes: int | None = None) -> "WeightsEnum":
    """Return torchvision's entry of the weights that it publishes for a classifier under a name.

    Raises:
        RequestError: there are no such weights, or they are for another number of classes.
    """
    from torchvision import models  # takes seconds, so only what needs it imports it

    known = models.get_model_weights(name).__members__
    if weights not in known:
        raise RequestError(f"weights: torchvision publishes no {weights!r} for {name}. {suggest(weights, known)}")
    theirs = len(known[weights].meta.get("categories", ()))
    if classes and theirs and classes != theirs:
        raise RequestError(
            f"weights: {weights} has {theirs} classes, the data {classes}: give a checkpoint trained on this data, "
            "or leave 'weights' out to train the network here"
        )
    return known[weights]


def published_weights(name: str, weights: str, folder: Path) -> Path:
    """Return the file of weights that torchvision publishes, downloaded if it is missing.

    The file's name ends in the first digits of its sha256.

    Raises:
        RequestError: the name is unknown, the download fails, or the file does not match its sha256.
    """
    url = known_weights(name, weights).url
    file = folder / url.rpartition("/")[2]
    if not file.exists():
        logger.info("downloading %s", file.name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), progress=False)
        except Exception as error:  # a download can fail in many ways
            raise RequestError(
                f"weights: looked for {file} and did not find it, and {url} cannot be downloaded "
                f"({' '.join(str(error).split())}). Put the file there, or name another folder with --data DIR"
            ) from error
    digits = file.stem.rpartition("-")[2]
    if not hashlib.sha256(file.read_bytes()).hexdigest().startswith(digits):
        raise RequestError(
            f"weights: {file} is not what torchvision publishes: its sha256 does not begin with {digits}"
        )
    return file
