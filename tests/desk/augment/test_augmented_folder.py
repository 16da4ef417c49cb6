"""What `augment` stores in its folder: notes of rounds that are read again only as they were written."""

import json

import numpy as np
import pytest

from vae_ldm.desk.augment import folder as folder_module
from vae_ldm.desk.augment.folder import AugmentedFolder, Method, Round
from vae_ldm.errors import DataError, VaeLdmError

METHOD = Method("sample")
DONE = Round("tin", "sample", 0, 4, 1, 2, [{"file_name": "tin/tin-sample-s000000.png", "label": "tin"}])


@pytest.fixture
def folder(tmp_path):
    folder = AugmentedFolder(tmp_path / "augmented")
    with folder.opened({"seed": 0}):
        folder.add(DONE, "tin", METHOD, [np.zeros((4, 4, 3), np.uint8)])
    return folder


@pytest.fixture
def note(folder):
    (file,) = (folder.path / ".rounds").glob("*.json")
    return file


def test_a_round_is_read_as_it_was_written(folder):
    assert folder.round("tin", METHOD, 0) == DONE
    assert folder.round("tin", METHOD, 1) is None


def test_a_round_of_0_1_0_has_no_number_and_no_digest(folder, note):
    note.write_text(json.dumps(vars(DONE)))
    assert folder.round("tin", METHOD, 0) == DONE


@pytest.mark.parametrize("content", ["", "{}", "[]", "{", '{"label": "tin"}', '{"format": 9}'])
def test_a_damaged_round_is_one_line_with_the_cure(folder, note, content):
    note.write_text(content)
    line = r"tin-sample-00000\.json: (is damaged .*; delete it, and|was written by a newer)"
    with pytest.raises(VaeLdmError, match=line):
        folder.round("tin", METHOD, 0)


def test_a_changed_character_of_a_round_is_noticed(folder, note):
    note.write_text(note.read_text().replace('"drawn": 4', '"drawn": 5'))
    with pytest.raises(VaeLdmError, match="its digest is another"):
        folder.round("tin", METHOD, 0)


@pytest.mark.parametrize("name", ["../victim.png", "/elsewhere/victim.png", "", 3, None])
def test_a_round_names_no_picture_of_another_folder(folder, note, name):
    rows = [{"file_name": name}]
    note.write_text(json.dumps(folder_module._ROUND.with_digest({**vars(DONE), "rows": rows})))
    with pytest.raises(DataError, match="no file of this folder"):
        folder.round("tin", METHOD, 0)


@pytest.mark.parametrize("content", ['{"format": 2, "settings": 3}', '{"format": 2}', "[]", "{", "[" * 100_000])
def test_settings_that_are_none_are_one_line(folder, content):
    folder.facts.write_text(content)
    with pytest.raises(VaeLdmError, match=r"augment\.json") as caught:
        folder.check({"seed": 0})
    assert "\n" not in str(caught.value)
