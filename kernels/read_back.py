"""One wait for the device instead of one per tensor: what a round reads back travels in one copy.

A host that reads a tensor waits until the device has done all it was told, and the device then waits for the host.
`verdict` therefore enqueues all of a round's work first, and reads what came of it by one call.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def read_back(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors on the CPU, in their order; those that are there already are returned as they are.

    Args:
        tensors: Of any shapes and dtypes, all on one device.
    """
    if not tensors or tensors[0].device.type == "cpu":
        return list(tensors)
    return unpack(pack(tensors).cpu(), tensors)


def pack(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """All values, end to end: [bytes] uint8."""
    return torch.cat([tensor.contiguous().view(-1).view(torch.uint8) for tensor in tensors])


def unpack(packed: torch.Tensor, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """What `pack` packed, where `packed` is, in the shapes and dtypes of `like`."""
    parts = torch.split(packed, [tensor.nbytes for tensor in like])
    # Copied, since a view of a wider dtype has to begin at a multiple of its size.
    return [part.clone().view(tensor.dtype).view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]
