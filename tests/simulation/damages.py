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
        "record without a fence", "db/functions/finish_step",
        [(" AND attempt = this_attempt AND generation = this_generation AND state = 'running'",
          " AND state = 'running'")],
    ),
    Mutation(
        "record without the generation's fence", "db/functions/finish_step",
        [(" AND generation = this_generation AND state = 'running'", " AND state = 'running'")],
    ),
    Mutation(
        "claim by a message of any generation", "db/functions/claim_step",
        [("AND generation = this_generation AND state", "AND state")],
    ),
    Mutation(
        "claim a step of a run that is stopped", "db/functions/claim_step",
        [("run.state NOT IN ('queued', 'running')",
          "run.state NOT IN ('queued', 'running', 'cancelling')"),
         ("AND generation = this_generation AND state = 'queued'",
          "AND generation = this_generation AND state IN ('queued', 'cancelled')")],
    ),
    Mutation(
        "claim without a change of state", "db/functions/claim_step",
        [("AND generation = this_generation AND state = 'queued'",
          "AND generation = this_generation")],
    ),
    Mutation(
        "go on in place after a failure elsewhere", "db/functions/finish_step",
        [(" AND run.state = 'running' AND run.error IS NULL THEN", " THEN"),
         ("AND key = dependent AND state = 'pending' AND {NEEDS_MET});",
          "AND key = dependent AND {NEEDS_MET});"),
         ("WHERE id = ready[1] AND state = 'pending' AND", "WHERE id = ready[1] AND")],
    ),
    Mutation(
        "go on in place with an old generation", "db/functions/finish_step",
        [("generation = CASE WHEN task_id = continues THEN generation ELSE generation + 1 END",
          "generation = generation")],
    ),
    Mutation(
        "go on in place before a higher priority", "db/functions/finish_step",
        [(" AND waiting.priority > steps.priority", " AND waiting.priority > 9")],
        test="tests/integration/engine/test_continue.py",
    ),
    Mutation(
        "go on in place in any queue", "db/functions/finish_step",
        [(" AND queue = ANY(its_queues) AND NOT EXISTS", " AND NOT EXISTS")],
        test="tests/integration/engine/test_continue.py",
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
        "forget how an attempt ended", "db/functions/finish_step",
        [("UPDATE attempts SET outcome = finish_step.outcome, error", "UPDATE attempts SET error")],
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
        "ready a step before its needs", "db/functions/finish_step",
        [(" AND state = 'pending' AND {NEEDS_MET});", " AND state = 'pending');")],
    ),
    Mutation(
        "change a state whatever it was", "db/transitions",
        [('guard = f"state IN ({sql_list(transition.sources)}) AND {where}"', "guard = where")],
    ),
    Mutation(
        "a run succeeds with any step", "db/functions/close_run",
        [("AND NOT coalesce({SATISFIED}, false)) THEN 'failed'", "AND false) THEN 'failed'")],
    ),
    Mutation(
        "forget to close a run", "db/functions/finish_step",
        [("    PERFORM close_run(this_run);\n", "    NULL;\n")],
    ),
    Mutation(
        "close a run that has open steps", "db/functions/close_run",
        [("state IN ('queued', 'running', 'waiting')) THEN", "false) THEN")],
    ),
    Mutation(
        "go on after a failure", "db/functions/finish_step",
        [("  ELSIF target = 'failed' THEN", "  ELSIF false THEN")],
    ),
    Mutation(
        "leave what needs a failed step", "db/functions/finish_step",
        [("state IN ('pending', 'queued', 'waiting') RETURNING *", "false RETURNING *")],
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
        "publish without a new generation", "db/functions/publish_steps",
        [("generation = steps.generation + 1, task_id = steps.id || '.' || (steps.generation + 1),",
          "task_id = steps.id || '.' || steps.generation,")],
    ),
    Mutation(
        "a timeout ends as a cancel", "db/functions/close_run",
        [("      WHEN state = 'cancelling' AND timed_out THEN 'timed_out'\n", "")],
    ),
    Mutation(
        "count a loss as a failure", "engine/outcomes",
        [("step.attempt - step.forgiven - step.losses", "step.attempt - step.forgiven")],
    ),
    Mutation(
        "count what was handed back as a failure", "engine/outcomes",
        [('AttemptOutcome.LOST, error, more={"forgiven": 1}', "AttemptOutcome.LOST, error")],
    ),
    Mutation(
        "rescue and leave the old message good", "db/functions/finish_step",
        [("generation = generation + CAST(target = 'queued' AS int),\n", "\n")],
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
          "                    self._deliver(unit_of(session).outbound)\n")],
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
        "claim without the run's lock", "db/functions/claim_step",
        [("WHERE id = this_step) FOR UPDATE;", "WHERE id = this_step);")],
        test=_RACES,
    ),
    Mutation(
        "record without the run's lock", "db/functions/finish_step",
        [("WHERE id = this_run FOR UPDATE;", "WHERE id = this_run;")],
        test=_RACES,
    ),
    Mutation(
        "sweep runs that others hold", "db/transitions",
        [(" FOR UPDATE SKIP LOCKED\"\n", '"\n')],
        test=_RACES,
    ),
)
# fmt: on
