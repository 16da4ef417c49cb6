"""The help of the verbs, in words for those who use them and not in the types of Python."""

import re
from typing import Any

from typer.core import TyperCommand, TyperGroup

from vae_ldm.choices import MAX_SEED
from vae_ldm.cli.endings import errors_in_one_line

TRAIN, DRAW, PHOTOS, DESK, LEARN = "Train and share", "Draw", "Photos", "Claims desk", "Learn"
"""The parts of `vae-ldm --help`, in this order."""

_RANGES = ((r"(\S+)<=x<=([^\s;\]]+)", r"\1 to \2"), (r"x>=([^\s;\]]+)", r"at least \1"), (str(MAX_SEED), "2^62"))


class Verb(TyperCommand):
    """A verb whose help names no type, has no braces and says ranges in words."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The words of the first line; typer puts what has to be given in braces."""
        return [re.sub(r"[{}]", "", piece) for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments and options, each with its help."""
        rows: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            name, text = record
            for written, said in _RANGES:
                text = re.sub(written, said, text)
            if parameter.param_type_name == "argument":
                rows["Arguments"].append((name.split(" ")[0].strip("[]"), text))
            else:
                rows["Options"].append((name, text))
        for title, found in rows.items():
            if found:
                with formatter.section(title):
                    formatter.write_dl(found)


class VerbsInParts(TyperGroup):
    """The verbs, listed in parts. An expected error becomes one line and an exit code.

    Any other error is a bug of ours and keeps its traceback.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with errors_in_one_line():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with errors_in_one_line():
            return super().invoke(ctx)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The verbs in their parts, as plain text that any terminal shows."""
        width = max(map(len, self.commands))
        for part in (TRAIN, DRAW, PHOTOS, DESK, LEARN):
            with formatter.section(part):
                formatter.write_dl(
                    [
                        (name.ljust(width), verb.get_short_help_str(formatter.width - 6 - width))
                        for name, verb in self.commands.items()
                        if getattr(verb, "rich_help_panel", None) == part
                    ]
                )
