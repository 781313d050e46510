"""The name that somebody may have meant. Called wherever a name in a definition is unknown."""

import difflib
import itertools
from collections.abc import Iterable

from wizflowd.core.fields import shown

# Comparing costs some 3 us a candidate, so that a file with a hundred thousand long or wrong names must not be
# able to ask for much of it.
_LONGEST = 64
_CANDIDATES = 2_000
_COMPARED = 200


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Return `did you mean "command"?` for the closest of the candidates, or nothing where none is close."""
    if not 0 < len(word) <= _LONGEST:
        return ""
    wanted = _plain(word)
    near = {
        _plain(candidate): candidate
        for candidate in itertools.islice(candidates, _CANDIDATES)
        if abs(len(candidate) - len(word)) <= 5
    }
    found = difflib.get_close_matches(wanted, list(itertools.islice(near, _COMPARED)), n=1, cutoff=0.65)
    return f"did you mean {shown(near[found[0]])}?" if found else ""


def _plain(word: str) -> str:
    return word.casefold().replace("-", "_")
