"""``python -m locate``: the same as ``cvoice locate``."""

import typer

from cvoice_foundation.command_line import run
from locate.command import locate

if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(locate)
    run(app, "python -m locate")
