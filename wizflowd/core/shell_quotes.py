"""Quotes and expansions of shell programs: how far each goes, and in which a placeholder stands.

`QuoteReader` is the lower half of the scanner in `core.shell_scan`, its only user. Where shells read an expansion
differently it gives up.
"""

import re
from abc import ABC, abstractmethod
from typing import NoReturn

from wizflowd.core.shell_words import MARK, OPAQUE, Context, Refusal, Scan

_MAX_DEPTH = 40
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SUBSCRIPT = re.compile(r"\[[^\]\0]{0,500}+(?!\])")  # bounded, so that many of them stay linear


class UnsureError(Exception):
    """The scanner does not know, or shells do not agree, how the program goes on."""

    def __init__(self, offset: int, what: str) -> None:
        super().__init__(what)
        self.offset, self.what = offset, what


class QuoteReader(ABC):
    """Reads a program once; each method starts at what it is named for and leaves `pos` behind it."""

    def __init__(self, program: str) -> None:
        self.text = program
        self.pos = 0
        self.found = Scan()
        self.inside: list[str] = []  # reasons why no mark may stand here
        self.depth = 0

    @property
    @abstractmethod
    def awaits_body(self) -> bool:
        """Whether a here-document was announced whose body is still to come."""

    @abstractmethod
    def nested_program(self) -> None:
        """Read the commands of `$(…)` or `<(…)` up to the `)`: quoting starts afresh in them."""

    def marks(self, start: int, stop: int, context: Context) -> None:
        """Note the marks in `start:stop` as standing in `context`."""
        while (start := self.text.find(MARK, start, stop)) >= 0:
            self.found.slots[start] = context
            if self.inside:
                self.found.refusals.append(Refusal(start, self.inside[-1]))
            start += 1

    def quoted_newline(self) -> None:
        """Give up where a line ends in quotes and shells differ on where a here-document's body begins."""
        if self.awaits_body:
            self.give_up("a line ends inside quotes while a here-document waits for its body")

    def single(self, letters: list[str]) -> None:
        """Read `'…'` into `letters`."""
        end = self.text.find("'", self.pos + 1)
        if end < 0:
            self.give_up("a single quote that is never closed")
        self._literal(self.pos + 1, end, Context.SINGLE, letters)

    def _ansi(self) -> None:
        start = self.pos
        self.pos += 2
        while self.text[self.pos : self.pos + 1] != "'":
            if self.pos >= len(self.text):
                self.give_up("a `$'` that is never closed", start)
            if self.text.startswith("\\'", self.pos):
                self.found.dialect.append(Refusal(start, "`$'` with `\\'` ends elsewhere in sh"))
            self.pos += 2 if self.text[self.pos] == "\\" else 1
        end, letters = self.pos, list[str]()
        self._literal(start + 2, end, Context.ANSI, letters)
        if MARK in letters[0]:
            self.found.dialect.append(Refusal(start, "`$'` is not a quote in every sh"))

    def _literal(self, start: int, end: int, context: Context, letters: list[str]) -> None:
        """Take the text between two quotes that expand nothing."""
        inner = self.text[start:end]
        if "\n" in inner:
            self.quoted_newline()
        letters.append(inner)
        self.marks(start, end, context)
        self.pos = end + 1

    def double(self, letters: list[str]) -> None:
        """Read `"…"` into `letters`."""
        start = self.pos
        self.pos += 1
        while self.pos < len(self.text):
            char = self.text[self.pos]
            if char == '"':
                self.pos += 1
                return
            if char == "\\":
                letters.append(self.text[self.pos + 1 : self.pos + 2])
                self.pos += 2
            elif char == "$":
                letters.append(OPAQUE)
                self.dollar(quoted=True)
            elif char == "`":
                letters.append(OPAQUE)
                self.backticks()
            else:
                if char == MARK:
                    self.marks(self.pos, self.pos + 1, Context.DOUBLE)
                elif char == "\n":
                    self.quoted_newline()
                letters.append(char)
                self.pos += 1
        self.give_up("a double quote that is never closed", start)

    def dollar(self, *, quoted: bool) -> None:
        """Read an expansion; `quoted` inside double quotes and here-documents, where `$'` is nothing special."""
        self.deeper()
        after = self.text[self.pos + 1 : self.pos + 2]
        if after == MARK:
            self.found.refusals.append(Refusal(self.pos + 1, "directly behind a `$`"))
            self.pos += 1
        elif self.text.startswith("$((", self.pos):
            self.arithmetic(self.pos + 3)
        elif after == "(":
            self.pos += 2
            self.nested_program()
        elif after == "{":
            self._parameter(quoted=quoted)
        elif after == "[":
            self.give_up("`$[` is arithmetic in some shells and not in others")
        elif after == "'" and not quoted:
            self._ansi()
        elif name := _NAME.match(self.text, self.pos + 1):
            self.pos = name.end()
            if subscript := _SUBSCRIPT.match(self.text, self.pos):
                if not self.text.startswith(MARK, subscript.end()):
                    self.give_up("what zsh takes for a subscript without its end")
                self.found.refusals.append(Refusal(subscript.end(), "in what zsh takes for a subscript"))
        elif self.text.startswith("$\\\n", self.pos):
            self.give_up("an operator is cut in two by a backslash at the end of the line")
        else:
            self.pos += 2 if after and after in "@*#?-$!0123456789" else 1
        self.depth -= 1

    def _parameter(self, *, quoted: bool) -> None:
        """Read `${…}`. Shells differ in the quoting inside it, so that no mark may stand there."""
        start = self.pos
        self.pos += 2
        self.inside.append("inside `${…}`, where shells differ in their quoting")
        if self.text[self.pos : self.pos + 1] in (" ", "\t", "\n", "|", "("):
            self.give_up("a `${` that is not followed by a name", start)
        while self.text[self.pos : self.pos + 1] != "}":
            char = self.text[self.pos : self.pos + 1]
            if not char:
                self.give_up("a `${` that is never closed", start)
            unlike = "{'\"" if quoted else "{"
            if char in unlike or self.text.startswith(("<(", ">("), self.pos):
                self.give_up("a `${…}` that shells do not all read alike", start)
            match char:
                case "\\":
                    self.pos += 2
                case "$":
                    self.dollar(quoted=quoted)
                case "`":
                    self.backticks()
                case "'":
                    self.single([])
                case '"':
                    self.double([])
                case _:
                    if char == MARK:
                        self.marks(self.pos, self.pos + 1, Context.BARE)
                    elif char == "\n":
                        self.quoted_newline()
                    self.pos += 1
        self.pos += 1
        self.inside.pop()

    def arithmetic(self, start: int) -> None:
        """Read an expression from behind its `((` to its `))`; what does not end so may be nested subshells."""
        self.inside.append("in arithmetic, where a value can run commands")
        opening, self.pos, depth = self.pos, start, 0
        while depth or not self.text.startswith("))", self.pos):
            char = self.text[self.pos : self.pos + 1]
            if not char or char == "'" or (char == ")" and not depth):
                self.give_up("a `((` that may be arithmetic or two subshells", opening)
            depth += (char == "(") - (char == ")")
            match char:
                case "\\":
                    self.pos += 2
                case "$":
                    self.dollar(quoted=True)
                case "`":
                    self.backticks()
                case '"':
                    self.double([])
                case _:
                    if char == MARK:
                        self.marks(self.pos, self.pos + 1, Context.BARE)
                    elif char == "\n":
                        self.quoted_newline()
                    self.pos += 1
        self.found.arithmetic.append((start, self.pos))
        self.pos += 2
        self.inside.pop()

    def backticks(self) -> None:
        """Skip a command in backticks: all shells look for the next backtick without a backslash."""
        start = self.pos
        self.pos += 1
        while self.text[self.pos : self.pos + 1] != "`":
            match self.text[self.pos : self.pos + 1]:
                case "":
                    self.give_up("a backtick that is never closed", start)
                case "\\":
                    self.pos += 1
                case "\n":
                    self.quoted_newline()
                case "\0":
                    self.found.refusals.append(Refusal(self.pos, "in backticks"))
                case _:
                    pass
            self.pos += 1
        self.pos += 1

    def deeper(self) -> None:
        """Count one more level of nesting; whoever calls this lowers `depth` when it is left."""
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            self.give_up("it is nested too deeply")

    def give_up(self, what: str, offset: int | None = None) -> NoReturn:
        """End the scan: nothing behind `offset` (by default here) is known."""
        raise UnsureError(self.pos if offset is None else offset, what)
