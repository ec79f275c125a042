"""Every notebook is its `.py` pair, run from top to bottom, true, and committed with the outputs that it gives."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat
import pytest
from matplotlib import font_manager
from nbformat import NotebookNode

from checks.notebooks import FOLDER, execute, notebook_of

PAIRS = sorted(FOLDER.glob("*.py"))

MOST_BYTES = 100_000
"""Of one picture, as its base64 is decoded."""

DIGITS = 0.01
"""Relative difference up to which a printed number is the committed one: libraries round differently."""

CHECKS = {
    "capacity_planning": """
assert len(at_once) >= 3 and set(at_once.gpu) == set(gpus)
assert (at_once.gpus_low <= at_once.gpus).all() and (at_once.gpus <= at_once.gpus_high).all()
assert at_once.cost_per_hour.is_monotonic_increasing and not at_once.tie.iloc[0]
for fleet in found.fleets:
    assert fleet.gpus.value == fleet.replicas.value * fleet.gpus_per_replica
    hour = prices.of(get_accelerator(fleet.deployment["gpu"])).per_hour
    assert abs(fleet.cost.per_hour.value - fleet.gpus.value * hour) < 1e-9
    needed = (1 + spare) * traffic.requests_s[fleet.sized_by] / fleet.rate.value
    assert fleet.replicas.value - 1 < needed <= fleet.replicas.value + 1e-9
    assert fleet.rate.value < fleet.limit
tied = at_once[at_once.tie]
assert (tied.cost_per_hour_low <= at_once.cost_per_hour_high.iloc[0]).all()
apart = at_once[~at_once.tie].iloc[1:]
assert (apart.cost_per_hour_low > at_once.cost_per_hour_high.iloc[0]).all()
counts = [others[each].gpus.value for each in asked]
assert counts == sorted(counts, reverse=True), "a stricter level never needs fewer"
assert others[2000].gpus == first.gpus
""",
    "which_gpu": """
assert set(table.model) == set(models)
for (model, kind), part in table.groupby(["model", "checkpoint"]):
    best = part.loc[part.cost.idxmin()]
    assert (part.verdict == "cheapest").sum() == 1 and best.verdict == "cheapest"
    others = part[part.verdict != "cheapest"]
    assert (others.verdict[others.cost <= best.high] == "tie").all() and (others.cost >= best.cost).all()
for row_ in table.itertuples():
    chosen_ = chosen[row_.model, row_.gpu, row_.checkpoint]
    assert chosen_.figures["ttft_ms"].value <= 1e3 * level[0].threshold_s
    assert chosen_.figures["tpot_ms"].value <= 1e3 * level[1].threshold_s
    hour = prices.of(get_accelerator(row_.gpu)).per_hour
    assert abs(row_.cost - 1e6 * hour / (3600 * chosen_.figures["output_tok_s_per_gpu"].value)) < 1e-9
    assert chosen_.replicas * chosen_.start.layout.n_gpus + chosen_.idle_gpus == count
fitting = set(zip(table.model[table.checkpoint == PUBLISHED], table.gpu[table.checkpoint == PUBLISHED]))
assert ("deepseek-v3", "h100-sxm") not in fitting and ("deepseek-v3", "h200-sxm") in fitting
even = break_even.merge(first[["gpu"]].rename(columns={"gpu": "best"}), left_on="model", right_index=True)
assert (abs(even.even - even.gpu.map(hourly))[even.gpu == even.best] < 1e-9).all()
""",
    "own_cluster": """
assert len(taken) == budget and len({record["run_id"] for record in taken}) == budget
assert not set(stranger.fitted["run_id"]) & {record["run_id"] for record in vault.values()}, "the profile had seen it"
assert not seen & set(rest.column("run_id")) and len(rest.column("run_id")) + budget == len(vault)
assert scores.loc[("tpot_ms", "after"), "median error %"] < scores.loc[("tpot_ms", "before"), "median error %"]
assert scores.loc[("tpot_ms", "after"), "interval, x or /"] < scores.loc[("tpot_ms", "before"), "interval, x or /"]
assert (scores["in 90 % interval"] >= 0.9).all()
assert right > (choices["by prediction"] == choices["by all runs"]).sum()
assert np.allclose(*values, rtol=1e-5)
""",
    "quantization": """
assert not refused and set(fields.index) == set(variants)
dense = fields.iloc[:9]
assert (dense["TPOT ms"].between(dense.low, dense.high)).all()
tokens = fields["cache, tokens"]
assert abs(tokens["cache fp8"] / tokens["all 16 bit"] - 2) < 0.01
assert abs(tokens["weights fp8, cache fp8"] / tokens["weights fp8"] - 2) < 0.01
assert fields["TPOT ms"]["weights fp8"] < fields["TPOT ms"]["weights fp8, dynamic scales"]
assert fields["weights GiB"]["weights fp8"] < 0.55 * fields["weights GiB"]["all 16 bit"]
for curve in curves[1:]:
    assert len(curve.points) >= 5
known = {record["run_id"] for record in records}
assert set(profile.fitted["run_id"]) <= known
assert len(pairs) > 100 and (pairs.loc[pairs.change == "weights fp8 to nvfp4", "gemm after"] == "nvfp4").all()
assert not (pairs.model != pairs.model).any() and summary.pairs.sum() == len(pairs)
# What the text says of the claims.
assert hopper.max() < 2 and hopper.min() < 1.5 < speedups["llama-70b on 1 x b200-sxm"].max()
assert 0.8 < measured_tpot.min() and measured_tpot.max() < 1.5
assert (pools["smaller by %"] == 50).all() and len(pools) >= 2
assert 0.75 < first.min() and first.argmin() == 0 and a100 > 1.2 > a100_full
assert four_bit["x ttft_ms"].median() < 0.85
assert (abs(scores.points) < 101).all()
""",
}
"""For each notebook a cell that runs after its last one and sees its variables."""

IMPORTS = "from aicalib.hardware import get_accelerator\n"

NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*\.?\d*")


@pytest.fixture
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's IPython and matplotlib settings out of the run, and the run out of them."""
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "MPLCONFIGDIR"):
        folder = tmp_path / name.lower()
        folder.mkdir()
        monkeypatch.setenv(name, str(folder))
    # A matplotlib without a list of fonts makes one, and says so in the cell's output where that takes long.
    fonts = tmp_path / "mplconfigdir" / f"fontlist-v{font_manager.FontManager.__version__}.json"
    font_manager.json_dump(font_manager.fontManager, fonts)


def _committed(pair: Path) -> NotebookNode:
    return nbformat.read(pair.with_suffix(".ipynb"), as_version=4)


def _outputs(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def _text(cell: NotebookNode) -> str:
    """Return what a cell shows as text, tables in one line a row whatever the width."""
    parts = [
        output.get("text") or output.get("data", {}).get("text/plain", "")
        for output in cell.get("outputs", [])
    ]
    return re.sub(r"[\s\\]+", " ", "".join(parts))


def differences(committed: str, fresh: str) -> list[str]:
    """Return the words and numbers of which a fresh text departs from a committed one."""
    if NUMBER.sub("#", committed) != NUMBER.sub("#", fresh):
        return [f"{committed!r} is now {fresh!r}"]
    pairs = zip(NUMBER.findall(committed), NUMBER.findall(fresh), strict=True)
    values = [(old, new, *(float(each.replace(",", "")) for each in (old, new))) for old, new in pairs]
    return [f"{old} is now {new}" for old, new, was, now in values if abs(now - was) > DIGITS * abs(was)]


def test_every_notebook_has_a_pair_and_a_check() -> None:
    assert {pair.stem for pair in PAIRS} == set(CHECKS) == {path.stem for path in FOLDER.glob("*.ipynb")}


def test_readme_links_every_notebook() -> None:
    readme = (FOLDER.parent / "README.md").read_text()
    assert [pair.stem for pair in PAIRS if f"(notebooks/{pair.stem}.ipynb)" not in readme] == []


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.stem)
def test_is_its_pair_with_outputs(pair: Path) -> None:
    notebook = _committed(pair)
    nbformat.validate(notebook)
    kept = [(cell.cell_type, cell.source) for cell in notebook.cells]
    assert kept == [(cell.cell_type, cell.source) for cell in notebook_of(pair).cells], "run make notebooks"
    outputs = _outputs(notebook)
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert not [output for output in outputs if output.get("name") == "stderr"], "a warning is shown"
    pictures = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert pictures
    assert max(len(each) for each in pictures) * 3 / 4 < MOST_BYTES
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.stem)
def test_names_no_path_of_a_machine(pair: Path) -> None:
    words = pair.with_suffix(".ipynb").read_text()
    assert not re.findall(r"(?:^|[\s\"'(])/(?:home|root|tmp|usr|work|Users)/", words)


@pytest.mark.usefixtures("_own_folders")
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.stem)
def test_runs_is_true_and_gives_what_is_committed(pair: Path) -> None:
    notebook = notebook_of(pair)
    same_environment = f"import sys\nassert sys.prefix == {sys.prefix!r}, sys.prefix\n"
    notebook.cells.append(nbformat.v4.new_code_cell(same_environment + IMPORTS + CHECKS[pair.stem]))
    execute(notebook)
    fresh, committed = notebook.cells[:-1], _committed(pair).cells
    changed = [
        each
        for old, new in zip(committed, fresh, strict=True)
        for each in differences(_text(old), _text(new))
    ]
    assert not changed, f"run make notebooks: {changed[:5]}"
    for old, new in zip(committed, fresh, strict=True):
        kinds = [
            [sorted(output.get("data", {})) for output in cell.get("outputs", [])] for cell in (old, new)
        ]
        assert kinds[0] == kinds[1]


@pytest.mark.usefixtures("_own_folders")
def test_what_a_cell_shows_does_not_depend_on_how_long_it_takes() -> None:
    slow = [
        "import time\nprint('one')\ntime.sleep(0.6)\nprint('two')",
        "import os\nfrom pathlib import Path\n(fonts,) = Path(os.environ['MPLCONFIGDIR']).glob('fontlist-*')\n"
        "made = fonts.stat().st_mtime_ns\nfrom matplotlib import font_manager\nfonts.stat().st_mtime_ns == made",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(each) for each in slow])
    shown = [cell.outputs for cell in execute(notebook).cells]
    assert [[each["output_type"] for each in outputs] for outputs in shown] == [
        ["stream"],
        ["execute_result"],
    ]
    assert [_text({"outputs": outputs}) for outputs in shown] == ["one two ", "True"]


def test_a_stale_number_or_word_is_found() -> None:
    assert differences("3 GPUs at 18.00 USD", "3 GPUs at 18.01 USD") == []
    assert differences("3 GPUs at 18.00 USD", "4 GPUs at 18.00 USD") == ["3 is now 4"]
    assert differences("a tie", "no tie") == ["'a tie' is now 'no tie'"]
