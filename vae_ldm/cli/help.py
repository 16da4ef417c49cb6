"""The help of one verb, in words for those who use it and not in the types of Python."""

import re
from typing import Any

from typer.core import TyperCommand

from vae_ldm.choices import MAX_SEED

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
