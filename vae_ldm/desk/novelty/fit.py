"""`vae-ldm novelty fit`: a detector fitted on photos of the usual kind."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from math import ceil
from pathlib import Path

import torch

from vae_ldm.data.made_damage import KINDS
from vae_ldm.data.sources import Record
from vae_ldm.desk.backbone import lasting_backbone
from vae_ldm.desk.command import DeskCommand
from vae_ldm.desk.novelty.detector import Detector, DetectorFacts
from vae_ldm.desk.novelty.detector_folder import StoredPhotos, open_classes, open_photos, save_detector, stored_facts
from vae_ldm.desk.novelty.looking import SeenPhotos, digest_of, groups_of, look, look_at_usual
from vae_ldm.desk.novelty.observer import PhotoObserver
from vae_ldm.desk.novelty.reference_photos import check_enough, check_rate, names_to_leave_out, reference_photos
from vae_ldm.errors import DataError, WeightsError
from vae_ldm.latent_space.false_alarms import photos_needed, rate_to_name, true_rates
from vae_ldm.latent_space.novelty_scores.cross_fitted import CrossFittedDetector
from vae_ldm.latent_space.novelty_scores.known_classes import KnownClasses
from vae_ldm.latent_space.novelty_scores.photo_features import PhotoFeatures
from vae_ldm.paths import check_detector_place
from vae_ldm.text import counted

_CERTAIN_ALARMS = 15
"""False alarms among the calibration photos that hold a rate to about half of it."""


def fit(
    photos: Path,
    *,
    out: Path,
    backbone: str | None = None,
    false_alarm_rate: float = 0.05,
    only_classes: Sequence[str] = (),
    series: str | None = None,
    leave_out: Path | None = None,
    told: set[str] | None = None,
) -> DetectorFacts:
    """Fit a detector on photos (of `only_classes`, where any are named) and write it to `out`.

    `series` is a pattern by which names tell that photos are of one series. Nothing is fitted on the photos that the
    file `leave_out` names. Where `out` holds a detector of the same photos, they are not looked at again. `told` is
    that of DeskCommand. Each of several processes looks at its share, and the first one fits and writes.

    Raises DataError where photos are too few, WeightsError for a backbone that cannot be opened, and at the end
    ManyUnreadableError where more than one in a hundred of the photos cannot be read.
    """
    command = DeskCommand(launched=True, told=told)
    check_detector_place(out)
    check_rate(false_alarm_rate)
    reference, known = reference_photos(photos, only_classes, list_photos=command.photo_records)
    left_out = names_to_leave_out(leave_out, reference, photos) if leave_out is not None else set()
    check_enough(reference, len(left_out))
    observer = PhotoObserver(backbone, device=command.processes.device)
    seen = _seen_before(command, observer, out, series, _digest_of_all(reference, known))
    if command.processes.first(lambda: seen is not None):
        command.say(f"{out}: has seen these {counted(len(reference), 'photo')} before; they are not looked at again")
    else:
        stored = look_at_usual(command, observer, reference, series)
        of_known = look(command, observer, known, "photos of known classes") if only_classes and known else None
        seen = None if stored is None else _Material(stored, *_classes_apart(of_known))

    def fit_first() -> DetectorFacts:
        assert seen is not None, "the first process has seen everything"
        stored = replace(seen.photos, names=seen.photos.names.leaving_out(left_out))
        classes, class_names = seen.classes, seen.class_names
        if known and not only_classes:
            classes, class_names = _classes_among(stored, known, left_out)
        scores = _fitted(command, stored, left_out)
        facts = DetectorFacts(
            backbone=lasting_backbone(backbone),
            backbone_digest=observer.digest,
            features_name=observer.name,
            only_classes=list(only_classes),
            known_classes=class_names,
            series=series,
            num_reference=len(stored.features) + (0 if stored.more is None else stored.more.num_photos),
            num_calibration=scores.num_groups,
            num_left_out=len(left_out.intersection(stored.names.ids + stored.names.more_ids)),
            photos_digest=_digest_of_all(reference, known),
            false_alarm_rate=false_alarm_rate,
        )
        save_detector(Detector(facts, observer, scores, classes, tuple(stored.names.digests)), stored, out)
        return facts

    facts = command.processes.first(fit_first)
    for line in _summary(facts):
        command.say(line)
    command.tell_left_out()
    command.hand_over(out)
    command.check_left_out(
        len(reference) + (len(known) if only_classes else 0), f"the detector in {out} is of the others"
    )
    return facts


@dataclass(frozen=True, eq=False)
class _Material:
    """What a detector is fitted on, and what tells known classes apart that are not usual."""

    photos: StoredPhotos
    classes: KnownClasses | None
    class_names: list[str]


def _seen_before(
    command: DeskCommand, observer: PhotoObserver, out: Path, series: str | None, photos_digest: str
) -> _Material | None:
    """What the detector in `out` was fitted on, in the first process, where these are the same photos."""
    if not command.processes.is_first or (before := stored_facts(out)) is None:
        return None
    command.say(f"{out}: takes the place of a detector of {_in_short(before)}")
    if (before.backbone_digest, before.series, before.photos_digest) != (observer.digest, series, photos_digest):
        return None
    try:
        return _Material(open_photos(out), open_classes(out), before.known_classes)
    except WeightsError as error:  # fitting again is the cure
        command.say(error)
        return None


def _fitted(command: DeskCommand, stored: StoredPhotos, left_out: set[str]) -> CrossFittedDetector:
    """The scores fitted on all photos that are not left out. Raises DataError where these are too few."""
    more = stored.more
    if more is not None:
        out_of_more = [row for row, name in enumerate(stored.names.more_ids) if name in left_out]
        more = more.without_photos(torch.tensor(out_of_more, dtype=torch.int64))
    with command.progress("fitting") as report:
        try:
            return CrossFittedDetector.fit(
                stored.features,
                stored.copies,
                stored.groups,
                num_kinds=len(KINDS),
                left_out=torch.tensor(stored.names.left_out),
                more=more,
                report=report,
            )
        except ValueError as error:
            command.tell_left_out()
            raise DataError(f"too few photos: {error}") from error


def _digest_of_all(*photos: Sequence[Record]) -> str:
    """SHA-256 of the names, classes and digests of photos, in their order."""
    lists = [[(record.id, record.label, digest_of(record)) for record in some] for some in photos]
    return sha256(json.dumps(lists).encode()).hexdigest()


def _classes_apart(seen: SeenPhotos | None) -> tuple[KnownClasses | None, list[str]]:
    """What tells the classes of photos apart that are not usual, and the classes' names in its order."""
    if seen is None:
        return None, []
    return _known_classes(seen.features, [record.label or "" for record in seen.records], groups_of(seen, None))


def _classes_among(
    stored: StoredPhotos, known: Sequence[Record], left_out: set[str]
) -> tuple[KnownClasses | None, list[str]]:
    """The same for the classes of usual photos, which are looked at once; those that are left out tell nothing."""
    labels = {record.id: record.label or "" for record in known}
    rows = [row for row, name in enumerate(stored.names.ids) if name in labels and name not in left_out]
    found = torch.tensor(rows, dtype=torch.int64)
    return _known_classes(stored.features[found], [labels[stored.names.ids[row]] for row in rows], stored.groups[found])


def _known_classes(
    features: PhotoFeatures, labels: Sequence[str], groups: torch.Tensor
) -> tuple[KnownClasses | None, list[str]]:
    if len(groups.unique()) < 2:
        return None, []  # there is nothing to hold out
    names = sorted(set(labels))
    numbers = torch.tensor([names.index(label) for label in labels])
    return KnownClasses.fit(features, numbers, groups, len(names)), names


def _summary(facts: DetectorFacts) -> Iterator[str]:
    """What was fitted, what it will call novel, and how well so many photos hold the rate."""
    rate, count = facts.false_alarm_rate, facts.num_calibration
    of_which = f", {facts.num_left_out:,} of them left out" if facts.num_left_out else ""
    groups = f" in {counted(count, 'group')}" if count < facts.num_reference else ""
    yield f"{facts.features_name}: {counted(facts.num_reference, 'usual photo')}{groups}{of_which}"
    if facts.known_classes:
        yield f"known classes: {', '.join(facts.known_classes)}"
    if count < photos_needed(rate):
        yield (
            f"{counted(count, 'usual photo')} are too few to call any photo novel at a false-alarm rate of {rate:g}, "
            f"which takes {photos_needed(rate):,}: photos get a score and no p-value; at --false-alarm-rate "
            f"{rate_to_name(count)} or more they get both"
        )
        return
    yield f"a photo whose p-value is at most {rate:g} is called novel, as about {100 * rate:g} of 100 usual photos are"
    yield _certainty(count, rate)


def _certainty(num_calibration: int, rate: float) -> str:
    """How well a number of calibration photos holds the rate, and how many would hold it better."""

    def within(count: int) -> str:
        low, high = true_rates(count, rate)
        return f"between {100 * low:.2g} and {100 * high:.2g} %"

    enough = ceil(_CERTAIN_ALARMS / rate)
    said = (
        f"with {counted(num_calibration, 'different usual photo')} the true rate lies {within(num_calibration)} "
        "(95 % confidence)"
    )
    return said if num_calibration >= enough else f"{said}, with {enough:,} it would lie {within(enough)}"


def _in_short(facts: DetectorFacts) -> str:
    classes = f" of {', '.join(facts.only_classes)}" if facts.only_classes else ""
    return f"{counted(facts.num_reference, 'photo')}{classes}, at a false-alarm rate of {facts.false_alarm_rate:g}"
