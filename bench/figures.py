"""What an experiment says: figures that were measured, and goals held against them."""

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table: the median of its samples; `note` says what it was measured on."""

    experiment: str
    who: str
    what: str
    unit: str
    samples: tuple[float, ...]
    note: str = ""

    @property
    def value(self) -> float:
        return statistics.median(self.samples)


@dataclass(frozen=True, slots=True)
class Goal:
    """What was to be reached. `at_most`: less is better."""

    experiment: str
    what: str
    value: float
    goal: float
    unit: str = ""
    at_most: bool = False

    @property
    def met(self) -> bool:
        return self.value <= self.goal if self.at_most else self.value >= self.goal


@dataclass(slots=True)
class Findings:
    """All figures and goals of one benchmark, in order; `load` is that of the machine before."""

    load: float = field(default_factory=lambda: os.getloadavg()[0])
    figures: list[Figure] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)

    def add(self, figure: Figure) -> Figure:
        """Keep a figure and return it."""
        self.figures.append(figure)
        return figure

    def at_least(self, experiment: str, what: str, value: float, goal: float, unit: str = "") -> None:
        """Hold a value against a goal that it should reach."""
        self.goals.append(Goal(experiment, what, value, goal, unit))

    def at_most(self, experiment: str, what: str, value: float, goal: float, unit: str = "") -> None:
        """Hold a value against a goal that it should not exceed."""
        self.goals.append(Goal(experiment, what, value, goal, unit, at_most=True))


def rates(tasks: int, seconds: Sequence[float]) -> tuple[float, ...]:
    """Return tasks per second of each time."""
    return tuple(tasks / each_s for each_s in seconds)
