"""Prints the page: `python -m app --page`."""

import os
import pwd

import click

from app.page import render


@click.command()
@click.option("--page", "action", flag_value="page", default=True, help="Print the page.")
@click.option("--ping", "action", flag_value="ping", help="Say whether the page can be rendered.")
def main(action: str) -> None:
    """The command line."""
    user = pwd.getpwuid(os.getuid()).pw_name
    page = render(version=os.environ.get("APP_VERSION", "unknown"), user=user)
    click.echo("ok" if action == "ping" else page)


main()
