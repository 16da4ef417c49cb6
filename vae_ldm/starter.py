"""The starter: the autoencoder that comes with the package. Its name, where it lies, and what is known of it.

`starter` is a name wherever a model is named. What lies in the current folder under that name comes first, as
everywhere; where no model is named at all, the starter of the package is meant whatever lies there.
"""

import hashlib
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from vae_ldm.choices import Resize
from vae_ldm.errors import WeightsError
from vae_ldm.files import finish_swap, write_whole

if TYPE_CHECKING:
    from vae_ldm.stored_json import StoredKind

STARTER = "starter"
STARTER_FOLDER = Path(__file__).parent / "models" / "starter"
"""Where it lies in the package. As a source this path means the starter whatever the current folder holds."""
SETTINGS_FILE, DIGESTS_FILE = "starter.json", "photos.digests"
CONFIG_FILE, WEIGHTS_FILE = "config.json", "diffusion_pytorch_model.safetensors"
NO_UNET = "is an autoencoder, and holds no diffusion model to draw with"
TRAIN_ON_IT = (
    "train one on your photos with `vae-ldm train product-photos-64 data.path=PHOTOS "
    f"'autoencoder={{from_pretrained: {STARTER}, train: nothing}}'`, and name its run"
)
"""How one comes to a model that draws, on the starter's latents."""

DIGEST_SIZE = 16
"""Bytes of a photo's digest: the first ones of the SHA-256 of its file."""


@dataclass(frozen=True)
class StarterSettings:
    """What is known of the starter beside its weights; starter.json holds it."""

    recipe: str
    """The name of the recipe that it was trained by."""
    image_size: tuple[int, int]
    """Height and width in px that photos are brought to."""
    resize: Resize
    psnr: float
    """The mean PSNR in dB of its reconstructions of photos that were held out of its training, at its own size."""
    num_psnr_photos: int
    """How many these are."""
    num_photos: int
    """Different photo files that it has learned from."""
    photos_digest: str
    """SHA-256 of the file of their digests."""


def is_starter(source: str | Path) -> bool:
    """Whether `source` is the starter of the package: its name, where nothing here has that name, or its folder."""
    if str(source) == str(STARTER_FOLDER):
        return True
    if str(source) != STARTER:
        return False
    finish_swap(Path(STARTER))
    return not Path(STARTER).exists()


def model_name(source: str | Path) -> str:
    """What messages, pages and stored files call a model: `starter` for that of the package, any other as it is.

    What lies here under that name is `./starter`.
    """
    if is_starter(source):
        return STARTER
    return f"./{source}" if str(source) == STARTER else str(source)


def check_starter() -> None:
    """Raise WeightsError where the package was installed without the starter's files."""
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE, SETTINGS_FILE) if not (STARTER_FOLDER / name).is_file()]
    if missing:
        raise WeightsError(f"{STARTER}: {missing[0]} is missing from this installation; install vae_ldm again")


def refuse_to_draw() -> WeightsError:
    """The error of whoever needs a pipeline and is given the starter."""
    return WeightsError(f"{STARTER}: {NO_UNET}; {TRAIN_ON_IT}")


def other_starter(made_by_it: str, remedy: str) -> str:
    """A line for a stored file whose vectors or latents are of the starter of another version of vae_ldm."""
    return (
        f"{made_by_it} by the starter of another version of vae_ldm, which has other weights; install the version of "
        f"vae_ldm that it was made with, or {remedy}"
    )


def starter_settings() -> StarterSettings:
    """What the package's starter says of itself. Raises WeightsError where its files are missing or damaged."""
    check_starter()
    return _settings(STARTER_FOLDER / SETTINGS_FILE)


@cache
def _settings(file: Path) -> StarterSettings:
    kind = _kind()
    return kind.typed(file, StarterSettings, kind.read(file))


def _kind() -> "StoredKind":
    from vae_ldm.stored_json import StoredKind  # with it comes pydantic, which would cost every command a moment

    return StoredKind(newest=1, digest_from=1, cure="install vae_ldm again", error=WeightsError)


def has_learned(digest: str | None) -> bool:
    """Whether the starter was trained on the photo whose file has this SHA-256; False where it is not known.

    Raises WeightsError where the list of its photos is missing or damaged.
    """
    return digest is not None and bytes.fromhex(digest)[:DIGEST_SIZE] in _learned(STARTER_FOLDER, starter_settings())


@cache
def _learned(folder: Path, settings: StarterSettings) -> frozenset[bytes]:
    file = folder / DIGESTS_FILE
    if not file.is_file():
        raise WeightsError(f"{STARTER}: {file.name} is missing from this installation; install vae_ldm again")
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != settings.photos_digest:
        raise _kind().damaged(file, "it is not the list that was written")
    return frozenset(content[start : start + DIGEST_SIZE] for start in range(0, len(content), DIGEST_SIZE))


def photo_list(digests: list[str]) -> bytes:
    """The content of the file of digests, from SHA-256 in hexadecimal digits: sorted, each once."""
    return b"".join(sorted({bytes.fromhex(digest)[:DIGEST_SIZE] for digest in digests}))


def write_settings(folder: Path, settings: StarterSettings, photos: bytes) -> None:
    """Write what `starter_settings` and `has_learned` read."""
    write_whole(folder / DIGESTS_FILE, photos)
    _kind().write(folder / SETTINGS_FILE, asdict(settings))
