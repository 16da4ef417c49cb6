"""Our own JSON files: facts under a format number and a digest, which whoever reads them checks."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from vae_ldm.errors import DataError, VaeLdmError
from vae_ldm.files import write_whole

T = TypeVar("T")

_VERSION = re.compile(r"\d+(\.\d+){1,3}")
_MOST_BYTES = 2**28


@dataclass(frozen=True)
class StoredKind:
    """One kind of file: which formats of it this version reads, and what to do about a file that it cannot read.

    Beside its content a file holds `format`, which says what the other keys mean, `written_by`, the version of vae_ldm,
    and `digest`, the SHA-256 of everything else.

    >>> kind = StoredKind(newest=3, digest_from=3, cure="fit the detector again")
    >>> kind.checked("detector.json", kind.with_digest({"threshold": 4.0}))["threshold"]
    4.0
    """

    newest: int
    """The format that is written."""
    digest_from: int
    """The first format that holds a digest of its content."""
    cure: str
    """What a user does about a damaged file."""
    error: type[VaeLdmError] = DataError
    unnumbered: int | None = None
    """The format of a file that has no number, where there are such files: those of version 0.1.0."""

    def with_digest(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """The content with its format, the version of vae_ldm that writes it, and a digest of everything."""
        whole = json.loads(json.dumps({"format": self.newest, "written_by": _version(), **content}))
        return {**whole, "digest": _digest(whole)}

    def write(self, file: Path, content: Mapping[str, Any]) -> None:
        """Write the content with its digest, as a whole, and keep it over a power cut. Raises OSError of the file."""
        write_whole(file, json.dumps(self.with_digest(content), indent=1), synced=True)

    def read(self, file: Path) -> dict[str, Any]:
        """What a file holds, checked. Raises OSError where it cannot be read, `error` where its content is wrong."""
        return self.checked(file, self.loaded(file))

    def loaded(self, file: Path) -> Any:
        """What a file holds, not checked. Raises OSError where it cannot be read, `error` where it is no JSON."""
        if file.stat().st_size > _MOST_BYTES:
            raise self.damaged(file, "it is too large")
        try:
            return json.loads(file.read_bytes())
        except (ValueError, RecursionError):
            raise self.damaged(file, "it is no JSON") from None

    def checked(self, where: object, stored: Any) -> dict[str, Any]:
        """The stored content, whose format this version reads and whose digest is right. Raises `error`."""
        if not isinstance(stored, dict):
            raise self.damaged(where, "it holds no facts")
        number = stored.get("format", self.unnumbered)
        if type(number) is not int or number < 1:
            raise self.damaged(where, "it has no format number")
        if number > self.newest:
            raise self.error(f"{where}: {_newer(number, stored.get('written_by'), self.newest)}")
        if number >= self.digest_from or "digest" in stored:
            content = {name: value for name, value in stored.items() if name != "digest"}
            if stored.get("digest") != _digest(content):
                raise self.damaged(where, "its digest is another")
        return stored

    def typed(self, where: object, kind: type[T], fields: Any) -> T:
        """A dataclass or tuple `kind` of stored fields; more than it needs may be there.

        Raises `error` where one is missing or of another type.
        """
        try:
            return TypeAdapter(kind).validate_json(json.dumps(fields), strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "content"
            raise self.damaged(where, f"{place}: {first['msg']}") from None

    def damaged(self, where: object, why: str) -> VaeLdmError:
        """The error of a file that is not as it was written."""
        return self.error(f"{where}: is damaged ({why}); {self.cure}")


def content_of(stored: Mapping[str, Any]) -> dict[str, Any]:
    """What was written, without the keys that every kind has."""
    return {name: value for name, value in stored.items() if name not in ("format", "written_by", "digest")}


def _digest(content: Mapping[str, Any]) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _newer(number: int, written_by: Any, newest: int) -> str:
    known = isinstance(written_by, str) and _VERSION.fullmatch(written_by)
    install = f"pip install 'vae_ldm>={written_by}'" if known else "pip install --upgrade vae_ldm"
    return f"was written by a newer vae_ldm (format {number}, this one reads up to {newest}); {install}"


def _version() -> str | None:
    """The version of this package; None where it runs from its checkout without being installed."""
    try:
        return version("vae_ldm")
    except PackageNotFoundError:
        return None
