"""Colours of runs, classes and words: readable on white, and apart for eyes that confuse red and green.

The first seven are those of Okabe and Ito ("Color Universal Design", 2008), darkened where they are faint on white.
"""

COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#8c6d31", "#4d4d4d", "#b5bd00",
)  # fmt: skip
INK, SOFT = "#1b1f24", "#5b6470"
DASHES = ("solid", "dash", "dot", "dashdot")


def colour(index: int) -> str:
    """Colour of the i-th run or class; they repeat after ten."""
    return COLOURS[index % len(COLOURS)]


def dash(index: int) -> str:
    """Dash of the i-th run's line, so that runs of one colour differ."""
    return DASHES[index // len(COLOURS) % len(DASHES)]
