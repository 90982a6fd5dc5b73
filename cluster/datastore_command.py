"""`paceline datastore`: the table of n-grams that the `retrieval` kind looks up, from a target's answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from paceline.actors.errors import ConfigError
from paceline.actors.ngram_store import STORE_FILE, build_store
from paceline.cluster.training.answer_store import AnswerStore

CONTEXT = 2  # tokens of a prompt that are counted with its answer, so that the answer's start can be found


def datastore(
    output: Path, data: Path, domains: Sequence[str], vocab_size: int, most: int, console: Console | None = None
) -> int:
    """Count the n-grams of a data folder's answers. Returns the exit status.

    Args:
        output: Folder to write.
        data: Of `paceline train`; its answers are read.
        domains: Only these; empty means all.
        vocab_size: Of the target.
        most: N-grams kept, the most frequent.
        console: Where to print.

    Raises:
        ConfigError: there are no answers, or a value is out of range.
    """
    if most < 1:
        raise ConfigError(f"max_ngrams: expected at least 1, got {most}")
    answers = list(AnswerStore(data / "answers.jsonl").read())
    if not answers:
        raise ConfigError(f"data: {data} holds no answers; `paceline train` makes them")
    there = {answer.domain for answer in answers}
    if unknown := sorted(set(domains) - there):
        raise ConfigError(f"domain: {', '.join(unknown)}: not in the data, which has {', '.join(sorted(there))}")
    texts = [
        answer.prompt_ids[-CONTEXT:] + answer.answer_ids
        for answer in answers
        if not domains or answer.domain in domains
    ]
    try:
        store = build_store(texts, vocab_size, most)
    except ValueError as error:
        raise ConfigError(f"data: {error}") from None
    store.write(output)
    size = (output / STORE_FILE).stat().st_size
    (console or Console()).print(
        f"{output}: {len(store.grams):,} n-grams of {store.order} tokens, {size / 1e6:.1f} MB, "
        f"of {len(texts):,} answers"
    )
    return 0
