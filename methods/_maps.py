"""Sums of products over feature maps, with backward passes that move less memory than autograd's.

Every gradient has the memory layout of its map: a channels_last map has a channels_last gradient, so adding it to the
network's gradient is one pass over memory. None of the functions is twice differentiable. For bfloat16 maps,
`attention` and `squared_error` sum in float32; `gram` multiplies in the precision of its inputs.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

EPS = 1e-12  # smallest norm, as in `torch.nn.functional.normalize`


def attention(features: Tensor) -> Tensor:
    """Return the attention of maps (B, C, H, W): (B, H*W) of unit length, the mean square over channels."""
    return Attention.apply(features)


def gram(rows: Tensor, others: Tensor) -> Tensor:
    """Return the inner products of each sample's rows (B, I, P) with its rows (B, J, P): (B, I, J).

    The channels of a map as rows are `map.flatten(2)`, a view in both channels_last and contiguous memory.
    If both arguments are the same tensor, the backward pass takes one product instead of two.
    """
    return Gram.apply(rows, others)


def squared_error(features: Tensor, wanted: Tensor) -> Tensor:
    """Return each channel's sum of squared differences of maps (B, C, H, W), with `wanted` constant: (C,)."""
    return SquaredError.apply(features, wanted)


def inverse_root(squared_norms: Tensor) -> Tensor:
    """Return 1 / norm, the factor that normalizes. A vector of zeros stays zero and has gradient 0."""
    return squared_norms.clamp(min=EPS**2).rsqrt()


class Attention(torch.autograd.Function):
    """With E = mean_C f^2 and a = E / ||E||: dE = (da - a <a, da>) / ||E|| and df = 2 f dE / C."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:  # noqa: ANN401
        wide = features.to(_wide(features))
        if features.stride(1) == 1:  # the norm is fast over adjacent entries only
            energy = torch.linalg.vector_norm(wide, dim=1).square_()
        else:
            energy = wide.square().sum(dim=1)
        energy = energy.flatten(1).div_(features.shape[1])
        norm = torch.linalg.vector_norm(energy, dim=1, keepdim=True).clamp_(min=EPS)
        attention = energy.div_(norm)
        ctx.save_for_backward(features, attention, norm)
        return attention

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # noqa: ANN401
        features, attention, norm = ctx.saved_tensors
        along = (grad * attention).sum(dim=1, keepdim=True)
        energy_grad = (grad - attention * along).div_(norm * features.shape[1] / 2)
        return features * energy_grad.view(features[:, :1].shape).to(features.dtype)


class SquaredError(torch.autograd.Function):
    """E = sum_BHW (f - w)^2, so df = 2 (f - w) dE."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, wanted: Tensor) -> Tensor:  # noqa: ANN401
        difference = features - wanted
        ctx.save_for_backward(difference)
        return difference.square().sum(dim=(0, 2, 3), dtype=_wide(features))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (difference,) = ctx.saved_tensors
        return difference * (2 * grad)[:, None, None].to(difference.dtype), None


class Gram(torch.autograd.Function):
    """G = X Y^T, so dX = dG Y and dY = dG^T X; with X = Y, dX = (dG + dG^T) X."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, others: Tensor) -> Tensor:  # noqa: ANN401
        ctx.symmetric = rows is others
        ctx.save_for_backward(rows, others)
        return rows @ others.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:  # noqa: ANN401
        rows, others = ctx.saved_tensors
        if ctx.symmetric:
            return _product(grad + grad.mT, rows), None
        first, second = ctx.needs_input_grad
        return _product(grad, others) if first else None, _product(grad.mT, rows) if second else None


def _wide(features: Tensor) -> torch.dtype:
    """Return the precision of sums over maps: float32, or float64 for maps in float64."""
    return torch.promote_types(features.dtype, torch.float32)


def _product(weights: Tensor, rows: Tensor) -> Tensor:
    """Return (B, I, J) @ (B, J, P) in the memory layout of the rows."""
    return (rows.mT @ weights.mT).mT if rows.mT.is_contiguous() else weights @ rows
