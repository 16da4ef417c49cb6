"""Facts in JSON files of ours: read as they were written, or refused in one line with the cure."""

import json
from pathlib import Path

import pytest

from vae_ldm.errors import DataError, VaeLdmError
from vae_ldm.stored_json import StoredKind, content_of

KIND = StoredKind(newest=3, digest_from=2, unnumbered=1, cure="delete it")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "facts.json"


def refused(file: Path, kind: StoredKind = KIND) -> str:
    with pytest.raises(VaeLdmError) as caught:
        kind.read(file)
    assert type(caught.value) is kind.error
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_written_is_read(file):
    content = {"threshold": 0.1, "names": ("a", "ä\udcff"), "nested": {"none": None}}
    KIND.write(file, content)
    stored = KIND.read(file)
    assert content_of(stored) == {**content, "names": ["a", "ä\udcff"]}
    assert stored["format"] == 3
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_every_changed_character_is_noticed_whatever_it_changes(file):
    KIND.write(file, {"threshold": 4, "name": "a"})
    whole, facts = file.read_text(), KIND.read(file)
    for place, character in enumerate(whole):
        file.write_text(whole[:place] + ("7" if character != "7" else "8") + whole[place + 1 :])
        with pytest.raises(DataError):
            KIND.read(file)
        file.write_text(whole[:place])
        with pytest.raises(DataError):
            KIND.read(file)
    file.write_text(json.dumps(dict(reversed(json.loads(whole).items()))))
    assert KIND.read(file) == facts


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is no JSON"),
        (b"\xff", "it is no JSON"),
        (b"[" * 100_000, "it is no JSON"),
        (b"[]", "it holds no facts"),
        (b'{"format": true}', "it has no format number"),
        (b'{"format": 0}', "it has no format number"),
        (b'{"format": 2, "a": 1}', "its digest is another"),
        (b'{"a": 1, "digest": "0"}', "its digest is another"),
    ],
)
def test_damage_is_one_line_with_the_cure(file, content, why):
    file.write_bytes(content)
    assert refused(file) == f"{file}: is damaged ({why}); delete it"


def test_a_file_of_version_0_1_has_no_number(file):
    file.write_text('{"a": 1}')
    assert KIND.read(file) == {"a": 1}
    assert "it has no format number" in refused(file, StoredKind(newest=3, digest_from=2, cure="delete it"))


@pytest.mark.parametrize(
    ("written_by", "install"),
    [("0.4.0", "'vae_ldm>=0.4.0'"), (None, "--upgrade vae_ldm"), ("\x1b[2J", "--upgrade vae_ldm")],
)
def test_a_newer_format_names_the_version_to_install(file, written_by, install):
    file.write_text(json.dumps({"format": 4, "written_by": written_by}))
    told = f"{file}: was written by a newer vae_ldm (format 4, this one reads up to 3); pip install {install}"
    assert refused(file) == told


def test_content_of_another_type_is_damage_too(file):
    assert KIND.typed(file, dict[str, int], {"a": 1}) == {"a": 1}
    with pytest.raises(DataError, match=r"facts\.json: is damaged \(a: Input should be a valid integer\); delete it"):
        KIND.typed(file, dict[str, int], {"a": "1"})


def test_the_error_is_the_one_of_the_kind(file):
    file.write_text("")
    refused(file, StoredKind(newest=1, digest_from=1, cure="delete it", error=VaeLdmError))
