"""Who answers a prompt: a sampler is a list of components, one a response. Nothing heavy: Snakemake reads it too."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import cosh
from typing import NamedTuple


class Component(NamedTuple):
    """What one response is sampled from: logits policy·z_θ + reference·z_ref, that is π_θ^policy · π_ref^reference."""

    name: str
    policy: float
    reference: float


POLICY = Component("policy", 1.0, 0.0)
REFERENCE = Component("reference", 0.0, 1.0)
CHOSEN, REJECTED = Component("chosen", 0.0, 0.0), Component("rejected", 0.0, 0.0)  # not sampled, but given


@dataclass
class Mixp:
    """The mixture of arXiv 2409.19605: responses come in twos, both of the policy or one from each side of it."""

    p: float = 0.3
    """Probability that two responses are both the policy's."""
    rmax: float | None = None
    """If given, p is not: both are the policy's with weight 2, and mixed with weight e^rmax + e^−rmax."""
    spread: float = 0.5
    """How far the two lie from the policy: π_θ^(1+spread)·π_ref^(−spread) and π_θ^(1−spread)·π_ref^spread."""

    @property
    def share(self) -> float:
        """Probability of ①, both from the policy."""
        return self.p if self.rmax is None else 1 / (1 + cosh(self.rmax))


@dataclass
class Sampling:
    """Which sampler; the names are those of config's `generation`."""

    sampler: str = "policy"
    """Word of SAMPLERS."""
    n: int = 1
    """Responses a prompt."""
    mixp: Mixp = field(default_factory=Mixp)
    """Settings of sampler mixp."""


def policy(n: int, coins: list[float], settings: Mixp) -> list[Component]:
    """On-policy: all from π_θ (OAIF, arXiv 2402.04792)."""
    return [POLICY] * n


def reference(n: int, coins: list[float], settings: Mixp) -> list[Component]:
    """Off-policy: all from π_ref ("vanilla" in arXiv 2409.19605)."""
    return [REFERENCE] * n


def policy_reference(n: int, coins: list[float], settings: Mixp) -> list[Component]:
    """The first half from π_θ, the second from π_ref (hybrid GSHF, arXiv 2312.11456; XPO, arXiv 2405.21046)."""
    return [POLICY] * (n // 2) + [REFERENCE] * (n // 2)


def mixp(n: int, coins: list[float], settings: Mixp) -> list[Component]:
    """Two at a time: ① both from π_θ, or ② one from beyond the policy and one from between policy and reference.

    A coin for each two decides (arXiv 2409.19605).
    """
    spread = settings.spread
    mixed = [Component("beyond", 1 + spread, -spread), Component("between", 1 - spread, spread)]
    return [c for coin in coins[: n // 2] for c in ([POLICY] * 2 if coin < settings.share else mixed)]


def dataset(n: int, coins: list[float], settings: Mixp) -> list[Component]:
    """Nothing is sampled: the data set's own chosen and rejected responses (offline DPO)."""
    return [CHOSEN, REJECTED]


# From config's word to (n, coins, settings) -> n components; `coins` [n] are uniform in [0, 1), the prompt's own.
# A sampler gives fewer where its groups do not fill n, and config is refused.
# With best_worst (online GSHF) only the best response against the worst makes a pair; see prefloop.pairs.
SAMPLERS: dict[str, Callable[[int, list[float], Mixp], list[Component]]] = {
    "policy": policy,
    "reference": reference,
    "policy_reference": policy_reference,
    "best_worst": policy,
    "mixp": mixp,
    "dataset": dataset,
}


def models_of(settings: Sampling) -> list[str]:
    """Which models a sampler needs: policy, reference, both or none. KeyError if SAMPLERS has no such word."""
    return [name for name in ("policy", "reference") if any(getattr(c, name) for c in possible(settings))]


def mixes_logits(settings: Sampling) -> bool:
    """Whether a response may come from both models' logits at once."""
    return any(component.policy and component.reference for component in possible(settings))


def possible(settings: Sampling) -> list[Component]:
    """Every component that a sampler may ask for, whatever the coins."""
    extremes = ([0.0] * settings.n, [1 - 2**-53] * settings.n)
    return [c for coins in extremes for c in SAMPLERS[settings.sampler](settings.n, coins, settings.mixp)]
