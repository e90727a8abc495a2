"""The verb `list`."""

from __future__ import annotations

import json

from selfsight.errors import WrongUse, perhaps
from selfsight.verbs.common import NoFlags, table, words_and_flags


def main(argv: list[str]) -> int:
    """Run the verb; its exit code."""
    about = "What there is: methods, encoders, data, recipes, policies, protocols, formats.\n\nExample: selfsight list methods"
    words, as_json, _ = words_and_flags(argv, NoFlags(), "list", "[WHAT]", about)
    catalogues = ("methods", "encoders", "data", "recipes", "policies", "protocols", "formats")
    if words and words[0] not in catalogues:
        raise WrongUse(f"nothing to list under {words[0]!r}.{perhaps(words[0], set(catalogues))}")
    from selfsight import catalogue

    found = {what: catalogue.entries(what) for what in (words or catalogues)}
    if as_json:
        print(json.dumps(found[words[0]] if words else found))
        return 0
    for what, entries in found.items():
        if not words:
            print(f"{what}:")
        table("name about", [[name, about] for name, about in entries.items()])
        if not words:
            print()
    return 0
