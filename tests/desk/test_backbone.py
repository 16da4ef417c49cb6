"""Backbones by name, and what novelty takes from each."""

import numpy as np
import pytest
import torch

from tests.support.tiny_backbone import save_backbone
from vae_ldm.data.made_damage import KINDS
from vae_ldm.desk.backbone import DEFAULT_BACKBONE, lasting_backbone, open_backbone
from vae_ldm.desk.novelty.backbone_features import damaged_shares, features_from_stages, squares
from vae_ldm.desk.novelty.made_photos import DamageStrength, draw_sources, make_copies
from vae_ldm.errors import WeightsError
from vae_ldm.latent_space.novelty_scores.cross_fitted import CrossFittedDetector, outer_folds
from vae_ldm.latent_space.novelty_scores.photo_features import MadeCopies, PhotoFeatures
from vae_ldm.models.vision_features import VisionFeatures
from vae_ldm.models.weights_digest import weights_digest


def seen_by(backbone: VisionFeatures, pictures: list[np.ndarray]) -> PhotoFeatures:
    images = squares(pictures)
    with torch.no_grad():
        return features_from_stages(images, backbone.stages(images)).half()


def test_the_default_is_folded_and_keeps_the_digest_of_its_own_weights(features):
    opened = open_backbone()
    assert opened.features.name == features.name == "EffLite0"
    assert opened.digest == weights_digest(features.network) != weights_digest(opened.features.network)
    assert open_backbone(DEFAULT_BACKBONE).digest == opened.digest


@pytest.mark.parametrize("kind", ["dinov2", "vit", "convnext"])
def test_novelty_is_fitted_on_what_any_backbone_sees(kind, tmp_path):
    opened = open_backbone(save_backbone(tmp_path / kind, kind))
    assert opened.features.name == kind
    rng = np.random.default_rng(0)
    pictures = [rng.integers(60, 90, (24, 32, 3), dtype=np.uint8) for _ in range(12)]
    good = seen_by(opened.features, pictures)
    num_places = good.patches.shape[1]
    groups = torch.arange(len(good))
    sources = draw_sources(outer_folds(groups), 6, seed=0)
    strengths = dict.fromkeys(KINDS, DamageStrength(0.8, 0.7))
    copies = [each for kind_ in KINDS for each in make_copies(pictures, sources, kind_, strengths, seed=0)]
    made = MadeCopies(
        seen_by(opened.features, [each.image for each in copies]),
        torch.arange(len(KINDS)).repeat_interleave(len(sources)),
        torch.tensor(sources).repeat(len(KINDS), 1),
        damaged_shares([each.mask for each in copies], num_places),
    )
    detector = CrossFittedDetector.fit(good, made, groups, num_kinds=len(KINDS))
    judged = detector(seen_by(opened.features, [np.full((24, 32, 3), 250, dtype=np.uint8)]))
    assert judged.maps.shape == (1, num_places)
    assert judged.scores.isfinite().all()
    again = MadeCopies.from_tensors(made.tensors())
    assert torch.equal(again.masks, made.masks)


def test_a_stored_name_is_that_of_the_same_backbone_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "eye").mkdir()
    assert lasting_backbone(None) is lasting_backbone("efficientnet-lite0") is None
    assert lasting_backbone("efficientnet-lite2") == "efficientnet-lite2"
    assert lasting_backbone("eye") == str(tmp_path / "eye")
    assert lasting_backbone("acme/eye") == "acme/eye"


def test_an_unknown_backbone_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="no vision model in"):
        open_backbone(str(tmp_path / "absent"))
