"""Teacher and student on the same prompts and the same noises: which of them the run exports, and quality by passes."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from vae_ldm import loading
from vae_ldm.choices import Distilled
from vae_ldm.evaluation.evaluator import RealPictures
from vae_ldm.evaluation.interval import Interval
from vae_ldm.evaluation.measurement import Measurement, Reference, share_beside
from vae_ldm.pages.environment import number
from vae_ldm.recipe import parts
from vae_ldm.run.drawn_samples import DrawnSamples, SamplerSettings, draw_and_measure
from vae_ldm.run.sample_prompts import SamplePrompts, sample_prompts
from vae_ldm.run.session import Session
from vae_ldm.text import counted

MOST_POINTS_LOST = 2.0
"""Of prompt agreement: a student that loses more is not exported."""
PASSES = (1, 2, 4, 8, 12, 24)
"""Passes at which both are compared, so far as each can draw in so many, beside their own."""
_BY_PASSES = ("prompt_agreement", "kid", "fd")
_COMPARED = (*_BY_PASSES, "precision", "recall")


@dataclass(frozen=True)
class BothModels:
    """Both, what is exported, and why."""

    drawn: dict[Distilled, DrawnSamples]
    exported: Distilled
    because: str
    points: list[dict[str, Any]]

    @property
    def measurements(self) -> list[Measurement]:
        """Those of the student beside its teacher's."""
        return list(_beside(self.drawn["student"], self.drawn["teacher"]))

    def as_dict(self) -> dict[str, Any]:
        """What metrics.json keeps of it."""
        each: dict[str, Any] = {
            which: {
                "num_inference_steps": drawn.drawing.num_inference_steps,
                "passes": drawn.num_passes,
                "seconds": drawn.seconds,
            }
            for which, drawn in self.drawn.items()
        }
        found = {"exported": self.exported, "because": self.because, "num_samples": len(self.drawn["student"].samples)}
        return {**found, **each, "points": self.points}

    def in_words(self) -> str:
        """A line about it."""
        student, teacher = (counted(self.drawn[which].num_passes, "pass") for which in ("student", "teacher"))
        if self.exported == "student":
            return f"pipeline/ is the student, {student} where its teacher takes {teacher}: {self.because}"
        return (
            f"pipeline/ stays the teacher, {teacher}: {self.because}; the student of {student} is in student/, and "
            "vae-ldm export RUN --student takes it"
        )


def judge_student(
    session: Session, settings: parts.Evaluation, real: RealPictures, reconstruction_agreement: float | None
) -> BothModels:
    """Draw with both, and settle which is exported."""
    recipe, part = session.recipe, session.recipe.distillation
    assert part is not None
    train, validation = session.pictures.train, session.pictures.validation
    both: tuple[Distilled, Distilled] = ("teacher", "student")
    pipelines = {which: _opened(session, which) for which in both}
    guidance = settings.guidance_scale
    own: dict[Distilled, SamplerSettings] = {
        "teacher": SamplerSettings(settings.num_inference_steps, guidance),
        "student": SamplerSettings(part.num_inference_steps, guidance),
    }
    asked = sample_prompts(recipe, train, validation, settings.num_samples)
    session.say(f"evaluation: {counted(len(asked.prompts), 'picture')} by the teacher, and as many by its student")
    drawn = {
        which: draw_and_measure(
            session,
            pipelines[which],
            drawing,
            asked,
            real,
            settings,
            reconstruction_agreement=reconstruction_agreement,
            what=f"drawing with the {which}",
        )
        for which, drawing in own.items()
    }
    exported, because = verdict_on(drawn["student"], drawn["teacher"])
    points = []
    if num_samples := min(settings.num_samples, settings.num_curve_samples):
        few = sample_prompts(recipe, train, validation, num_samples)
        known = drawn if num_samples == settings.num_samples else {}
        points = _points(session, pipelines, own, few, real, settings, known)
    return BothModels(drawn, exported, because, points)


def verdict_on(student: DrawnSamples, teacher: DrawnSamples) -> tuple[Distilled, str]:
    """Which of the two is exported, and why.

    The teacher is where agreement falls by more than `MOST_POINTS_LOST`, or KID rises above the interval of the
    teacher's, or neither could be measured. A KID below the interval is better than the teacher's.
    """
    reasons, measured = [], []
    one, other = (_named(each, "prompt_agreement") for each in (student, teacher))
    if one is not None and other is not None:
        lost = other.value - one.value
        said = f"agreement {number(one.value)} % beside {number(other.value)} %"
        measured.append(said)
        if lost > MOST_POINTS_LOST:
            reasons.append(f"{said} is more than {MOST_POINTS_LOST:g} points less")
    one, other = (_named(each, "kid") for each in (student, teacher))
    if one is not None and other is not None and other.low is not None and other.high is not None:
        said = f"KID {number(one.value)} beside {number(other.value)} [{number(other.low)}, {number(other.high)}]"
        measured.append(said)
        if one.value > other.high:
            reasons.append(f"{said} is above that interval")
    if not measured:
        return "teacher", "neither agreement nor KID can be measured on so few pictures"
    if reasons:
        return "teacher", "; ".join(reasons)
    return "student", ", ".join(measured)


def _beside(student: DrawnSamples, teacher: DrawnSamples) -> list[Measurement]:
    """The student's measurements with the teacher's as their reference; shares are paired by prompt and noise."""
    name = f"the teacher in {counted(teacher.num_passes, 'pass')}"
    found = []
    for wanted in _COMPARED:
        one, other = _named(student, wanted), _named(teacher, wanted)
        if one is None or other is None or one.name != other.name:
            continue
        reference = Reference(other.value, name, "limit", _interval(other))
        mine, theirs = student.found.agrees, teacher.found.agrees
        if wanted == "prompt_agreement" and mine is not None and theirs is not None:
            rows = student.found.balanced
            pair = torch.from_numpy(mine[rows]), torch.from_numpy(theirs[rows])
            reference = share_beside(*pair, name, "limit")
        assert one.better is not None
        found.append(
            Measurement.of(
                f"student_{one.name}",
                one.value,
                unit=one.unit,
                split=one.split,
                num_images=one.num_images,
                stage="distillation",
                better=one.better,
                features=one.features,
                interval=_interval(one),
                reference=reference,
            )
        )
    return found


def _points(
    session: Session,
    pipelines: dict[Distilled, StableDiffusionPipeline],
    own: dict[Distilled, SamplerSettings],
    asked: SamplePrompts,
    real: RealPictures,
    settings: parts.Evaluation,
    known: dict[Distilled, DrawnSamples],
) -> list[dict[str, Any]]:
    """Agreement, KID and Fréchet distance of both at several numbers of passes.

    `known` are samples of what is asked that either has drawn already, in its own number of steps.
    """
    points = []
    for which, pipeline in pipelines.items():
        one_step = SamplerSettings(1, settings.guidance_scale).num_passes(pipeline)
        most = pipeline.scheduler.config.num_train_timesteps
        steps = {passes // one_step for passes in PASSES if passes % one_step == 0} | {own[which].num_inference_steps}
        for count in sorted(step for step in steps if step <= most):
            drawn = known.get(which) if count == own[which].num_inference_steps else None
            drawn = drawn or draw_and_measure(
                session,
                pipeline,
                SamplerSettings(count, settings.guidance_scale),
                asked,
                real,
                settings,
                what=f"the {which} in {counted(count, 'step')}",
            )
            point: dict[str, Any] = {"which": which, "passes": drawn.num_passes, "num_images": len(drawn.samples)}
            for name in _BY_PASSES:
                measured = _named(drawn, name)
                if measured is not None:
                    point[name] = [measured.value, measured.low, measured.high]
            points.append(point)
    return points


def _opened(session: Session, which: Distilled) -> StableDiffusionPipeline:
    folder = session.run.student if which == "student" else session.run.teacher
    opened = loading.pipeline(folder, device=session.device)
    opened.set_progress_bar_config(disable=True)
    return opened


def _named(drawn: DrawnSamples, name: str) -> Measurement | None:
    """The measurement of this name, or whose name begins with it and goes on with the features."""
    found = drawn.found.measurements
    return next((each for each in found if each.name == name or each.name.startswith(f"{name}_")), None)


def _interval(measurement: Measurement) -> Interval | None:
    if measurement.low is None or measurement.high is None:
        return None
    return Interval(measurement.low, measurement.high)
