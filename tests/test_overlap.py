"""Overlap: twin against reference, and both against the definition.

Which bug each regime catches:
    ordinary        a wrong stride or a wrong term
    odd vocabulary  an unmasked tail (vocabulary and width no powers of two)
    point masses    a slot that is skipped or counted twice
    unused slots    -1 read as the last id of the row, or of the row before
    wide            slots beyond the kernel's first block
    equal laws      a sum above 1
    disjoint laws   a term where the dense law has none
    one slot        a block that is wider than the row
"""

from __future__ import annotations

import pytest
import torch

from paceline.kernels.law import top_width
from paceline.kernels.overlap import overlap, overlap_torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ROUNDING = 2.0**-23  # one float32 rounding of a value of at most 1; sums are taken in float64

Case = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def random_case(rows: int, vocab: int, width: int, seed: int = 0) -> Case:
    noise = torch.Generator().manual_seed(seed)
    dense = (torch.randn(rows, vocab, generator=noise) * 3).softmax(-1)
    other = (torch.randn(rows, vocab, generator=noise) * 3).softmax(-1)
    return dense, *top_width(other, width, renormalise=True)


def point_masses() -> Case:
    dense, _, _ = random_case(5, 11, 1)
    return dense, torch.tensor([[0], [10], [3], [10], [5]]), torch.ones(5, 1)


def unused_slots() -> Case:
    dense, ids, probs = random_case(6, 13, 4)
    ids[::2, 2:] = -1
    ids[3] = -1
    return dense, ids, torch.where(ids < 0, 0.5, probs)  # their probability must not count, whatever it is


def equal_laws() -> Case:
    dense = random_case(4, 37, 1)[0] * (1 + 1e-6)
    return dense, *top_width(dense, 37, renormalise=False)


def disjoint_laws() -> Case:
    dense = torch.zeros(3, 10)
    dense[:, :5] = 0.2
    return dense, torch.tensor([[5, 6, 9]] * 3), torch.full((3, 3), 1 / 3)


REGIMES = {
    "ordinary": lambda: random_case(4, 64, 8),
    "odd vocabulary": lambda: random_case(7, 997, 23),
    "point masses": point_masses,
    "unused slots": unused_slots,
    "wide": lambda: random_case(3, 1009, 300),
    "equal laws": equal_laws,
    "disjoint laws": disjoint_laws,
    "one slot": lambda: random_case(2, 5, 1),
    "no rows": lambda: random_case(0, 5, 2),
}


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("id_dtype", [torch.int32, torch.int64])
def test_twin_agrees_with_the_reference(regime: str, id_dtype: torch.dtype) -> None:
    from paceline.kernels.overlap_triton import overlap_triton

    dense, ids, probs = (tensor.to(DEVICE) for tensor in REGIMES[regime]())
    ids = ids.to(id_dtype)
    torch.testing.assert_close(
        overlap_triton(dense, ids, probs), overlap_torch(dense, ids, probs), rtol=0, atol=ROUNDING
    )


@pytest.mark.parametrize("regime", REGIMES)
def test_follows_the_definition(regime: str) -> None:
    dense, ids, probs = REGIMES[regime]()
    for row, gamma in enumerate(overlap(dense, ids, probs).tolist()):
        other = {int(i): float(q) for i, q in zip(ids[row], probs[row], strict=True) if i >= 0}
        expected = sum(min(float(dense[row, i]), q) for i, q in other.items())
        assert gamma == pytest.approx(min(expected, 1.0), abs=2e-7)
        assert 0 <= gamma <= 1


def test_either_law_may_be_the_dense_one() -> None:
    dense, ids, probs = random_case(5, 29, 29)
    swapped = torch.zeros_like(dense).scatter_(1, ids.long(), probs)
    torch.testing.assert_close(
        overlap(dense, ids, probs), overlap(swapped, *top_width(dense, 29, renormalise=False)), rtol=0, atol=ROUNDING
    )


def test_nan_is_not_hidden() -> None:
    from paceline.kernels.overlap_triton import overlap_triton

    dense, ids, probs = (tensor.to(DEVICE) for tensor in random_case(3, 8, 4))
    probs[1, 2] = torch.nan
    dense[2, int(ids[2, 0])] = torch.nan
    for op in (overlap, overlap_triton):
        assert op(dense, ids, probs).isnan().tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("ids", lambda dense, ids, probs: (dense, ids + 20, probs)),
        ("ids", lambda dense, ids, probs: (dense, ids - 20, probs)),
        ("ids", lambda dense, ids, probs: (dense, ids[:2], probs)),
        ("ids", lambda dense, ids, probs: (dense, ids.float(), probs)),
        ("probs", lambda dense, ids, probs: (dense, ids, probs[:, :2])),
        ("probs", lambda dense, ids, probs: (dense, ids, probs.double())),
        ("dense", lambda dense, ids, probs: (dense.half(), ids, probs)),
        ("dense", lambda dense, ids, probs: (dense[0], ids, probs)),
    ],
)
def test_bad_operands_are_refused_by_name(field: str, change) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=rf"^{field}: expected .* got "):
        overlap(*change(*random_case(3, 20, 4)))


@pytest.mark.gpu
def test_full_size_twin_agrees() -> None:
    from paceline.kernels.overlap_triton import overlap_triton

    dense, ids, probs = (tensor.cuda() for tensor in random_case(256, 128_256, 64))
    torch.testing.assert_close(
        overlap_triton(dense, ids, probs), overlap_torch(dense, ids, probs), rtol=0, atol=ROUNDING
    )
