"""Verification of a round: groups of one batch do not disturb each other, and a device is waited for once."""

from __future__ import annotations

import warnings

import pytest
import torch

from paceline.actors.generation import Generation
from paceline.actors.kv_pool import KVPool
from paceline.actors.llama_cache import LlamaCache
from paceline.actors.messages import Draft
from paceline.actors.sampling import Sampling
from paceline.actors.sequence import Sequence
from paceline.actors.verdict import Verdict, judge
from paceline.kernels.decoder_ops import BLOCK

VOCAB = 300
SAMPLINGS = (
    Sampling(),
    Sampling(temperature=0.7, top_k=20),
    Sampling(temperature=1.0, top_p=0.9, seed=5),
    Sampling(temperature=1.3, top_k=8, top_p=0.8),
    Sampling(temperature=0.5, seed=6),
)
DRAFTS = {0: [3, 4], 1: [7], 2: [], 3: [1, 2, 3], 4: [9]}


def sequence(seq: int, sampling: Sampling) -> Sequence:
    pool = KVPool(torch.empty(1, 1, 2, BLOCK * 16))
    made = Sequence(seq, Generation(str(seq), (1, 2, 3), 9, frozenset(), sampling), LlamaCache(pool), lambda _: None)
    made.noise.manual_seed(seq)
    return made


def judged(seqs: list[int], device: str = "cpu") -> dict[int, Verdict]:
    """Verdicts on some of the sequences, their logits and noise the same whoever is with them."""
    noise = torch.Generator().manual_seed(1)
    every = [torch.randn(len(DRAFTS[seq]) + 1, VOCAB, generator=noise) * 4 for seq in DRAFTS]
    logits = torch.cat([every[seq] for seq in seqs]).to(device)
    drafts = {seq: Draft(seq, 3, DRAFTS[seq]) for seq in seqs if DRAFTS[seq]}
    batch = [sequence(seq, SAMPLINGS[seq]) for seq in seqs]
    return dict(zip(seqs, judge(batch, drafts, logits, [len(DRAFTS[seq]) for seq in seqs]), strict=True))


def assert_same(got: Verdict, expected: Verdict) -> None:
    assert (got.accepted, got.tokens) == (expected.accepted, expected.tokens)
    assert (got.laws is None) == (expected.laws is None)
    if got.laws is not None and expected.laws is not None:
        assert got.laws.ids.tolist() == expected.laws.ids.tolist()
        assert torch.allclose(torch.from_numpy(got.laws.probs), torch.from_numpy(expected.laws.probs), rtol=1e-5)


def test_a_sequence_is_judged_alike_alone_and_among_others() -> None:
    """A tensor that is read back for another group, or in another order, shows."""
    together = judged([3, 0, 2, 1, 4])
    for seq in DRAFTS:
        assert_same(together[seq], judged([seq])[seq])
        assert (together[seq].laws is None) == (seq == 0)
        if together[seq].laws is not None:
            assert len(together[seq].laws) == len(DRAFTS[seq]) + 1  # type: ignore[arg-type]


@pytest.mark.gpu
def test_a_device_gives_the_same_verdicts_and_is_waited_for_once() -> None:
    expected = judged(list(DRAFTS))
    judged(list(DRAFTS), "cuda")  # compiles
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            got = judged(list(DRAFTS), "cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    # The logits of this test are copied to the device, and the verdicts from it.
    assert len(waits) == 2, [str(wait.message) for wait in waits]
    for seq in DRAFTS:
        assert_same(got[seq], expected[seq])
