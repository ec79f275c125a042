"""Stores out into folders and back, and together: nothing lost, one run once, what contradicts named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import answer, content, write

import perfdb
from perfdb import migrations
from perfdb.check import check
from perfdb.folder import Manifest

MEASUREMENTS = Path(__file__).parent.parent / "measurements"
RUN = {
    "engine": "sglang", "model": "Qwen/Qwen3-32B", "isl": 1024, "osl": 256, "load": "closed", "concurrency": 8,
    "mean_tpot_ms": 10.0, "server": {"mode": None, "shares": [0.1, 1e-9]},
}  # fmt: skip
ODD_NAMES = [
    "h100_sxm", "a/b", "..", "x=y", "%2F", "NULL", "__HIVE_DEFAULT_PARTITION__", "123", "it's", "ü *?[x]", "g" * 300,
]  # fmt: skip


def kernel_table(path: Path) -> Path:
    """A table of kernel timings in the columns that AIConfigurator's own has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    duckdb.sql(
        f"""
        COPY (
            SELECT 'SGLang' AS framework, '0.5.14' AS version, 'NVIDIA H200' AS device, 'gemm' AS op_name,
                CASE WHEN i % 3 > 0 THEN 'sgl-kernel' END AS kernel_source, 'fp8' AS gemm_dtype, 16 * i AS m,
                4096::BIGINT AS n, i / 7 AS "odd ""name", i % 2 = 0 AS fused, i / 1000 AS latency,
                300.5::DOUBLE AS power
            FROM range(1, 40) AS rows(i)
        ) TO '{path}' (FORMAT parquet)
        """
    )
    return path


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that has a row in every table that the version of today fills, odd ones among them."""
    folder = tmp_path_factory.mktemp("full")
    path = folder / "full.duckdb"
    with perfdb.Store(path) as store:
        store.ingest(MEASUREMENTS / "startup.jsonl")
        odd = [RUN | {"gpu": gpu, "concurrency": 7 + at} for at, gpu in enumerate(ODD_NAMES)]
        odd += [RUN, RUN | {"engine": "vllm", "notes": 'a\x00b\\"\n\u2028'}]
        store.ingest(write(folder / "odd.jsonl", *odd, "{not json", '{"load": "closed"}'))
        store.ingest(kernel_table(folder / "gemm_perf.parquet"))
        lines = (MEASUREMENTS / "runs.jsonl").read_text().splitlines()[:300]
        store.ingest(write(folder / "some.jsonl", *lines))
        store.set({"gpu": "l40s"}, where="gpu IS NULL AND engine = 'vllm' AND model = 'Qwen/Qwen3-32B'")
        first = store.query("SELECT run_id FROM runs WHERE gpu = 'h100_sxm' ORDER BY run_id")[0]["run_id"]
        store.flag([{"run_id": first, "flag": "odd", "reason": "because"}])
        store.save_profile("team", 1, '{"a":  1.50}', [first])
        store.save_predictions(
            "team@1",
            [
                {
                    "run_id": first,
                    "metric": "tpot_ms",
                    "value": 9.5,
                    "low": 9,
                    "high": 10,
                    "origin": "calibrated",
                }
            ],
        )
        store.save_prediction({"profile": "team@1", "value": 1.5, "none": None})
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "INSERT INTO server_steps (file_sha256, line, phase, gen_tok_s) "
            "SELECT sha256, 1, 'decode', 'nan' FROM files LIMIT 1"
        )
    return path


def test_the_store_of_these_tests_fills_every_table(full):
    assert [table for table, rows in content(full).items() if not rows] == []


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_there_and_back_without_loss(full, form, tmp_path):
    folder, back = tmp_path / "it's [a] folder*", tmp_path / "back.duckdb"
    with perfdb.Store(full, read_only=True) as store:
        written = store.export(folder, form)
        tested = store.query("SELECT gpu FROM runs")
    assert {row["gpu"] for row in tested} >= {*ODD_NAMES, None}
    with perfdb.Store(back) as store:
        store.import_folder(folder)
    # JSON that the runs format writes as it is comes back with its meaning, if not with its spaces.
    assert content(back) == content(full)
    assert {table: facts["rows"] for table, facts in written.tables.items()} == {
        table: len(rows) for table, rows in content(full).items()
    }
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["back.duckdb", folder.name]


def test_both_forms_have_the_same_checksums(full, tmp_path):
    with perfdb.Store(full, read_only=True) as store:
        one, other = store.export(tmp_path / "p"), store.export(tmp_path / "j", "jsonl")
    assert one.tables == other.tables
    assert {path.name for path in (tmp_path / "p" / "runs").iterdir()} == {
        "engine=sglang",
        "engine=vllm",
        "engine=trtllm",
    }
    assert (tmp_path / "p" / "raw_lines" / "engine=__HIVE_DEFAULT_PARTITION__").is_dir()  # start-ups
    read = "read_parquet('{}/p/runs/**/*.parquet', hive_partitioning = true, hive_types_autocast = false)"
    gpus = duckdb.sql(f"SELECT DISTINCT gpu FROM {read.format(tmp_path)}").fetchall()
    assert {*ODD_NAMES[:-1], None} <= {gpu for (gpu,) in gpus}


def test_runs_of_a_jsonl_export_are_read_without_the_rest(full, tmp_path):
    with perfdb.Store(full, read_only=True) as store:
        store.export(tmp_path / "export", "jsonl")
        wanted = store.query("SELECT run_id, source, licence, attribution FROM runs ORDER BY run_id")
    with perfdb.Store(tmp_path / "new.duckdb") as store:
        report = store.ingest(tmp_path / "export" / "runs.jsonl")
        assert store.query("SELECT run_id, source, licence, attribution FROM runs ORDER BY run_id") == wanted
    assert (report.kept, report.rejected) == (len(wanted), [])


def test_a_condition_takes_runs_and_what_belongs_to_them(full, tmp_path):
    with perfdb.Store(full, read_only=True) as store:
        written = store.export(
            tmp_path / "export", "parquet", "gpu = 'h100_sxm' AND model = 'Qwen/Qwen3-32B' -- no more"
        )
        with pytest.raises(perfdb.NothingChosen, match="nowhere"):
            store.export(tmp_path / "none", where="gpu = 'nowhere'")
        for bad in ("no_such_key = 1", "true); DROP TABLE flags; SELECT (1", "gpu = 'h100' AND"):
            with pytest.raises(perfdb.QueryRefused):
                store.export(tmp_path / "none", where=bad)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["export"]
    with perfdb.Store(tmp_path / "new.duckdb") as store:
        store.import_folder(tmp_path / "export")
        assert [row["flags"] for row in store.query("SELECT flags FROM runs")] == [["odd"]]
    rows = {table: facts["rows"] for table, facts in written.tables.items() if facts["rows"]}
    assert rows == {
        "run_records": 1, "configurations": 1, "run_sources": 1, "raw_lines": 1, "files": 1, "flags": 1,
        "rejected_lines": 2, "predicted": 1,
    }  # fmt: skip


def test_a_folder_that_holds_anything_else_stays(full, tmp_path):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    with perfdb.Store(full, read_only=True) as store:
        for overwrite in (False, True):
            with pytest.raises(perfdb.FolderTaken, match="taken"):
                store.export(taken, overwrite=overwrite)
        with pytest.raises(perfdb.FolderTaken, match="is a file"):
            store.export(taken / "mine.txt")
        with pytest.raises(perfdb.FolderTaken, match="cannot be made"):
            store.export(taken / "mine.txt" / "export")
        (tmp_path / "empty").mkdir()
        store.export(tmp_path / "empty")
        with pytest.raises(perfdb.FolderTaken, match="--overwrite"):
            store.export(tmp_path / "empty", "jsonl")
        assert store.export(tmp_path / "empty", "jsonl", overwrite=True).form == "jsonl"
    assert Manifest.read(tmp_path / "empty").form == "jsonl"
    assert (taken / "mine.txt").read_text() == "mine"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["empty", "taken"]


def test_an_export_that_fails_leaves_nothing_and_the_older_one(full, tmp_path, monkeypatch):
    folder = tmp_path / "export"
    with perfdb.Store(full, read_only=True) as store:
        store.export(folder)
        before = sorted(folder.rglob("*"))
        monkeypatch.setattr("perfdb.export.fill_table", lambda *_: None)  # as if the disk had kept nothing
        with pytest.raises(perfdb.StorageFull, match="export"):
            store.export(folder, overwrite=True)
    assert sorted(folder.rglob("*")) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["export"]


def damage_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def drop_row(folder: Path) -> None:
    path = folder / "run_sources.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


def edit(folder: Path, name: str, one: str, other: str) -> None:
    text = (folder / name).read_text()
    assert one in text
    (folder / name).write_text(text.replace(one, other, 1))


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "no manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "damaged"),
        (lambda folder: (folder / "manifest.json").write_text("[" * 100_000), "damaged"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "not that of an export"),
        (lambda folder: damage_manifest(folder, format="else"), "not that of an export"),
        (lambda folder: damage_manifest(folder, format_version=99), "newer version"),
        (lambda folder: damage_manifest(folder, schema=[*migrations.steps(), "9999_future"]), "9999_future"),
        (lambda folder: damage_manifest(folder, tables={"x; DROP": {"rows": 1, "checksum": ""}}), "no schema step"),
        (lambda folder: damage_manifest(folder, tables={}), "lacks"),
        (lambda folder: damage_manifest(folder, form="aiconfigurator"), "one by one"),
        (lambda folder: (folder / "runs.jsonl").unlink(), "run_records has 0 rows"),
        (drop_row, "run_sources has"),
        (lambda folder: edit(folder, "runs.jsonl", '_tpot_ms":10.0', '_tpot_ms":11.0'), "content of run_records"),
        (lambda folder: edit(folder, "files.jsonl", "{", ""), "files cannot be read"),
        (lambda folder: edit(folder, "flags.jsonl", '"flag":', '"flug":'), "flags cannot be read"),
    ],
)  # fmt: skip
def test_what_is_no_whole_export_is_refused_by_name(full, tmp_path, harm, told):
    with perfdb.Store(full, read_only=True) as store:
        store.export(tmp_path / "export", "jsonl")
    harm(tmp_path / "export")
    with perfdb.Store(tmp_path / "new.duckdb") as store:
        with pytest.raises(perfdb.NotAnExport, match=told):
            store.import_folder(tmp_path / "export")
        assert all(rows == [] for rows in content(store.path).values())


def test_a_parquet_file_that_was_cut_or_altered_is_refused_or_reads_the_same(full, tmp_path):
    with perfdb.Store(full, read_only=True) as store:
        store.export(tmp_path / "export")
    wanted = content(full)
    for turn, path in enumerate(sorted((tmp_path / "export").rglob("*.parquet"))[::6]):
        whole = path.read_bytes()
        path.write_bytes(whole[:-30])
        with perfdb.Store(tmp_path / "new.duckdb") as store, pytest.raises(perfdb.NotAnExport):
            store.import_folder(tmp_path / "export")
        place = len(whole) * (turn + 1) // 12
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        with perfdb.Store(tmp_path / f"{turn}.duckdb") as store:
            try:
                store.import_folder(tmp_path / "export")
            except perfdb.NotAnExport:
                assert not any(content(store.path).values())
            else:
                assert content(store.path) == wanted
        path.write_bytes(whole)


def older_store(path: Path, steps: int) -> Path:
    """A store as a former version left it, with a run in it."""
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "CREATE TABLE migrations (name VARCHAR PRIMARY KEY, applied_at TIMESTAMP NOT NULL)"
        )
        for name, text in list(migrations.steps().items())[:steps]:
            connection.execute(text)
            connection.execute("INSERT INTO migrations VALUES ($1, now()::TIMESTAMP)", [name])
        run = {name: value for name, value in RUN.items() if name != "server"}
        names = ", ".join(run)
        values = ", ".join(f"'{value}'" for value in run.values())
        connection.execute(
            f"INSERT INTO run_records (run_id, status, missing, content, {names}) "
            f"VALUES ('old', 'incomplete', ['gpu'], '{json.dumps(run)}', {values})"
        )
        connection.execute("INSERT INTO files VALUES ('f', 'a.jsonl', 'runs', now()::TIMESTAMP, 1)")
        connection.execute("INSERT INTO raw_lines VALUES ('f', 1, $1)", [json.dumps(run)])
        connection.execute(
            "INSERT INTO run_sources (run_id, file_sha256, line, line_sha256, source) VALUES ('old', 'f', 1, 'l', 'me')"
        )
    return path


def test_an_older_store_is_merged_and_stays_as_it_is(tmp_path):
    other = older_store(tmp_path / "older.duckdb", 4)
    before = other.read_bytes()
    run = {name: value for name, value in RUN.items() if name != "server"}
    with perfdb.Store(tmp_path / "mine.duckdb") as store:
        assert store.merge(other).kept == 1
        assert store.ingest(write(tmp_path / "a.jsonl", run)).known == 1
        assert len(store.query("FROM runs")) == 1
    assert other.read_bytes() == before


def test_an_export_of_an_older_schema_is_brought_up_to_date(tmp_path):
    from perfdb.export import _write_tables, described, new_folder

    path = older_store(tmp_path / "older.duckdb", 4)
    with duckdb.connect() as connection, new_folder(tmp_path / "export") as folder:
        connection.execute(f"ATTACH '{path}' AS store (READ_ONLY)")
        connection.execute("USE store")
        wide = pytest.MonkeyPatch()
        wide.setattr("perfdb.export._WIDE", {})
        written = _write_tables(connection, folder, "jsonl", None)
        wide.undo()
        described("jsonl", list(migrations.steps())[:4], written).write(folder)
    with perfdb.Store(tmp_path / "new.duckdb") as store:
        assert store.import_folder(tmp_path / "export").kept == 1
        assert store.query("SELECT engine, mean_tpot_ms, sources FROM runs") == [
            {"engine": "sglang", "mean_tpot_ms": 10.0, "sources": ["me"]}
        ]


def test_what_is_no_store_is_not_merged(tmp_path):
    with perfdb.Store(tmp_path / "mine.duckdb") as store:
        with pytest.raises(perfdb.NotAStore):
            store.merge(write(tmp_path / "a.txt", "something else"))
        with pytest.raises(perfdb.NotAStore):
            store.merge(tmp_path / "nowhere.duckdb")
        with pytest.raises(perfdb.NotAnExport):
            store.merge(tmp_path)
        assert store.merge(store.path).kept == 0


def two_stores(folder: Path) -> tuple[perfdb.Store, perfdb.Store]:
    return perfdb.Store(folder / "a.duckdb"), perfdb.Store(folder / "b.duckdb")


def test_the_same_run_from_two_people_is_one_run_with_both_sources(tmp_path):
    a, b = two_stores(tmp_path)
    first = RUN | {"gpu": "h100_sxm"}
    a.ingest(write(tmp_path / "mine.jsonl", first))
    b.ingest(write(tmp_path / "yours.jsonl", first, RUN | {"gpu": "l40s"}))
    run_id = b.query("SELECT run_id FROM runs WHERE gpu = 'h100_sxm'")[0]["run_id"]
    b.flag([{"run_id": run_id, "flag": "theirs", "reason": "because"}])
    report = a.merge(b.path)
    assert (report.kept, report.known, report.rejected) == (1, 1, [])
    assert a.query("SELECT sources, flags FROM runs ORDER BY gpu") == [
        {"sources": ["mine.jsonl", "yours.jsonl"], "flags": ["theirs"]}, {"sources": ["yours.jsonl"], "flags": []}
    ]  # fmt: skip


@pytest.mark.parametrize("mine_is_fuller", [True, False])
def test_the_fuller_record_of_a_line_stays(tmp_path, mine_is_fuller):
    a, b = two_stores(tmp_path)
    path = write(tmp_path / "a.jsonl", RUN)
    fuller, lesser = (a, b) if mine_is_fuller else (b, a)
    fuller.ingest(path, {"gpu": "h100_sxm"})
    lesser.ingest(path)
    (former,) = lesser.query("SELECT run_id FROM runs")
    lesser.flag([former | {"flag": "odd", "reason": "because"}])
    assert a.merge(b.path).rejected == []
    assert a.query("SELECT gpu, status, flags FROM runs") == [
        {"gpu": "h100_sxm", "status": "complete", "flags": ["odd"]}
    ]
    assert a.query("SELECT run_id FROM superseded_runs") == [former]
    before = content(a.path)
    assert a.merge(b.path).kept == 0
    assert content(a.path) == before


def test_two_records_that_each_lack_something_are_joined(tmp_path):
    a, b = two_stores(tmp_path)
    path = write(tmp_path / "a.jsonl", RUN)
    a.ingest(path, {"gpu": "h100_sxm"})
    b.ingest(path, {"tp": 4})
    assert a.merge(b.path).rejected == []
    assert b.merge(a.path).rejected == []
    for store in (a, b):
        (run,) = store.query("SELECT gpu, tp, extra FROM runs")
        assert run == {"gpu": "h100_sxm", "tp": 4, "extra": {"server": RUN["server"]}}
        (source,) = store.query("SELECT context FROM run_sources")
        assert source["context"] == {"gpu": "h100_sxm", "tp": 4}


def test_what_contradicts_is_told_with_both_values_and_the_store_keeps_its_own(tmp_path):
    a, b = two_stores(tmp_path)
    path = write(tmp_path / "a.jsonl", RUN)
    a.ingest(path, {"gpu": "h100_sxm"})
    b.ingest(path, {"gpu": "l40s"})
    (rejected,) = a.merge(b.path).rejected
    assert rejected.line == 1
    assert all(part in rejected.reason for part in ("a.jsonl", "gpu", "h100_sxm", "l40s"))
    assert a.query("SELECT gpu FROM runs") == [{"gpu": "h100_sxm"}]


def test_profiles_come_with_what_they_were_fitted_on_and_predict(tmp_path):
    a, b = two_stores(tmp_path)
    path = write(tmp_path / "a.jsonl", RUN)
    figure = {"metric": "tpot_ms", "value": 9.0, "low": 8.0, "high": 11.0, "origin": "calibrated"}
    for store, runs in ((a, []), (b, ["elsewhere"])):
        store.ingest(path, {"gpu": "h100_sxm"})
        (run,) = store.query("SELECT run_id FROM runs")
        store.save_profile("ours", 1, "{}", [run["run_id"], *runs])
        store.save_profile("mine", 1, json.dumps(runs), [run["run_id"], *runs])
    b.save_predictions("ours@1", [run | figure])
    b.save_predictions("mine@1", [run | figure])
    report = a.merge(b.path)
    assert [each.reason.partition(":")[0] for each in report.rejected] == [
        "profile mine@1 is stored with other content"
    ]
    fitted = a.query("SELECT name, run_id FROM profile_runs ORDER BY ALL")
    assert [(each["name"], each["run_id"]) for each in fitted] == sorted(
        [("mine", run["run_id"]), ("ours", run["run_id"]), ("ours", "elsewhere")]
    )
    assert a.query("SELECT profile, run_id, fitted FROM predicted") == [
        {"profile": "ours@1", "fitted": True} | run
    ]
    before = content(a.path)
    a.merge(b.path)
    assert content(a.path) == before


CONTEXTS = st.fixed_dictionaries(
    {}, optional={"gpu": st.just("h100_sxm"), "tp": st.just(4), "osl": st.just(256)}
)
LINES = st.dictionaries(st.integers(1, 4), CONTEXTS, min_size=1)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(LINES, LINES)
def test_merging_is_the_same_both_ways_and_twice(one, other):
    bare = {name: value for name, value in RUN.items() if name != "osl"}
    with TemporaryDirectory() as folder:
        a, b = stores = two_stores(Path(folder))
        for person, (store, lines) in enumerate(zip(stores, (one, other), strict=True)):
            path = write(
                Path(folder) / f"{person}.jsonl",
                *(bare | {"concurrency": concurrency} for concurrency in lines),
            )
            # json.dumps writes these names and numbers as TOML does
            parts = (
                f"[[run]]\nmatch = {{line = {line}}}\n"
                + "".join(f"{key} = {json.dumps(value)}\n" for key, value in context.items())
                for line, context in enumerate(lines.values(), start=1)
                if context
            )
            path.with_suffix(".toml").write_text("\n".join(parts))
            store.ingest(path)
        shutil.copy(a.path, Path(folder) / "c.duckdb")
        c = perfdb.Store(Path(folder) / "c.duckdb")
        told = {line: one.get(line, {}) | other.get(line, {}) for line in one | other}
        before = {run["run_id"] for store in stores for run in store.query("FROM runs")}
        assert a.merge(b.path).rejected == []
        assert b.merge(c.path).rejected == []
        runs = [
            store.query("SELECT run_id, concurrency, gpu, tp, osl FROM runs ORDER BY ALL") for store in stores
        ]
        assert runs[0] == runs[1]
        assert {
            run["concurrency"]: {key: run[key] for key in ("gpu", "tp", "osl") if run[key]} for run in runs[0]
        } == told
        known = {run["run_id"] for run in runs[0]} | {
            row["run_id"] for row in a.query("FROM superseded_runs")
        }
        assert before <= known
        now = content(a.path)
        assert a.merge(b.path).kept == 0
        assert a.merge(c.path).kept == 0
        assert {**content(a.path), "superseded_runs": []} == {**now, "superseded_runs": []}


def test_kernel_timings_in_the_layout_of_aiconfigurator(full, tmp_path):
    with perfdb.Store(full, read_only=True) as store:
        store.export(tmp_path / "export", "aiconfigurator")
        with pytest.raises(perfdb.QueryRefused, match="leave it out"):
            store.export(tmp_path / "other", "aiconfigurator", where="tp = 1")
        shapes = "SELECT * EXCLUDE (file_sha256) FROM kernel_runs"
        wanted = store.query(shapes)
    path = tmp_path / "export/systems/data/h200_sxm/gemm/sglang/0.5.14/gemm_perf.parquet"
    original = kernel_table(tmp_path / "gemm_perf.parquet")
    one, other = (duckdb.sql(f"FROM '{each}'") for each in (path, original))
    assert (one.columns, one.types) == (other.columns, other.types)
    assert one.fetchall() == other.fetchall()
    with perfdb.Store(tmp_path / "new.duckdb") as store:
        store.ingest(path)
        assert store.query(shapes) == wanted


def test_kernel_timings_of_a_device_and_table_of_ones_own(tmp_path):
    duckdb.sql(
        f"""
        COPY (SELECT 'vllm' AS framework, '1/2' AS version, 'My GPU (x)' AS device, 'o' AS op_name,
            'k' AS kernel_source, 1 AS m)
        TO '{tmp_path}/mine_perf.parquet' (FORMAT parquet)
        """
    )
    with perfdb.Store(tmp_path / "s.duckdb") as store:
        with pytest.raises(perfdb.NothingChosen, match="no kernel timings"):
            store.export(tmp_path / "export", "aiconfigurator")
        store.ingest(tmp_path / "mine_perf.parquet")
        store.export(tmp_path / "export", "aiconfigurator")
    path = tmp_path / "export/systems/data/my_gpu_x/other/vllm/1_2/mine_perf.parquet"
    assert duckdb.sql(f"FROM '{path}'").fetchall() == [("VLLM", "1/2", "My GPU (x)", "o", "k", 1)]


def test_the_commands(full, tmp_path, capsys):
    status, out, _ = answer(
        capsys, "db", "export", tmp_path / "e", "--format", "jsonl", "--db", full, "--json"
    )
    assert (status, json.loads(out)["rows"]["kernel_runs"]) == (0, 39)
    status, out, _ = answer(capsys, "db", "export", tmp_path / "e", "--db", full, "--json")
    assert (status, json.loads(out)["error"]["kind"]) == (2, "folder_taken")
    new = tmp_path / "new.duckdb"
    status, out, _ = answer(capsys, "db", "import", tmp_path / "e", "--db", new, "--wait", 0)
    with perfdb.Store(full, read_only=True) as store:
        info = store.info()
    records = info["runs"] + info["startups"] + sum(info["kernel_runs"].values())
    assert (status, out.split(" (")[0]) == (0, f"kept {records}")
    status, out, _ = answer(capsys, "db", "merge", full, tmp_path / "e", "--db", new, "--json")
    assert (status, json.loads(out)["kept"], json.loads(out)["rejected"]) == (0, 0, [])
    (tmp_path / "e" / "runs.jsonl").unlink()
    status, out, _ = answer(capsys, "db", "import", tmp_path / "e", "--db", new, "--json")
    assert (status, json.loads(out)["error"]["kind"]) == (2, "not_an_export")


def test_a_merge_that_brings_nothing_but_contradictions_is_refused(tmp_path, capsys):
    a, b = two_stores(tmp_path)
    path = write(tmp_path / "a.jsonl", RUN)
    a.ingest(path, {"gpu": "h100_sxm"})
    b.ingest(path, {"gpu": "l40s"})
    status, _, err = answer(capsys, "db", "merge", b.path, "--db", a.path)
    assert status == 2
    assert "gpu is stored as h100_sxm and now said to be l40s" in err


def test_what_is_refused_leaves_no_trace_that_leads_nowhere(tmp_path):
    a, b = two_stores(tmp_path)
    path = write(tmp_path / "a.jsonl", RUN)
    b.ingest(path)
    b.ingest(path, {"gpu": "l40s"})
    run_id = b.query("SELECT run_id FROM runs")[0]["run_id"]
    b.save_profile("team", 1, "{}", [run_id])
    figure = {"metric": "tpot_ms", "value": 9.0, "low": 8.0, "high": 11.0, "origin": "calibrated"}
    b.save_predictions("team@1", [figure | {"run_id": run_id}])
    a.ingest(path, {"gpu": "h100_sxm"})
    assert len(a.merge(b.path).rejected) == 1
    assert check(a.path) == []
