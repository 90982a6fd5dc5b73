"""A lean decoder for the Llama family: what a forward of a few tokens costs on a CPU is weights read, and little else.

Embedding, the layers of a `DecoderStack`, the head on the rows that are wanted; on a CUDA device as recorded graphs
(`cuda_graphs`). The target engine, the early-exit drafter (first layers only) and the lm drafter run it;
`model_loader` makes it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from paceline.actors.causal_model import Cache, Step, check_feature_layers
from paceline.actors.checkpoint import Checkpoint
from paceline.actors.cuda_graphs import ROWS as CUDA_ROWS
from paceline.actors.cuda_graphs import CudaGraphs, CudaRecorder, Recorder
from paceline.actors.decoder_stack import DecoderLayer, DecoderStack
from paceline.actors.errors import ModelSourceError
from paceline.actors.forward_inputs import ForwardInputs
from paceline.actors.linear import Linear, make_linear
from paceline.actors.llama_cache import LlamaCache
from paceline.actors.llama_config import LlamaConfig
from paceline.actors.model_facts import Quantization
from paceline.actors.step_check import check_steps
from paceline.kernels.decoder_ops import BLOCK


class Llama:
    """A `CausalModel`. Not thread-safe."""

    def __init__(
        self,
        config: LlamaConfig,
        checkpoint: Checkpoint,
        layers: int | None = None,
        quantization: Quantization = "none",
        kv_tokens: int | None = None,
        feature_layers: Sequence[int] = (),
    ) -> None:
        """Read the weights.

        Args:
            config: Shapes.
            checkpoint: Weights, already of the wanted dtype and device.
            layers: Only the first so many layers, then the final norm and the head (early exit); None for all.
            quantization: How the weights that are multiplied by are held; int4 leaves the head at 8 bits.
            kv_tokens: Positions that all caches together may hold, and that prompts which begin alike share; None for
                no bound and no sharing.
            feature_layers: Whose features the caches hold, ascending, of those layers that are run; see `causal_model`.

        Raises:
            ModelSourceError: a tensor is missing or of the wrong shape, `layers` or `feature_layers` is out of range,
                or the device has no kernels for `quantization`.
        """
        if layers is not None and not 1 <= layers <= config.layers:
            raise ModelSourceError(f"layers: {layers}; the model has {config.layers}, expected 1 to {config.layers}")
        self.feature_layers = check_feature_layers(feature_layers, layers or config.layers)
        self.config = config
        self.vocab_size = config.vocab_size
        self.max_positions = config.max_positions
        head_shape = config.vocab_size, config.width
        self._embedding = _shaped(checkpoint, "model.embed_tokens.weight", *head_shape)
        self.device = self._embedding.device
        self.dtype = self._embedding.dtype
        head = self._embedding if config.tied else _shaped(checkpoint, "lm_head.weight", *head_shape)
        # Rounding the head's weights moves the logits themselves; GGUF files give it more bits too.
        self._head = make_linear(head, None, "int8" if quantization == "int4" else quantization)
        self._stack = DecoderStack(
            [_read_layer(checkpoint, config, index, quantization) for index in range(layers or config.layers)],
            _shaped(checkpoint, "model.norm.weight", config.width),
            config.inverse_frequencies().to(self.device),
            heads=config.heads,
            kv_heads=config.kv_heads,
            eps=config.rms_eps,
            kv_tokens=kv_tokens,
            feature_layers=self.feature_layers,
        )
        self.ops, self.pool = self._stack.ops, self._stack.pool
        self._graphs = self.new_graphs(CudaRecorder()) if self.device.type == "cuda" and self.pool.fixed else None

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that a forward reads, whatever the number of positions (an embedding's row is nothing)."""
        return self._head.weight_bytes + self._stack.weight_bytes

    def new_cache(self, prompt: Sequence[int] = ()) -> LlamaCache:
        """A cache that grows as needed, holding the beginning of `prompt` that the pool knows."""
        return self._stack.new_cache(prompt)

    def positions_held(self, caches: Sequence[Cache]) -> int:
        """Positions of the blocks that caches hold; see `CausalModel.positions_held`."""
        return self.pool.held * BLOCK

    @torch.inference_mode()
    def forward(self, steps: Sequence[Step]) -> torch.Tensor:
        """Append every step's tokens to its cache and return the wanted logits; see `CausalModel.forward`.

        A refused call leaves every cache as it was.

        Returns:
            [rows, vocab_size] in the model's dtype.

        Raises:
            ValueError: a step is empty, is not this model's, repeats a cache, asks for rows or holds ids that are not
                there, goes beyond `max_positions`, or is no tree.
            EngineError: the pool has no block left.
        """
        caches, wanted = check_steps(steps, LlamaCache, self.vocab_size, self.max_positions)
        ids = [token for step in steps for token in step.token_ids]
        rows, first = [], 0
        for step, own in zip(steps, wanted, strict=True):
            rows += [first + row for row in own]
            first += len(step.token_ids)
        if self._graphs is not None and self._graphs.fits(len(steps), len(ids)):
            logits, features, layout = self._graphs.run(steps, caches, ids, rows)
            self._stack.keep_features(features, layout)
            return logits
        entered = F.embedding(torch.tensor(ids).to(self.device, non_blocking=True), self._embedding)
        normed = self._stack.run(entered, steps, caches)
        if not rows:
            return normed.new_empty(0, self.vocab_size)
        if len(rows) < len(ids):
            normed = normed[torch.tensor(rows).to(self.device, non_blocking=True)]
        return self._head(normed)

    def new_graphs(self, record: Recorder) -> CudaGraphs:
        """Graphs of this model's forwards, none recorded yet; its pool must be `fixed`."""
        blocks = min(self.pool.max_blocks or 0, -(-self.max_positions // BLOCK))
        with torch.inference_mode():
            logits = torch.empty(CUDA_ROWS[-1], self.vocab_size, dtype=self.dtype, device=self.device)
        return CudaGraphs(self._on_device, self.device, logits, blocks, record)

    def _on_device(self, inputs: ForwardInputs, wanted: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A forward's work between its inputs and its logits; see `cuda_graphs`."""
        x = F.embedding(inputs.ids, self._embedding)
        normed, features = self._stack.compute(x, inputs.positions, inputs.batch(self.pool.require_memory()))
        return self._head(normed[inputs.wanted[:wanted]]), features


def _read_layer(checkpoint: Checkpoint, config: LlamaConfig, index: int, quantization: Quantization) -> DecoderLayer:
    at = f"model.layers.{index}."
    q_width, kv_width = config.heads * config.head_dim, config.kv_heads * config.head_dim

    def read(name: str, *shape: int) -> torch.Tensor:
        return _shaped(checkpoint, at + name, *shape)

    def linear(inputs: int, **parts: int) -> Linear:
        """Parts side by side, each with its number of outputs."""
        names = [("mlp." if part in ("gate_proj", "up_proj", "down_proj") else "self_attn.") + part for part in parts]
        for name, outputs in zip(names, parts.values(), strict=True):
            read(f"{name}.weight", outputs, inputs)
        biased = f"{at}{names[0]}.bias" in checkpoint.names
        weight = checkpoint.joined([f"{at}{name}.weight" for name in names])
        bias = checkpoint.joined([f"{at}{name}.bias" for name in names]) if biased else None
        if bias is not None and bias.shape != weight.shape[:1]:
            raise ModelSourceError(f"{at}{names[0]}.bias: {len(bias)} values beside {len(weight)} outputs")
        return make_linear(weight, bias, quantization)

    qk_norm = None
    if f"{at}self_attn.q_norm.weight" in checkpoint.names:
        q, k = (read(f"self_attn.{part}_norm.weight", config.head_dim) for part in "qk")
        qk_norm = torch.cat((q.expand(config.heads, -1), k.expand(config.kv_heads, -1)))
    inner = len(checkpoint.tensor(f"{at}mlp.gate_proj.weight"))
    return DecoderLayer(
        attention_norm=read("input_layernorm.weight", config.width),
        qkv=linear(config.width, q_proj=q_width, k_proj=kv_width, v_proj=kv_width),
        qk_norm=qk_norm,
        output=linear(q_width, o_proj=config.width),
        mlp_norm=read("post_attention_layernorm.weight", config.width),
        gate_up=linear(config.width, gate_proj=inner, up_proj=inner),
        down=linear(inner, down_proj=config.width),
    )


def _shaped(checkpoint: Checkpoint, name: str, *shape: int) -> torch.Tensor:
    """A tensor whose shape is what config.json says: the compiled ops go by it, and look no further.

    Raises:
        ModelSourceError: it is missing, or of another shape.
    """
    tensor = checkpoint.tensor(name)
    if tuple(tensor.shape) != shape:
        raise ModelSourceError(f"{name}: shape {tuple(tensor.shape)}; config.json says {shape}")
    return tensor
