"""Strict modes: who besides the trusted could change what runs here. In: stats. Out: problems, each with its mend.

Called by `watcher.ledger` in a thread, at each walk. Source: SPEC section 8, `strict_modes`.
"""

import grp
import logging
import os
import pwd
import shlex
import stat
from collections.abc import Iterator

from wizflowd.errors import printable
from wizflowd.watcher.scan import Access, Entry

log = logging.getLogger(__name__)
_ACL = "system.posix_acl_access"


class Modes:
    """The trusted users and groups, as of the last `refresh`, and what they are held against.

    `owners` are user names and `"@group"`s, or their numbers (those of a container have no names here). Root and the
    daemon's own user are trusted always; without `owners` the folder's owner is, if `folder_owner_trusted`. A user's
    private group (of the same name, with nobody else in it) counts as the user.
    """

    def __init__(self, folder: str, owners: tuple[str, ...], *, folder_owner_trusted: bool) -> None:
        self._folder = folder
        self._owners = owners
        self._folder_owner_trusted = folder_owner_trusted and not owners
        self._uids: set[int] = {0}
        self._gids: set[int] = {0}
        self._unknown: set[str] = set()
        self._below: dict[str, tuple[str, ...]] = {}

    def refresh(self) -> bool:
        """Look users, groups and the folder's owner up again; return whether others are trusted than before."""
        before, unknown = (self._uids, self._gids), set[str]()
        self._below.clear()
        self._uids = {0, os.geteuid()}
        self._gids = {0}
        if self._folder_owner_trusted:
            self._uids.add(os.stat(self._folder).st_uid)
        for name in self._owners:
            try:
                if name.startswith("@"):
                    self._gids.add(int(name[1:]) if name[1:].isdecimal() else grp.getgrnam(name[1:]).gr_gid)
                else:
                    self._uids.add(int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid)
            except KeyError:
                unknown.add(name)
        for name in sorted(unknown - self._unknown):
            kind = "group" if name.startswith("@") else "user"
            log.warning("cannot trust an owner: this host has no such %s", kind, extra={"owner": name})
        self._unknown = unknown
        self._gids.update(_private_groups(self._uids))
        return before != (self._uids, self._gids)

    def folder_problems(self) -> tuple[str, ...]:
        """Return what is wrong with the folder, the parents of its path and those of where its links lead."""
        real = os.path.realpath(self._folder)
        parents = dict.fromkeys([*_parents(self._folder), *_parents(real)])
        found = [p for parent in parents for p in self._judge(parent, os.lstat(parent), sticky_helps=True)]
        return (*self._judge(real, os.stat(real), sticky_helps=False), *found)

    def file_problems(self, entry: Entry) -> tuple[str, ...]:
        """Return what is wrong with a definition file and the folders between it and the root."""
        above = self._problems_above(entry.real)
        seen = entry.access
        if not above and seen.st_nlink == 1 and not seen.st_mode & 0o022 and seen.st_uid in self._uids:
            return ()
        found = [*above, *self._judge(entry.real, seen, sticky_helps=False)]
        if seen.st_nlink > 1:
            name = _quote(entry.real)
            mend = f"cp -p {name} {name}.new && mv {name}.new {name}"
            found.append(f"{name} has {seen.st_nlink} hard links, it can be changed under another name; {mend}")
        return tuple(found)

    def _problems_above(self, real: str) -> tuple[str, ...]:
        folder = os.path.dirname(real)
        if (known := self._below.get(folder)) is not None:
            return known
        found: list[str] = []
        root = os.path.realpath(self._folder)
        here = folder
        while here.startswith(f"{root}/"):
            try:
                found += self._judge(here, os.lstat(here), sticky_helps=False)
            except OSError as exc:
                found.append(f"cannot look at its folder {_quote(here)}: {exc.strerror}")
            here = os.path.dirname(here)
        self._below[folder] = tuple(found)
        return self._below[folder]

    def _judge(self, path: str, seen: os.stat_result | Access, *, sticky_helps: bool) -> Iterator[str]:
        if stat.S_ISLNK(seen.st_mode):
            return  # the mode of a link means nothing; its target's parents are judged too
        name = _quote(path)
        if seen.st_uid not in self._uids:
            yield f"{name} belongs to {_user(seen.st_uid)}, who is not in `owners`; chown root {name}"
        if sticky_helps and seen.st_mode & stat.S_ISVTX:
            return
        if seen.st_mode & stat.S_IWOTH:
            yield f"{name} can be written by everybody; chmod o-w {name}"
        if seen.st_mode & stat.S_IWGRP:
            if seen.st_gid not in self._gids:
                group = _group(seen.st_gid)
                yield f"{name} can be written by the group {group}, which is not in `owners`; chmod g-w {name}"
            elif _has_acl(path):
                yield f"{name} can be written by others by its access list; setfacl -b {name}"


def _parents(path: str) -> Iterator[str]:
    while (parent := os.path.dirname(path)) != path:
        yield parent
        path = parent


def _private_groups(uids: set[int]) -> Iterator[int]:
    for uid in uids:
        try:
            user = pwd.getpwuid(uid)
            group = grp.getgrgid(user.pw_gid)
        except KeyError:
            continue
        if group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}:
            yield group.gr_gid


def _has_acl(path: str) -> bool:
    try:
        return _ACL in os.listxattr(path)
    except OSError:
        return False


def _quote(path: str) -> str:
    return shlex.quote(printable(path))


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
