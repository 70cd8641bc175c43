"""A thread that becomes free wakes the loop of its worker."""

from types import SimpleNamespace

from celery.concurrency.thread import TaskPool
from kombu.asynchronous.hub import Hub

from workers.celery_ext.thread_wakeup import WakeStep


def test_a_thread_that_is_free_again_wakes_the_loop() -> None:
    pool, hub = TaskPool(limit=1), Hub()
    pool.start()
    parent = SimpleNamespace(pool=pool, pool_cls=TaskPool)
    step = WakeStep(parent)
    step.start(parent)
    step.register_with_event_loop(parent, hub)
    asleep = hub.poller.poll(0)

    pool.apply_async(print, args=("done",))

    assert not asleep
    assert hub.poller.poll(30)
    next(hub.create_loop())  # drains the pipe
    assert not hub.poller.poll(0)
    pool.stop()
    hub.close()
