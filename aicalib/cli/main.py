"""The command `aicalib`: its commands, and how errors leave it.

Exit status 0 is an answer, 2 a request that is wrong or refused, 1 a failure of the tool.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from aicalib.cli import (
    calibrate,
    database,
    drift,
    exchange,
    launch,
    lists,
    loop,
    measure,
    next,
    plan,
    predict,
    probe,
    profiles,
    quant,
    quant_plan,
    report,
    search,
    sweep,
    task,
)
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
app.command("launch")(launch.launch)
app.command("search")(search.search)
app.command("plan")(plan.plan)
app.command("task")(task.task)
app.command("measure")(measure.measure)
app.command("sweep")(sweep.sweep)
app.command("next")(next.next_)
app.command("loop")(loop.loop)
app.command("ingest")(database.ingest)
app.command("calibrate")(calibrate.calibrate)
app.command("evaluate")(calibrate.evaluate)
app.command("drift")(drift.drift)
app.command("report")(report.report)
app.command("probe")(probe.probe)
database.app.command("export")(exchange.export)
database.app.command("import")(exchange.import_)
database.app.command("merge")(exchange.merge)
database.app.command("set")(exchange.set_)
database.app.command("check")(exchange.check)
quant.app.command("plan")(quant_plan.plan)
app.add_typer(quant.app, name="quant")
app.add_typer(lists.app, name="list")
app.add_typer(profiles.app, name="profiles")
app.add_typer(database.app, name="db")


def main(arguments: list[str] | None = None) -> None:
    """Run the command and leave with its exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in given
    try:
        status = app(args=given, standalone_mode=False, prog_name="aicalib")
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):
        # The reader has had enough (typer makes that a SystemExit): nothing more may be written at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except (typer.Abort, KeyboardInterrupt):
        sys.stderr.write("interrupted\n")
        status = 130
    except Exception as error:
        status = _refusal(error, as_json)
    sys.exit(status or 0)


def _refusal(error: Exception, as_json: bool) -> int:
    """Report what aicalib raises on purpose and return its status; any other error is raised again.

    A request that is wrong or refused has status 2, a failure with a name of its own status 1.
    """
    from aicalib.errors import AicalibError, RequestError

    if isinstance(error, RequestError):
        return fail(error.kind, str(error), error.alternatives, as_json)
    if isinstance(error, AicalibError):
        fail("failure", str(error), [], as_json)
        return 1
    if hasattr(error, "format_message"):  # wrong use of the command line
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "aicalib"
        if context is not None and error.format_message() == context.get_help() and not as_json:
            sys.stderr.write(f"{context.get_help()}\n")
            return 2
        return fail("usage", error.format_message(), [f"{command} --help"], as_json)
    if isinstance(error, OSError):
        known = error.filename is not None and error.strerror is not None
        return fail("file", f"{error.filename}: {error.strerror}" if known else str(error), [], as_json)
    from perfdb.errors import StoreError

    if isinstance(error, StoreError):
        return fail(error.kind, str(error), [], as_json)
    raise error


if __name__ == "__main__":
    main()
