"""The command `aicalib`: its commands, and how errors leave it.

Exit status 0 is an answer, 2 a request that is wrong or refused, 1 a failure of the tool.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from aicalib.cli import calibrate, database, lists, predict
from aicalib.cli.output import fail

app = typer.Typer(
    name="aicalib",
    help="Predict LLM serving from an analytical model, and calibrate it to real benchmark runs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        from aicalib import __version__

        typer.echo(f"aicalib {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Predict LLM serving from an analytical model, and calibrate it to real benchmark runs."""


app.command("predict")(predict.predict)
app.command("ingest")(database.ingest)
app.command("calibrate")(calibrate.calibrate)
app.command("evaluate")(calibrate.evaluate)
app.add_typer(lists.app, name="list")
app.add_typer(database.app, name="db")


def main(arguments: list[str] | None = None) -> None:
    """Run the command and leave with its exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in given
    from aicalib.errors import RequestError

    try:
        status = app(args=given, standalone_mode=False)
    except RequestError as error:
        status = fail(error.kind, str(error), error.alternatives, as_json)
    except (KeyboardInterrupt, EOFError):
        sys.stderr.write("interrupted\n")
        status = 130
    except Exception as error:
        status = _other(error, as_json)
    sys.exit(status or 0)


def _other(error: Exception, as_json: bool) -> int:
    """Tell apart wrong use of the command line, a refusing store, a broken pipe, and a failure of the tool."""
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        context = getattr(error, "ctx", None)
        hint = f"\nTry '{context.command_path} --help'." if context is not None else ""
        return fail("usage", error.format_message() + ("" if as_json else hint), [], as_json)
    from perfdb.errors import StoreError

    if isinstance(error, StoreError):
        return fail("store", str(error), [], as_json)
    if isinstance(error, BrokenPipeError):
        sys.stderr.close()
        return 0
    if isinstance(error, OSError):
        return fail("file", str(error), [], as_json)
    raise error


if __name__ == "__main__":
    main()
