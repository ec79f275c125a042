"""The report's page: its data is what was predicted and measured, its HTML is whole, escaped and loads nothing."""

from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from aicalib.calibrate.evaluate import evaluate
from aicalib.calibrate.records import with_run_ids
from aicalib.calibrate.runs import as_runs
from aicalib.cli.main import main
from aicalib.prediction import predict_batch
from aicalib.profiles.profile import default_profile, uncalibrated
from aicalib.report.beside import FAR, MOST_NEAR
from aicalib.report.page import Asked, document, page
from aicalib.resolve.rows import resolve
from checks import browser

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden" / "report.json"
LARGEST = 1_000_000
VOID = {"meta", "br", "img", "link", "input", "hr", "area", "base", "col", "embed", "source", "track", "wbr"}
SVG_ALONE = {"path", "use", "circle", "rect", "line", "polygon", "image"}
R1 = {"model": "deepseek-r1", "gpu": "h200-sxm", "tp": 8, "isl": 1024, "osl": 1024, "concurrency": 32}
MINIMAX = {
    "model": "minimax-m2",
    "engine": "vllm",
    "gpu": "b200-sxm",
    "tp": 2,
    "kv": "fp8",
    "isl": 1024,
    "osl": 1024,
}


class Reader(HTMLParser):
    """What a page holds: that tags are balanced is asserted while it reads."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.loads, self.words = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if tag == "a" else []
        self.loads += [
            value for name, value in attrs if name in ("src", "href", "srcset", "action") and tag != "a"
        ]
        assert not [name for name in found if name.startswith("on")], found
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def check_html(text):
    """Hold a page to what every page promises, and return what was read."""
    read = Reader(text)
    assert text.startswith("<!DOCTYPE html>")
    assert len(text.encode()) < LARGEST
    assert len(read.ids) == len(set(read.ids))
    assert not {"script", "iframe", "object", "link", "form"} & set(read.tags)
    assert all(each.startswith(("#", "data:image/png;base64,")) for each in read.loads)
    assert all(each.startswith("https://") for each in read.links)
    style = "".join(re.findall(r"<style>(.*?)</style>", text, flags=re.S))
    assert "url(" not in style
    assert "@import" not in style
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    return read


def about(options, records=None, profile=None, presets=(None,), **more):
    used = profile or default_profile()
    batches = [resolve({key: [value] for key, value in options.items()}) for _ in presets]
    predictions = [predict_batch(each, used) for each in batches]
    held = None if records is None else evaluate(records, used)
    return Asked(list(presets), [options] * len(presets), predictions, held, **more)


@pytest.fixture(scope="module")
def records(published):
    """Every third of the published runs of two families that pages here are about, and of others on their GPUs."""
    families = ("deepseek-v3-arch-671b", "minimax-m2-230b")
    return [
        run
        for run in published
        if run.get("model_group") in families and run["gpu"] in ("h200_sxm", "b200_sxm")
    ][::3]


@pytest.fixture(scope="module")
def whole(records):
    """A page with runs near it, and its data."""
    asked = about(R1, records)
    data = document(asked)
    return data, page(asked, data)


def test_a_page_holds_together(whole):
    data, text = whole
    read = check_html(text)
    assert read.tags.count("svg") == 4
    wanted = {
        "prediction",
        "launch",
        "memory",
        "concurrency",
        "time",
        "measured",
        "scoreboard",
        "residuals",
        "sources",
    }
    assert {each for each in read.ids if each.isalpha()} == wanted
    words = " ".join(read.words)
    first = data["predictions"][0]
    tpot = f"{first['prediction']['tpot_ms']['value']:.2f}"
    for said in (
        tpot,
        data["profile"],
        "launch_server --model-path deepseek-ai/DeepSeek-R1",
        "requests in flight",
    ):
        assert said in words


def test_runs_stand_beside_what_is_predicted_of_them(whole, records):
    data, text = whole
    runs = data["measured"]["runs"]
    assert len(runs) == MOST_NEAR
    assert data["measured"]["stored"] == len(records)
    distances = [each["distance"] for each in runs]
    assert distances == sorted(distances)
    assert distances[-1] < FAR
    by_id = {each["run_id"]: each for each in with_run_ids(records)}
    for run in runs:
        record = by_id[run["run_id"]]
        assert run["engine"] == record["engine"]
        asked = as_runs([record])
        answered = predict_batch(asked.batch, default_profile())
        for metric, each in run["metrics"].items():
            assert each["measured"] == asked.measured[metric][0]
            interval = answered.comparable(metric, asked.median[metric])
            assert (each["predicted"], each["low"], each["high"]) == pytest.approx(
                tuple(part[0] for part in interval)
            )
            assert each["covered"] is bool(each["low"] <= each["measured"] <= each["high"])
    assert any(run["fitted"] for run in runs)
    assert runs[0]["source"] in text


def test_residuals_are_measured_over_predicted(whole, records):
    found = whole[0]["residuals"]
    assert found[0]["own"]
    assert (found[0]["engine"], found[0]["family"], found[0]["gpu"]) == (
        "sglang",
        "deepseek-v3-arch-671b",
        "h200-sxm",
    )
    held = evaluate(records, default_profile())
    own = np.array([group == ("sglang", "deepseek-v3-arch-671b", "h200-sxm") for group in held.runs.groups])
    plain = own & held.runs.settled & (held.runs.batch.load.kind == 0)
    drafts = held.runs.batch.features.drafting
    plain &= True if drafts is None else drafts.method < 0
    pools = held.runs.batch.features.separation
    plain &= True if pools is None else ~pools.separate
    ratio = (
        held.runs.measured["tpot_ms"]
        / held.prediction.comparable("tpot_ms", held.runs.median["tpot_ms"]).value
    )
    ratio = ratio[plain & np.isfinite(ratio)]
    assert found[0]["metrics"]["tpot_ms"]["n"] == ratio.size > 5
    assert found[0]["metrics"]["tpot_ms"]["median_ratio"] == pytest.approx(np.median(ratio))
    assert [each["runs"] for each in found[1:]] == sorted((each["runs"] for each in found[1:]), reverse=True)


def test_presets_stand_side_by_side(records):
    asked = about(MINIMAX, None, presets=("default", "kv-cache-fp8"))
    text = page(asked)
    read = check_html(text)
    words = " ".join(read.words)
    assert "Side by side" in words
    assert "kv-cache-fp8" in words
    # Without a store the page names the runs that were fitted, and has no residuals.
    assert "No store of runs was read" in words
    assert "residuals" not in read.ids
    assert "minimax-m2-230b on b200-sxm" in words


def test_a_store_without_runs_near(records):
    far = [run for run in records if run.get("model_group") == "minimax-m2-230b"][:5]
    asked = about({"model": "llama-70b", "gpu": "l40s", "tp": 1}, far)
    data = document(asked)
    assert data["measured"]["runs"] == []
    assert data["residuals"] == []
    words = " ".join(check_html(page(asked, data)).words)
    assert "None of the 5 runs of the store is near" in words
    assert "holds no run of this model family or this GPU" in words


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        ({"model": "deepseek-r1", "tp": 1}, "does_not_fit", "does not fit"),
        ({"model": "llama-8b", "request_rate": 1e4}, "overloaded", "overloaded"),
    ],
)
def test_a_page_about_no_answer_says_why(options, status, says):
    asked = about(options, [])
    data = document(asked)
    assert data["predictions"][0]["status"] == status
    read = check_html(page(asked, data))
    assert says in " ".join(read.words)
    assert data["predictions"][0]["reason"] in " ".join(read.words)
    assert read.tags.count("svg") == 1


def test_a_line_that_starts_nothing_is_told_with_what_does():
    asked = about({"model": "llama-70b", "gpu": "l4", "tp": 1, "gemm": "int4_wo"})
    data = document(asked)
    assert data["launch"]["line"] is None
    words = " ".join(check_html(page(asked, data)).words)
    assert data["launch"]["reason"] in words


def test_words_of_others_stay_words(tmp_path, records):
    evil = "<script>alert(1)</script>"
    config = tmp_path / "<img src=x onerror=alert(1)>" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 999, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
        "torch_dtype": "bfloat16", "max_position_embeddings": 131072, "tie_word_embeddings": False,
    }))  # fmt: skip
    own = [{**run, "source": evil, "engine_version": evil} for run in records if run["engine"] == "sglang"][
        :3
    ]
    text = page(about({"model": str(config), "tp": 1}, own, given=f"serve {evil}"))
    read = check_html(text)
    assert "<img src=x onerror=alert(1)>" in "".join(read.words)
    assert f"serve {evil}" in read.words
    text = page(about(R1 | {"tp": 1}, own))
    check_html(text)
    assert "&lt;script&gt;alert(1)" in text
    assert "<script" not in text


def test_the_same_question_gives_the_same_page(records):
    pages = {page(about(R1 | {"tp": 1}, records[:5])) for _ in range(2)}
    assert len(pages) == 1


def rounded(value):
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return (
        float(f"{value:.4g}")
        if isinstance(value, float) and np.isfinite(value)
        else None
        if value != value
        else value
    )


def test_the_data_of_a_page(records):
    """Held to a file under the priors, which a new fit leaves alone. Renew it with AICALIB_RENEW_GOLDEN=1."""
    own = [run for run in records if run["engine"] == "sglang" and run["gpu"] == "h200_sxm"][:4]
    data = rounded(document(about(R1, own, uncalibrated())))
    for each in data["predictions"]:
        del each["breakdown"]  # held by the goldens of predict --explain
    if os.environ.get("AICALIB_RENEW_GOLDEN"):
        GOLDEN.write_text(json.dumps(data, indent=1) + "\n")
    assert data == json.loads(GOLDEN.read_text())


# the command


@pytest.fixture
def report(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("AICALIB_DB", str(tmp_path / "store.duckdb"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as left:
            main(["report", *map(str, arguments)])
        told = capsys.readouterr()
        return left.value.code, told.out, told.err

    return run


def test_report_writes_a_page_and_does_not_write_over_it(report, tmp_path):
    line = "python -m sglang.launch_server --model-path Qwen/Qwen3-8B --tp 1"
    status, out, err = report("--launch", line, "--gpu", "h100", "--json", "--profile", "priors")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert set(found) == {"output", "profile", "predictions", "launch", "measured", "scoreboard", "residuals"}
    assert found["launch"] == {"line": line, "given": True, "notes": [], "files": {}}
    text = (tmp_path / "report.html").read_text()
    check_html(text)
    assert "was fitted on no runs, so that nothing could be left out" in text
    before = (tmp_path / "report.html").read_bytes()
    status, _, err = report("--gpu", "h100")
    assert status == 2
    assert "--force" in err
    assert (tmp_path / "report.html").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("-o page.pdf", "page.html"),
        ("-o .", "report.html"),
        ("-o none/page.html", "there is no folder"),
        ("--model llamma-70b", "llama"),
        ("--db none.duckdb", "none.duckdb"),
    ],
)
def test_report_refuses_and_writes_nothing(report, arguments, says, tmp_path):
    status, _, err = report(*arguments.split())
    assert status == 2
    assert says in err
    assert not list(tmp_path.glob("*.html"))


def test_report_of_a_store_says_what_to_measure_next(report, tmp_path, records):
    import perfdb

    runs = tmp_path / "runs.jsonl"
    runs.write_text("".join(json.dumps(each) + "\n" for each in records[:20]))
    with perfdb.Store(tmp_path / "store.duckdb") as store:
        store.ingest(runs)
    task = ROOT / "examples" / "quant_preset_task.json"
    status, out, err = report("--model", "deepseek-r1", "--gpu", "h200", "--tp", 1, "--task", task)
    assert (status, out) == (0, "wrote report.html\n")
    read = check_html((tmp_path / "report.html").read_text())
    notes = [
        "the task is about model llama-3.1-8b, the page about deepseek-r1",
        "the task is about gpu h100-sxm, the page about h200-sxm",
    ]
    assert err.splitlines() == [f"note: {each}" for each in notes]
    assert {*notes, "What to measure next"} <= {each.strip() for each in read.words}
    assert any("bench_serving" in each for each in read.words)


def test_report_notes_a_task_about_something_else(report, tmp_path):
    task = ROOT / "examples" / "quant_preset_task.json"
    status, out, err = report("--model", "llama-8b", "--task", task, "--engine", "vllm", "--json")
    note = "the task is about engine sglang, the page about vllm"
    assert (status, err) == (0, f"note: {note}\n")
    assert json.loads(out)["next"]["notes"][0] == note
    assert report("--model", "llama-8b", "--task", task, "--force")[2] == ""


# make test-browser


def test_without_a_browser_the_page_is_not_looked_at_and_that_is_said(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(browser.shutil, "which", lambda _: None)
    assert browser.main(tmp_path / "looks") == 0
    assert (
        "skipped: none of chromium, chromium-browser, google-chrome is installed" in capsys.readouterr().out
    )
    assert not (tmp_path / "looks").exists()


def test_what_a_browser_tells_of_a_page_is_a_fault():
    sound = {"overflow": 0, "width": 390, "pictures": 4, "empty": 0}
    assert list(browser._faults(sound, [], "file:///a.html")) == []
    asks = {"method": "Network.requestWillBeSent", "params": {"request": {"url": "https://elsewhere/x.js"}}}
    itself = {"method": "Network.requestWillBeSent", "params": {"request": {"url": "file:///a.html"}}}
    logs = {"method": "Log.entryAdded", "params": {"entry": {"level": "error", "text": "broken"}}}
    faults = list(
        browser._faults(sound | {"overflow": 3, "empty": 1}, [asks, itself, logs], "file:///a.html")
    )
    assert len(faults) == 4
    assert "3 pixels wider" in faults[0]
    assert "requests https://elsewhere/x.js" in faults
