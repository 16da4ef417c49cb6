"""What `novelty fit` leaves on disk, and how it is opened again: format 5.

detector.json holds the facts, detector.safetensors all that judges. photos.json and photos.safetensors hold the usual
photos' names and what was seen in them, from which `novelty fit --leave-out` fits again without looking.

Detectors of formats 2 to 4 compared photos by an autoencoder's latents as well, and were calibrated on a third of them.
They are refused, with the line that fits them anew.
"""

import hashlib
import json
import shlex
from collections.abc import Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vae_ldm.desk.novelty.detector import Detector, DetectorFacts
from vae_ldm.desk.novelty.observer import PhotoObserver
from vae_ldm.errors import VaeLdmError, WeightsError, first_line
from vae_ldm.files import finish_swap, whole_folder, write_whole
from vae_ldm.latent_space.novelty_scores.cross_fitted import CrossFittedDetector
from vae_ldm.latent_space.novelty_scores.known_classes import KnownClasses
from vae_ldm.latent_space.novelty_scores.photo_features import MadeCopies, MorePlaces, PhotoFeatures, below
from vae_ldm.paths import DETECTOR_FILES, check_detector_place, mistaken_for
from vae_ldm.stored_json import StoredKind

FACTS_FILE, TENSORS_FILE, NAMES_FILE, PHOTOS_FILE = DETECTOR_FILES
_CURE = "fit the detector again"
_KIND = StoredKind(newest=5, digest_from=3, cure=_CURE, error=WeightsError)
_FIRST_OF_THIS_SORT = 5


@dataclass(frozen=True)
class ReferenceNames:
    """Names of the usual photos, in the order of their features."""

    ids: list[str]
    places: list[str]
    """Their files as whole paths; the id of what was no file."""
    digests: list[str]
    left_out: list[bool]
    more_ids: list[str]
    """Of the further photos, of which places alone are kept."""

    def leaving_out(self, ids: Set[str]) -> "ReferenceNames":
        """The same with other photos left out."""
        return replace(self, left_out=[name in ids for name in self.ids])


@dataclass(frozen=True, eq=False)
class StoredPhotos:
    """All that a detector was fitted on."""

    names: ReferenceNames
    features: PhotoFeatures
    copies: MadeCopies
    groups: Tensor
    """int64 [N]"""
    more: MorePlaces | None
    """Places of further photos, where there are more than are kept whole."""


def save_detector(detector: Detector, photos: StoredPhotos, folder: Path) -> None:
    """Write a detector and what it was fitted on to `folder` as a whole or not at all; an older one is replaced.

    Raises DataError where the folder holds anything else.
    """
    check_detector_place(folder)
    classes = {} if detector.classes is None else detector.classes.tensors()
    contents = {
        TENSORS_FILE: _packed({"scores": detector.scores.tensors(), "classes": classes}),
        PHOTOS_FILE: _packed(
            {
                "features": photos.features.tensors(),
                "copies": photos.copies.tensors(),
                "": {"groups": photos.groups},
                "more": {} if photos.more is None else photos.more.tensors(),
            }
        ),
        NAMES_FILE: json.dumps(asdict(photos.names), indent=1).encode(),
    }
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    with whole_folder(folder) as part:
        for name, content in contents.items():
            write_whole(part / name, content)
        _KIND.write(part / FACTS_FILE, {**asdict(detector.facts), "files": digests})


def _packed(groups: dict[str, dict[str, Tensor]]) -> bytes:
    """Through bytes and not by safetensors' own writer, whose error for a full disk is no OSError."""
    return save(
        {
            f"{prefix}.{name}" if prefix else name: tensor.contiguous()
            for prefix, tensors in groups.items()
            for name, tensor in tensors.items()
        }
    )


def open_detector(folder: Path | str, *, device: torch.device | None = None) -> Detector:
    """The detector that `novelty fit` has written to `folder`.

    Raises WeightsError where there is no detector, it is damaged or of an older sort, or its backbone is another one
    than it was fitted with.
    """
    folder = Path(folder).expanduser()
    stored = _read_facts(folder)
    facts = _KIND.typed(folder / FACTS_FILE, DetectorFacts, stored)
    tensors = _read_tensors(folder, TENSORS_FILE, stored)
    digests = _read_names(folder, stored).digests
    try:
        scores = CrossFittedDetector.from_tensors(below(tensors, "scores"))
    except (KeyError, ValueError) as error:
        raise _of_tensors(folder, error) from error
    classes = _classes(folder, facts, tensors)
    if len(scores.groups) != len(digests):
        raise _KIND.damaged(folder / NAMES_FILE, "it names another number of photos")
    observer = PhotoObserver(facts.backbone, downloads=False, device=device)
    if observer.digest != facts.backbone_digest:
        raise WeightsError(
            f"{folder}: was fitted with other weights of {facts.features_name} than are found now; {_CURE}"
        )
    return Detector(facts, observer, scores, classes, tuple(digests))


def open_classes(folder: Path) -> KnownClasses | None:
    """The known classes of the detector in `folder`, for which no backbone is asked; None where it knows none.

    Raises WeightsError where it is damaged.
    """
    stored = _read_facts(folder)
    facts = _KIND.typed(folder / FACTS_FILE, DetectorFacts, stored)
    return _classes(folder, facts, _read_tensors(folder, TENSORS_FILE, stored))


def _classes(folder: Path, facts: DetectorFacts, tensors: dict[str, Tensor]) -> KnownClasses | None:
    if not facts.known_classes:
        return None
    try:
        classes = KnownClasses.from_tensors(below(tensors, "classes"))
    except (KeyError, ValueError) as error:
        raise _of_tensors(folder, error) from error
    if classes.num_classes != len(facts.known_classes):
        raise _KIND.damaged(folder / FACTS_FILE, "it names another number of classes")
    return classes


def _of_tensors(folder: Path, error: KeyError | ValueError) -> VaeLdmError:
    """The error of tensors of which one is missing or of another shape."""
    why = f"it has no {error.args[0]}" if isinstance(error, KeyError) else first_line(error)
    return _KIND.damaged(folder / TENSORS_FILE, why)


def open_photos(folder: Path) -> StoredPhotos:
    """What the detector in `folder` was fitted on. Raises WeightsError where it is damaged."""
    stored = _read_facts(folder)
    names, tensors = _read_names(folder, stored), _read_tensors(folder, PHOTOS_FILE, stored)
    try:
        return StoredPhotos(
            names,
            PhotoFeatures.from_tensors(below(tensors, "features")),
            MadeCopies.from_tensors(below(tensors, "copies")),
            tensors["groups"],
            MorePlaces.from_tensors(below(tensors, "more")) if "more.patches" in tensors else None,
        )
    except (KeyError, ValueError) as error:
        raise _KIND.damaged(folder / PHOTOS_FILE, first_line(error)) from error


def stored_facts(folder: Path) -> DetectorFacts | None:
    """The facts of the detector in a folder; None where there is none that this version reads."""
    try:
        return _KIND.typed(folder, DetectorFacts, _read_facts(folder))
    except WeightsError:
        return None


def reference_names(folder: Path) -> ReferenceNames:
    """The names of the usual photos of the detector in `folder`. Raises WeightsError where they are damaged."""
    return _read_names(folder, _read_facts(folder))


def _read_facts(folder: Path) -> dict[str, Any]:
    finish_swap(folder)
    file = folder / FACTS_FILE
    try:
        stored = _KIND.read(file)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _is_none(folder, error) from error
    if stored["format"] < _FIRST_OF_THIS_SORT:
        raise WeightsError(
            f"{folder}: was fitted by an older vae_ldm, whose scores are no longer used; fit it anew: "
            f"{_fit_again(folder, stored)}"
        )
    return stored


def _fit_again(folder: Path, stored: dict[str, Any]) -> str:
    """The command that makes a detector of an older sort anew; where it is a desk's, the one that makes the desk."""
    classes = stored.get("only_classes")
    only = [word for name in (classes if isinstance(classes, list) else []) for word in ("--only-class", str(name))]
    if _is_of_a_desk(folder):
        words = ["vae-ldm", "desk", str(folder.parent), "PHOTOS", "--model", str(stored.get("model", "RUN"))]
    else:
        words = ["vae-ldm", "novelty", "fit", "PHOTOS", "--out", str(folder)]
    rate = stored.get("false_alarm_rate", 0.05)
    words += ["--false-alarm-rate", f"{rate:g}"] if isinstance(rate, float) and rate != 0.05 else []
    return shlex.join([*words, *only])


def _is_of_a_desk(folder: Path) -> bool:
    """Whether nothing but an index lies beside the detector, as in the folder of a desk."""
    beside = {path.name for path in folder.absolute().parent.iterdir() if not path.name.startswith(".")}
    return beside == {folder.absolute().name, "index"} and (folder.parent / "index" / "index.json").is_file()


def _read_tensors(folder: Path, name: str, stored: dict[str, Any]) -> dict[str, Tensor]:
    content = _read(folder, name, stored)
    try:
        return load(content)
    except SafetensorError as error:
        raise _KIND.damaged(folder / name, first_line(error)) from error


def _read_names(folder: Path, stored: dict[str, Any]) -> ReferenceNames:
    content = _read(folder, NAMES_FILE, stored)
    try:
        fields = json.loads(content)
    except ValueError:
        raise _KIND.damaged(folder / NAMES_FILE, "it is no JSON") from None
    return _KIND.typed(folder / NAMES_FILE, ReferenceNames, fields)


def _read(folder: Path, name: str, stored: dict[str, Any]) -> bytes:
    """The bytes of a file of a detector, which are those that were written."""
    try:
        content = (folder / name).read_bytes()
    except FileNotFoundError as error:
        raise _is_none(folder, error) from error
    files = stored.get("files")
    if not isinstance(files, dict) or hashlib.sha256(content).hexdigest() != files.get(name):
        raise _KIND.damaged(folder / name, "its digest is another")
    return content


def _is_none(folder: Path, error: OSError) -> WeightsError:
    if (instead := mistaken_for(folder, "detector")) is not None:
        return WeightsError(f"{folder}: {instead}")
    missing = Path(str(error.filename)).name
    return WeightsError(
        f"{folder}: is no detector (it has no {missing}); give a folder that vae-ldm novelty fit has written"
    )
