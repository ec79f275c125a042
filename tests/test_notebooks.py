"""Every notebook runs from top to bottom, says something true, and is committed without outputs."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))

CHECKS = {
    "capacity_planning": """
assert len(answer) >= 3 and answer.index.is_unique and not answer.isna().any().any()
for column in ("gpus", "gpus_low", "gpus_high", "replicas", "concurrency", "expected_gpus"):
    assert pd.api.types.is_integer_dtype(answer[column]) and (answer[column] > 0).all(), column
assert (answer.gpus == answer.replicas * answer.tp).all()
assert (answer.replicas * answer.requests_s >= (1 + spare) * traffic_requests_s).all()
assert ((answer.replicas - 1) * answer.requests_s < (1 + spare) * traffic_requests_s).all()
assert (answer.gpus_low <= answer.gpus).all() and (answer.gpus <= answer.gpus_high).all()
assert answer.gpus.is_monotonic_increasing and answer.break_even_price.iloc[0] == 1

at = table.set_index(["candidate", "concurrency"])
for name, row in answer.iterrows():
    chosen = at.loc[(name, row.concurrency)]
    assert chosen.ttft_ms_high <= ttft_limit_ms and chosen.tpot_ms_high <= tpot_limit_ms
    above = at.loc[name].query("concurrency > @row.concurrency")
    assert len(above) and ((above.ttft_ms_high > ttft_limit_ms) | (above.tpot_ms_high > tpot_limit_ms)).all()
assert (answer.expected_concurrency >= answer.concurrency).all()

first, others = answer.iloc[0], answer.iloc[1:]
apart = others[others.verdict == "more"]
tied = others[others.verdict != "more"]
assert (apart.gpus_low > first.gpus_high).all() and (tied.gpus_low <= first.gpus_high).all()
assert {first.verdict, *tied.verdict} == {"tie for the fewest" if len(tied) else "fewest"}
assert sorted([*left_out, *answer.index]) == sorted(candidates.candidate)
assert (table[table.candidate == "h100-sxm fp8 tp1"].status == "does_not_fit").all()
""",
}
"""For each notebook a cell that runs after its last one and sees its variables."""


@pytest.fixture
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's IPython and matplotlib settings out of the run, and the run out of them."""
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "MPLCONFIGDIR"):
        folder = tmp_path / name.lower()
        folder.mkdir()
        monkeypatch.setenv(name, str(folder))


def _read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def _outputs(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def test_every_notebook_has_a_check() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(CHECKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_committed_without_outputs(path: Path) -> None:
    notebook = _read(path)
    nbformat.validate(notebook)
    assert not _outputs(notebook)
    assert all(cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.usefixtures("_own_folders")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_and_is_true(path: Path) -> None:
    notebook = _read(path)
    same_environment = f"import sys\nassert sys.prefix == {sys.prefix!r}, sys.prefix\n"
    notebook.cells.append(nbformat.v4.new_code_cell(same_environment + CHECKS[path.stem]))
    NotebookClient(notebook, kernel_name="python3", timeout=300).execute()
    outputs = _outputs(notebook)
    assert not [output.text for output in outputs if output.get("name") == "stderr"], "a warning is shown"
    assert any("image/png" in output.get("data", {}) for output in outputs), "no plot is drawn"
