"""What a scaling policy costs and how long jobs wait: a small discrete-event simulation of one algorithm.

Ours is ``control.scaler.wanted_workers`` itself, looked at each minute; beside it stand step scaling, target
tracking as Application Auto Scaling does it, and fixed counts. A task takes 45 s to start (Fargate: place, pull,
start) and is paid for from the moment it is asked for until it stops; one that holds a job finishes it first.
``--write`` puts the tables into docs/scaling.md.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean

from medical_image_processing.control.scaler import DEFAULT_POLICY, ScalingPolicy, wanted_workers
from page_tables import PAGES, markdown_table, replace_part

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
LOOK_S = 60.0
START_S = 45.0
JOB_MEAN_S, JOB_SIGMA = 20.0, 0.8
LEAST, MOST = 0, 20
SEEDS = range(5)
WAIT_WEIGHTS = (0.2, 1.0, 5.0)
"""Task-hours that an hour of a job's waiting may be worth. Nobody knows, so a policy is judged by all of them."""


@dataclass(frozen=True)
class Look:
    """What a policy may go by, once a minute. ``workers`` includes those that are starting."""

    now_s: float
    backlog: int
    workers: int
    idle_s: float


Policy = Callable[[Look], int]


@dataclass(frozen=True)
class Outcome:
    """One day of one policy: seconds that jobs waited until a worker took them, and what the tasks took."""

    mean_wait_s: float
    wait_95_s: float
    task_hours: float
    jobs: int

    def cost(self, weight: float) -> float:
        """In task-hours, the waiting included."""
        return self.task_hours + weight * self.mean_wait_s * self.jobs / HOUR_S


def simulate(policy: Policy, arrivals: Sequence[float], *, seed: int, length_s: float = DAY_S) -> Outcome:
    """Run ``arrivals`` (seconds, sorted) against ``policy``."""
    day = _Day(policy, arrivals, random.Random(seed))
    return day.run(length_s)


class _Day:
    def __init__(self, policy: Policy, arrivals: Sequence[float], chance: random.Random) -> None:
        self._policy = policy
        self._chance = chance
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._waiting: deque[float] = deque()
        self._waits: list[float] = []
        self._desired = self._starting = self._cancelled = self._idle = self._busy = 0
        self._now = self._since = self._task_s = 0.0
        self._last_end = -math.inf
        for moment in arrivals:
            self._at(moment, self._arrive)

    def run(self, length_s: float) -> Outcome:
        for number in range(int(length_s / LOOK_S)):
            self._at(number * LOOK_S + 30.0, self._look)
        while self._events and self._events[0][0] <= length_s:
            self._pass(self._events[0][0])
            heapq.heappop(self._events)[2]()
        self._pass(length_s)
        waits = sorted([*self._waits, *(length_s - moment for moment in self._waiting)])
        worst = waits[min(len(waits) - 1, int(0.95 * len(waits)))] if waits else 0.0
        return Outcome(mean(waits) if waits else 0.0, worst, self._task_s / HOUR_S, len(waits))

    def _at(self, moment: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._order), event))

    def _pass(self, moment: float) -> None:
        self._task_s += (moment - self._now) * (self._starting + self._idle + self._busy)
        self._now = moment

    def _arrive(self) -> None:
        self._waiting.append(self._now)
        self._feed()

    def _feed(self) -> None:
        while self._idle and self._waiting:
            self._waits.append(self._now - self._waiting.popleft())
            self._idle, self._busy = self._idle - 1, self._busy + 1
            length = self._chance.lognormvariate(math.log(JOB_MEAN_S) - JOB_SIGMA**2 / 2, JOB_SIGMA)
            self._at(self._now + length, self._end)

    def _end(self) -> None:
        self._busy, self._last_end = self._busy - 1, self._now
        if self._starting + self._idle + self._busy < self._desired:
            self._idle += 1
            self._feed()

    def _ready(self) -> None:
        if self._cancelled:  # stopped while it was starting
            self._cancelled -= 1
            return
        self._starting, self._idle = self._starting - 1, self._idle + 1
        self._feed()

    def _look(self) -> None:
        backlog = len(self._waiting) + self._busy
        idle_s = 0.0 if backlog else self._now - self._last_end
        self._desired = self._policy(Look(self._now, backlog, self._desired, idle_s))
        alive = self._starting + self._idle + self._busy
        for _ in range(max(0, self._desired - alive)):
            self._starting += 1
            self._at(self._now + START_S * self._chance.uniform(0.7, 1.3), self._ready)
        surplus = max(0, alive - self._desired)
        stopped = min(surplus, self._starting)
        self._starting, self._cancelled = self._starting - stopped, self._cancelled + stopped
        self._idle -= min(surplus - stopped, self._idle)


def ours(policy: ScalingPolicy) -> Policy:
    """The platform's own."""
    return lambda look: wanted_workers(
        LEAST, MOST, backlog=look.backlog, workers=look.workers, idle_s=look.idle_s, policy=policy
    )


def fixed(count: int) -> Policy:
    """No scaling."""
    return lambda _: count


def step(look: Look) -> int:
    """Step scaling as its documentation shows it: by alarms on the backlog, one worker or a few at a time."""
    each = look.backlog / max(1, look.workers)
    change = 3 if each > 10 else 1 if each > 2 else -1 if look.backlog < look.workers and look.idle_s > 0 else 0
    return min(MOST, max(LEAST, look.workers + change, 1 if look.backlog else 0))


class TargetTracking:
    """Application Auto Scaling's: out after 3 minutes above the target, in after 15 below nine tenths of it."""

    def __init__(self, target: float) -> None:
        self._target = target
        self._above = self._below = 0

    def __call__(self, look: Look) -> int:
        each = look.backlog / max(1, look.workers)
        self._above = self._above + 1 if each > self._target else 0
        self._below = self._below + 1 if each < 0.9 * self._target else 0
        wanted = math.ceil(look.backlog / self._target)
        if (self._above >= 3 and wanted > look.workers) or (self._below >= 15 and wanted < look.workers):
            self._above = self._below = 0
            return min(MOST, max(LEAST, wanted))
        return look.workers


def steady(chance: random.Random, length_s: float) -> Iterator[float]:
    """360 jobs an hour, at random: two workers' work."""
    moment = chance.expovariate(360 / HOUR_S)
    while moment < length_s:
        yield moment
        moment += chance.expovariate(360 / HOUR_S)


def diurnal(chance: random.Random, length_s: float) -> Iterator[float]:
    """From nothing at midnight to 900 jobs an hour at noon."""
    peak = 900 / HOUR_S
    moment = chance.expovariate(peak)
    while moment < length_s:
        if chance.random() < math.sin(math.pi * moment / DAY_S) ** 4:
            yield moment
        moment += chance.expovariate(peak)


def bursty(chance: random.Random, length_s: float) -> Iterator[float]:
    """Three studies an hour, each 20 to 60 jobs within a minute."""
    yield from sorted(_studies(chance, length_s, every_s=HOUR_S / 3, sizes=(20, 60)))


def rare(chance: random.Random, length_s: float) -> Iterator[float]:
    """A study of 5 to 15 jobs every second hour or so."""
    yield from sorted(_studies(chance, length_s, every_s=2 * HOUR_S, sizes=(5, 15)))


def _studies(chance: random.Random, length_s: float, *, every_s: float, sizes: tuple[int, int]) -> Iterator[float]:
    moment = chance.expovariate(1 / every_s)
    while moment < length_s:
        for _ in range(chance.randint(*sizes)):
            yield moment + chance.uniform(0, 60)
        moment += chance.expovariate(1 / every_s)


LOADS: dict[str, Callable[[random.Random, float], Iterator[float]]] = {
    "steady": steady,
    "diurnal": diurnal,
    "bursty": bursty,
    "rare": rare,
}
CANDIDATES = [
    ScalingPolicy(jobs_per_worker=jobs, busy_share=busy, scale_in_share=share, idle_s=idle_s)
    for jobs in (1, 2, 3, 4)
    for busy in (0.3, 0.5, 1.0)
    for share in (0.25, 0.5, 1.0)
    for idle_s in (120.0, 300.0)
]
OTHERS: dict[str, Callable[[], Policy]] = {
    "step scaling": lambda: step,
    "target tracking, 2 jobs a worker": lambda: TargetTracking(2),
    "target tracking, 4 jobs a worker": lambda: TargetTracking(4),
    "2 workers, always": lambda: fixed(2),
    "4 workers, always": lambda: fixed(4),
    "8 workers, always": lambda: fixed(8),
}


def days(create: Callable[[], Policy], load: str, *, seeds: Sequence[int] = SEEDS) -> list[Outcome]:
    """One day for each seed. Every policy meets the same arrivals."""
    found = []
    for seed in seeds:
        arrivals = list(LOADS[load](random.Random(f"{load} {seed}"), DAY_S))
        found.append(simulate(create(), arrivals, seed=seed))
    return found


def name_of(policy: ScalingPolicy) -> str:
    """As the tables call it."""
    return (
        f"{policy.jobs_per_worker} jobs a worker; in below {policy.busy_share:.0%} busy, "
        f"{policy.scale_in_share:.0%} a minute; all after {policy.idle_s / 60:.0f} min"
    )


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Mean, lowest and highest over the seeds."""
    return f"{mean(values):.{digits}f} [{min(values):.{digits}f} .. {max(values):.{digits}f}]"


def row(name: str, load: str, found: Sequence[Outcome]) -> list[str]:
    """One line of the table."""
    return [
        name,
        load,
        spread([o.mean_wait_s for o in found]),
        spread([o.wait_95_s for o in found]),
        spread([o.task_hours for o in found], 1),
    ]


@dataclass(frozen=True)
class Comparison:
    """Each policy's days by load."""

    own: dict[ScalingPolicy, dict[str, list[Outcome]]]
    other: dict[str, dict[str, list[Outcome]]]

    def score(self, outcomes: dict[str, list[Outcome]], weights: Sequence[float] = WAIT_WEIGHTS) -> float:
        """1 for a policy that nobody beats anywhere: its cost against the best, mean over loads and weights."""
        return mean(
            mean(o.cost(weight) for o in found) / self._best(load, weight)
            for load, found in outcomes.items()
            for weight in weights
        )

    def _best(self, load: str, weight: float) -> float:
        every = [*self.own.values(), *self.other.values()]
        return min(mean(o.cost(weight) for o in outcomes[load]) for outcomes in every)

    def ranking(self) -> list[ScalingPolicy]:
        """Our candidates, the best first."""
        return sorted(self.own, key=lambda policy: self.score(self.own[policy]))

    def policies_table(self) -> str:
        """Waiting against task-hours: the best, others of its kind with more or fewer jobs, and other ways."""
        best = self.ranking()[0]
        shown = {f"**{name_of(best)}**": self.own[best]}
        for jobs in sorted({p.jobs_per_worker for p in CANDIDATES} - {best.jobs_per_worker}):
            shown[f"the same with {jobs} jobs a worker"] = self.own[replace(best, jobs_per_worker=jobs)]
        shown |= self.other
        lines = [
            row(name if number == 0 else "", load, found)
            for name, outcomes in shown.items()
            for number, (load, found) in enumerate(outcomes.items())
        ]
        return markdown_table(["policy", "load", "mean wait, s", "95 % wait, s", "task-hours a day"], lines)

    def ranking_table(self) -> str:
        """The scores."""
        ranking = self.ranking()
        shown = {name_of(policy): self.own[policy] for policy in (*ranking[:5], ranking[-1])} | self.other
        lines = [
            [name, f"{self.score(outcomes):.2f}", *(f"{self.score(outcomes, [w]):.2f}" for w in WAIT_WEIGHTS)]
            for name, outcomes in shown.items()
        ]
        heading = ["policy", "score", *(f"an hour's wait worth {weight:g} task-hours" for weight in WAIT_WEIGHTS)]
        return markdown_table(heading, lines)


def compare(*, seeds: Sequence[int] = SEEDS) -> Comparison:
    """All policies on all loads."""
    own = {
        policy: {load: days(partial(ours, policy), load, seeds=seeds) for load in LOADS} for policy in CANDIDATES
    }
    other = {name: {load: days(create, load, seeds=seeds) for load in LOADS} for name, create in OTHERS.items()}
    return Comparison(own, other)


def main(arguments: Sequence[str]) -> int:
    """Print the tables, or write them into the page. Status 1 when the code's default isn't the best."""
    found = compare()
    best = found.ranking()[0]
    tables = {"policies": found.policies_table(), "ranking": found.ranking_table()}
    print(*tables.values(), f"best: {name_of(best)}", f"the code has: {name_of(DEFAULT_POLICY)}", sep="\n\n")
    if "--write" in arguments:
        for name, table in tables.items():
            replace_part(PAGES / "scaling.md", name, table)
    return 0 if best == DEFAULT_POLICY else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
