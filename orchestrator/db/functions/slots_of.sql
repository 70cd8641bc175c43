-- The concurrency keys that are as good as this one: all slots of its schedule for one of them, `schedule:…#0/3`, else
-- itself.
CREATE OR REPLACE FUNCTION slots_of(this_key text) RETURNS SETOF text LANGUAGE sql IMMUTABLE AS $$
  SELECT split_part(this_key, '#', 1) || '#' || slot || '/' || split_part(this_key, '/', 2)
  FROM generate_series(1, CAST(substring(this_key FROM '^schedule:[^#]*#[0-9]{1,4}/([0-9]{1,4})$') AS int)) AS one,
    LATERAL (SELECT one - 1 AS slot) AS number
  UNION ALL
  SELECT this_key WHERE this_key !~ '^schedule:[^#]*#[0-9]{1,4}/[0-9]{1,4}$'
$$;
