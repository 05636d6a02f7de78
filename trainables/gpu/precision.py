"""Forward passes in bfloat16 from float32 weights, and spectral normalisation in either precision."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional


class _Halves(torch.autograd.Function):
    """Weights in bfloat16, all at once; their gradients come back in float32, all at once."""

    @staticmethod
    def forward(ctx: Any, *weights: Tensor) -> tuple[Tensor, ...]:
        halves = [torch.empty_like(weight, dtype=torch.bfloat16) for weight in weights]
        if halves:
            torch._foreach_copy_(halves, list(weights))
        return tuple(halves)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if not any(ctx.needs_input_grad):
            return (None,) * len(gradients)
        wholes = [torch.empty_like(gradient, dtype=torch.float32) for gradient in gradients]
        torch._foreach_copy_(wholes, list(gradients))
        return tuple(wholes)


_in_bf16 = ContextVar("in_half", default=False)


def forward(network: nn.Module, images: Tensor, in_bf16: bool) -> Tensor:
    """Compute network(images); `in_bf16`: its layers work in bfloat16 from weights, biases, norms kept in float32."""
    if not in_bf16:
        answer: Tensor = network(images)
        return answer
    # spectrally normalised weights are halved after their norm (below), biases and slopes not at all
    named = {
        name: weight
        for name, weight in network.named_parameters()
        if weight.dim() > 1 and "parametrizations" not in name and not name.endswith("bias")
    }
    halves = dict(zip(named, _Halves.apply(*named.values()), strict=True))  # type: ignore[no-untyped-call]
    token = _in_bf16.set(True)
    try:
        answer = functional_call(network, halves, (images,))
    finally:
        _in_bf16.reset(token)
    return answer


def enter(images: Tensor) -> Tensor:
    """Convert images to what a network's layers compute with: bfloat16 within `forward(…, in_bf16=True)`."""
    return images.to(torch.bfloat16, memory_format=torch.channels_last) if _in_bf16.get() else images


class SpectralNorm(nn.Module):
    """A weight over its largest singular value, by one power iteration a training step (Miyato et al. 2018).

    A parametrisation of a convolution's or linear layer's weight, (out, …).
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        matrix = weight.detach().flatten(1)
        self.register_buffer("u", functional.normalize(matrix.new_empty(matrix.shape[0]).normal_(), dim=0, eps=1e-12))
        self.register_buffer("v", functional.normalize(matrix.new_empty(matrix.shape[1]).normal_(), dim=0, eps=1e-12))
        self._iterate(matrix, 15)

    @torch.no_grad()
    def _iterate(self, matrix: Tensor, times: int) -> None:
        for _ in range(times):
            functional.normalize(torch.mv(matrix.t(), self.u), dim=0, eps=1e-12, out=self.v)
            functional.normalize(torch.mv(matrix, self.v), dim=0, eps=1e-12, out=self.u)

    def forward(self, weight: Tensor) -> Tensor:
        """Normalise: weight / σ, σ = uᵀ·W·v."""
        if _in_bf16.get():
            normalised: Tensor = _Normalise.apply(weight, self.u, self.v, self.training)  # type: ignore[no-untyped-call]
            return normalised
        matrix = weight.flatten(1)
        if self.training:
            self._iterate(matrix, 1)
        u, v = self.u.clone(), self.v.clone()  # an earlier step's graph keeps what it saw
        return weight / torch.vdot(u, torch.mv(matrix, v))


class _Normalise(torch.autograd.Function):
    """W/σ in half precision and, with G its gradient, (G − ⟨G, W⟩/σ·u·vᵀ)/σ, in as few passes as they take.

    After a power iteration σ is the length of Wv. u and v are written in place; what the gradient needs of them is
    kept, since real and generated images may have an iteration each before it is asked for.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, u: Tensor, v: Tensor, iterate: bool) -> Tensor:
        matrix = weight.flatten(1)
        if iterate:
            along = torch.mv(matrix.t(), u)
            torch.div(along, torch.linalg.vector_norm(along), out=v)
            along = torch.mv(matrix, v)
            sigma = torch.linalg.vector_norm(along)
            torch.div(along, sigma, out=u)
        else:
            sigma = torch.dot(u, torch.mv(matrix, v))
        layout = torch.channels_last if weight.dim() == 4 else torch.contiguous_format
        half = torch.empty_like(weight, dtype=torch.bfloat16, memory_format=layout)
        torch.div(weight, sigma, out=half)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(weight, u.clone(), v.clone(), sigma)
        return half

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        weight, u, v, sigma = ctx.saved_tensors
        whole = torch.empty_like(weight, memory_format=torch.contiguous_format).copy_(gradient)
        matrix = whole.flatten(1)
        share = torch.dot(whole.flatten(), weight.flatten()) / sigma
        matrix.addr_(u * share, v, alpha=-1).div_(sigma)
        return whole, None, None, None
