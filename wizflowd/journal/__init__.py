"""The journal: everything that was recorded, in one SQLite file. `Journal` owns it; the engine calls it."""

from wizflowd.journal.journal import Journal
from wizflowd.journal.rows import Commit, Due, Past, Recovered, RunRow, WorkflowRow

__all__ = ["Commit", "Due", "Journal", "Past", "Recovered", "RunRow", "WorkflowRow"]
