"""What a user did wrong, said in one line: what is wrong and what to do. The command line exits with code 2."""


class WrongUse(ValueError):
    """A mistake of the caller (a name, a number, a file), not of the program.

    The message is one line: what is wrong, then what to do.
    """


def perhaps(name: str, known: "list[str] | tuple[str, ...] | set[str] | dict[str, object]") -> str:
    """' Perhaps you meant X.' for a misspelt name, else ' Known: a, b, c.'."""
    import difflib

    def plain(word: str) -> str:
        return "".join(letter for letter in word.lower() if letter.isalnum())

    names = {plain(key): key for key in sorted(known)}
    close = difflib.get_close_matches(plain(name), list(names), n=1, cutoff=0.6)
    close = close or [word for word in names if plain(name) and word.startswith(plain(name))][:1]
    return f" Perhaps you meant {names[close[0]]!r}." if close else f" Known: {', '.join(sorted(known))}."


def above(config: object, least: float, *names: str) -> None:
    """Raise WrongUse unless each of these fields of a method's config is above `least`."""
    for name in names:
        if not getattr(config, name) > least:
            raise WrongUse(f"method.{name} is {getattr(config, name)}, must be above {least:g}")


def at_least(config: object, least: float, *names: str) -> None:
    """Raise WrongUse unless each of these fields of a method's config is `least` or more."""
    for name in names:
        if not getattr(config, name) >= least:
            raise WrongUse(f"method.{name} is {getattr(config, name)}, must be at least {least:g}")


def fraction(config: object, *names: str) -> None:
    """Raise WrongUse unless each of these fields of a method's config lies in 0..1."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise WrongUse(f"method.{name} is {getattr(config, name)}, must be from 0 to 1")


def multiple_of_batch(config: object, name: str, batch: int) -> None:
    """Raise WrongUse unless this field of a method's config, rows of a queue, is a multiple of the batch."""
    rows = getattr(config, name)
    if rows % batch:
        more = -(-rows // batch) * batch
        raise WrongUse(f"method.{name} {rows} is not a multiple of the {batch} rows that enter at a step: try {more}")
