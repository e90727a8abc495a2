"""Named augmentations: what the published methods do to a picture, as data.

A policy describes one view. Operations come in the order: crop, flip, shift, rotation, jitter, gray, blur, solarisation,
`steps`, normalisation; `colour_first` moves jitter and gray before the crop, `gray_first` gray before jitter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from selfsight.augment.geometry import Interpolation
from selfsight.augment.steps import Cutout, RandAugment, Step
from selfsight.errors import WrongUse, perhaps


@dataclass(frozen=True)
class Policy:
    """The augmentation of one view. Probabilities are per sample; strengths as in torchvision's ColorJitter."""

    scale: tuple[float, float] | None = (0.08, 1.0)
    """Area of the crop as a fraction of the picture; None: the largest central square."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width / height of the crop."""
    interpolation: Interpolation = "bicubic"
    """Kernel of the resize, antialiased."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    shift: float = 0.0
    """Probability of a translation by up to an eighth of the side, the gap filled by reflection; whole pictures only."""
    rotate: float = 0.0
    """Probability of a rotation."""
    degrees: float = 30.0
    """A rotation is drawn from -degrees..degrees."""
    jitter: float = 0.8
    """Probability of the colour jitter."""
    brightness: float = 0.4
    """Multiplier drawn from 1 - x..1 + x, as contrast and saturation."""
    contrast: float = 0.4
    """See brightness."""
    saturation: float = 0.4
    """See brightness."""
    hue: float = 0.1
    """Hue shift drawn from -x..x turns."""
    gray: float = 0.2
    """Probability of grayscale."""
    blur: float = 0.0
    """Probability of a Gaussian blur; its kernel is a tenth of the side."""
    sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's standard deviation in pixels."""
    solarise: float = 0.0
    """Probability of inverting bright pixels."""
    threshold: float = 0.5
    """What is bright, 0..1."""
    colour_first: bool = False
    """Jitter and gray before the crop."""
    gray_first: bool = False
    """Gray before jitter."""
    steps: tuple[Step, ...] = ()
    """What comes last, in its order: such as RandAugment and Cutout."""

    @property
    def order(self) -> tuple[str, ...]:
        """The operations this policy can apply, in their order."""
        place = [("crop", True), ("flip", self.flip > 0), ("shift", self.shift > 0), ("rotate", self.rotate > 0)]
        colour = [("jitter", self.jitter > 0), ("gray", self.gray > 0)]
        colour = colour[::-1] if self.gray_first else colour
        rest = [("blur", self.blur > 0), ("solarise", self.solarise > 0)]
        steps = [*colour, *place, *rest] if self.colour_first else [*place, *colour, *rest]
        return (*(name for name, on in steps if on), *(step.name for step in self.steps))

    @property
    def kind(self) -> tuple[object, ...]:
        """What views that are made together must have in common."""
        return self.interpolation, self.colour_first, self.gray_first, self.scale is None

    def colour_operations(self) -> tuple[str, ...]:
        """The operations that mean something for three colour channels only."""
        jitter = self.jitter > 0
        on = {"saturation": jitter and self.saturation > 0, "hue": jitter and self.hue > 0, "gray": self.gray > 0}
        own = [name for name, used in on.items() if used]
        return tuple(dict.fromkeys((*own, *(name for step in self.steps for name in step.needs()))))

    def stronger(self, strength: float) -> Policy:
        """Jitter times `strength`; the hue stops at half a turn."""
        return replace(
            self,
            brightness=self.brightness * strength,
            contrast=self.contrast * strength,
            saturation=self.saturation * strength,
            hue=min(0.5, self.hue * strength),
        )


Trust = Literal["code", "paper", "re-implementation", "ours"]


@dataclass(frozen=True)
class Entry:
    """A named policy with its origin."""

    views: tuple[Policy, ...]
    """View v uses views[v % len(views)]."""
    about: str
    """One line for people."""
    source: str
    """Where it is described."""
    trust: Trust
    """Taken from the authors' code, their paper, somebody's re-implementation, or our own choice."""
    local: Policy | None = None
    """What small crops get; None: the views' policies. If set, the views keep their scale beside small crops."""


_SIMCLR = Policy(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=0.5)
_SIMCLR_CIFAR = replace(_SIMCLR.stronger(0.5), blur=0.0)
_BYOL = Policy(saturation=0.2, blur=1.0)
_BYOL_PAIR = (_BYOL, replace(_BYOL, blur=0.1, solarise=0.2))
_COLAB = Policy(interpolation="bilinear")
_ASYM = Policy(saturation=0.2)
_DINO = replace(_BYOL, scale=(0.4, 1.0))
_MOCO = Policy(scale=(0.2, 1.0), interpolation="bilinear")
_CROP = Policy(scale=(0.2, 1.0), jitter=0.0, gray=0.0)
_NOTHING = Policy(scale=None, flip=0.0, jitter=0.0, gray=0.0)

ENTRIES: dict[str, Entry] = {
    "simclr": Entry((_SIMCLR,), "SimCLR for large pictures: strong jitter, gray, blur", "arXiv 2002.05709, A", "code"),
    "simclr-cifar": Entry(
        (_SIMCLR_CIFAR,), "SimCLR for 32 px: half the jitter, no blur", "arXiv 2002.05709, B.9", "paper"
    ),
    "moco-v1": Entry(
        (replace(_MOCO, jitter=1.0, hue=0.4, gray_first=True),),
        "MoCo v1: gray before a jitter that is always on, hue 0.4",
        "arXiv 1911.05722, code",
        "code",
    ),
    "moco-v2": Entry(
        (replace(_MOCO, blur=0.5),), "MoCo v2 and SimSiam: weaker jitter than SimCLR, blur", "arXiv 2003.04297", "code"
    ),
    "byol": Entry(_BYOL_PAIR, "BYOL: view 1 always blurred, view 2 solarised at 0.2", "arXiv 2006.07733, B", "code"),
    "barlow": Entry(_BYOL_PAIR, "Barlow Twins, VICReg, MoCo v3: the pair of BYOL", "arXiv 2103.03230, A", "code"),
    "dino": Entry(
        (_DINO, replace(_DINO, blur=0.1, solarise=0.2)),
        "DINO multi-crop: BYOL's pair on crops of at least 0.4, small crops blurred at 0.5",
        "arXiv 2104.14294, code",
        "code",
        local=replace(_BYOL, scale=(0.05, 0.4), blur=0.5),
    ),
    "colab": Entry((_COLAB,), "The MoCo CIFAR demo, DirectPred: moderate jitter, no blur", "MoCo CIFAR demo", "code"),
    "asym": Entry(
        (_ASYM, replace(_ASYM, solarise=0.2)),
        "solo-learn's asymmetric CIFAR pair: BYOL, Barlow Twins, NNCLR, MoCo v3",
        "solo-learn",
        "re-implementation",
    ),
    "sym": Entry(
        (_SIMCLR,), "solo-learn's CIFAR policy of SimCLR: full strength, blur", "solo-learn", "re-implementation"
    ),
    "weak": Entry(
        (replace(_MOCO, scale=(0.08, 1.0), interpolation="bicubic", blur=0.5),),
        "solo-learn's CIFAR policy of MoCo v2 and SimSiam: moderate jitter, blur",
        "solo-learn",
        "re-implementation",
    ),
    "vicreg-cifar": Entry(
        (replace(_ASYM, scale=(0.2, 1.0), solarise=0.1),),
        "solo-learn's CIFAR policy of VICReg: both views solarised at 0.1",
        "solo-learn",
        "re-implementation",
    ),
    "w-mse": Entry(
        (replace(_MOCO, interpolation="bicubic", gray=0.1, colour_first=True),),
        "W-MSE: jitter and gray before the crop",
        "arXiv 2007.06346, code",
        "code",
    ),
    "emp-ssl": Entry(
        (Policy(scale=(0.25, 0.25), ratio=(1.0, 1.0), hue=0.2, blur=0.1, solarise=0.1),),
        "EMP-SSL: square patches of a quarter of the area",
        "arXiv 2304.03977, code",
        "code",
    ),
    "deepcluster": Entry(
        (Policy(scale=(0.2, 1.0), interpolation="bilinear"),),
        "Clustering (DeepCluster, SeLa): crops of at least 0.2, moderate jitter, one view",
        "crop and flip of arXiv 1807.05520; jitter is our addition",
        "ours",
    ),
    "jigsaw": Entry(
        (Policy(scale=None, interpolation="bilinear", jitter=0.0, gray=0.3),),
        "Jigsaw puzzles: the central square, flipped at random, 0.3 gray",
        "arXiv 1603.09246, section 4.1",
        "paper",
    ),
    "jigsaw-vissl": Entry(
        (Policy(scale=None, interpolation="bilinear", jitter=0.0, gray=0.66),),
        "Jigsaw puzzles for a ResNet-50: 0.66 gray",
        "arXiv 1905.01235, code",
        "code",
    ),
    "mae": Entry((_CROP,), "MAE: crops of at least 0.2 and flips, no colours", "arXiv 2111.06377, A.1", "code"),
    "simmim": Entry(
        (replace(_CROP, scale=(0.67, 1.0)),),
        "SimMIM: crops of at least 0.67 and flips, no colours",
        "arXiv 2111.09886",
        "code",
    ),
    "ijepa": Entry(
        (replace(_CROP, scale=(0.3, 1.0), flip=0.0),),
        "I-JEPA: crops of at least 0.3, nothing else",
        "arXiv 2301.08243",
        "code",
    ),
    "crop-flip": Entry(
        (Policy(jitter=0.0, gray=0.0),),
        "Supervised training and linear heads: crops of at least 0.08 and flips, no colours; any number of channels",
        "torchvision's ImageNet recipe",
        "code",
    ),
    "randaugment": Entry(
        (Policy(jitter=0.0, gray=0.0, steps=(RandAugment(), Cutout())),),
        "RandAugment (2 operations of magnitude 9) and Cutout after crop and flip; any number of channels",
        "arXiv 1909.13719 and 1708.04552, with the crops of SimCLR",
        "ours",
    ),
    "svhn": Entry(
        (replace(_SIMCLR_CIFAR, scale=None, flip=0.0),),
        "Digits: no crop and no flip, colours of simclr-cifar; add --views.rotate 0.33",
        "street numbers change meaning when mirrored or cut",
        "ours",
    ),
    "amdim": Entry(
        (replace(_MOCO, scale=(0.3, 1.0), ratio=(0.7, 1.4), interpolation="bicubic", gray=0.25),),
        "AMDIM for large pictures: crops of at least 0.3, moderate jitter, gray 0.25",
        "arXiv 1906.00910",
        "paper",
    ),
    "amdim-cifar": Entry(
        (Policy(scale=None, shift=0.8, hue=0.2, gray=0.25),),
        "AMDIM for 32 px: no crop but a translation, jitter with hue 0.2, gray 0.25",
        "arXiv 1906.00910",
        "paper",
    ),
    "cpc": Entry(
        (
            Policy(
                scale=(0.75, 0.75), ratio=(1.0, 1.0), brightness=0.125, contrast=0.5, saturation=0.5, hue=0.2, gray=0.25
            ),
        ),
        "CPC v2 for large pictures: crops of 260 px from 300 px, the colours of Inception, gray 0.25; meant for each patch",
        "arXiv 1905.09272; its AutoAugment and elastic operations are left out",
        "paper",
    ),
    "cpc-v1": Entry(
        (Policy(scale=(0.73, 0.73), ratio=(1.0, 1.0), jitter=0.0, gray=1.0),),
        "CPC v1: crops of 256 px from 300 px, always gray",
        "arXiv 1807.03748",
        "paper",
    ),
    "seed001": Entry(
        (replace(_MOCO, colour_first=True),),
        "Jitter and gray before a crop of at least 0.2, the same for both views, no blur",
        "a first-generation project this one replaces",
        "ours",
    ),
    "seed002": Entry(
        (replace(_SIMCLR_CIFAR, blur=0.5, interpolation="bilinear"),),
        "SimCLR at half strength with a small blur",
        "a first-generation project this one replaces",
        "ours",
    ),
    "seed004": Entry(
        (Policy(),),
        "Bicubic crops, moderate jitter, gray; no blur",
        "a first-generation project this one replaces",
        "ours",
    ),
    "plain": Entry(
        (Policy(scale=(0.2, 1.0), saturation=0.0, hue=0.0, gray=0.0, blur=0.5),),
        "Any number of channels: crop, flip, brightness, contrast, blur",
        "for pictures that are not RGB",
        "ours",
    ),
    "none": Entry((_NOTHING,), "The whole picture, unchanged", "for probes and reconstruction", "ours"),
}
"""Every named policy, in the order they are listed."""

POLICIES: dict[str, tuple[Policy, ...]] = {name: entry.views for name, entry in ENTRIES.items()}
"""View v of policy p is POLICIES[p][v % len(POLICIES[p])]."""


def entry(name: str) -> Entry:
    """The entry of this name. Raises WrongUse for an unknown one."""
    if name.endswith((".yaml", ".yml")):
        raise WrongUse(f"{name!r} is no policy: steps from a file are --views.pipeline {name}")
    if name not in ENTRIES:
        raise WrongUse(f"no augmentation policy is called {name!r}.{perhaps(name, list(ENTRIES))}")
    return ENTRIES[name]


def suits(name: str, channels: int) -> bool:
    """Whether the policy works on pictures with this many channels; `plain` and `none` always do."""
    known = entry(name)
    policies = (*known.views, known.local) if known.local else known.views
    return channels == 3 or not any(policy.colour_operations() for policy in policies)
