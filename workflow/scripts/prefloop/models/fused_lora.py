"""A linear layer and its low-rank adapter (LoRA; Hu et al. 2021, arXiv 2106.09685) as one operation.

peft's own layer writes, scales and adds the adapter's output in three passes over the layer's output. Its backward pass
also scales and adds the gradient in passes of their own. This takes long on a CPU (benchmarks/RESULTS.md, Training).
"""

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn import functional as F


class LoraProduct(torch.autograd.Function):
    """y = x Wᵀ + bias + s (x Aᵀ) Bᵀ, where the second product is added to the output of the first in place.

    W and bias are frozen. If g is the gradient of the loss for y, the gradients for x, A and B are g W + s (g B) A,
    s (g B)ᵀ x and s gᵀ (x Aᵀ).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        """Compute the layer's output.

        Args:
            ctx: Autograd's context.
            x (Tensor): [tokens, in].
            weight (Tensor): [out, in].
            bias (Tensor | None): [out].
            a (Tensor): [rank, in]; all tensors have one dtype.
            b (Tensor): [out, rank].
            scale (float): s.

        Returns:
            Tensor: [tokens, out].
        """
        low = x @ a.T
        ctx.save_for_backward(x, weight, a, b, low)
        ctx.scale = scale
        return F.linear(x, weight, bias).addmm_(low, b.T, alpha=scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients for x, A and B, from the gradient for y, [tokens, out]."""
        (grad,) = grads
        x, weight, a, b, low = ctx.saved_tensors
        grad_low = (grad @ b).mul_(ctx.scale)
        grad_x = (grad @ weight).addmm_(grad_low, a) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, grad_low.T @ x, (grad.T @ low).mul_(ctx.scale), None


class LoraLinear(Linear):
    """peft's layer, with `LoraProduct` if one plain adapter without dropout is active on a frozen nn.Linear."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., in] to [..., out]."""
        base, names = self.base_layer, [name for name in self.active_adapters if name in self.lora_A]
        active = [] if self.disable_adapters or self.merged else names
        is_frozen = type(base) is nn.Linear and not base.weight.requires_grad
        if args or kwargs or len(active) != 1 or not is_frozen or is_dropping(self.lora_dropout[active[0]]):
            return super().forward(x, *args, **kwargs)
        if active[0] in self.lora_variant:  # DoRA, which also scales the base layer's output
            return super().forward(x)
        a, b = self.lora_A[active[0]].weight, self.lora_B[active[0]].weight
        device = x.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        elif x.dtype == base.weight.dtype == a.dtype == b.dtype:
            dtype = x.dtype
        else:
            return super().forward(x)
        bias = None if base.bias is None else base.bias.to(dtype)
        rows, scale = x.to(dtype).reshape(-1, x.shape[-1]), self.scaling[active[0]]
        with torch.autocast(device, enabled=False):
            output = LoraProduct.apply(rows, base.weight.to(dtype), bias, a.to(dtype), b.to(dtype), scale)
        return output.view(*x.shape[:-1], -1)


def is_dropping(dropout: nn.Module) -> bool:
    """Whether a dropout layer currently changes its input."""
    return dropout.training and not isinstance(dropout, nn.Identity)
