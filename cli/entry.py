"""How a process that was started as a command line ends: with one sentence for an error and its exit code."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any, NoReturn

import click

from weft.cli.output import Output, print_error
from weft.lineage.errors import UsageError, WeftError

__all__ = ["run_to_exit"]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def run_to_exit(group: click.Group, arguments: list[str], prog_name: str) -> NoReturn:
    """Run a command line to its exit code; an error of ours is one sentence, a closed pipe is silent."""
    try:
        code = _run(group, arguments, prog_name)
        sys.stdout.flush()
    except WeftError as error:
        print_error(str(error))
        code = error.exit_code
    except BrokenPipeError:
        # The reader has what it wanted.
        _drop_output()
        code = 0
    except (KeyboardInterrupt, Exception) as error:
        from weft.lineage.engine import is_interrupt

        if isinstance(error, OSError) and error.errno in _FULL and error.filename is None:
            # What names no file is the answer's own stream: stores tell of theirs as StoreError.
            print_error(
                f"The answer cannot be written: {error.strerror}. Make room there, or send it elsewhere."
            )
            _drop_output()
        elif not is_interrupt(error):
            raise
        code = 1
    sys.exit(code)


def _drop_output() -> None:
    """The interpreter would flush once more at its end and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _run(group: click.Group, arguments: list[str], prog_name: str) -> int:
    try:
        result: Any = group.main(arguments, prog_name=prog_name, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as help_text:
        Output().line(help_text.format_message())
        return 0
    except click.NoSuchOption as error:
        raise UsageError(_of_an_unknown_option(error)) from error
    except click.UsageError as error:
        place = f" `{error.ctx.command_path} --help` shows how to use it." if error.ctx else ""
        raise UsageError(error.format_message().rstrip() + place) from error
    except click.ClickException as error:
        raise UsageError(error.format_message()) from error
    except click.Abort:
        return 1
    return result if isinstance(result, int) else 0


def _of_an_unknown_option(error: click.NoSuchOption) -> str:
    context = error.ctx
    if context is None:
        return error.format_message()
    above = context.parent
    if above is not None and any(error.option_name in option.opts for option in above.command.params):
        command = f"{above.command_path} {error.option_name} … {context.info_name}"
        return f"{error.option_name} stands before the command: `{command}`."
    return f"{error.format_message().rstrip()} `{context.command_path} --help` shows how to use it."
