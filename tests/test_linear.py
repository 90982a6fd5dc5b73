"""Quantised layers multiply by the weights that they say, and int4 finds a GGUF file's own grid again."""

from __future__ import annotations

import pytest
import torch

from paceline.actors.errors import ModelSourceError
from paceline.actors.linear import (
    GROUP,
    DenseLinear,
    FewRowsLinear,
    Int4Linear,
    Int8Linear,
    make_linear,
    quantize_int4,
    quantize_int8,
)
from paceline.kernels import linear_numba
from paceline.kernels.simd import multiplies_pairs

OUT, IN = 48, 96


def gguf_like(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights minimum + step * q as a Q4_1 block holds them, 0 and 15 in each; returns them and q."""
    generator = torch.Generator().manual_seed(5)
    q = torch.randint(0, 16, (OUT, IN // GROUP, GROUP), generator=generator)
    q[..., 3], q[..., 17] = 0, 15
    step = torch.rand(OUT, IN // GROUP, 1, generator=generator) * 0.02 + 0.001
    least = -8 * step * (0.5 + torch.rand(OUT, IN // GROUP, 1, generator=generator))
    return (least + step * q).view(OUT, IN).to(dtype), q.view(OUT, IN)


def widened(integers: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """The float32 weights that quantised ones stand for."""
    scale, zero = pairs.float().unbind(-1)  # [groups, out]
    groups = integers.view(OUT, -1, GROUP).float() - 8
    return (zero.T[..., None] + scale.T[..., None] * groups).reshape(OUT, -1)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("outputs", "inputs"), [(48, 96), (4, 16), (960, 576), (2000, 1536)])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 8, 9, 15, 32, 33])
def test_a_few_rows_are_multiplied_as_torch_does(rows: int, outputs: int, inputs: int, biased: bool) -> None:
    """Summed in float32 and rounded once: within one rounding of the exact product. The larger ones take threads."""
    noise = torch.Generator().manual_seed(rows)
    weight = torch.randn(outputs, inputs, generator=noise).to(torch.bfloat16)
    bias = torch.randn(outputs, generator=noise).to(torch.bfloat16) if biased else None
    x = torch.randn(2 * rows, inputs, generator=noise).to(torch.bfloat16)[::2]  # not contiguous
    layer = make_linear(weight, bias, "none")
    assert isinstance(layer, FewRowsLinear)
    y = layer(x)
    assert (y.shape, y.dtype) == ((rows, outputs), torch.bfloat16)
    exact = x.double() @ weight.double().T
    rounding = (exact.abs() + (0 if bias is None else bias.abs())) * 2**-7 + 1e-3
    assert ((y.double() - exact - (0 if bias is None else bias.double())).abs() <= rounding).all()


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_the_kernel_without_pairs_computes_the_same(rows: int) -> None:
    """What runs on CPUs that cannot multiply pairs of bfloat16; this one may well be able to."""
    noise = torch.Generator().manual_seed(rows)
    weight = torch.randn(960, 576, generator=noise).to(torch.bfloat16)
    x = torch.randn(rows, 576, generator=noise).to(torch.bfloat16)
    exact = x.double() @ weight.double().T
    assert ((linear_numba.multiply(x, weight).double() - exact).abs() <= exact.abs() * 2**-7 + 1e-3).all()


def test_rows_of_another_dtype_or_width_are_refused() -> None:
    layer = make_linear(torch.ones(8, 64, dtype=torch.bfloat16), None, "none")
    for x in (torch.ones(2, 64), torch.ones(2, 32, dtype=torch.bfloat16)):
        with pytest.raises(ValueError, match="x: "):
            layer(x)


@pytest.mark.skipif(not multiplies_pairs(), reason="the CPU has no products of pairs of bfloat16")
def test_a_row_does_not_depend_on_the_others() -> None:
    """To the bit: a verified draft then rounds as plain decoding does."""
    from paceline.kernels import linear_pairs_numba as pairs

    noise = torch.Generator().manual_seed(1)
    for outputs, inputs in ((960, 576), (576, 1536), (4, 32)):
        weight = torch.randn(outputs, inputs, generator=noise).to(torch.bfloat16)
        x = torch.randn(pairs.MOST_ROWS, inputs, generator=noise).to(torch.bfloat16)
        whole = pairs.multiply(x, weight)
        for rows in range(1, pairs.MOST_ROWS):
            assert torch.equal(pairs.multiply(x[:rows], weight), whole[:rows])
            assert torch.equal(pairs.multiply(x[rows:], weight), whole[rows:])


def test_weights_of_odd_shapes_are_torchs() -> None:
    for outputs, inputs in ((6, 96), (48, 40)):
        layer = make_linear(torch.ones(outputs, inputs, dtype=torch.bfloat16), None, "none")
        assert type(layer) is DenseLinear
        assert layer(torch.ones(2, inputs, dtype=torch.bfloat16)).tolist() == [[inputs] * outputs] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int4_finds_the_integers_of_a_gguf_file(dtype: torch.dtype) -> None:
    weight, q = gguf_like(dtype)
    integers, pairs = quantize_int4(weight)
    assert torch.equal(integers, q.to(torch.int32))
    rounding = torch.finfo(dtype).eps
    reach = weight.float().abs().max()
    torch.testing.assert_close(widened(integers, pairs), weight.float(), atol=float(4 * rounding * reach), rtol=0)


def test_int4_of_any_weights_is_within_half_a_step() -> None:
    weight = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(1))
    integers, pairs = quantize_int4(weight)
    assert integers.min() >= 0
    assert integers.max() <= 15
    half = pairs[..., 0].T[..., None].expand(OUT, -1, GROUP).reshape(OUT, IN) / 2
    assert ((widened(integers, pairs) - weight).abs() <= half * 1.001 + 1e-6).all()


def test_int8_of_any_weights_is_within_half_a_step() -> None:
    weight = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(2))
    integers, scales = quantize_int8(weight)
    assert ((integers.float() * scales[:, None] - weight).abs() <= scales[:, None] * 0.501).all()
    assert integers.abs().max() == 127


def test_equal_weights_stay_what_they_are() -> None:
    """A group, or a row, without any spread has no step to divide by."""
    weight = torch.full((OUT, IN), 0.75)
    weight[1] = 0.0
    integers, pairs = quantize_int4(weight)
    assert torch.equal(widened(integers, pairs), weight)
    integers, scales = quantize_int8(weight)
    torch.testing.assert_close(integers.float() * scales[:, None], weight)


@pytest.mark.parametrize("biased", [False, True], ids=["bare", "biased"])
@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
@pytest.mark.parametrize("rows", [1, 3, 8, 33])
def test_a_layer_multiplies_by_the_weights_that_it_holds(quantization: str, rows: int, biased: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(OUT, IN, generator=generator)
    bias = torch.randn(OUT, generator=generator) if biased else None
    x = torch.randn(rows, IN, generator=generator)
    held = weight
    if quantization == "int8":
        integers, scales = quantize_int8(weight)
        held = integers.float() * scales[:, None]
    elif quantization == "int4":
        held = widened(*quantize_int4(weight))
    truth = x.double() @ held.double().T + (0 if bias is None else bias.double())
    layer = make_linear(weight, bias, quantization)  # type: ignore[arg-type]
    before = x.clone()
    torch.testing.assert_close(layer(x).double(), truth, atol=2e-4, rtol=0)
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_a_row_does_not_feel_the_rows_beside_it(quantization: str, dtype: torch.dtype) -> None:
    """What makes a verified draft equal plain decoding to the last bit, as far as these layers go."""
    generator = torch.Generator().manual_seed(4)
    layer = make_linear(torch.randn(OUT, IN, generator=generator).to(dtype), None, quantization)  # type: ignore[arg-type]
    x = torch.randn(9, IN, generator=generator).to(dtype)
    alone = torch.cat([layer(x[i : i + 1]) for i in range(9)])
    torch.testing.assert_close(layer(x), alone, atol=0, rtol=0)


def test_each_quantization_holds_what_its_name_says() -> None:
    weight = torch.randn(OUT, IN)
    assert isinstance(make_linear(weight, None, "none"), DenseLinear)
    assert isinstance(make_linear(weight, None, "int8"), Int8Linear)
    layer = make_linear(weight, None, "int4")
    assert isinstance(layer, Int4Linear)
    assert layer.packed.nbytes * 8 == weight.numel() * 4


@pytest.mark.parametrize("shape", [(OUT, IN - 16), (OUT - 8, IN)], ids=["odd inputs", "odd outputs"])
def test_what_int4_cannot_group_is_held_in_8_bits(shape: tuple[int, int]) -> None:
    assert isinstance(make_linear(torch.randn(*shape), None, "int4"), Int8Linear)


def test_what_there_are_no_kernels_for_is_refused() -> None:
    with pytest.raises(ModelSourceError, match="quantization: 'int3'; expected one of none, int8, int4"):
        make_linear(torch.randn(OUT, IN), None, "int3")  # type: ignore[arg-type]
    with pytest.raises(ModelSourceError, match="quantization: 'int4' is for the CPU; the model is on meta"):
        make_linear(torch.empty(OUT, IN, device="meta"), None, "int4")
