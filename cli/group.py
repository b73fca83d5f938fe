"""The group `weft`, whose commands are imported when they are used."""

from __future__ import annotations

import os

import click

from weft.cli.commands import COMMANDS
from weft.cli.session import Session
from weft.lineage.errors import UsageError
from weft.lineage.version import VERSION

__all__ = ["group"]


_EPILOG = """\b
Examples:
  weft demo
  weft runs --status failed
  weft show MyFlow/17
  weft lineage MyFlow/17/end --up
  weft sql "SELECT flow, status, count(*) FROM runs GROUP BY ALL"
  weft --as-of 2026-01-31T18:00 runs

The store is --store, else $WEFT_STORE, else the nearest .weft folder above the working directory.
Exit codes: 0 done, 1 failed or damage found, 2 wrong usage or nothing of that name, 3 the store cannot be used.
"""


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        from importlib import import_module

        command = getattr(import_module(place.module), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.help) for name, place in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise UsageError(_unknown_command(args[0]))
        return super().resolve_command(ctx, args)


def _unknown_command(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, COMMANDS, n=2)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"There is no command {name!r}.{hint} `weft --help` lists the commands."


@click.command(cls=_LazyGroup, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--store",
    "store_url",
    metavar="URL",
    help="The store to ask: a folder, or a URL such as s3://bucket/prefix.",
)
@click.option(
    "--as-of", metavar="TIME", help="Answer as of this moment: ISO 8601 (local zone if none) or an event id."
)
@click.version_option(VERSION, "--version", message="weft %(version)s")
@click.pass_context
def group(ctx: click.Context, store_url: str | None, as_of: str | None) -> None:
    """Ask what happened: runs, lineage and SQL over the event log of your flows."""
    ctx.obj = Session(store_url or os.environ.get("WEFT_STORE") or None, as_of)
