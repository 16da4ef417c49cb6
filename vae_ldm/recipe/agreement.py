"""Settings of a recipe that are right by themselves and wrong together, or that would be ignored."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from vae_ldm.recipe.disagreement import Disagreement
from vae_ldm.recipe.parts import (
    Autoencoder,
    AutoencoderLoss,
    Diffusion,
    Mixture,
    TrainedTextEncoder,
    Trainer,
    is_decided_by_weights,
)
from vae_ldm.recipe.picture_agreement import (
    crop_disagreements,
    discriminator_disagreements,
    mixture_disagreements,
    pipeline_size_disagreements,
    size_disagreements,
    template_disagreements,
)
from vae_ldm.recipe.stages import Stage, stages_of

if TYPE_CHECKING:
    from vae_ldm.recipe.schema import Recipe


def disagreements(recipe: "Recipe") -> Iterator[Disagreement]:
    """Every disagreement of the recipe."""
    yield from template_disagreements(recipe.data)
    yield from _autoencoder(recipe.autoencoder)
    yield from discriminator_disagreements(recipe)
    yield from crop_disagreements(recipe)
    if isinstance(recipe.data, Mixture):
        yield from mixture_disagreements(recipe, recipe.data)
    if recipe.autoencoder.from_pretrained is None:
        yield from size_disagreements(recipe)
    if recipe.diffusion is not None:
        if recipe.diffusion.from_pretrained is None:  # else the weights decide what is asked there
            yield from _diffusion(recipe.diffusion)
        yield from _pretrained_diffusion(recipe, recipe.diffusion)
        yield from pipeline_size_disagreements(recipe)
        yield from _distill(recipe, recipe.diffusion)
    for stage in stages_of(recipe):
        section = getattr(recipe, stage.name)
        if stage.network is not None and getattr(section, "train", "all") != "nothing":
            yield from _choice_of_weights(stage, section.trainer)
    curves = recipe.evaluation.num_curve_samples
    if recipe.distillation is None and curves != type(recipe.evaluation)().num_curve_samples:
        text = "means nothing without diffusion.distill"
        yield Disagreement(("evaluation.num_curve_samples", "diffusion.distill"), text)
    if recipe.diffusion is None and recipe.hub is not None and recipe.hub.push_every_n_steps is not None:
        text = "only the diffusion stage is pushed on the way, and there is none; leave it out"
        yield Disagreement(("hub.push_every_n_steps", "diffusion"), text)


def _autoencoder(stage: Autoencoder) -> Iterator[Disagreement]:
    pretrained = "autoencoder.from_pretrained"
    if stage.from_pretrained is None:
        if stage.train != "all":
            yield Disagreement(("autoencoder.train", pretrained), f"{stage.train} needs {pretrained}")
        yield from _ignored(stage, ("revision", "subfolder"), pretrained, f"means nothing without {pretrained}")
    else:
        yield from _derived(stage)
    if stage.train == "nothing":
        without_effect = ("variational", "crop_size", "loss", "optimizer", "ema", "trainer")
        yield from _ignored(stage, without_effect, "autoencoder.train", "nothing is trained; leave it out")
    yield from _kl_weight(stage)
    if stage.trainer.precision == "16-mixed":
        text = "16-mixed would scale two losses with one scaler; use bf16-mixed or 32-true"
        yield Disagreement(("autoencoder.trainer.precision",), text)


def _choice_of_weights(stage: Stage, trainer: Trainer) -> Iterator[Disagreement]:
    prefix, metrics = f"{stage.section}.trainer", [metric for metric, _ in stage.metrics]
    if trainer.best_by not in (None, *metrics):
        text = f"is not measured in this stage; legal: {', '.join(metrics)}"
        yield Disagreement((f"{prefix}.best_by",), text)
    for key, is_set in (
        ("export", trainer.export == "best"),
        ("stop_after_no_gain_steps", trainer.stop_after_no_gain_steps is not None),
    ):
        if is_set and trainer.val_every_n_steps > trainer.max_steps:
            every = f"{prefix}.val_every_n_steps"
            text = f"nothing is validated in max_steps {trainer.max_steps}, which {prefix}.{key} needs"
            yield Disagreement((every, f"{prefix}.{key}"), text)


def _kl_weight(stage: Autoencoder) -> Iterator[Disagreement]:
    per_latent, per_picture = "autoencoder.loss.kl_weight_per_latent", "autoencoder.loss.kl_weight"
    loss = stage.loss
    if loss.kl_weight is not None and loss.kl_weight_per_latent is not None:
        yield Disagreement((per_picture, per_latent), f"is given beside {per_latent}; leave one of the two out")
    if loss.kl_weight is None and loss.kl_weight_per_latent is None:
        yield Disagreement((per_latent,), "needs a number; 0 trains without a KL term")
    if not stage.variational:
        text = "a plain autoencoder (variational: false) has no KL term; leave it out"
        if loss.kl_weight_per_latent not in (None, 0, AutoencoderLoss().kl_weight_per_latent):
            yield Disagreement((per_latent, "autoencoder.variational"), text)
        if loss.kl_weight not in (None, 0):
            yield Disagreement((per_picture, "autoencoder.variational"), text)


def _pretrained_diffusion(recipe: "Recipe", stage: Diffusion) -> Iterator[Disagreement]:
    autoencoder = recipe.autoencoder
    pretrained = "diffusion.from_pretrained"
    if stage.from_pretrained is None:
        if stage.train != "all":
            yield Disagreement(("diffusion.train", pretrained), f"{stage.train} needs {pretrained}")
        yield from _ignored(stage, ("revision",), pretrained, f"means nothing without {pretrained}")
    else:
        yield from _derived(stage)
        keys = (pretrained, "autoencoder.from_pretrained", "autoencoder.train")
        if autoencoder.from_pretrained is None:
            text = "its UNet knows the latents of its own autoencoder only; set autoencoder.from_pretrained to it"
            yield Disagreement(keys, text)
        elif autoencoder.train == "all":
            text = "its UNet would no longer fit the latents; set autoencoder.train to nothing or decoder"
            yield Disagreement(keys, text)
    if recipe.hub is not None and stage.train == "lora" and not stage.lora.merge:
        yield Disagreement(
            ("hub", "diffusion.lora.merge"), "a push sends a whole pipeline; set diffusion.lora.merge: true"
        )
    if stage.contrastive_weight and stage.conditioning == "none":
        text = "compares pictures of different prompts, and without conditioning there is one"
        yield Disagreement(("diffusion.contrastive_weight", "diffusion.conditioning"), text)
    if stage.flow_shift is not None and stage.train == "lora" and not stage.lora.merge:
        text = "a LoRA file is drawn with its base's scheduler; set diffusion.lora.merge: true, or leave it out"
        yield Disagreement(("diffusion.flow_shift", "diffusion.lora.merge"), text)
    if stage.train != "lora":
        yield from _ignored(stage, ("lora",), "diffusion.train", "means nothing without diffusion.train: lora")


def _distill(recipe: "Recipe", stage: Diffusion) -> Iterator[Disagreement]:
    part, key = stage.distill, "diffusion.distill"
    if part is None:
        return
    if stage.train == "lora":
        text = "teaches a whole UNet, and a LoRA is small updates beside its base; use another train, or leave it out"
        yield Disagreement((key, "diffusion.train"), text)
    low, high = part.guidance_scale
    if low > high:
        yield Disagreement((f"{key}.guidance_scale",), f"{low:g} to {high:g}: the lowest comes first")
    drawn = recipe.evaluation.guidance_scale
    if stage.conditioning != "none" and drawn < 1:
        text = f"{drawn:g} draws without guidance, as 1 does, and a student is told 1 at the least; set it to 1"
        yield Disagreement(("evaluation.guidance_scale", key), text)
    elif stage.conditioning != "none" and low <= high and not low <= drawn <= high:
        text = f"{low:g} to {high:g} does not hold the {drawn:g} that the run is measured with; widen it"
        yield Disagreement((f"{key}.guidance_scale", "evaluation.guidance_scale"), text)
    if part.num_teacher_steps < part.num_inference_steps:
        text = f"{part.num_teacher_steps} are fewer than the student's own {part.num_inference_steps} steps"
        yield Disagreement((f"{key}.num_teacher_steps", f"{key}.num_inference_steps"), text)
    if part.guidance_steps >= part.trainer.max_steps and stage.conditioning != "none":
        text = f"leaves none of max_steps {part.trainer.max_steps} for few steps; lower it"
        yield Disagreement((f"{key}.guidance_steps", f"{key}.trainer.max_steps"), text)


def _derived(stage: Autoencoder | Diffusion) -> Iterator[Disagreement]:
    """Keys that the recipe sets and the pretrained weights decide."""
    name = type(stage).__name__.lower()
    return (
        Disagreement((f"{name}.{key}", f"{name}.from_pretrained"), "comes from the pretrained weights; leave it out")
        for key, field in type(stage).model_fields.items()
        if is_decided_by_weights(field) and key in stage.model_fields_set
    )


def _ignored(stage: Autoencoder | Diffusion, keys: Iterable[str], because: str, text: str) -> Iterator[Disagreement]:
    """Keys that have no effect and differ from their default: a resolved recipe writes the defaults out."""
    default, name = type(stage)(), type(stage).__name__.lower()
    return (
        Disagreement((f"{name}.{key}", because), text) for key in keys if getattr(stage, key) != getattr(default, key)
    )


def _diffusion(stage: Diffusion) -> Iterator[Disagreement]:
    if stage.prediction_type == "flow_prediction" and stage.min_snr_gamma is not None:
        keys = ("diffusion.min_snr_gamma", "diffusion.prediction_type")
        yield Disagreement(keys, "has no meaning for flow_prediction; leave it out")
    if stage.prediction_type != "flow_prediction":
        for key, is_set in (
            ("flow_shift", stage.flow_shift is not None),
            ("contrastive_weight", stage.contrastive_weight != 0),
        ):
            if is_set:
                text = f"has no meaning for {stage.prediction_type}; leave it out"
                yield Disagreement((f"diffusion.{key}", "diffusion.prediction_type"), text)
    if stage.zero_terminal_snr and stage.prediction_type != "v_prediction":
        keys = ("diffusion.zero_terminal_snr", "diffusion.prediction_type")
        yield Disagreement(keys, "needs prediction_type: v_prediction")
    elif stage.zero_terminal_snr:
        yield from _terminal_step(stage)
    yield from _text_encoder(stage)


def _terminal_step(stage: Diffusion) -> Iterator[Disagreement]:
    """Zero terminal SNR exists for the last timestep, so that step has to be trained."""
    snr = "diffusion.zero_terminal_snr"
    if stage.timestep_sampling == "logit_normal":
        text = f"logit_normal never draws the last timestep, for which {snr} exists; use uniform, or leave it out"
        yield Disagreement(("diffusion.timestep_sampling", snr), text, since=2)
    if stage.min_snr_gamma is not None:
        text = f"weighs the last timestep with 0, for which {snr} exists; leave one of the two out"
        yield Disagreement(("diffusion.min_snr_gamma", snr), text, since=2)


def _text_encoder(stage: Diffusion) -> Iterator[Disagreement]:
    encoder = stage.text_encoder
    if isinstance(encoder, TrainedTextEncoder) and encoder.hidden_size % encoder.num_heads:
        keys = ("diffusion.text_encoder.hidden_size", "diffusion.text_encoder.num_heads")
        yield Disagreement(keys, f"{encoder.hidden_size} is not divisible by num_heads {encoder.num_heads}")
