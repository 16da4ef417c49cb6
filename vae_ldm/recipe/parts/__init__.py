"""What each part of a recipe may say. Defaults live here and nowhere else; no torch is imported."""

from vae_ldm.recipe.parts.base import ImageSize, Part, Share, Side, WholeNumber, is_free_under_way
from vae_ldm.recipe.parts.data import Data, HubDataset, ImageFolder, RenderedClaims
from vae_ldm.recipe.parts.loggers import Comet, Logger, MLFlow, TensorBoard, WeightsAndBiases
from vae_ldm.recipe.parts.losses import (
    L1,
    L2,
    Adversarial,
    AutoencoderLoss,
    EfficientNetLite,
    Features,
    Huber,
    Lpips,
    Perceptual,
    TransformersBackbone,
)
from vae_ldm.recipe.parts.stages import (
    Autoencoder,
    Diffusion,
    Evaluation,
    Hub,
    Lora,
    PretrainedTextEncoder,
    TrainedTextEncoder,
)
from vae_ldm.recipe.parts.training import DiffusionTrainer, Ema, Optimizer, Trainer

__all__ = [
    "L1",
    "L2",
    "Adversarial",
    "Autoencoder",
    "AutoencoderLoss",
    "Comet",
    "Data",
    "Diffusion",
    "DiffusionTrainer",
    "EfficientNetLite",
    "Ema",
    "Evaluation",
    "Features",
    "Hub",
    "HubDataset",
    "Huber",
    "ImageFolder",
    "ImageSize",
    "Logger",
    "Lora",
    "Lpips",
    "MLFlow",
    "Optimizer",
    "Part",
    "Perceptual",
    "PretrainedTextEncoder",
    "RenderedClaims",
    "Share",
    "Side",
    "TensorBoard",
    "TrainedTextEncoder",
    "Trainer",
    "TransformersBackbone",
    "WeightsAndBiases",
    "WholeNumber",
    "is_free_under_way",
]
