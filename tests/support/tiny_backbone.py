"""A vision model of transformers with a few thousand weights, which looks at photos in milliseconds."""

import json
from pathlib import Path

import torch
from transformers import (
    ConvNextConfig,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    PreTrainedModel,
    ResNetConfig,
    ResNetModel,
    ViTConfig,
    ViTModel,
)

_VIT = {"hidden_size": 8, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}


def save_backbone(folder: Path, kind: str = "convnext", *, side: int = 32, seed: int = 0) -> str:
    """The folder of a model of random weights, which looks at pictures of `side` px."""
    torch.manual_seed(seed)
    model: PreTrainedModel
    if kind == "convnext":
        model = ConvNextModel(ConvNextConfig(hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1]))
    elif kind == "resnet":
        sizes = {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1]}
        model = ResNetModel(ResNetConfig(**sizes, layer_type="basic"))
    elif kind == "dinov2":
        model = Dinov2Model(Dinov2Config(**_VIT, mlp_ratio=2))
    else:
        model = ViTModel(ViTConfig(**_VIT, intermediate_size=16))
    model.save_pretrained(folder)
    processor = {"image_mean": [0.5] * 3, "image_std": [0.2] * 3, "size": {"height": side, "width": side}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return str(folder)
