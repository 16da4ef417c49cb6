"""What the command line, a recipe and the components let a user choose among: every list and bound that they share."""

from typing import Literal

Stage = Literal["autoencoder", "diffusion", "evaluation"]
"""Of a run, each following from those before it."""

Resize = Literal["crop", "pad"]
"""How a photo comes to the proportions of the model: its ends cut off, or empty space beside it."""

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
"""In which a network is trained."""

Conditioning = Literal["none", "class", "caption"]
"""What the prompts of a diffusion model are made of."""

FeatureKind = Literal["latents", "backbone", "both"]
"""What photos are compared by."""

ScoreName = Literal["combination", "knn", "mahalanobis", "patch", "pixels", "reconstruction", "elbo"]
"""By which score a detector decides."""

Preference = Literal["smallest", "latents"]
"""What an archive keeps a photo as: what is smallest, or latents wherever they reach the target."""

FileFormat = Literal["own", "png", "webp", "jpeg"]
"""Of extracted photos: own is latents as PNG, and what a codec keeps as its own file."""

How = Literal["sample", "vary", "posterior"]
"""How a synthetic photo is made."""

ClassifierKind = Literal["small-cnn", "probe"]
"""The judge of synthetic photos: trained from scratch, or linear on frozen features."""

MIN_STRENGTH = 0.01
"""Of variations: the denoising steps of a schedule grow with 1 / strength."""
MAX_SEED = 2**62
"""A seed plus a picture's number has to stay below 2**63."""
MAX_DENOISING_STEPS = 1000
"""As many as there are noise levels in training."""
