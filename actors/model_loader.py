"""From a model folder to a `CausalModel`: the lean decoder where it computes exactly that model, else transformers.

The target and the model-based drafters call `load_model`; `model_facts` tells what needs no weights.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from paceline.actors.causal_model import CausalModel
from paceline.actors.checkpoint import Checkpoint
from paceline.actors.errors import ModelSourceError
from paceline.actors.llama import Llama
from paceline.actors.llama_config import LlamaConfig
from paceline.actors.model_facts import Quantization, read_json

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(
    path: Path,
    *,
    dtype: str,
    device: str = "cpu",
    layers: int | None = None,
    quantization: Quantization = "none",
    kv_tokens: int | None = None,
    feature_layers: Sequence[int] = (),
) -> CausalModel:
    """Load the model in a folder.

    Args:
        path: A folder with config.json and *.safetensors.
        dtype: float32, bfloat16 or float16; weights of another dtype are converted.
        device: As torch names it: cpu, cuda, cuda:1.
        layers: Only the first so many layers, then the final norm and the head (early exit); None for all.
        quantization: none, or int8 or int4 weights on a CPU; activations stay in `dtype`.
        kv_tokens: As `Llama` takes it; what transformers runs has no bound and shares nothing.
        feature_layers: Whose features the caches hold, ascending; see `causal_model`.

    Raises:
        ModelSourceError: a file or tensor is missing or damaged, the dtype or device is not there, `layers` or
            `quantization` is asked of a model that only transformers can run, or a feature layer is not there.
    """
    if dtype not in DTYPES:
        raise ModelSourceError(f"dtype: {dtype!r}; expected one of {', '.join(DTYPES)}")
    place = device_named(device)
    document = read_json(path / "config.json")
    try:
        config = LlamaConfig.parse(document)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelSourceError(f"{path / 'config.json'}: missing or wrong: {error}") from error
    if config is not None:
        return Llama(config, Checkpoint(path, place, DTYPES[dtype]), layers, quantization, kv_tokens, feature_layers)
    kind = document.get("model_type")
    if layers is not None or quantization != "none":
        asked = f"layers={layers}" if layers is not None else f"quantization={quantization!r}"
        raise ModelSourceError(f"{path}: {asked} is for Llama-like models; this {kind!r} is run by transformers")
    logger.info("%s: %r is run by transformers", path, kind)
    from paceline.actors.transformers_model import TransformersModel  # seconds of imports that most do without

    return TransformersModel(path, place, DTYPES[dtype], feature_layers)


def device_named(name: str) -> torch.device:
    """A device that is there.

    Raises:
        ModelSourceError: it is not.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelSourceError(f"device: {name!r}; expected cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelSourceError(f"device: {name!r}; torch sees {torch.cuda.device_count()} CUDA devices here")
    return device
