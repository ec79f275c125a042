"""Damage is found: bytes flipped, files cut off, rows changed by hand; and what can be saved is saved."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import duckdb
import pytest
from stores import answer, content

import perfdb
from perfdb.check import Finding, check, salvage
from perfdb.folder import Manifest

FLIPS = 30
HEADER_BYTES, BLOCK_BYTES = 3 * 4096, 262_144
"""DuckDB's file: three headers, then blocks of this size."""
START = {
    "engine": "sglang", "engine_version": "0.5.9", "gpu": "h100_sxm", "model": "Qwen/Qwen3-32B", "tp": 1,
    "mem_fraction": 0.88, "max_total_tokens": 100_000, "weights_gib": 61.0, "source": "me", "src_ref": "r",
}  # fmt: skip
RUN = {
    "engine": "sglang", "gpu": "h100_sxm", "model": "Qwen/Qwen3-32B", "isl": 1024, "osl": 256, "load": "closed",
    "mean_tpot_ms": 10.0, "any": {"deep": [None]},
}  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A small store of runs, one of them completed later, a start-up, flags, a profile and its predictions."""
    folder = tmp_path_factory.mktemp("sound")
    path = folder / "sound.duckdb"
    rows = [RUN | {"concurrency": number} for number in range(1, 31)]
    lines = [*rows, {**RUN, "gpu": None, "concurrency": 64}, {"load": "closed"}]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    (folder / "startup.jsonl").write_text(json.dumps(START) + "\n")
    with perfdb.Store(path) as store:
        store.ingest(folder / "a.jsonl")
        store.ingest(folder / "startup.jsonl")
        store.set({"gpu": "l40s"}, incomplete=True)
        first = store.query("SELECT run_id FROM runs ORDER BY run_id LIMIT 1")[0]
        store.flag([first | {"flag": "odd", "reason": "because"}])
        store.save_profile("team", 1, "{}", [first["run_id"], "a run of elsewhere"])
        figure = {"metric": "tpot_ms", "value": 9.0, "low": 8.0, "high": 11.0, "origin": "calibrated"}
        store.save_predictions("team@1", [first | figure])
    return path


@pytest.fixture
def copy(sound, tmp_path) -> Path:
    return Path(shutil.copy(sound, tmp_path / "copy.duckdb"))


def flip(path: Path, place: int, bit: int = 0) -> None:
    whole = bytearray(path.read_bytes())
    whole[place] ^= 1 << bit
    path.write_bytes(whole)


def place_of(path: Path, table: str, column: str) -> int:
    """A place in the file within the first block of a column."""
    with duckdb.connect(str(path), read_only=True) as connection:
        (block,) = connection.execute(
            f"SELECT block_id FROM pragma_storage_info('{table}') WHERE column_name = $1 AND block_id >= 0 LIMIT 1",
            [column],
        ).fetchone()
    return HEADER_BYTES + block * BLOCK_BYTES + 100


def test_a_sound_store_has_no_findings(sound):
    before = sound.read_bytes()
    assert check(sound) == []
    assert sound.read_bytes() == before
    assert sorted(path.name for path in sound.parent.iterdir()) == [
        "a.jsonl",
        "sound.duckdb",
        "startup.jsonl",
    ]


def test_a_flipped_bit_anywhere_is_found_or_changes_nothing(sound, copy):
    draw, wanted = random.Random(0), content(sound)
    found = 0
    for _ in range(FLIPS):
        shutil.copy(sound, copy)
        place, bit = draw.randrange(copy.stat().st_size), draw.randrange(8)
        flip(copy, place, bit)
        try:
            findings = check(copy)
        except perfdb.NotAStore:  # the bytes that say what kind of file it is
            found += 1
            continue
        if findings:
            found += 1
        else:
            assert content(copy) == wanted, (place, bit)
    assert found > FLIPS / 2


@pytest.mark.parametrize("place", [0, 8, 9, 12, 40, 100, 4096, 4105, 4128, 8192, 8201, 8224])
def test_a_flipped_bit_in_the_headers(sound, copy, place):
    flip(copy, place)
    try:
        findings = check(copy)
    except perfdb.StoreError as error:
        told = str(error)
    else:
        assert findings or content(copy) == content(sound)
        return
    assert copy.name in told


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.9, 0.999999])
def test_a_file_that_was_cut_off(sound, copy, share):
    whole = copy.read_bytes()
    copy.write_bytes(whole[: int(len(whole) * share)])
    try:
        # The last block of a file may be one that is not in use.
        assert check(copy) or (share > 0.99 and content(copy) == content(sound))
    except perfdb.NotAStore:
        assert share < 0.01


def changed(path: Path, *statements: str) -> list[Finding]:
    with duckdb.connect(str(path)) as connection:
        for statement in statements:
            connection.execute(statement)
    return check(path)


@pytest.mark.parametrize(
    ("statement", "kind", "table"),
    [
        ("UPDATE run_records SET mean_tpot_ms = 11 WHERE concurrency = 3", "identity", "run_records"),
        ("UPDATE configurations SET tp = 2 WHERE gpu = 'l40s'", "identity", "configurations"),
        ("UPDATE raw_lines SET text = text || ' ' WHERE contains(text, '64')", "hash", "raw_lines"),
        ("UPDATE run_records SET status = 'incomplete' WHERE concurrency = 3", "status", "run_records"),
        ("DELETE FROM raw_lines WHERE contains(text, '64')", "reference", "run_sources"),
        ("DELETE FROM run_sources WHERE line = 3", "reference", "run_records"),
        ("DELETE FROM configurations WHERE gpu = 'l40s'", "reference", "run_records"),
        ("DELETE FROM files WHERE name = 'a.jsonl'", "reference", "run_sources"),
        ("INSERT INTO flags VALUES ('nobody', 'odd', 'because', 'user')", "reference", "flags"),
        ("UPDATE superseded_runs SET by_run_id = 'nobody'", "reference", "superseded_runs"),
        ("UPDATE predicted SET run_id = 'nobody'", "reference", "predicted"),
        ("INSERT INTO run_records FROM run_records WHERE concurrency = 3", "duplicate", "run_records"),
        ("INSERT INTO raw_lines FROM raw_lines LIMIT 1", "duplicate", "raw_lines"),
        ("INSERT INTO predicted FROM predicted", "duplicate", "predicted"),
        ("UPDATE startup_records SET content = '{}'", "identity", "startup_records"),
        ("DELETE FROM startup_sources", "reference", "startup_records"),
    ],
)
def test_a_row_changed_by_hand_is_named(copy, statement, kind, table):
    assert (kind, table) in {(found.kind, found.table) for found in changed(copy, statement)}


def test_what_is_no_store_of_this_version(sound, tmp_path):
    with pytest.raises(perfdb.NotAStore, match="no store at"):
        check(tmp_path / "nowhere.duckdb")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(perfdb.NotAStore, match="not a DuckDB file"):
        check(tmp_path / "text")
    with pytest.raises(perfdb.NotAStore, match="not a file"):
        check(tmp_path)
    newer = Path(shutil.copy(sound, tmp_path / "newer.duckdb"))
    with pytest.raises(perfdb.NewerSchema, match="9999"):
        changed(newer, "INSERT INTO migrations VALUES ('9999_future', now()::TIMESTAMP)")
    older = tmp_path / "older.duckdb"
    with pytest.raises(perfdb.OlderSchema):
        changed(older, "CREATE TABLE migrations (name VARCHAR PRIMARY KEY, applied_at TIMESTAMP)")


def test_a_store_that_is_written_to_is_waited_for(copy):
    with duckdb.connect(str(copy)), pytest.raises(perfdb.StoreBusy):
        check(copy, wait_s=0)


@pytest.mark.parametrize(
    ("table", "column"), [("raw_lines", "text"), ("run_records", "concurrency"), ("files", "name")]
)
def test_what_a_damaged_store_still_has_is_saved_and_taken_in_again(sound, copy, tmp_path, table, column):
    wanted = content(sound)
    flip(copy, place_of(copy, table, column))
    assert table in {found.table for found in check(copy)}
    saved = salvage(copy, tmp_path / "export")
    assert saved.lost[table] == len(wanted[table])
    assert Manifest.read(tmp_path / "export").lost == saved.lost
    whole = wanted.keys() - saved.lost.keys()
    assert {each: saved.rows[each] for each in whole} == {each: len(wanted[each]) for each in whole}
    with perfdb.Store(tmp_path / "new.duckdb") as store:
        report = store.import_folder(tmp_path / "export")
        now = content(store.path)
    lost_runs = table == "run_records" or "run_records" in saved.lost
    assert bool(report.rejected) == lost_runs
    if lost_runs:
        assert all("ingest its file again" in each.reason for each in report.rejected)
        assert now["run_records"] == []
    for each in whole - ({"run_sources", "configurations", "flags", "predicted"} if lost_runs else set()):
        assert now[each] == wanted[each], each
    # The files, where they are still there, bring back what was lost.
    with perfdb.Store(tmp_path / "new.duckdb") as store:
        store.ingest(sound.parent / "a.jsonl")
        store.ingest(sound.parent / "startup.jsonl")
    assert now["startup_records"] == wanted["startup_records"]
    again = content(tmp_path / "new.duckdb")
    assert len(again["run_records"]) == len(wanted["run_records"])
    assert {kind for kind in again if not again[kind]} <= {"flags", "predicted", *EMPTY}


EMPTY = ("kernel_runs", "predictions", "server_steps")
"""Tables of which the sound store has no rows."""


def test_an_export_rebuilds_a_damaged_store_whole(sound, copy, tmp_path):
    with perfdb.Store(copy, read_only=True) as store:
        store.export(tmp_path / "export")
    for table, column in (("raw_lines", "text"), ("run_records", "concurrency")):
        flip(copy, place_of(sound, table, column))
    assert check(copy)
    with perfdb.Store(tmp_path / "new.duckdb") as store:
        store.import_folder(tmp_path / "export")
    assert content(tmp_path / "new.duckdb") == content(sound)
    assert check(tmp_path / "new.duckdb") == []


def test_nothing_is_saved_of_a_file_without_a_catalog(copy, tmp_path):
    whole = copy.read_bytes()
    copy.write_bytes(whole[:HEADER_BYTES] + bytes(len(whole) - HEADER_BYTES))
    with pytest.raises(perfdb.DamagedStore, match="EXPORT"):
        salvage(copy, tmp_path / "export")
    assert [path.name for path in tmp_path.iterdir()] == [copy.name]


def test_a_folder_that_holds_something_is_not_saved_into(copy, tmp_path):
    with pytest.raises(perfdb.FolderTaken):
        salvage(copy, tmp_path)


def test_the_command(sound, copy, tmp_path, capsys):
    assert answer(capsys, "db", "check", "--db", sound)[:2] == (0, f"{sound}: sound\n")
    flip(copy, place_of(copy, "raw_lines", "text"))
    status, out, _ = answer(capsys, "db", "check", "--db", copy)
    assert status == 2
    assert "raw_lines" in out
    assert "--salvage" in out
    status, out, _ = answer(capsys, "db", "check", "--db", copy, "--salvage", tmp_path / "e", "--json")
    told = json.loads(out)
    assert (status, told["sound"], told["salvaged"]["lost"]["raw_lines"]) == (2, False, 32)
    status, _, err = answer(capsys, "db", "check", "--db", copy, "--salvage", tmp_path / "e")
    assert (status, "not empty" in err) == (2, True)
    status, _, err = answer(capsys, "db", "check", "--db", tmp_path / "nowhere.duckdb")
    assert (status, "no store at" in err) == (2, True)
