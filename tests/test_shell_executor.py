"""SHELL attempts end to end: a real spawner, real processes, the daemon's side of the line."""

import asyncio
import fcntl
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.spawner.trees import living
from wizflowd.core.attempt import (
    AttemptId,
    Cancelled,
    Failed,
    Job,
    Limits,
    Lost,
    Outcome,
    OutputRule,
    ShellCall,
    Succeeded,
)
from wizflowd.executors import shell
from wizflowd.executors.shell import Handed, Inventory, ShellExecutor

WAIT_S = 15.0


def shell_call(folder: Path, name: str, command: str, **job: object) -> ShellCall:
    (folder / "ws").mkdir(exist_ok=True)
    return ShellCall(
        Job(AttemptId(f"r/{name}/1"), folder / "ws", f"{folder}/{name}.log", 1 << 20, **job),  # type: ignore[arg-type]
        ("/bin/sh", "-c", command),
        {"PATH": os.environ["PATH"], "WIZFLOW_TASK": name, "WIZFLOW_OUTPUT": str(folder / f"{name}.scratch")},
        folder / "ws",
        f"{folder}/{name}.scratch",
        grace_s=0.5,
    )


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.005)


class Daemon:
    """An executor and what it reported."""

    def __init__(self, directory: Path, **options: bool) -> None:
        self.outcomes: dict[str, list[Outcome]] = {}
        self.pids: dict[str, int] = {}
        self.dropped: list[AttemptId] = []
        self.executor = ShellExecutor(
            directory, self._report, self._started, lambda attempts, _: self.dropped.extend(attempts), **options
        )
        self.inventory = Inventory("", {}, frozenset())

    def _report(self, attempt: AttemptId, outcome: Outcome) -> None:
        self.outcomes.setdefault(attempt, []).append(outcome)

    def _started(self, attempt: AttemptId, pid: int, started_s: float) -> None:
        self.pids[attempt] = pid

    @property
    def spawner_pid(self) -> int:
        return int(self.inventory.spawner.split("/")[1])

    async def outcome(self, call: ShellCall) -> Outcome:
        await until(lambda: call.job.attempt in self.outcomes)
        (outcome,) = self.outcomes[call.job.attempt]
        return outcome

    async def run(self, call: ShellCall) -> Outcome:
        self.executor.start(call)
        return await self.outcome(call)


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    daemon = Daemon(tmp_path / "spawner")
    daemon.inventory = await daemon.executor.connect()
    yield daemon
    await daemon.executor.close(kill=True)


async def test_a_command_that_ends_with_zero_has_succeeded(daemon: Daemon, tmp_path: Path) -> None:
    call = shell_call(tmp_path, "a", "echo out; echo err >&2; pwd")

    outcome = await daemon.run(call)

    assert isinstance(outcome, Succeeded)
    assert outcome.facts.exit_code == 0
    assert outcome.facts.pid == daemon.pids[call.job.attempt]
    assert outcome.facts.log == "a.log"
    assert Path(call.job.log_path).read_text() == f"out\nerr\n{tmp_path}/ws\n"


async def test_a_silent_command_leaves_no_log(daemon: Daemon, tmp_path: Path) -> None:
    call = shell_call(tmp_path, "a", "true")

    outcome = await daemon.run(call)

    assert outcome.facts.log is None
    assert not Path(call.job.log_path).exists()


@pytest.mark.parametrize(
    ("command", "reason", "message"),
    [
        ("exit 7", "exit", "exit code 7"),
        ("exit 137", "exit", "exit code 137"),
        ("kill -9 $$", "signal", "killed by SIGKILL"),
        ("kill -SEGV $$", "signal", "killed by SIGSEGV"),
    ],
)
async def test_how_a_command_failed_is_told_exactly(
    daemon: Daemon, tmp_path: Path, command: str, reason: str, message: str
) -> None:
    outcome = await daemon.run(shell_call(tmp_path, "a", command))

    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.message) == (reason, message)


async def test_outputs_come_from_stdout_alone_and_from_the_output_file(daemon: Daemon, tmp_path: Path) -> None:
    call = shell_call(
        tmp_path,
        "a",
        "echo noise >&2; echo '{\"n\": 3}'; echo extra=4 >> $WIZFLOW_OUTPUT",
        outputs={"n": OutputRule("json", json_path="$.n"), "all": OutputRule("text")},
    )

    outcome = await daemon.run(call)

    assert isinstance(outcome, Succeeded)
    assert outcome.outputs == {"n": 3, "all": '{"n": 3}', "extra": "4"}
    assert set(Path(call.job.log_path).read_text().splitlines()) == {"noise", '{"n": 3}'}
    daemon.executor.acknowledge([call.job.attempt])
    assert not list(tmp_path.glob("*.scratch*"))


async def test_an_output_that_cannot_be_had_fails_the_attempt(daemon: Daemon, tmp_path: Path) -> None:
    call = shell_call(tmp_path, "a", "true", outputs={"f": OutputRule("file", path="missing.txt")})

    outcome = await daemon.run(call)

    assert isinstance(outcome, Failed)
    assert outcome.reason == "output"
    assert "f" in outcome.message


async def test_the_hash_of_sources_is_that_of_the_start(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "src.txt").write_text("one")
    first = shell_call(tmp_path, "a", "true", source_folder=tmp_path, source_globs=("src.txt",))
    second = shell_call(tmp_path, "b", "echo two > ../src.txt", source_folder=tmp_path, source_globs=("src.txt",))
    third = shell_call(tmp_path, "c", "true", source_folder=tmp_path, source_globs=("src.txt",))

    outcomes = [await daemon.run(call) for call in (first, second, third)]

    sources = [outcome.sources for outcome in outcomes if isinstance(outcome, Succeeded)]
    assert sources[0] == sources[1] != sources[2]


async def test_secrets_are_masked_in_log_outputs_and_refusals(daemon: Daemon, tmp_path: Path) -> None:
    call = shell_call(tmp_path, "a", "echo a hunter2-x b", secrets=("hunter2-x",), outputs={"t": OutputRule("text")})
    refused = replace(shell_call(tmp_path, "b", "", secrets=("hunter2-x",)), argv=("/no/hunter2-x",))

    outcome = await daemon.run(call)
    refusal = await daemon.run(refused)

    assert isinstance(outcome, Succeeded)
    assert outcome.outputs == {"t": "a *** b"}
    assert Path(call.job.log_path).read_text() == "a *** b\n"
    assert isinstance(refusal, Failed)
    assert "/no/***" in refusal.message


@pytest.mark.parametrize("limits", [Limits(), Limits(open_files=64)])
async def test_a_program_is_searched_in_the_folders_of_its_own_path_in_order(
    daemon: Daemon, tmp_path: Path, limits: Limits
) -> None:
    for folder, script, mode in (
        ("locked", "#!/bin/sh\necho locked\n", 0o644),
        ("torn", "#!/no/interpreter\n", 0o755),
        ("good", "#!/bin/sh\necho good\n", 0o755),
        ("later", "#!/bin/sh\necho later\n", 0o755),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "program").write_text(script)
        (tmp_path / folder / "program").chmod(mode)
    folders = [
        "/no/such/folder",
        "/etc/passwd",
        *(str(tmp_path / each) for each in ("locked", "torn", "good", "later")),
    ]
    call = shell_call(tmp_path, "a", "", outputs={"t": OutputRule("text")})
    call = replace(call, argv=("program",), env={**call.env, "PATH": ":".join(folders)}, limits=limits)

    outcome = await daemon.run(call)

    assert isinstance(outcome, Succeeded)
    assert outcome.outputs == {"t": "good"}


@pytest.mark.parametrize(
    ("change", "words", "retryable"),
    [
        ({"argv": ("no-such-program",)}, "cannot start no-such-program: no such file in PATH", False),
        ({"argv": ("no\0program",)}, "cannot start no\0program: embedded null byte", True),
        ({"argv": ("/etc/passwd",)}, "cannot start /etc/passwd: Permission denied", True),
        ({"cwd": Path("/no/such/folder")}, "cannot work in /no/such/folder: No such file or directory", True),
        ({"limits": Limits(open_files=1 << 40)}, "the limit open_files = 1099511627776 cannot be set", False),
        ({"argv": ("no-such-program",), "limits": Limits(open_files=64)}, "cannot start no-such-program", False),
    ],
)
async def test_what_cannot_be_started_is_refused_by_name(
    daemon: Daemon, tmp_path: Path, change: dict[str, object], words: str, retryable: bool
) -> None:
    call = replace(shell_call(tmp_path, "a", "true"), **change)

    outcome = await daemon.run(call)

    assert isinstance(outcome, Failed)
    assert outcome.reason == "refused"
    assert words in outcome.message
    assert outcome.retryable is retryable


async def test_limits_stdin_and_environment_are_as_asked(daemon: Daemon, tmp_path: Path) -> None:
    text = "line\n" * 100_000
    call = replace(
        shell_call(tmp_path, "a", "ulimit -n; ulimit -f; wc -c; env | cut -d= -f1 | sort | tr '\\n' ' '"),
        stdin=text,
        limits=Limits(open_files=64, file_size=1 << 20),
    )

    await daemon.run(call)

    lines = Path(call.job.log_path).read_text().splitlines()
    assert lines[:3] == ["64", "2048", str(len(text))]
    assert lines[3].split() == ["PATH", "PWD", "WIZFLOW_OUTPUT", "WIZFLOW_TASK"]


async def test_a_timeout_ends_the_whole_tree(daemon: Daemon, tmp_path: Path) -> None:
    call = shell_call(tmp_path, "a", "trap '' TERM; setsid sleep 7311 & sleep 7311", timeout_s=0.2)

    outcome = await daemon.run(call)

    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.message) == ("timeout", "timed out after 0.2 s")
    assert living("7311") == []


async def test_a_cancelled_attempt_is_reported_when_nothing_of_it_is_alive(daemon: Daemon, tmp_path: Path) -> None:
    call = shell_call(tmp_path, "a", "(trap '' TERM; sleep 7312; sleep 7312) & echo up; wait")
    daemon.executor.start(call)
    await until(Path(call.job.log_path).exists)

    daemon.executor.cancel(call.job.attempt)

    assert isinstance(await daemon.outcome(call), Cancelled)
    assert living("7312") == []


async def test_live_output_is_passed_on_only_while_somebody_listens(daemon: Daemon, tmp_path: Path) -> None:
    heard: list[str] = []
    daemon.executor.listen(lambda attempt, text: heard.append(f"{attempt}: {text}"))
    await daemon.run(shell_call(tmp_path, "a", "echo one"))
    daemon.executor.listen(None)
    await daemon.run(shell_call(tmp_path, "b", "echo two"))

    assert heard == ["r/a/1: one\n"]


async def test_an_attempt_that_is_known_is_not_run_again(daemon: Daemon, tmp_path: Path) -> None:
    call = shell_call(tmp_path, "a", "echo ran >> count")
    await daemon.run(call)
    daemon.outcomes.clear()

    outcome = await daemon.run(call)

    assert isinstance(outcome, Succeeded)
    assert (tmp_path / "ws" / "count").read_text() == "ran\n"


async def test_attempts_survive_a_killed_daemon_and_are_adopted(tmp_path: Path) -> None:
    running = shell_call(tmp_path, "slow", "i=0; while [ ! -e go ]; do echo $i; i=$((i+1)); sleep 0.01; done; echo end")
    ended = shell_call(tmp_path, "quick", "echo done; exit 3")
    driver = textwrap.dedent(
        """
        import asyncio, sys
        from pathlib import Path
        from tests.test_shell_executor import Daemon, running_and_ended

        async def main(folder):
            daemon = Daemon(folder / "spawner")
            await daemon.executor.connect()
            for call in running_and_ended(folder):
                daemon.executor.start(call)
            await asyncio.sleep(60)

        asyncio.run(main(Path(sys.argv[1])))
        """
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", driver, str(tmp_path), cwd=Path.cwd())
    await until(lambda: Path(ended.job.log_path).exists() and Path(running.job.log_path).exists())
    process.send_signal(signal.SIGKILL)
    await process.wait()

    daemon = Daemon(tmp_path / "spawner")
    inventory = await daemon.executor.connect()
    daemon.executor.adopt(running)
    daemon.executor.adopt(ended)
    outcome = await daemon.outcome(ended)
    (tmp_path / "ws" / "go").touch()

    assert set(inventory.running) | inventory.exited == {running.job.attempt, ended.job.attempt}
    assert isinstance(outcome, Failed)
    assert outcome.message == "exit code 3"
    assert isinstance(await daemon.outcome(running), Succeeded)
    *numbers, end = Path(running.job.log_path).read_text().splitlines()
    assert numbers == [str(i) for i in range(len(numbers))]
    assert end == "end"
    await daemon.executor.close(kill=True)


def running_and_ended(folder: Path) -> list[ShellCall]:
    """Return the attempts that the driver above starts."""
    slow = "i=0; while [ ! -e go ]; do echo $i; i=$((i+1)); sleep 0.01; done; echo end"
    return [shell_call(folder, "slow", slow), shell_call(folder, "quick", "echo done; exit 3")]


async def test_with_its_parent_dies_all_that_the_spawner_has(tmp_path: Path) -> None:
    driver = textwrap.dedent(
        """
        import asyncio, sys
        from pathlib import Path
        from tests.test_shell_executor import Daemon, shell_call

        async def main(folder):
            daemon = Daemon(folder / "spawner", with_parent=True)
            await daemon.executor.connect()
            daemon.executor.start(shell_call(folder, "a", "setsid sleep 7313 & echo up; sleep 7313"))
            await asyncio.sleep(60)

        asyncio.run(main(Path(sys.argv[1])))
        """
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", driver, str(tmp_path), cwd=Path.cwd())
    await until(lambda: (tmp_path / "a.log").exists() and living("sleep\x007313"))

    process.send_signal(signal.SIGKILL)
    await process.wait()

    await until(lambda: not living("sleep\x007313") and not (tmp_path / "spawner" / "socket").exists())


async def test_when_the_spawner_dies_its_attempts_are_lost_once_and_the_next_ones_run(
    daemon: Daemon, tmp_path: Path
) -> None:
    call = shell_call(tmp_path, "a", "(setsid env -i sleep 7314 >/dev/null 2>&1 &); echo up; sleep 7314")
    daemon.executor.start(call)
    await until(lambda: Path(call.job.log_path).exists() and len(living("sleep\x007314")) == 2)

    os.kill(daemon.spawner_pid, signal.SIGKILL)

    assert isinstance(await daemon.outcome(call), Lost)
    assert living("sleep\x007314") == []
    assert isinstance(await daemon.run(shell_call(tmp_path, "b", "true")), Succeeded)


async def test_while_there_is_no_spawner_it_says_why_and_tasks_wait(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wizflowd.executors.spawner._CONNECT_WITHIN_S", 0.5)
    call = shell_call(tmp_path, "a", "true")
    with (tmp_path / "spawner/lock").open() as lock:
        assert daemon.executor.missing == ""
        os.kill(daemon.spawner_pid, signal.SIGKILL)
        fcntl.flock(lock, fcntl.LOCK_EX)  # no other can begin
        daemon.executor.start(call)
        await until(lambda: daemon.executor.missing)
        assert daemon.executor.missing.startswith(f"cannot reach the spawner in {tmp_path}/spawner: ")
        assert "/spawner/spawner.log" in daemon.executor.missing
        assert not daemon.outcomes

    assert isinstance(await daemon.outcome(call), Succeeded | Lost)
    assert daemon.executor.missing == ""


async def test_an_attempt_started_while_the_spawner_is_away_runs_in_the_next(daemon: Daemon, tmp_path: Path) -> None:
    os.kill(daemon.spawner_pid, signal.SIGKILL)

    outcome = await daemon.run(shell_call(tmp_path, "a", "true"))

    assert isinstance(outcome, Succeeded | Lost)
    assert isinstance(await daemon.run(shell_call(tmp_path, "b", "true")), Succeeded)


async def test_what_is_handed_over_starts_when_there_is_a_place_and_is_told_as_begun(
    daemon: Daemon, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    held = shell_call(tmp_path, "a", f"while [ ! -e {gate} ]; do sleep 0.01; done")
    following = [shell_call(tmp_path, name, "true") for name in "bc"]

    daemon.executor.hand_over([Handed(held, [], (0, 0, 0))], 1, daemon.executor.unwell)
    daemon.executor.hand_over(
        [Handed(call, [held.job.attempt], (0, 0, 1)) for call in following], 1, daemon.executor.unwell
    )
    await until(lambda: held.job.attempt in daemon.pids)
    assert len(daemon.pids) == 1
    gate.touch()

    assert [type(await daemon.outcome(call)) for call in (held, *following)] == [Succeeded] * 3
    assert list(daemon.pids) == [call.job.attempt for call in (held, *following)]


async def test_what_is_taken_back_is_named_and_starts_when_it_is_asked_for(daemon: Daemon, tmp_path: Path) -> None:
    held, waiting = shell_call(tmp_path, "a", "sleep 0.2"), shell_call(tmp_path, "b", "true")
    daemon.executor.hand_over([Handed(held, [], (0, 0, 0)), Handed(waiting, [], (0, 0, 1))], 1, daemon.executor.unwell)

    assert await daemon.executor.withdraw() == [waiting.job.attempt]

    assert isinstance(await daemon.outcome(held), Succeeded)
    assert waiting.job.attempt not in daemon.pids
    assert isinstance(await daemon.run(waiting), Succeeded)


async def test_a_spawner_that_does_not_give_back_in_time_tells_later_what_it_has_begun(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell, "_ANSWER_WITHIN_S", 0.2)
    held, waiting = shell_call(tmp_path, "a", "sleep 0.2; echo ran"), shell_call(tmp_path, "b", "true")
    os.kill(daemon.spawner_pid, signal.SIGSTOP)
    daemon.executor.hand_over([Handed(held, [], (0, 0, 0)), Handed(waiting, [], (0, 0, 1))], 1, daemon.executor.unwell)

    assert await daemon.executor.withdraw() == []
    os.kill(daemon.spawner_pid, signal.SIGCONT)

    assert isinstance(await daemon.outcome(held), Succeeded)
    assert held.job.attempt in daemon.pids
    await until(lambda: waiting.job.attempt in daemon.dropped)
    assert waiting.job.attempt not in daemon.pids


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("exit 1", ["ended", "counted"]),
        ("echo a=b >> $WIZFLOW_OUTPUT", ["not yet counted", "ended", "counted"]),
        ("true", ["ended"]),
    ],
    ids=["failed", "outputs to be read", "well"],
)
async def test_an_end_that_drops_a_backlog_is_counted_for_the_engine_behind_its_outcome(
    tmp_path: Path, command: str, told: list[str]
) -> None:
    found: list[str] = []
    executor = ShellExecutor(
        tmp_path / "spawner",
        lambda _attempt, _outcome: found.append("ended"),
        lambda *_: None,
        lambda _attempts, unwell: found.append("counted" if unwell else "not yet counted"),
    )
    await executor.connect()
    before = executor.unwell

    executor.start(shell_call(tmp_path, "a", command))
    await until(lambda: len(found) >= len(told))

    assert found == told
    assert executor.unwell == before + ("counted" in told)
    await executor.close(kill=True)


async def test_a_spawner_of_a_version_that_takes_no_backlog_is_never_thought_to_take_one(
    daemon: Daemon, tmp_path: Path
) -> None:
    daemon.executor.unwell = 0  # as after the hello of one

    await daemon.run(shell_call(tmp_path, "a", "exit 1"))

    assert daemon.executor.unwell == 0


async def test_what_is_refused_before_it_was_asked_for_is_dropped_and_refused_again(
    daemon: Daemon, tmp_path: Path
) -> None:
    call = replace(shell_call(tmp_path, "a", "true"), cwd=tmp_path / "nowhere")

    daemon.executor.hand_over([Handed(call, [], (0, 0, 0))], 1, daemon.executor.unwell)
    await until(lambda: call.job.attempt in daemon.dropped)
    assert daemon.outcomes == {}
    outcome = await daemon.run(call)

    assert isinstance(outcome, Failed)
    assert outcome.reason == "refused"


async def test_an_own_spawner_ends_with_its_last_work(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "spawner")
    await daemon.executor.connect()
    call = shell_call(tmp_path, "a", "true")
    await daemon.run(call)
    daemon.executor.acknowledge([call.job.attempt])

    await daemon.executor.close(kill=False)

    await until(lambda: not (tmp_path / "spawner" / "socket").exists())


async def test_a_directory_with_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / ("x" * 100) / ("y" * 100))

    await daemon.executor.connect()

    assert isinstance(await daemon.run(shell_call(tmp_path, "a", "true")), Succeeded)
    await daemon.executor.close(kill=True)
