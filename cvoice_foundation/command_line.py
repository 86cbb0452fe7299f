"""Runs a command so that a user's mistake is one line on standard error and exit code 2, never a traceback."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from cvoice_foundation.errors import CVoiceError

# Newer releases of Typer carry their own copy of Click; its error classes are found from the one that Typer exports.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
_ClickException: type[Exception] = _UsageError.__mro__[1]


def run(app: typer.Typer, name: str) -> NoReturn:
    """Runs a Typer app as a program.

    Args:
        app: The app.
        name: What it is called in usage lines.
    """
    command = typer.main.get_command(app)
    try:
        sys.exit(command.main(prog_name=name, standalone_mode=False) or 0)
    except CVoiceError as error:
        _stop(name, str(error))
    except (typer.Abort, KeyboardInterrupt):
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(130)
    except _ClickException as error:
        message: str = getattr(error, "format_message", error.__str__)()
        context = getattr(error, "ctx", None)
        path = context.command_path if context else name
        _stop(path, f"{message.rstrip('.')}; see '{path} --help'" if isinstance(error, _UsageError) else message)


def _stop(name: str, message: str) -> NoReturn:
    print(f"{name}: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
