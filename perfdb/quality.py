"""Quality rules over the stored runs that need no physics: each names the runs it doubts, and why.

Every rule is SQL over the whole store at once. Those of `ALONE` look at one run at a time, as an expression that gives
the reason, null where there is nothing to doubt. Those of `TOGETHER` compare runs. Rules that need a model of
the engine live above the store and write their own flags through it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from perfdb.keys import CONFIGURATION, KEYS, WORKLOAD

if TYPE_CHECKING:
    import duckdb

ORIGIN: Final = "rule"

NEAR_TPOT: Final = 0.002
NEAR_TTFT: Final = 0.005
"""Two runs of one configuration this close are one measurement copied twice: real repeats differ by 0.6 to
1.4 % in TPOT and by 7 to 12 % in TTFT."""
EXACT: Final = 1e-9
"""Relative difference below which two figures are one number written twice."""
AMBIGUOUS_TPOT: Final = 1.25
BLOCK_POINTS: Final = 2
"""Points at which two deployments must have equal TTFT and TPOT to be called one report under two names. One such
point may be chance where figures are rounded."""
QUEUEING_SHARE: Final = 0.35
QUEUEING_CONCURRENCY: Final = 1024
QUEUEING_MIN_OSL: Final = 512
"""With shorter outputs one wave of prefills alone can reach that share of the decode time."""
BATCH_SHARE: Final = 0.6
"""Share of the requests in flight that decode at least where nothing but prefill holds the others back, with answers
as long as `QUEUEING_MIN_OSL`. Where settings are recorded, published runs stay above it."""
MOST_IN_FLIGHT: Final = 1.25
"""Requests in flight over the concurrency, by Little's law. Published runs end at 1.16: a mean over requests of
different lengths is not their total over all tokens. Reports that give total for output tokens begin at 1.8."""
TOTALS_APART: Final = 1.05
"""Published runs whose lengths were counted agree within 0.9 %."""
POLLUTED_RATIO: Final = 3.0
POLLUTED_WAVES: Final = 5.0
"""In a closed loop the first prompts come at once, and all but one wait: that adds up to C^2 / 2 prefills over a run.
Published runs with a warm engine reach two times that; those with kernels compiled in the run 65 to 1400 times."""
LUMPED_ITL_MS: Final = 0.05
LUMPED_SHARE: Final = 0.6
LUMPED_MIN_OSL: Final = 64
"""Signature of a stream whose chunks were read together, from runs of one engine by two clients on a CPU."""
STREAMED_A_SECOND: Final = 12000
"""Chunks a second from one server, above which Python hosts have no time left for new requests: the published runs of
the smallest models stream 13 to 24 thousand tokens a second, and their TTFT grows as the model shrinks."""
CACHED_PCT: Final = 5.0
"""A chat template alone, common to all prompts, is a smaller share of prompts of a hundred tokens and more."""

_TPOT = "coalesce(mean_tpot_ms, tpot_ms_unspecified, median_tpot_ms)"
_TTFT = "coalesce(mean_ttft_ms, ttft_ms_unspecified, median_ttft_ms)"
_OSL = "coalesce(mean_osl_actual, osl)"
_LENGTHS = "(mean_isl_actual + mean_osl_actual)"
_DRAWN_OSL = "coalesce(mean_osl_actual, osl * (1 + coalesce(range_ratio, 1)) / 2)"
_SAMPLES = "coalesce(completed, num_prompts)"
_QUICKEST = "least({0}, coalesce(median_{1}_ms, {0}))"
"""Where lengths differ much, a mean over requests weighs the short and slow ones too high; the lower of the two
statistics accuses nobody wrongly."""
_E2E = (
    f"coalesce(mean_e2e_ms, coalesce({_QUICKEST.format(_TTFT, 'ttft')}, 0) "
    f"+ {_QUICKEST.format(_TPOT, 'tpot')} * ({_DRAWN_OSL} - 1))"
)
_IN_FLIGHT = f"output_tok_s / {_DRAWN_OSL} * {_E2E} / 1000"

ALONE: Final[dict[str, str]] = {
    "speculative_unknown": """
        CASE WHEN spec_decode IS NULL THEN 'speculative decoding is not recorded' END""",
    "speculative_variants": """
        CASE WHEN len(list_distinct(list_transform(
            json_extract(flags_variants, '$[*]'), lambda one: coalesce(one ->> 'spec_decode', 'unknown')
        ))) > 1 THEN 'launch scripts with and without speculative decoding both fit' END""",
    "length_unknown": """
        CASE WHEN coalesce(isl, mean_isl_actual) IS NULL OR coalesce(osl, mean_osl_actual) IS NULL
        THEN 'neither nominal nor counted lengths are recorded' END""",
    # A client that draws from [1, N] has half of the nominal length on average.
    "length_spread_unknown": """
        CASE WHEN isl IS NOT NULL AND osl IS NOT NULL AND range_ratio IS NULL
            AND (mean_isl_actual IS NULL OR mean_osl_actual IS NULL)
        THEN 'nominal lengths only: neither their spread nor counted means are recorded' END""",
    "precision_unknown": """
        CASE WHEN weight_quant IS NULL AND gemm_quant_src IS NULL THEN 'the weight format is not recorded' END""",
    "expert_width_doubtful": """
        CASE
            WHEN expert_parallel AND coalesce(ep, 1) = 1 AND tp > 1
                THEN 'ep 1 is recorded, the script turns expert parallelism on'
            WHEN NOT expert_parallel AND ep > 1
                THEN 'ep above 1 is recorded, the script turns no expert parallelism on'
        END""",
    "cold_first_wave": """
        CASE WHEN num_warmups = 0 THEN 'no warm-up requests: the first wave that counts is cold' END""",
    # TTFT is mostly waiting in line; TPOT stands.
    "queueing": f"""
        CASE
            WHEN load = 'burst' THEN 'all prompts were sent at once'
            WHEN concurrency >= {QUEUEING_CONCURRENCY} THEN 'concurrency of {QUEUEING_CONCURRENCY} or more'
            WHEN {_TTFT} > {QUEUEING_SHARE} * {_TPOT} * {_OSL} AND {_OSL} >= {QUEUEING_MIN_OSL}
                THEN 'TTFT above {QUEUEING_SHARE:.0%} of the decode time'
        END""",
    # Little's law again: requests that decode are output tokens per second x the time that each takes.
    "batch_limit_unknown": f"""
        CASE WHEN load = 'closed' AND max_running_requests IS NULL AND {_OSL} >= {QUEUEING_MIN_OSL}
            AND output_tok_s * {_TPOT} / 1000 < {BATCH_SHARE} * concurrency
        THEN format('{{:.3g}} of {{}} requests in flight were decoding: the limit that held the others back is not '
            'recorded', output_tok_s * {_TPOT} / 1000, concurrency) END""",
    # Little's law: requests in flight are requests per second x the time each of them takes.
    "throughput_contradiction": f"""
        CASE
            WHEN load = 'closed' AND {_IN_FLIGHT} > {MOST_IN_FLIGHT} * concurrency
                THEN format('{{:.4g}} output tokens/s at these latencies need {{:.3g}} requests in flight, of which '
                    'the concurrency allows {{}}', output_tok_s, {_IN_FLIGHT}, concurrency)
            WHEN abs(ln(total_tok_s * mean_osl_actual / (output_tok_s * {_LENGTHS}))) > ln({TOTALS_APART})
                THEN format('{{:.4g}} tokens/s in all and {{:.4g}} out do not stand to each other as the counted '
                    'lengths do', total_tok_s, output_tok_s)
            WHEN abs(ln(tok_s_per_gpu * n_gpus / output_tok_s)) > ln({TOTALS_APART})
                THEN format('{{:.4g}} output tokens/s a GPU on {{}} GPUs are not {{:.4g}} in all',
                    tok_s_per_gpu, n_gpus, output_tok_s)
        END""",
    "polluted_mean": f"""
        CASE WHEN load = 'closed' AND mean_ttft_ms > {POLLUTED_RATIO} * median_ttft_ms
            AND (concurrency = 1 OR (mean_ttft_ms - median_ttft_ms) * {_SAMPLES}
                > {POLLUTED_WAVES} * median_ttft_ms * concurrency * concurrency / 2)
        THEN format('mean TTFT is {{:.1f}} times the median, more than prompts that come {{}} at a time explain: '
            'cold kernels, compilation or a client that lags', mean_ttft_ms / median_ttft_ms, concurrency) END""",
    # No line of C prompts takes longer than C x ISL decode steps: a step takes no less than one prompt token does.
    "lumped_stream": f"""
        CASE
            WHEN median_itl_ms < {LUMPED_ITL_MS}
                THEN format('median ITL of {{:.2g}} ms: chunks were read together', median_itl_ms)
            WHEN load = 'closed' AND {_OSL} >= {LUMPED_MIN_OSL}
                AND {_TTFT} > {LUMPED_SHARE} * coalesce(mean_e2e_ms, {_TTFT} + {_TPOT} * ({_OSL} - 1))
                AND {_TTFT} > concurrency * coalesce(mean_isl_actual, isl) * {_TPOT}
                THEN 'TTFT is most of the end-to-end time and more than any line of prompts takes: chunks were '
                    'read together'
        END""",
    # Many instances have many hosts; scripts of TensorRT-LLM set an interval that tables do not record.
    "host_bound": f"""
        CASE WHEN load = 'closed' AND engine != 'trtllm' AND disagg IS NOT TRUE
            AND concurrency / {_TPOT} * 1000 / coalesce(stream_interval, 1) > {STREAMED_A_SECOND}
        THEN format('{{:.3g}} thousand chunks a second from one server: TTFT is the wait for a busy host',
            concurrency / {_TPOT} / coalesce(stream_interval, 1)) END""",
    "cached_prompts": f"""
        CASE WHEN cache_hit_rate_pct > {CACHED_PCT}
        THEN format('{{:.3g}} % of the prompt tokens came from the cache: TTFT is not that of whole prompts',
            cache_hit_rate_pct) END""",
}
"""Rules that look at one run at a time: name of the flag, and the reason as SQL over the columns of a run."""

TOGETHER: Final = ("repeat", "near_repeat", "mirrored_model", "copied_report", "ambiguous_config")
"""Rules that compare runs.

repeat, near_repeat
    A run that another one of the same deployment and workload equals to the last digit, or when rounded. Of two, the
    one with less metadata is the copy; with equal metadata, the one that came later.
mirrored_model
    A repeat under another model name of the same family.
copied_report
    Two deployments of different model, GPU or engine with equal figures at several points: one report stands under two
    names. Both are doubted, since figures do not say which is the copy.
ambiguous_config
    Runs of one recorded configuration and workload that differ so much that an unrecorded setting must differ.

Repeats that carry their `occasion` were measured as such: near ones are no copies, far ones differ by their occasion
and by noise.
"""

RULES: Final = (*TOGETHER, *ALONE)
"""Names of all rules."""

# What every copy of a run keeps, and what it must not contradict where both copies still have it.
_KEPT_DEPLOYMENT: Final = ("engine", "disagg")
_KEPT_WORKLOAD: Final = ("isl", "osl", "load", "concurrency", "request_rate", "batch_size")
_COMPATIBLE_DEPLOYMENT: Final = (
    "n_gpus", "tp", "dp", "ep", "pp", "disagg_layout", "weight_quant", "spec_decode",
)  # fmt: skip
_COMPATIBLE_WORKLOAD: Final = ("dataset", "range_ratio", "mean_isl_actual", "mean_osl_actual")


def refresh(connection: duckdb.DuckDBPyConnection, run_ids: Iterable[str] | None = None) -> dict[str, int]:
    """Compute the flags of every rule anew.

    Parameters
    ----------
    connection : DuckDBPyConnection
        Its present schema is a store's; the caller holds the transaction.
    run_ids : iterable of str, optional
        Runs that are new or changed: rules that look at one run at a time then leave all others as they are.

    Returns
    -------
    dict of str to int
        Number of runs under each rule that doubts any, over the whole store.
    """
    run = connection.execute
    scope = ""
    if run_ids is not None:
        run(
            "CREATE OR REPLACE TEMP TABLE fresh AS SELECT DISTINCT unnest($1::VARCHAR[]) AS run_id",
            [list(run_ids)],
        )
        scope = "WHERE run_id IN (FROM fresh)"
    run(f"CREATE OR REPLACE TEMP TABLE doubts AS {_alone(scope)}")
    run(f"CREATE OR REPLACE TEMP TABLE placed AS {_PLACED}")
    run(f"INSERT INTO doubts {_AMBIGUOUS}")
    run(f"INSERT INTO doubts {_COPIED}")
    _copies(connection)
    run(f"INSERT INTO doubts {_REPEATS}")
    replaced = f"AND (run_id IN (FROM fresh) OR flag IN {TOGETHER})" if scope else ""
    run(f"DELETE FROM flags WHERE origin = '{ORIGIN}' {replaced}")
    run(f"INSERT INTO flags BY NAME SELECT run_id, flag, reason, '{ORIGIN}' AS origin FROM doubts")
    for table in ("doubts", "placed", "twins", "edges", "unsettled", "settled", "copied", "copies"):
        run(f"DROP TABLE IF EXISTS {table}")
    rows = run(
        f"SELECT flag, count(*) FROM flags WHERE origin = '{ORIGIN}' GROUP BY flag ORDER BY flag"
    ).fetchall()
    return {flag: int(count) for flag, count in rows}


def judge(connection: duckdb.DuckDBPyConnection, run_ids: Iterable[str]) -> dict[str, list[str]]:
    """Set the flags of the rules that look at one run at a time, on some runs.

    Parameters
    ----------
    connection : DuckDBPyConnection
        Its present schema is a store's; the caller holds the transaction.
    run_ids : iterable of str

    Returns
    -------
    dict of str to list of str
        Run -> its flags.
    """
    run, chosen = connection.execute, list(run_ids)
    run("CREATE OR REPLACE TEMP TABLE fresh AS SELECT DISTINCT unnest($1::VARCHAR[]) AS run_id", [chosen])
    doubts = run(_alone("WHERE run_id IN (FROM fresh)")).fetchall()
    run(f"DELETE FROM flags WHERE origin = '{ORIGIN}' AND run_id IN (FROM fresh) AND flag IN {tuple(ALONE)}")
    for each in doubts:
        run(
            f"INSERT INTO flags BY NAME SELECT $1 AS run_id, $2 AS flag, $3 AS reason, '{ORIGIN}' AS origin",
            each,
        )
    return {name: [flag for run_id, flag, _ in doubts if run_id == name] for name in chosen}


def _alone(scope: str) -> str:
    """Return the query of every doubt about a run by itself, in one pass over the runs."""
    doubts = ", ".join(
        f"{{'flag': '{name}', 'reason': CAST({reason} AS VARCHAR)}}" for name, reason in ALONE.items()
    )
    return f"""
    SELECT run_id, unnest(doubts, recursive := true)
    FROM (
        SELECT run_id, list_filter([{doubts}], lambda one: one.reason IS NOT NULL) AS doubts
        FROM (FROM run_records {scope}) JOIN configurations USING (config_id)
    )"""


def _hashed(columns: Iterable[str]) -> str:
    return f"hash({', '.join(columns)})"


def _there(keys: Iterable[str]) -> str:
    """Return the SQL expression of how many of the columns have a value."""
    return " + ".join(f"CAST({key} IS NOT NULL AS BIGINT)" for key in keys)


_PLACED: Final = f"""
SELECT run_id, config_id, who, device, place, number, src_ref, tpot, ttft,
    {_hashed(["config_id", *WORKLOAD])} AS setting,
    {_hashed(["who", *_KEPT_WORKLOAD])} AS spot,
    {_hashed(["who", "tpot", "ttft", "agreed", *_KEPT_WORKLOAD, *_COMPATIBLE_WORKLOAD])} AS twin,
    -- Of a pair the one with the lower rank is kept.
    number - ((known + {_there(key for key in KEYS if key not in CONFIGURATION)}) << 40) AS rank,
    ambiguous_config AS stated, occasion IS NOT NULL AS controlled
FROM (
    SELECT *, {_TPOT} AS tpot, {_TTFT} AS ttft, {_hashed(_KEPT_WORKLOAD)} AS place,
        extra -> '$.occasion' AS occasion
    FROM run_records
)
JOIN (
    SELECT config_id, coalesce(model_group, model) AS family,
        {_hashed(["family", "fold(gpu)", *_KEPT_DEPLOYMENT])} AS who,
        CASE WHEN family IS NOT NULL AND gpu IS NOT NULL AND engine IS NOT NULL
            THEN {_hashed(["fold(family)", "fold(gpu)", "engine"])} END AS device,
        {_hashed(_COMPATIBLE_DEPLOYMENT)} AS agreed,
        {_there(CONFIGURATION)} AS known
    FROM configurations
) USING (config_id)
JOIN (
    SELECT run_id, min(number) AS number, arg_min_null(src_ref, number) AS src_ref FROM run_sources GROUP BY run_id
) USING (run_id)
"""
"""Every run with hashes of what it is compared by: `who` and `place` are the deployment and the workload as every copy
keeps them, `spot` is both, `device` is model, GPU and engine where all are known, `setting` is
everything that is recorded, `twin` all that a copy is known by."""

_AMBIGUOUS: Final = f"""
SELECT run_id, 'ambiguous_config' AS flag,
    CASE WHEN ratio IS NOT NULL
        THEN format('runs of this recorded configuration differ by {{:.2f}}x in TPOT', ratio)
        ELSE 'marked so in its source table: equal recorded configurations differ in TPOT' END AS reason
FROM placed
LEFT JOIN (
    SELECT setting, controlled, max(tpot) / min(tpot) AS ratio FROM placed GROUP BY ALL
    HAVING NOT controlled AND ratio > {AMBIGUOUS_TPOT}
) USING (setting, controlled)
WHERE ratio IS NOT NULL OR stated
"""

_COPIED: Final = f"""
WITH twins AS (
    SELECT one.run_id, other.run_id AS other_id, one.config_id, other.config_id AS other_config
    FROM placed AS one JOIN placed AS other
        ON one.place = other.place AND CAST(one.tpot AS FLOAT) = CAST(other.tpot AS FLOAT)
        AND CAST(one.ttft AS FLOAT) = CAST(other.ttft AS FLOAT)
    WHERE one.device != other.device
)
SELECT run_id, 'copied_report' AS flag,
    format('TTFT and TPOT equal those of run {{}} of another model, GPU or engine, here and at {{}} more points: one '
        'of the two reports is a copy', min(other_id), max(points) - 1) AS reason
FROM twins
JOIN (
    SELECT config_id, other_config, count(DISTINCT run_id) AS points
    FROM twins GROUP BY ALL HAVING points >= {BLOCK_POINTS}
) USING (config_id, other_config)
GROUP BY run_id
"""

_TWINS: Final = """
SELECT run_id, leader FROM placed
JOIN (
    SELECT twin, min(rank) AS first, arg_min(run_id, rank) AS leader, arg_min_null(src_ref, rank) AS leader_ref
    FROM placed WHERE tpot IS NOT NULL AND ttft IS NOT NULL GROUP BY twin HAVING count(*) > 1
) USING (twin)
WHERE rank > first AND src_ref IS DISTINCT FROM leader_ref
"""
"""Runs that equal another in everything a copy is known by. They go where that one goes: comparing each with each
would take the square of their number."""

_WIDTH: Final = NEAR_TPOT * 1.01
"""Width of a cell of ln TPOT: runs that are near lie in one cell or in two side by side."""

_EDGES: Final = f"""
WITH single AS (
    SELECT run_id, config_id, spot, rank, src_ref, tpot, ttft, controlled,
        CAST(floor(ln(tpot) / {_WIDTH}) AS INTEGER) AS cell
    FROM placed ANTI JOIN twins USING (run_id) WHERE tpot IS NOT NULL AND ttft IS NOT NULL
)
SELECT one.run_id, one.config_id, one.rank, other.run_id AS copy_id, other.config_id AS copy_config,
    greatest(abs(other.tpot / one.tpot - 1), abs(other.ttft / one.ttft - 1)) <= {EXACT} AS exact
FROM (SELECT *, unnest([cell - 1, cell, cell + 1]) AS near_cell FROM single) AS one
JOIN single AS other ON one.spot = other.spot AND one.near_cell = other.cell
WHERE one.rank < other.rank AND one.src_ref IS DISTINCT FROM other.src_ref
    AND NOT (one.controlled AND other.controlled)
    AND abs(other.tpot / one.tpot - 1) <= {NEAR_TPOT} AND abs(other.ttft / one.ttft - 1) <= {NEAR_TTFT}
"""
"""Pairs of runs that are near; runs told apart by one source are no copies."""


def _compatible(keys: Iterable[str], one: str, other: str) -> str:
    return " AND ".join(f"coalesce({one}.{key} = {other}.{key}, true)" for key in keys)


_AGREEING: Final = f"""
SELECT edges.run_id, rank, copy_id, exact
FROM edges
JOIN run_records a ON a.run_id = edges.run_id
JOIN run_records b ON b.run_id = edges.copy_id
JOIN configurations c ON c.config_id = edges.config_id
JOIN configurations d ON d.config_id = edges.copy_config
WHERE {_compatible(_COMPATIBLE_WORKLOAD, "a", "b")} AND {_compatible(_COMPATIBLE_DEPLOYMENT, "c", "d")}
"""
"""Of those, the pairs that contradict each other nowhere."""


def _copies(connection: duckdb.DuckDBPyConnection) -> None:
    """Leave in `copies` each run that is a copy, the run it copies, and whether to the last digit.

    A run is a copy if it is near one that is none and goes before it. Each round of the loop settles those runs
    that nothing unsettled goes before.
    """
    run = connection.execute
    run(f"CREATE OR REPLACE TEMP TABLE twins AS {_TWINS}")
    run(f"CREATE OR REPLACE TEMP TABLE edges AS {_EDGES}")
    run(f"CREATE OR REPLACE TEMP TABLE edges AS {_AGREEING}")
    run("CREATE OR REPLACE TEMP TABLE unsettled AS SELECT run_id, copy_id FROM edges")
    run("CREATE OR REPLACE TEMP TABLE copied (run_id VARCHAR)")
    while run("SELECT count(*) FROM unsettled").fetchone() != (0,):
        run(
            "CREATE OR REPLACE TEMP TABLE settled AS SELECT run_id, copy_id FROM unsettled "
            "WHERE run_id NOT IN (SELECT copy_id FROM unsettled)"
        )
        run("INSERT INTO copied SELECT DISTINCT copy_id FROM settled")
        run(
            "DELETE FROM unsettled WHERE run_id IN (SELECT run_id FROM settled) "
            "OR run_id IN (SELECT copy_id FROM settled) OR copy_id IN (SELECT copy_id FROM settled)"
        )
    run(
        "CREATE OR REPLACE TEMP TABLE copies AS SELECT copy_id AS run_id, arg_min(run_id, rank) AS kept_id, "
        "arg_min(exact, rank) AS exact FROM edges WHERE run_id NOT IN (FROM copied) GROUP BY copy_id"
    )
    run(
        "INSERT INTO copies SELECT twins.run_id, coalesce(kept_id, leader), coalesce(exact, true) "
        "FROM twins LEFT JOIN copies ON copies.run_id = leader"
    )


_SHORT = "fold(regexp_replace({}.model, '^.*/', ''))"

_REPEATS: Final = f"""
SELECT run_id, CASE WHEN exact THEN 'repeat' ELSE 'near_repeat' END AS flag,
    CASE WHEN exact
        THEN format('TTFT and TPOT equal those of run {{}}, which has more metadata or came first', kept_id)
        ELSE format('TPOT within {NEAR_TPOT:.1%} and TTFT within {NEAR_TTFT:.1%} of run {{}}', kept_id) END AS reason
FROM copies
UNION ALL
SELECT copies.run_id, 'mirrored_model',
    format('TTFT and TPOT equal those of run {{}}, which names the model {{}}', kept_id, d.model)
FROM copies
JOIN placed a ON a.run_id = copies.run_id
JOIN placed b ON b.run_id = kept_id
JOIN configurations c ON c.config_id = a.config_id
JOIN configurations d ON d.config_id = b.config_id
WHERE exact AND {_SHORT.format("c")} != {_SHORT.format("d")}
"""
