-- declare_jobs --
-- The jobs there are, for whoever begins to lead: others are forgotten, and what an instance that is gone left.
-- $1 names, $2 everys (seconds), $3 instance
WITH known AS (
    INSERT INTO jobs (name, every_s) SELECT * FROM unnest($1::text[], $2::float8[])
    ON CONFLICT (name) DO UPDATE
       SET every_s = EXCLUDED.every_s,
           error = CASE WHEN jobs.state = 'running' AND jobs.instance <> $3
                        THEN jobs.instance || ' ended while it ran' ELSE jobs.error END,
           failures = jobs.failures + (jobs.state = 'running' AND jobs.instance <> $3)::integer,
           state = CASE WHEN jobs.state = 'running' AND jobs.instance <> $3 THEN 'failed' ELSE jobs.state END
)
DELETE FROM jobs WHERE name <> ALL ($1)

-- begin_job --
-- A job starts; who wanted it run now has been heard.
-- $1 name, $2 instance
UPDATE jobs SET state = 'running', instance = $2, started_at = clock_timestamp(), duration_s = NULL, result = '',
       error = NULL, runs = runs + 1, requested_at = NULL, requested_by = NULL
 WHERE name = $1

-- end_job --
-- What came of a job.
-- $1 name, $2 instance, $3 duration_s, $4 result, $5 error
UPDATE jobs SET state = CASE WHEN $5::text IS NULL THEN 'done' ELSE 'failed' END, duration_s = $3, result = $4,
       error = $5, failures = failures + ($5::text IS NOT NULL)::integer
 WHERE name = $1 AND instance = $2 AND state = 'running'

-- list_jobs --
-- All jobs by name, or the one of a name.
-- $1 name
SELECT name, every_s, state, instance, extract(epoch FROM started_at)::float8, duration_s, result, error, runs,
       failures, extract(epoch FROM requested_at)::float8
  FROM jobs WHERE $1::text IS NULL OR name = $1 ORDER BY name

-- request_job --
-- Somebody wants a job run now.
-- $1 name, $2 actor
UPDATE jobs SET requested_at = clock_timestamp(), requested_by = $2 WHERE name = $1 RETURNING name

-- requested_jobs --
-- Jobs that somebody wants run now, the longest waiting first.
-- (no parameters)
SELECT name FROM jobs WHERE requested_at IS NOT NULL ORDER BY requested_at, name
