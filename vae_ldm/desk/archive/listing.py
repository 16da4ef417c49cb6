"""`vae-ldm archive list`: what an archive holds. No network is needed for it, and none is imported."""

import difflib
import fnmatch
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from vae_ldm.desk.archive.part import Damage
from vae_ldm.desk.archive.store import Archive
from vae_ldm.errors import DataError, RunError
from vae_ldm.terminal import PlainConsole, new_console
from vae_ldm.text import counted


def list_entries(path: Path, pattern: str | None = None) -> Iterator[str]:
    """A line for each photo of the archive whose id the pattern fits, then a sum.

    Raises DataError where it fits none, RunError in the end where something is damaged.
    """
    archive, problems = Archive.open(path), Problems()
    methods: Counter[str] = Counter()
    payload = 0
    names: list[str] = []
    for entry in archive.entries(problems):
        names.append(entry.id)
        if pattern is not None and not fnmatch.fnmatchcase(entry.id, pattern):
            continue
        methods[entry.method] += 1
        payload += len(entry.payload)
        said = " ".join(text for text in (entry.label, entry.caption) if text)
        size = f"{entry.width}x{entry.height}"
        yield f"{entry.id}  {size}  {entry.method}  {len(entry.payload)} bytes  {entry.psnr:.2f} dB  {said}".rstrip()
    settings = archive.settings
    count = methods.total()
    if pattern is not None and not count and not problems:
        raise no_photo(path, [pattern], names)
    how = "".join(f", {number:,} as {name}" for name, number in methods.most_common())
    yield (
        f"{counted(count, 'photo')}{how}; {payload:,} bytes of payload, {archive.num_bytes:,} in all files; "
        f"model {settings.model} ({settings.digest[:12]}), target {settings.target_psnr:g} dB"
    )
    problems.fail(f"{path}: ")


def no_photo(path: Path, patterns: Sequence[str], names: Sequence[str]) -> DataError:
    """The error that none of the archive's ids fits a pattern."""
    nearest = difflib.get_close_matches(patterns[0], names, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return DataError(f"{path}: holds no photo {' or '.join(patterns)}{hint}")


class Problems:
    """Tells each as it is found, and fails in the end; where there is one alone, the error tells it."""

    def __init__(self, console: PlainConsole | None = None) -> None:
        self._console = console or new_console()
        self._found: list[Damage] = []

    def __call__(self, damage: Damage) -> None:
        self._found.append(damage)
        if len(self._found) == 2:
            self._console.say(_one_line(self._found[0]))
        if len(self._found) > 1:
            self._console.say(_one_line(damage))

    def __bool__(self) -> bool:
        return bool(self._found)

    def fail(self, before: str) -> None:
        """Raise RunError where there was any."""
        if self._found:
            first, *others = self._found
            if not others:
                raise RunError(f"{before}one thing is wrong: {_one_line(first)}")
            raise RunError(f"{before}{len(self._found):,} things are wrong; each is named above")


def _one_line(damage: Damage) -> str:
    return " ".join(f"{damage.where}: {damage.what}".splitlines())
