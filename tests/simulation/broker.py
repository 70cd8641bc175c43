"""A broker that loses, repeats, delays and reorders messages; chains continue as in Celery."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.broker.messages import Message, Outbound


@dataclass(frozen=True)
class Task:
    """A message as a worker receives it: a task, and the rest of its chain."""

    message: Message
    chain: Sequence[Message] = ()

    @property
    def id(self) -> str:
        """Celery's task id."""
        return self.message.task_id


class SimulatedBroker:
    """Lists of tasks, taken by priority, as from Redis."""

    def __init__(self) -> None:
        self.away = False
        self.revoked: list[str] = []  # revokes that no worker has received yet
        self._tasks: list[Task] = []
        self._delayed: list[Task] = []

    def deliver(self, outgoing: Outbound) -> None:
        """Accept messages and revokes; drop them while it is away."""
        if not self.away:
            self._tasks += [Task(message, tuple(chain)) for message, chain in outgoing.messages]
            self.revoked += outgoing.revoked

    def publish_next(self, task: Task) -> None:
        """Publish the next task of a chain, as Celery does when one has ended."""
        if task.chain and not self.away:
            self._tasks.append(Task(task.chain[0], task.chain[1:]))

    def pending(self, queues: Collection[str]) -> Mapping[str, set[str]] | None:
        """The ids of the tasks that wait, by queue; None while it is away."""
        if self.away:
            return None
        return {
            queue: {task.id for task in self._tasks if task.message.queue == queue}
            for queue in queues
        }

    def take(self) -> Task | None:
        """The next task; it is acknowledged, and gone from here."""
        if self.away or not self._tasks:
            return None
        task = max(self._tasks, key=lambda each: each.message.priority)  # the oldest of the best
        self._tasks.remove(task)
        return task

    def flush(self) -> str:
        """Lose all messages."""
        flushed = f"{len(self._tasks)} messages"
        self._tasks, self.revoked = [], []
        return flushed

    def drop(self, index: int) -> str | None:
        """Lose one message."""
        return self._tasks.pop(index % len(self._tasks)).message.name if self._tasks else None

    def repeat(self, index: int) -> str | None:
        """Duplicate one message."""
        if not self._tasks:
            return None
        task = self._tasks[index % len(self._tasks)]
        self._tasks.append(task)
        return task.message.name

    def deliver_again(self, task: Task) -> None:
        """Redeliver a message that was taken before."""
        self._tasks.insert(0, task)

    def delay(self, index: int) -> str | None:
        """Hold one message back; the next call releases it."""
        if self._delayed:
            self._tasks += self._delayed
            self._delayed = []
            return "no longer"
        if not self._tasks:
            return None
        self._delayed.append(self._tasks.pop(index % len(self._tasks)))
        return self._delayed[-1].message.name

    def recover(self) -> None:
        """End all faults; lost messages stay lost."""
        self.away = False
        self._tasks += self._delayed
        self._delayed = []
