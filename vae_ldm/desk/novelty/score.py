"""`vae-ldm novelty score`: what a detector says of photos, in a table."""

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image

from vae_ldm.data.photo_stream import WholePhotos
from vae_ldm.desk.command import DeskCommand
from vae_ldm.desk.file_names import lengthened
from vae_ldm.desk.novelty.detector import Detector, NoveltyVerdict
from vae_ldm.desk.novelty.detector_folder import open_detector
from vae_ldm.desk.novelty.reference_photos import check_rate
from vae_ldm.files import write_picture, write_whole
from vae_ldm.latent_space.false_alarms import rate_to_name
from vae_ldm.latent_space.novelty_scores.families import FAMILIES
from vae_ldm.latent_space.shift import shift_test
from vae_ldm.paths import TABLE_SUFFIXES, check_new_folder, check_output_file
from vae_ldm.text import counted

MIN_PHOTOS_OF_SHIFT = 20
"""Of fewer photos nothing is said of all of them together."""
_NEARLY_ALL = 0.95
"""Where a larger share is novel, too few others are left to say that they are like the usual ones."""
_VERDICTS = {True: "novel", False: "seen", None: "undecided"}


def score(
    photos: Path,
    detector: Path,
    *,
    out: Path = Path("scores.csv"),
    heat_maps: Path | None = None,
    false_alarm_rate: float | None = None,
) -> list[NoveltyVerdict]:
    """Verdicts on photos, without their heat maps, written to the table `out` and the pictures to `heat_maps`.

    `false_alarm_rate` takes the place of that of the fit; nothing is fitted anew. A photo that cannot be read has a
    line as well. Each of several processes examines its share; the first one writes the table and returns the verdicts.
    Raises DataError and WeightsError as `photo_records` and `open_detector`, and at the end ManyUnreadableError where
    more than one in a hundred cannot be read.
    """
    command = DeskCommand(launched=True)

    def check_places() -> None:
        check_output_file(out, "table", TABLE_SUFFIXES)
        if heat_maps is not None:
            check_new_folder(heat_maps, "--heat-maps")

    command.processes.first(check_places)  # before another process has written anything
    if false_alarm_rate is not None:
        check_rate(false_alarm_rate)
    opened = open_detector(detector, device=command.processes.device)
    rate = opened.facts.false_alarm_rate if false_alarm_rate is None else false_alarm_rate
    records = command.photo_records(photos)

    def judge(batch: WholePhotos) -> list[NoveltyVerdict]:
        verdicts = opened.judge(batch, heat_maps=heat_maps is not None, false_alarm_rate=rate)
        if heat_maps is not None:
            for verdict in verdicts:
                _save_picture(_heat_map_file(heat_maps, verdict.record.id), verdict.heat_map)
        return [replace(verdict, heat_map=None) for verdict in verdicts]

    with command.progress("judging photos") as report:
        found = command.over_photos(opened.observer, records, judge, report=report)
    verdicts = [verdict for batch in found for verdict in batch]
    unreadable = [name for name, _ in command.unreadable.photos]
    command.processes.first(lambda: _write_table(out, verdicts, unreadable, opened.facts.known_classes))
    command.tell_left_out()
    for line in _summary(opened, verdicts, rate) if verdicts else []:
        command.say(line)
    command.hand_over(out)
    if heat_maps is not None and verdicts:
        command.hand_over(heat_maps)
    command.check_left_out(len(records), f"the others are judged in {out}" if verdicts else "nothing is judged")
    return verdicts


def _summary(detector: Detector, verdicts: Sequence[NoveltyVerdict], rate: float) -> list[str]:
    """What is said of all photos together."""
    facts, lines = detector.facts, []
    if num_references := sum(verdict.is_reference for verdict in verdicts):
        were, each = ("was", "it is") if num_references == 1 else ("were", "each of them is")
        lines.append(
            f"{num_references:,} of {counted(len(verdicts), 'photo')} {were} among those that the detector was fitted "
            f"on; {each} judged without itself"
        )
    only = f"; usual photos are those of {', '.join(facts.only_classes)}" if facts.only_classes else ""
    calibrated = f"with {counted(facts.num_calibration, 'different usual photo')}"
    if not detector.can_judge(rate):
        lines.append(
            f"{calibrated} no photo can be called novel at a false-alarm rate of {rate:g}: the table has scores and no "
            f"p-values; name --false-alarm-rate {rate_to_name(facts.num_calibration)} or more, or fit on more "
            f"photos{only}"
        )
        return lines
    num_novel = sum(bool(verdict.novel) for verdict in verdicts)
    lines += _shift(detector, verdicts)
    are = "is" if 1 in (num_novel, len(verdicts)) else "are"
    lines.append(
        f"{num_novel:,} of {counted(len(verdicts), 'photo')} {are} novel by "
        f"{facts.features_name}, at a false-alarm rate of {rate:g} {calibrated}{only}"
    )
    return lines


def _shift(detector: Detector, verdicts: Sequence[NoveltyVerdict]) -> list[str]:
    """A line where these photos as a whole are not like the usual ones; those that were fitted on do not count."""
    new = [verdict.p_value for verdict in verdicts if verdict.p_value is not None and not verdict.is_reference]
    if len(new) < MIN_PHOTOS_OF_SHIFT:
        return []
    held = detector.scores
    found = shift_test(torch.tensor(new), held.held_out_p_values(), calibration_groups=held.groups)
    kind = found.kind()
    test = f"Kolmogorov-Smirnov test of the p-values: {found.p_value:.1g}"
    if kind == "some novel" and found.share_novel > _NEARLY_ALL:
        return [
            f"all or nearly all of the photos are unlike the usual ones ({test}): either all show what is new, or "
            "light, camera or background have changed, and the false-alarm rate does not hold for them; look at some"
        ]
    if kind == "some novel":
        return [
            f"about {100 * found.share_novel:.0f} % of the photos are unlike the usual ones, the others are like them "
            f"({test})"
        ]
    if kind == "all different":
        return [
            f"these photos as a whole are not like the usual ones ({test}, of the usual ones among them "
            f"{found.usual_p_value:.1g}): light, camera or background may have changed, and the false-alarm rate does "
            "not hold for them; look at some, and fit the detector on photos like these"
        ]
    return []


def _heat_map_file(folder: Path, photo_id: str) -> Path:
    """`<id>.png`, different for every id."""
    *folders, name = PurePosixPath(photo_id).parts
    return folder.joinpath(*map(lengthened, folders), lengthened(name, ".png"))


def _save_picture(file: Path, picture: np.ndarray | None) -> None:
    assert picture is not None
    file.parent.mkdir(parents=True, exist_ok=True)
    write_picture(file, Image.fromarray(picture))


def _write_table(
    out: Path, verdicts: Sequence[NoveltyVerdict], unreadable: Sequence[str], known_classes: Sequence[str]
) -> None:
    """One line a photo, in the order of their names, whole or not at all."""
    of_classes = ["most_like", "possible_classes"] if known_classes else []
    header = ["id", "verdict", "p_value", "score", *FAMILIES, *of_classes, "features"]
    rows = {verdict.record.id: _row(verdict, len(of_classes)) for verdict in verdicts}
    rows |= {name: ["unreadable", *[""] * (len(header) - 2)] for name in unreadable}
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(header)
    writer.writerows([record_id, *rows[record_id]] for record_id in sorted(rows))
    write_whole(out, table.getvalue())


def _row(verdict: NoveltyVerdict, num_of_classes: int) -> list[str]:
    of_classes = [""] * num_of_classes
    if (classes := verdict.classes) is not None:
        of_classes = [
            classes.most_like,
            "|".join(classes.possible) or ("undecided" if classes.too_few else "none of them"),
        ]
    return [
        _VERDICTS[verdict.novel],
        "" if verdict.p_value is None else f"{verdict.p_value:.6g}",
        f"{verdict.score:.6g}",
        *(f"{value:.6g}" for value in verdict.families.values()),
        *of_classes,
        verdict.features_name,
    ]
