"""What is said of settings that do not go together, and the error that holds all of it."""

from typing import NamedTuple


class Disagreement(NamedTuple):
    """One such mistake."""

    keys: tuple[str, ...]
    """Dotted key paths; the first is the one to change."""
    text: str
    since: int = 1
    """The first format that refuses it. A run that was trained in an older one can still be opened."""


class SettingsError(ValueError):
    """All disagreements of a recipe."""

    def __init__(self, disagreements: list[Disagreement]) -> None:
        super().__init__("; ".join(f"{disagreement.keys[0]}: {disagreement.text}" for disagreement in disagreements))
        self.disagreements = disagreements
