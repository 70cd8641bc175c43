-- UUID version 7 (RFC 9562): ids of deliveries sort by time.
CREATE OR REPLACE FUNCTION new_delivery_id() RETURNS uuid LANGUAGE sql VOLATILE AS $$
  SELECT CAST(lpad(to_hex(CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)), 12, '0') || '7'
    || substr(replace(CAST(gen_random_uuid() AS text), '-', ''), 14) AS uuid)
$$;
-- A slow receiver delays its lane only: one tenant's messages to one host, or its mail.
CREATE OR REPLACE FUNCTION delivery_lane(kind text, tenant_id uuid, target text) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN kind = 'mail' THEN 'mail ' || tenant_id
    ELSE tenant_id || ' ' || coalesce(lower(substring(target FROM '^[a-zA-Z]+://([^/?#]+)')), '') END
$$;
CREATE OR REPLACE FUNCTION in_utc(moment timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;

-- The deliveries of the events of these types that this transaction has written: to webhooks, and to the run's own
-- notifications: {"events": [types], "mail": [addresses], "webhooks": [urls]}. A delivery has the run as it was at the
-- event, so that every attempt sends the same. Its parameters are left out: they may hold secrets.
--
-- Its plan takes ten times as long as its execution: it is made once.
CREATE OR REPLACE FUNCTION enqueue_deliveries(run_ids uuid[], types text[]) RETURNS void LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  IF NOT EXISTS ( -- of most tenants
    SELECT FROM runs WHERE id = ANY(run_ids) AND (notifications IS NOT NULL
      OR (SELECT true FROM webhooks WHERE webhooks.tenant_id = runs.tenant_id AND active LIMIT 1))
  ) THEN
    RETURN;
  END IF;
  INSERT INTO deliveries (id, tenant_id, webhook_id, run_id, seq, kind, target, lane, event, payload)
  WITH new AS MATERIALIZED (
    SELECT events.* FROM unnest(run_ids) AS changed(id) JOIN events ON events.run_id = changed.id
    WHERE events.type = ANY(types) AND events.tx = CAST(CAST(pg_current_xact_id() AS text) AS bigint)
  )
  SELECT new_delivery_id(), sent.tenant_id, sent.webhook_id, sent.run_id, sent.seq, sent.kind, sent.target,
    delivery_lane(sent.kind, sent.tenant_id, sent.target), sent.type, jsonb_build_object(
      'type', sent.type, 'timestamp', in_utc(sent.occurred_at),
      'data', jsonb_build_object(
        'run', jsonb_build_object(
          'id', runs.id, 'number', runs.number, 'name', runs.name, 'workflow', runs.workflow,
          'version', runs.version, 'state', runs.state, 'trigger', runs.trigger, 'priority', runs.priority,
          'tags', runs.tags, 'reason', runs.reason, 'submitted_by', runs.submitted_by, 'error', runs.error,
          'cancel_reason', runs.cancel_reason, 'passed_sla', runs.passed_sla, 'retry_of', runs.retry_of,
          'created_at', in_utc(runs.created_at), 'started_at', in_utc(runs.started_at),
          'finished_at', in_utc(runs.finished_at)),
        'event', jsonb_build_object('seq', sent.seq, 'data', sent.data)))
  FROM (
    SELECT new.*, webhooks.id AS webhook_id, webhooks.kind, webhooks.target
    FROM new JOIN runs ON runs.id = new.run_id
    JOIN webhooks ON webhooks.tenant_id = new.tenant_id AND webhooks.active AND new.type = ANY(webhooks.events)
      AND (webhooks.workflow IS NULL OR webhooks.workflow = runs.workflow)
    UNION ALL
    SELECT new.*, NULL, ways.kind, target.value
    FROM new JOIN runs ON runs.id = new.run_id,
    LATERAL (VALUES ('mail', runs.notifications -> 'mail'),
                    ('webhook', runs.notifications -> 'webhooks')) AS ways(kind, targets),
    LATERAL jsonb_array_elements_text(
      CASE jsonb_typeof(ways.targets) WHEN 'array' THEN ways.targets END) AS target(value)
    WHERE runs.notifications -> 'events' ? new.type
  ) sent JOIN runs ON runs.id = sent.run_id;
END $$;
