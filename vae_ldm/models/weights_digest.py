"""The digest by which a network's weights are recognised."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def weights_digest(network: torch.nn.Module) -> str:
    """SHA-256 of every tensor's name, type, shape and bytes, wherever it lies in memory."""
    return tensors_digest(network.state_dict())


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """`weights_digest` of tensors by their names, in whatever order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
