"""The tables of the page on kernel times, and that the page has those of the shipped surfaces."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aicalib.calibrate.kernels.families import TABLES
from aicalib.hardware import list_accelerators
from aicalib.profiles.kernels import ANY, SUBSTITUTES, describe
from aicalib.report.kernel_tables import (
    BEGIN,
    END,
    donor_lines,
    held_out_lines,
    section,
    substitute_lines,
    summary_lines,
    surface_lines,
    with_tables,
)

ROOT = Path(__file__).parent.parent


def score(accelerator, variant, left_out, error, **more):
    return {
        "accelerator": accelerator, "variant": variant, "left_out": left_out, "n": 10, "median_ape": error, **more
    }  # fmt: skip


def document(**kinds):
    """Return what kernels.json might say: nothing of any kind but those given."""
    empty = {"labels": [], "rows": [], "engine_versions": [], "scores": []}
    return {"kinds": {table.kind.name: kinds.get(table.kind.name, empty) for table in TABLES}}


SCORED = document(
    gemm={
        "labels": [[ANY, "wide"], ["h100-sxm", "wide"], ["h200-sxm", "wide"]],
        "rows": [300, 100, 200],
        "scores": [
            score("h100-sxm", "wide", "n, k", 0.03),
            score("h100-sxm", "wide", "m", 0.05),
            score("h200-sxm", "wide", "n, k", 0.0912),
            score("h100-sxm", "wide", "accelerator", 0.12, donor="h200-sxm"),
        ],
    }
)


def test_scores_stand_by_what_was_left_out():
    assert list(held_out_lines(SCORED, "gemm"))[2:] == [
        "| h100-sxm | wide | 100 | 3.0% | 5.0% | 12.0% | h200-sxm |",
        "| h200-sxm | wide | 200 | 9.1% | - | - | - |",
    ]
    assert next(held_out_lines(SCORED, "gemm")) == (
        "| accelerator | variant | timings | n, k | m | whole accelerator | answered from |"
    )


def test_the_summary_takes_shapes_and_accelerators_apart():
    by_kind = {line.split(" | ")[0]: line for line in summary_lines(SCORED)}
    assert by_kind["| gemm"] == "| gemm | 7.0% | 3 | 5.0% | 9.1% | 1 | 12.0% | 12.0% |"
    assert by_kind["| moe"] == "| moe | 10.0% | 0 | - | - | 0 | - | - |"


def test_surfaces_are_counted_without_those_that_are_means():
    gemm = next(line for line in surface_lines(SCORED) if line.startswith("| gemm"))
    assert gemm == "| gemm | 19: 0..15 x 12: 5..16 x 12: 5..16 | 2736 | 3 | 300 | 16 |"


def test_every_accelerator_is_answered_once():
    lines = list(donor_lines(SCORED))[2:]
    named = [name for line in lines for name in re.split(r"[|,]", line)]
    names = [name.strip() for name in named]
    for each in list_accelerators():
        assert names.count(each.name) == 1, each.name
    assert [line.split(" | ")[0] for line in lines] == [
        "| h100-sxm",
        "| h200-sxm",
        "| mean over all measured",
    ]


def test_every_substitute_has_its_line():
    assert len(list(substitute_lines())) == 2 + sum(map(len, SUBSTITUTES.values()))


@pytest.mark.parametrize("shipped", [SCORED, describe()], ids=["scored", "shipped"])
def test_all_rows_of_a_table_are_of_one_width(shipped):
    for block in section(shipped).split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in rows}) <= 1, rows[0]


def test_the_page_has_the_tables_of_the_shipped_surfaces():
    page = (ROOT / "docs" / "kernels.md").read_text()
    assert with_tables(page, section(describe())) == page, "run: make kernel-tables"


def test_only_what_is_between_the_marks_changes():
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert with_tables(page, "new") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
