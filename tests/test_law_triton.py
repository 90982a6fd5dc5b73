"""The law's Triton twin against its reference: the same tokens kept, the same probabilities.

Which bug each regime catches:
    ordinary         a wrong stride, or one row's settings taken for another's
    odd vocabulary   an unmasked tail (no power of two, beyond one block)
    bf16             a maximum or a weight computed in the logits' own precision; many ties
    ties             equal tokens at the cut: the lowest ids stay, also across blocks
    all equal        a bisection that never meets a smaller weight
    banned           -inf taken for a weight; fewer tokens possible than k
    cold             weights that vanish: zeros at the cut
    hot              weights that are nearly equal
    one token        a vocabulary of one
    no rows          an empty launch
Every regime runs all of SETTINGS: k off, 1, a few, many, beyond the vocabulary; p off, nearly 1, a half, tiny, 0; both.
"""

from __future__ import annotations

import pytest
import torch

from paceline.kernels.law import sampling_law_torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SETTINGS = [(0, 1.0), (1, 1.0), (5, 1.0), (10**6, 0.999), (0, 0.5), (40, 0.5), (5, 1e-6), (0, 0.0)]


def logits_of(vocab: int, seed: int = 0, rows: int = len(SETTINGS)) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3


def banned() -> torch.Tensor:
    logits = logits_of(60, seed=5)
    logits[:, 3:] = -torch.inf
    logits[:, 50] = 1.0
    return logits


REGIMES = {
    "ordinary": (lambda: logits_of(256), 1.0),
    "odd vocabulary": (lambda: logits_of(4999, seed=1), 0.7),
    "bf16": (lambda: logits_of(1003, seed=2).bfloat16(), 1.3),
    "ties": (lambda: logits_of(4999, seed=3).round(), 1.0),
    "all equal": (lambda: torch.zeros(len(SETTINGS), 4100), 1.0),
    "banned": (banned, 1.0),
    "cold": (lambda: logits_of(300, seed=6), 0.02),
    "hot": (lambda: logits_of(300, seed=7), 100.0),
    "one token": (lambda: logits_of(1), 1.0),
    "no rows": (lambda: logits_of(8, rows=0), 1.0),
}


@pytest.mark.parametrize("regime", REGIMES)
def test_twin_keeps_the_same_tokens(regime: str) -> None:
    from paceline.kernels.law_triton import sampling_law_triton

    make, temperature = REGIMES[regime]
    logits = make().to(DEVICE)
    rows = len(logits)
    top_k = torch.tensor([k for k, _ in SETTINGS[:rows]], dtype=torch.int64, device=DEVICE)
    top_p = torch.tensor([p for _, p in SETTINGS[:rows]], device=DEVICE)
    heat = torch.full((rows,), temperature, device=DEVICE)
    ours, theirs = (law(logits, heat, top_k, top_p) for law in (sampling_law_triton, sampling_law_torch))
    for row, setting in enumerate(SETTINGS[:rows]):
        assert ours[row].nonzero().tolist() == theirs[row].nonzero().tolist(), setting
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=0)


@pytest.mark.gpu
def test_full_size_twin_keeps_the_same_tokens() -> None:
    """All but the last one or two of a row: sums of 128,256 float32 numbers differ in their last place, and so the
    place where they reach top-p, by about a tenth of one improbable token."""
    from paceline.kernels.law import sampling_law

    logits = logits_of(128_256, seed=8, rows=64).bfloat16().cuda()
    settings = torch.full((64,), 0.8), torch.arange(64) % 4 * 20, 1 - torch.arange(64) % 5 * 0.04
    ours = sampling_law(logits, *settings)  # settings on the CPU are taken, too
    theirs = sampling_law_torch(logits, *(part.cuda() for part in settings))
    kept = (ours > 0) & (theirs > 0)
    assert ((ours > 0) ^ (theirs > 0)).sum(dim=1).max() <= 2
    torch.testing.assert_close(ours * kept, theirs * kept, rtol=1e-4, atol=0)
