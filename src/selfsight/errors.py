"""What a user did wrong, said in one line: what is wrong and what to do. The command line exits with code 2."""


class WrongUse(ValueError):
    """A mistake of the caller (a name, a number, a file), not of the program.

    The message is one line: what is wrong, then what to do.
    """


def perhaps(name: str, known: "list[str] | tuple[str, ...] | set[str] | dict[str, object]") -> str:
    """' Perhaps you meant X.' for a misspelt name, else ' Known: a, b, c.'."""
    import difflib

    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f" Perhaps you meant {close[0]!r}." if close else f" Known: {', '.join(names)}."
