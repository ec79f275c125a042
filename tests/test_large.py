"""Files as sources: how bytes become objects, what is kept of them, and what a large one costs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from perfdb import Rejection
from perfdb.readers import framing, large, source
from perfdb.readers.large import Pruned
from perfdb.readers.redact import REDACTED, redact_text
from perfdb.readers.source import Object, Source, count, pieces

ROOT = Path(__file__).parent.parent


def objects(tmp_path: Path, content: str | bytes) -> list:
    path = tmp_path / "file.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(Source(path).objects())


def data(tmp_path: Path, content: str | bytes) -> list:
    return [item.data if isinstance(item, Object) else item.line for item in objects(tmp_path, content)]


def one(tmp_path: Path, content: str | bytes):
    found = objects(tmp_path, content)
    assert len(found) == 1
    return found[0]


@pytest.fixture
def small_limits(monkeypatch):
    """Treat as large what is quick to test."""
    monkeypatch.setattr(source, "LARGE_BYTES", 200)
    monkeypatch.setattr(large, "PRUNED_CHARACTERS", 60)


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ('{"a": 1}\n{"b": 2}\n', [{"a": 1}, {"b": 2}]),
        ('\ufeff{"a": 1}\r\n\r\n{"b": 2}', [{"a": 1}, {"b": 2}]),
        ('{"a": 1}\n{"b": \n{"c": 3}\n', [{"a": 1}, 2, {"c": 3}]),
        ('{"a": [1,\n{"b": 2}\n{"c": 3}\n', [1, {"b": 2}, {"c": 3}]),
        ('[1, 2]\n{"b": 2}\n', [1, {"b": 2}]),
        ("[[[[\n" + '{"b": 2}\n', [1, {"b": 2}]),
        ('{\n "a": 1,\n "b": {"c": [{}]}\n}\n', [{"a": 1, "b": {"c": [{}]}}]),
        ('{"a": 1,\n "b": 2}\n', [{"a": 1, "b": 2}]),
        ('{\n "a": "}{"\n}\n{\n "a": 2\n}\n', [{"a": "}{"}, {"a": 2}]),
        ('[{"a": 1}, {"b": "],{"}]', [{"a": 1}, {"b": "],{"}]),
        ('[\n{"a": 1},\n5, "x, y",\n[1],\n{"b": 2}\n]\n', [{"a": 1}, 2, 3, 4, {"b": 2}]),
        ('[\n  {"a": 1},\n  {"b": 2', [{"a": 1}, 2]),
        ('{\n "a": 1,\n "b": "cut', [1]),
        ("[]\n", []),
        ('{"a": 1}\x00\x00', [1]),
    ],
)
def test_objects_of_a_file(tmp_path, content, wanted):
    assert data(tmp_path, content) == wanted


def test_utf16_is_read_and_other_bytes_are_named(tmp_path):
    row = '{"model": "é", "tp": 1}\n'
    assert data(tmp_path, (row + row).encode("utf-16")) == [{"model": "é", "tp": 1}] * 2
    assert one(tmp_path, row.encode("latin-1")).reason == "not UTF-8: byte 0xe9 at byte 12"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"tp": 1, "x": 2, "tp": 4}', "not read: key tp stands twice"),
        ('{"a": {"b": 1, "b": 1}}', "not read: key b stands twice"),
        ('{"a": "\\ud800"}', "holds half of a surrogate pair, \\ud800, which is no character"),
        ('{"a": ' + "[" * 150 + "]" * 150 + "}", "nested too deeply, at most 100 levels are read"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply, at most 100 levels are read"),
        ('{"a": ' + "9" * 5000 + "}", "not read: Exceeds the limit"),
        ('{"a": 1', "cut off: Expecting ',' delimiter at character 8"),
        ('{"a": 1 "b": 2}', "not JSON: Expecting ',' delimiter at character 9"),
        ('{"a": "x', "cut off: Unterminated string"),
    ],
)
@pytest.mark.parametrize("limit", [1, source.LARGE_BYTES])
def test_what_is_no_object_says_why(tmp_path, monkeypatch, content, reason, limit):
    monkeypatch.setattr(source, "LARGE_BYTES", limit)
    found = one(tmp_path, content)
    assert isinstance(found, Rejection)
    assert reason in found.reason


def test_whole_surrogate_pairs_are_characters(tmp_path):
    assert one(tmp_path, '{"a": "\\ud83d\\ude00"}').data == {"a": "\N{GRINNING FACE}"}


PRIVATE = [
    ('{"a": 1, "prompt": "x", "b": 2}', '{"a": 1, "b": 2}'),
    ('{"a": 1, "generated_texts": ["x", "]\\"", ["y"]]}', '{"a": 1}'),
    ('{"prompt": "x"}', "{}"),
    ('{"prompt": "x", "messages": [{"role": "user"}], "a": [1.50, 1e3, NaN]}', '{"a": [1.50, 1e3, NaN]}'),
    ('{"a": [{"n": 1, "output": "x"}, {"request_args": "y", "n": 2}]}', '{"a": [{"n": 1}, {"n": 2}]}'),
    ('{"a": 1 , "prompts" : [ "x" ] }', '{"a": 1  }'),
]


@pytest.mark.parametrize(("content", "kept"), PRIVATE)
def test_private_texts_are_cut_and_every_other_byte_stays(tmp_path, content, kept):
    assert one(tmp_path, content).text == kept


@pytest.mark.parametrize(
    "content",
    [
        '{"prompts": 10, "prompt": null, "output": {"path": "p"}}',
        '{"prompts": {"isl": {"mean": 32.0}}}',
        '{"note": "\\"prompt\\": \\"x\\"", "other\\"prompt": "x", "mean_prompt": "y"}',
        '{"a": "é \\u00e9", "b": 1.000}',
    ],
)
def test_nothing_else_is_cut(tmp_path, content):
    found = one(tmp_path, content)
    assert found.text == content
    assert found.data == json.loads(content)


def test_private_texts_in_unusual_places(tmp_path):
    assert one(tmp_path, '{"prompts": {"isl": 3, "of": {"text": "x", "n": 1}}}').data == {
        "prompts": {"isl": 3, "of": {"n": 1}}
    }
    found = one(tmp_path, '{"a": 1, "prom\\u0070t": "x"}')
    assert found.data == json.loads(found.text) == {"a": 1}


SECRETS = {
    "api_key": "sk-1",
    "kv_dtype": "sk-1",
    "big": list(range(500)),
    "server_info": {
        "hf_token": "hf-1",
        "launch": "serve --api-key=abc --hf-token 'x y' --tp 2",
        "argv": ["serve", "--api-key", "abc", "--tp", "2"],
        "ranks": [{"admin_password": "pw", "n": 1}, {"admin_password": None, "n": 2}],
        "max_total_tokens": 5,
    },
}


@pytest.mark.parametrize("limit", [1, source.LARGE_BYTES])
def test_secrets_are_replaced_in_data_and_in_text(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(source, "LARGE_BYTES", limit)
    found = one(tmp_path, json.dumps(SECRETS))
    assert json.loads(found.text) == found.data
    info = found.data["server_info"]
    assert (found.data["api_key"], found.data["kv_dtype"], info["hf_token"]) == (REDACTED, "sk-1", REDACTED)
    assert info["launch"] == f"serve --api-key={REDACTED} --hf-token {REDACTED} --tp 2"
    assert info["argv"] == ["serve", "--api-key", REDACTED, "--tp", "2"]
    assert [rank["admin_password"] for rank in info["ranks"]] == [REDACTED, None]
    assert list(found.data) == list(SECRETS)


def test_secrets_in_lists_without_a_name(tmp_path):
    found = one(tmp_path, '{"a": [["--api-key", "abc"], [["--hf-token=x"]]], "api_key": [1, "x"]}')
    assert json.loads(found.text) == found.data
    assert found.data == {
        "a": [["--api-key", REDACTED], [[f"--hf-token={REDACTED}"]]],
        "api_key": [1, REDACTED],
    }


def test_figures_below_the_name_of_a_secret_are_kept(tmp_path):
    content = '{"time_to_first_token": {"unit": "ms", "avg": 1.5, "of": [1]}, "key": {"unit": "s", "v": "x"}}'
    found = one(tmp_path, content)
    assert found.data == json.loads(content) | {"key": {"unit": "s", "v": REDACTED}}
    assert json.loads(found.text) == found.data


def test_secrets_of_a_log_line():
    line = "ServerArgs(api_key='sk-1', max_tokens=5) {'hf_token': 'x'} --api-key abc"
    assert redact_text(line) == (
        f"ServerArgs(api_key='{REDACTED}', max_tokens=5) {{'hf_token': '{REDACTED}'}} --api-key {REDACTED}"
    )


def test_a_long_text_costs_no_more_than_its_length(tmp_path):
    redact_text("key_" * 500_000 + "'" + '"key" ' * 300_000)
    for text in ("-" * 2_000_000, "--key-" * 300_000, "--key '" * 200_000, '\\"' * 1_000_000):
        assert isinstance(one(tmp_path, f'{{"a": "{text}"}}'), Object)


def lists(length: int) -> dict:
    return {
        "flat": [1.5] * length,
        "texts": ["a, ]"] * length,
        "nested": [[1, 2, [3]]] * length,
        "objects": [{"n": 1, "ids": [1, 2]}] * length,
        "mixed": [1, "a", None, [1], {}, "]"] * length,
        "kept": [1, 2, 3],
        "empty": [],
        "benchmarks": [{"requests": [{"id": "x"}] * length, "rate": rate} for rate in range(9)],
    }


@pytest.mark.parametrize("indent", [None, 1])
def test_large_arrays_are_counted(tmp_path, small_limits, indent):
    whole = lists(100)
    found = one(tmp_path, json.dumps(whole, indent=indent))
    assert found.text.strip() == json.dumps(whole, indent=indent)
    for name, value in whole.items():
        assert count(found.data[name]) == len(value), name
    pruned = {name for name, value in found.data.items() if isinstance(value, Pruned)}
    assert pruned == {"flat", "texts", "nested", "objects", "mixed"}
    assert found.data["benchmarks"][3] == {"requests": Pruned(100), "rate": 3}
    json.dumps(found.data)


def test_an_array_is_pruned_inside_before_it_is_pruned_itself(tmp_path, small_limits):
    content = json.dumps({"a": {"few": [[0] * 100, [0] * 100], "many": [[0] * 100] * 50}})
    found = one(tmp_path, content)
    assert found.data == {"a": {"few": [Pruned(100), Pruned(100)], "many": Pruned(50)}}


@pytest.mark.parametrize("name", ["flat", "texts", "nested", "objects", "mixed"])
@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("change", [";", ",,", "]", "}", '"', "{", "[", "\\"])
def test_what_is_pruned_was_read(tmp_path, small_limits, name, place, change):
    """Damage anywhere in a large array is found, as `json.loads` would find it."""
    content = json.dumps({name: lists(100)[name], "after": 1})
    at = int(len(content) * place)
    at = content.index(", ", at) if change in ",," else at
    broken = content[:at] + change + content[at:]
    try:
        json.loads(broken)
    except ValueError:
        assert isinstance(one(tmp_path, broken), Rejection)
    else:
        assert isinstance(one(tmp_path, broken), Object)


def test_pieces_of_a_document(tmp_path):
    document = {
        "first": {"benchmarks": [{"no": 1}]},
        "benchmarks": [{"rate": 1, "prompt": "x", "in": [{"a": []}]}, 5, {}, {"rate": 2, "api_key": "k"}],
        "after": [{"no": 2}],
    }
    for indent in (None, 2):
        found = one(tmp_path, json.dumps(document, indent=indent))
        texts = pieces(found, "benchmarks")
        held = [item for item in found.data["benchmarks"] if isinstance(item, dict)]
        assert [json.loads(text) for text in texts] == held
        assert held[0] == {"rate": 1, "in": [{"a": []}]}
        assert held[2] == {"rate": 2, "api_key": REDACTED}
        assert all(text in found.text for text in texts)
        assert pieces(found, "none") == pieces(found, "first") == []


@pytest.mark.parametrize(
    "content", ["{}\n" + '{"a": "XX"}\n{}\n', '[{}, {"a": "XX"}, {}]', '{\n"a": "XX"}\n']
)
def test_what_is_too_large_is_named_and_not_held(tmp_path, monkeypatch, content):
    monkeypatch.setattr(framing, "LARGEST_BYTES", 2**21)
    found = objects(tmp_path, content.replace("XX", "x" * 2**22))
    rejected = [item for item in found if isinstance(item, Rejection)]
    assert len(rejected) == 1
    assert "at most 2097152 bytes of one object are read" in rejected[0].reason
    kept = [item for item in found if isinstance(item, Object)]
    # Lines are found again after a large one; in a document there is nothing to find them by.
    assert len(kept) == {"{": 2, "[": 1}[content[0]] * (content != '{\n"a": "XX"}\n')


def test_the_first_object_is_parsed_once(tmp_path, monkeypatch):
    path = tmp_path / "file.jsonl"
    path.write_text('{"cut\n{"a": 1}\n{"a": 2}\n')
    parsed = []
    read = source.read_object
    monkeypatch.setattr(source, "read_object", lambda piece: parsed.append(piece.number) or read(piece))
    file = Source(path)
    assert file.first == {"a": 1}
    assert file.trouble.line == 1
    assert [getattr(item, "number", None) for item in file.objects()] == [None, 2, 3]
    assert parsed == [1, 2, 3]
    assert [getattr(item, "number", None) for item in file.objects()] == [None, 2, 3]


def test_lines_of_a_log(tmp_path):
    path = tmp_path / "log"
    path.write_bytes("a é\r\n\n 10%\r 20%\nb".encode() + b"\xff\n")
    assert [(line.number, line.text) for line in Source(path).lines()] == [
        (1, "a é"),
        (3, " 10%"),
        (4, " 20%"),
        (5, "b\ufffd"),
    ]


PEAK = """
import resource, sys
from pathlib import Path
from perfdb.readers import source
source.LARGE_BYTES = 2**20
file = source.Source(Path(sys.argv[1]))
file.first
assert all(isinstance(item, source.Object) for item in file.objects())
try:
    # What getrusage says of a child is never below its parent's peak on Linux.
    print(int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) * 1024)
except OSError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_bytes(path: Path) -> int:
    command = [sys.executable, "-c", PEAK, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return int(done.stdout)


def test_memory_of_small_objects_inside_one_large_one(tmp_path):
    """8 MB of objects, which parsed at once would take 0.2 GB."""
    path = tmp_path / "large.json"
    path.write_text('{"requests": [' + '{"a": []}, ' * 700_000 + "{}]}")
    assert peak_bytes(path) < 90e6


def test_memory_does_not_grow_with_the_number_of_lines(tmp_path):
    path = tmp_path / "lines.jsonl"
    line = json.dumps({"itls": [[0.0123456789] * 100] * 100}) + "\n"
    path.write_text(line * 400)
    assert peak_bytes(path) < 60e6
