"""What the command line, a recipe and the components let a user choose among: every list and bound that they share."""

from typing import Literal

Stage = Literal["autoencoder", "diffusion", "distillation", "evaluation"]
"""The stages of a run; each follows from those before it."""

Export = Literal["autoencoder", "pipeline", "lora", "student"]
"""The folders of a run that hold weights to use. Each is written whole, and is named by a stage in `STAGES`."""

Network = Literal["autoencoder", "unet"]
"""What a stage trains."""

Resize = Literal["crop", "pad"]
"""How a photo comes to the proportions of the model: its ends cut off, or empty space beside it."""

Detail = Literal["plain", "fine"]
"""How rendered claims are drawn: boldly, so that damage survives at 32 px, or finely, for 64 px and more."""

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
"""The precision that a network is trained in."""

OnNaN = Literal["stop", "skip"]
"""What becomes of a run whose loss is NaN or infinite: it ends, or leaves such steps out."""

ExportedWeights = Literal["last", "best"]
"""Which weights leave a stage: those of its last step, or the best that it has seen on validation pictures."""

ValidationMetric = Literal["val/loss", "val/psnr", "val/ssim", "val/reconstruction", "val/distance"]
"""What a stage logs on validation pictures; `STAGES` says which stage has which."""

BestEnd = Literal["min", "max"]
"""Which end of a metric is its best."""

SnapshotDtype = Literal["float16", "float32"]
"""What numbers of a snapshot are stored as."""

TrainedPart = Literal["all", "decoder", "nothing"]
"""The part of a pretrained autoencoder that is trained."""

LpipsNet = Literal["alex", "vgg", "squeeze"]
"""The backbone of LPIPS."""

Conditioning = Literal["none", "class", "caption"]
"""What the prompts of a diffusion model are made of."""

PredictionType = Literal["epsilon", "v_prediction", "flow_prediction"]
"""What a UNet predicts."""

TimestepSampling = Literal["uniform", "logit_normal"]
"""The distribution of the noise levels that a UNet is trained on."""

NoiseAssignment = Literal["random", "immiscible"]
"""Which noise a latent is trained with: any, or that of its batch which is nearest to it."""

FeatureKind = Literal["latents", "backbone", "both"]
"""The features that photos are compared by."""

EfficientNetName = Literal["efficientnet-lite0", "efficientnet-lite2"]
"""The vision backbones whose weights come as a Python package; the first one is always installed."""

Preference = Literal["smallest", "latents"]
"""What an archive keeps a photo as: what is smallest, or latents wherever they reach the target."""

FileFormat = Literal["own", "png", "webp", "jpeg"]
"""The format of extracted photos: `own` writes latents as PNG, and what a codec keeps as the codec's file."""

How = Literal["sample", "vary", "posterior"]
"""How a synthetic photo is made."""

ClassifierKind = Literal["small-cnn", "probe"]
"""The judge of synthetic photos: trained from scratch, or linear on frozen features."""

MIN_STRENGTH = 0.01
"""The smallest strength of variations: the number of denoising steps grows with 1 / strength."""
MAX_SEED = 2**62
"""A seed plus a picture's number has to stay below 2**63."""
MAX_DENOISING_STEPS = 1000
"""The number of noise levels in training."""
MAX_GUIDANCE_SCALE = 1000
"""Far more guidance than improves any picture; without a bound the latents overflow, and the picture is black."""
Distilled = Literal["teacher", "student"]
"""Which of the two a run with `diffusion.distill` exports."""

RUNS_FOLDER = "runs"
"""Where runs lie unless a recipe says otherwise; runs/NAME is never a repository of the Hub."""
MAX_DRAWN = 1_000_000
"""The most pictures that are drawn at once, of a class or of a run."""
