"""Builds networks and adapters quickly where nobody needs the weights of a run: only shapes, or any finite weights."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

DRAWS = {torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default}
BATCH_NORM, RELU = torch.ops.aten.native_batch_norm.default, torch.ops.aten.relu.default
DRAWN = 65_521  # entries: a prime, so that the rows of a matrix differ although its entries repeat


@contextmanager
def without_content() -> Iterator[None]:
    """Build and use networks without content in the block: on the meta device, where tensors have a shape only."""
    with torch.device("meta"), QuickDraws():
        yield


class QuickDraws(TorchDispatchMode):
    """Draws the first `DRAWN` entries of a tensor and repeats them.

    On the meta device, it leaves out what torch computes there in Python, and slowly: draws, batch norms and ReLUs.
    """

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Call a function of torch, or what stands in for it."""
        if function in DRAWS:
            return _draw(function, *args, **(kwargs or {}))
        if function is BATCH_NORM and args[0].is_meta:
            images, _, _, _, _, training, *_ = args
            channels = images.shape[1] if training else 0
            return torch.empty_like(images), images.new_empty(channels), images.new_empty(channels)
        if function is RELU and args[0].is_meta:
            return torch.empty_like(args[0])
        return function(*args, **(kwargs or {}))


def _draw(function: Callable[..., Any], tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
    if tensor.is_meta:
        return tensor
    if tensor.numel() <= DRAWN or not tensor.is_contiguous():
        function(tensor, *args, **kwargs)
        return tensor
    entries, whole = tensor.view(-1), tensor.numel() // DRAWN * DRAWN
    first = entries[:DRAWN]
    function(first, *args, **kwargs)
    entries[DRAWN:whole].view(-1, DRAWN).copy_(first)
    entries[whole:].copy_(first[: len(entries) - whole])
    return tensor
