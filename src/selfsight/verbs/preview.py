"""The verb `preview`."""

from __future__ import annotations

import dataclasses
import json

from selfsight.arguments import take, value_of
from selfsight.errors import WrongUse
from selfsight.verbs.common import words_and_flags


def main(argv: list[str]) -> int:
    """Run the verb; its exit code."""
    about = (
        "A PNG of pictures and their augmented views: whole views, small crops, masks, tiles, as a method's recipe makes "
        "them.\n\nExample: selfsight preview ~/photos --method byol --views.locals 4 --out views.png\n\n"
        "Also: --method NAME (whose views; default simclr), --policy NAME (a policy as it is, without the recipe's changes)."
    )
    method, argv = take(argv, "--method", valued=True)
    policy, argv = take(argv, "--policy", valued=True)
    from selfsight import api
    from selfsight.augment.config import untouched
    from selfsight.preview import PreviewFlags
    from selfsight.preview import preview as write

    data = argv[0] if argv and not argv[0].startswith("-") else "shapes"
    recipe = api.settings(method or "simclr", data=data)
    if policy and value_of(argv, "--views.policy"):
        raise WrongUse("--policy and --views.policy contradict each other: give one of them")
    views = untouched(recipe.views, policy) if policy else recipe.views
    default = PreviewFlags(encoder=recipe.encoder, views=views)
    words, as_json, flags = words_and_flags(argv, default, "preview", "DATA", about, more=["method", "policy"])
    given = {f.name: getattr(flags, f.name) for f in dataclasses.fields(flags)}
    found = write(words[0], method=method or "simclr", **given)
    columns = ", ".join(found["columns"])
    shown = f"{found['out']}: {found['rows']} pictures of {found['image_size']} px, policy {found['policy']}\ncolumns: {columns}"
    print(json.dumps(found) if as_json else shown)
    return 0
