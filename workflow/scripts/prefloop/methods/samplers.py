"""Samplers: which model or mixture each response is sampled from.

Snakemake imports this module, so it must not have heavy imports.
"""

from dataclasses import dataclass, field
from math import cosh
from typing import Annotated, NamedTuple, Protocol

from annotated_types import Ge, Gt, Le

from prefloop.core.metadata import Choice, OnlyIf, Unit

SAMPLED = OnlyIf("sampler", other_than=("dataset",))  # of settings for sampled responses only


class Component(NamedTuple):
    """A distribution to sample from, with logits policy·z_θ + reference·z_ref: π_θ^policy · π_ref^reference."""

    name: str
    policy: float
    """Weight of the policy's logits."""
    reference: float
    """Weight of the reference's logits."""


POLICY = Component("policy", 1.0, 0.0)
REFERENCE = Component("reference", 0.0, 1.0)
CHOSEN, REJECTED = Component("chosen", 0.0, 0.0), Component("rejected", 0.0, 0.0)  # in the data set, not sampled


@dataclass
class Mixp:
    """The mixture of policy and reference of arXiv 2409.19605; responses come in pairs."""

    p: Annotated[float, Ge(0), Le(1), Unit("probability")] = 0.3
    """Probability that both responses of a pair are sampled from the policy."""
    rmax: Annotated[float | None, Ge(0), Le(100), Unit("units of reward")] = None
    """If given, this probability is 2 / (2 + e^rmax + e^−rmax); if null, it is p."""
    spread: Annotated[float, Gt(0), Unit("exponent")] = 0.5
    """s of the two mixtures π_θ^(1+s)·π_ref^(−s) and π_θ^(1−s)·π_ref^s."""

    @property
    def share(self) -> float:
        """Probability of case ①: both responses from the policy."""
        return self.p if self.rmax is None else 1 / (1 + cosh(self.rmax))


@dataclass
class Sampling:
    """Which models sample the responses to a prompt."""

    sampler: Annotated[str, Choice("methods.samplers.SAMPLERS")] = "policy"
    """Which models sample the responses."""
    n: Annotated[int, Ge(2), Unit("responses per prompt"), SAMPLED] = 4
    """Number of responses. It must be even with the samplers policy_reference and mixp."""
    mixp: Annotated[Mixp, OnlyIf("sampler", ("mixp",))] = field(default_factory=Mixp)
    """Settings of the sampler mixp."""


class Sampler(Protocol):
    """Chooses the distribution from which each response to a prompt is sampled."""

    def __call__(self, n: int, uniforms: list[float], settings: Mixp, /) -> list[Component]:
        """One component per response.

        Args:
            n: Number of responses. A sampler of pairs or halves returns fewer components if n is odd; config validation
                rejects such a setting.
            uniforms: [n], random numbers in [0, 1) for this prompt.
            settings: Settings of mixp.
        """


def policy(n: int, uniforms: list[float], settings: Mixp) -> list[Component]:
    """On-policy: all from π_θ (OAIF, arXiv 2402.04792)."""
    return [POLICY] * n


def reference(n: int, uniforms: list[float], settings: Mixp) -> list[Component]:
    """Off-policy: all from π_ref ("vanilla" in arXiv 2409.19605)."""
    return [REFERENCE] * n


def policy_reference(n: int, uniforms: list[float], settings: Mixp) -> list[Component]:
    """The first half from π_θ, the second half from π_ref (hybrid GSHF, arXiv 2312.11456; XPO, arXiv 2405.21046)."""
    return [POLICY] * (n // 2) + [REFERENCE] * (n // 2)


def mixp(n: int, uniforms: list[float], settings: Mixp) -> list[Component]:
    """Pairs of responses: ① both from π_θ, or ② one from beyond the policy and one between policy and reference.

    One random number per pair decides between ① and ② (arXiv 2409.19605).
    """
    spread = settings.spread
    mixed = [Component("beyond", 1 + spread, -spread), Component("between", 1 - spread, spread)]
    return [c for uniform in uniforms[: n // 2] for c in ([POLICY] * 2 if uniform < settings.share else mixed)]


def dataset(n: int, uniforms: list[float], settings: Mixp) -> list[Component]:
    """The data set's own chosen and rejected responses; nothing is sampled (offline DPO)."""
    return [CHOSEN, REJECTED]


# best_worst (online GSHF) samples like `policy`, but only the best and the worst response form a pair
# (prefloop.data.pairs).
SAMPLERS: dict[str, Sampler] = {
    "policy": policy,
    "reference": reference,
    "policy_reference": policy_reference,
    "best_worst": policy,
    "mixp": mixp,
    "dataset": dataset,
}


def models_of(settings: Sampling) -> list[str]:
    """The models that a sampler needs: policy, reference, both or none. KeyError if the sampler does not exist."""
    components = possible_components(settings)
    return [name for name in ("policy", "reference") if any(getattr(component, name) for component in components)]


def mixes_logits(settings: Sampling) -> bool:
    """Whether any response is sampled from a mixture of both models' logits."""
    return any(component.policy and component.reference for component in possible_components(settings))


def possible_components(settings: Sampling) -> list[Component]:
    """All components that a sampler may choose, over all random numbers."""
    extremes = ([0.0] * settings.n, [1 - 2**-53] * settings.n)
    sampler = SAMPLERS[settings.sampler]
    return [component for uniforms in extremes for component in sampler(settings.n, uniforms, settings.mixp)]
