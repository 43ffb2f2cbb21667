"""Commands that had another name in earlier versions: the old name gets a message with the new one."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

from dynat.runtime.errors import UserError

RENAMED = {
    "adopt": "dynat import NAME",
    "probe": "dynat sanity RUN",
    "card": "dynat export RUN",
    "same": "dynat diff FOLDER FOLDER",
}
"""Old command to new call."""

EVALUATE = "dynat evaluate FILE --arch NAME --dataset NAME --attacks LIST --eps NUMBER"


class CommandGroup(TyperGroup):
    """The commands by name, and a message for those that were renamed."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, *words = args
        if name in RENAMED:
            raise UserError(f"'dynat {name}' is now '{RENAMED[name]}'")
        if name == "attack" and any(word.partition("=")[0] == "--checkpoint" for word in words):
            raise UserError(f"'dynat attack --checkpoint FILE' is now '{EVALUATE}'")
        return super().resolve_command(ctx, args)
