"""No secret passes the masker, in whatever encoding and however the stream is cut."""

import base64
import html
import itertools
import json
import shlex
import urllib.parse

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wizflowd.spawner.masking import Masker

SECRET = "p4ss/w&rd <'quoted'> \"ü\"+x"

ENCODINGS = {
    "raw": lambda s: s.encode(),
    "base64": lambda s: base64.b64encode(s.encode()),
    "base64 behind one byte": lambda s: base64.b64encode(b"u" + s.encode() + b"tail"),
    "base64 behind two bytes": lambda s: base64.b64encode(b"u:" + s.encode() + b"tail"),
    "base64url": lambda s: base64.urlsafe_b64encode(s.encode()),
    "base64url behind one byte": lambda s: base64.urlsafe_b64encode(b"u" + s.encode() + b"tail"),
    "base64url behind two bytes": lambda s: base64.urlsafe_b64encode(b"u:" + s.encode() + b"tail"),
    "percent": lambda s: urllib.parse.quote(s, safe="").encode(),
    "form": lambda s: urllib.parse.quote_plus(s).encode(),
    "json": lambda s: json.dumps(s).encode(),
    "json in UTF-8": lambda s: json.dumps(s, ensure_ascii=False).encode(),
    "xml": lambda s: html.escape(s).encode(),
    "shell": lambda s: shlex.quote(s).encode(),
    "hex": lambda s: s.encode().hex().encode(),
    "HEX": lambda s: s.encode().hex().upper().encode(),
}


def run(masker: Masker, data: bytes, cuts: list[int]) -> bytes:
    edges = [0, *sorted(cuts), len(data)]
    return b"".join(masker.feed(data[a:b]) for a, b in itertools.pairwise(edges)) + masker.flush()


@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS)
def test_a_secret_is_masked_in_each_encoding_wherever_the_stream_is_cut(encode) -> None:  # type: ignore[no-untyped-def]
    inner = encode(SECRET)
    data = b"before " + inner + b" after\n"
    whole = run(Masker([SECRET]), data, [])

    assert b"***" in whole
    assert whole.startswith(b"before ")
    assert whole.endswith(b" after\n")
    assert len(whole) < len(data) - len(inner) + 18, "only the edges of a base64 text may remain"
    for cut in range(len(data) + 1):
        assert run(Masker([SECRET]), data, [cut]) == whole


@given(
    secrets=st.lists(st.text("ab+/é'\n", min_size=6, max_size=12), min_size=1, max_size=3),
    noise=st.lists(st.one_of(st.text("ab+/é'\n", max_size=8), st.integers(0, 2)), max_size=8),
    encode=st.sampled_from([ENCODINGS[name] for name in ("raw", "base64", "percent", "json", "shell", "hex")]),
    cuts=st.lists(st.integers(0, 400), max_size=12),
)
@example(["abcdef", "defghi"], ["xabcdefghi"], ENCODINGS["raw"], [8])
def test_any_cut_gives_what_the_whole_gives_and_nothing_leaks(secrets, noise, encode, cuts) -> None:  # type: ignore[no-untyped-def]
    pieces = [encode(secrets[p % len(secrets)]) if isinstance(p, int) else p.encode() for p in noise]
    data = b"".join(pieces)

    out = run(Masker(secrets), data, [min(c, len(data)) for c in cuts])

    assert out == run(Masker(secrets), data, [])
    for secret in secrets:
        assert encode(secret) not in out or encode(secret) in b"***"


def test_overlapping_secrets_become_one_mask() -> None:
    masker = Masker(["abcdef", "defghi"])

    assert masker.mask("x abcdefghi y") == "x *** y"


def test_what_cannot_begin_a_secret_is_not_held_back() -> None:
    masker = Masker(["hunter2!"])

    assert masker.feed(b"enter password: ") == b"enter password: "
    assert masker.feed(b"hunt") == b""
    assert masker.feed(b"ing\n") == b"hunting\n"


def test_each_line_of_a_secret_of_several_lines_is_masked() -> None:
    masker = Masker(["-----BEGIN KEY-----\nMIIEvQIBADAN\nshort\n"])

    assert masker.mask("a MIIEvQIBADAN b") == "a *** b"
    assert masker.mask("a short b") == "a short b"


def test_a_long_secret_is_masked_where_base64_breaks_its_lines() -> None:
    secret = "".join(chr(33 + i % 90) for i in range(200))

    out = Masker([secret]).mask(base64.encodebytes(secret.encode()).decode())

    assert all(len(line) < 10 for line in out.splitlines())


def test_short_values_mask_nothing() -> None:
    masker = Masker(["12345", ""])

    assert not masker
    assert masker.mask("12345") == "12345"
    assert masker.feed(b"12345") == b"12345"


def test_json_values_are_masked_in_keys_texts_and_numbers() -> None:
    masker = Masker(["123456"])

    masked = masker.mask_json({"k123456": ["a", 123456, 1.5, True, None], "n": 12})

    assert masked == {"k***": ["a", "***", 1.5, True, None], "n": 12}
