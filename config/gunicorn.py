"""How gunicorn serves the API: one process of threads. They wait for Postgres most of the time."""

from config.settings import Settings

_settings = Settings.from_env()

worker_class = "gthread"
workers = 1
threads = _settings.threads
timeout = 120  # a worker that does not answer for so long is replaced; a waiting request does
graceful_timeout = 30
keepalive = 2  # a stop waits for idle connections so long; clients open new ones cheaply
accesslog = None  # a line for each request costs more than the request
errorlog = "-"
loglevel = "warning"
