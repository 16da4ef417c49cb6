"""Makes the student of a trained UNet, and the module that trains it."""

from vae_ldm.assembly.diffusion import DiffusionParts, build_objective
from vae_ldm.assembly.trainer import build_optimizer, checkpoint_gradients_if_asked
from vae_ldm.errors import VaeLdmError, WeightsError
from vae_ldm.models.text_encoder import tokenize
from vae_ldm.models.unet import is_student, new_student
from vae_ldm.pipelines.schedulers import DrawingDefaults, student_scheduler
from vae_ldm.recipe import Recipe
from vae_ldm.training.few_steps import FewSteps
from vae_ldm.training.frozen_weights import leave_frozen_out
from vae_ldm.training.lit_distillation import LitDistillation
from vae_ldm.training.teacher import Teacher


def build_few_steps(recipe: Recipe, teacher: DiffusionParts) -> FewSteps:
    """The steps of the student. Raises VaeLdmError where the teacher's scheduler has no finer ones in between."""
    part = recipe.distillation
    assert part is not None
    try:
        return FewSteps(teacher.scheduler, num_steps=part.num_inference_steps, num_teacher_steps=part.num_teacher_steps)
    except VaeLdmError as error:
        raise VaeLdmError(f"diffusion.distill.num_inference_steps: {error}") from None


def build_student(recipe: Recipe, teacher: DiffusionParts) -> DiffusionParts:
    """The parts of the student's pipeline, before training: all but UNet and scheduler are the teacher's.

    A model that knows no prompts has nothing to be guided by: its student is told the scale, since diffusers' pipelines
    then take one pass a step, and does not learn to heed it.
    """
    part = recipe.distillation
    assert part is not None
    assert recipe.diffusion is not None
    if is_student(teacher.unet):
        raise WeightsError("diffusion.distill: the UNet is a student already (it has time_cond_proj_dim); leave it out")
    unet = new_student(teacher.unet)
    knows_prompts = recipe.diffusion.conditioning != "none"
    unet.time_embedding.cond_proj.requires_grad_(knows_prompts)
    guidance = recipe.evaluation.guidance_scale if knows_prompts else 1.0
    scheduler = student_scheduler(teacher.scheduler, DrawingDefaults(part.num_inference_steps, guidance))
    return DiffusionParts(teacher.tokenizer, teacher.text_encoder, unet, scheduler)


def build_lit_distillation(recipe: Recipe, teacher: DiffusionParts, student: DiffusionParts) -> LitDistillation:
    """The student wrapped for training, beside its frozen teacher."""
    part = recipe.distillation
    assert part is not None
    assert recipe.diffusion is not None
    knows_prompts = recipe.diffusion.conditioning != "none"
    checkpoint_gradients_if_asked(part.trainer, student.unet)
    module = LitDistillation(
        student.unet,
        Teacher(teacher.unet, teacher.text_encoder, tokenize(teacher.tokenizer, [""])),
        build_few_steps(recipe, teacher),
        objective=build_objective(recipe, teacher.scheduler),
        guidance_scale=part.guidance_scale if knows_prompts else (1.0, 1.0),
        guidance_steps=part.guidance_steps if knows_prompts else 0,
        caption_dropout=recipe.diffusion.caption_dropout,
        optimizer=build_optimizer(part.optimizer),
        max_steps=part.trainer.max_steps,
        log_every_n_steps=part.trainer.log_every_n_steps,
    )
    leave_frozen_out(module)
    return module
