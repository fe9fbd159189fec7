"""What is made of a language model's last hidden states: log-probabilities of given tokens, without all the logits."""

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 256  # tokens whose logits exist at a time: 256 × 49,152 numbers are 50 MB in float32
BLOCK = 16  # of these, tokens that a CPU takes the softmax of at a time: 3 MB


class TokenLogps(torch.autograd.Function):
    """log π of one token a state from states [tokens, hidden] and the head's weight [vocabulary, hidden]; float32.

    With z = W h the gradient of log π(y) = z_y − log Σ_v exp z_v in h is W_y − Σ_v π_v W_v, whatever the loss. Where
    the head is not trained it is computed on the way forward, while a chunk's logits are at hand, and scaled by the
    loss's on the way back: no logits are kept, and none computed twice. A head that is trained needs them again.
    """

    @staticmethod
    def forward(ctx, states: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor, ahead: bool) -> Tensor:
        """`ahead` says that the gradient in `states` will be asked for and the one in `weight` will not."""
        logps = torch.empty(len(states), dtype=torch.float32, device=states.device)
        slopes = torch.empty_like(states) if ahead else None
        for some in chunks(len(states)):
            logits = F.linear(states[some], weight, bias)
            logps[some] = take(logits, tokens[some], ahead)
            if ahead:
                slopes[some] = logits @ weight
        ctx.ahead = ahead
        ctx.save_for_backward(*((slopes,) if ahead else (states, weight, bias, tokens)))
        return logps

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.ahead:
            (slopes,) = ctx.saved_tensors
            return (grad[:, None] * slopes).to(slopes.dtype), None, None, None, None
        states, weight, bias, tokens = ctx.saved_tensors
        to_states = torch.empty_like(states)
        to_weight = torch.zeros_like(weight, dtype=torch.float32)
        to_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        for some in chunks(len(states)):
            to_logits = F.linear(states[some], weight, bias)
            take(to_logits, tokens[some], True)
            to_logits *= grad[some, None]
            to_states[some] = to_logits @ weight
            to_weight += to_logits.T @ states[some]
            if bias is not None:
                to_bias += to_logits.sum(dim=0)
        return to_states, to_weight.to(weight.dtype), None if bias is None else to_bias.to(bias.dtype), None, None


def chunks(tokens: int, size: int = CHUNK) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, tokens, size))


def take(logits: Tensor, tokens: Tensor, residual: bool) -> Tensor:
    """log π of `tokens` [tokens] under `logits` [tokens, vocabulary]; float32 [tokens].

    With `residual` the logits become the gradient of log π(token) in them, 1[v = token] − π_v. On a CPU few rows are
    taken at a time, so that what is computed of them in float32 stays in the processor's cache.
    """
    logps = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    for some in chunks(len(logits), BLOCK if logits.device.type == "cpu" else CHUNK):
        found = torch.log_softmax(logits[some].float(), dim=1)
        logps[some] = found.gather(1, tokens[some, None]).squeeze(1)
        if residual:
            found.exp_().neg_()
            found[torch.arange(len(found), device=found.device), tokens[some]] += 1
            logits[some] = found
    return logps


def head_logps(head: torch.nn.Linear, states: Tensor, tokens: Tensor) -> Tensor:
    """log π of `tokens` [tokens] after `states` [tokens, hidden], in nats; float32 [tokens]; gradients flow."""
    device = states.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
    bias = None if head.bias is None else head.bias.to(dtype)
    weight = head.weight.to(dtype)
    ahead = torch.is_grad_enabled() and states.requires_grad and not weight.requires_grad
    with torch.autocast(device, enabled=False):
        return TokenLogps.apply(states.to(dtype), weight, bias, tokens, ahead)


def logit_logps(logits: Tensor, tokens: Tensor) -> Tensor:
    """log π of `tokens` [tokens] under `logits` [tokens, vocabulary]; float32 [tokens]; gradients flow.

    Chunk by chunk, so that the float32 copy of the logits is never one of all.
    """
    parts = [torch.log_softmax(logits[some].float(), 1).gather(1, tokens[some, None]) for some in chunks(len(logits))]
    return torch.cat(parts).squeeze(1)


def once_a_model(find: Callable) -> Callable:
    """Remember what `find(model)` returned for as long as the model lives."""
    known: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    @functools.wraps(find)
    def remembered(model):
        if model not in known:
            known[model] = find(model)
        return known[model]

    return remembered


@once_a_model
def is_plain(model) -> bool:
    """Whether a model's logits are what its head, a linear layer, returns: nothing caps or scales them afterwards.

    Tried out: what the head is made to return has to come out as it is.
    """
    head = output_head(model)
    if type(head) is not torch.nn.Linear:
        return False
    known = torch.tensor([-96.0, 0.5, 96.0], device=head.weight.device)  # whole in any dtype
    token = torch.zeros((1, 1), dtype=torch.long, device=head.weight.device)
    with trial(), replaced(head, lambda _, states: known.to(states.dtype)[None, None]):
        return torch.equal(model(input_ids=token, use_cache=False).logits[0, 0].float(), known)


@contextlib.contextmanager
def trial():
    """Within the context a model can be tried out: no gradients, and no random number is taken from those who train."""
    with torch.random.fork_rng(), torch.no_grad():
        yield


def output_head(model) -> torch.nn.Module:
    """The module that turns hidden states into logits, whatever a model is wrapped in."""
    return getattr(model, "module", model).get_output_embeddings()


@contextlib.contextmanager
def replaced(head: torch.nn.Module, forward: Callable[[Callable, Tensor], Tensor]):
    """Within the context `head` computes forward(its own forward, states).

    So a model passes on what is wanted of its last states in place of logits, and is still called as a whole, by
    whatever wraps it.
    """
    own = head.forward
    head.forward = lambda states: forward(own, states)
    try:
        yield
    finally:
        head.forward = own
