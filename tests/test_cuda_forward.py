"""The forward that a GPU runs: Triton's ops, blocks in one tensor, inputs in buckets. Without a GPU in Triton's
interpreter, and with work that repeats itself where a CUDA graph would be replayed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import make_tiny_llama, make_tiny_qwen3

from paceline.actors import decoder_stack
from paceline.actors.causal_model import Step
from paceline.actors.cuda_graphs import ROWS
from paceline.actors.errors import EngineError
from paceline.actors.kv_pool import KVPool
from paceline.actors.llama import Llama
from paceline.actors.llama_cache import LlamaCache
from paceline.actors.model_loader import load_model
from paceline.kernels.decoder_ops import BLOCK

TEXT = [(i * i + 3) % 97 for i in range(60)]
TREE, PARENTS = [7, 8, 9, 10, 11, 12], [-1, 0, 0, 1, -1, 4]


def load(folder: Path, **options: object) -> Llama:
    model = load_model(folder, dtype="float32", **options)  # type: ignore[arg-type]
    assert isinstance(model, Llama)
    return model


def on_gpu(folder: Path, patch: pytest.MonkeyPatch, graphs: bool, **options: object) -> Llama:
    """A model on the GPU where there is one, else as it would be there."""
    from paceline.kernels.decoder_triton import TritonOps

    if torch.cuda.is_available():
        model = load(folder, device="cuda", kv_tokens=20 * BLOCK, **options)
        model._graphs = model._graphs if graphs else None
        return model

    with patch.context() as within:
        within.setattr(decoder_stack, "decoder_ops", lambda *_: TritonOps("test"))
        model = load(folder, kv_tokens=20 * BLOCK, **options)
    if graphs:

        def record(work: Callable[[], None]) -> Callable[[], None]:
            work()
            return work

        model._graphs = model.new_graphs(record)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("llama"), layers=1)


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got.cpu(), expected.cpu(), atol=1e-4, rtol=0)


def rounds(model: Llama) -> list[torch.Tensor]:
    """What a target does: prompts, drafts, a roll-back, a prompt in parts that begins like one that is gone."""
    first, second = model.new_cache(TEXT[:7]), model.new_cache(TEXT[:17])
    out = [model.forward([Step(first, TEXT[:7], -1), Step(second, TEXT[:17], 15)])]
    out.append(model.forward([Step(first, [5, 6, 7]), Step(second, [8])]))
    first.truncate(8)
    out.append(model.forward([Step(second, [9, 10, 11, 12]), Step(first, [14, 15], -1)]))
    second.truncate(21)  # committed: its first block may be shared
    del second
    third = model.new_cache(TEXT[:19])
    assert third.length == 16, "the text that is gone left its block"
    out.append(model.forward([Step(third, TEXT[16:18], 2), Step(first, [16])]))
    out.append(model.forward([Step(third, TEXT[18:19], -1)]))
    return out


@pytest.mark.parametrize("graphs", [False, True])
def test_rounds_are_the_cpus(folder: Path, graphs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = rounds(load(folder, kv_tokens=20 * BLOCK))
    model = on_gpu(folder, monkeypatch, graphs)
    assert model.ops.name == "triton"
    for got, truth in zip(rounds(model), expected, strict=True):
        close(got, truth)


def test_norms_on_queries_and_features_take_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny_qwen3(tmp_path)
    held = []
    for model in (
        load(tmp_path, feature_layers=(1, 2)),
        on_gpu(tmp_path, monkeypatch, graphs=False, feature_layers=(1, 2)),
        on_gpu(tmp_path, monkeypatch, graphs=True, feature_layers=(1, 2)),
    ):
        cache = model.new_cache()
        logits = model.forward([Step(cache, TEXT[:6])])
        model.forward([Step(cache, TEXT[6:8])])
        held.append((logits, cache.features(0, 8)))
    for other in held[1:]:
        for got, expected in zip(other, held[0], strict=True):
            close(got, expected)


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("rows", [[0, 1, 3], [4, 5]])
def test_trees_and_their_chosen_path(
    folder: Path, rows: list[int], graphs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """14 positions held: the tree lies across two blocks. A chain beside it must not see as a tree does."""
    outcomes = []
    for model in (load(folder), on_gpu(folder, monkeypatch, graphs)):
        cache, chain = model.new_cache(), model.new_cache()
        model.forward([Step(cache, TEXT[:14], -1), Step(chain, TEXT[:2], -1)])
        logits = model.forward([Step(chain, [1, 2]), Step(cache, TREE, 0, PARENTS)])
        assert isinstance(cache, LlamaCache)
        cache.keep(14, rows)
        outcomes.append((logits, model.forward([Step(cache, [3], -1)])))
    for got, expected in zip(outcomes[1], outcomes[0], strict=True):
        close(got, expected)


def test_a_bucket_is_recorded_once_and_fits_what_is_smaller(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = on_gpu(folder, monkeypatch, graphs=True)
    graphs = model._graphs
    assert graphs is not None
    caches = [model.new_cache() for _ in range(3)]
    model.forward([Step(cache, TEXT[:2], -1) for cache in caches])
    assert graphs.buckets == [(4, 8, 4)]  # three prompts of two, of which the last rows are wanted
    held = model.forward([Step(cache, [1]) for cache in caches])
    kept = held.clone()
    model.forward([Step(cache, [2]) for cache in caches[:1]])
    model.forward([Step(cache, [2]) for cache in caches])
    assert graphs.buckets == [(4, 8, 4), (4, 4, 4), (1, 1, 1)]
    assert torch.equal(held, kept), "logits are the caller's own, also after the next forward"
    assert not graphs.fits(1, ROWS[-1] + 1)
    assert not graphs.fits(1000, 200)


def test_a_full_pool_refuses_and_leaves_every_cache_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = on_gpu(folder, monkeypatch, graphs=True)
    one, two = model.new_cache(), model.new_cache()
    model.forward([Step(one, [1, 2], -1)])
    with pytest.raises(EngineError, match="all 20 blocks of 16 positions are in use"):
        model.forward([Step(one, [1], -1), Step(two, [1] * 310, -1)])  # too many rows for a bucket
    with pytest.raises(EngineError, match="all 20 blocks of 16 positions are in use"):
        model.forward([Step(one, [1] * 120, -1), Step(two, [1] * 200, -1), Step(model.new_cache(), [1], -1)])
    assert (one.length, two.length) == (2, 0)


def test_a_pool_without_a_bound_grows_and_keeps_what_it_holds() -> None:
    like = torch.empty(2, 1, 2, BLOCK * 4)
    pool = KVPool(like, feature_width=3, whole=True)
    blocks = [pool.take() for _ in range(64)]
    for number, block in enumerate(blocks):
        block.data.fill_(number)
        assert block.features is not None
        block.features.fill_(-number)
    before = pool.memory
    blocks.append(pool.take())
    assert pool.memory is not before
    assert pool.memory is not None
    assert len({block.index for block in blocks}) == 65
    for number, block in enumerate(blocks[:64]):
        assert block.features is not None
        assert (block.data == number).all()
        assert (pool.memory[block.index] == number).all()
        assert (block.features == -number).all()
        assert block.address == pool.memory[block.index].data_ptr()
    assert not pool.fixed
    assert pool.held == 65


def test_a_pool_with_a_bound_stays_where_it_is() -> None:
    pool = KVPool(torch.empty(2, 1, 2, BLOCK * 4), max_blocks=70, whole=True)
    memory = pool.require_memory()
    assert [pool.take().index for _ in range(70)] == list(range(70))
    assert pool.memory is memory
    assert pool.fixed
    with pytest.raises(EngineError, match="all 70 blocks"):
        pool.take()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_graphs_give_the_logits_of_single_launches(folder: Path, dtype: str) -> None:
    """And on a CUDA device a model has graphs where its pool has a bound."""
    outcomes = []
    for kv_tokens in (20 * BLOCK, None):
        model = load_model(folder, dtype=dtype, device="cuda", kv_tokens=kv_tokens)
        assert isinstance(model, Llama)
        assert (model._graphs is not None) == (kv_tokens is not None)
        outcomes.append(rounds(model))
    truth = rounds(load(folder, kv_tokens=20 * BLOCK))
    for graph, eager, exact in zip(*outcomes, truth, strict=True):
        # The same kernels; a padded product may add up in another order.
        bound = 1e-4 if dtype == "float32" else 0.02 * float(exact.std())
        torch.testing.assert_close(graph.float(), eager.float(), atol=bound, rtol=0)
        assert (graph.float().cpu() - exact).abs().mean() < (1e-4 if dtype == "float32" else 0.05 * exact.std())


@pytest.mark.gpu
def test_a_forward_waits_for_nothing(folder: Path) -> None:
    model = load_model(folder, dtype="bfloat16", device="cuda", kv_tokens=20 * BLOCK)
    rounds(model)  # type: ignore[arg-type]  # recording waits
    torch.cuda.set_sync_debug_mode("error")
    try:
        rounds(model)  # type: ignore[arg-type]
    finally:
        torch.cuda.set_sync_debug_mode("default")
