"""The shape of the project: which room may use which, what is public, and that the pages are true."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import aicalib
from aicalib.profiles import default_profile

ROOT = Path(__file__).parent.parent

BELOW = {
    "quant": set(),
    "hardware": {"quant"},
    "models": {"quant"},
    "profiles": {"hardware"},
    "physics": {"models", "profiles"},
    "engines": {"models", "hardware", "quant", "deployment", "physics"},
    "serving": {"physics", "models", "profiles"},
    "resolve": {
        "models",
        "quant",
        "hardware",
        "profiles",
        "physics",
        "engines",
        "serving",
        "deployment",
        "recent",
    },
    "calibrate": {
        "models",
        "quant",
        "physics",
        "serving",
        "served",
        "profiles",
        "engines",
        "hardware",
        "deployment",
        "resolve",
        "nearness",
        "prediction",
    },
    "measure": {"calibrate", "deployment", "engines", "hardware", "models"},
    "loop": {
        "calibrate",
        "engines",
        "measure",
        "nearness",
        "plan",
        "prediction",
        "profiles",
        "resolve",
        "serving",
    },
    "plan": {
        "calibrate",
        "measure",
        "deployment",
        "engines",
        "hardware",
        "models",
        "nearness",
        "physics",
        "quant",
        "prediction",
        "profiles",
        "resolve",
        "served",
        "serving",
        "ties",
    },
    "report": {
        "hardware",
        "calibrate",
        "physics",
        "serving",
        "profiles",
        "engines",
        "resolve",
        "nearness",
        "prediction",
        "ties",
    },
}
"""What each room may import, itself and `errors` apart."""


ABOVE = ("deployment", "recent", "resolve", "served", "nearness", "prediction", "ties")
"""Modules beside the rooms, and where that of `resolve` stands among them; each may import those before it."""


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "aicalib"}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("room", BELOW)
def test_arrows_point_one_way(room):
    for path in (ROOT / "aicalib" / room).rglob("*.py"):
        rooms = {name.split(".")[1] for name in imported(path) if name.startswith("aicalib.")}
        assert rooms - {room, "errors"} <= BELOW[room], path


def test_modules_above_the_rooms_build_on_each_other():
    modules = {path.stem for path in (ROOT / "aicalib").glob("*.py")}
    assert modules == {"__init__", "errors", *ABOVE} - {"resolve"}
    for place, module in enumerate(ABOVE):
        if module == "resolve":
            continue
        rooms = {name.split(".")[1] for name in imported(ROOT / "aicalib" / f"{module}.py") if "." in name}
        assert not rooms & {*ABOVE[place:], "calibrate", "report", "cli"}, module


def test_the_store_knows_nothing_of_the_model():
    for path in (ROOT / "perfdb").rglob("*.py"):
        assert not any(name.split(".")[0] == "aicalib" for name in imported(path)), path


def test_few_modules_read_the_store():
    readers = {
        path.relative_to(ROOT / "aicalib").as_posix()
        for path in (ROOT / "aicalib").rglob("*.py")
        if any(name.startswith("perfdb") for name in imported(path)) and "cli" not in path.parts
    }
    kernels = {"calibrate/kernels/samples.py", "calibrate/kernels/ship.py"}
    writers = {"measure/results.py"}
    assert readers == {"calibrate/limits.py", "calibrate/records.py", "calibrate/ship.py"} | kernels | writers


def test_what_is_public_is_what_is_meant():
    assert sorted(aicalib.__all__) == ["calibrate", "evaluate", "predict", "predict_many", "question"]
    assert callable(aicalib.calibrate)
    for name in aicalib.__all__:
        assert getattr(aicalib, name).__doc__, name


def test_importing_the_library_loads_nothing_heavy():
    heavy = ["numpy", "pandas", "scipy", "sklearn", "duckdb", "matplotlib", "rich"]
    code = f"import sys, aicalib, perfdb; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def shown(page: str, begins: str) -> str:
    """Return the code block of a page that begins with a word."""
    found = re.findall(r"```\n(.*?)```", (ROOT / page).read_text(), flags=re.S)
    return next(block for block in found if block.startswith(begins))


def hold(page: str, begins: str, text: str) -> None:
    """Hold a page's block to what a command prints; with AICALIB_RENEW_GOLDEN set, write it there."""
    if os.environ.get("AICALIB_RENEW_GOLDEN"):
        path = ROOT / page
        path.write_text(path.read_text().replace(shown(page, begins), text))
    assert shown(page, begins) == text


def test_the_prediction_in_the_readme_is_what_the_command_prints(capsys):
    from aicalib.cli.main import main

    command = shown("README.md", "$ aicalib predict").partition("\n")[0]
    with pytest.raises(SystemExit):
        main(command.removeprefix("$ aicalib ").split())
    hold("README.md", "$ aicalib predict", f"{command}\n{capsys.readouterr().out}")


def test_the_search_of_its_page_is_what_the_command_prints(capsys):
    from aicalib.cli.main import main

    command = shown("docs/search.md", "$ aicalib search").partition("\n")[0]
    with pytest.raises(SystemExit):
        main(command.removeprefix("$ aicalib ").split())
    hold("docs/search.md", "$ aicalib search", f"{command}\n{capsys.readouterr().out}")


def test_the_python_of_the_search_page_runs(capsys):
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs/search.md").read_text(), flags=re.S)
    assert code is not None
    exec(code[1], {})
    assert "sglang.launch_server" in capsys.readouterr().out


def test_the_scores_in_the_readme_are_those_of_the_shipped_profile(capsys):
    from aicalib.cli.calibrate import SCORES_ALIGN
    from aicalib.cli.output import print_table
    from aicalib.report.scores import scoreboard_rows

    print_table("", *scoreboard_rows(default_profile().lineage["scoreboard"]), SCORES_ALIGN)
    hold("README.md", "engine", capsys.readouterr().out)
    runs = default_profile().lineage["runs"]
    assert f"{runs:,} published runs" in (ROOT / "README.md").read_text()
