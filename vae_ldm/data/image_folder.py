"""A folder of pictures, laid out as `datasets` imagefolder reads it.

The walk is our own because `load_dataset("imagefolder")` guesses splits from any part of any name: with class folders
`good` and `test-tube` it returns the second alone, without a word. It also drops the label of a single class, and takes
4 s for 3,800 files; this takes 0.1 s. Where both read a layout, a test holds them to the same answer.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vae_ldm.data.listing import existing_folder, find_photos, fingerprint
from vae_ldm.data.metadata import CAPTION_COLUMNS, read_metadata
from vae_ldm.data.names import as_text
from vae_ldm.data.sources import Record, Split, sort_class_names
from vae_ldm.errors import DataError
from vae_ldm.text import counted, shown

_TRAIN_NAMES = ("train", "training")
_VALIDATION_NAMES = ("validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation")
SPLIT_NAMES = frozenset(_TRAIN_NAMES + _VALIDATION_NAMES)

_Named = tuple[str, Record]
"""A path relative to the folder, and its record."""


class ImageFolderSource:
    """Class folders (`cat/1.jpg`), or pictures with a metadata file, with or without folders for the splits.

    There are splits where a top folder is named `train`; the first of `validation`, `valid`, `val`, `dev`, `test`
    beside it is the validation split, unless it is a link to the training split. A metadata.jsonl, .csv or .parquet
    names the pictures to use in `file_name`, relative to itself, their class in `label`, and captions in any column:
    the one named, or, for pictures without a class, `caption` or `text`. Without a metadata file, the class is the
    picture's folder, provided all pictures lie equally deep.

    Every other file is left out with a reason, and `remarks` says so.
    """

    def __init__(self, path: str | Path, *, caption_column: str | None = None) -> None:
        self._folder = existing_folder(path)
        self._caption_column = caption_column
        self.photos = find_photos(self._folder)
        self._remarks: list[str] = []
        split_folders = self._find_splits()
        if self.photos.metadata:
            found = self._described()
        elif caption_column is not None:
            raise DataError(f"caption_column {caption_column} needs a metadata.jsonl; there is none in {self.name}")
        else:
            found = self._read_class_folders(split_folders.values())
        of_splits: dict[Split, list[_Named]] = {
            split: [named for named in found if named[0].startswith(folder)] for split, folder in split_folders.items()
        }
        if not of_splits["train"]:
            raise DataError(f"no training photos in {self._folder / split_folders['train']}")
        self._records = {split: [record for _, record in named] for split, named in of_splits.items()}
        used = {name for named in of_splits.values() for name, _ in named}.union(self.photos.metadata)
        self._fingerprint = fingerprint({name: status for name, status in self.photos.files.items() if name in used})
        self._leave_out_unused(used, split_folders)

    @property
    def name(self) -> str:
        return str(self._folder)

    @property
    def class_names(self) -> list[str]:
        return sort_class_names(record.label for records in self._records.values() for record in records)

    def description(self) -> dict[str, Any]:
        return {"type": "image_folder", "caption_column": self._caption_column, "files": self._fingerprint}

    def num_records(self, split: Split) -> int:
        return len(self._records.get(split, []))

    def records(self, split: Split) -> Iterator[Record]:
        yield from self._records.get(split, [])

    def remarks(self) -> list[str]:
        return [*self.photos.lines(), *self._remarks]

    def _find_splits(self) -> dict[Split, str]:
        """The prefix of each split's files; {"train": ""} where the folder is not divided into splits."""
        top_folders = {name.partition("/")[0] for name in self.photos.files if "/" in name}
        by_lower_case = {name.lower(): name for name in sorted(top_folders)}
        train = next((by_lower_case[name] for name in _TRAIN_NAMES if name in by_lower_case), None)
        validation = next((by_lower_case[name] for name in _VALIDATION_NAMES if name in by_lower_case), None)
        if train is None:
            return {"train": ""}
        if validation is None:
            return {"train": f"{train}/"}
        if (self._folder / validation).samefile(self._folder / train):
            self._remarks.append(
                f"{validation} is a link to {train}: a model is judged on photos that it has not learned, so a share "
                f"of {train} is held out"
            )
            return {"train": f"{train}/"}
        return {"train": f"{train}/", "validation": f"{validation}/"}

    def _described(self) -> list[_Named]:
        described = read_metadata(
            self._folder,
            self.photos.metadata,
            self._caption_column or CAPTION_COLUMNS,
            captions_of_classes=self._caption_column is not None,
        )
        return list(described.items())

    def _read_class_folders(self, split_folders: Iterable[str]) -> list[_Named]:
        prefixes = tuple(split_folders)
        pictures = [name for name in self.photos.pictures if name.startswith(prefixes)]
        top_depth = prefixes[0].count("/")
        depths = {name: name.count("/") - top_depth for name in pictures}
        has_classes = len(set(depths.values())) == 1 and 0 not in depths.values()
        if not has_classes and any(depths.values()):
            self._remarks.append(_why_no_classes(depths))
        return [(name, self._record(name, has_class=has_classes)) for name in pictures]

    def _record(self, name: str, *, has_class: bool) -> Record:
        return Record(as_text(name), self._folder / name, as_text(name.split("/")[-2]) if has_class else None)

    def _leave_out_unused(self, used: set[str], split_folders: dict[Split, str]) -> None:
        unused = [name for name in self.photos.pictures if name not in used]
        in_splits = [name for name in unused if name.startswith(tuple(split_folders.values()))]
        folders = " or ".join(shown(as_text(folder)) for folder in split_folders.values())
        self.photos.leave_out("no metadata file names it", in_splits)
        self.photos.leave_out(f"not in {folders}", sorted(set(unused).difference(in_splits)))


def _why_no_classes(depths: dict[str, int]) -> str:
    """Names one of the fewest pictures that lie less or more deeply than most."""
    usual = Counter(depths.values()).most_common(1)[0][0]
    others = [name for name, depth in depths.items() if depth != usual]
    where = "above" if depths[others[0]] < usual else "below"
    more = f" and {len(others) - 1:,} more" if len(others) > 1 else ""
    lies = "lie" if more else "lies"
    return (
        f"the {counted(len(depths), 'picture')} have no classes: {shown(as_text(others[0]))}{more} {lies} {where} the "
        "folders of the others; put every picture into one folder a class, all equally deep"
    )
