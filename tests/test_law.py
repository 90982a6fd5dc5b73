"""The law of a token: temperature, top-k and top-p against the definition; noise and races by statistics.

Statistical tests are seeded; each states the probability with which a correct implementation would have failed under a
random seed.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from paceline.kernels import law
from paceline.kernels.law import likeliest, position_noise, race, sampling_law, top_width

Settings = list[tuple[float, int, float]]


def law_of(logits: torch.Tensor, settings: Settings) -> torch.Tensor:
    temperature, top_k, top_p = (list(column) for column in zip(*settings, strict=True))
    return sampling_law(logits, torch.tensor(temperature), torch.tensor(top_k), torch.tensor(top_p))


def plain_law(logits: list[float], temperature: float, top_k: int, top_p: float) -> list[float]:
    """One row, in Python floats, straight from the definition."""
    scale = [math.exp((x - max(logits)) / temperature) for x in logits]
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    order = order[:top_k] if top_k else order
    total = sum(scale[i] for i in order)
    kept, before = [], 0.0
    for i in order:
        if not kept or top_p >= 1 or before < float(np.float32(top_p)) * total:
            kept.append(i)
        before += scale[i]
    left = sum(scale[i] for i in kept)
    return [scale[i] / left if i in kept else 0.0 for i in range(len(logits))]


GRID: Settings = [
    (temperature, top_k, top_p)
    for temperature in (0.3, 1.0, 2.5)
    for top_k in (0, 1, 5, 40)
    for top_p in (1.0, 0.9, 0.31, 0.0)
]


@pytest.mark.parametrize("windows", [(64, 1024), (8,), (2, 12)])
@pytest.mark.parametrize("grain", [0.0, 0.5, 2.0])
def test_law_follows_the_definition(grain: float, windows: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """With windows of a few of the 37 tokens, rows must widen them, and some must rank all."""
    monkeypatch.setattr(law, "_WINDOWS", windows)
    logits = torch.randn(len(GRID), 37, generator=torch.Generator().manual_seed(1)) * 2
    if grain:
        logits = (logits / grain).round() * grain  # many equal ones
    expected = torch.tensor([plain_law(row, *each) for row, each in zip(logits.tolist(), GRID, strict=True)])
    got = law_of(logits, GRID)
    assert torch.equal(got > 0, expected > 0)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("windows", [(64, 1024), (4,), (1, 2)])
def test_ties_keep_the_lowest_ids(windows: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(law, "_WINDOWS", windows)
    logits = torch.tensor([[0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0]])
    kept = {
        settings: law_of(logits, [settings])[0].nonzero().squeeze(1).tolist()
        for settings in [(1.0, 3, 1.0), (1.0, 4, 1.0), (1.0, 6, 1.0), (1.0, 4, 0.5), (1.0, 0, 0.2)]
    }
    assert kept == {
        (1.0, 3, 1.0): [1, 2, 4],
        (1.0, 4, 1.0): [1, 2, 4, 5],
        (1.0, 6, 1.0): [0, 1, 2, 4, 5, 7],
        (1.0, 4, 0.5): [1, 2],  # four equal tokens: the first two hold the half
        (1.0, 0, 0.2): [1, 2],
    }


def test_a_row_does_not_depend_on_its_batch() -> None:
    """A seeded request must not change with its neighbours, whatever they widen the ranked window to."""
    logits = torch.randn(4, 3000, generator=torch.Generator().manual_seed(2))
    settings: Settings = [(1.0, 0, 0.95), (0.7, 20, 0.9), (1.2, 2000, 1.0), (1.0, 0, 1.0)]
    together = law_of(logits, settings)
    for row in range(4):
        assert torch.equal(together[row], law_of(logits[row : row + 1], settings[row : row + 1])[0])


def test_bf16_logits_banned_tokens_and_tiny_temperatures() -> None:
    logits = torch.tensor([[1.0, -torch.inf, 3.0, 2.0]], dtype=torch.bfloat16)
    p = law_of(logits, [(1.0, 4, 1.0)])
    assert p.dtype == torch.float32
    assert p[0, 1] == 0
    assert law_of(logits, [(1e-30, 0, 1.0)]).tolist() == [[0.0, 0.0, 1.0, 0.0]]
    assert law_of(logits, [(1.0, 0, 0.999999)])[0].sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("temperature", (0.0, 0, 1.0)),
        ("temperature", (math.nan, 0, 1.0)),
        ("temperature", (math.inf, 0, 1.0)),
        ("top_k", (1.0, -1, 1.0)),
        ("top_p", (1.0, 0, 1.5)),
        ("top_p", (1.0, 0, -0.1)),
    ],
)
def test_bad_parameters_are_refused_by_name(field: str, settings: tuple[float, int, float]) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: expected .* got "):
        law_of(torch.zeros(2, 4), [(1.0, 0, 1.0), settings])


def test_parameters_must_have_a_value_per_row() -> None:
    with pytest.raises(ValueError, match=r"^temperature: expected shape \[3\], got \[1\]"):
        law_of(torch.zeros(3, 4), [(1.0, 0, 1.0)])


def test_top_width_keeps_the_likeliest_and_marks_unused_slots() -> None:
    p = torch.tensor([[0.1, 0.3, 0.3, 0.3, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0]])
    ids, probs = top_width(p, 2, renormalise=True)
    assert ids.dtype == torch.int32
    assert ids.tolist() == [[1, 2], [1, -1]]
    assert probs.tolist() == [[0.5, 0.5], [1.0, 0.0]]
    ids, probs = top_width(p, 7, renormalise=False)  # wider than the vocabulary
    assert ids.tolist() == [[1, 2, 3, 0, -1, -1, -1], [1, -1, -1, -1, -1, -1, -1]]
    torch.testing.assert_close(probs[0], torch.tensor([0.3, 0.3, 0.3, 0.1, 0.0, 0.0, 0.0]), rtol=0, atol=0)
    with pytest.raises(ValueError, match="width: expected at least 1, got 0"):
        top_width(p, 0, renormalise=True)


@pytest.mark.parametrize("grain", [0.0, 0.5, 5.0])
def test_top_width_agrees_with_a_full_sort(grain: float) -> None:
    """Coarse logits make the cut go through equal probabilities."""
    logits = torch.randn(16, 501, generator=torch.Generator().manual_seed(3))
    p = ((logits / grain).round() * grain if grain else logits).softmax(-1)
    ids, probs = top_width(p, 64, renormalise=False)
    order = p.sort(descending=True, stable=True)
    assert torch.equal(probs, order.values[:, :64])
    assert torch.equal(ids.long(), order.indices[:, :64])


@pytest.mark.parametrize("grain", [0.0, 0.5, 5.0])
def test_ranking_by_keys_is_the_same_ranking(grain: float) -> None:
    """What a device does, where splitting rows by whether they are cut between equals would wait for the host."""
    logits = torch.randn(16, 501, generator=torch.Generator().manual_seed(3)) * 3
    p = ((logits / grain).round() * grain if grain else logits).softmax(-1)
    p[:, ::3] = 0.0
    order = p.sort(descending=True, stable=True)
    values, ids = law.ranked_by_key(p, 64)
    assert torch.equal(values, order.values[:, :64])
    assert torch.equal(ids, order.indices[:, :64])


@pytest.mark.parametrize("key", [0, 1, 2**63, 2**64 - 1, 0x123456789ABCDEF])
def test_the_devices_noise_is_made_of_the_same_bits(key: int) -> None:
    """torch's signed integers must wrap and shift as unsigned ones; a wrong bit moves a value by far more than this."""
    place = key >> 1 & 0xFFFF
    on_cpu = position_noise(key, place, 5000)
    own = law._noise_torch(law._mixed(law._mixed(key) + place * law._GOLDEN), 5000, torch.device("cpu"))
    torch.testing.assert_close(own, on_cpu, rtol=3e-7, atol=0)


def test_position_noise_is_a_function_of_seed_and_position() -> None:
    again = position_noise(7, 3, 1000)
    assert torch.equal(position_noise(7, 3, 1000), again)
    for seed, position in ((7, 4), (8, 3), (3, 7), (-7, 3), (7 + 2**63, 3)):
        assert not torch.equal(position_noise(seed, position, 1000), again)
    assert torch.equal(position_noise(7, 3, 10), again[:10])
    assert again.dtype == torch.float32
    with pytest.raises(ValueError, match="position: expected at least 0, got -1"):
        position_noise(7, -1, 10)


def test_position_noise_is_pinned() -> None:
    """A seed must give the same text after an upgrade: SplitMix64, computed here with Python's integers."""

    def mixed(number: int) -> int:
        number = (number + 0x9E3779B97F4A7C15) % 2**64
        number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        number = (number ^ number >> 27) * 0x94D049BB133111EB % 2**64
        return number ^ number >> 31

    assert mixed(0) == 0xE220A8397B1DCDAF  # the published first output for seed 0
    key = mixed(mixed(11) + 5 * 0x9E3779B97F4A7C15)

    def expected(token: int) -> float:
        return -math.log(((mixed(key + (token - 1) * 0x9E3779B97F4A7C15) >> 12) + 0.5) * 2.0**-52)

    noise = position_noise(11, 5, 49_152)
    torch.testing.assert_close(noise[:20], torch.tensor([expected(token) for token in range(20)]), rtol=1e-6, atol=0)
    # Near 0, where improbable tokens win their races, noise of 24 bits would be off by parts in a thousand.
    assert float(noise.min()) == pytest.approx(expected(int(noise.argmin())), rel=1e-6)
    assert noise.min() < 1e-4


def test_position_noise_is_exponential_and_independent() -> None:
    """Kolmogorov-Smirnov at 1e-6 and correlations at 5 sigma (12 of them): a false alarm once in 100,000 seeds."""
    vocab = 49_152
    noise = {(s, t): position_noise(s, t, vocab).double() for s in (0, 1, 2) for t in (0, 1, 7)}
    for values in noise.values():
        assert values.min() > 0
        uniform = 1 - (-values.sort().values).exp()
        steps = torch.arange(1, vocab + 1, dtype=torch.float64) / vocab
        distance = torch.maximum((steps - uniform).max(), (uniform - steps + 1 / vocab).max())
        assert distance < math.sqrt(math.log(2 / 1e-6) / 2 / vocab)
    pairs = [((s, t), other) for s in (0, 1) for t in (0, 1) for other in ((s + 1, t), (s, 7), (s + 1, 7))]
    for one, other in pairs:
        correlation = ((noise[one] - 1) * (noise[other] - 1)).mean() * math.sqrt(vocab)
        assert abs(correlation) < 5
    shifted = noise[0, 0][:-1] * noise[0, 1][1:]  # positions must not share a shifted stream
    assert abs(shifted.mean() - 1) * math.sqrt(vocab / 3) < 5


def test_race_draws_from_the_law_across_seeds_and_positions() -> None:
    """Chi-square with 4 degrees of freedom over 40,000 draws; above 33.4 once in a million seeds."""
    p = torch.tensor([0.5, 0.25, 0.2, 0.049, 0.001])
    draws = [int(race(p[None], position_noise(seed, position, 5))) for seed in range(200) for position in range(200)]
    counts = np.bincount(draws, minlength=5)
    expected = p.numpy() * len(draws)
    assert ((counts - expected) ** 2 / expected).sum() < 33.4


def test_race_at_its_edges() -> None:
    p = torch.tensor([[0.0, 0.5, 0.5, 0.0]])
    assert race(p, torch.ones(4)).tolist() == [1]  # a tie goes to the lowest id
    assert race(p, torch.tensor([0.0, 1.0, 0.0, 0.0])).tolist() == [2]  # no noise can make an impossible token win
    assert race(torch.zeros(1, 4), torch.ones(1, 4)).tolist() == [0]
    assert race(torch.tensor([[0.1, torch.nan, 0.3]]), torch.ones(3)).tolist() == [2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocab", [1, 7, 1024, 1025, 49_152])
def test_the_likeliest_id_is_the_lowest_of_equals(vocab: int, dtype: torch.dtype) -> None:
    noise = torch.Generator().manual_seed(vocab)
    logits = torch.randn(40, vocab, generator=noise).to(dtype)  # many ties in 16 bits
    logits[3] = -torch.inf
    logits[4] = -torch.inf
    logits[4, vocab // 2] = -1e4
    logits[5] = 0.0
    logits[6] = -0.0
    logits[6, -1] = 0.0
    for rows in (logits, logits[:, : max(1, vocab // 2)]):  # the second is not contiguous
        assert likeliest(rows).tolist() == [row.index(max(row)) for row in rows.tolist()]
