-- What engines logged about memory when they started; the view `startups` has one row a start.
CREATE TABLE startup_records (
    startup_id VARCHAR PRIMARY KEY, -- hash of the content without provenance
    content JSON NOT NULL
);

CREATE TABLE startup_sources (
    startup_id VARCHAR NOT NULL,
    file_sha256 VARCHAR NOT NULL,
    line BIGINT NOT NULL,
    source VARCHAR,
    src_ref VARCHAR,
    licence VARCHAR,
    attribution VARCHAR,
    notes VARCHAR
);

CREATE VIEW startups AS
SELECT
    startup_id,
    content ->> 'engine' AS engine,
    content ->> 'engine_version' AS engine_version,
    content ->> 'gpu' AS gpu,
    content ->> 'model' AS model,
    content ->> 'weight_quant' AS weight_quant,
    content ->> 'kv_dtype' AS kv_dtype,
    CAST(content ->> 'tp' AS BIGINT) AS tp,
    CAST(content ->> 'dp' AS BIGINT) AS dp,
    CAST(content ->> 'ep' AS BIGINT) AS ep,
    CAST(content ->> 'pp' AS BIGINT) AS pp,
    CAST(content ->> 'mem_fraction' AS DOUBLE) AS mem_fraction,
    CAST(content ->> 'avail_mem_before_load_gib' AS DOUBLE) AS avail_mem_before_load_gib,
    CAST(content ->> 'weights_gib' AS DOUBLE) AS weights_gib,
    CAST(content ->> 'kv_gib' AS DOUBLE) AS kv_gib,
    CAST(content ->> 'max_total_tokens' AS BIGINT) AS max_total_tokens,
    content,
    (
        SELECT list(DISTINCT source ORDER BY source)
        FROM startup_sources s
        WHERE s.startup_id = startup_records.startup_id
    ) AS sources
FROM startup_records;
