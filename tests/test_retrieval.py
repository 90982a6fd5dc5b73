"""The table of n-grams against counting by hand, and the kind that reads it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from paceline.actors.drafter_registry import DrafterContext, build_drafter
from paceline.actors.errors import ModelSourceError
from paceline.actors.messages import Open, Propose
from paceline.actors.ngram_store import STORE_FILE, WIDTH, NgramStore, build_store
from paceline.actors.sampling import Sampling
from paceline.cluster import cli
from paceline.cluster.training.answer_store import Answer, AnswerStore

VOCAB = 49152


def texts(seed: int = 0, count: int = 40, ids: int = 12) -> list[list[int]]:
    """Few ids, both ends of the vocabulary, so that n-grams come again."""
    chance = np.random.default_rng(seed)
    names = [*range(ids // 2), *range(VOCAB - ids // 2, VOCAB)]
    return [[names[i] for i in chance.integers(0, ids, 30)] for _ in range(count)]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_continuations_are_those_counted_by_hand(size: int) -> None:
    corpus = texts()
    store = build_store(corpus, VOCAB, 10**6)
    assert store.order == 4
    expected: dict[tuple[int, ...], Counter[int]] = {}
    for text in corpus:
        for at in range(len(text) - store.order + 1):  # whole n-grams only
            expected.setdefault(tuple(text[at : at + size]), Counter())[text[at + size]] += 1
    for context, counted in expected.items():
        ids, counts = store.continuations(context)
        assert dict(zip(ids.tolist(), counts.tolist(), strict=True)) == dict(counted)
        assert counts.tolist() == sorted(counts.tolist())
    assert len(store.continuations([100] * size)[0]) == 0


def test_a_small_vocabulary_has_longer_contexts_and_laws_are_bounded() -> None:
    store = build_store([[i % 50, 51, i % 60] for i in range(500)], 64, 10**6)
    assert store.order == 10
    wide = build_store([[1, token, 0] + [0] * 7 for token in range(64)], 64, 10**6)
    assert len(wide.continuations([1])[0]) == WIDTH


def test_the_rarest_go_first() -> None:
    store = build_store([[1, 2, 3, 3]] * 3 + [[4, 5, 6, 6]] * 2 + [[7, 8, 9, 9]], VOCAB, 2)
    assert [len(store.continuations([token])[0]) for token in (1, 4, 7)] == [1, 1, 0]


def test_a_table_comes_back_from_its_folder_or_is_refused(tmp_path: Path) -> None:
    store = build_store(texts(), VOCAB, 1000)
    store.write(tmp_path)
    again = NgramStore.read(tmp_path)
    assert again.vocab_size == VOCAB
    assert np.array_equal(again.grams, store.grams)
    assert np.array_equal(again.counts, store.counts)
    with pytest.raises(ModelSourceError, match="vocabulary of 49152"):
        build_drafter("retrieval", {"model": str(tmp_path)}, DrafterContext(tmp_path, 100))
    with pytest.raises(ModelSourceError, match="min_match: 4"):
        build_drafter("retrieval", {"model": str(tmp_path), "min_match": 4}, DrafterContext(tmp_path, VOCAB))
    save_file({"grams": store.grams[:3], "counts": store.counts}, tmp_path / STORE_FILE, {"vocab_size": "49152"})
    with pytest.raises(ModelSourceError, match=STORE_FILE):
        NgramStore.read(tmp_path)
    with pytest.raises(ModelSourceError, match="nowhere"):
        NgramStore.read(tmp_path / "nowhere")


def test_ids_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.\.9"):
        build_store([[1, 2, 10, 3]], 10, 10)


def test_it_drafts_what_the_corpus_says(tmp_path: Path) -> None:
    build_store([[1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [9, 2, 7, 7, 6]], VOCAB, 1000).write(tmp_path)
    drafter = build_drafter("retrieval", {"model": str(tmp_path)}, DrafterContext(tmp_path, VOCAB))
    drafter.open([Open(1, [8, 1, 2], Sampling()), Open(2, [8, 9, 2], Sampling()), Open(3, [8], Sampling())])
    drafts = drafter.propose([Propose(seq, 3 if seq < 3 else 1, 4) for seq in (1, 2, 3)])
    assert [draft.tokens for draft in drafts] == [[3, 4, 5], [7, 7, 6], []]


def test_the_command_counts_a_data_folders_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = [Answer(i, "ab"[i % 2], 0.0, [5, 6, 7], [10 + i % 2, 20, 30, 40], False) for i in range(6)]
    assert cli.main(["datastore", str(tmp_path / "out"), "--data", str(tmp_path / "data")]) == 2
    assert "holds no answers" in capsys.readouterr().err
    (tmp_path / "data").mkdir()
    AnswerStore(tmp_path / "data" / "answers.jsonl").append(answers)
    command = ["datastore", str(tmp_path / "out"), "--data", str(tmp_path / "data"), "--domain"]
    assert cli.main([*command, "c"]) == 2
    assert "c: not in the data" in capsys.readouterr().err
    assert cli.main([*command, "b"]) == 0
    store = NgramStore.read(tmp_path / "out")
    assert store.vocab_size == VOCAB
    assert store.continuations([6, 7])[0].tolist() == [11]
