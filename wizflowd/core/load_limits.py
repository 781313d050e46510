"""How large a definition may be, and what is said when it is larger. Used by the loader and its two trees."""

from dataclasses import dataclass

from wizflowd.core.places import Place, problem_at
from wizflowd.errors import LocatedProblem

TASK_LISTS = ("tasks", "finally")
LONGEST_NUMBER = 500  # characters; Python refuses to print more than 4,300 digits, or 640 if told so


@dataclass(frozen=True, slots=True)
class LoadLimits:
    """Upper bounds, all inclusive: `bytes` of the file, `depth` of lists and mappings in each other, `nodes`
    (values, keys not counted) and `aliases` of YAML with all that they stand for, `tasks` of each list of tasks.
    """

    bytes: int = 8 * 1024 * 1024
    depth: int = 32
    nodes: int = 1_000_000
    aliases: int = 1_000
    tasks: int = 100_000

    def too_large(self, size: int) -> LocatedProblem:
        """Say that the file has too many bytes."""
        return problem_at(None, f"the file has {size} bytes, allowed are {self.bytes}", "split the workflow")

    def too_deep(self, place: Place | None) -> LocatedProblem:
        """Say that lists and mappings stand too deep in each other."""
        return problem_at(
            place,
            f"lists and mappings are nested more than {self.depth} deep",
            "keep deep data in a file of its own",
        )

    def too_many_nodes(self, place: Place | None) -> LocatedProblem:
        """Say that there are too many values."""
        return problem_at(place, f"more than {self.nodes} values", "keep large data in a file of its own")

    def too_many_aliases(self, place: Place) -> LocatedProblem:
        """Say that there are too many aliases."""
        return problem_at(place, f"more than {self.aliases} aliases", "write the values out, or use params")

    def too_much_by_alias(self, place: Place) -> LocatedProblem:
        """Say that aliases stand for more values or text than a file may have."""
        what = "with all that its aliases stand for the file is larger than allowed"
        return problem_at(place, what, "write the values out, or use params")

    def too_many_tasks(self, place: Place | None, name: str) -> LocatedProblem:
        """Say that one of the lists of tasks is too long."""
        what = f"more than {self.tasks} tasks"
        return problem_at(place, what, "split the workflow, or use matrix or for_each", where=name)


def beyond(brackets: bytes, depth: int) -> bytes:
    """Return what is left of a text of square brackets without the pairs that are nested at most `depth` high.

    Each pass takes away the innermost level and only that: what is left is deeper, or has no partner.
    """
    for _ in range(depth):
        flatter = brackets.replace(b"[]", b"")
        if len(flatter) == len(brackets):
            break
        brackets = flatter
    return brackets
