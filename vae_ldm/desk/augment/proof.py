"""`vae-ldm augment prove`: whether synthetic photos make a classifier of real ones better. It can say no."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from vae_ldm.choices import ClassifierKind
from vae_ldm.data.photo_sample import sample_photos
from vae_ldm.data.photo_stream import decoded_batches
from vae_ldm.data.pictures import Pictures, PictureSplits
from vae_ldm.data.random_views import jitter_colors
from vae_ldm.desk.augment.candidate_filter import probe_in_words
from vae_ldm.desk.augment.folder import read_facts, read_rows
from vae_ldm.desk.augment.mixtures import Pool, Proof, prove
from vae_ldm.desk.augment.proof_page import Examples, ProofSetting, as_dict, as_markdown, write_proof
from vae_ldm.desk.augment.real_photos import Preparation, is_run_data, real_photos
from vae_ldm.desk.command import DeskCommand
from vae_ldm.errors import DataError, VaeLdmError
from vae_ldm.evaluation.small_classifiers import Learner, ProbeLearner, SmallCNNLearner
from vae_ldm.files import write_json, write_whole
from vae_ldm.hardware import device_name
from vae_ldm.models.joined_pictures import PictureArray
from vae_ldm.models.vision_features import load_efficientnet_lite
from vae_ldm.opening import open_run
from vae_ldm.paths import PAGE_SUFFIXES, check_output_file
from vae_ldm.text import counted

_COLOR_JITTER = 0.2
_SHIFT = 1 / 8  # of a side
_BESIDE = (".md", ".json")
"""Suffixes of the files that lie beside the page."""


def prove_augmentation(
    photos: Path | None,
    synthetic: Path,
    *,
    out: Path = Path("proof.html"),
    classifier: ClassifierKind = "small-cnn",
    shots: Sequence[int] = (10, 20, 50),
    num_seeds: int = 5,
    num_steps: int = 300,
) -> Proof:
    """Train the same classifier with and without the photos in `synthetic`, print the table and the sentence.

    `photos` None takes those of the run that drew the synthetic ones. Judged on the photos that are held out as they
    were in training. Beside the page `out` lie the table as Markdown and all numbers as JSON. Raises VaeLdmError where
    the synthetic folder is not finished or was made from held-out photos, DataError where photos do not serve.
    """
    command = DeskCommand()
    check_output_file(out, "page", PAGE_SUFFIXES)
    for suffix in _BESIDE:
        check_output_file(out.with_suffix(suffix), "page", (suffix,))
    if num_seeds < 2:
        raise VaeLdmError(f"{num_seeds} seed says nothing of chance; at least 2 are needed")
    facts = _finished_facts(synthetic)
    preparation = _preparation(synthetic, facts)
    with real_photos(photos, _run_of(facts), preparation, command) as splits:
        splits, num_duplicates = without_duplicates(splits)
        classes = judged_classes(splits)
        if left_out := _left_out_note(splits, classes, num_duplicates):
            command.say(left_out)
        train, held_out = of_classes(splits.train, classes), of_classes(splits.validation, classes)
        drawn = _synthetic_photos(synthetic, preparation, train.class_names, command)
        _check_not_held_out(synthetic, drawn, splits.validation)
        pool = Pool(
            torch.from_numpy(train.labels),
            torch.from_numpy(drawn.labels),
            _sources(synthetic, drawn, train, splits.validation),
            len(train.class_names),
        )
        jittered = _jittered(np.asarray(train.images), flips=preparation.horizontal_flip)
        pictures = np.concatenate([train.images, drawn.images, jittered])
        command.say(
            f"{counted(len(train), 'real photo')}, {counted(len(drawn), 'synthetic one')}, {len(held_out):,} held out, "
            f"{classifier}"
        )
        learner = _learner(classifier, pictures, np.asarray(held_out.images), num_steps)
        with command.progress("training classifiers") as report:
            proof = prove(
                learner,
                pool,
                torch.from_numpy(held_out.labels),
                shots=shots,
                num_seeds=num_seeds,
                progress=report,
            )
        setting = ProofSetting(
            title=str(photos) if photos is not None else str((facts or {}).get("model")),
            synthetic=str(synthetic),
            classifier=classifier,
            num_train=len(train),
            num_synthetic=len(drawn),
            image_size=preparation.image_size,
            class_names=list(train.class_names),
            generator_note=_generator_note(facts, _of_held_out(photos, _run_of(facts), held_out)),
            probe_note=probe_in_words((facts or {}).get("probe")),
            left_out_note=left_out,
            device=device_name(_device()),
            created=datetime.now(UTC).strftime("%Y-%m-%d"),
        )
        examples = Examples(np.asarray(train.images), train.labels, np.asarray(drawn.images), drawn.labels)
        write_proof(out, proof, setting, examples)
    markdown = as_markdown(proof, setting)
    write_whole(out.with_suffix(".md"), markdown)
    write_json(out.with_suffix(".json"), as_dict(proof, setting))
    command.output.print(markdown, markup=False)
    command.hand_over(out)
    if command.unreadable:
        num_photos = len(train) + len(held_out) + len(drawn) + len(command.unreadable)
        command.check_left_out(num_photos, f"the proof in {out} is of the others")
    return proof


def _finished_facts(synthetic: Path) -> dict | None:
    """The facts of an augmented folder; None for any other folder. Raises VaeLdmError where it is not finished."""
    facts = read_facts(synthetic)
    if facts is not None and not facts["finished"]:
        raise VaeLdmError(f"{synthetic}: is not finished; repeat the augment command that began it")
    return facts


def _preparation(synthetic: Path, facts: dict | None) -> Preparation:
    """How the synthetic photos were made to look; of a folder that augment did not make, squares of their size."""
    if facts is not None:
        return Preparation.from_dict(facts["settings"]["preparation"])
    side = sample_photos(synthetic, 16, channels=3, multiple_of=1).images.shape[1]
    return Preparation((side, side), 3)


def _run_of(facts: dict | None) -> Path | None:
    """The run that drew the synthetic photos, where it is still there."""
    run = Path((facts or {}).get("model", ""))
    return run if (run / "recipe.yaml").is_file() else None


def judged_classes(splits: PictureSplits) -> list[int]:
    """The classes of which there are photos to learn from and others to judge by.

    Raises DataError where that is less than two.
    """
    held_out = set(splits.validation.labels.tolist())
    found = [label for label in splits.trained_classes if label in held_out]
    if len(found) < 2:
        names = f" ({', '.join(splits.train.class_names[label] for label in found)})" if found else ""
        raise DataError(
            "at least 2 classes must have a photo to learn from and another to judge by, but there "
            f"{'is 1' if found else 'are 0'}{names}: put some photos of each class in validation/"
        )
    return found


def without_duplicates(splits: PictureSplits) -> tuple[PictureSplits, int]:
    """The splits less held-out photos that are training photos as well, pixel by pixel, and how many those are."""
    known = set(_digests(splits.train.images))
    rows = [row for row, digest in enumerate(_digests(splits.validation.images)) if digest not in known]
    count = len(splits.validation) - len(rows)
    return (replace(splits, validation=_rows(splits.validation, rows)) if count else splits), count


def _digests(images: PictureArray) -> list[bytes]:
    return [hashlib.sha256(image.tobytes()).digest() for image in images]


def _left_out_note(splits: PictureSplits, judged: Sequence[int], num_duplicates: int) -> str:
    """Which classes and photos do not judge, in sentences; "" where all do."""
    names = [splits.train.class_names[label] for label in splits.trained_classes if label not in judged]
    said = []
    if names:
        said.append(
            f"{counted(len(judged), 'class')} {'is' if len(judged) == 1 else 'are'} judged; "
            f"there are no held-out photos of {', '.join(names)}."
        )
    if num_duplicates:
        are = (
            "is a training photo as well and judges" if num_duplicates == 1 else "are training photos as well and judge"
        )
        said.append(f"{counted(num_duplicates, 'held-out photo')} {are} nothing.")
    return " ".join(said)


def of_classes(pictures: Pictures, classes: Sequence[int]) -> Pictures:
    """The pictures of these classes, which are numbered in this order."""
    chosen = _rows(pictures, np.flatnonzero(np.isin(pictures.labels, classes)).tolist())
    labels = np.array([classes.index(label) for label in chosen.labels], np.int64)
    return replace(chosen, labels=labels, class_names=[pictures.class_names[label] for label in classes])


def _rows(pictures: Pictures, rows: Sequence[int]) -> Pictures:
    return replace(
        pictures,
        images=pictures.images[rows],
        labels=pictures.labels[rows],
        captions=[pictures.captions[row] for row in rows],
        ids=[pictures.ids[row] for row in rows],
        source_counts=None,
    )


def _synthetic_photos(folder: Path, preparation: Preparation, names: Sequence[str], command: DeskCommand) -> Pictures:
    """The photos of the folder that are of the classes `names`, at the size of the real ones.

    Photos of other classes are counted and left out. Raises DataError where there are no others.
    """
    found = command.photo_records(folder)
    records = [record for record in found if record.label in names]
    others = sorted({str(record.label) for record in found if record.label not in names})
    if others and not records:
        raise DataError(f"{folder}: there are no real photos of its class {others[0]}; they are of {', '.join(names)}")
    if others:
        left_out = counted(len(found) - len(records), "photo")
        command.say(f"{folder}: {left_out} of classes that are not judged left out: {', '.join(others)}")
    batches = list(
        decoded_batches(
            records,
            [preparation.image_size],
            channels=preparation.channels,
            resize=preparation.resize,
            on_unreadable=command.leave_out,
        )
    )
    if not batches:
        command.refuse_all_left_out(f"{counted(len(records), 'photo')} of {folder}")
    command.tell_left_out()
    kept = [record for batch in batches for record in batch.records]
    labels = np.array([names.index(str(record.label)) for record in kept], np.int64)
    images = np.concatenate([batch.images[0] for batch in batches])
    return Pictures(images, labels, ["" for _ in kept], [record.id for record in kept], list(names))


def _check_not_held_out(folder: Path, drawn: Pictures, held_out: Pictures) -> None:
    """Raise VaeLdmError where a synthetic photo is, pixel by pixel, one that is to judge."""
    judges = set(_digests(held_out.images))
    if count := sum(digest in judges for digest in _digests(drawn.images)):
        raise VaeLdmError(
            f"{folder}: {count:,} of its {counted(len(drawn), 'photo')} {'is a' if count == 1 else 'are'} held-out "
            f"{'photo' if count == 1 else 'photos'}, pixel by pixel; a classifier must not learn the photos that judge "
            "it, so give synthetic photos only"
        )


def _sources(folder: Path, drawn: Pictures, train: Pictures, held_out: Pictures) -> torch.Tensor:
    """The training photo that each synthetic photo was made from; -1 for none.

    Raises VaeLdmError where one was made from a photo that is to judge.
    """
    rows, place = read_rows(folder), {name: number for number, name in enumerate(train.ids)}
    sources = [rows.get(name, {}).get("source") for name in drawn.ids]
    leaks = set(held_out.ids).intersection(source for source in sources if source is not None)
    if leaks:
        were = "was" if len(leaks) == 1 else "were"
        raise VaeLdmError(
            f"{folder}: {len(leaks):,} of its photos {were} made from held-out ones ({min(leaks)}); draw it anew from "
            "the photos that the proof is to learn from"
        )
    return torch.tensor([-1 if source is None else place.get(source, -1) for source in sources])


def _jittered(images: np.ndarray, *, flips: bool) -> np.ndarray:
    """A copy of each photo uint8 [N, H, W, C]: shifted, colours changed, half of them mirrored where that is no lie."""
    rng = np.random.default_rng(0)
    height, width = images.shape[1:3]
    reach = max(1, round(height * _SHIFT)), max(1, round(width * _SHIFT))
    padded = np.pad(images, ((0, 0), (reach[0], reach[0]), (reach[1], reach[1]), (0, 0)), mode="edge")
    top, left = (rng.integers(0, 2 * side + 1, len(images)) for side in reach)
    shifted = np.stack([one[y : y + height, x : x + width] for one, y, x in zip(padded, top, left, strict=True)])
    if flips:
        mirrored = rng.random(len(images)) < 0.5
        shifted[mirrored] = shifted[mirrored, :, ::-1]
    tensor = torch.from_numpy(shifted.transpose(0, 3, 1, 2).copy(order="C"))
    return jitter_colors(tensor, _COLOR_JITTER, rng).permute(0, 2, 3, 1).numpy()


def _learner(classifier: ClassifierKind, pool: np.ndarray, held_out: np.ndarray, num_steps: int) -> Learner:
    if classifier == "probe":
        return ProbeLearner(pool, held_out, features=load_efficientnet_lite().to(_device()), num_steps=num_steps)
    return SmallCNNLearner(pool, held_out, num_steps=num_steps, device=_device())


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _of_held_out(photos: Path | None, run: Path | None, held_out: Pictures) -> str:
    """Whether the generator was trained on the held-out photos, as the end of a sentence."""
    if run is not None and (photos is None or is_run_data(photos, run)):
        return " and never on the held-out ones"
    try:
        learned = open_run(run).learned.images if run is not None else None
    except DataError:
        learned = None
    if learned is None or learned.shape[1:] != held_out.images.shape[1:]:
        return "; whether it has learned from the held-out ones as well cannot be checked, because its own are gone"
    known = set(_digests(learned))
    count = sum(digest in known for digest in _digests(held_out.images))
    if not count:
        return " and, pixel by pixel, on none of the held-out ones"
    return f" and on {count:,} of the {len(held_out):,} held-out ones as well, so this proves nothing"


def _generator_note(facts: dict | None, of_held_out: str) -> str:
    if facts is None:
        return "How the synthetic photos were made, and from which real ones, is not known."
    count = facts.get("num_generator_photos")
    known = "all training photos" if count is None else f"all {counted(count, 'training photo')}"
    return f"The generator was trained on {known}{of_held_out}."
