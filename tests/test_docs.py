"""The pages of docs/ and of the root name what there is, and their pictures are small."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md"))])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_exists(page):
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))]
    assert [link for link in links if not link.startswith("https://") and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "log.md"], ids=lambda page: page.name)
def test_the_files_that_a_page_names_exist(page):
    """All but the log's, whose files were there on its days; NAME stands for a new file's name."""
    named = re.findall(r"`((?:vae_ldm|tests|benchmarks|recipes)/[\w./]+\.\w+)`", page.read_text(encoding="utf-8"))
    assert [name for name in named if "NAME" not in name and not (ROOT / name).exists()] == []


def test_the_newest_entry_of_the_changelog_is_this_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    newest = re.findall(r"^## (\S+), \d{4}-\d{2}-\d{2}$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)[0]
    assert newest == version


def test_no_page_indents_a_command_where_a_fence_gives_a_copy_button():
    for page in PAGES:
        outside = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        assert re.findall(r"^ {4}(?:vae-ldm|accelerate|pip|python) .*$", outside, re.MULTILINE) == [], page.name


def test_pictures_are_small_and_shown_somewhere():
    shown = {
        (page.parent / link).resolve()
        for page in PAGES
        for link in re.findall(r"!\[[^\]]*\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    }
    pictures = sorted(file for file in (ROOT / "docs" / "pictures").rglob("*") if file.is_file())
    assert len(pictures) >= 15
    assert [picture.name for picture in pictures if picture not in shown] == []
    for picture in pictures:
        most = 600_000 if picture.name.startswith("gallery-") else 200_000
        assert picture.stat().st_size < most, picture.name
    assert sum(picture.stat().st_size for picture in pictures) < 3_000_000
