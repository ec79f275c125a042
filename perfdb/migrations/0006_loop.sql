-- Predictions of stored runs, and the views that hold them against what was measured; the view of runs made quick.

DROP MACRO identity; -- perfdb.canonical writes it out, over those keys that a file has

-- Most runs have one source: lists are made only of those that have several.
CREATE OR REPLACE VIEW runs AS
WITH first_source AS (
    SELECT * FROM run_sources
    SEMI JOIN (SELECT min(number) AS number FROM run_sources GROUP BY run_id) USING (number)
),
all_sources AS (
    SELECT run_id, list_sort(list(DISTINCT source)) AS sources
    FROM run_sources
    SEMI JOIN (SELECT run_id FROM run_sources GROUP BY run_id HAVING min(source) != max(source)) USING (run_id)
    GROUP BY run_id
),
all_flags AS (
    SELECT run_id, list_sort(list(DISTINCT flag)) AS flags FROM flags GROUP BY run_id
)
SELECT
    r.run_id,
    r.status,
    r.missing,
    coalesce(a.sources, [s.source]) AS sources,
    coalesce(f.flags, []) AS flags,
    s.source,
    s.src_ref,
    s.licence,
    s.attribution,
    s.notes,
    s.flags_source,
    s.flags_confidence,
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

-- A version in which a stage before its release stands as a number below zero.
CREATE MACRO staged(version, names, number) AS
    regexp_replace(version, '([0-9.])(' || names || ')[.]?([0-9]+)', '\1.' || number || '.\3', 'g');

-- Sorts versions: numbers by value, builds and candidates before their release, a post after it. Null of what is no version:
-- a branch, a nightly build.
CREATE MACRO version_order(version) AS CASE WHEN regexp_matches(version, '^v?[0-9]+[.][0-9]') THEN list_append(
    list_transform(
        regexp_extract_all(
            staged(staged(staged(staged(
                replace(regexp_replace(version, '[+].*$|[-.]cu[0-9]+.*$', ''), '-', '.'),
                'dev', '-4'), 'alpha|a', '-3'), 'beta|b', '-2'), 'rc|pre', '-1'),
            '-?[0-9]+'
        ),
        lambda number: CAST(number AS HUGEINT)
    ),
    0
) END;

-- One row a profile, run and metric. What was measured stands beside the prediction, since a run is named by its content
-- and never changes: the views then read this table alone.
CREATE TABLE predicted (
    profile VARCHAR NOT NULL, -- NAME@VERSION
    run_id VARCHAR NOT NULL,
    config_id VARCHAR NOT NULL,
    metric VARCHAR NOT NULL, -- ttft_ms, tpot_ms, e2e_ms, requests_s, output_tok_s
    measured DOUBLE, -- null where the run did not measure it
    value DOUBLE, -- null without an answer
    low DOUBLE,
    high DOUBLE,
    origin VARCHAR,
    fitted BOOLEAN NOT NULL, -- the profile was fitted on this run
    predicted_at TIMESTAMP NOT NULL
);

-- Flags that keep a run out of fits and scores: all of it, or its TTFT and the end-to-end time with it. Others
-- inform only.
CREATE TABLE decisive_flags (
    flag VARCHAR NOT NULL,
    doubts VARCHAR NOT NULL -- run or ttft
);

INSERT INTO decisive_flags VALUES
('repeat', 'run'),
('near_repeat', 'run'),
('copied_report', 'run'),
('ambiguous_config', 'run'),
('throughput_contradiction', 'run'),
('lumped_stream', 'run'),
('faster_than_datasheet', 'run'),
('mtp_unrecorded', 'run'),
('concurrency_not_credible', 'run'),
('implausible', 'run'),
('polluted_mean', 'ttft'),
('cached_prompts', 'ttft'),
('ttft_cold', 'ttft'),
('prefix_cache_likely_warm', 'ttft'),
('queueing', 'ttft');

-- Runs under a decisive flag: `run`, or `ttft` where no flag doubts more.
CREATE VIEW doubted_runs AS
SELECT run_id, min(doubts) AS doubts -- run sorts before ttft
FROM flags JOIN decisive_flags USING (flag)
GROUP BY run_id;

-- Each figure that was both predicted and measured.
CREATE VIEW residuals AS
SELECT
    p.profile,
    p.run_id,
    c.engine,
    c.engine_version,
    c.gpu,
    coalesce(c.model_group, c.model) AS model_group,
    c.weight_quant,
    p.metric,
    p.measured,
    p.value AS predicted,
    p.low,
    p.high,
    p.origin,
    ln(p.measured / p.value) AS log_ratio,
    p.measured BETWEEN p.low AND p.high AS covered,
    p.fitted,
    d.run_id IS NOT NULL AND (d.doubts = 'run' OR p.metric IN ('ttft_ms', 'e2e_ms')) AS doubted
FROM predicted p
JOIN configurations c USING (config_id)
LEFT JOIN doubted_runs d USING (run_id)
WHERE p.measured > 0 AND p.value > 0 AND p.run_id NOT IN (SELECT run_id FROM superseded_runs);

-- Where a profile is off, over runs that nothing speaks against; ratios are measured / predicted.
CREATE VIEW residuals_by_group AS
SELECT
    profile,
    engine,
    gpu,
    model_group,
    weight_quant,
    metric,
    fitted,
    count(*) AS n,
    median(log_ratio) AS median_log_ratio,
    median(abs(predicted / measured - 1)) AS median_ape,
    quantile_cont(log_ratio, 0.75) - quantile_cont(log_ratio, 0.25) AS spread,
    avg(CAST(covered AS DOUBLE)) AS covered
FROM residuals
WHERE NOT doubted
GROUP BY ALL;

-- How often an interval holds what was measured.
CREATE VIEW coverage AS
SELECT
    profile,
    engine,
    metric,
    fitted,
    count(covered) AS n,
    avg(CAST(covered AS DOUBLE)) AS covered,
    median(ln(high / low)) AS median_log_width
FROM residuals
WHERE NOT doubted
GROUP BY ALL;

-- The engine versions that each stored profile was fitted on.
CREATE VIEW fitted_versions AS
SELECT p.name || '@' || p.version AS profile, c.engine, c.engine_version, count(*) AS runs
FROM profile_runs p
JOIN run_records r USING (run_id)
JOIN configurations c USING (config_id)
GROUP BY ALL;

-- How a profile fares as engines move on: residuals by engine version in the order of versions.
CREATE VIEW drift AS
WITH by_version AS (
    SELECT
        profile,
        engine,
        engine_version,
        metric,
        count(*) AS n,
        median(log_ratio) AS median_log_ratio,
        quantile_cont(log_ratio, 0.75) - quantile_cont(log_ratio, 0.25) AS spread
    FROM residuals
    WHERE NOT doubted AND engine_version IS NOT NULL
    GROUP BY ALL
),
newest_fitted AS (
    SELECT profile, engine, max(version_order(engine_version)) AS newest
    FROM fitted_versions WHERE engine_version IS NOT NULL
    GROUP BY ALL
),
joined AS (
    SELECT b.*, coalesce(f.runs, 0) AS fitted_runs, version_order(b.engine_version) > n.newest AS newer_than_fitted
    FROM by_version b
    LEFT JOIN fitted_versions f USING (profile, engine, engine_version)
    LEFT JOIN newest_fitted n USING (profile, engine)
)
SELECT
    *,
    -- against the versions that were fitted, weighed by their runs
    median_log_ratio - sum(median_log_ratio * n) FILTER (fitted_runs > 0) OVER known
        / sum(n) FILTER (fitted_runs > 0) OVER known AS shift
FROM joined
WINDOW known AS (PARTITION BY profile, engine, metric)
ORDER BY profile, engine, metric, version_order(engine_version);

-- The newest version of each stored profile.
CREATE VIEW newest_profiles AS
SELECT name, version, name || '@' || version AS profile, created_at
FROM profiles
QUALIFY row_number() OVER (PARTITION BY name ORDER BY created_at DESC, version DESC) = 1;

-- What the loop should do next, by profile, engine and version, with one run as an example.
CREATE VIEW stale AS
WITH fitted AS (
    SELECT n.profile, p.run_id FROM profile_runs p JOIN newest_profiles n USING (name, version)
),
known AS (
    SELECT r.run_id, r.status, c.engine, c.engine_version FROM run_records r JOIN configurations c USING (config_id)
),
arrived AS (
    SELECT s.run_id, min(f.ingested_at) AS arrived_at
    FROM run_sources s JOIN files f ON f.sha256 = s.file_sha256
    GROUP BY s.run_id
),
newest_fitted AS (
    SELECT profile, engine, max(version_order(engine_version)) AS newest
    FROM fitted_versions WHERE engine_version IS NOT NULL
    GROUP BY ALL
),
newer AS (
    SELECT DISTINCT profile, engine, engine_version
    FROM newest_profiles JOIN newest_fitted USING (profile) JOIN configurations USING (engine)
    WHERE version_order(engine_version) > newest
),
found AS (
    SELECT 'fitted_on_superseded' AS what, f.profile, k.engine, k.engine_version, f.run_id
    FROM fitted f
    JOIN superseded_runs s USING (run_id)
    LEFT JOIN known k ON k.run_id = s.by_run_id
    UNION ALL
    SELECT 'fitted_on_doubted', f.profile, k.engine, k.engine_version, f.run_id
    FROM fitted f
    JOIN doubted_runs d ON d.run_id = f.run_id AND d.doubts = 'run'
    LEFT JOIN known k ON k.run_id = f.run_id
    UNION ALL
    SELECT 'not_fitted', n.profile, k.engine, k.engine_version, k.run_id
    FROM newest_profiles n
    JOIN arrived a ON a.arrived_at > n.created_at
    JOIN known k USING (run_id)
    LEFT JOIN doubted_runs d ON d.run_id = k.run_id AND d.doubts = 'run'
    LEFT JOIN fitted f ON f.run_id = k.run_id AND f.profile = n.profile
    WHERE k.status = 'complete' AND d.run_id IS NULL AND f.run_id IS NULL
    UNION ALL
    SELECT 'not_predicted', n.profile, k.engine, k.engine_version, k.run_id
    FROM newest_profiles n
    CROSS JOIN known k
    LEFT JOIN (SELECT DISTINCT profile, run_id FROM predicted) p ON p.run_id = k.run_id AND p.profile = n.profile
    WHERE k.status = 'complete' AND p.run_id IS NULL
    UNION ALL
    SELECT 'newer_version', v.profile, engine, engine_version, k.run_id
    FROM newer v
    JOIN known k USING (engine, engine_version)
    WHERE k.status = 'complete'
)
FROM (
    SELECT what, profile, engine, engine_version, count(*) AS runs, min(run_id) AS example FROM found GROUP BY ALL
)
ORDER BY what, profile, engine, version_order(engine_version);

-- What came of what: the runs that a profile was fitted on and those that it predicted, and what took a run's place.
CREATE VIEW lineage AS
SELECT p.name || '@' || p.version AS profile, p.run_id, 'fitted' AS use, s.by_run_id AS superseded_by
FROM profile_runs p LEFT JOIN superseded_runs s USING (run_id)
UNION ALL
SELECT DISTINCT p.profile, p.run_id, 'predicted', s.by_run_id
FROM predicted p LEFT JOIN superseded_runs s USING (run_id);
