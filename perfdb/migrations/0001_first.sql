-- Files, raw lines, runs with their sources and flags, profiles; the view `runs` has one row a run.

CREATE TABLE files (
    sha256 VARCHAR PRIMARY KEY,
    name VARCHAR NOT NULL,
    format VARCHAR NOT NULL,
    ingested_at TIMESTAMP NOT NULL,
    lines BIGINT NOT NULL
);

CREATE TABLE raw_lines (
    file_sha256 VARCHAR NOT NULL,
    line BIGINT NOT NULL,
    text VARCHAR NOT NULL
);

CREATE TABLE run_records (
    run_id VARCHAR PRIMARY KEY,
    status VARCHAR NOT NULL,
    missing VARCHAR[] NOT NULL,
    content JSON NOT NULL,
    extra JSON,
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
    spec_draft_tokens BIGINT,
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
    p99_ttft_ms DOUBLE,
    ttft_ms_unspecified DOUBLE,
    mean_tpot_ms DOUBLE,
    median_tpot_ms DOUBLE,
    p99_tpot_ms DOUBLE,
    tpot_ms_unspecified DOUBLE,
    mean_itl_ms DOUBLE,
    mean_e2e_ms DOUBLE,
    median_e2e_ms DOUBLE,
    output_tok_s DOUBLE,
    total_tok_s DOUBLE,
    tok_s_per_gpu DOUBLE,
    accept_length DOUBLE,
    measured_on VARCHAR,
    ambiguous_config BOOLEAN,
    flags_variants JSON
);

CREATE SEQUENCE run_source_number;

CREATE TABLE run_sources (
    number BIGINT DEFAULT nextval('run_source_number'),
    run_id VARCHAR NOT NULL,
    file_sha256 VARCHAR NOT NULL,
    line BIGINT NOT NULL,
    line_sha256 VARCHAR NOT NULL,
    context JSON,
    source VARCHAR,
    src_ref VARCHAR,
    licence VARCHAR,
    attribution VARCHAR,
    notes VARCHAR,
    flags_source VARCHAR,
    flags_confidence VARCHAR
);

CREATE TABLE flags (
    run_id VARCHAR NOT NULL,
    flag VARCHAR NOT NULL,
    reason VARCHAR NOT NULL,
    origin VARCHAR NOT NULL
);

CREATE TABLE profiles (
    name VARCHAR NOT NULL,
    version VARCHAR NOT NULL,
    json VARCHAR NOT NULL,
    created_at TIMESTAMP NOT NULL,
    PRIMARY KEY (name, version)
);

CREATE VIEW runs AS
WITH first_source AS (
    SELECT * FROM run_sources QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY number) = 1
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
    s.source,
    s.src_ref,
    s.licence,
    s.attribution,
    s.notes,
    s.flags_source,
    s.flags_confidence,
    r.engine,
    r.engine_version,
    r.engine_image,
    r.gpu,
    r.n_gpus,
    r.tp,
    r.dp,
    r.ep,
    r.pp,
    r.expert_parallel,
    r.disagg,
    r.disagg_layout,
    r.model,
    r.model_group,
    r.weight_quant,
    r.gemm_quant_src,
    r.moe_quant_src,
    r.kv_dtype,
    r.attention_backend,
    r.moe_backend,
    r.chunked_prefill_size,
    r.mem_fraction,
    r.max_running_requests,
    r.cuda_graph_max_bs,
    r.stream_interval,
    r.scheduler_recv_interval,
    r.prefix_cache,
    r.spec_decode,
    r.spec_algorithm,
    r.spec_steps,
    r.spec_draft_tokens,
    r.dataset,
    r.isl,
    r.osl,
    r.mean_isl_actual,
    r.mean_osl_actual,
    r.range_ratio,
    r.load,
    r.concurrency,
    r.request_rate,
    r.batch_size,
    r.num_prompts,
    r.num_warmups,
    r.use_chat_template,
    r.mean_ttft_ms,
    r.median_ttft_ms,
    r.p99_ttft_ms,
    r.ttft_ms_unspecified,
    r.mean_tpot_ms,
    r.median_tpot_ms,
    r.p99_tpot_ms,
    r.tpot_ms_unspecified,
    r.mean_itl_ms,
    r.mean_e2e_ms,
    r.median_e2e_ms,
    r.output_tok_s,
    r.total_tok_s,
    r.tok_s_per_gpu,
    r.accept_length,
    r.measured_on,
    r.ambiguous_config,
    r.flags_variants,
    r.extra
FROM run_records r
LEFT JOIN first_source s USING (run_id)
LEFT JOIN all_sources a USING (run_id)
LEFT JOIN all_flags f USING (run_id);
