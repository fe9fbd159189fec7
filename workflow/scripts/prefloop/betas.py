"""How β moves during training: one update per optimizer step on the global batch's margins, never in evaluation."""

from collections.abc import Callable

from torch import Tensor


class Constant:
    """β stays what config says."""

    def __init__(self, beta: float):
        self.beta = beta

    def update(self, margins: Tensor) -> float:
        """β for the next step, given the global batch's log-ratio margins [pairs] of this one."""
        return self.beta

    def state_dict(self) -> dict:
        """What policy.pt keeps as `beta_state`: plain numbers and strings."""
        return {"rule": "constant", "beta": self.beta}


BETAS: dict[str, Callable[..., Constant]] = {"constant": Constant}
