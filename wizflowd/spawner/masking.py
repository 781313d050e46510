"""Secrets out of everything written: text or a stream of bytes goes in, the same with `***` comes out.

Called by the spawner for logs, and by whatever writes results, events and messages. Standard library only.
"""

import base64
import json
from collections.abc import Iterable, Iterator
from typing import TypeVar

MASK = b"***"
MIN_CHARACTERS = 6
"""Shorter values are not masked: they would be found everywhere. Source: SPEC section 3, Masking."""

_BASE64_LINES = (76, 64)  # coreutils and MIME; PEM
_HEX_LINES = (60,)  # xxd -p
_URL_SAFE = bytes.maketrans(b"+/", b"-_")

_Span = tuple[int, int]
_V = TypeVar("_V")


class Masker:
    """Replaces each secret, in any usual encoding, by `***`; finds that overlap become one `***`.

    A stream may be fed in any pieces, the output is the same. Held back between two pieces is only what may be the
    beginning of a secret. An instance holds the state of one stream; `mask` and `mask_json` leave that alone.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        self._patterns = sorted({pattern for secret in secrets for pattern in _encodings(secret)})
        self._longest = max(map(len, self._patterns), default=0)
        self._by_first: dict[int, list[bytes]] = {}
        for pattern in self._patterns:
            self._by_first.setdefault(pattern[0], []).append(pattern)
        self._held = b""
        self._covered = 0  # so many bytes at the head of _held belong to a find that was already written

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def feed(self, data: bytes) -> bytes:
        """Take the next piece of the stream; return what can be written by now."""
        if not self._patterns:
            return data
        buffer = self._held + data
        return self._release(buffer, self._hold_from(buffer))

    def flush(self) -> bytes:
        """Return what was held: the stream has ended."""
        return self._release(self._held, len(self._held))

    def held(self) -> tuple[bytes, int]:
        """Return the state between two pieces, for `resume` in another process."""
        return self._held, self._covered

    def resume(self, held: bytes, covered: int) -> None:
        """Go on where another instance with the same secrets stood."""
        self._held, self._covered = held, covered

    def mask(self, text: str) -> str:
        """Return `text` without secrets."""
        if not self._patterns:
            return text
        data = text.encode("utf-8", "surrogatepass")
        spans = self._finds(data)
        return _replaced(data, spans).decode("utf-8", "surrogatepass") if spans else text

    def mask_json(self, value: _V) -> _V:
        """Return a JSON value with its texts (keys too) masked; a number that shows a secret becomes text."""
        return self._masked(value) if self._patterns else value  # type: ignore[return-value]

    def _masked(self, value: object) -> object:
        match value:
            case str():
                return self.mask(value)
            case dict():
                return {self._masked(key): self._masked(item) for key, item in value.items()}
            case list() | tuple():
                return [self._masked(item) for item in value]
            case int() | float() if not isinstance(value, bool):
                text = repr(value)
                masked = self.mask(text)
                return value if masked == text else masked
            case _:
                return value

    def _release(self, buffer: bytes, end: int) -> bytes:
        """Return `buffer` up to `end`, masked; the rest is held. A find across `end` is written here, once."""
        spans = self._finds(buffer, covered=self._covered)
        already = 1 if self._covered else 0
        written = [span for index, span in enumerate(spans) if span[0] < end or index < already]
        reached = max(end, written[-1][1]) if written else end
        out = _replaced(buffer[:reached], written, silent=already)
        self._held, self._covered = buffer[end:], reached - end
        return out

    def _hold_from(self, buffer: bytes) -> int:
        """Return where the longest end of `buffer` begins that may be the beginning of a secret."""
        for index in range(max(0, len(buffer) - self._longest + 1), len(buffer)):
            candidates = self._by_first.get(buffer[index])
            if candidates:
                rest = buffer[index:]
                if any(len(rest) < len(pattern) and pattern.startswith(rest) for pattern in candidates):
                    return index
        return len(buffer)

    def _finds(self, data: bytes, *, covered: int = 0) -> list[_Span]:
        """Return where secrets stand, in order and joined where they overlap; the first `covered` bytes are one."""
        found = [(0, covered)] if covered else []
        for pattern in self._patterns:  # one search per pattern runs at memory speed, an alternation does not
            start = data.find(pattern)
            while start >= 0:
                found.append((start, start + len(pattern)))
                start = data.find(pattern, start + 1)
        found.sort()
        joined: list[_Span] = []
        for start, end in found:
            if joined and start < joined[-1][1]:
                joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
            else:
                joined.append((start, end))
        return joined


def _replaced(data: bytes, spans: list[_Span], *, silent: int = 0) -> bytes:
    """Return `data` with each span replaced by the mask; of the first `silent` spans nothing is left."""
    pieces = []
    position = 0
    for index, (start, end) in enumerate(spans):
        pieces.append(data[position:start])
        if index >= silent:
            pieces.append(MASK)
        position = end
    pieces.append(data[position:])
    return b"".join(pieces)


def _encodings(secret: str) -> Iterator[bytes]:
    """Yield the byte strings that betray `secret`: each as it is, and encoded in every usual way."""
    for part in {secret, secret.strip(), *(line.strip() for line in secret.splitlines())}:
        if len(part) >= MIN_CHARACTERS:
            yield from _quoted(part)
            data = part.encode("utf-8", "surrogatepass")
            for text in _base64(data):
                yield text
                yield text.translate(_URL_SAFE)
            for text in (data.hex().encode(), data.hex().upper().encode()):
                yield from _with_lines(text, _HEX_LINES)


def _quoted(text: str) -> Iterator[bytes]:
    import urllib.parse  # half a MiB of a spawner, which few need

    data = text.encode("utf-8", "surrogatepass")
    yield data
    for percent in (urllib.parse.quote(data, safe=""), urllib.parse.quote(data), urllib.parse.quote_plus(data)):
        yield percent.encode()
        yield _lower_percent(percent).encode()
    for escaped in (json.dumps(text), json.dumps(text, ensure_ascii=False)):
        yield escaped[1:-1].encode("utf-8", "surrogatepass")
        yield escaped[1:-1].replace("/", "\\/").encode("utf-8", "surrogatepass")
    yield repr(text)[1:-1].encode("utf-8", "surrogatepass")  # as our own messages and Python's show a value
    xml = data.replace(b"&", b"&amp;").replace(b"<", b"&lt;").replace(b">", b"&gt;")
    for double, single in (
        (b'"', b"'"),
        (b"&quot;", b"'"),
        (b"&quot;", b"&apos;"),
        (b"&quot;", b"&#x27;"),
        (b"&#34;", b"&#39;"),
        (b"&quot;", b"&#39;"),
    ):
        yield xml.replace(b'"', double).replace(b"'", single)
    yield data.replace(b"'", b"'\"'\"'")  # shlex.quote
    yield data.replace(b"'", b"'\\''")  # set -x, printf %q of most shells


def _lower_percent(text: str) -> str:
    head, *escapes = text.split("%")
    return "%".join([head, *(escape[:2].lower() + escape[2:] for escape in escapes)])


def _base64(data: bytes) -> Iterator[bytes]:
    """Yield what base64 makes of `data` alone (also broken into lines) and inside a text, at its three alignments."""
    yield from _with_lines(base64.b64encode(data), _BASE64_LINES)
    for shift in range(3):
        first = -(-shift * 8 // 6)  # the characters before share bits with what precedes the secret
        last = (shift + len(data)) * 8 // 6
        yield base64.b64encode(b"\0" * shift + data)[first:last]


def _with_lines(text: bytes, widths: tuple[int, ...]) -> Iterator[bytes]:
    """Yield `text`, and its lines where a tool would break it."""
    yield text
    for width in widths:
        if len(text) > width:
            for start in range(0, len(text), width):
                line = text[start : start + width]
                if len(line) >= MIN_CHARACTERS:
                    yield line
