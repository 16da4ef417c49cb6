"""What `import vae_ldm` offers: each name is imported when it is first used."""

import pytest

import vae_ldm
from vae_ldm.errors import DataError, WeightsError


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'vae_ldm' has no attribute 'open_archiv'"):
        vae_ldm.open_archiv  # noqa: B018


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("open_archive", DataError, "no such folder; make one with `vae-ldm archive add`"),
        ("open_index", DataError, "no index here"),
        ("open_detector", WeightsError, "is no detector"),
    ],
)
def test_what_is_not_there_is_told(tmp_path, name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        getattr(vae_ldm, name)(tmp_path / "absent")
