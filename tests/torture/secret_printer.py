"""The task of the secrets campaign: prints each secret of its environment, encoded in every way, cut at every place.

Started as `python secret_printer.py NAME...`. Each text stands in a line of its own, `<...>`, written in two pieces,
the second when the reader of the pipe has taken the first. The last line says how many were printed.
"""

import base64
import fcntl
import json
import os
import shlex
import struct
import sys
import termios
import urllib.parse
from collections.abc import Iterator
from xml.sax.saxutils import escape

QUOTES = {'"': "&quot;", "'": "&apos;"}


def encodings(secret: str) -> Iterator[tuple[str, bytes, bytes]]:
    """Yield name, text as it is printed, and what of that text betrays the secret and nothing else."""
    data = secret.encode()
    yield "raw", data, data
    for shift in range(3):
        around = base64.b64encode(b"#" * shift + data + b"##")
        begin, end = -(-shift * 8 // 6), (shift + len(data)) * 8 // 6
        yield f"base64, shift {shift}", around, around[begin:end]
    for name, text in (
        ("base64url", base64.urlsafe_b64encode(data).decode()),
        ("URL", urllib.parse.quote(secret, safe="")),
        ("form", urllib.parse.quote_plus(secret)),
        ("JSON", json.dumps(secret)[1:-1]),
        ("JSON, not ASCII", json.dumps(secret, ensure_ascii=False)[1:-1]),
        ("XML", escape(secret, QUOTES)),
        ("shell", shlex.quote(secret)),
        ("repr", repr(secret)[1:-1]),
        ("hex", data.hex()),
        ("HEX", data.hex().upper()),
    ):
        yield name, text.encode(), text.strip("'").encode() if name == "shell" else text.encode()
    for line in secret.splitlines():
        yield "line", line.encode(), line.encode()


def wait_until_read() -> None:
    """Return when nothing is left in the pipe of stdout."""
    while struct.unpack("i", fcntl.ioctl(1, termios.FIONREAD, b"\0\0\0\0"))[0]:
        os.sched_yield()


def main(names: list[str]) -> None:
    printed = 0
    for name in names:
        for _, text, _ in encodings(os.environ[name]):
            for cut in range(len(text) + 1):
                os.write(1, b"<" + text[:cut])
                wait_until_read()
                os.write(1, text[cut:] + b">\n")
                printed += 1
    os.write(1, b"printed %d\n" % printed)


if __name__ == "__main__":
    main(sys.argv[1:])
