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

# What runs, without the tools of development, as it is locked. It is a layer of its own, made again
# only when the lock changes.
COPY requirements.lock ./
RUN pip install --require-hashes -r requirements.lock

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
