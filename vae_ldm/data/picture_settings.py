"""How pictures are made of photos."""

from dataclasses import asdict, dataclass
from typing import Any

from vae_ldm.choices import Resize
from vae_ldm.data.decoding_ahead import Transform


@dataclass(frozen=True)
class PictureSettings:
    """The settings that decide which pictures, prompts and splits are made of a source's photos."""

    image_size: tuple[int, int]
    """Height and width in px."""
    channels: int | None = None
    """None: grey where all pictures are grey, else RGB."""
    resize: Resize = "crop"
    max_pixels: int = 89_478_485
    """A photo of more pixels is not decoded."""
    caption_template: str = "a photo of {label}"
    validation_fraction: float = 0.1
    """The share that is held out where the source has no validation split."""
    max_unreadable_share: float = 0.01
    """The share of photos that may be unusable, in [0, 1]."""

    @property
    def transform(self) -> Transform:
        """What turns a photo into pixels."""
        return Transform(self.image_size, self.channels, self.resize, self.max_pixels)

    def as_stored(self) -> dict[str, Any]:
        """The settings that a cache of pictures follows from."""
        return {
            "transform": asdict(self.transform),
            "caption_template": self.caption_template,
            "validation_fraction": self.validation_fraction,
        }
