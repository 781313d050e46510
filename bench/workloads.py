"""What is to be done: tasks that each run `sh -c true`, and what each waits for. Independent of any tool.

Made by the experiments; every tool in `peers`, and wizflow, writes the same workload in its own words.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Workload:
    """`needs` names the tasks that each task waits for; a task stands behind those it needs."""

    name: str
    needs: dict[str, list[str]]

    @property
    def leaves(self) -> list[str]:
        """The tasks that nothing waits for."""
        needed = {need for needs in self.needs.values() for need in needs}
        return [task for task in self.needs if task not in needed]

    def __len__(self) -> int:
        return len(self.needs)


def independent(count: int) -> Workload:
    """Return tasks that may all run at once."""
    return Workload(f"{count:,} independent", {f"t{number}": [] for number in range(count)})


def chain(count: int) -> Workload:
    """Return tasks that run one after the other."""
    needs = {f"t{number}": [f"t{number - 1}"] if number else [] for number in range(count)}
    return Workload(f"a chain of {count:,}", needs)


def layers(depth: int, width: int) -> Workload:
    """Return layers, each task of which waits for all of the layer before."""
    needs = {
        f"t{level}_{place}": [f"t{level - 1}_{other}" for other in range(width)] if level else []
        for level in range(depth)
        for place in range(width)
    }
    return Workload(f"{depth} layers x {width}, all-to-all", needs)
