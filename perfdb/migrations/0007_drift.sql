-- Drift by GPU, with a curve as one voice, and against what the profile was fitted on.

-- How a profile fares on runs that it was not fitted on, and beside them on those that it was, as engines move on: by
-- engine version in the order of versions, GPU and metric. Only what the profile calls calibrated can drift. Runs of
-- one curve are not independent: each curve has one voice, its median. `aicalib drift` says of each row that is not
-- fitted what is beyond noise.
CREATE OR REPLACE VIEW drift AS
WITH deployments AS (
    SELECT config_id, dense_rank() OVER (ORDER BY model, weight_quant, tp, dp, pp) AS curve FROM configurations
),
by_curve AS (
    SELECT
        r.profile,
        r.engine,
        r.engine_version,
        r.gpu,
        r.metric,
        r.fitted,
        -- What tells one curve from another: its runs differ in load, and in settings that scripts derive from the load.
        c.curve,
        m.isl,
        m.osl,
        count(*) AS n,
        median(r.log_ratio) AS log_ratio
    FROM residuals r
    JOIN run_records m USING (run_id)
    JOIN deployments c USING (config_id)
    WHERE NOT r.doubted AND r.origin = 'calibrated' AND r.low IS NOT NULL AND r.high IS NOT NULL
    GROUP BY ALL
),
told AS (
    -- known: runs of this curve were fitted, of any version
    SELECT *, bool_or(fitted) OVER (PARTITION BY profile, engine, gpu, metric, curve, isl, osl) AS known FROM by_curve
),
cells AS (
    SELECT
        profile,
        engine,
        engine_version,
        gpu,
        metric,
        fitted,
        known,
        sum(n) AS n,
        count(*) AS curves,
        median(log_ratio) AS median_log_ratio,
        quantile_cont(log_ratio, 0.75) - quantile_cont(log_ratio, 0.25) AS spread
    FROM told
    GROUP BY ALL
),
newest_fitted AS (
    SELECT profile, engine, max(version_order(engine_version)) AS newest
    FROM cells WHERE fitted GROUP BY ALL
)
SELECT
    c.* REPLACE (CAST(c.n AS BIGINT) AS n),
    CAST(coalesce(sum(c.n) FILTER (c.fitted) OVER version, 0) AS BIGINT) AS fitted_runs,
    coalesce(version_order(c.engine_version) > n.newest, false) AS newer_than_fitted,
    -- against the versions that were fitted on that GPU, weighed by their runs
    c.median_log_ratio - sum(c.median_log_ratio * c.n) FILTER (c.fitted) OVER known
        / sum(c.n) FILTER (c.fitted) OVER known AS shift
FROM cells c
LEFT JOIN newest_fitted n USING (profile, engine)
WINDOW
    known AS (PARTITION BY c.profile, c.engine, c.gpu, c.metric),
    version AS (PARTITION BY c.profile, c.engine, c.gpu, c.metric, c.engine_version)
ORDER BY c.profile, c.engine, c.gpu, c.metric, version_order(c.engine_version), c.fitted, c.known;

INSERT INTO decisive_flags VALUES
('batch_limit_unknown', 'run'),
('host_bound', 'ttft');
