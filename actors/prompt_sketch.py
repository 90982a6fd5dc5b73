"""A prompt in 64 bytes: which hashed pairs and single tokens it ends with, as a set of 512 bits.

It tells a learner what kind of text a prompt is (code, a sum, a language) and not what it says. The ingress makes it
once per request, so it costs a target the 64 bytes that it hands on; `prompt_predictor` reads it at the selector.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

BYTES = 64
BITS = 8 * BYTES
LAST_TOKENS = 128  # what a prompt ends with is the question; what it begins with is often everybody's

COMMON = 0.2  # the last feature, which stands for what all prompts share

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: multiplicative hashing (Knuth, vol. 3, 6.4)
_SHIFT = np.uint64(64 - 9)  # the highest 9 bits: 512 places
_PAIR = np.uint64(0x100000001B3)


def sketch(tokens: Sequence[int]) -> bytes:
    """The set of a prompt's last tokens and pairs of neighbours, hashed.

    Args:
        tokens: Ids, each at least 0.

    Returns:
        `BYTES` bytes.
    """
    ids = np.array(tokens[-LAST_TOKENS:], dtype=np.uint64) + np.uint64(1)
    pairs = ids[:-1] * _PAIR + ids[1:]
    places = (np.concatenate([ids, pairs]) * _MULTIPLIER) >> _SHIFT
    bits = np.zeros(BITS, dtype=np.uint8)
    bits[places.astype(np.intp)] = 1
    return np.packbits(bits).tobytes()


def features(sketched: bytes) -> npt.NDArray[np.float64]:
    """The sketch as a vector of length 1, [BITS + 1]; the last place is the same for every prompt.

    Bits are taken from their mean, so that prompts that share no more than chance would have it are at right angles:
    what one teaches then does not overwrite what another did.
    """
    bits = np.unpackbits(np.frombuffer(sketched, dtype=np.uint8)).astype(np.float64)
    apart = bits - bits.mean()
    apart *= np.sqrt(1.0 - COMMON**2) / max(float(np.linalg.norm(apart)), 1e-9)
    result: npt.NDArray[np.float64] = np.append(apart, COMMON)
    return result
