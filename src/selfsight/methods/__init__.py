"""The methods, one file each. A new method is one file and one line here."""

from selfsight import plugins
from selfsight.core import Method
from selfsight.errors import WrongUse, perhaps
from selfsight.methods.amdim import AMDIM
from selfsight.methods.barlowtwins import BarlowTwins
from selfsight.methods.byol import BYOL
from selfsight.methods.cpc import CPC
from selfsight.methods.deepcluster import DeepCluster
from selfsight.methods.deepclusterv2 import DeepClusterV2
from selfsight.methods.densecl import DenseCL
from selfsight.methods.dino import DINO
from selfsight.methods.dinov2 import DINOv2
from selfsight.methods.directcopy import DirectCopy
from selfsight.methods.directpred import DirectPred
from selfsight.methods.empssl import EMPSSL
from selfsight.methods.ibot import IBOT
from selfsight.methods.ijepa import IJEPA
from selfsight.methods.instdisc import InstDisc
from selfsight.methods.jigsaw import Jigsaw
from selfsight.methods.lejepa import LeJEPA
from selfsight.methods.mae import MAE
from selfsight.methods.moco import MoCo
from selfsight.methods.mocov3 import MoCoV3
from selfsight.methods.msn import MSN
from selfsight.methods.nnclr import NNCLR
from selfsight.methods.pirl import PIRL
from selfsight.methods.pixpro import PixPro
from selfsight.methods.relic import ReLIC
from selfsight.methods.rotnet import RotNet
from selfsight.methods.sela import SeLa
from selfsight.methods.simclr import SimCLR
from selfsight.methods.simmim import SimMIM
from selfsight.methods.simsiam import SimSiam
from selfsight.methods.supcon import SupCon
from selfsight.methods.supervised import Supervised
from selfsight.methods.swav import SwAV
from selfsight.methods.tico import TiCo
from selfsight.methods.vicreg import VICReg
from selfsight.methods.wmse import WMSE

METHODS: dict[str, type[Method]] = {
    "simclr": SimCLR,
    "moco": MoCo,
    "mocov3": MoCoV3,
    "byol": BYOL,
    "simsiam": SimSiam,
    "directpred": DirectPred,
    "directcopy": DirectCopy,
    "relic": ReLIC,
    "barlowtwins": BarlowTwins,
    "vicreg": VICReg,
    "nnclr": NNCLR,
    "wmse": WMSE,
    "tico": TiCo,
    "lejepa": LeJEPA,
    "empssl": EMPSSL,
    "swav": SwAV,
    "deepcluster": DeepCluster,
    "deepclusterv2": DeepClusterV2,
    "sela": SeLa,
    "dino": DINO,
    "ibot": IBOT,
    "dinov2": DINOv2,
    "msn": MSN,
    "amdim": AMDIM,
    "cpc": CPC,
    "jigsaw": Jigsaw,
    "rotnet": RotNet,
    "pirl": PIRL,
    "instdisc": InstDisc,
    "mae": MAE,
    "simmim": SimMIM,
    "ijepa": IJEPA,
    "densecl": DenseCL,
    "pixpro": PixPro,
    "supcon": SupCon,
    "supervised": Supervised,
}


def _is_method(_: str, found: object) -> bool:
    own = isinstance(found, type) and issubclass(found, Method) and isinstance(getattr(found, "Config", None), type)
    return own and all(found.Config is not known.Config for known in METHODS.values())  # type: ignore[attr-defined]


def method_named(name: str) -> type[Method]:
    """The class of a method; WrongUse with a suggestion for an unknown name."""
    if name not in METHODS:
        raise WrongUse(f"unknown method {name!r}.{perhaps(name, set(METHODS))}")
    return METHODS[name]


def name_of(config: object) -> str:
    """The name of the method that a config belongs to."""
    return next(name for name, method in METHODS.items() if method.Config is type(config))


plugins.add("selfsight.methods", METHODS, _is_method)
