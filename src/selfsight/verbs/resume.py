"""The verb `resume`."""

from __future__ import annotations

from selfsight.verbs.common import NoFlags, words_and_flags
from selfsight.verbs.pretrain import finish


def main(argv: list[str]) -> int:
    """Run the verb; its exit code."""
    words, as_json, _ = words_and_flags(
        argv,
        NoFlags(),
        "resume",
        "RUN",
        "Go on with an interrupted run, exactly.\n\nExample: selfsight resume runs/photos",
    )
    from selfsight import api

    return finish(api.resume(words[0]), as_json)
