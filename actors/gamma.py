"""Acceptance of point-mass guesses at committed positions, from what a Commit carries. numpy only, for light kinds.

Laws that were sampled from are scored by `kernels.overlap` in the model kinds and by `overlap_sparse` here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paceline.actors.messages import Commit, Laws, Probs


def point_gammas(guesses: Sequence[int], commit: Commit) -> Probs:
    """Acceptance of one guess per position; -1 is no guess.

    Greedy (no law in the commit): 1 where the guess is the committed token. Otherwise the target's probability of it.

    Returns:
        [positions] float32.
    """
    guessed = np.asarray(guesses, dtype=np.int64)
    if commit.p is None:
        exact: Probs = (guessed == np.asarray(commit.tokens)).astype(np.float32)
        return exact
    hits = (commit.p.ids == guessed[:, None]) & (guessed >= 0)[:, None]  # [positions, width]
    gammas: Probs = np.minimum((commit.p.probs * hits).sum(axis=1), 1.0).astype(np.float32)
    return gammas


def overlap_sparse(p: Laws, q: Laws) -> Probs:
    """sum over x of min(p(x), q(x)) for two sparse laws per position.

    Returns:
        [positions] float32.
    """
    same = (p.ids[:, :, None] == q.ids[:, None, :]) & (q.ids >= 0)[:, None, :]  # [positions, p width, q width]
    least = np.minimum(p.probs[:, :, None], q.probs[:, None, :])
    gammas: Probs = np.minimum((least * same).sum(axis=(1, 2)), 1.0).astype(np.float32)
    return gammas
