"""B8: REST calls to an nginx on this host, beside a loop that does nothing but call."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench.daemon import Json, running
from bench.figures import Figure, Findings, rates
from bench.measure import Command, interleaved, run, wait_until
from bench.place import Place, find_program

ORIGINAL_RATE = 434.0
"""Calls a second of the original Wizflow engine, measured once on this class of machine."""
_CONFIG = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{ listen 127.0.0.1:{port}; location / {{ default_type application/json; return 200 '{{"ok": true}}'; }} }}
}}
"""
_SCRIPT = Path(__file__).parent / "scripts" / "with_httpx.py"


@contextlib.contextmanager
def serving(place: Place) -> Iterator[str]:
    """Give the address of a server that answers at once."""
    folder = place.fresh("nginx")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "nginx.conf").write_text(_CONFIG.format(folder=folder, port=port))
    process = subprocess.Popen([find_program("nginx", Path("/usr/sbin")), "-e", "stderr", "-c", folder / "nginx.conf"])
    try:
        wait_until(lambda: _answers(port), 10, "nginx does not listen")
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(timeout=10)


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def measure(place: Place, findings: Findings) -> None:
    """Let wizflow and the loop make the same calls in turn."""
    count = 100 if place.quick else 200
    with serving(place) as url:
        for at_once in (2, 16):
            note = f"{count} calls, {at_once} at a time"
            contestants = {
                "wizflow engine": partial(_engine_s, place, url, count, at_once),
                "httpx": partial(_loop_s, place, url, count, at_once),
            }
            found = interleaved(place.rounds, contestants)
            engine, bare = (
                findings.add(Figure("B8", name, "calls", "calls/s", rates(count, found[name]), note)).value
                for name in contestants
            )
            findings.at_least("B8", f"engine / bare httpx, {note}", engine / bare, 0.75, "x")
            goal = f"engine / the original engine ({ORIGINAL_RATE:.0f}/s), {note}"
            findings.at_least("B8", goal, engine / ORIGINAL_RATE, 4, "x")


def _engine_s(place: Place, url: str, count: int, at_once: int) -> float:
    tasks = [{"id": f"t{number}", "type": "RESTAPI", "method": "GET", "url": url} for number in range(count)]
    content: Json = {"concurrency": {"max_tasks": at_once}, "tasks": tasks}
    with running(place) as daemon:
        return daemon.run("calls", content).engine_s()


def _loop_s(place: Place, url: str, count: int, at_once: int) -> float:
    """Return the seconds of the calls alone, as the script prints them."""
    folder = place.fresh("httpx")
    run(Command([sys.executable, _SCRIPT, url, str(count), str(at_once)], folder, place.env()))
    return float((folder / "output.txt").read_text())
