"""An HTTP server on 127.0.0.1 that answers as no server should. Used by `test_hostile_answers`."""

import contextlib
import socket
import socketserver
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PIECE = bytes(1 << 16)
HUGE = 10 * 10**9
BOMB_BYTES = 10 << 30
"""What the gzip bomb is when it has gone off."""

Answer = Callable[[socket.socket, threading.Event], None]


def _head(*lines: str) -> bytes:
    return "\r\n".join(("HTTP/1.1 200 OK", *lines, "", "")).encode()


def _forever(begin: bytes, piece: bytes, most: int = HUGE) -> Answer:
    def answer(connection: socket.socket, _: threading.Event) -> None:
        connection.sendall(begin)
        sent = 0
        while sent < most:
            connection.sendall(piece)
            sent += len(piece)

    return answer


def _slowly(begin: bytes, piece: bytes) -> Answer:
    def answer(connection: socket.socket, closing: threading.Event) -> None:
        connection.sendall(begin)
        while not closing.wait(1.0):
            connection.sendall(piece)

    return answer


def _once(data: bytes) -> Answer:
    return lambda connection, _: connection.sendall(data)


def _explode(connection: socket.socket, _: threading.Event) -> None:
    """Send zeros packed a thousand times, in blocks that are alike, so that making them costs nothing."""
    packer = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
    begin, block = (packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    connection.sendall(_head("Content-Encoding: gzip", "Connection: close") + begin)
    for _block in range(BOMB_BYTES // (1 << 20)):
        connection.sendall(block)


CHUNKED = _head("Transfer-Encoding: chunked")
ANSWERS: dict[str, tuple[Answer, str]] = {
    "huge": (_forever(_head(f"Content-Length: {HUGE}"), PIECE), "the response body is over"),
    "huge_chunks": (_forever(CHUNKED, b"10000\r\n" + PIECE + b"\r\n"), "the response body is over"),
    "no_length": (_forever(_head("Connection: close"), PIECE), "the response body is over"),
    "drip": (_slowly(_head("Content-Length: 1000"), b"x"), "timed out"),
    "drip_head": (_slowly(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), "timed out"),
    "silent": (_slowly(b"", b""), "timed out"),
    "bomb": (_explode, "the response body is over"),
    "headers": (_forever(b"HTTP/1.1 200 OK\r\n", b"X-Header: value\r\n" * 100), "broke off"),
    "long_header": (_forever(b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65536), "broke off"),
    "informational": (_forever(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100), "timed out"),
    "chunk_no_number": (_once(CHUNKED + b"zz\r\nabc\r\n0\r\n\r\n"), "broke off"),
    "chunk_negative": (_once(CHUNKED + b"-5\r\nabc\r\n0\r\n\r\n"), "broke off"),
    "chunk_too_large": (_once(CHUNKED + b"f" * 40 + b"\r\nabc\r\n"), "broke off"),
    "chunk_cut": (_once(CHUNKED + b"ff\r\nabc"), "broke off"),
    "cut": (_once(_head("Content-Length: 100") + b"abc"), "broke off"),
    "two_lengths": (_once(_head("Content-Length: 3", "Content-Length: 5") + b"abcde"), "broke off"),
    "length_no_number": (_once(_head("Content-Length: -1") + b"abc"), "broke off"),
    "not_gzip": (_once(_head("Content-Encoding: gzip", "Content-Length: 3") + b"abc"), "cannot decompress"),
    "strange_coding": (_once(_head("Content-Encoding: \x7fbr\x1b[2J", "Content-Length: 0")), ""),
    "no_http": (_once(b"\x00\x01SSH-2.0-nothing\r\n"), "broke off"),
    "nothing": (_once(b""), "broke off"),
    "loop": (_once(b"HTTP/1.1 302 Found\r\nLocation: /loop\r\nContent-Length: 0\r\n\r\n"), "more than 10 redirects"),
    "to_file": (_once(b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n"), "cannot"),
    "to_nowhere": (_once(b"HTTP/1.1 302 Found\r\nLocation: http://[::\r\nContent-Length: 0\r\n\r\n"), ""),
}
"""What is answered at each path, and words of the error that a task ends with."""


class HostileServer:
    """Serves ANSWERS, each in a thread; `heads` are the requests as they came, without their bodies."""

    def __init__(self, answers: dict[str, Answer], tls: ssl.SSLContext | None = None) -> None:
        self.heads: list[bytes] = []
        self._answers = answers
        self._closing = threading.Event()
        self._tls = tls
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    outer._serve(self.request)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.port = int(self._server.server_address[1])

    def _serve(self, connection: socket.socket) -> None:
        if self._tls:
            connection = self._tls.wrap_socket(connection, server_side=True)
        head = b""
        while b"\r\n\r\n" not in head:
            data = connection.recv(65536)
            if not data:
                return
            head += data
        self.heads.append(head)
        path = head.split(b" ")[1].decode().partition("?")[0]
        self._answers[path.strip("/")](connection, self._closing)
        connection.close()

    @contextmanager
    def running(self) -> Iterator["HostileServer"]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._closing.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()
