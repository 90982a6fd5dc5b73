"""Whether a draft may be verified: the one place that looks at what a drafter sent with distrust.

A draft that passes cannot make verification fail or go out of range, whoever made it. The pool calls it on every draft.
"""

from __future__ import annotations

import numpy as np

from paceline.actors.errors import DraftError
from paceline.actors.messages import Draft, Ids, Laws, Probs, Propose

# Half-precision drafters round; more than this off is no rounding.
SUM_TOLERANCE = 1e-3


def check_draft(draft: Draft, asked: Propose, vocab_size: int) -> Draft:
    """Check a draft against what was asked for.

    Returns:
        The draft, each row of `q` renormalised to sum to 1 in float32.

    Raises:
        DraftError: it cannot be verified. Its `reason` is `start`, `length` or `ids`; or, of `q`: `shape`, `q_ids`,
            `duplicate`, `nan`, `negative`, `padding`, `unnormalised`, `unsupported` (a token without probability).
    """
    _demand(draft.start == asked.start, "start", draft, f"expected {asked.start}, got {draft.start}")
    tokens = draft.tokens
    _demand(len(tokens) <= asked.length, "length", draft, f"expected at most {asked.length}, got {len(tokens)}")
    if not tokens:
        return draft
    low, high = min(tokens), max(tokens)
    _demand(low >= 0 and high < vocab_size, "ids", draft, f"expected 0 to {vocab_size - 1}, got {low} to {high}")
    if draft.q is None:
        return draft
    return Draft(draft.seq, draft.start, tokens, _checked_laws(draft, draft.q, vocab_size))


def _checked_laws(draft: Draft, q: Laws, vocab_size: int) -> Laws:
    ids: Ids = q.ids  # [k, width]
    probs: Probs = q.probs  # [k, width]
    rows = len(draft.tokens)
    fits = ids.ndim == 2 and ids.shape == probs.shape and ids.shape[0] == rows and ids.shape[1] > 0
    _demand(fits, "shape", draft, f"expected [{rows}, width], got ids {ids.shape} and probs {probs.shape}")
    inside = ids.min() >= -1 and ids.max() < vocab_size
    _demand(bool(inside), "q_ids", draft, f"expected -1 to {vocab_size - 1}, got {ids.min()} to {ids.max()}")
    in_order = np.sort(ids, axis=1)
    twice = (in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] >= 0)
    _demand(not twice.any(), "duplicate", draft, "expected each id once in a row")
    _demand(bool(np.isfinite(probs).all()), "nan", draft, "expected finite probabilities")
    _demand(bool(probs.min() >= 0), "negative", draft, f"expected probabilities of at least 0, got {probs.min()}")
    _demand(not probs[ids < 0].any(), "padding", draft, "expected probability 0 in unused slots")
    sums = probs.sum(axis=1, dtype=np.float64)  # [k]
    off = float(np.abs(sums - 1.0).max())
    _demand(
        off <= SUM_TOLERANCE, "unnormalised", draft, f"expected rows that sum to 1, got one that is off by {off:.3g}"
    )
    exact = (probs / sums[:, None]).astype(np.float32)
    own = (ids == np.asarray(draft.tokens, dtype=np.int64)[:, None]) & (exact > 0)
    _demand(bool(own.any(axis=1).all()), "unsupported", draft, "expected each token to have a positive probability")
    return Laws(ids, exact)


def _demand(holds: bool, reason: str, draft: Draft, text: str) -> None:
    if not holds:
        raise DraftError(f"draft of sequence {draft.seq}: {reason}: {text}", reason)
