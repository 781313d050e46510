"""How many tasks and values YAML bytes hold at least, in a small part of the time that building the tree takes.

Called by the YAML tree for large files, which are refused with it in time; what is below the bounds is counted exactly.
"""

import re

import yaml

from wizflowd.core.load_limits import TASK_LISTS, LoadLimits, beyond

_TASKS = re.compile(rf"^({'|'.join(TASK_LISTS)}):[ \t]*(?:#.*)?\r?$".encode(), re.MULTILINE)
_FIRST_ITEM = re.compile(rb"(?:[ \t]*(?:#.*)?\r?\n)*( *)- ")
_NEXT_KEY = re.compile(rb"^[^ #\r\n-]", re.MULTILINE)
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def least_tasks(data: bytes) -> tuple[int, int]:
    """Return the length of the longest list of tasks in block style, and the offset of its key; (0, 0) without one.

    A line that begins with a dash at the items' own indentation can be nothing else than an item: texts of several
    lines are indented deeper, except where the file is not YAML and is refused anyway.
    """
    longest = (0, 0)
    for key in _TASKS.finditer(data):
        end = _NEXT_KEY.search(data, key.end())
        block = data[key.end() : end.start() if end else len(data)]
        first = _FIRST_ITEM.match(block)
        if first:
            longest = max(longest, (block.count(b"\n" + first[1] + b"- "), key.start()))
    return longest


def least_values(data: bytes, limits: LoadLimits) -> int:
    """Return how many values there are at least, from the number of events, which the C parser counts by itself.

    Besides values there are four events of the stream, at most a key for each value, and the ends of containers, each
    of which has a bracket, dash, colon or question mark of its own. 0 where nesting could make the parser slow.
    """
    parser = getattr(yaml, "CSafeLoader", None)
    brackets = data.translate(_BRACKETS, _ALL_BUT_BRACKETS)
    if parser is None or beyond(brackets, limits.depth).count(b"[") > limits.depth:
        return 0
    ends = sum(map(data.count, (b"]", b"}", b"-", b":", b"?")))
    return int((parser(data).raw_parse() - 4 - ends) // 2)
