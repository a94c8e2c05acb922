"""The base class of every network: `forward` gives logits, `features` gives everything that a method may read."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from bench.types import Affine, Features


class Network(nn.Module):
    """A classifier whose stages, pre-activations and embedding can be read.

    A network computes in `features` only; `forward` returns the logits of that pass.
    """

    def features(self, x: Tensor, preactivations: bool = False) -> Features:
        """Return the features of a batch.

        Args:
            x: (B, C, H, W), normalised images, H and W at least 16.
            preactivations: whether to fill `Features.preactivations` and `Features.norms`; the other fields do not
                depend on it.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K) of images (B, C, H, W)."""
        return self.features(x).logits

    def linear_classifier(self) -> Affine | None:
        """Return the linear layer from embedding to logits; None if the classifier is something else."""
        return None

    def trunk(self) -> Sequence[nn.Module]:
        """Return the modules up to the last stage's output (stem and groups), which AB and FSP pre-train."""
        raise NotImplementedError


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Set a network to eval mode, and each of its modules back to its own mode at the end."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
