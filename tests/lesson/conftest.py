"""Patches, one short training of each model, and the whole lesson told once."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from vae_ldm.lesson.autoencoder import PlainAutoencoder, fit
from vae_ldm.lesson.judgement import Judgement
from vae_ldm.lesson.story import Material, prepare, tell
from vae_ldm.lesson.vae import Vae

SHORT = 500


@pytest.fixture(scope="session")
def material() -> Material:
    return prepare()


@pytest.fixture(scope="session")
def autoencoder(material) -> PlainAutoencoder:
    model = PlainAutoencoder(seed=0)
    fit(model, material.train.pixels, num_steps=SHORT, seed=0)
    return model


@pytest.fixture(scope="session")
def vae(material) -> Vae:
    model = Vae(beta=0.1, seed=0)
    fit(model, material.train.pixels, num_steps=SHORT, seed=0)
    return model


@dataclass
class Told:
    """What the command printed, what it measured and where its pictures are."""

    lines: list[str]
    judgements: list[Judgement]
    folder: Path


@pytest.fixture(scope="session")
def told(tmp_path_factory) -> Told:
    folder = tmp_path_factory.mktemp("lesson")
    printed: list[str] = []
    judgements = tell(printed.append, beta=0.1, output_dir=folder)
    return Told("\n".join(printed).splitlines(), judgements, folder)
