"""The digest by which a network's weights are recognised."""

import hashlib

import torch


def weights_digest(network: torch.nn.Module) -> str:
    """SHA-256 of every tensor's name, type, shape and bytes, wherever it lies in memory."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
