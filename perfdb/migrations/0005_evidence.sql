-- Configurations apart from runs, raw lines by their content, what each value was called and measured in, lines that
-- were refused, steps that server logs list, and which runs a profile was fitted on.

-- A name without case, `-`, `_`, `.` and spaces.
CREATE MACRO fold(name) AS regexp_replace(lower(name), '[^\p{L}\p{N}]', '', 'g');

-- The hash of a record: keys without a value do not count, so that a later key changes no old identity.
CREATE MACRO identity(record) AS left(sha256(CAST(json_merge_patch('{}', to_json(record)) AS VARCHAR)), 32);

CREATE TABLE configurations (
    config_id VARCHAR NOT NULL,
    engine VARCHAR,
    engine_version VARCHAR,
    engine_image VARCHAR,
    gpu VARCHAR,
    n_gpus BIGINT,
    tp BIGINT,
    dp BIGINT,
    ep BIGINT,
    pp BIGINT,
    expert_parallel BOOLEAN,
    disagg BOOLEAN,
    disagg_layout JSON,
    model VARCHAR,
    model_group VARCHAR,
    weight_quant VARCHAR,
    gemm_quant_src VARCHAR,
    moe_quant_src VARCHAR,
    kv_dtype VARCHAR,
    attention_backend VARCHAR,
    moe_backend VARCHAR,
    chunked_prefill_size BIGINT,
    mem_fraction DOUBLE,
    max_running_requests BIGINT,
    cuda_graph_max_bs BIGINT,
    stream_interval BIGINT,
    scheduler_recv_interval BIGINT,
    prefix_cache BOOLEAN,
    spec_decode BOOLEAN,
    spec_algorithm VARCHAR,
    spec_steps BIGINT,
    spec_draft_tokens BIGINT
);

ALTER TABLE run_records RENAME TO old_records;
DROP VIEW runs;

CREATE TABLE run_records (
    run_id VARCHAR NOT NULL,
    config_id VARCHAR NOT NULL,
    status VARCHAR NOT NULL,
    missing VARCHAR[] NOT NULL,
    dataset VARCHAR,
    isl BIGINT,
    osl BIGINT,
    mean_isl_actual DOUBLE,
    mean_osl_actual DOUBLE,
    range_ratio DOUBLE,
    load VARCHAR,
    concurrency BIGINT,
    request_rate DOUBLE,
    batch_size BIGINT,
    num_prompts BIGINT,
    num_warmups BIGINT,
    use_chat_template BOOLEAN,
    mean_ttft_ms DOUBLE,
    median_ttft_ms DOUBLE,
    std_ttft_ms DOUBLE,
    p90_ttft_ms DOUBLE,
    p95_ttft_ms DOUBLE,
    p99_ttft_ms DOUBLE,
    ttft_ms_unspecified DOUBLE,
    mean_tpot_ms DOUBLE,
    median_tpot_ms DOUBLE,
    std_tpot_ms DOUBLE,
    p90_tpot_ms DOUBLE,
    p95_tpot_ms DOUBLE,
    p99_tpot_ms DOUBLE,
    tpot_ms_unspecified DOUBLE,
    mean_itl_ms DOUBLE,
    median_itl_ms DOUBLE,
    std_itl_ms DOUBLE,
    p90_itl_ms DOUBLE,
    p95_itl_ms DOUBLE,
    p99_itl_ms DOUBLE,
    mean_e2e_ms DOUBLE,
    median_e2e_ms DOUBLE,
    std_e2e_ms DOUBLE,
    p90_e2e_ms DOUBLE,
    p95_e2e_ms DOUBLE,
    p99_e2e_ms DOUBLE,
    requests_s DOUBLE,
    input_tok_s DOUBLE,
    output_tok_s DOUBLE,
    total_tok_s DOUBLE,
    tok_s_per_gpu DOUBLE,
    duration_s DOUBLE,
    completed BIGINT,
    failed BIGINT,
    achieved_concurrency DOUBLE,
    cache_hit_rate_pct DOUBLE,
    accept_length DOUBLE,
    measured_on VARCHAR,
    ambiguous_config BOOLEAN,
    flags_variants JSON,
    extra JSON, -- keys that no column has
    stated JSON -- of every value that was converted: its name, value and unit in the file
);

CREATE TEMP TABLE moved AS
WITH lifted AS (
    SELECT
        * EXCLUDE (extra, content),
        CAST(extra ->> 'std_ttft_ms' AS DOUBLE) AS std_ttft_ms, CAST(extra ->> 'p90_ttft_ms' AS DOUBLE) AS
        p90_ttft_ms, CAST(extra ->> 'p95_ttft_ms' AS DOUBLE) AS p95_ttft_ms, CAST(extra ->> 'std_tpot_ms'
        AS DOUBLE) AS std_tpot_ms, CAST(extra ->> 'p90_tpot_ms' AS DOUBLE) AS p90_tpot_ms, CAST(extra ->>
        'p95_tpot_ms' AS DOUBLE) AS p95_tpot_ms, CAST(extra ->> 'median_itl_ms' AS DOUBLE) AS
        median_itl_ms, CAST(extra ->> 'std_itl_ms' AS DOUBLE) AS std_itl_ms, CAST(extra ->> 'p90_itl_ms'
        AS DOUBLE) AS p90_itl_ms, CAST(extra ->> 'p95_itl_ms' AS DOUBLE) AS p95_itl_ms, CAST(extra ->>
        'p99_itl_ms' AS DOUBLE) AS p99_itl_ms, CAST(extra ->> 'std_e2e_ms' AS DOUBLE) AS std_e2e_ms,
        CAST(extra ->> 'p90_e2e_ms' AS DOUBLE) AS p90_e2e_ms, CAST(extra ->> 'p95_e2e_ms' AS DOUBLE) AS
        p95_e2e_ms, CAST(extra ->> 'p99_e2e_ms' AS DOUBLE) AS p99_e2e_ms, CAST(extra ->> 'requests_s' AS
        DOUBLE) AS requests_s, CAST(extra ->> 'input_tok_s' AS DOUBLE) AS input_tok_s, CAST(extra ->>
        'duration_s' AS DOUBLE) AS duration_s, CAST(extra ->> 'completed' AS BIGINT) AS completed,
        CAST(extra ->> 'failed' AS BIGINT) AS failed, CAST(extra ->> 'achieved_concurrency' AS DOUBLE) AS
        achieved_concurrency, CAST(extra ->> 'cache_hit_rate_pct' AS DOUBLE) AS cache_hit_rate_pct,
        json_merge_patch(coalesce(extra, '{}'), '{"std_ttft_ms":null, "p90_ttft_ms":null, "p95_ttft_ms":null, "std_tpot_ms":null, "p90_tpot_ms":null, "p95_tpot_ms":null, "median_itl_ms":null, "std_itl_ms":null, "p90_itl_ms":null, "p95_itl_ms":null, "p99_itl_ms":null, "std_e2e_ms":null, "p90_e2e_ms":null, "p95_e2e_ms":null, "p99_e2e_ms":null, "requests_s":null, "input_tok_s":null, "duration_s":null, "completed":null, "failed":null, "achieved_concurrency":null, "cache_hit_rate_pct":null}') AS others
    FROM old_records
),
named AS (
    SELECT
        * EXCLUDE (others),
        CASE WHEN json_keys(others) != [] THEN others END AS extra,
        identity(struct_pack(
        engine := fold(engine), engine_version := engine_version, engine_image := engine_image, gpu :=
        fold(gpu), n_gpus := n_gpus, tp := tp, dp := dp, ep := ep, pp := pp, expert_parallel :=
        expert_parallel, disagg := disagg, disagg_layout := disagg_layout, model := fold(model),
        model_group := model_group, weight_quant := fold(weight_quant), gemm_quant_src := gemm_quant_src,
        moe_quant_src := moe_quant_src, kv_dtype := fold(kv_dtype), attention_backend :=
        attention_backend, moe_backend := moe_backend, chunked_prefill_size := chunked_prefill_size,
        mem_fraction := mem_fraction, max_running_requests := max_running_requests, cuda_graph_max_bs :=
        cuda_graph_max_bs, stream_interval := stream_interval, scheduler_recv_interval :=
        scheduler_recv_interval, prefix_cache := prefix_cache, spec_decode := spec_decode, spec_algorithm
        := spec_algorithm, spec_steps := spec_steps, spec_draft_tokens := spec_draft_tokens
        )) AS config_id
    FROM lifted
)
SELECT
    * RENAME (run_id AS old_id),
    identity(struct_pack(
        config_id := config_id,
        dataset := dataset, isl := isl, osl := osl, mean_isl_actual := mean_isl_actual, mean_osl_actual :=
        mean_osl_actual, range_ratio := range_ratio, load := load, concurrency := concurrency,
        request_rate := request_rate, batch_size := batch_size, num_prompts := num_prompts, num_warmups :=
        num_warmups, use_chat_template := use_chat_template, mean_ttft_ms := mean_ttft_ms, median_ttft_ms
        := median_ttft_ms, std_ttft_ms := std_ttft_ms, p90_ttft_ms := p90_ttft_ms, p95_ttft_ms :=
        p95_ttft_ms, p99_ttft_ms := p99_ttft_ms, ttft_ms_unspecified := ttft_ms_unspecified, mean_tpot_ms
        := mean_tpot_ms, median_tpot_ms := median_tpot_ms, std_tpot_ms := std_tpot_ms, p90_tpot_ms :=
        p90_tpot_ms, p95_tpot_ms := p95_tpot_ms, p99_tpot_ms := p99_tpot_ms, tpot_ms_unspecified :=
        tpot_ms_unspecified, mean_itl_ms := mean_itl_ms, median_itl_ms := median_itl_ms, std_itl_ms :=
        std_itl_ms, p90_itl_ms := p90_itl_ms, p95_itl_ms := p95_itl_ms, p99_itl_ms := p99_itl_ms,
        mean_e2e_ms := mean_e2e_ms, median_e2e_ms := median_e2e_ms, std_e2e_ms := std_e2e_ms, p90_e2e_ms
        := p90_e2e_ms, p95_e2e_ms := p95_e2e_ms, p99_e2e_ms := p99_e2e_ms, requests_s := requests_s,
        input_tok_s := input_tok_s, output_tok_s := output_tok_s, total_tok_s := total_tok_s,
        tok_s_per_gpu := tok_s_per_gpu, duration_s := duration_s, completed := completed, failed :=
        failed, achieved_concurrency := achieved_concurrency, cache_hit_rate_pct := cache_hit_rate_pct,
        accept_length := accept_length, measured_on := measured_on, ambiguous_config := ambiguous_config,
        flags_variants := flags_variants,
        extra := extra
    )) AS run_id,
    CAST(NULL AS JSON) AS stated
FROM named;

INSERT INTO configurations BY NAME
SELECT config_id,
    engine, engine_version, engine_image, gpu, n_gpus, tp, dp, ep, pp, expert_parallel, disagg,
    disagg_layout, model, model_group, weight_quant, gemm_quant_src, moe_quant_src, kv_dtype,
    attention_backend, moe_backend, chunked_prefill_size, mem_fraction, max_running_requests,
    cuda_graph_max_bs, stream_interval, scheduler_recv_interval, prefix_cache, spec_decode,
    spec_algorithm, spec_steps, spec_draft_tokens
FROM moved
QUALIFY row_number() OVER (PARTITION BY config_id) = 1;

INSERT INTO run_records BY NAME
SELECT run_id, config_id, status, missing,
    dataset, isl, osl, mean_isl_actual, mean_osl_actual, range_ratio, load, concurrency, request_rate,
    batch_size, num_prompts, num_warmups, use_chat_template, mean_ttft_ms, median_ttft_ms, std_ttft_ms,
    p90_ttft_ms, p95_ttft_ms, p99_ttft_ms, ttft_ms_unspecified, mean_tpot_ms, median_tpot_ms, std_tpot_ms,
    p90_tpot_ms, p95_tpot_ms, p99_tpot_ms, tpot_ms_unspecified, mean_itl_ms, median_itl_ms, std_itl_ms,
    p90_itl_ms, p95_itl_ms, p99_itl_ms, mean_e2e_ms, median_e2e_ms, std_e2e_ms, p90_e2e_ms, p95_e2e_ms,
    p99_e2e_ms, requests_s, input_tok_s, output_tok_s, total_tok_s, tok_s_per_gpu, duration_s, completed,
    failed, achieved_concurrency, cache_hit_rate_pct, accept_length, measured_on, ambiguous_config,
    flags_variants,
    extra, stated
FROM moved
QUALIFY row_number() OVER (PARTITION BY run_id) = 1;

CREATE TEMP TABLE texts AS
SELECT file_sha256, line, sha256(text) AS line_sha256, text FROM raw_lines;

DROP TABLE raw_lines;

CREATE TABLE raw_lines (
    line_sha256 VARCHAR NOT NULL, -- of the text as it is kept: without generated texts, prompts and secrets
    text VARCHAR NOT NULL USING COMPRESSION zstd
);

INSERT INTO raw_lines SELECT DISTINCT line_sha256, text FROM texts;

ALTER TABLE run_sources RENAME TO old_sources;

CREATE TABLE run_sources (
    number BIGINT NOT NULL, -- in the order in which they came in
    run_id VARCHAR NOT NULL,
    file_sha256 VARCHAR NOT NULL,
    line BIGINT NOT NULL,
    line_sha256 VARCHAR NOT NULL,
    context JSON, -- what was said beside the file
    source VARCHAR,
    src_ref VARCHAR,
    licence VARCHAR,
    attribution VARCHAR,
    notes VARCHAR,
    flags_source VARCHAR,
    flags_confidence VARCHAR
);

INSERT INTO run_sources BY NAME
SELECT
    o.* REPLACE (m.run_id AS run_id, coalesce(t.line_sha256, o.line_sha256) AS line_sha256)
FROM old_sources o
JOIN moved m ON o.run_id = m.old_id
LEFT JOIN texts t ON t.file_sha256 = o.file_sha256 AND t.line = o.line;

UPDATE flags SET run_id = moved.run_id FROM moved WHERE flags.run_id = moved.old_id;

ALTER TABLE startup_sources RENAME TO old_startup_sources;

CREATE TABLE startup_sources (
    startup_id VARCHAR NOT NULL,
    file_sha256 VARCHAR NOT NULL,
    line BIGINT NOT NULL,
    line_sha256 VARCHAR,
    source VARCHAR,
    src_ref VARCHAR,
    licence VARCHAR,
    attribution VARCHAR,
    notes VARCHAR
);

INSERT INTO startup_sources BY NAME
SELECT o.*, t.line_sha256
FROM old_startup_sources o
LEFT JOIN texts t ON t.file_sha256 = o.file_sha256 AND t.line = o.line;

DROP TABLE old_records;
DROP TABLE old_sources;
DROP TABLE old_startup_sources;
DROP TABLE moved;
DROP TABLE texts;
DROP SEQUENCE run_source_number;

ALTER TABLE files ADD COLUMN metadata JSON; -- what holds for the whole file: the tool, its version, its machine

CREATE TABLE rejected_lines (
    file_sha256 VARCHAR NOT NULL,
    line BIGINT NOT NULL,
    reason VARCHAR NOT NULL
);

-- Steps of the engine as its log lists them; counts of requests and tokens, rates in tokens per second.
CREATE TABLE server_steps (
    file_sha256 VARCHAR NOT NULL,
    line BIGINT NOT NULL,
    startup_id VARCHAR, -- the start that they follow in the log
    logged_at VARCHAR, -- the time as the log writes it
    rank VARCHAR,
    phase VARCHAR NOT NULL, -- prefill, decode, or interval where the log sums up both
    new_seqs BIGINT,
    new_tokens BIGINT,
    cached_tokens BIGINT,
    running BIGINT,
    queued BIGINT,
    used_tokens BIGINT,
    token_usage DOUBLE, -- share of the KV pool
    gen_tok_s DOUBLE,
    input_tok_s DOUBLE,
    accept_length DOUBLE,
    cuda_graph BOOLEAN,
    extra JSON
);

-- Runs that a more complete record of the same line has taken the place of.
CREATE TABLE superseded_runs (
    run_id VARCHAR NOT NULL,
    by_run_id VARCHAR NOT NULL,
    superseded_at TIMESTAMP NOT NULL
);

-- The runs that a profile was fitted on.
CREATE TABLE profile_runs (
    name VARCHAR NOT NULL,
    version VARCHAR NOT NULL,
    run_id VARCHAR NOT NULL
);

CREATE VIEW runs AS
WITH first_source AS (
    SELECT run_id, arg_min(run_sources, number) AS s FROM run_sources GROUP BY run_id
),
all_sources AS (
    SELECT run_id, list_sort(list(DISTINCT source)) AS sources FROM run_sources GROUP BY run_id
),
all_flags AS (
    SELECT run_id, list_sort(list(DISTINCT flag)) AS flags FROM flags GROUP BY run_id
)
SELECT
    r.run_id,
    r.status,
    r.missing,
    a.sources,
    coalesce(f.flags, []) AS flags,
    s.s.source AS source,
    s.s.src_ref AS src_ref,
    s.s.licence AS licence,
    s.s.attribution AS attribution,
    s.s.notes AS notes,
    s.s.flags_source AS flags_source,
    s.s.flags_confidence AS flags_confidence,
    c.* EXCLUDE (config_id),
    r.* EXCLUDE (run_id, config_id, status, missing, extra, stated),
    r.config_id,
    r.extra,
    r.stated
FROM run_records r
JOIN configurations c USING (config_id)
LEFT JOIN first_source s USING (run_id)
LEFT JOIN all_sources a USING (run_id)
LEFT JOIN all_flags f USING (run_id);
