"""The mutations: what is taken from the core, and which test catches it if no seed does."""

from collections.abc import Sequence
from dataclasses import dataclass

_RACES = "tests/simulation/test_races.py"


@dataclass(frozen=True)
class Mutation:
    """One damage to one module of the core."""

    name: str
    module: str
    changes: Sequence[tuple[str, str]]  # text that is there once, and what takes its place
    test: str | None = None  # what catches it; None: the seeds


# fmt: off
MUTATIONS = (
    Mutation(
        "record without a fence", "execution",
        [('"id = :step_id AND attempt = :number AND generation = :generation"',
          '"id = :step_id"'),
         ("FROM steps WHERE id = :step_id AND attempt = :number AND state = 'running'",
          "FROM steps WHERE id = :step_id AND state = 'running'")],
    ),
    Mutation(
        "record without the generation's fence", "execution",
        [('"id = :step_id AND attempt = :number AND generation = :generation"',
          '"id = :step_id AND attempt = :number"')],
    ),
    Mutation(
        "claim by a message of any generation", "execution",
        [("    id = :step_id AND generation = :generation AND EXISTS (",
          "    id = :step_id AND EXISTS (")],
    ),
    Mutation(
        "renew whatever the attempt has become", "leases",
        [("WHERE attempts.outcome IS NULL AND attempts.worker = :worker\n",
          "WHERE attempts.worker = :worker\n"),
         ("steps.id = attempts.step_id AND steps.attempt = attempts.number\n"
          "      AND steps.state = 'running' AND runs.id",
          "steps.id = attempts.step_id AND runs.id")],
    ),
    Mutation(
        "forget how an attempt ended", "execution",
        [("    UPDATE attempts SET outcome = :outcome, error = :error, usage = :usage,\n"
          "        finished_at", "    UPDATE attempts SET error = :error, usage = :usage,\n"
          "        finished_at")],
    ),
    Mutation(
        "leave cancelled steps to their lease", "leases",
        [("           OR runs.state = 'cancelling' AND runs.stop_by < now() - interval '1 s')",
          "          )")],
    ),
    Mutation(
        "rescue without a second look at the lease", "sweeps",
        [("execution.lose(session, task_id) is",
          "execution.lose(session, task_id, expired.reason) is")],
    ),
    Mutation(
        "wake before the retry is due", "sweeps",
        [("state = 'waiting' AND wake_at <= now() LIMIT", "state = 'waiting' LIMIT"),
         ('"run_id = :run_id AND wake_at <= now()"', '"run_id = :run_id"')],
        test="tests/integration/test_sweeps.py",
    ),
    Mutation(
        "let runs fall due before their time", "work",
        [('"NOT due AND run_at <= now() AND', '"NOT due AND')],
    ),
    Mutation(
        "never republish", "sweeps",
        [("    if not lost:\n", "    if lost:\n")],
    ),
    Mutation(
        "change a step without an event", "store",
        [("        events.note(session, moved.run_id, transition.event, step=moved.key,"
          " attempt=attempt)", "        _ = attempt")],
    ),
    Mutation(
        "ready a step before its needs", "store",
        [(" AND {_NEEDS_MET_BUT_MOVED}", "")],
    ),
    Mutation(
        "change a state whatever it was", "store",
        [('where = f"state IN ({sources}) AND {which}"', "where = which")],
    ),
    Mutation(
        "a run succeeds with any step", "states",
        [("good = all(satisfies", "good = any(satisfies")],
    ),
    Mutation(
        "forget to close a run", "flow",
        [("    else:\n        close_if_ended(session, run)\n", "")],
    ),
    Mutation(
        "close a run that has open steps", "flow",
        [("    if store.has_open_steps(session, run.id):\n        return\n", "")],
    ),
    Mutation(
        "go on after a failure", "flow",
        [("        give_up(session, run, step)\n", "        pass\n")],
    ),
    Mutation(
        "leave what needs a failed step", "flow",
        [('        "run_id = :run_id",\n        f"skip_cause',
          '        "run_id = :run_id AND false",\n        f"skip_cause')],
    ),
    Mutation(
        "admit by age, not by priority", "flow",
        [("        ORDER BY priority DESC, number LIMIT :limit\n    ) mine",
          "        ORDER BY number LIMIT :limit\n    ) mine"),
         ("    ORDER BY mine.priority DESC,\n        row_number()", "    ORDER BY row_number()")],
    ),
    Mutation(
        "admit what is not due", "flow",
        [("AND state = 'pending' AND due\n", "AND state = 'pending'\n")],
    ),
    Mutation(
        "admit at once what is not due", "flow",
        [("    if run.due:\n", "    if True:\n")],
    ),
    Mutation(
        "admit at once into a full window", "flow",
        [(" AND may_start(id, queue, priority, :window)", "")],
        test="tests/integration/test_flow.py",
    ),
    Mutation(
        "admit without a window", "flow",
        [("return window - int(found.messages if found else 0)", "return window")],
    ),
    Mutation(
        "publish without a new generation", "flow",
        [("        generation = steps.generation + 1,\n"
          "        task_id = steps.id || '.' || (steps.generation + 1),",
          "        task_id = steps.id || '.' || steps.generation,")],
    ),
    Mutation(
        "a timeout ends as a cancel", "flow",
        [("RunTransition.TIME_OUT if run.timed_out else RunTransition.STOPPED",
          "RunTransition.STOPPED")],
    ),
    Mutation(
        "count a loss as a failure", "outcomes",
        [("step.attempt - step.forgiven - step.losses", "step.attempt - step.forgiven")],
    ),
    Mutation(
        "count what was handed back as a failure", "outcomes",
        [('f"forgiven = forgiven + 1, {_UNPUBLISHED}"', "_UNPUBLISHED")],
    ),
    Mutation(
        "rescue and leave the old message good", "outcomes",
        [("    generation = generation + 1, published_at", "    published_at")],
        test="tests/integration/test_execution.py",
    ),
    Mutation(
        "forget the quarantine", "outcomes",
        [("if losses >= MOST_LOSSES:", "if losses > MOST_LOSSES:")],
    ),
    Mutation(
        "call a timeout a loss", "outcomes",
        [("    if step.overdue:\n        return _failure(run, step, timed_out(step.spec))\n", "")],
    ),
    Mutation(
        "try again while the run stops", "outcomes",
        [("    if doomed or not again:", "    if not again:")],
    ),
    Mutation(
        "try again what failed for good", "outcomes",
        [(" and not failed.final", "")],
    ),
    Mutation(
        "cancel without a time to stop by", "runs",
        [("timed_out = :timed_out, stop_by = now() + CAST(:grace AS interval), error",
          "timed_out = :timed_out, error")],
    ),
    Mutation(
        "cancel and leave what is queued", "runs",
        [('StepTransition.CANCEL, "run_id = :id", id',
          'StepTransition.CANCEL, "run_id = :id AND false", id')],
    ),
    Mutation(
        "count old failures after a retry", "reruns",
        [("    forgiven = attempt, losses = 0,", "    losses = 0,")],
    ),
    Mutation(
        "let anybody have a concurrency key", "limits",
        [("return store.row(session, _TAKEN, run_id=run_id, **given) is None", "return True")],
    ),
    Mutation(
        "tell the broker before the commit", "db",
        [("                    committing = True\n",
          "                    committing = True\n"
          "                    self._deliver(outgoing(session))\n")],
    ),
    Mutation(
        "forget the events of a transaction", "db",
        [("                    events.write(session)\n", "")],
    ),
    Mutation(
        "forget the run's lock", "store",
        [('f"SELECT {RUN} FROM runs WHERE id = :id FOR UPDATE"',
          'f"SELECT {RUN} FROM runs WHERE id = :id"')],
        test=_RACES,
    ),
    Mutation(
        "claim without the run's lock", "execution",
        [("    store.lock_ahead(session, _RUN_OF, step_id=step_id)\n", "")],
        test=_RACES,
    ),
    Mutation(
        "record without the run's lock", "execution",
        [('        store.lock_ahead(session, "id = :run_id", run_id=claim.run_id)\n', "")],
        test=_RACES,
    ),
    Mutation(
        "sweep runs that others hold", "store",
        [(" FOR UPDATE SKIP LOCKED\"\n", '"\n')],
        test=_RACES,
    ),
)
# fmt: on
