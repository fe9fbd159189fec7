"""A linear layer and its low-rank adapter (LoRA; Hu et al. 2021, arXiv 2106.09685) as one operation.

Of parts, as in peft's own layer, what the adapter adds is written, scaled and added by three passes over as many
numbers as the layer returns, and scaled and added on the way back, which on a CPU takes long (benchmarks/RESULTS.md,
Training).
"""

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn import functional as F


class LoraProduct(torch.autograd.Function):
    """y = x Wᵀ + bias + s (x Aᵀ) Bᵀ, in whose products the adapter's part is added to the layer's as it is computed.

    x is [tokens, in], W [out, in], A [r, in], B [out, r], all of one dtype. W and the bias are not trained. With g the
    gradient of the loss in y, those in x, A and B are g W + s (g B) A, s (g B)ᵀ x and s gᵀ (x Aᵀ).
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        low = x @ a.T
        ctx.save_for_backward(x, weight, a, b, low)
        ctx.scale = scale
        return F.linear(x, weight, bias).addmm_(low, b.T, alpha=scale)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b, low = ctx.saved_tensors
        to_low = (grad @ b).mul_(ctx.scale)
        to_x = (grad @ weight).addmm_(to_low, a) if ctx.needs_input_grad[0] else None
        return to_x, None, None, to_low.T @ x, (grad.T @ low).mul_(ctx.scale), None


class LoraLinear(Linear):
    """peft's layer, computed by `LoraProduct` where one adapter is at work, without dropout, on a frozen nn.Linear."""

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        """[…, in] → […, out]."""
        base, names = self.base_layer, [name for name in self.active_adapters if name in self.lora_A]
        at_work = [] if self.disable_adapters or self.merged else names
        frozen = type(base) is nn.Linear and not base.weight.requires_grad
        if args or kwargs or len(at_work) != 1 or not frozen or drops(self.lora_dropout[at_work[0]]):
            return super().forward(x, *args, **kwargs)
        a, b = self.lora_A[at_work[0]].weight, self.lora_B[at_work[0]].weight
        device = x.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        elif x.dtype == base.weight.dtype == a.dtype == b.dtype:
            dtype = x.dtype
        else:
            return super().forward(x)
        bias = None if base.bias is None else base.bias.to(dtype)
        rows, scale = x.to(dtype).reshape(-1, x.shape[-1]), self.scaling[at_work[0]]
        with torch.autocast(device, enabled=False):
            found = LoraProduct.apply(rows, base.weight.to(dtype), bias, a.to(dtype), b.to(dtype), scale)
        return found.view(*x.shape[:-1], -1)


def drops(dropout: nn.Module) -> bool:
    """Whether a dropout layer changes what passes through it now."""
    return dropout.training and not isinstance(dropout, nn.Identity)
