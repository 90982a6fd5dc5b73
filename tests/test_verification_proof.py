"""Verification is lossless: proved on small vocabularies by enumeration, then seen in frequencies.

The proofs take the implementation as a black box, in float64. Its acceptance probability of a draft is the noise at
which its decision flips, found by bisection; the law of its next token is the noise at which one token starts to lose
its race against another (a race of exponential clocks is won in proportion to the weights). Enumerating drafts and
outcomes with these numbers must give back the target's law to 1e-12.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch

from paceline.actors.verdict import leading_matches
from paceline.kernels.law import position_noise, race
from paceline.kernels.verification import verify_chains, verify_chains_torch

TOLERANCE = 1e-12
NEVER = 1e18  # acceptance noise that no draft stands

Laws = tuple[torch.Tensor, torch.Tensor]


def random_law(shape: tuple[int, ...], seed: int, sharpness: float = 1.5) -> torch.Tensor:
    noise = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=noise, dtype=torch.float64) * sharpness).softmax(-1)


def truncated(law: torch.Tensor, width: int) -> torch.Tensor:
    values, ids = law.topk(width)
    kept = torch.zeros_like(law).scatter(-1, ids, values)
    return kept / kept.sum(-1, keepdim=True)


# From (shape of p, seed) to p and q: the ways in which the two can differ.
KINDS: dict[str, Callable[[tuple[int, ...], int], Laws]] = {
    "dense": lambda shape, seed: (random_law(shape, seed), random_law(shape, seed + 1)),
    "truncated q": lambda shape, seed: (random_law(shape, seed), truncated(random_law(shape, seed + 1), 2)),
    "truncated p": lambda shape, seed: (truncated(random_law(shape, seed), 2), random_law(shape, seed + 1)),
    "both truncated": lambda shape, seed: (
        truncated(random_law(shape, seed), 2),
        truncated(random_law(shape, seed + 1), 3),
    ),
    "point mass": lambda shape, seed: (random_law(shape, seed), truncated(random_law(shape, seed + 1), 1)),
    "impossible point mass": lambda shape, seed: (
        truncated(random_law(shape, seed), 2),
        truncated(-random_law(shape, seed), 1),
    ),
    "p equals q": lambda shape, seed: (random_law(shape, seed), random_law(shape, seed)),
    "p within rounding of q": lambda shape, seed: (random_law(shape, seed), random_law(shape, seed) * (1 + 1e-15)),
    "sharp": lambda shape, seed: (random_law(shape, seed, 8.0), random_law(shape, seed + 1, 8.0)),
}


class BlackBox:
    """`verify_chains_torch` on one batch of equally long drafts, all noise free to choose."""

    def __init__(self, p: torch.Tensor, drafts: torch.Tensor, q: torch.Tensor) -> None:
        """`p` [batch, length + 1, vocab], `drafts` [batch, length], `q` [batch, length, vocab]."""
        self.p, self.drafts, self.q = p, drafts, q
        self.batch, self.length, self.vocab = drafts.shape[0], drafts.shape[1], p.shape[2]

    def __call__(self, accept_noise: torch.Tensor, sample_noise: torch.Tensor) -> Laws:
        ids = torch.arange(self.vocab).expand(self.batch * self.length, self.vocab)
        q = self.q.reshape(-1, self.vocab)
        return verify_chains_torch(
            self.p.reshape(-1, self.vocab),
            self.drafts.reshape(-1),
            torch.where(q > 0, ids, -1),  # sparse: nothing but the support is named
            q,
            torch.full((self.batch,), self.length),
            accept_noise.reshape(-1),
            sample_noise,
        )

    def acceptance(self, place: int) -> torch.Tensor:
        """Probability that draft `place` stands where all before it do: [batch]."""
        even = torch.ones(self.batch, self.vocab, dtype=torch.float64)

        def stands(level: torch.Tensor) -> torch.Tensor:
            noise = torch.zeros(self.batch, self.length, dtype=torch.float64)
            noise[:, place] = level
            return self(noise, even)[0] > place

        return flip(stands, self.batch)

    def next_law(self, accepted: int) -> torch.Tensor:
        """Law of the token after `accepted` drafts, given that exactly so many stand: [batch, vocab]."""
        noise = torch.zeros(self.batch, self.length, dtype=torch.float64)
        noise[:, accepted:] = NEVER
        counts, likeliest = self(noise, torch.ones(self.batch, self.vocab, dtype=torch.float64))
        assert (counts == accepted).all()
        weights = torch.zeros(self.batch, self.vocab, dtype=torch.float64)
        rows = torch.arange(self.batch)
        for token in range(self.vocab):

            def wins(level: torch.Tensor, token: int = token) -> torch.Tensor:
                clocks = torch.full((self.batch, self.vocab), torch.inf, dtype=torch.float64)
                clocks[rows, likeliest] = 1.0
                clocks[:, token] = level
                return self(noise, clocks)[1] == token

            weights[:, token] = torch.where(likeliest == token, 1.0, flip(wins, self.batch))
        return weights / weights.sum(-1, keepdim=True)


def flip(holds: Callable[[torch.Tensor], torch.Tensor], size: int) -> torch.Tensor:
    """The level in [0, 1] up to which it holds, for each of `size` cases, by bisection."""
    low, high = torch.zeros(size, dtype=torch.float64), torch.ones(size, dtype=torch.float64)
    for _ in range(50):
        middle = (low + high) / 2
        below = holds(middle)
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [10, 20, 30])
def test_one_position_gives_the_targets_law(kind: str, seed: int) -> None:
    vocab = 7
    p, q = KINDS[kind]((vocab,), seed)
    drafts = q.nonzero()  # [support, 1]
    support = drafts.shape[0]
    bonus = random_law((vocab,), seed + 2)
    box = BlackBox(torch.stack([p, bonus]).expand(support, 2, vocab), drafts, q.expand(support, 1, vocab))
    stands = box.acceptance(0)
    after_rejection = box.next_law(0)

    total = torch.zeros(vocab, dtype=torch.float64)
    for index, token in enumerate(drafts[:, 0].tolist()):
        ratio = float(p[token] / q[token])
        assert float(stands[index]) == pytest.approx(min(1.0, ratio), abs=TOLERANCE)
        total[token] += q[token] * stands[index]
        total += q[token] * (1 - stands[index]) * after_rejection[index]
    torch.testing.assert_close(total, p, rtol=0, atol=TOLERANCE)

    positive = torch.tensor([max(float(a - b), 0.0) for a, b in zip(p, q, strict=True)], dtype=torch.float64)
    if positive.sum() > 1e-9:
        expected = positive / positive.sum()
        torch.testing.assert_close(after_rejection, expected.expand(support, vocab), rtol=0, atol=TOLERANCE)
    possible = p[drafts[:, 0]] > 0
    if possible.any():
        box = BlackBox(box.p[possible], drafts[possible], box.q[possible])
        torch.testing.assert_close(box.next_law(1), bonus.expand_as(box.p[:, 1]), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_chains_of_two_give_the_targets_joint_law(kind: str) -> None:
    vocab = 4
    p_first, q_first = KINDS[kind]((vocab,), 40)
    p_second, q_second = KINDS[kind]((vocab, vocab), 50)  # [first token, vocab]
    bonus = random_law((vocab,), 60)
    pairs = [(a, b) for a, b in product(range(vocab), repeat=2) if q_first[a] > 0 and q_second[a, b] > 0]
    box = BlackBox(
        torch.stack([torch.stack([p_first, p_second[a], bonus]) for a, _ in pairs]),
        torch.tensor(pairs),
        torch.stack([torch.stack([q_first, q_second[a]]) for a, _ in pairs]),
    )
    first_stands, after_none = box.acceptance(0), box.next_law(0)
    joint = torch.zeros(vocab, vocab, dtype=torch.float64)
    for index, (a, b) in enumerate(pairs):
        drafted = q_first[a] * q_second[a, b]
        # A first token that was resampled ends the round; the next one starts from the target's law after it.
        joint += drafted * (1 - first_stands[index]) * after_none[index][:, None] * p_second
        if p_first[a] == 0:
            assert first_stands[index] < TOLERANCE
            continue
        alone = BlackBox(box.p[index : index + 1], box.drafts[index : index + 1], box.q[index : index + 1])
        second_stands = alone.acceptance(1)[0]
        joint[a, b] += drafted * first_stands[index] * second_stands
        joint[a] += drafted * first_stands[index] * (1 - second_stands) * alone.next_law(1)[0]
    torch.testing.assert_close(joint, p_first[:, None] * p_second, rtol=0, atol=TOLERANCE)


def test_each_draft_stands_by_its_own_noise_and_those_before_it() -> None:
    """The proofs above multiply acceptance probabilities: the decisions must be cut by `place` and nothing else."""
    p, q = random_law((1, 4, 5), 70), random_law((1, 3, 5), 71)
    box = BlackBox(p, (q / p[:, :3]).argmax(-1), q)  # drafts that q likes too much: none stands for certain
    levels = [float(box.acceptance(place)[0]) for place in range(3)]
    for noise in product(*[(level * 0.999, level * 1.001) for level in levels]):
        expected = next((i for i in range(3) if noise[i] > levels[i]), 3)
        got, _ = box(torch.tensor([noise], dtype=torch.float64), torch.ones(1, 5, dtype=torch.float64))
        assert int(got) == expected


def test_frequencies_of_two_positions() -> None:
    """200,000 sequences in float32, drafts drawn from a truncated q: chi-square with 15 degrees of freedom.

    A lossless implementation exceeds 58 for one seed in a million. One that draws the residual from p, or the bonus
    from q, exceeds it here by orders of magnitude.
    """
    vocab, size = 4, 200_000
    noise = torch.Generator().manual_seed(80)
    p_first, p_second = random_law((vocab,), 81).float(), random_law((vocab, vocab), 82).float()
    q_first, q_second = (
        truncated(random_law((vocab,), 83), 3).float(),
        truncated(random_law((vocab, vocab), 84), 3).float(),
    )
    first = torch.multinomial(q_first.expand(size, vocab), 1, generator=noise)[:, 0]
    second = torch.multinomial(q_second[first], 1, generator=noise)[:, 0]
    q = torch.stack([q_first.expand(size, vocab), q_second[first]], dim=1).reshape(-1, vocab)
    accepted, next_ids = verify_chains(
        torch.stack([p_first.expand(size, vocab), p_second[first], p_second[second]], dim=1).reshape(-1, vocab),
        torch.stack([first, second], dim=1).reshape(-1),
        torch.where(q > 0, torch.arange(vocab), -1),
        q,
        torch.full((size,), 2),
        torch.rand(2 * size, generator=noise),
        torch.empty(size, vocab).exponential_(generator=noise),
    )
    one = torch.where(accepted > 0, first, next_ids)
    plain = race(p_second[one], torch.empty(size, vocab).exponential_(generator=noise))  # the round after
    two = torch.where(accepted > 1, second, torch.where(accepted == 1, next_ids, plain))
    counts = torch.bincount(one * vocab + two, minlength=vocab**2).double()
    expected = (p_first.double()[:, None] * p_second.double()).reshape(-1) * size
    assert ((counts - expected) ** 2 / expected).sum() < 58


@pytest.mark.parametrize("seed", [None, 5])
def test_exact_match_gives_the_plain_text_whatever_is_drafted(seed: int | None) -> None:
    """Every draft of up to 3 tokens of 3, proposed again each round, greedy and seeded: the text never changes."""
    vocab, length = 3, 9

    def choice(tokens: tuple[int, ...]) -> int:
        p = random_law((vocab,), hash(tokens) % 2**31).float()
        return int(p.argmax()) if seed is None else int(race(p[None], position_noise(seed, len(tokens), vocab)))

    plain: tuple[int, ...] = ()
    while len(plain) < length:
        plain = (*plain, choice(plain))
    seen = set()
    for draft in (each for size in range(4) for each in product(range(vocab), repeat=size)):
        tokens: tuple[int, ...] = ()
        while len(tokens) < length:
            rows = [choice((*tokens, *draft[:place])) for place in range(len(draft) + 1)]
            accepted = leading_matches(draft, rows)
            seen.add(accepted)
            tokens = (*tokens, *draft[:accepted], rows[accepted])
        assert tokens[:length] == plain
    assert seen == {0, 1, 2, 3}
