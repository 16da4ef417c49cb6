"""A recipe's data as a source of pictures."""

import numpy as np
import pytest

from vae_ldm.assembly import build_sources
from vae_ldm.choices import Detail
from vae_ldm.data.rendered_claims import render_claim


@pytest.mark.parametrize("detail", [None, "plain", "fine"])
def test_rendered_claims_are_drawn_as_finely_as_the_recipe_says(make_recipe, detail: Detail | None) -> None:
    data = {"type": "rendered_claims", "image_size": 16, "num_train": 1, "num_validation": 1}
    recipe = make_recipe(data=data if detail is None else data | {"detail": detail})
    (ready,) = build_sources(recipe)
    (record,) = ready.source.records("train")
    expected = render_claim(0, label=0, image_size=(16, 16), detail=detail or "plain")
    assert np.array_equal(record.picture, expected.image)
    assert record.caption == expected.caption
