"""Log-probabilities of the tokens that a round took, and of the likeliest ones beside them.

They are the target's own law at each position, the log-softmax of its logits before temperature, top-k, top-p and any
processing (vLLM's `raw_logprobs`), so that they do not depend on how a token was drawn, nor on who drafted it.
`verdict` calls it for sequences that ask.
"""

from __future__ import annotations

import torch

from paceline.actors.generation import TokenLogprobs

_LEAST = -9999.0  # what OpenAI writes for a token that is all but impossible; JSON has no infinity


def read_logprobs(logits: torch.Tensor, tokens: list[int], top: int) -> tuple[TokenLogprobs, ...]:
    """One item per token.

    Args:
        logits: [tokens or more, vocab]; row i is the law of token i.
        tokens: The ids that were taken.
        top: How many of the likeliest to add; of equal ones the lowest ids first.
    """
    law = logits[: len(tokens)].float().log_softmax(dim=-1).clamp_(min=_LEAST)  # [tokens, vocab]
    own = law.gather(1, torch.tensor(tokens, device=law.device)[:, None]).squeeze(1)
    values, ids = law.topk(min(top, law.shape[1]), dim=-1)  # [tokens, top]
    ids, by_id = ids.sort(dim=-1)
    values, by_value = values.gather(1, by_id).sort(dim=-1, descending=True, stable=True)
    rows = zip(own.tolist(), ids.gather(1, by_value).tolist(), values.tolist(), strict=True)
    return tuple(TokenLogprobs(logprob, tuple(best), tuple(likely)) for logprob, best, likely in rows)
