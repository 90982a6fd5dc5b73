"""Blocks of keys and values, and who shares them: sequences with the same beginning hold the same blocks of it.

A block holds `BLOCK` positions of every layer, and their features where drafters ask for them (`causal_model`). Full
blocks of committed text are published under a hash of all tokens up to their end, so that a later prompt that begins
alike takes them instead of computing them; nobody writes to a published block. Blocks that no sequence holds stay
published until memory is needed, the longest unused first. The lean decoder (`llama`) owns one pool.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence

import torch

from paceline.actors.errors import EngineError
from paceline.kernels.decoder_ops import BLOCK

_SLAB = 64  # blocks made at once


class Block:
    """Memory of `BLOCK` positions: keys and values, [layers, kv_heads, 2, BLOCK * head_dim]; see `PagedBatch`.

    `features` are hidden states of the same positions, [BLOCK, feature_width], or None where none are kept. `index` is
    the block's place in its pool's memory, where that lies in one tensor.
    """

    __slots__ = ("address", "data", "features", "holders", "index", "key")

    def __init__(self, data: torch.Tensor, features: torch.Tensor | None = None, index: int = -1) -> None:
        self.data = data
        self.features = features
        self.index = index
        self.address = data.data_ptr()
        self.holders = 0
        self.key: bytes | None = None  # what it is published under


class KVPool:
    """The blocks of one model. Not thread-safe."""

    def __init__(
        self,
        like: torch.Tensor,
        max_blocks: int | None = None,
        share: bool = False,
        feature_width: int = 0,
        whole: bool = False,
    ) -> None:
        """An empty pool.

        Args:
            like: A tensor of the dtype and device, whose shape is that of a block.
            max_blocks: Most blocks there may be; None for as many as memory holds.
            share: Whether prompts that begin alike share blocks.
            feature_width: Values kept beside each position's keys and values; 0 keeps none.
            whole: Whether all blocks lie in one tensor, `memory`: with a bound it is made at once and stays where it
                is; without one it is made anew, twice as large, when more blocks are needed than it has.

        Raises:
            ValueError: blocks are to be shared without a bound, so that none would ever be forgotten.
        """
        if share and max_blocks is None:
            raise ValueError("max_blocks: None; expected a number where blocks are shared")
        self._like = like
        self.max_blocks = max_blocks
        self.share = share
        self.feature_width = feature_width
        self.memory: torch.Tensor | None = None  # [blocks, *like.shape] where `whole`, once there are blocks
        self._whole = whole
        self._blocks: list[Block] = []  # all there are, where `whole`
        self._made = 0
        self._free: list[Block] = []
        self._published: dict[bytes, Block] = {}
        self._unused: OrderedDict[bytes, Block] = OrderedDict()  # published and held by nobody, longest unused first

    def require_memory(self) -> torch.Tensor:
        """`memory`, made now if need be.

        Raises:
            ValueError: the blocks do not lie in one tensor.
        """
        if self._whole and self.memory is None:
            self._grow()
        if self.memory is None:
            raise ValueError("memory: the pool's blocks do not lie in one tensor; expected ops that are `whole`")
        return self.memory

    @property
    def fixed(self) -> bool:
        """Whether `memory` stays where it is."""
        return self._whole and self.max_blocks is not None

    @property
    def held(self) -> int:
        """Blocks that sequences hold."""
        return self._made - len(self._free) - len(self._unused)

    @property
    def cached(self) -> int:
        """Blocks that only wait for a prompt that begins like them."""
        return len(self._unused)

    def take(self) -> Block:
        """A block to write to.

        Raises:
            EngineError: all are held by sequences.
        """
        if not self._free and (self.max_blocks is None or self._made < self.max_blocks):
            self._make()
        if self._free:
            block = self._free.pop()
        elif self._unused:
            key, block = self._unused.popitem(last=False)
            del self._published[key]
            block.key = None
        else:
            raise EngineError(f"all {self._made} blocks of {BLOCK} positions are in use by running sequences")
        block.holders = 1
        return block

    def give_back(self, blocks: Sequence[Block]) -> None:
        """Let go of blocks, the first of a sequence first."""
        for block in reversed(blocks):  # so that the end of a text is forgotten before its beginning
            block.holders -= 1
            if block.holders == 0:
                if block.key is None:
                    self._free.append(block)
                else:
                    self._unused[block.key] = block

    def publish(self, block: Block, key: bytes) -> None:
        """Offer a full block to sequences that begin alike; it is not written to from now on."""
        if self.share and block.key is None and key not in self._published:
            block.key = key
            self._published[key] = block

    def find(self, tokens: Sequence[int]) -> list[Block]:
        """Take the published blocks that `tokens` begin with; at least one token is left over."""
        found: list[Block] = []
        key = b""
        if not self._published:
            return found
        for at in range(0, len(tokens) - BLOCK, BLOCK):
            key = next_key(key, tokens[at : at + BLOCK])
            block = self._published.get(key)
            if block is None:
                break
            self._unused.pop(key, None)
            block.holders += 1
            found.append(block)
        return found

    def no_features(self) -> torch.Tensor:
        """The features of no positions, [0, feature_width]."""
        return self._like.new_empty(0, self.feature_width)

    def _make(self) -> None:
        if self._whole:
            self._grow()
            return
        count = _SLAB if self.max_blocks is None else min(_SLAB, self.max_blocks - self._made)
        with torch.inference_mode(False):  # written to in and outside of forwards
            slab = torch.empty((count, *self._like.shape), dtype=self._like.dtype, device=self._like.device)
            features: Sequence[torch.Tensor | None] = [None] * count
            if self.feature_width:
                features = slab.new_empty(count, BLOCK, self.feature_width).unbind(0)
        self._free += [Block(*parts) for parts in zip(reversed(slab.unbind(0)), reversed(features), strict=True)]
        self._made += count

    def _grow(self) -> None:
        """Blocks in one tensor: all that there may be, or as many again."""
        total = max(_SLAB, 2 * self._made) if self.max_blocks is None else self.max_blocks
        with torch.inference_mode(False):
            memory = torch.empty((total, *self._like.shape), dtype=self._like.dtype, device=self._like.device)
            features = memory.new_empty(total, BLOCK, self.feature_width) if self.feature_width else None
        for block in self._blocks:
            memory[block.index].copy_(block.data)
            block.data, block.address = memory[block.index], memory[block.index].data_ptr()
            if features is not None and block.features is not None:
                features[block.index].copy_(block.features)
                block.features = features[block.index]
        fresh = [
            Block(memory[index], None if features is None else features[index], index)
            for index in range(self._made, total)
        ]
        self._blocks += fresh
        self._free += reversed(fresh)
        self.memory, self._made = memory, total


def next_key(key: bytes, tokens: Sequence[int]) -> bytes:
    """What a block of `tokens` is published under, after the block published under `key`; b"" where it is the first.

    A cryptographic hash: two texts with one key would be given each other's keys and values.
    """
    return hashlib.blake2b(key + array("q", tokens).tobytes(), digest_size=16).digest()
