"""Where a verb writes: a name that is free, and that no other command takes meanwhile; what a folder is."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from vae_ldm.errors import DataError, VaeLdmError, WeightsError
from vae_ldm.paths import (
    DETECTOR_FILES,
    PAGE_SUFFIXES,
    check_desk_place,
    check_detector_place,
    check_new_folder,
    check_output_file,
    check_store,
    check_weights_within,
    new_place,
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names_here() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


@pytest.mark.parametrize("default", ["claim.html", "morph"])
def test_commands_that_begin_at_once_take_a_name_each(default: str) -> None:
    begin, all_have_one = Barrier(8), Barrier(8)

    def command(_: int) -> str:
        begin.wait()
        with new_place(None, default) as place:
            all_have_one.wait()
            return place.name

    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(command, range(8)))
    stem, suffix = Path(default).stem, Path(default).suffix
    assert sorted(names) == sorted([default, *(f"{stem}-{number}{suffix}" for number in range(2, 9))])
    assert names_here() == []  # nothing was written, and all names are free again


def test_a_default_that_is_taken_gets_a_number_and_the_verb_may_write_there() -> None:
    Path("claim.html").write_text("a page")
    Path("morph").mkdir()
    with new_place(None, "claim.html") as page, new_place(None, "morph") as folder:
        check_output_file(page, "page", PAGE_SUFFIXES)
        check_new_folder(folder)
        page.write_text("another page")
    assert Path("claim-2.html").read_text() == "another page"
    assert names_here() == ["claim-2.html", "claim.html", "morph"]


def test_a_command_that_fails_gives_its_name_back() -> None:
    for default in ("claim.html", "morph"):
        with pytest.raises(RuntimeError), new_place(None, default):
            raise RuntimeError
    assert names_here() == []


def test_names_beside_it_are_free_as_well() -> None:
    Path("proof.md").touch()
    with new_place(None, "proof.html", ".md", ".json") as page:
        assert page.name == "proof-2.html"


def test_a_name_of_the_user_is_left_as_it_is() -> None:
    with new_place(Path("mine.html"), "claim.html") as page:
        assert page == Path("mine.html")
    assert names_here() == []


def test_a_second_process_of_a_launch_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with new_place(None, "scores.csv") as table:
        assert table.name == "scores.csv"
        assert names_here() == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_told_by_the_check(here: Path) -> None:
    here.chmod(0o500)
    with new_place(None, "claim.html") as page, pytest.raises(VaeLdmError, match="may not be written to"):
        check_output_file(page, "page", PAGE_SUFFIXES)
    here.chmod(0o700)


@pytest.mark.parametrize(
    ("needed", "file"),
    [
        ("autoencoder", "autoencoder/config.json"),
        ("autoencoder", "vae/config.json"),  # of a pipeline that was pushed and pulled
        ("autoencoder", "config.json"),  # of an autoencoder that was
        ("autoencoder", ".autoencoder.vae_ldm-new/config.json"),  # of a run that was killed while it put it in place
        ("pipeline", "pipeline/model_index.json"),
        ("pipeline", "model_index.json"),
        ("pipeline", "lora/pytorch_lora_weights.safetensors"),
        ("pipeline", "pytorch_lora_weights.safetensors"),
        ("pipeline", ".pipeline.vae_ldm-new/model_index.json"),
    ],
)
def test_a_run_is_finished_wherever_its_weights_lie(tmp_path: Path, needed: str, file: str) -> None:
    (tmp_path / "recipe.yaml").touch()
    with pytest.raises(WeightsError, match=f"holds no {needed} yet"):
        check_weights_within(tmp_path, needed)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    check_weights_within(tmp_path, needed)


def stores(*files: str) -> None:
    for file in files:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).touch()


@pytest.mark.parametrize(
    ("folder", "file", "what", "said"),
    [
        ("d/novelty", "novelty", "desk", "d/novelty: is the detector of a desk; give the desk, d"),
        ("d/index", "novelty", "desk", "d/index: is the index of a desk; give the desk, d"),
        ("d", "detector.json", "detector", "d: is a desk; give its detector, d/novelty"),
        ("d", "index.json", "index", "d: is a desk; give its index, d/index"),
        (
            "alone",
            "novelty",
            "desk",
            "alone: is a detector and no desk; judge photos by it alone with `vae-ldm novelty score`",
        ),
        ("alone", "archive.json", "archive", "alone: is a detector and no archive; give an archive"),
        ("empty", "novelty", "desk", "empty: is no desk (it has no novelty); make one with `vae-ldm desk`"),
    ],
)
def test_what_is_something_else_of_ours_is_called_so(folder: str, file: str, what: str, said: str) -> None:
    stores("d/novelty/detector.json", "d/index/index.json", "alone/detector.json", "empty/x")
    with pytest.raises(DataError) as caught:
        check_store(Path(folder), file, what, "desk")
    assert str(caught.value) == said


def test_a_detector_with_files_of_the_user_beside_it_is_not_replaced() -> None:
    stores(*(f"d/{file}" for file in DETECTOR_FILES), "d/.DS_Store")
    check_detector_place(Path("d"))
    stores("d/odd.txt")
    with pytest.raises(DataError, match=r"^d: holds odd\.txt beside the detector, .*; move it away, or name another"):
        check_detector_place(Path("d"))


def test_a_desk_is_not_made_in_a_detector() -> None:
    stores("d/detector.json")
    with pytest.raises(DataError, match=r"^d: is a detector; name another folder for the desk$"):
        check_desk_place(Path("d"))
    stores("desk/novelty/detector.json", "desk/index/index.json", "desk/claim.html")
    check_desk_place(Path("desk"))
