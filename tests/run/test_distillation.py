"""A run with `diffusion.distill`: a student that draws in few passes, judged beside its teacher."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from tests.conftest import nano_run
from vae_ldm.run.folder import RunFolder

TRAINER = {
    "max_steps": 6,
    "batch_size": 4,
    "accumulate_grad_batches": 2,
    "checkpoint_every_n_steps": 2,
    "val_every_n_steps": 2,
    "log_every_n_steps": 1,
    "num_val_images": 6,
    "precision": "32-true",
}
DISTILL: dict[str, Any] = {
    "num_inference_steps": 2,
    "num_teacher_steps": 4,
    "num_trajectories": 8,
    "guidance_steps": 2,
    "trainer": TRAINER,
}


@pytest.fixture(scope="module")
def distilled_once(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return nano_run(tmp_path_factory.mktemp("distilled"), diffusion__distill=DISTILL)


def test_a_student_opens_in_plain_diffusers(distilled_once):
    run = distilled_once
    student = DiffusionPipeline.from_pretrained(run.student)
    assert student.unet.config.time_cond_proj_dim
    assert student.scheduler.config.solver_order == 1
