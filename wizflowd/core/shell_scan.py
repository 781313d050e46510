"""The scanner of shell programs: in which quoting each placeholder stands, and of which command it is a word.

In: a program in which every placeholder is one `MARK`. Out: a `Scan`. Called by `core.shell` only. One pass, no
backtracking. It knows what sh, dash, bash, ksh, zsh and busybox have in common; where they differ, or where it
is not sure, it stops with a `Refusal` of the whole program: it never guesses.
"""

import re
from dataclasses import dataclass, field
from enum import Enum, auto

from msgspec import Struct

from wizflowd.core.shell_quotes import QuoteReader, UnsureError
from wizflowd.core.shell_words import MARK, OPAQUE, PARENTHESES, Command, Context, Refusal, Scan, Word

_PLAIN = re.compile(r"[A-Za-z0-9_./,:=+@%^*?!~\[\]{}-]+")
_DESCRIPTOR = re.compile(r"[0-9]+|\{[A-Za-z_][A-Za-z0-9_]*\}")
_DELIMITER = re.compile(r"""[ \t]*((?:[^ \t\n|&;<>()$`\\"'\0]|\\[^\n\0]|'[^'\n\0]*'|"[^"\n\0$`\\]*")+)""")
_DELIMITER_QUOTES = re.compile(r"""\\(.)|['"]""", re.DOTALL)
_CUT_OPERATOR = re.compile(r"[<>(&;|]\\\n(?:\\\n)*[<>(&;|!\\-]")
_OPENS_SUBSCRIPT = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]*)?\[[^\]]*")
_REDIRECTIONS = ("<<<", "<<-", "<<", "<&", "<>", "<", "&>>", "&>", ">>", ">&", ">|", ">!", ">")
_CASE_ENDS = (";;&", ";;", ";&", ";|")
_BEFORE_A_COMMAND = frozenset(
    ("if", "then", "elif", "else", "fi", "while", "until", "do", "done", "{", "}", "!", "time", "coproc", "esac")
)
_BODY_FOLLOWS = (("for", "do"), ("select", "do"), ("function", "{"))


def scan(program: str) -> Scan:
    """Return where the marks of `program` stand; with a refusal as the last and `complete` false if it gave up."""
    scanner = _Scanner(program)
    try:
        scanner.commands(closer="")
    except UnsureError as unsure:
        found = scanner.found
        refusals = [*found.refusals, Refusal(unsure.offset, unsure.what)]
        return Scan(found.slots, found.commands, refusals, found.arithmetic, found.dialect, complete=False)
    return scanner.found


class _Case(Enum):
    """What comes next in `case SUBJECT in PATTERN) BODY;; esac`."""

    SUBJECT = auto()
    IN = auto()
    PATTERN = auto()
    BODY = auto()


@dataclass(slots=True)
class _Frame:
    """The list of commands being read: the word in the making, and what it will belong to."""

    closer: str
    glued: bool
    command: Command = field(default_factory=Command)
    letters: list[str] | None = None
    start: int = 0
    quoted: bool = False
    redirection: str = ""
    cases: list[_Case] = field(default_factory=list)

    @property
    def in_pattern(self) -> bool:
        return bool(self.cases) and self.cases[-1] is _Case.PATTERN

    @property
    def in_test(self) -> bool:
        words = self.command.words
        return bool(words) and words[0].text == "[[" and words[-1].text != "]]"


class _Heredoc(Struct, frozen=True):
    delimiter: str
    tabs: bool
    quoted: bool
    command: Command


class _Scanner(QuoteReader):
    """Reads commands, words, operators and here-documents."""

    def __init__(self, program: str) -> None:
        super().__init__(program)
        self.pending: list[_Heredoc] = []  # whose bodies begin after this line
        self.waiting = 0  # such here-documents outside the substitution being read

    @property
    def awaits_body(self) -> bool:
        """Whether a here-document was announced whose body is still to come."""
        return bool(self.pending or self.waiting)

    def commands(self, *, closer: str, glued: bool = False) -> None:
        """Read commands up to `closer` (`)`, or the end of the program)."""
        frame = _Frame(closer, glued)
        opened = self.pos
        while self.pos < len(self.text):
            char = self.text[self.pos]
            if char == ")" and closer and not frame.in_pattern and not frame.in_test:
                self._end_command(frame)
                self.pos += 1
                if frame.cases:
                    self.give_up("a `case` without its `esac`", opened)
                return
            if plain := _PLAIN.match(self.text, self.pos):
                self._letters(frame).append(plain[0])
                self.pos = plain.end()
            elif char in " \t":
                self._end_word(frame)
                self.pos += 1
            elif char == "\n":
                self._newline(frame)
            elif char == "#" and frame.letters is None:
                self._comment(frame)
            elif char in "&|;<>()":
                self._operator(frame, char)
            else:
                self._word_part(frame, char)
        self._end_command(frame)
        if closer or frame.cases or self.pending:
            self.give_up("something is opened and never closed", opened)

    # words

    def _letters(self, frame: _Frame) -> list[str]:
        if frame.letters is None:
            frame.letters, frame.start, frame.quoted = [], self.pos, False
        return frame.letters

    def _word_part(self, frame: _Frame, char: str) -> None:
        """Read the next quoted, expanded or plain part of a word."""
        if self.text.startswith("\\\n", self.pos):
            self._continuation()
            return
        letters = self._letters(frame)
        match char:
            case "\\":
                frame.quoted = True
                letters.append(self.text[self.pos + 1 : self.pos + 2])
                self.pos += 2
            case "'":
                frame.quoted = True
                self.single(letters)
            case '"':
                frame.quoted = True
                self.double(letters)
            case "$":
                letters.append(OPAQUE)
                self.dollar(quoted=False)
            case "`":
                letters.append(OPAQUE)
                self.backticks()
            case _:
                if char == MARK:
                    self.marks(self.pos, self.pos + 1, Context.BARE)
                letters.append(char)
                self.pos += 1

    def _continuation(self) -> None:
        """Skip backslash and newline, which all shells drop; an operator cut in two by them is not read."""
        if _CUT_OPERATOR.match(self.text, max(0, self.pos - 1)):
            self.give_up("an operator is cut in two by a backslash at the end of the line")
        self.pos += 2

    def _end_word(self, frame: _Frame) -> None:
        if frame.letters is None:
            return
        word = Word("".join(frame.letters), frame.start, self.pos, frame.quoted)
        frame.letters = None
        if frame.redirection:
            frame.command.targets.append((frame.redirection, word))
            frame.redirection = ""
            return
        if not self._case_word(frame, word):
            self._command_word(frame, word)

    def _case_word(self, frame: _Frame, word: Word) -> bool:
        """Take a word that belongs to the head of a `case`, not to a command."""
        if not frame.cases or frame.cases[-1] is _Case.BODY:
            return False
        match frame.cases[-1]:
            case _Case.SUBJECT:
                frame.cases[-1] = _Case.IN
            case _Case.IN:
                if word.text != "in" or word.quoted:
                    self.give_up("a `case` without its `in`", word.start)
                frame.cases[-1] = _Case.PATTERN
            case _:
                if word.text == "esac" and not word.quoted:
                    frame.cases.pop()
        return True

    def _command_word(self, frame: _Frame, word: Word) -> None:
        words = frame.command.words
        plain = not word.quoted
        is_test = word.text in ("[", "[[") and not frame.glued
        if (not words or frame.glued) and _OPENS_SUBSCRIPT.fullmatch(word.text) and not is_test:
            self.give_up("a subscript with blanks in it", word.start)
        if plain and not words:
            if word.text == "case":
                frame.cases.append(_Case.SUBJECT)
                return
            if word.text == "esac" and frame.cases:
                frame.cases.pop()
            if word.text in _BEFORE_A_COMMAND:
                return
        words.append(word)
        if plain and len(words) == 3 and (words[0].text, word.text) in _BODY_FOLLOWS:
            self._end_command(frame)

    def _end_command(self, frame: _Frame) -> None:
        self._end_word(frame)
        if frame.redirection:
            self.give_up("a redirection without its target")
        if frame.in_test:
            self.give_up("a `[[` without its `]]`", frame.command.words[0].start)
        if frame.command.words or frame.command.targets:
            self.found.commands.append(frame.command)
            frame.command = Command()

    # between words

    def _newline(self, frame: _Frame) -> None:
        self._end_word(frame)
        if not frame.in_test:
            self._end_command(frame)
        if self.waiting or (self.pending and frame.glued):
            self.give_up("a line ends inside a substitution while a here-document waits for its body")
        self.pos += 1
        pending, self.pending = self.pending, []
        for heredoc in pending:
            self._body(heredoc)

    def _comment(self, frame: _Frame) -> None:
        if (frame.in_test or frame.glued) and self.text[self.pos - 1] not in " \t\n":
            self.give_up("a `#` that may or may not begin a comment")
        end = self.text.find("\n", self.pos)
        end = len(self.text) if end < 0 else end
        self.marks(self.pos, end, Context.COMMENT)
        self.pos = end

    def _operator(self, frame: _Frame, char: str) -> None:
        if frame.in_test:
            self._end_word(frame)
            if not frame.in_test and frame.command.words:
                return  # that word was `]]`
            self.pos += 1
        elif char == "(":
            self._open(frame)
        elif char == ")":
            self._close_pattern(frame)
        elif self.text.startswith(("<(", ">("), self.pos):
            self._letters(frame).append(OPAQUE)
            self.pos += 2
            self.nested_program()
        elif redirection := next((op for op in _REDIRECTIONS if self.text.startswith(op, self.pos)), ""):
            self._redirection(frame, redirection)
        else:
            self._separator(frame)

    def _open(self, frame: _Frame) -> None:
        """Read what begins with `(`: a function's `()`, an array, a pattern, arithmetic or a subshell."""
        if frame.letters is None and frame.in_pattern:
            self.pos += 1
        elif frame.letters is not None:
            self.pos += 1
            if self.text.startswith(")", self.pos) and frame.letters[-1][-1:] != "=":
                self.pos += 1
                self._end_command(frame)
                return
            self.deeper()
            self.commands(closer=")", glued=True)
            self.depth -= 1
            frame.letters.append(PARENTHESES)
        elif self.text.startswith("((", self.pos):
            self.found.dialect.append(Refusal(self.pos, "`((` is arithmetic in some shells and not in others"))
            self.arithmetic(self.pos + 2)
        else:
            self._end_command(frame)
            self.pos += 1
            self.deeper()
            self.commands(closer=")")
            self.depth -= 1

    def _close_pattern(self, frame: _Frame) -> None:
        was_pattern = frame.in_pattern
        self._end_word(frame)
        if was_pattern and not frame.in_pattern:
            return  # that word was `esac`: the `)` closes something else
        if frame.in_pattern:
            frame.cases[-1] = _Case.BODY
        self._end_command(frame)
        self.pos += 1

    def _separator(self, frame: _Frame) -> None:
        """Read `;`, `&`, `|` and the like."""
        end = next((op for op in _CASE_ENDS if self.text.startswith(op, self.pos)), "")
        if frame.in_pattern:
            self._end_word(frame)
            self.pos += 1
            return
        self._end_command(frame)
        if end and frame.cases:
            frame.cases[-1] = _Case.PATTERN
        self.pos += len(end) if end and frame.cases else 1

    def _redirection(self, frame: _Frame, operator: str) -> None:
        if frame.letters is not None and not frame.quoted and _DESCRIPTOR.fullmatch("".join(frame.letters)):
            frame.letters = None
        self._end_word(frame)
        if frame.redirection:
            self.give_up("a redirection without its target")
        self.pos += len(operator)
        if operator in ("<<", "<<-"):
            self._heredoc(frame.command, tabs=operator == "<<-")
        else:
            frame.redirection = operator

    # here-documents

    def _heredoc(self, command: Command, *, tabs: bool) -> None:
        """Read the delimiter; the body begins after the line."""
        match = _DELIMITER.match(self.text, self.pos)
        written = match[1] if match else ""
        self.pos = match.end() if match else self.pos
        delimiter = _DELIMITER_QUOTES.sub(r"\1", written)
        follows = self.text[self.pos : self.pos + 1]
        if not delimiter or written.startswith("#") or (follows and follows in "$`\\\"'\0"):
            self.give_up("a here-document's delimiter that is not plain text")
        self.pending.append(_Heredoc(delimiter, tabs, delimiter != written, command))

    def _body(self, heredoc: _Heredoc) -> None:
        start, joined = self.pos, None  # the line before, if a backslash joins it to this one
        while True:
            stop, end = self.pos, self.text.find("\n", self.pos)
            line = self.text[stop : end if end >= 0 else len(self.text)]
            whole = (joined or "") + line
            ends = (line.lstrip("\t") if heredoc.tabs else line) == heredoc.delimiter
            cut = joined is not None and not heredoc.quoted
            if cut and (ends or whole.lstrip("\t") == heredoc.delimiter):
                self.give_up("a here-document whose end is cut in two by a backslash at the end of the line", stop)
            if ends:
                break
            if end < 0:
                self.give_up(f"a here-document without its end {heredoc.delimiter!r}", start)
            continues = (len(line) - len(line.rstrip("\\"))) % 2 == 1
            joined = whole[:-1].lstrip("\t")[: len(heredoc.delimiter) + 1] if continues else None
            self.pos = end + 1
        if heredoc.quoted:
            self._raw_body(start, stop)
        else:
            self._live_body(start, stop, heredoc.command)
        self.pos = len(self.text) if end < 0 else end + 1

    def _raw_body(self, start: int, stop: int) -> None:
        what = "in a here-document with a quoted delimiter, where nothing is filled"
        self.found.refusals.extend(Refusal(offset, what) for offset in range(start, stop) if self.text[offset] == MARK)

    def _live_body(self, start: int, stop: int, command: Command) -> None:
        self.pos = start
        while self.pos < stop:
            match self.text[self.pos]:
                case "\\":
                    self.pos += 2
                case "$":
                    self.dollar(quoted=True)
                case "`":
                    self.backticks()
                case "\0":
                    command.fed.append(self.pos)
                    self.marks(self.pos, self.pos + 1, Context.HEREDOC)
                    self.pos += 1
                case _:
                    self.pos += 1
        if self.pos > stop:
            self.give_up("an expansion that goes past the end of its here-document", start)

    def nested_program(self) -> None:
        """Read the commands of `$(…)` or `<(…)` up to the `)`: quoting starts afresh in them."""
        outer, self.pending = self.pending, []
        self.waiting += len(outer)
        self.deeper()
        self.commands(closer=")")
        self.depth -= 1
        if self.pending:
            self.give_up("a substitution that ends before the body of its here-document")
        self.waiting -= len(outer)
        self.pending = outer
