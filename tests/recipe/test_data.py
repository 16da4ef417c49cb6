"""What a recipe says of its photos."""

import pytest

from vae_ldm.recipe import parts


@pytest.mark.parametrize(
    ("data", "folder"),
    [
        (parts.RenderedClaims(), None),
        (parts.ImageFolder(path="photos"), "photos"),
        (parts.HubDataset(path="ORG/photos"), None),
    ],
)
def test_a_source_says_which_folder_of_photos_it_learns_from(data, folder):
    assert data.photo_folder == folder
    assert "photo_folder" not in data.model_dump()
