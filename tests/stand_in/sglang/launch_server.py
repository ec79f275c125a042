"""`python -m sglang.launch_server` without SGLang: the flags that the tests give it, any other is refused."""

import argparse
import json

from stand_in_engine import DATA, serve

parser = argparse.ArgumentParser(prog="launch_server.py")
for flag in (
    "--model-path",
    "--host",
    "--kv-cache-dtype",
    "--quantization",
    "--dtype",
    "--attention-backend",
    "--device",
):
    parser.add_argument(flag)
for flag in ("--port", "--tp-size", "--context-length", "--max-running-requests", "--chunked-prefill-size"):
    parser.add_argument(flag, type=int)
parser.add_argument("--mem-fraction-static", type=float)
parser.add_argument("--disable-radix-cache", action="store_true")
given = parser.parse_args()

info = json.loads((DATA / "sglang" / "server_info_0.5.23.json").read_text())
said = {
    "model_path": given.model_path, "tokenizer_path": given.model_path, "served_model_name": given.model_path,
    "host": given.host, "port": given.port, "tp_size": given.tp_size or 1,
    "disable_radix_cache": given.disable_radix_cache, "kv_cache_dtype": given.kv_cache_dtype or "auto",
}  # fmt: skip
serve(given.host, given.port, DATA / "sglang" / "server_0.5.23.log", {"/server_info": info | said})
