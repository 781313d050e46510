"""Which workflows have series of their own: the budget bounds what Prometheus stores. Asked by `tally`, `present`."""

from wizflowd.core.observations import WorkflowId

OTHER = "_other"
"""No identity: those begin with a letter or a digit."""


class WorkflowLabels:
    """The first `budget` workflows are told by their identity, the rest together as `_other`.

    A workflow keeps its label for the life of the daemon, also when its file is gone: counters never fall.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._labels: dict[WorkflowId, str] = {}

    def take(self, workflow: WorkflowId) -> str:
        """Return the label of a workflow, its own while there are any left. Only in the loop."""
        label = self._labels.get(workflow)
        if label is None:
            if len(self._labels) >= self._budget:
                return OTHER
            label = self._labels[workflow] = str(workflow)
        return label

    def look(self, workflow: WorkflowId) -> str:
        """Return the label of a workflow as it is now, from any thread."""
        return self._labels.get(workflow, OTHER)
