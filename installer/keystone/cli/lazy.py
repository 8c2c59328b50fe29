"""Groups that import the module of a verb when the verb is called, not to list it in --help.

An emulated or old host takes a second to import a library: `--version` and `--help` must not
import them all.
"""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from collections.abc import Mapping


class Verbs(click.Group):
    """A group of verbs that are imported when called.

    summaries: a line for each verb that --help lists; verbs without one can be called, too.
    modules: "module:attribute" of each verb, except verbs that are commands of the group itself.
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401 click's own
        summaries: Mapping[str, str],
        modules: Mapping[str, str],
        **attributes: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(*args, **attributes)
        self._summaries, self._modules = summaries, modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs that --help lists."""
        return sorted(self._summaries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb and return it; None when there is no verb of that name."""
        where = self._modules.get(cmd_name)
        if where is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = where.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve a verb as click does, but suggest the closest one for an unknown verb."""
        near = difflib.get_close_matches(args[0], self._summaries, n=1)
        if near and self.get_command(ctx, args[0]) is None:
            ctx.fail(f"no verb {args[0]!r}; did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of verbs without importing them; shorten long lines as click does."""
        names = self.list_commands(ctx)
        width = formatter.width - 6 - max(map(len, names))
        with formatter.section("Commands"):
            formatter.write_dl([
                (name, click.Command(name, help=self._summaries[name]).get_short_help_str(width))
                for name in names
            ])  # fmt: skip

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the verbs that --help lists, without importing them, and options."""
        verbs = [
            CompletionItem(name, help=self._summaries[name])
            for name in self.list_commands(ctx)
            if name.startswith(incomplete)
        ]
        return [*verbs, *click.Command.shell_complete(self, ctx, incomplete)]
