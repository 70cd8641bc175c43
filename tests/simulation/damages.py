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
        "record without a fence", "engine/attempts",
        [('"id = :step_id AND attempt = :number AND generation = :generation"',
          '"id = :step_id"'),
         ("FROM steps WHERE id = :step_id AND attempt = :number AND state = 'running'",
          "FROM steps WHERE id = :step_id AND state = 'running'")],
    ),
    Mutation(
        "record without the generation's fence", "engine/attempts",
        [('"id = :step_id AND attempt = :number AND generation = :generation"',
          '"id = :step_id AND attempt = :number"')],
    ),
    Mutation(
        "claim by a message of any generation", "engine/claims",
        [("    id = :step_id AND generation = :generation AND EXISTS (",
          "    id = :step_id AND EXISTS (")],
    ),
    Mutation(
        "renew whatever the attempt has become", "engine/leases",
        [("WHERE attempts.outcome IS NULL AND attempts.worker = :worker\n",
          "WHERE attempts.worker = :worker\n"),
         ("steps.id = attempts.step_id AND steps.attempt = attempts.number\n"
          "      AND steps.state = 'running' AND runs.id",
          "steps.id = attempts.step_id AND runs.id")],
    ),
    Mutation(
        "forget how an attempt ended", "engine/attempts",
        [("    UPDATE attempts SET outcome = :outcome, error = :error, usage = :usage,\n"
          "        finished_at", "    UPDATE attempts SET error = :error, usage = :usage,\n"
          "        finished_at")],
    ),
    Mutation(
        "leave cancelled steps to their lease", "engine/leases",
        [("           OR runs.state = 'cancelling' AND runs.stop_by < now() - interval '1 s')",
          "          )")],
    ),
    Mutation(
        "rescue without a second look at the lease", "maintenance/sweeps",
        [("attempts.end_lost_attempt(session, expired.task_id) is",
          "attempts.end_lost_attempt(session, expired.task_id, expired.reason) is")],
    ),
    Mutation(
        "wake before the retry is due", "maintenance/sweeps",
        [("\"state = 'waiting' AND wake_at <= now()\")", "\"state = 'waiting'\")"),
         ("AS uuid[])) AND wake_at <= now()\", ids", "AS uuid[]))\", ids")],
        test="tests/integration/maintenance/test_sweeps.py",
    ),
    Mutation(
        "let runs fall due before their time", "maintenance/sweeps",
        [('"NOT due AND run_at <= now() AND', '"NOT due AND')],
    ),
    Mutation(
        "never republish", "maintenance/sweeps",
        [("    if not lost:\n", "    if lost:\n")],
    ),
    Mutation(
        "change a step without an event", "db/transitions",
        [("journal.record_event(self._session, each.run_id, transition.event, **step)",
          "_ = step")],
    ),
    Mutation(
        "ready a step before its needs", "db/transitions",
        [(" AND {_NEEDS_MET_BUT_MOVED}", "")],
    ),
    Mutation(
        "change a state whatever it was", "db/transitions",
        [('guard = f"state IN ({sql_list(transition.sources)}) AND {where}"', "guard = where")],
    ),
    Mutation(
        "a run succeeds with any step", "states",
        [("good = all(satisfies", "good = any(satisfies")],
    ),
    Mutation(
        "forget to close a run", "engine/progress",
        [("    else:\n        close_if_ended(session, run)\n", "")],
    ),
    Mutation(
        "close a run that has open steps", "engine/progress",
        [("    if transitions.has_open_steps(session, run.id):\n        return\n", "")],
    ),
    Mutation(
        "go on after a failure", "engine/progress",
        [("        fail_run(session, run, step)\n", "        pass\n")],
    ),
    Mutation(
        "leave what needs a failed step", "engine/progress",
        [('.where("run_id = :run_id", run_id=run.id)',
          '.where("run_id = :run_id AND false", run_id=run.id)')],
    ),
    Mutation(
        "admit by age, not by priority", "engine/admission",
        [("        ORDER BY priority DESC, number LIMIT :limit\n    ) mine",
          "        ORDER BY number LIMIT :limit\n    ) mine"),
         ("    ORDER BY mine.priority DESC, turn", "    ORDER BY turn"),
         ("        return -each.priority, each.turn", "        return 0, each.turn")],
    ),
    Mutation(
        "admit what is not due", "engine/admission",
        [("AND state = 'pending' AND due\n", "AND state = 'pending'\n")],
    ),
    Mutation(
        "admit at once what is not due", "engine/admission",
        [("    if run.due:\n", "    if True:\n")],
    ),
    Mutation(
        "admit at once into a full window", "engine/admission",
        [(" AND may_start(id, queue, priority, :window)", "")],
        test="tests/integration/engine/test_admission.py",
    ),
    Mutation(
        "admit without a window", "engine/admission",
        [("return window - int(unclaimed.messages if unclaimed else 0)", "return window")],
    ),
    Mutation(
        "publish without a new generation", "engine/publishing",
        [("        generation = steps.generation + 1,\n"
          "        task_id = steps.id || '.' || (steps.generation + 1),",
          "        task_id = steps.id || '.' || steps.generation,")],
    ),
    Mutation(
        "a timeout ends as a cancel", "engine/progress",
        [("RunTransition.TIME_OUT if run.timed_out else RunTransition.STOPPED",
          "RunTransition.STOPPED")],
    ),
    Mutation(
        "count a loss as a failure", "engine/outcomes",
        [("step.attempt - step.forgiven - step.losses", "step.attempt - step.forgiven")],
    ),
    Mutation(
        "count what was handed back as a failure", "engine/outcomes",
        [('f"forgiven = forgiven + 1, {_UNPUBLISHED}"', "_UNPUBLISHED")],
    ),
    Mutation(
        "rescue and leave the old message good", "engine/outcomes",
        [('"generation = generation + 1, published_at', '"published_at')],
        test="tests/integration/engine/test_attempts.py",
    ),
    Mutation(
        "forget the quarantine", "engine/outcomes",
        [("if losses >= MAX_LOSSES:", "if losses > MAX_LOSSES:")],
    ),
    Mutation(
        "call a timeout a loss", "engine/outcomes",
        [("    if step.overdue:\n"
          '        return _failure(run, step, timed_out_failure(step.spec.get("timeout")))\n', "")],
    ),
    Mutation(
        "try again while the run stops", "engine/outcomes",
        [("    if doomed or not again:", "    if not again:")],
    ),
    Mutation(
        "try again what failed for good", "engine/outcomes",
        [(" and not failed.final", "")],
    ),
    Mutation(
        "cancel without a time to stop by", "runs/cancellation",
        [("timed_out = :timed_out, stop_by = now() + CAST(:grace AS interval),",
          "timed_out = :timed_out,")],
    ),
    Mutation(
        "cancel and leave what is queued", "runs/cancellation",
        [('cancel.where("run_id = :id", id', 'cancel.where("run_id = :id AND false", id')],
    ),
    Mutation(
        "count old failures after a retry", "runs/retries",
        [("    forgiven = attempt, losses = 0,", "    losses = 0,")],
    ),
    Mutation(
        "let anybody have a concurrency key", "engine/concurrency",
        [("return statements.row(session, _TAKEN, run_id=run_id, **params) is None",
          "return True")],
    ),
    Mutation(
        "tell the broker before the commit", "db/database",
        [("                    committing = True\n",
          "                    committing = True\n"
          "                    self._deliver(outgoing(session))\n")],
    ),
    Mutation(
        "forget the events of a transaction", "db/database",
        [("                    journal.write_events(session)\n", "")],
    ),
    Mutation(
        "forget the run's lock", "db/transitions",
        [('f"SELECT {RUN_COLUMNS} FROM runs WHERE id = :id FOR UPDATE"',
          'f"SELECT {RUN_COLUMNS} FROM runs WHERE id = :id"')],
        test=_RACES,
    ),
    Mutation(
        "claim without the run's lock", "engine/claims",
        [("    statements.lock_ahead(session, _RUN_OF, step_id=step_id)\n", "")],
        test=_RACES,
    ),
    Mutation(
        "record without the run's lock", "engine/attempts",
        [('        statements.lock_ahead(session, "id = :run_id", run_id=claim.run_id)\n', "")],
        test=_RACES,
    ),
    Mutation(
        "sweep runs that others hold", "db/transitions",
        [(" FOR UPDATE SKIP LOCKED\"\n", '"\n')],
        test=_RACES,
    ),
)
# fmt: on
