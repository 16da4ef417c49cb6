"""What each part of a recipe may say. Defaults live here and nowhere else; no torch is imported."""

# ruff: noqa: F401  # what is imported here is what this room offers

from vae_ldm.recipe.parts.base import (
    PATTERNS,
    REPOSITORY,
    RUN_NAME,
    Caption,
    HubDatasetName,
    ImageSize,
    LocalPath,
    Part,
    PretrainedWeights,
    Share,
    Side,
    Subfolder,
    WholeNumber,
    Word,
    both_sides,
    is_decided_by_weights,
    is_free_under_way,
    place_kind,
)
from vae_ldm.recipe.parts.data import Data, HubDataset, ImageFolder, Mixture, OneSource, RenderedClaims, SourceOf
from vae_ldm.recipe.parts.distill import Distill, DistillTrainer
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
from vae_ldm.recipe.parts.training import AdamW, Average, DiffusionTrainer, Ema, Muon, Optimizer, PowerEma, Trainer
