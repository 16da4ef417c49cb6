"""docs/lesson.md says what the command prints, and names what there is."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vae_ldm.lesson.layers import Adam, Parameter, central_differences
from vae_ldm.recipe import Recipe, find_recipe, read_recipe

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "lesson.md").read_text()
EXCERPTS = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def _words(line: str) -> str:
    return NUMBER.sub("#", " ".join(line.split()))


def _agree(written: str, printed: str, *, is_share: bool) -> bool:
    """Within what another machine's rounding may change after 2000 steps; counts have to be the same."""
    digits = len(written.partition(".")[2])
    if is_share:
        return abs(float(written) - float(printed)) <= (3 if digits == 0 else 0.3)
    if digits == 0:
        return written == printed
    return abs(float(written) - float(printed)) <= max(0.05 * float(printed), 1.01 * 10**-digits)


@pytest.mark.slow
def test_every_excerpt_is_what_the_command_prints(told):
    assert len(EXCERPTS) == 12
    printed = {_words(line): [] for line in told.lines}
    for line in told.lines:
        printed[_words(line)].append(line)
    for line in "".join(EXCERPTS).splitlines():
        assert _words(line) in printed, f"never printed: {line}"
        shares = [line[match.end() :].startswith(" %") for match in NUMBER.finditer(line)]
        assert any(
            all(
                _agree(written, found, is_share=is_share)
                for written, found, is_share in zip(NUMBER.findall(line), NUMBER.findall(other), shares, strict=True)
            )
            for other in printed[_words(line)]
        ), f"{line!r} is now {printed[_words(line)]}"


@pytest.mark.slow
def test_the_pictures_on_the_page_are_those_that_the_command_draws(told):
    named = re.findall(r"!\[.+\]\((.+\.png)\)", PAGE)
    assert sorted(Path(name).name for name in named) == sorted(path.name for path in told.folder.iterdir())
    for name in named:
        ours, theirs = (
            np.asarray(Image.open(file).convert("RGB")).astype(int)
            for file in (ROOT / "docs" / name, told.folder / Path(name).name)
        )
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).mean() < 3, f"{name}: draw it anew with vae-ldm lesson"


def test_each_section_ends_in_this_package():
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    *taught, sources = sections
    assert len(taught) == 8
    assert sources.startswith("Sources")
    for section in taught:
        assert section.count("**The same thing in this package.**") == 1, section.splitlines()[0]
    for cited in set(re.findall(r"([A-Z][a-z]+)(?: (?:&|and) [A-Z][a-z]+)? (?:19|20)\d\d", "".join(taught))):
        assert f"- {cited}" in sources, cited


def test_the_files_that_it_names_exist():
    files = set(re.findall(r"`([\w/]+\.py)`", PAGE))
    assert len(files) > 10
    for name in files:
        assert any((ROOT / "vae_ldm" / folder / name).is_file() for folder in ("", "lesson")), name
    written_about = {path.name for path in (ROOT / "vae_ldm" / "lesson").glob("[a-z]*.py")}
    assert written_about == {name for name in files if "/" not in name}


def test_the_recipe_keys_and_commands_that_it_names_exist():
    keys = set(re.findall(r"`((?:autoencoder|diffusion)(?:\.(?!py`)\w+)+)[:`]", PAGE))
    assert len(keys) > 8
    for key in keys:
        model = Recipe
        for name in key.split("."):
            assert name in _fields(model), key
            model = _fields(model)[name]
    commands = re.findall(r"^vae-ldm (.+)$", PAGE, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["lesson", "train", "evaluate"]
    _, recipe, *overrides = shlex.split(commands[1])
    read_recipe(find_recipe(recipe), [override for override in overrides if "=" in override])


def _fields(annotation):
    """Names and annotations of the fields of a recipe's part, of any member of a union, below Annotated."""
    fields = {}
    if hasattr(annotation, "model_fields"):
        return {name: field.annotation for name, field in annotation.model_fields.items()}
    for inner in getattr(annotation, "__args__", ()):
        fields |= _fields(inner)
    return fields


@pytest.mark.parametrize(("variance", "beta"), [(0.78, 0.1), (0.78, 1.0), (0.3, 0.1), (0.3, 1.0), (0.78, 4.0)])
def test_the_linear_vae_of_section_5_gives_up_a_latent_as_it_says(variance, beta):
    weights = Parameter(np.array([0.3, 0.5, -0.5]), np.zeros(3))  # a, w, ln s^2

    def terms():
        a, w, logvar = weights.value
        error = variance * (1 - w * a) ** 2 + w**2 * np.exp(logvar)
        return error, 0.5 * (a**2 * variance + np.exp(logvar) - 1 - logvar)

    optimizer = Adam([weights])
    for step in range(1500):
        weights.gradient = central_differences(lambda: terms()[0] + beta * terms()[1], weights.value)
        optimizer.step(0.03 * (1 - step / 1500))
    survives = variance > beta / 2
    expected = (beta / 2, 0.5 * np.log(2 * variance / beta)) if survives else (variance, 0.0)
    assert terms() == pytest.approx(expected, abs=2e-3)
