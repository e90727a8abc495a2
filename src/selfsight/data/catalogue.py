"""The data sets that have a name. An entry knows facts and how to find the pictures; opening.py does the rest."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from selfsight.data import archives, arrays, imagenet, synthetic
from selfsight.data.files import Request, Source, class_order


@dataclass(frozen=True)
class Known:
    """A data set with a name."""

    about: str
    classes: tuple[str, ...]  #: empty where the files of the set tell them
    image_size: int
    train: int  #: pictures of the training part
    test: int
    licence: str
    open: Callable[[Request], Source] = field(repr=False)
    mean: tuple[float, ...] | None = None  #: published, in 0..1 units, for the name without options; None: computed
    std: tuple[float, ...] | None = None
    policy: str = ""  #: augmentation that its pictures ask for; "": the method's own


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_IMAGENET_LICENCE = (
    "non-commercial research and education; the owners of the photos keep their rights; by O. Russakovsky et al."
)
_IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # the field takes them for the subsets, too

DATASETS: dict[str, Known] = {
    "shapes": Known(
        "built in: ten geometric figures in random places, sizes and colours; shapes:SIZE:COUNT for others",
        synthetic.CLASSES,
        32,
        10_000,
        2_000,
        "generated, free",
        arrays.shapes,
    ),
    "cifar10": Known(
        "CIFAR-10: small photos of ten kinds of things",
        _names("airplane automobile bird cat deer dog frog horse ship truck"),
        32,
        50_000,
        10_000,
        "no licence stated; by A. Krizhevsky (2009), from the 80 million tiny images; for research",
        arrays.cifar("CIFAR10"),
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
    ),
    "cifar100": Known(
        "CIFAR-100: small photos of a hundred kinds of things",
        _names(
            "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly "
            "camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup "
            "dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower "
            "leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid "
            "otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray "
            "road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar "
            "sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle "
            "wardrobe whale willow_tree wolf woman worm"
        ),
        32,
        50_000,
        10_000,
        "no licence stated; by A. Krizhevsky (2009), from the 80 million tiny images; for research",
        arrays.cifar("CIFAR100"),
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
    ),
    "svhn": Known(
        "SVHN: digits of house numbers; svhn:extra trains on easier ones, too",
        tuple("0123456789"),
        32,
        73_257,
        26_032,
        "non-commercial use only; by Y. Netzer et al., Stanford and Google (2011)",
        arrays.svhn,
        (0.4377, 0.4438, 0.4728),
        (0.1980, 0.2010, 0.1970),
        policy="svhn",
    ),
    "stl10": Known(
        "STL-10: photos of ten kinds of things, most of them unlabelled; stl10:train, stl10:unlabeled train on one kind",
        _names("airplane bird car cat deer dog horse monkey ship truck"),
        96,
        105_000,
        8_000,
        "no licence stated; by A. Coates et al., Stanford (2011), from ImageNet; for research",
        arrays.stl10,
    ),
    "celeba": Known(
        "CelebA: aligned faces, unlabelled; celeba:Smiling labels them by one of the 40 attributes",
        (),
        160,
        162_770,
        19_962,
        "non-commercial research only; by the Multimedia Laboratory, CUHK (2015)",
        archives.celeba,
    ),
    "cub200": Known(
        "CUB-200-2011: photos of 200 species of birds; cub200:disjoint trains on the first half of the classes",
        (),
        224,
        5_994,
        5_794,
        "non-commercial research and education; by Caltech and UCSD (2011)",
        archives.cub200,
    ),
    "cars196": Known(
        "Cars-196: photos of 196 models of cars; cars196:disjoint trains on a random half of the classes",
        (),
        224,
        8_144,
        8_041,
        "non-commercial research; by J. Krause et al., Stanford (2013)",
        archives.cars196,
    ),
    "sop": Known(
        "Stanford Online Products: photos of 22634 products, other ones in each part",
        (),
        224,
        59_551,
        60_502,
        "no licence stated; by H. O. Song et al., Stanford (2016), from eBay; for research",
        archives.sop,
    ),
    "imagenet": Known(
        "ImageNet (ILSVRC 2012): photos of 1000 kinds of things",
        (),
        224,
        1_281_167,
        50_000,
        _IMAGENET_LICENCE,
        imagenet.imagenet(),
        *_IMAGENET_STATISTICS,
    ),
    **{
        f"imagenet{count}": Known(
            f"{count} classes of ImageNet, as SCAN chose them; reads the same files",
            (),
            224,
            train,
            50 * count,
            _IMAGENET_LICENCE,
            imagenet.imagenet(f"imagenet{count}"),
            *_IMAGENET_STATISTICS,
        )
        for count, train in ((50, 64_274), (100, 128_545), (200, 256_558))
    },
    "imagenette": Known(
        "Imagenette: ten easy classes of ImageNet; imagenette:320, imagenette:160 are smaller files",
        (),
        224,
        9_469,
        3_925,
        f"list: Apache 2.0, by J. Howard, fast.ai (2019); pictures: {_IMAGENET_LICENCE}",
        imagenet.fastai("imagenette"),
    ),
    "imagewoof": Known(
        "Imagewoof: ten breeds of dogs of ImageNet; imagewoof:320, imagewoof:160 are smaller files",
        (),
        224,
        9_025,
        3_929,
        f"list: Apache 2.0, by J. Howard, fast.ai (2019); pictures: {_IMAGENET_LICENCE}",
        imagenet.fastai("imagewoof"),
    ),
    "tiny-imagenet": Known(
        "Tiny ImageNet: small photos of 200 classes of ImageNet",
        (),
        64,
        100_000,
        10_000,
        f"by Stanford's course CS231n (2015); pictures: {_IMAGENET_LICENCE}",
        imagenet.tiny_imagenet,
    ),
}
"""Name -> entry. A new set is one entry here."""


def numbered(labels: list[str] | Tensor | None, classes: list[str]) -> Tensor | None:
    """(N,) int64 class numbers of a part's labels."""
    if labels is None or isinstance(labels, Tensor):
        return labels
    number = {name: i for i, name in enumerate(classes)}
    return torch.tensor([number[name] for name in labels], dtype=torch.int64)


def class_names(source: Source) -> list[str] | None:
    """All classes of both parts: in the entry's order, as numbers where they are numbers, else alphabetically.

    A set whose test part alone has labels has classes too.
    """
    if source.classes is not None:
        return source.classes
    names = {name for part in (source.train, source.test) if part is not None for name in part.labels or ()}
    return class_order(names) if names else None
