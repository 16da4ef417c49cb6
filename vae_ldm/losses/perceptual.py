"""How far a reconstruction is from its picture in the eyes of a network."""

import shlex
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vae_ldm.choices import LpipsNet
from vae_ldm.errors import WeightsError
from vae_ldm.models.stored_weights import check_numbers
from vae_ldm.models.vision_features import VisionFeatures


class PerceptualDistance(nn.Module):
    """Distance of unit-normalised feature maps (Zhang 2018, eq. 1, all channels weighing the same)."""

    def __init__(self, features: VisionFeatures) -> None:
        super().__init__()
        self.features = features

    def forward(self, reconstruction: Tensor, images: Tensor) -> Tensor:
        """Squared distance summed over channels, mean over positions and stages: [B] in [0, 4].

        Its gradient reaches the reconstruction; none is kept for the images, where the mathematics has none.
        """
        with torch.no_grad():
            wanted = [_unit(stage) for stage in self.features.stages(images)]
        found = [_unit(stage) for stage in self.features.stages(reconstruction)]
        distances = [(a - b).square().sum(1).flatten(1).mean(1) for a, b in zip(found, wanted, strict=True)]
        return torch.stack(distances).mean(0)


def _unit(stage: Tensor) -> Tensor:
    # The bound keeps the gradient finite at positions where a ReLU left nothing but zeros.
    return F.normalize(stage.float(), dim=1, eps=1e-3)


class LpipsDistance(nn.Module):
    """The learned perceptual distance of the `lpips` package (Zhang 2018), frozen.

    The network stands outside nn.Module's registry, as in VisionFeatures: it is not trained and not in a checkpoint.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._unregistered = (network.eval().requires_grad_(False),)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self._unregistered[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def forward(self, reconstruction: Tensor, images: Tensor) -> Tensor:
        """LPIPS, one value per image: [B]. Grey is repeated, alpha is dropped."""
        return self._unregistered[0](_rgb(reconstruction), _rgb(images)).flatten()


def _rgb(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images[:, :3]


_BACKBONES = {"alex": "AlexNet_Weights", "vgg": "VGG16_Weights", "squeeze": "SqueezeNet1_1_Weights"}
_CONVERSION = (
    "import sys, torch, safetensors.torch as s; s.save_file(torch.load(sys.argv[1], weights_only=True), sys.argv[2])"
)


def load_lpips(net: LpipsNet) -> LpipsDistance:
    """LPIPS on this backbone, whose weights must lie as safetensors in torchvision's cache: nothing is downloaded.

    torchvision itself would open its cached file as a pickle, which can run code. The weights of the distance's own
    linear layers lie in the package.

    Raises WeightsError where they do not lie there or do not fit, or where the package, or the torchvision it needs,
    cannot be imported.
    """
    try:
        # A torchvision built for another torch fails with RuntimeError rather than ImportError.
        import lpips
        from torchvision import models
    except (ImportError, RuntimeError, OSError) as error:
        cause = str(error).strip().splitlines()[0]
        raise WeightsError(
            f"perceptual network lpips cannot be imported ({cause}): pip install lpips, with the torchvision that "
            "belongs to the installed torch, or use efficientnet_lite"
        ) from error
    url = getattr(models, _BACKBONES[net]).IMAGENET1K_V1.url
    pickle = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    file = pickle.with_suffix(".safetensors")
    if not file.is_file():
        convert = shlex.join(["python", "-c", _CONVERSION, str(pickle), str(file)])
        missing = "" if pickle.is_file() else f"fetch {url} into {pickle.parent} yourself, and "
        raise WeightsError(
            f"perceptual network lpips: {file} is missing, a recipe may download from the Hub only, and a pickle is "
            f"not opened; {missing}write it once with: {convert}"
        )
    network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)  # the backbone's weights come below
    try:
        stored = load_file(file)
        # Layers keep torchvision's numbers within their slices: slice2.5.weight is its features.5.weight.
        names = {name: f"features.{name.partition('.')[2]}" for name in network.net.state_dict()}
        network.net.load_state_dict({own: stored[name] for own, name in names.items()})
    except (SafetensorError, OSError, KeyError, RuntimeError) as error:
        cause = f"it has no {error.args[0]}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise WeightsError(f"{file}: holds no weights of torchvision's {net} ({cause}); write it again") from error
    check_numbers(network, file)
    return LpipsDistance(network)
