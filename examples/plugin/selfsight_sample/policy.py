"""An augmentation policy, and a step that it ends in: Policy.steps, or `- invert` in a pipeline."""

from dataclasses import dataclass
from typing import ClassVar

from selfsight.augment import Entry, Policy, Step


@dataclass(frozen=True)
class Invert(Step):
    """The negative of a view, mixed with it."""

    amount: float = 1.0
    """1: the negative alone."""

    name: ClassVar[str] = "invert"

    def act(self, x, gate, u, blank):
        """Change x (n, C, s, s) in [0, 1] in place, where gate (n,) is true."""
        rows = gate.to(x.device)
        x[rows] = (1 - self.amount) * x[rows] + self.amount * (1 - x[rows])


HALF = Entry(
    (Policy(scale=(0.5, 1.0), jitter=0.0, gray=0.0, steps=(Invert(apply_prob=0.5),)),),
    "half or more of the picture, sometimes its negative",
    "the sample package",
    "ours",
)
