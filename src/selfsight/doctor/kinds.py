"""What the doctor looks for, how bad it is, and what to do about it."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from selfsight.errors import WrongUse

Level = Literal["serious", "warning", "note"]


class Kind(NamedTuple):
    """A kind of finding."""

    level: Level
    what: str  #: what was found, said of several pictures
    advice: str  #: what to do

    def said(self, count: int) -> str:
        """What was found, of so many pictures."""
        text = self.what
        for several, one in _ONE if count == 1 else ():
            text = text.replace(several, one, 1)
        return text


_ONE = (
    ("files", "file"), ("pictures", "picture"), ("pairs", "pair"), ("classes", "class"), ("parts", "part"),
    ("that are copies", "that is a copy"), ("that are", "that is"), ("that declare", "that declares"),
    ("that lie", "that lies"), ("that look", "that looks"), ("their EXIF", "its EXIF"),
)  # fmt: skip


BROKEN = ("empty", "unreadable", "truncated", "bomb")
"""Kinds of files that loading skips, or refuses under --bad-files error."""

KINDS: dict[str, Kind] = {
    "empty": Kind("serious", "files of zero bytes", "Fetch them again or delete them; loading skips them."),
    "unreadable": Kind(
        "serious", "files that cannot be read as pictures", "Repair, replace or delete them; loading skips them."
    ),
    "truncated": Kind(
        "serious",
        "files that are cut short",
        "Fetch them again: a copy or download was broken off. Loading skips those that do not decode to their end.",
    ),
    "bomb": Kind(
        "serious",
        "files that declare too many pixels",
        "Pillow refuses them, so they were not decoded. Delete them, or reduce them with a program that "
        "you trust with them; loading skips them.",
    ),
    "leak": Kind(
        "serious",
        "pictures of the test set that the training part has, too",
        "Leave the training copies out (--exclude writes the list), or accuracies on the test set are too good.",
    ),
    "label_conflict": Kind(
        "serious",
        "pictures that lie under two labels",
        "Keep the right copy and delete the others; --exclude leaves out all copies, as no program can tell.",
    ),
    "near_leak": Kind(
        "warning",
        "training pictures that look like a test picture",
        "Copies resized, recompressed or retouched, or other frames of a scene. Look at the pairs (--html); --exclude leaves "
        "the training copies out.",
    ),
    "near_label_conflict": Kind(
        "warning", "pairs that look alike under two labels", "Look at the pairs (--html) and correct the labels."
    ),
    "duplicate": Kind(
        "warning",
        "pictures that are copies of another one, pixel by pixel",
        "Keep one of each (--exclude leaves the others out): copies weigh double, count as negatives of each other, "
        "and get into the hold-out part.",
    ),
    "near_duplicate": Kind(
        "warning",
        "pictures that look like another one",
        "Copies resized, recompressed or retouched, or other frames of a scene. Look at some (--html). A few do no "
        "harm; if they are many, thin them out, or hold out whole scenes.",
    ),
    "wrong_extension": Kind(
        "warning",
        "files whose name says another format",
        "Loading goes by the content; rename them for other programs.",
    ),
    "tiny": Kind(
        "warning",
        "pictures with a side below the smallest useful one",
        "Icons and thumbnails teach little: delete them, or set --smallest if they are meant.",
    ),
    "extreme_aspect": Kind(
        "warning",
        "pictures much longer than wide, or wider than long",
        "A square crop sees a small part of them; cut them into several pictures, or leave them out.",
    ),
    "blank": Kind("warning", "pictures of one colour", "They teach nothing; delete them unless they are meant."),
    "small_class": Kind(
        "warning", "classes with few pictures", "Accuracies of them are noise: add pictures, or merge or drop classes."
    ),
    "imbalance": Kind(
        "warning",
        "parts whose largest class is many times the smallest",
        "Report accuracy by class beside the mean; --per-class takes the same number of each.",
    ),
    "giant": Kind(
        "note",
        "pictures of more pixels than Pillow deems safe",
        "They decode, slowly and with much memory; reduce them once if there are many.",
    ),
    "animated": Kind(
        "note", "pictures of several frames or pages", "The first one is used; unpack them for the others."
    ),
    "16bit": Kind("note", "pictures of more than 8 bits a channel", "They are reduced to 8 bits when they are loaded."),
    "cmyk": Kind(
        "note",
        "pictures in CMYK (for print)",
        "They are turned into RGB without a colour profile; convert them if colours matter.",
    ),
    "alpha": Kind("note", "pictures with transparency", "Transparent parts become white when they are loaded."),
    "palette": Kind("note", "pictures with a colour table", "They are turned into RGB when they are loaded."),
    "rotated": Kind(
        "note", "pictures that their EXIF turns or mirrors", "They are turned upright when they are loaded."
    ),
    "gray": Kind(
        "note",
        "gray pictures among coloured ones",
        "A method can tell them apart by that alone: use grayscale in the views, or --channels 1.",
    ),
}
"""Kind -> what it means, the worst first."""

OF_ONE = (
    *BROKEN, "wrong_extension", "tiny", "extreme_aspect", "blank", "giant", "animated", "16bit", "cmyk", "alpha", "palette",
    "rotated", "gray",
)  # fmt: skip
"""Kinds that a picture has by itself; the others take a set."""

BIT = {kind: 1 << i for i, kind in enumerate(OF_ONE)}


@dataclass(frozen=True)
class Limits:
    """From where on something is a finding."""

    smallest: int = 16
    """Pictures with a shorter side below this many pixels are tiny."""
    aspect: float = 4.0
    """Pictures whose longer side is more than this many times the shorter one are extreme."""
    few: int = 10
    """Classes with fewer pictures are small."""
    imbalance: float = 10.0
    """A largest class of at least this many times the smallest is unbalanced."""
    near: int = 7
    """Bits of 64 in which the hashes of look-alikes may differ: 0 to 7; -1: do not look for them."""

    def __post_init__(self) -> None:
        for name, value, least in (("smallest", self.smallest, 1), ("aspect", self.aspect, 1), ("few", self.few, 0),
                                   ("imbalance", self.imbalance, 1)):  # fmt: skip
            if not value >= least:
                raise WrongUse(f"--{name} is {value:g}, must be at least {least}")
        if not -1 <= self.near <= 7:
            raise WrongUse(f"--near is {self.near}: give 0 to 7 bits, or -1 not to look for look-alikes")
