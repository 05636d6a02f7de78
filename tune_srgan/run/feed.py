"""Feeds Ray with trials: those that wait, and the searcher's proposals, in the order of `search/order.py`.

An adapter: it keeps records, Optuna, the board and the budget in step with what Ray starts and ends.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from ray.tune.search import Searcher as RaySearcher

from trainables.balance import Ruler, judge
from trainables.outcome import outcome_of
from trainables.schema import Configuration
from tune_srgan.cluster import nodes
from tune_srgan.run.budget import Budget
from tune_srgan.run.ledger import Ledger
from tune_srgan.run.observer import Observer
from tune_srgan.search import order
from tune_srgan.search.board import board_of
from tune_srgan.search.capping import cost_in, why_end
from tune_srgan.search.confirmation import missing
from tune_srgan.search.order import Running, Stretch, Waiting
from tune_srgan.search.race import incumbent_of, next_seed
from tune_srgan.search.searcher import Searcher
from tune_srgan.search.sharing import points_of, reach, values_in_pretraining
from tune_srgan.store.ending import Ending, StudyEnd
from tune_srgan.store.patience import PATIENCE_S
from tune_srgan.store.records import TrialRecord
from tune_srgan.store.trial_folder import Fault, Proposer, TrialFolder
from tune_srgan.tracking.tracker import catch_up

BETTER, UNLIKELY = 0.9, 0.05  # a search that stops itself: so much of the best cost, so seldom to be expected


@dataclass(frozen=True)
class _Plan:
    """What never changes of a trial, read from its folder once."""

    configuration: Configuration
    ruler: Ruler
    stretch: Stretch
    named: bool  # by the study file; or a further seed of what may become the incumbent: it goes first

    @property
    def pretraining(self) -> int:
        """Steps of it."""
        return self.configuration.Training.pretrain_steps


class TrialFeed(RaySearcher):  # type: ignore[misc]  # Ray's class has no types
    """The trials a study still has to train: of the search with a searcher, else the confirmations.

    A running trial that falls behind one that waits pauses for it, and goes on later or never; one that cannot win
    any more is ended without a start.
    """

    def __init__(
        self, ledger: Ledger, budget: Budget, observer: Observer, searcher: Searcher | None = None, board: Any = None
    ) -> None:
        super().__init__(metric="step", mode="max")
        self._study, self.folder, self.ledger = ledger.study, ledger.folder, ledger
        self._searcher, self._board = searcher, board
        self.budget, self.observer = budget, observer
        records, search = ledger.records(), ledger.study.search
        self._best = incumbent_of(self._study, records)
        if searcher is None:
            self._waiting, self._to_propose = missing(self._study, self.folder, records), 0
        else:
            self._waiting = [record.trial for record in records.search if record.end is None]
            further = [next_seed(self._study, self.folder, record, records, self._best) for record in records.search]
            self._waiting += [trial for trial in further if trial is not None]
            self._to_propose = max(0, search.trials - len(records.search))
        self._best_first = searcher is not None and search.best_first.enabled and search.capping.enabled
        self._proposed, self._blind = len(records.search), search.startup if self._best_first else 0
        self._running: dict[str, TrialFolder] = {}  # by Ray's name
        self._steps: dict[TrialFolder, float] = {}  # of those, as they last reported
        self._waited_with: dict[TrialFolder, list[dict[str, float]]] = {}  # readings of trials that wait
        self._pretrains: set[str] = set()  # those of them whose pretraining is not over
        self._plans: dict[TrialFolder, _Plan] = {}
        # how often Ray gave up a trial that has tries left, as it may where a worker dies while it starts
        self._given_up: Counter[TrialFolder] = Counter()
        self._points = points_of(self._study) if search.sharing.enabled else []
        for trial in self._waiting:
            self._see(trial)
        self.stopped: Ending | None = None
        self.enough: Ending | None = None
        self.run = f"run-{time.time():.3f}"
        if board is not None:
            board.offer.remote(self._best)

    @property
    def left(self) -> int:
        """Trials that are still to be started."""
        return len(self._waiting) + self._to_propose

    # Ray's Searcher: its documentation says what each is for.
    # ruff: noqa: D102
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.stopped is not None:
            return str(RaySearcher.FINISHED)
        if self.left <= 0:
            return self._none_to_start()
        reason = self.budget.why_not_another(next(iter(self._waiting), None))
        if reason and self._running:
            return None  # a trial that ends early may make room: Ray asks again
        if reason:
            return self._out_of_budget(reason)
        trial = self._next()
        if trial is None:
            return self._none_to_start()
        if reason := self.budget.why_not_another(trial):  # it has more to do than the one that was asked for
            self._waiting.append(trial)
            return None if self._running else self._out_of_budget(reason)
        self._running[trial_id] = trial
        readings = self._waited_with.pop(trial, ())
        self._steps[trial] = readings[-1]["step"] if readings else 0
        self._pretrains.add(trial_id)
        seconds = self.budget.begin(trial)
        self._post()
        deadline = None if seconds is None else time.monotonic() + seconds
        told = {"trial": trial.place, "folder": self.folder.address, "deadline": deadline, "run": self.run}
        return told | {"board": board_of(self.folder.path), "elsewhere": nodes.has_others(self._study)}

    def _out_of_budget(self, reason: str) -> str:
        self.stopped = Ending(StudyEnd.BUDGET, f"the study's budget is used up ({reason})")
        return str(RaySearcher.FINISHED)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._steps[self._running[trial_id]] = result["step"]
        if trial_id in self._pretrains and result["step"] >= self._plan(self._running[trial_id]).pretraining:
            self._pretrains.discard(trial_id)
            self._post()  # what waited for its pretraining waits no more

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        trial = self._running.pop(trial_id)
        self._steps.pop(trial, None)
        self._pretrains.discard(trial_id)
        self.budget.end(trial)
        self.folder.fetch(trial.place, patience=PATIENCE_S)
        record, again = self.ledger.read(trial), False
        if record.end is None and error:
            failures = [attempt.failure for attempt in trial.attempts() if attempt.failure is not None]
            if failures and failures[-1].fault in {Fault.NODE, Fault.STUDY}:
                # every trial would fail by it: this one stays, to be resumed
                self.stopped = Ending(StudyEnd.FAULT, failures[-1].message)
                return
            self._given_up[trial] += 1
            again = self._asked_again and self._given_up[trial] <= self._study.resources.max_failures
            if not again:
                trial.end_failed()
                record = self.ledger.read(trial)
                self.folder.send(trial.place, PATIENCE_S)
                catch_up(self._study, self.folder, [trial])
        self.budget.keep_time()
        self.folder.send(patience=PATIENCE_S)  # the clock: another machine may go on with it
        if record.end is not None:  # else it was interrupted: `resume` goes on with it
            self._tell(record)
        elif again or (self._best_first and not error):  # it paused, or has tries left
            self._waiting.append(trial)
            self._see(trial)
        self._post()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles its experiment; what counts is in the records

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the trial records are the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the trial records are the truth."""

    def _none_to_start(self) -> str | None:
        """What Ray is told where no trial can start: one that runs may still pause, or race on further seeds."""
        return None if self._running and self._asked_again else str(RaySearcher.FINISHED)

    @property
    def _asked_again(self) -> bool:
        """Whether Ray asks for more when a running trial leaves, though none could start before."""
        return self._searcher is not None and (self._best_first or self._study.search.race > 0)

    def _next(self) -> TrialFolder | None:
        """Choose the trial to start, or to go on with, now; None where none is left.

        What the sampler proposes without knowing anything is asked for at once, so that the soonest of those can start
        first and the others need not start once it has balanced. What it proposes from knowledge is asked for one by
        one: where nothing else waits, and before a trial that made way goes on, since a new one may be sooner.
        """
        if self._searcher is not None:
            ended = [trial for trial in self._waiting if self._too_long(trial)]
            if ended:
                self._waiting = [trial for trial in self._waiting if trial not in ended]
                catch_up(self._study, self.folder, ended)
            while self._may_propose() and (self._proposed < self._blind or self._wants_another()):
                self._propose()
            ahead = self._best_first and self._waiting and self._readings(self._first()) and self._searcher.knows
            if ahead and self._may_propose():
                self._propose()
        if not self._waiting:
            return None
        chosen = self._first()
        self._waiting.remove(chosen)
        return chosen

    def _first(self) -> TrialFolder:
        by_waiting = {self._waiting_as(trial): trial for trial in self._waiting}
        return by_waiting[order.next_to_start(list(by_waiting), self._at_work())]

    def _may_propose(self) -> bool:
        """Whether trials are left to propose, of configurations that are; and, if it is asked for, better ones."""
        search = self._study.search
        if self._to_propose and self._searcher is not None and self._searcher.exhausted:
            told = f"the search is over after {self._proposed} of {search.trials} trials: the space has no other"
            self.enough, self._to_propose = Ending(StudyEnd.ENOUGH, f"{told} configurations"), 0
        if search.stop == "auto" and self._to_propose and self._best and self._proposed >= len(search.try_first):
            [best] = [one for one in self.ledger.records().search if one.number == self._best.number]
            assert best.cost is not None  # it balanced
            share = BETTER * self._best.cost / best.cost  # of the cost of its first seed
            chance = self._searcher.chance(self._to_propose, best.number, share) if self._searcher else 1.0
            if chance < UNLIKELY:
                self.enough = Ending(
                    StudyEnd.ENOUGH,
                    f"the search stopped itself after {self._proposed} of {search.trials} trials: by its model, one of "
                    f"the others costs {1 - BETTER:.0%} less than trial {best.number} with a chance of {chance:.1%}",
                )
                self._to_propose = 0
        return self._to_propose > 0

    def _wants_another(self) -> bool:
        return order.wants_another(
            [self._waiting_as(trial) for trial in self._waiting], self._at_work(), self.budget.slots
        )

    def _post(self) -> None:
        """Tell the running trials, by the board, what those that wait may reach."""
        if self._best_first and self._board is not None:
            self._board.wait.remote(order.bounds(map(self._waiting_as, self._waiting), self._at_work()))

    def _at_work(self) -> list[Running]:
        return [Running(self._plan(trial).stretch, self._steps[trial]) for trial in self._running.values()]

    def _waiting_as(self, trial: TrialFolder) -> Waiting:
        """A trial that waits, as the order sees it; in the searcher's order where the soonest does not come first."""
        plan = self._plan(trial)
        soonest = judge(self._readings(trial), plan.ruler).earliest if self._best_first else 0.0
        return Waiting(trial.number, plan.stretch, soonest, plan.named)

    def _readings(self, trial: TrialFolder) -> list[dict[str, float]]:
        """Of one that waits: read once, since they stay what they are."""
        if trial not in self._waited_with:
            self._waited_with[trial] = trial.readings()
        return self._waited_with[trial]

    def _plan(self, trial: TrialFolder) -> _Plan:
        if trial not in self._plans:
            record = self.ledger[trial]
            configuration = self._study.configuration(record.values)
            path = (trial.confirms, *values_in_pretraining(record.values))
            stretch = Stretch(path, reach(self._points, configuration.Training.pretrain_steps))
            named = record.proposed_by == Proposer.TRY_FIRST or trial.confirms > 0
            self._plans[trial] = _Plan(configuration, Ruler.of(configuration), stretch, named)
        return self._plans[trial]

    def _propose(self) -> None:
        """Ask the searcher for a new trial; it waits, where it is not ended at once."""
        assert self._searcher is not None
        proposal = self._searcher.propose()
        self._to_propose, self._proposed = self._to_propose - 1, self._proposed + 1
        trial = self.folder.trial(proposal.number)
        trial.create(proposal.values, proposal.proposed_by, self._study.configuration(proposal.values))
        self._searcher.keep(proposal)
        self.folder.send(trial.place, PATIENCE_S)
        if not self._too_long(trial):
            self._waiting.append(trial)

    def _see(self, trial: TrialFolder) -> None:
        """Let the next proposal know what a trial that waits has shown."""
        if self._searcher is not None and not trial.confirms:
            self._searcher.see(trial.number, judge(self._readings(trial), self._plan(trial).ruler))

    def _too_long(self, trial: TrialFolder) -> bool:
        """Whether it can no longer win: for its pretraining and ramp alone, or for its readings; it is ended then."""
        capping, readings, plan = self._study.search.capping, self._readings(trial), self._plan(trial)
        if not capping.enabled or trial.confirms or (verdict := judge(readings, plan.ruler)).over:
            return False
        in_steps = self._study.objective.metric == "steps_to_nash"
        best = self._best if in_steps or readings else None  # else what its steps will cost is not measured yet
        cost_of = cost_in(self._study, readings, plan.pretraining)
        why = why_end(verdict, trial.number, best, capping, cost_of)
        if why is None:
            return False
        trial.end(outcome_of(readings, plan.configuration, int(readings[-1]["step"]) if readings else 0, *why))
        self._waited_with.pop(trial, None)
        self.folder.send(trial.place, PATIENCE_S)
        record = self.ledger.read(trial)
        self._tell(record)
        self.observer.on_end(record)
        return True

    def _tell(self, record: TrialRecord) -> None:
        """Tell Optuna and the board of a trial that has ended; what kept its balance races on further seeds."""
        if self._searcher is None:
            return
        if not record.trial.confirms:
            self._searcher.tell(record)
        records = self.ledger.records()
        [searched] = [one for one in records.search if one.number == record.number]
        best = incumbent_of(self._study, records)
        further = next_seed(self._study, self.folder, searched, records, best)
        if further is not None:
            self._waiting.append(further)
        if best != self._best:
            self._best = best
            if self._board is not None:
                self._board.offer.remote(best)
