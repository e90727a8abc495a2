"""What a user may choose of optimizer and schedule."""

from dataclasses import dataclass
from typing import Literal, get_args

from selfsight.errors import WrongUse, perhaps

OptimizerName = Literal["sgd", "adam", "adamw", "lars", "muon"]
Scaling = Literal["linear", "sqrt", "none"]
Dialect = Literal["standard", "tf", "clipped", "larc"]
ScheduleName = Literal["constant", "cosine", "step", "multistep", "polynomial", "exponential"]


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer of the whole method.

    Weight decay: `sgd` and `adam` add `weight_decay * p` to the gradient (L2 in the loss); `lars` does the same and
    counts it in its trust ratio; `adamw` and `muon` shrink the weights by `lr * weight_decay` beside the gradient step
    (decoupled). A method's parameter group may set its own momentum, weight_decay and multiple of the rate.
    """

    name: OptimizerName = "sgd"
    """sgd, adam (L2 decay), adamw (decoupled decay), lars (four dialects) or muon."""
    lr: float = 0.03
    """Base learning rate; `scaling` turns it into the peak rate."""
    scaling: Scaling = "linear"
    """linear: peak = lr * batch / base_batch. sqrt: peak = lr * sqrt(batch). none: peak = lr. The batch is global."""
    base_batch: int = 256
    """Batch size that `lr` is meant for under linear scaling, in pictures (not views)."""
    momentum: float = 0.9
    """Momentum of sgd, lars and muon (muon's paper: 0.95)."""
    nesterov: bool = False
    """Nesterov momentum; sgd and muon only."""
    weight_decay: float = 1e-4
    """Strength of the weight decay; see above for its form."""
    weight_decay_end: float | None = None
    """Where weight_decay goes along half a cosine over the run (DINO: 0.04 to 0.4); None: it stays."""
    decay_bias_and_norm: bool = False
    """Treat biases, norm weights (at most one dimension) and a transformer's tokens like matrices. False: no decay,
    and under lars no trust ratio (SimCLR, BYOL, Barlow Twins, VICReg, MoCo v3 ResNet, DINO). True: MoCo v1/v2, SimSiam,
    MoCo v3 ViT, SwAV."""
    bias_and_norm_lr: float = 1.0
    """Multiplies the learning rate of biases and norm weights (the authors of Barlow Twins: 0.024)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the two moments; adam and adamw."""
    eps: float = 1e-8
    """Term in the denominator; adam and adamw."""
    lars_dialect: Dialect = "standard"
    """standard: BYOL, MoCo v3, Barlow Twins, VICReg. tf: SimCLR (the rate is inside the momentum buffer). clipped:
    solo-learn (a ratio times rate above lr is cut to lr; eta 0.02 on CIFAR). larc: SwAV, SEER, DeepCluster-v2."""
    lars_eta: float = 1e-3
    """Trust coefficient of lars."""
    muon_steps: int = 5
    """Newton-Schulz iterations of muon."""
    muon_aux_lr: float = 0.05
    """Base rate of muon's SGD for everything that is not a matrix (biases, norms, tokens); scaled as `lr` is."""
    muon_aux_weight_decay: float = 0.0
    """Weight decay of those parameters under muon, decoupled; it acts where decay_bias_and_norm is true."""
    clip_norm: float = 0.0
    """Largest norm of the gradient; longer ones are scaled down. 0: off."""
    clip_per: Literal["all", "tensor"] = "all"
    """all: clip_norm holds for the whole gradient; tensor: for that of each parameter alone (DINO)."""
    clip_value: float = 0.0
    """Largest absolute value of each gradient entry. 0: off."""

    def __post_init__(self) -> None:
        _one_of("optimizer.name", self.name, OptimizerName)
        _one_of("optimizer.scaling", self.scaling, Scaling)
        _one_of("optimizer.lars_dialect", self.lars_dialect, Dialect)
        for name in ("lr", "base_batch", "lars_eta", "muon_steps", "muon_aux_lr", "eps", "bias_and_norm_lr"):
            _above_zero(f"optimizer.{name}", getattr(self, name))
        for name in ("weight_decay", "muon_aux_weight_decay", "clip_norm", "clip_value"):
            _not_negative(f"optimizer.{name}", getattr(self, name))
        if self.weight_decay_end is not None:
            _not_negative("optimizer.weight_decay_end", self.weight_decay_end)
            if self.weight_decay == 0:
                raise WrongUse("optimizer.weight_decay_end needs a weight_decay above 0 to start from.")
        if self.clip_per not in ("all", "tensor"):
            raise WrongUse(f"optimizer.clip_per is {self.clip_per!r}; use all or tensor.")
        for name, value in (("momentum", self.momentum), ("betas", min(self.betas)), ("betas", max(self.betas))):
            if not 0 <= value < 1:
                raise WrongUse(f"optimizer.{name} is {value}; it must be at least 0 and below 1.")
        if self.nesterov and self.name not in ("sgd", "muon"):
            raise WrongUse(f"optimizer.nesterov does not exist for {self.name}; use sgd or muon, or switch it off.")
        if self.nesterov and self.momentum == 0:
            raise WrongUse("optimizer.nesterov needs momentum; set optimizer.momentum above 0 or switch nesterov off.")
        if self.clip_norm and self.clip_value:
            raise WrongUse("optimizer.clip_norm and optimizer.clip_value are both set; set one of them to 0.")


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate over the run, as a factor of the peak rate: a pure function of the step (t of T)."""

    name: ScheduleName = "cosine"
    """After the warm-up: constant, cosine or polynomial or exponential (to `final`), step, multistep."""
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up, per step; the rate is at its peak at the first step after them."""
    warmup_start: float = 0.0
    """Factor at the very first step of a warm-up (0 in MoCo v3, BYOL, Barlow Twins, VICReg; 0.0625 in SwAV)."""
    final: float = 0.0
    """Factor at the end of the run; cosine, polynomial and exponential (which needs it above 0)."""
    power: float = 1.0
    """Exponent of polynomial; 1 is a straight line."""
    milestones: tuple[float, ...] = (0.6, 0.8)
    """multistep: fractions of the whole schedule where gamma multiplies the rate (MoCo: epochs 120 and 160 of 200)."""
    step_epochs: float = 30.0
    """step: epochs between two multiplications by gamma, counted from the start of the run."""
    gamma: float = 0.1
    """step and multistep: the multiplier."""
    stretch: float = 1.0
    """The schedule would end at this multiple of the run, that of the weight decay too: the run stops before it (MSN:
    1.25). The warm-up stays as it is."""
    per: Literal["step", "epoch"] = "step"
    """epoch: after the warm-up the rate changes only where an epoch starts (MoCo v1/v2, SimSiam)."""

    def __post_init__(self) -> None:
        _one_of("schedule.name", self.name, ScheduleName)
        if self.per not in ("step", "epoch"):
            raise WrongUse(f"schedule.per is {self.per!r}; use step or epoch.")
        for name in ("warmup_epochs", "warmup_start", "final"):
            _not_negative(f"schedule.{name}", getattr(self, name))
        for name in ("power", "step_epochs", "gamma"):
            _above_zero(f"schedule.{name}", getattr(self, name))
        if not self.stretch >= 1:
            raise WrongUse(f"schedule.stretch is {self.stretch}; give 1 to end with the run, or more (MSN: 1.25).")
        if any(not 0 < m < 1 for m in self.milestones):
            raise WrongUse(f"schedule.milestones are {self.milestones}; give fractions of the run between 0 and 1.")
        if self.name == "exponential" and self.final == 0:
            raise WrongUse("schedule exponential never reaches 0; set schedule.final above 0, such as 0.001.")


def _one_of(field: str, value: str, literal: object) -> None:
    known = get_args(literal)
    if value not in known:
        raise WrongUse(f"{field} {value!r} is unknown.{perhaps(str(value), known)}")


def _above_zero(field: str, value: float) -> None:
    if not value > 0:
        raise WrongUse(f"{field} is {value}; it must be above 0.")


def _not_negative(field: str, value: float) -> None:
    if not value >= 0:
        raise WrongUse(f"{field} is {value}; it must be at least 0.")
