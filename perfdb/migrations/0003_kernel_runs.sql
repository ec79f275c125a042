-- Operators measured alone, one row a timing. What a table says beside these columns differs from table to
-- table, so it stands in `shape`, by the table's own column names.
CREATE TABLE kernel_runs (
    file_sha256 VARCHAR NOT NULL,
    table_name VARCHAR NOT NULL, -- name of the file without its ending, for example gemm_perf
    accelerator VARCHAR NOT NULL, -- as the device calls itself
    engine VARCHAR NOT NULL,
    engine_version VARCHAR NOT NULL,
    op_name VARCHAR NOT NULL,
    kernel_source VARCHAR,
    shape JSON NOT NULL,
    latency_ms DOUBLE -- null where the table has several times a row instead, which then stand in `shape`
);
