"""`aicalib profiles`: profiles as files that people keep, compare, hand on and take in."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Annotated, Any

import typer

from aicalib.cli.output import (
    DEFAULT_WAIT_S,
    PAGE_COLUMNS,
    Db,
    Json,
    Wait,
    find_profile,
    input_file,
    print_json,
    print_table,
    store_path,
)

app = typer.Typer(help="Fitted profiles: list, show, compare, hand on, take in.", no_args_is_help=True)

Name = Annotated[
    str, typer.Argument(help="'default', 'priors', a file, or NAME or NAME@VERSION in the store.")
]


@app.command("list")
def list_(db: Db = None, wait: Wait = DEFAULT_WAIT_S, json: Json = False) -> None:
    """List the shipped profiles and those in the store, and which of them this version cannot use."""
    from aicalib.errors import InvalidValue
    from aicalib.profiles import Profile, default_profile, uncalibrated

    found: list[dict[str, Any]] = [
        _entry(each) | {"where": "shipped"} for each in (default_profile(), uncalibrated())
    ]
    path = store_path(db)
    if path.exists():
        from perfdb import Store

        with Store(path, read_only=True, wait_s=wait) as store:
            stored = [(each, store.load_profile(each["name"], each["version"])) for each in store.profiles()]
        for each, text in stored:
            label = f"{each['name']}@{each['version']}"
            try:
                entry = _entry(Profile.from_json(text, f"profile {label}"))
            except InvalidValue as error:
                entry = {"runs": None, "groups": None, "usable": False, "reason": str(error)}
            found.append(entry | {**each, "where": str(path)})
    if json:
        print_json(found)
        return
    keys = ("name", "version", "runs", "where")
    print_table(
        "",
        ["profile", "version", "runs", "where", "usable"],
        [
            [*("-" if each[key] is None else str(each[key]) for key in keys), each["reason"] or "yes"]
            for each in found
        ],
        align="llrll",
    )


@app.command()
def show(name: Name, db: Db = None, wait: Wait = DEFAULT_WAIT_S, json: Json = False) -> None:
    """Show what a profile was fitted on, the coefficients that runs moved, its scores and remarks."""
    from aicalib.profiles.profile import PHYSICS, SCHEMA
    from aicalib.report.profiles import COEFFICIENTS_ALIGN, COEFFICIENTS_HEADER, coefficient_rows, document
    from aicalib.report.scores import scoreboard_rows

    profile = find_profile(name, db, wait)
    found = document(profile)
    if json:
        print_json(found)
        return
    groups = found["fitted"]["groups"]
    typer.echo(
        f"profile {profile.label} (schema {SCHEMA}, physics {PHYSICS}): fitted on {found['fitted']['runs']} runs of "
        f"{len(groups)} groups"
    )
    if not groups:
        typer.echo("priors alone: no run was looked at, and there are no intervals")
        return
    typer.echo("")
    print_table(
        "coefficients that runs moved", COEFFICIENTS_HEADER, coefficient_rows(profile), COEFFICIENTS_ALIGN
    )
    if profile.lineage.get("scoreboard"):
        typer.echo("")
        header, rows = scoreboard_rows(profile.lineage["scoreboard"])
        print_table("errors in % on left-out groups, physics -> calibrated", header, rows, "llrrrrrrr")
    for remark in profile.lineage.get("remarks", ()):
        typer.echo(f"note: {remark}")


@app.command()
def diff(first: Name, second: Name, db: Db = None, wait: Wait = DEFAULT_WAIT_S, json: Json = False) -> None:
    """Show what differs between two profiles.

    Coefficients that moved by more than both are unsure of, groups and levels that came or went, scores.
    """
    from aicalib.profiles.compare import compare
    from aicalib.report.profiles import (
        MOVED_ALIGN,
        MOVED_HEADER,
        SCORES_ALIGN,
        SCORES_HEADER,
        comparison_document,
        group_lines,
        moved_rows,
        part_lines,
        score_rows,
    )

    found = compare(find_profile(first, db, wait), find_profile(second, db, wait))
    if json:
        print_json(comparison_document(found))
        return
    lost, kept, added = found.runs
    typer.echo(f"{found.first} -> {found.second}: runs kept {kept}, added {added}, lost {lost}")
    if found.equal:
        typer.echo("the two predict the same")
    clear = moved_rows(found)
    if clear:
        print_table("", MOVED_HEADER, clear, MOVED_ALIGN)
    within = len(found.moved) - len(clear)
    if within:
        typer.echo(f"{within} coefficients moved by less than their deviation")
    for line in [*group_lines(found), *part_lines(found)]:
        typer.echo(
            fill(line, PAGE_COLUMNS, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)
        )
    scores = score_rows(found)
    if scores:
        print_table("errors in % on left-out groups", SCORES_HEADER, scores, SCORES_ALIGN)


@app.command()
def export(
    name: Name,
    file: Annotated[Path, typer.Argument(help="The JSON file to write.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Take the place of a file of that name.")
    ] = False,
    db: Db = None,
    wait: Wait = DEFAULT_WAIT_S,
    json: Json = False,
) -> None:
    """Write a profile into a JSON file, which 'import' and 'predict --profile FILE' read."""
    from aicalib.errors import InvalidValue

    profile = find_profile(name, db, wait)
    if file.exists() and not overwrite:
        raise InvalidValue(f"{file} is there already", ["--overwrite"])
    if not file.resolve().parent.is_dir():
        raise InvalidValue(f"{file}: there is no folder {file.resolve().parent}")
    file.write_text(profile.to_json())
    if json:
        print_json(_entry(profile) | {"file": str(file)})
        return
    typer.echo(f"exported {profile.label} to {file}")


@app.command("import")
def import_(
    file: Annotated[Path, input_file("A profile, as 'export' or 'calibrate --output' writes it.")],
    name: Annotated[str | None, typer.Option(help="Name in the store; default: its own.")] = None,
    db: Db = None,
    wait: Wait = DEFAULT_WAIT_S,
    json: Json = False,
) -> None:
    """Take a profile into the store, checked; importing twice changes nothing.

    Refused: another schema or physics, figures that cannot be, a name that is shipped, and a stored version
    with other content.
    """
    from aicalib.profiles.exchange import read_profile
    from perfdb import Store

    profile = read_profile(file, name)
    with Store(store_path(db), wait_s=wait) as store:
        store.save_profile(
            profile.name, profile.version, profile.to_json(), run_ids=profile.fitted.get("run_id", ())
        )
    if json:
        print_json(_entry(profile) | {"where": str(store_path(db))})
        return
    typer.echo(f"imported {profile.label}: predict --profile {profile.name} takes it")


def _entry(profile: Any) -> dict[str, Any]:
    groups = zip(*(profile.fitted.get(name, ()) for name in ("engine", "family", "gpu")), strict=True)
    return {
        "name": profile.name,
        "version": profile.version,
        "runs": len(profile.fitted.get("run_id", ())),
        "groups": len(set(groups)),
        "usable": True,
        "reason": None,
    }
