"""A broker that loses, repeats, delays and reorders messages, with Celery's rules for chains."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.broker.messages import Message, Outbound


@dataclass(frozen=True)
class Task:
    """A message as a worker gets it: a task, and the rest of its chain."""

    message: Message
    chain: Sequence[Message] = ()

    @property
    def id(self) -> str:
        """Celery's id of it."""
        return self.message.task_id


class SimulatedBroker:
    """Lists by queue and priority, as Redis keeps them."""

    def __init__(self) -> None:
        self.away = False
        self.revoked: list[str] = []  # hints that no worker has heard yet
        self._tasks: list[Task] = []
        self._delayed: list[Task] = []

    def deliver(self, outgoing: Outbound) -> None:
        """Take messages and revokes; none of them while it is away."""
        if not self.away:
            self._tasks += [Task(message, tuple(chain)) for message, chain in outgoing.messages]
            self.revoked += outgoing.revoked

    def go_on(self, task: Task) -> None:
        """What Celery does when a task of a chain has ended: the next one has the same priority."""
        if task.chain and not self.away:
            self._tasks.append(Task(task.chain[0], task.chain[1:]))

    def pending(self, queue: str) -> set[str] | None:
        """The ids of the tasks that wait; None while it is away."""
        if self.away:
            return None
        return {task.id for task in self._tasks if task.message.queue == queue}

    def take(self) -> Task | None:
        """The next task; it is acknowledged, and gone from here."""
        if self.away or not self._tasks:
            return None
        task = max(self._tasks, key=lambda each: each.message.priority)  # the first of those
        self._tasks.remove(task)
        return task

    def flush(self) -> str:
        """Forget everything."""
        said = f"{len(self._tasks)} messages"
        self._tasks, self.revoked = [], []
        return said

    def drop(self, which: int) -> str | None:
        """Lose one message."""
        return self._tasks.pop(which % len(self._tasks)).message.name if self._tasks else None

    def repeat(self, which: int) -> str | None:
        """Have one message twice."""
        if not self._tasks:
            return None
        task = self._tasks[which % len(self._tasks)]
        self._tasks.append(task)
        return task.message.name

    def deliver_again(self, task: Task) -> None:
        """Have a message once more that was taken before, as a broker that was not sure may."""
        self._tasks.insert(0, task)

    def delay(self, which: int) -> str | None:
        """Keep one message back; another call gives those back that were kept."""
        if self._delayed:
            self._tasks += self._delayed
            self._delayed = []
            return "no longer"
        if not self._tasks:
            return None
        self._delayed.append(self._tasks.pop(which % len(self._tasks)))
        return self._delayed[-1].message.name

    def recover(self) -> None:
        """Be a good broker from now on; what it has lost stays lost."""
        self.away = False
        self._tasks += self._delayed
        self._delayed = []
