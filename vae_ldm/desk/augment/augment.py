"""`vae-ldm augment`: new labelled photos from a model, less copies of training photos and what shows another class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from vae_ldm.data.image_folder import ImageFolderSource
from vae_ldm.data.mixture import open_mixture
from vae_ldm.data.picture_cache import class_caption
from vae_ldm.data.pictures import Pictures, PictureSplits
from vae_ldm.data.sources import sort_class_names
from vae_ldm.desk.augment.candidate_filter import CandidateFilter, probe_facts, probe_in_words
from vae_ldm.desk.augment.drawing import PictureDrawer, finished_rounds
from vae_ldm.desk.augment.folder import AugmentedFolder, Round, read_facts
from vae_ldm.desk.augment.real_photos import Preparation, is_run_data, real_photos
from vae_ldm.desk.augment.request import AugmentRequest
from vae_ldm.desk.command import DeskCommand
from vae_ldm.desk.pipeline import PhotoPipeline
from vae_ldm.errors import DataError, RunError
from vae_ldm.evaluation.embedding import embed_pictures
from vae_ldm.evaluation.probe_classifier import ProbeClassifier
from vae_ldm.models.joined_pictures import one_after_the_other
from vae_ldm.models.vision_features import load_efficientnet_lite
from vae_ldm.opening import open_run
from vae_ldm.pipelines.sampling import unknown_words
from vae_ldm.terminal import PlainConsole, StepReport
from vae_ldm.text import counted

_MAX_NAMED = 15


def augment(photos: Path | None, source: str, *, out: Path, request: AugmentRequest | None = None) -> list[Round]:
    """Draw `request.per_class` new pictures for every class of the photos into `out`, print what became of all drawn.

    Photos are a folder of one folder a class; None takes the run's own. What is held out of them is drawn from by
    nothing and sets only the bar for near copies. Repeated after a kill it goes on, and ends with the same files.
    Raises VaeLdmError where `out` holds anything else, DataError and WeightsError for photos and models that do not
    serve, RunError where nothing at all was kept, and at the end ManyUnreadableError where more than one in a hundred
    of the photos cannot be read.
    """
    request = request or AugmentRequest()
    command = DeskCommand(width=200)
    console = command.console
    folder = AugmentedFolder(out)
    folder.check(request.settings)
    model = PhotoPipeline(source)
    preparation = Preparation.of(model)
    settings = _settings(request, model, preparation)
    folder.check(settings)
    if photos is not None:
        labels = {record.label for record in ImageFolderSource(photos).records("train")}
        _refuse_unknown(model, sort_class_names(labels), request.caption_template)
    run = model.run.path if model.run is not None else None
    with real_photos(photos, run, preparation, command) as splits:
        command.tell_left_out()
        prompts = _prompts(model, splits.train, request.caption_template)
        settings |= {"photos_key": splits.key, "prompts": prompts}
        with folder.opened(settings):
            known = read_facts(out)
            if known is None or not known["finished"]:
                _tell_what_cannot_be_judged(splits, command)
                seen, num_generator_photos = _seen(photos, run, splits, console)
                passes = _filter(splits, seen, model, request, console)
                probe = _tell_how_good_the_filter_is(passes, splits, command)
                rounds = PictureDrawer(request, model, splits.train, prompts, folder, console).draw(passes, seen.ids)
                if not any(done.rows for done in rounds):
                    raise RunError(f"{out}: nothing drawn was kept; the model draws copies or other classes only")
                folder.describe(rounds)
                folder.finish(
                    settings,
                    photos=None if photos is None else str(photos),
                    model=model.source,
                    num_generator_photos=num_generator_photos,
                    probe=probe,
                    counts=_counts(rounds),
                )
            else:
                rounds = finished_rounds(folder, request, list(prompts))
                command.say(f"{out}: finished already")
    _print_tables(command.output, rounds, request, len(splits.train), len(splits.validation))
    if command.unreadable:
        num_photos = len(splits.train) + len(splits.validation) + len(command.unreadable)
        command.check_left_out(num_photos, f"{out} is drawn from the others")
    return rounds


def _prompts(model: PhotoPipeline, train: Pictures, caption_template: str | None) -> dict[str, str]:
    """The prompt of each class that there are training photos of. Raises DataError for a class unknown to the model."""
    names = [name for label, name in enumerate(train.class_names) if np.any(train.labels == label)]
    if len(names) < 2:
        raise DataError(f"the photos are all of one class, {names[0]}; at least 2 classes are needed")
    _refuse_unknown(model, names, caption_template)
    return _asked(model, names, caption_template)


def _refuse_unknown(model: PhotoPipeline, names: Sequence[str], caption_template: str | None) -> None:
    """Raises DataError where the model cannot read the prompt of one of these classes."""
    prompts = _asked(model, names, caption_template)
    if unknown := [name for name, prompt in prompts.items() if unknown_words(model.pipeline, prompt)]:
        raise DataError(
            f"{model.source} was not trained on the {'class' if len(unknown) == 1 else 'classes'} {_quoted(unknown)}; "
            f"it knows the {_what_it_knows(model, caption_template)}; give photos of what it knows, or another model"
        )


def _asked(model: PhotoPipeline, names: Sequence[str], caption_template: str | None) -> dict[str, str]:
    """What the model is asked for each class."""
    if caption_template is None:
        prompts = model.settings.class_prompts(names)
    else:
        prompts = [class_caption(caption_template, name) for name in names]
    return dict(zip(names, prompts, strict=True))


def _what_it_knows(model: PhotoPipeline, caption_template: str | None) -> str:
    """The classes that the model was trained on; of one that has none, or is no run, the words."""
    cached = open_mixture(model.run.pictures) if model.run is not None else None
    trained_on = cached.train.class_names if cached is not None else []
    prompts = _asked(model, trained_on, caption_template)
    if known := [name for name, prompt in prompts.items() if not unknown_words(model.pipeline, prompt)]:
        return f"classes {_quoted(known)}"
    tokenizer = model.pipeline.tokenizer
    return f"words {_quoted(sorted(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)))}"


def _quoted(names: Sequence[str]) -> str:
    shown = ", ".join(f'"{name}"' for name in names[:_MAX_NAMED])
    return shown if len(names) <= _MAX_NAMED else f"{shown} and {len(names) - _MAX_NAMED:,} more"


def _settings(request: AugmentRequest, model: PhotoPipeline, preparation: Preparation) -> dict[str, Any]:
    """All that the pictures follow from, less the photos."""
    return {
        "num_inference_steps": model.settings.num_inference_steps,
        "guidance_scale": model.settings.guidance_scale,
        **request.settings,
        "model_digest": model.digest,
        "preparation": preparation.as_dict(),
    }


def _seen(
    photos: Path | None, run: Path | None, splits: PictureSplits, console: PlainConsole
) -> tuple[Pictures, int | None]:
    """Every photo that a picture may be a copy of, and how many the run was trained on.

    They are examined as well as the photos given to learn from; the number is None where they are gone.
    """
    if run is None:
        return splits.train, None
    if photos is None or is_run_data(photos, run):
        return splits.train, len(splits.train)
    try:
        own = open_run(run).learned
    except DataError as error:
        console.say(f"near copies are looked for among {photos} alone ({error})")
        return splits.train, None
    seen = Pictures(
        one_after_the_other([splits.train.images, own.images]),
        np.concatenate([splits.train.labels, np.full(len(own), -1)]),
        [*splits.train.captions, *own.captions],
        [*splits.train.ids, *own.ids],
        splits.train.class_names,
    )
    return seen, len(own)


def _filter(
    splits: PictureSplits, seen: Pictures, model: PhotoPipeline, request: AugmentRequest, console: PlainConsole
) -> CandidateFilter:
    features = load_efficientnet_lite().to(model.device)
    train = splits.train
    with StepReport("looking at photos to fit the probe", console) as report:
        probe = ProbeClassifier.fit(
            train.images,
            train.labels,
            len(train.class_names),
            features=features,
            seed=request.seed,
            flips=model.settings.horizontal_flip,
            progress=report,
        )
    with StepReport("computing features of photos", console) as report:
        embeddings = embed_pictures(features, seen.images, progress=report)
    return CandidateFilter.fit(
        seen.images,
        splits.validation.images,
        features=features,
        probe=probe,
        train_embeddings=embeddings,
        min_confidence=request.min_confidence,
    )


def _tell_what_cannot_be_judged(splits: PictureSplits, command: DeskCommand) -> None:
    held_out = set(splits.validation.labels.tolist())
    names = [splits.train.class_names[label] for label in splits.trained_classes if label not in held_out]
    if names:
        command.say(
            f"there are no held-out photos of {_quoted(names)}: augment prove will not judge what is drawn of these"
        )


def _tell_how_good_the_filter_is(
    passes: CandidateFilter, splits: PictureSplits, command: DeskCommand
) -> dict[str, Any] | None:
    """What is to be known before a picture is left out for its class or its likeness; the probe's part of it."""
    held_out = splits.validation
    rows = np.flatnonzero(np.isin(held_out.labels, splits.trained_classes))
    probe = probe_facts(passes.probe, held_out.images[rows], held_out.labels[rows])
    if probe is not None:
        command.say(probe_in_words(probe))
    if passes.num_duplicates:
        command.say(
            f"{passes.num_duplicates:,} of {counted(len(held_out), 'held-out photo')} are training photos as well and "
            "set no bar for near copies"
        )
    return probe


def _counts(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """How many pictures of each class and method were drawn, near copies, off class, and kept."""
    counts: dict[tuple[str, str], dict[str, Any]] = {}
    for done in rounds:
        row = counts.setdefault(
            (done.label, done.method),
            {"label": done.label, "method": done.method, "drawn": 0, "near_copies": 0, "off_class": 0, "kept": 0},
        )
        row["drawn"] += done.drawn
        row["near_copies"] += done.near_copies
        row["off_class"] += done.off_class
        row["kept"] += len(done.rows)
    return list(counts.values())


def _print_tables(
    output: PlainConsole, rounds: Sequence[Round], request: AugmentRequest, num_train: int, num_held_out: int
) -> None:
    for what in ("label", "method"):
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("class" if what == "label" else "method", no_wrap=True)
        for title in ("drawn", "near copies", "off class", "kept"):
            table.add_column(title, justify="right", no_wrap=True)
        methods = [method.name for method in request.methods]
        names = methods if what == "method" else list(dict.fromkeys(done.label for done in rounds))
        columns = ("drawn", "near_copies", "off_class", "kept")
        for name in names:
            rows = [row for row in _counts(rounds) if row[what] == name]
            table.add_row(name, *(str(sum(row[column] for row in rows)) for column in columns))
        if what == "label":
            table.add_row("all", *(str(sum(row[column] for row in _counts(rounds))) for column in columns))
        output.print(table)
        output.print()
    output.print(
        f"near copies of {counted(num_train, 'training photo')} are what lies nearer than all but 1 % of "
        f"{counted(num_held_out, 'held-out photo')}, by features of EfficientNet-Lite0 or by pixels, or three "
        "times nearer to one photo than to any other; off class is what a probe fitted on the training photos takes "
        "for another class",
        markup=False,
    )
