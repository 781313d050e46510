"""Files of other schedulers -> definitions of ours, and a list of what could not be carried over.

In: the text of a crontab or a Dagu file. Out: an `Imported`. Called by `wizflow import`.
"""

from wizflowd.importers.crontab import import_crontab
from wizflowd.importers.dagu import import_dagu
from wizflowd.importers.writing import Imported

__all__ = ["Imported", "import_crontab", "import_dagu"]
