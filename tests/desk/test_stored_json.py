"""Facts in a JSON file: a digest over every one, a format that is not guessed, and one line for each mistake."""

import json
from dataclasses import dataclass

import pytest

from vae_ldm.desk.stored_json import StoredKind
from vae_ldm.errors import WeightsError

KIND = StoredKind(newest=3, sealed_from=3, cure="fit it again", error=WeightsError)


@dataclass(frozen=True)
class Facts:
    threshold: float
    size: tuple[int, int]


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "facts.json"
    file.write_text(json.dumps(KIND.sealed({"threshold": 4.0, "size": (3, 5), "name": "é"}), indent=1))
    return file


def test_what_was_sealed_is_read_again(file):
    stored = KIND.read(file)
    assert (stored["format"], stored["name"]) == (3, "é")
    assert KIND.typed(file, Facts, stored) == Facts(4.0, (3, 5))


def test_every_changed_character_is_noticed_or_changes_nothing(file):
    whole, stored = file.read_bytes(), KIND.read(file)
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            assert KIND.read(file) == stored, place
        except WeightsError as error:
            assert "\n" not in str(error)
            assert str(file) in str(error)


@pytest.mark.parametrize("content", ["", "[]", "3", "{}", '{"format": "3"}', '{"format": true}', "[" * 100_000, "\0"])
def test_what_holds_no_facts_is_one_line_with_the_cure(file, content):
    file.write_text(content)
    with pytest.raises(WeightsError, match=r"facts\.json: is damaged .*; fit it again$") as caught:
        KIND.read(file)
    assert "\n" not in str(caught.value)


def test_an_older_format_has_no_digest_and_a_newer_one_names_the_version_to_install(file):
    assert KIND.checked("x", {"format": 2, "threshold": 1}) == {"format": 2, "threshold": 1}
    for written_by, install in (("0.7.1", "pip install 'vae_ldm>=0.7.1'"), ("; rm", "pip install --upgrade vae_ldm")):
        with pytest.raises(WeightsError, match="format 4, this one reads up to 3") as caught:
            KIND.checked("x", {"format": 4, "written_by": written_by})
        assert str(caught.value).endswith(install)


@pytest.mark.parametrize(
    ("fields", "place"),
    [({"size": [1, 2]}, "threshold"), ({"threshold": "4", "size": [1, 2]}, "threshold"),
     ({"threshold": 4, "size": [1]}, "size"), ({"threshold": None, "size": 3}, "threshold"), ([], "")],
)  # fmt: skip
def test_a_fact_that_is_missing_or_of_another_type_is_named(fields, place):
    with pytest.raises(WeightsError, match=rf"x: is damaged \({place}.*; fit it again") as caught:
        KIND.typed("x", Facts, fields)
    assert "\n" not in str(caught.value)
