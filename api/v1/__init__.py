"""The native API under `/api/v1`."""

from api.v1 import (
    artifacts,
    audit,
    backfills,
    events,
    keys,
    logs,
    runs,
    schedules,
    system,
    tenants,
    webhooks,
    workflows,
)

# In the order of the OpenAPI document.
BLUEPRINTS = (
    workflows.blueprint,
    runs.blueprint,
    schedules.blueprint,
    backfills.blueprint,
    logs.blueprint,
    artifacts.blueprint,
    system.blueprint,
    tenants.blueprint,
    tenants.projects_blueprint,
    keys.blueprint,
    events.blueprint,
    webhooks.blueprint,
    webhooks.deliveries_blueprint,
    audit.blueprint,
)
