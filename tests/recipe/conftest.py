import pytest

from vae_ldm.errors import RecipeError
from vae_ldm.recipe import read_recipe

MINIMAL = "name: tiny\ndata: {type: rendered_claims}\nautoencoder: {}\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write text (or bytes) as r.yaml in the working directory and give its relative path."""
    monkeypatch.chdir(tmp_path)

    def write_text(content=MINIMAL):
        path = (tmp_path / "r.yaml").relative_to(tmp_path)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_text


@pytest.fixture
def mistakes(write):
    """The lines that a recipe's text and overrides are refused with."""

    def lines(content=MINIMAL, *overrides):
        with pytest.raises(RecipeError) as caught:
            read_recipe(write(content), overrides)
        return str(caught.value).splitlines()

    return lines
