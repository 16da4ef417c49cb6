"""A run with `diffusion.distill`: a student that draws in few passes, judged beside its teacher."""

import json
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from diffusers import AutoPipelineForImage2Image, DiffusionPipeline, StableDiffusionPipeline

from tests.conftest import NANO_TRAINER, _no_evaluation, nano_networks_in_place, nano_run
from tests.processes import two_processes
from tests.run.conftest import assert_same_weights
from tests.run.start_points import save_stable_diffusion
from tests.support.fork_server import fork
from tests.support.killing import Moment, end, train
from tests.support.stopping import Stop, stop_at_batch, stop_once
from vae_ldm.desk.generate import generate
from vae_ldm.errors import RecipeError, VaeLdmError, WeightsError
from vae_ldm.evaluation.evaluator import SampleEvaluation
from vae_ldm.evaluation.interval import Interval
from vae_ldm.evaluation.measurement import Measurement
from vae_ldm.hub import pull
from vae_ldm.loading import pipeline
from vae_ldm.opening import settings_of
from vae_ldm.recipe import Recipe, write_recipe
from vae_ldm.run import distillation_stage, judge_student
from vae_ldm.run.distillation_stage import export_as_pipeline
from vae_ldm.run.drawn_samples import DrawnSamples, SamplerSettings
from vae_ldm.run.evaluate import evaluate_run
from vae_ldm.run.export import export_checkpoint
from vae_ldm.run.folder import RunFolder
from vae_ldm.run.judge_student import verdict_on
from vae_ldm.run.push import push
from vae_ldm.run.session import Session
from vae_ldm.run.stages import train_run
from vae_ldm.training.csv_log import read_csv_log

DISTILL: dict[str, Any] = {
    "num_inference_steps": 2,
    "num_teacher_steps": 4,
    "num_trajectories": 6,
    "guidance_steps": 2,
    "trainer": NANO_TRAINER,
}
PROMPT = "a photo of a good tin"


@pytest.fixture(scope="module")
def distilled_once(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return nano_run(tmp_path_factory.mktemp("distilled"), diffusion__distill=DISTILL)


@pytest.fixture(scope="module")
def judged_once(distilled_once: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A copy of it, as a run whose student was found good enough."""
    run = RunFolder(tmp_path_factory.mktemp("judged") / "nano")
    shutil.copytree(distilled_once.path, run.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge_student, "verdict_on", lambda student, teacher: ("student", "as good"))
        patch.setattr(judge_student, "PASSES", (1, 4))
        evaluate_run(run.path)
    return run


@pytest.fixture
def judged(judged_once: RunFolder, nano_networks: None, no_evaluation: None) -> RunFolder:
    """That run, among networks of its size. Copy it before changing anything in it."""
    return judged_once


def draw(opened: StableDiffusionPipeline, **options: Any) -> np.ndarray:
    opened.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "np", "height": 16, "width": 16}
    return opened(PROMPT, generator=torch.Generator().manual_seed(0), **settings | options).images


def passes_of(opened: StableDiffusionPipeline) -> list[int]:
    """How many latents each later pass through the UNet takes."""
    seen: list[int] = []
    opened.unet.register_forward_pre_hook(lambda _module, inputs: seen.append(len(inputs[0])))
    return seen


def test_before_it_is_judged_the_run_exports_the_teacher_and_keeps_both(distilled_once):
    run = distilled_once
    assert run.exported() == "teacher"
    assert_same_weights(run.pipeline, run.teacher)
    facts = run.finished("distillation")
    assert facts is not None
    assert (facts["num_steps"], facts["num_images"]) == (6, 6 * 4 * 2)
    assert sorted(path.name for path in run.student_reference.parent.iterdir()) == [
        "checkpoints", "log.csv", "reference.png", "tensorboard",
    ], "what the teacher drew for it is deleted"  # fmt: skip
    rows = read_csv_log(run.log("distillation"))
    assert [row["step"] for row in rows if row.get("train/loss")] == ["0", "1", "2", "3", "4", "5"]
    assert len([row for row in rows if row.get("val/distance")]) == 3


def test_plain_diffusers_draws_the_students_picture_bit_for_bit_in_one_pass_a_step(judged):
    plain, ours = DiffusionPipeline.from_pretrained(judged.pipeline), pipeline(judged.path)
    assert type(plain) is StableDiffusionPipeline
    assert plain.scheduler.config.solver_order == 1
    seen = passes_of(plain)
    drawn = draw(plain)
    assert seen == [1, 1]
    assert np.array_equal(drawn, draw(ours))
    assert not np.array_equal(drawn, draw(plain, guidance_scale=1.5)), "guidance stays a knob"
    varied = AutoPipelineForImage2Image.from_pipe(plain)
    photo = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    seen.clear()
    varied(PROMPT, image=photo, strength=0.5, num_inference_steps=2, guidance_scale=3.0)
    assert seen == [1]


def test_verbs_draw_in_its_few_steps_by_default(judged, tmp_path):
    settings = settings_of(judged.path)
    assert (settings.num_inference_steps, settings.guidance_scale) == (2, 2.0)
    exported = export_checkpoint(judged.path, output_dir=tmp_path / "elsewhere")
    settings = settings_of(exported)
    assert settings.run is None
    assert (settings.num_inference_steps, settings.guidance_scale) == (2, 2.0)
    opened = pipeline(exported)
    seen = passes_of(opened)
    photos = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    opened.set_progress_bar_config(disable=True)
    opened.vary(photos, 0.5, 1)
    assert seen == [2], "half of two steps"
    seen.clear()
    opened.morph(photos[:1], photos[1:], 3, strength=1.0)
    assert seen == [1, 1]
    opened.save_pretrained(tmp_path / "again")
    assert settings_of(tmp_path / "again").num_inference_steps == 2
    files = generate(judged.path, PROMPT, num_images=2, output_dir=tmp_path / "drawn")
    assert len(files) == 3


def test_a_negative_prompt_is_told_to_be_ignored(judged):
    opened = pipeline(judged.path)
    with pytest.warns(UserWarning, match="negative_prompt is ignored: guidance lies in the weights"):
        draw(opened, negative_prompt="a label")


def test_measures_of_both_stand_in_metrics_and_report(judged):
    metrics = json.loads(judged.metrics.read_text())
    found = metrics["distillation"]
    assert (found["exported"], found["because"]) == ("student", "as good")
    assert (found["student"]["passes"], found["teacher"]["passes"]) == (2, 4)
    assert {(point["which"], point["passes"]) for point in found["points"]} == {
        ("teacher", 4), ("student", 1), ("student", 2), ("student", 4),
    }  # fmt: skip
    assert metrics["drawn_with"] == {"num_inference_steps": 2, "guidance_scale": 2.0}
    named = {one["name"]: one for one in metrics["measurements"]}
    student = named["student_prompt_agreement"]
    assert student["stage"] == "distillation"
    assert student["value"] == named["prompt_agreement"]["value"]
    assert student["reference_name"] == "the teacher in 4 passes"
    assert student["difference_low"] is not None
    page = judged.report.read_text()
    assert "Exported: pipeline/ is the student, 2 passes where its teacher takes 4 passes: as good." in page
    assert 'aria-label="prompt agreement over passes"' in page
    assert "num_inference_steps=2, guidance_scale=2.0" in page


def test_curves_can_be_left_out_and_draw_nothing_twice(judged, tmp_path, monkeypatch):
    shutil.copytree(judged.path, tmp_path / "nano")
    run, drawn = RunFolder(tmp_path / "nano"), []
    draw_and_measure = judge_student.draw_and_measure

    def noting(*args: Any, **options: Any) -> DrawnSamples:
        drawn.append(options["what"])
        return draw_and_measure(*args, **options)

    monkeypatch.setattr(judge_student, "draw_and_measure", noting)
    monkeypatch.setattr(judge_student, "PASSES", (1,))
    found = {}
    for num_samples in (256, 0):
        session = Session.opened(run.path)
        evaluation = session.recipe.evaluation.model_copy(update={"num_curve_samples": num_samples})
        write_recipe(session.recipe.model_copy(update={"evaluation": evaluation}), run.recipe)
        drawn.clear()
        evaluate_run(run.path)
        found[num_samples] = (list(drawn), json.loads(run.metrics.read_text())["distillation"]["points"])
    own = ["drawing with the teacher", "drawing with the student"]
    assert found[256][0] == [*own, "the student in 1 step"]
    assert [point["passes"] for point in found[256][1]] == [4, 1, 2]
    assert found[0] == (own, [])


@pytest.mark.parametrize("which", ["student", "teacher"])
def test_export_takes_either_whichever_the_run_exports(judged, tmp_path, which):
    written = export_checkpoint(judged.path, output_dir=tmp_path / "x", which=which)
    assert_same_weights(written, getattr(judged, which))
    step = export_checkpoint(judged.path, checkpoint="6", output_dir=tmp_path / "step", which=which)
    assert_same_weights(step, written)
    by_default = export_checkpoint(judged.path, output_dir=tmp_path / "default")
    assert_same_weights(by_default, judged.student)


def test_export_of_a_run_whose_teacher_was_better(distilled_once, tmp_path, nano_networks):
    shutil.copytree(distilled_once.path, tmp_path / "nano")
    run = RunFolder(tmp_path / "nano")
    run.finish("evaluation")
    assert_same_weights(export_checkpoint(run.path, output_dir=tmp_path / "x"), run.teacher)
    assert_same_weights(export_checkpoint(run.path, output_dir=tmp_path / "y", which="student"), run.student)


def test_a_run_without_a_student_says_so(trained_run, tmp_path):
    with pytest.raises(VaeLdmError, match=r"has no student: its recipe has no diffusion.distill; leave --student out"):
        export_checkpoint(trained_run.path, output_dir=tmp_path / "x", which="student")


def test_a_stage_begun_afresh_takes_the_teacher_back(judged, tmp_path):
    shutil.copytree(judged.path, tmp_path / "nano")
    run = RunFolder(tmp_path / "nano")
    assert run.exported() == "student"
    run.restart(["distillation"])
    assert run.exported() == "teacher"
    assert_same_weights(run.pipeline, judged.teacher)
    assert run.finished("diffusion") is not None
    assert run.finished("distillation") is None
    assert not run.student.exists()
    assert not run.teacher.exists()


@pytest.mark.slow
def test_a_finished_run_learns_a_student_later(trained_run, distilled_once, make_recipe, tmp_path):
    """The UNet is not trained again, and the student is the one that a whole run would have."""
    shutil.copytree(trained_run.path, tmp_path / "nano")
    run, before = RunFolder(tmp_path / "nano"), trained_run.finished("diffusion")
    train_run(make_recipe(diffusion__distill=DISTILL))
    assert run.finished("diffusion") == before
    assert_same_weights(run.student, distilled_once.student)
    with pytest.raises(RecipeError, match=r"distillation is finished with another recipe .* --restart distillation"):
        train_run(make_recipe(diffusion__distill=DISTILL | {"num_inference_steps": 1}))


STAGE, LIT = "vae_ldm.run.distillation_stage", "vae_ldm.training.lit_distillation"
KILLED_AT = {
    "while the teacher is kept": Moment(STAGE, "shutil.copytree", after=True),
    "when one of four parts is drawn": Moment("vae_ldm.data.tensor_shards", "write_whole", after=True),
    "in guidance, with nothing saved": Moment(LIT, "LitDistillation.guidance_loss", after=True, call=3),
    "in the jumps, with a checkpoint of guidance": Moment(LIT, "LitDistillation.jump_loss", after=True, call=4),
    "in the jumps, with one of jumps": Moment(LIT, "LitDistillation.jump_loss", after=False, call=5),
    "when the student is written": Moment(STAGE, "save_pipeline", after=True),
    "finished, and not yet tidied": Moment(STAGE, "_tidy", after=False),
}


@pytest.mark.slow
def test_a_killed_stage_goes_on_bit_for_bit(trained_run, distilled_once, make_recipe, tmp_path):
    """kill -9 at one moment after the other of one run, which the same command ends as if there had been none."""
    shutil.copytree(trained_run.path, tmp_path / "nano")
    run, recipe = RunFolder(tmp_path / "nano"), make_recipe(diffusion__distill=DISTILL)
    steps = []
    for name, moment in KILLED_AT.items():
        end(fork(train, recipe, False, moment), code=-signal.SIGKILL)
        assert (run.finished("distillation") is None) == (name != "finished, and not yet tidied"), name
        steps.append(run.saved_step("distillation") or 0)
    assert steps == [0, 0, 0, 2, 4, 6, 6]
    end(fork(train, recipe))
    for folder in ("student", "teacher", "pipeline"):
        assert_same_weights(run.path / folder, distilled_once.path / folder)
    assert read_csv_log(run.log("distillation")) == read_csv_log(distilled_once.log("distillation"))
    facts, expected = ({**(each.finished("distillation") or {}), "seconds": 0} for each in (run, distilled_once))
    assert facts == expected
    left, whole = (
        sorted(path.name for path in (each.path / "distillation").iterdir()) for each in (run, distilled_once)
    )
    assert left == whole


@pytest.mark.slow
def test_on_two_processes_teacher_and_student_are_those_of_both(trained_run, make_recipe, tmp_path):
    """What the teacher draws is what it draws alone; a stop on the way changes nothing; the student opens."""
    names = ("alone", "stopped", "undisturbed")
    for name in names:
        shutil.copytree(trained_run.path, tmp_path / name)
    runs = {name: RunFolder(tmp_path / name) for name in names}
    recipes = {name: make_recipe(name=name, diffusion__distill=DISTILL) for name in names}
    with pytest.MonkeyPatch.context() as patch:
        stop_once(patch, distillation_stage, "JumpDataset", after=False)
        with pytest.raises(Stop):
            train_run(recipes["alone"])
    with two_processes() as two:
        told = two(distil_in_two, settings=recipes["stopped"].model_dump(), stops_at="drawn")
        assert told == ["stopped", "stopped"]
        for folder in ("from_noise", "from_photos"):
            assert_same_weights(*(runs[name].path / "distillation" / folder for name in ("alone", "stopped")))
        assert two(distil_in_two, settings=recipes["stopped"].model_dump(), stops_at=9) == ["stopped", "stopped"]
        assert runs["stopped"].saved_step("distillation") == 4
        for name in ("stopped", "undisturbed"):
            told = two(distil_in_two, settings=recipes[name].model_dump(), stops_at=None)
            assert told == ["finished", "finished"]
    stopped, undisturbed = runs["stopped"], runs["undisturbed"]
    assert_same_weights(stopped.student, undisturbed.student)
    assert read_csv_log(stopped.log("distillation")) == read_csv_log(undisturbed.log("distillation"))
    facts = stopped.finished("distillation")
    assert facts is not None
    assert (facts["num_steps"], facts["num_images"]) == (6, 6 * 4 * 2 * 2)
    assert not [path for path in (stopped.path / "distillation").iterdir() if path.name.startswith("from_")]
    student = DiffusionPipeline.from_pretrained(stopped.student)
    seen = passes_of(student)
    assert np.isfinite(draw(student)).all()
    assert seen == [1, 1]


def distil_in_two(settings: dict[str, Any], stops_at: Literal["drawn"] | int | None) -> str:
    """In each of two processes: the run, to its end, until the teacher has drawn or until a batch."""
    with nano_networks_in_place(), _no_evaluation(), pytest.MonkeyPatch.context() as patch:
        if stops_at == "drawn":
            stop_once(patch, distillation_stage, "JumpDataset", after=False)
        elif stops_at is not None:
            stop_at_batch(patch, manual=False, batch=stops_at)
        try:
            train_run(Recipe.model_validate(settings))
        except Stop:
            return "stopped"
    return "finished"


def test_a_stop_while_the_student_takes_the_teachers_place(distilled_once, tmp_path, monkeypatch):
    """Whatever is in place by then, both are kept, and the same decision is made again."""
    shutil.copytree(distilled_once.path, tmp_path / "nano")
    run = RunFolder(tmp_path / "nano")
    session: Any = SimpleNamespace(run=run)
    stop_once(monkeypatch, distillation_stage, "copy_folder", after=True)
    with pytest.raises(Stop):
        export_as_pipeline(session, "student")
    assert_same_weights(run.pipeline, run.student)
    monkeypatch.undo()
    for which in ("student", "teacher", "student"):
        export_as_pipeline(session, which)
        assert run.exported() == which
        assert_same_weights(run.pipeline, getattr(run, which))


def drawn(agreement: float | None, kid: float | None, passes: int) -> DrawnSamples:
    measurements = []
    for name, value, better in (("prompt_agreement", agreement, "higher"), ("kid_x", kid, "lower")):
        if value is not None:
            interval = Interval(value - 0.1, value + 0.1)
            facts: dict[str, Any] = {"split": "generated", "num_images": 9, "stage": "diffusion", "better": better}
            measurements.append(Measurement.of(name, value, interval=interval, **facts))
    nothing = np.zeros(0, np.int64)
    found = SampleEvaluation(measurements, nothing, nothing, [], None, nothing)
    return DrawnSamples(SamplerSettings(4, 3.0), passes, nothing, found, 1.0)


@pytest.mark.parametrize(
    ("student", "exported", "because"),
    [
        ((80.0, 0.5), "student", "agreement 80.00 % beside 82.00 %, KID 0.500 beside 0.500"),
        ((79.9, 0.5), "teacher", "agreement 79.90 % beside 82.00 % is more than 2 points less"),
        ((90.0, 0.61), "teacher", "KID 0.610 beside 0.500 .* is above that interval"),
        ((70.0, 0.9), "teacher", "points less; KID"),
        ((82.0, 0.1), "student", "KID 0.100 beside 0.500"),
        ((None, 0.5), "student", "^KID"),
        ((82.0, None), "student", "^agreement"),
        ((None, None), "teacher", "neither agreement nor KID"),
    ],
)
def test_which_of_the_two_is_exported(student, exported, because):
    """A KID below the teacher's interval is better than the teacher's."""
    found = verdict_on(drawn(*student, 4), drawn(82.0, 0.5, 24))
    assert found[0] == exported
    assert re.search(because, found[1])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"distill": {}, "train": "lora"}, "diffusion.distill: teaches a whole UNet, and a LoRA is small updates"),
        ({"distill": {"guidance_scale": [3, 2]}}, "guidance_scale: 3 to 2: the lowest comes first"),
        (
            {"distill": {"guidance_scale": [3, 4]}},
            "guidance_scale: 3 to 4 does not hold the 2 that the run is",
        ),
        (
            {"distill": {}, "evaluation": {"guidance_scale": 0.5}},
            "evaluation.guidance_scale: 0.5 draws without guidance, as 1 does, and a student is told 1 at the least",
        ),
        (
            {"evaluation": {"num_curve_samples": 8}},
            "evaluation.num_curve_samples: means nothing without diffusion.distill",
        ),
        ({"distill": {"num_teacher_steps": 3}}, "num_teacher_steps: 3 are fewer than the student's own 4 steps"),
        ({"distill": {"guidance_steps": 9, "trainer": {"max_steps": 9}}}, "guidance_steps: leaves none of max_steps 9"),
    ],
)
def test_recipes_that_cannot_be_right_are_refused(settings, said):
    others = {"evaluation": settings["evaluation"]} if "evaluation" in settings else {}
    diffusion = {key: value for key, value in settings.items() if key not in others}
    recipe = {"name": "x", "data": {"type": "rendered_claims"}, "autoencoder": {}, "diffusion": diffusion, **others}
    with pytest.raises(ValueError, match=said):
        Recipe.model_validate(recipe)


def from_weights(source: Path, **diffusion: Any) -> dict[str, Any]:
    return {
        "autoencoder": {"from_pretrained": str(source), "train": "nothing"},
        "diffusion": {"from_pretrained": str(source), "trainer": NANO_TRAINER | {"max_steps": 1}, **diffusion},
    }


def test_a_student_is_no_base_to_train_from(judged, make_recipe, tmp_path):
    with pytest.raises(WeightsError, match=r"guidance lies in the weights of its UNet .* take the pipeline that"):
        train_run(make_recipe(tmp_path / "other", **from_weights(judged.path)))


@pytest.mark.slow
@pytest.mark.parametrize(("conditioning", "guided"), [("class", True), ("none", False)])
def test_a_pretrained_model_of_another_scheduler_has_a_student(make_recipe, tmp_path, conditioning, guided):
    base = save_stable_diffusion(tmp_path / "sd15")
    settings = from_weights(base, distill=DISTILL, train="attention", conditioning=conditioning)
    train_run(make_recipe(data__image_size=32, data__num_train=8, **settings))
    student = DiffusionPipeline.from_pretrained(tmp_path / "nano" / "student", safety_checker=None)
    teacher = DiffusionPipeline.from_pretrained(tmp_path / "nano" / "teacher", safety_checker=None)
    assert (type(teacher.scheduler).__name__, student.scheduler.config.solver_order) == ("PNDMScheduler", 1)
    assert student.scheduler.config.prediction_type == "epsilon"
    assert bool(student.unet.time_embedding.cond_proj.weight.abs().max() > 0) == guided
    seen = passes_of(student)
    draw(student, height=32, width=32)
    assert seen == [1, 1]


def test_a_dry_run_says_how_long_it_takes(make_recipe, capsys):
    train_run(make_recipe(diffusion__distill=DISTILL), dry_run=True)
    said = capsys.readouterr().err
    assert re.search(
        r"distillation: 0\.\d\d million parameters, .* 6 steps of 8 in 32-true, about \d+ s on this CPU", said
    )
    assert re.search(r"before it the teacher draws 6 pictures and begins 4 times at a photo, in about \d+ s;", said)


def test_a_push_sends_the_student_and_a_pull_draws_in_its_few_steps(judged, hub, anna):
    push(judged.path, "acme/tins")
    pulled = pull("acme/tins")
    assert_same_weights(pulled / "unet", judged.student / "unet")
    assert settings_of("acme/tins").num_inference_steps == 2
    assert "It is a student of few steps" in (pulled / "README.md").read_text()
    seen = passes_of(opened := pipeline("acme/tins"))
    draw(opened)
    assert seen == [1, 1]
