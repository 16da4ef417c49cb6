"""`vae-ldm desk` and `vae-ldm claim`: an index and a detector of the same photos, and all they say of a new one."""

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vae_ldm.choices import FeatureKind
from vae_ldm.data.crop_advice import NEARLY_ALL, seen_share
from vae_ldm.data.decoding import Picture, UnreadablePictureError, pillow_limit_lifted
from vae_ldm.data.names import as_bytes
from vae_ldm.data.photo_records import photo_records
from vae_ldm.data.photo_stream import decode_within
from vae_ldm.data.sources import Record
from vae_ldm.desk.claim.page import ClaimPage, Departs, ScoreLine, SimilarPhoto, VariationRow, write_claim
from vae_ldm.desk.command import DeskCommand
from vae_ldm.desk.encoder import PhotoEncoder
from vae_ldm.desk.foreign_photos import foreign_words
from vae_ldm.desk.novelty.detector import Detector, NoveltyVerdict
from vae_ldm.desk.novelty.detector_folder import open_detector
from vae_ldm.desk.novelty.fit import fit
from vae_ldm.desk.novelty.reference_photos import check_photos, check_rate
from vae_ldm.desk.search.build import build_index
from vae_ldm.desk.search.index import Hit, Index, open_index
from vae_ldm.errors import DataError, ManyUnreadableError, VaeLdmError, WeightsError
from vae_ldm.evaluation.reconstruction import psnr_per_image
from vae_ldm.files import finish_swap
from vae_ldm.hardware import device_name
from vae_ldm.latent_space.false_alarms import true_rates
from vae_ldm.models.pixels import as_images, as_pictures
from vae_ldm.opening import open_pipeline, settings_of, usual_psnr
from vae_ldm.paths import PAGE_SUFFIXES, check_desk_place, check_output_file, mistaken_for
from vae_ldm.pipelines.sampling import unknown_words
from vae_ldm.starter import NO_UNET, STARTER, TRAIN_ON_IT, is_starter, model_name

INDEX, DETECTOR = "index", "novelty"
"""What lies in a desk's folder."""
STRENGTHS = (0.3, 0.6)
_SHOWN_SIDE = 256


def build_desk(
    desk: Path,
    photos: Path,
    *,
    model: str | None = None,
    features: FeatureKind = "both",
    backbone: str | None = None,
    false_alarm_rate: float = 0.05,
    only_classes: Sequence[str] = (),
    series: str | None = None,
    leave_out: Path | None = None,
) -> None:
    """Make `desk`: an index of the photos to search in, and a detector fitted on them, or on those of `only_classes`.

    An index that exists is extended; a detector that exists is replaced. `model` is that of the index, which searches;
    without it an index that exists keeps its own, and a new one is made with the starter. Photos that the file
    `leave_out` names are found in the index, and the detector is not fitted on them. Raises what `build_index` and
    `fit` raise, ManyUnreadableError when all is done.
    """
    check_desk_place(desk)
    check_photos(
        photos, false_alarm_rate=false_alarm_rate, only_classes=only_classes, series=series, leave_out=leave_out
    )
    left_out = []
    told: set[str] = set()
    try:
        build_index(desk / INDEX, photos, model=model, kind=features, backbone=backbone, told=told)
    except ManyUnreadableError as error:  # the index is there, of the others
        left_out.append(error)
    try:
        fit(
            photos,
            out=desk / DETECTOR,
            backbone=backbone,
            false_alarm_rate=false_alarm_rate,
            only_classes=only_classes,
            series=series,
            leave_out=leave_out,
            told=told,
        )
    except ManyUnreadableError as error:  # so is the detector
        left_out.append(error)
    if left_out:
        raise left_out[0]


def claim(
    photo: Path,
    desk: Path,
    *,
    out: Path = Path("claim.html"),
    model: str | None = None,
    num_similar: int = 5,
    num_variations: int = 6,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
    false_alarm_rate: float | None = None,
) -> NoveltyVerdict:
    """The verdict on one photo, printed with the photos most like it; the page `out` shows all of it.

    `model` says where the desk's run lies now, should it have moved; `false_alarm_rate` takes the place of that of the
    desk. Raises VaeLdmError where the desk or the page's
    folder does not exist, DataError where the photo cannot be read, and what opening index, detector and model raises.
    """
    command = DeskCommand()
    check_output_file(out, "page", PAGE_SUFFIXES)
    if false_alarm_rate is not None:
        check_rate(false_alarm_rate)
    records = photo_records(photo)
    if len(records) != 1:
        raise VaeLdmError(f"{photo}: holds {len(records):,} photos; give one of them")
    detector, index = open_desk(desk, model=model)
    rate = detector.facts.false_alarm_rate if false_alarm_rate is None else false_alarm_rate
    encoder = index.encoder
    (batch,) = list(encoder.batches(records, on_unreadable=_refuse))
    (verdict,) = detector.judge(records, false_alarm_rate=rate)
    latents = encoder.latents(batch)
    (hits,) = index.nearest(batch.records, encoder.vectors(batch, latents), num_similar)
    reconstruction = 2 * encoder.autoencoder.decode(latents, size=encoder.image_size, output_type="pt").cpu() - 1
    source = model or encoder.source
    label = _class_to_draw(verdict, hits)
    psnr = psnr_per_image(reconstruction, as_images(batch.images[0])).item()
    whole, share = _whole_photo(records[0].picture, encoder)
    foreign = foreign_words(psnr, usual_psnr(source))
    assert verdict.heat_map is not None, "a verdict on a page comes with its heat map"
    facts = detector.facts
    page = ClaimPage(
        title=photo.name,
        path=records[0].place,
        novel=verdict.novel,
        p_value=verdict.p_value,
        false_alarm_rate=rate,
        own_rate=facts.false_alarm_rate,
        num_reference=facts.num_reference,
        num_calibration=facts.num_calibration,
        only_classes=facts.only_classes,
        most_like=None if verdict.classes is None else verdict.classes.most_like,
        possible_classes=[] if verdict.classes is None else verdict.classes.possible,
        too_few_classes=[] if verdict.classes is None else verdict.classes.too_few,
        whole=whole,
        photo=batch.images[0][0],
        heat_map=verdict.heat_map,
        departs=_departs(verdict),
        reconstruction=as_pictures(reconstruction)[0],
        seen_share=share,
        foreign=foreign,
        true_rates=true_rates(facts.num_calibration, rate),
        scores=_score_lines(verdict),
        is_reference=verdict.is_reference,
        held_as=[hit.photo.path for hit in hits if hit.same_photo],
        similar=[_similar(hit) for hit in hits if not hit.same_photo],
        num_indexed=len(index),
        variations=[],
        prompt="",
        no_variations="No variations were asked for.",
        novelty_features=verdict.features_name,
        search_features=index.features_name,
        model=model_name(source),
        device=device_name(encoder.device),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    for line in (f"{page.verdict}.", *page.reasons, *_in_lines(page)):
        command.hand_over(line)
    if num_variations > 0:  # last, because opening the pipeline takes longer than all before
        page = _with_variations(page, source, encoder, latents, label, strengths, num_variations, seed)
    write_claim(out, page)
    command.hand_over(out)
    return verdict


def open_desk(desk: Path, *, model: str | None = None) -> tuple[Detector, Index]:
    """The detector and the index in a desk's folder. Raises VaeLdmError where it is no desk."""
    finish_swap(desk / DETECTOR)
    for part in (DETECTOR, INDEX):
        if not (desk / part).is_dir():
            if (instead := mistaken_for(desk, "desk")) is not None:
                raise VaeLdmError(f"{desk}: {instead}")
            raise VaeLdmError(f"{desk}: is no desk (it has no {part}); make one with vae-ldm desk {desk} PHOTOS")
    return open_detector(desk / DETECTOR), open_index(desk / INDEX, model=model)


def _class_to_draw(verdict: NoveltyVerdict, hits: Sequence[Hit]) -> str | None:
    """The class of the variations: the known one that the verdict names, else that of the most similar photo."""
    if verdict.novel and verdict.classes is not None and verdict.classes.possible:
        return verdict.classes.most_like
    return next((hit.photo.label for hit in hits if hit.photo.label is not None and not hit.same_photo), None)


def _prompt(source: str, label: str | None) -> str:
    """The run's own prompt for a class; empty where it was trained without, or nothing is known of one."""
    settings = settings_of(source)
    if settings.conditioning != "class" or label is None:
        return ""
    return settings.class_prompts([label])[0]


def _with_variations(
    page: ClaimPage,
    source: str,
    encoder: PhotoEncoder,
    latents: Tensor,
    label: str | None,
    strengths: Sequence[float],
    count: int,
    seed: int,
) -> ClaimPage:
    """The page with a row of variations for each strength and their prompt, or with why there is none."""
    try:
        pipeline = open_pipeline(source, autoencoder=encoder.autoencoder.autoencoder)
    except WeightsError:
        return replace(page, no_variations=_why_no_variations(source))
    prompt = _prompt(source, label)
    if unknown_words(pipeline, prompt):
        prompt = ""  # the model was not trained on the desk's classes
    rows = []
    for strength in strengths:
        drawn = pipeline.vary_latents(
            latents,
            strength,
            count,
            size=encoder.image_size,
            prompt=prompt,
            generator=[torch.Generator().manual_seed(seed + number) for number in range(count)],
            output_type="np",
        ).images
        rows.append(VariationRow(strength, [np.round(image * 255).astype(np.uint8) for image in drawn]))
    return replace(page, variations=rows, prompt=prompt, no_variations=None)


def _why_no_variations(source: str) -> str:
    if is_starter(source):
        return f"The {STARTER} {NO_UNET}. For variations {TRAIN_ON_IT} with --model when the desk is made."
    return f"{source} holds an autoencoder and no diffusion model to draw with."


def _departs(verdict: NoveltyVerdict) -> Departs:
    if verdict.max_heat is None:
        return "unknown"
    if verdict.max_heat >= 1:
        return "in places"
    return "as a whole" if verdict.novel else "nowhere"


def _whole_photo(photo: Picture, encoder: PhotoEncoder) -> tuple[np.ndarray, float]:
    """The photo with its unseen ends made pale, and the share of it that is seen: 1 where nothing is pale."""
    whole = _thumbnail(photo)
    assert whole is not None, "the photo was decoded before"
    if encoder.resize != "crop":
        return whole, 1.0
    height, width = whole.shape[:2]
    share = seen_share((height, width), encoder.image_size)
    if share > NEARLY_ALL:
        return whole, 1.0
    rows, columns = encoder.image_size
    seen_height, seen_width = min(height, round(width * rows / columns)), min(width, round(height * columns / rows))
    top, left = (height - seen_height) // 2, (width - seen_width) // 2
    pale = np.round(255 - (255 - whole.astype(float)) * 0.3).astype(np.uint8)
    middle = np.s_[top : top + seen_height, left : left + seen_width]
    pale[middle] = whole[middle]
    return pale, share


def _score_lines(verdict: NoveltyVerdict) -> list[ScoreLine]:
    """The score that decides, and the families that it is made of."""
    p_values = dict.fromkeys(verdict.families) if verdict.p_value is None else verdict.family_p_values
    families = [ScoreLine(name, value, p_values[name], False) for name, value in verdict.families.items()]
    return [ScoreLine("combination", verdict.score, verdict.p_value, True), *families]


def _similar(hit: Hit) -> SimilarPhoto:
    photo = hit.photo
    return SimilarPhoto(
        picture=_thumbnail(Path(os.fsdecode(as_bytes(photo.path)))),
        similarity=hit.similarity,
        label=photo.label,
        caption=photo.caption,
        id=photo.id,
        path=photo.path,
    )


def _thumbnail(photo: Picture) -> np.ndarray | None:
    try:
        with pillow_limit_lifted():
            return decode_within(photo, _SHOWN_SIDE)
    except UnreadablePictureError:
        return None


def _in_lines(page: ClaimPage) -> list[str]:
    """The sentence about the similar photos and a line for each."""
    return [*([page.neighbours_in_words] if page.neighbours_in_words else []), *map(_in_line, page.similar)]


def _in_line(one: SimilarPhoto) -> str:
    facts = [f"{one.similarity:.2f}", one.label or "", one.path]
    return "  " + "  ".join(fact for fact in facts if fact)


def _refuse(record: Record, reason: str) -> None:
    raise DataError(f"{record.place}: cannot be read ({reason})")
