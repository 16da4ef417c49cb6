"""Any `datasets` data set as a source: a name on the Hub, or a local folder of parquet or webdataset shards."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_ldm.data.decoding import Picture, Unusable
from vae_ldm.data.listing import existing_folder, fingerprint, list_folder
from vae_ldm.data.sources import Record, Split
from vae_ldm.errors import DataError, first_line

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


class HubDatasetSource:
    """The rows of a data set. A column inside another is written with a dot: `json.label`.

    A folder is always streamed: reading its shards where they lie, where a plain `load_dataset` would first copy them
    into its cache. Nothing is loaded before the first question that needs it, so a finished cache of pictures serves
    without a connection.
    """

    def __init__(
        self,
        path: str,
        *,
        config_name: str | None = None,
        revision: str | None = None,
        train_split: str = "train",
        validation_split: str | None = None,
        image_column: str = "image",
        label_column: str | None = None,
        caption_column: str | None = None,
        streaming: bool = False,
        max_images: int | None = None,
    ) -> None:
        self._folder = existing_folder(path) if is_folder_path(path) else None
        self._path, self._config_name, self._revision = path, config_name, revision
        self._splits: dict[Split, str | None] = {"train": train_split, "validation": validation_split}
        self._image_column, self._label_column, self._caption_column = image_column, label_column, caption_column
        self._streaming = streaming or self._folder is not None
        self._max_images = max_images
        self._loaded: dict[Split, Dataset | IterableDataset] = {}

    @property
    def name(self) -> str:
        return self._path

    @property
    def class_names(self) -> list[str] | None:
        """The names of a ClassLabel column; None for a column of any other type."""
        if self._label_column is None:
            return []
        feature: Any = self._rows("train").features
        for part in self._label_column.split("."):
            feature = feature.get(part) if isinstance(feature, dict) else None
        return getattr(feature, "names", None)

    def description(self) -> dict[str, Any]:
        return {
            "type": "hub_dataset",
            "path": self._path if self._folder is None else fingerprint(list_folder(self._folder).files),
            "config_name": self._config_name,
            "revision": self._revision,
            "splits": self._splits,
            "columns": [self._image_column, self._label_column, self._caption_column],
            "max_images": self._max_images,
        }

    def num_records(self, split: Split) -> int | None:
        if self._splits[split] is None:
            return 0
        if self._streaming:
            return self._max_images if split == "train" else None
        size = len(self._rows(split))
        return size if split == "validation" or self._max_images is None else min(size, self._max_images)

    def records(self, split: Split) -> Iterator[Record]:
        if self._splits[split] is None:
            return
        limit = self._max_images if split == "train" else None
        names = self.class_names
        for number, row in enumerate(self._read(split, limit)):
            yield Record(
                id=f"{split}/{row.get('__key__', number)}",
                picture=self._picture(_column(row, self._image_column)),
                label=self._label(row, names),
                caption=self._caption(row),
            )

    def remarks(self) -> list[str]:
        return []

    def _picture(self, value: Any) -> Picture:
        """What `datasets` gives for an encoded picture: its bytes, or else a file of the data set itself.

        A row of somebody else's data set could name any file of this machine.
        """
        value = value or {}
        if value.get("bytes") is None and value.get("path"):
            return self._own_file(Path(value["path"]))
        return value.get("bytes") or b""

    def _own_file(self, path: Path) -> Path | Unusable:
        import datasets

        hub_cache = os.environ.get("HF_HUB_CACHE") or Path(datasets.config.HF_CACHE_HOME, "hub")
        places = [self._folder, hub_cache, datasets.config.HF_DATASETS_CACHE]
        if any(_lies_in(path, place) for place in places if place is not None):
            return path
        return Unusable("its row names a file outside the data set; only pictures inside the data set are read")

    def _rows(self, split: Split) -> "Dataset | IterableDataset":
        """The rows of a split, pictures left encoded, so that a broken one breaks nothing but itself."""
        if split not in self._loaded:
            self._loaded[split] = self._load(split)
        return self._loaded[split]

    def _load(self, split: Split) -> "Dataset | IterableDataset":
        import datasets

        path = self._path if self._folder is None else str(self._folder)
        try:
            rows = datasets.load_dataset(
                path,
                name=self._config_name,
                revision=self._revision,
                split=self._splits[split],
                streaming=self._streaming,
            )
        except Exception as error:  # datasets, hub, network and file errors share no base class
            raise DataError(f"data set {self.name} cannot be loaded: {first_line(error)}") from error
        if rows.column_names is not None and self._image_column not in rows.column_names:
            raise _no_column(self._image_column, rows.column_names)
        return rows.cast_column(self._image_column, datasets.Image(decode=False))

    def _read(self, split: Split, limit: int | None) -> Iterator[dict[str, Any]]:
        try:
            yield from itertools.islice(self._rows(split), limit)
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"data set {self.name} cannot be read: {first_line(error)}") from error

    def _label(self, row: dict[str, Any], names: list[str] | None) -> str | None:
        value = None if self._label_column is None else _column(row, self._label_column)
        if value is None or value == -1:  # -1 is how datasets marks a row without a label
            return None
        if not isinstance(value, str | int):
            raise DataError(f"label_column {self._label_column} holds {type(value).__name__}, not names or numbers")
        return names[value] if names and isinstance(value, int) else str(value)

    def _caption(self, row: dict[str, Any]) -> str | None:
        value = None if self._caption_column is None else _column(row, self._caption_column)
        if value is not None and not isinstance(value, str):
            raise DataError(f"caption_column {self._caption_column} holds {type(value).__name__}, not text")
        return value


def is_folder_path(path: str) -> bool:
    """Whether the path is that of a folder on this machine, there or not; otherwise it is a name on the Hub."""
    return path.startswith(("/", ".", "~")) or path.count("/") > 1 or Path(path).exists()


def _lies_in(path: Path, folder: str | Path) -> bool:
    """Whether the path's name lies below the folder's name.

    Links are not resolved: a user's folder may hold links to other places, and the Hub's cache does.
    """
    return Path(os.path.normpath(path.absolute())).is_relative_to(os.path.normpath(Path(folder).absolute()))


def _column(row: dict[str, Any], column: str) -> Any:
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, dict) or part not in value:
            raise _no_column(column, list(row))
        value = value[part]
    return value


def _no_column(column: str, columns: list[str]) -> DataError:
    return DataError(f"the data set has no column {column}; it has {', '.join(columns)}")
