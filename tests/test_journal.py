"""The journal: what was acknowledged is there after any kill, numbers never repeat, nothing is kept for ever."""

import asyncio
import logging
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from itertools import count
from pathlib import Path

import pytest

from wizflowd.core.attempt import Facts, RunId, TaskId
from wizflowd.core.events import (
    DefinitionAccepted,
    DefinitionRejected,
    Event,
    FirstScanEnded,
    Record,
    RunArchived,
    RunQueued,
    RunStarted,
    SpawnerJoined,
    TaskReused,
    TaskStarted,
    TaskSucceeded,
    WorkflowRemoved,
)
from wizflowd.core.observations import WorkflowId
from wizflowd.errors import StateError, StateLockedError
from wizflowd.journal import Commit, Journal, Past, queries

ETL = WorkflowId("team/etl")
TASK = TaskId("count")
FACTS = Facts(1.0, 2.5, pid=7, exit_code=0, log="count.1.log", notes=("a note",))


@asynccontextmanager
async def opened(folder: Path, ballast_bytes: int = 0) -> AsyncIterator[Journal]:
    journal = Journal(folder, ballast_bytes=ballast_bytes)
    journal.open()
    try:
        yield journal
    finally:
        journal.close()


def queued(run: str, stamp: str = "s1", workflow: WorkflowId = ETL) -> RunQueued:
    return RunQueued(RunId(run), workflow, f"{workflow}.yaml", stamp, "d1", "change", {"day": "today"})


def started(run: str, workflow: WorkflowId = ETL) -> RunStarted:
    return RunStarted(RunId(run), workflow, ())


def archived(run: str, workflow: WorkflowId = ETL) -> RunArchived:
    return RunArchived(RunId(run), workflow, "succeeded")


def succeeded(run: str, **more: str) -> TaskSucceeded:
    return TaskSucceeded(
        RunId(run), ETL, TASK, 1, FACTS, {"n": 3}, {"out.txt": "h1"}, "k1", {"command": "c1"}, more.get("mail", "")
    )


def accepted(stamp: str) -> DefinitionAccepted:
    return DefinitionAccepted(ETL, "team/etl.yaml", stamp, "d1", "c1", "changed", "", ("*.csv",), (".env",))


async def whole_run(journal: Journal, run: str, at_s: float = 1.0) -> None:
    await journal.commit(Commit([queued(run), started(run), TaskStarted(RunId(run), ETL, TASK, 1)], at_s))
    await journal.commit(Commit([succeeded(run), archived(run)], at_s + 0.5))
    await journal.commit(Commit([], at_s + 1, closed=[RunId(run)]))


def numbers(records: list[Record]) -> list[tuple[int, int | None]]:
    return [(record.id, record.sequence) for record in records]


# -- commits --------------------------------------------------------------------------------------------------


async def test_records_get_ids_and_only_public_ones_a_sequence_without_gaps_over_restarts(tmp_path: Path) -> None:
    events: list[Event] = [queued("r1"), SpawnerJoined("sp1"), started("r1")]

    async with opened(tmp_path) as journal:
        first = await journal.commit(Commit(events, 1.0))
        epoch = journal.epoch
    async with opened(tmp_path) as journal:
        second = await journal.commit(Commit([FirstScanEnded(), archived("r1")], 2.0))

        assert journal.epoch == epoch
        assert len(epoch) == 16
    assert numbers(first) == [(1, 1), (2, None), (3, 2)]
    assert numbers(second) == [(4, None), (5, 3)]


async def test_what_is_read_again_equals_what_was_committed(tmp_path: Path) -> None:
    events: list[Event] = [queued("r1"), started("r1"), TaskStarted(RunId("r1"), ETL, TASK, 1), succeeded("r1")]

    async with opened(tmp_path) as journal:
        committed = await journal.commit(Commit(events, 1.25))
    async with opened(tmp_path) as journal:
        read = await journal.records(RunId("r1"))
        replayed = await journal.since(1, 2)

    assert read == committed
    assert replayed == committed[1:3]


async def test_an_output_with_half_a_surrogate_pair_is_kept(tmp_path: Path) -> None:
    odd = TaskSucceeded(RunId("r1"), ETL, TASK, 1, FACTS, {"text": "\ud800 é\0"}, key="k")

    async with opened(tmp_path) as journal:
        await journal.commit(Commit([queued("r1"), odd], 1.0))

        assert (await journal.records(RunId("r1")))[1].event == odd
        assert (await journal.past(ETL)).successes[TASK].outputs == {"text": "\ud800 é\0"}


async def test_a_commit_that_fails_leaves_nothing_and_uses_no_number(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await journal.commit(Commit([queued("r1")], 1.0))

        with pytest.raises(StateError, match=r"cannot use .*state\.db: UNIQUE"):
            await journal.commit(Commit([started("r1"), queued("r1")], 2.0))

        assert numbers(await journal.commit(Commit([started("r1")], 3.0))) == [(2, 2)]
        assert len(await journal.records(RunId("r1"))) == 2


async def test_a_second_opener_is_refused_until_the_first_closes(tmp_path: Path) -> None:
    async with opened(tmp_path):
        with pytest.raises(StateLockedError, match="another wizflowd holds it"):
            Journal(tmp_path).open()

    async with opened(tmp_path):
        pass


COMMIT_FOR_EVER = """
import asyncio, sys
from pathlib import Path
from tests.test_journal import archived, queued, started
from wizflowd.core.attempt import RunId
from wizflowd.core.events import SpawnerJoined
from wizflowd.journal import Commit, Journal

async def commit_for_ever(folder, first):
    journal = Journal(folder)
    journal.open()
    run = first
    while True:
        run += 1
        name = f"r{run:06}"
        for events in ([queued(name), SpawnerJoined(name)], [started(name), archived(name)]):
            print((await journal.commit(Commit(events, float(run))))[-1].id, flush=True)

asyncio.run(commit_for_ever(Path(sys.argv[1]), int(sys.argv[2])))
"""


async def test_what_was_acknowledged_is_there_after_kill_9_and_commits_are_whole(tmp_path: Path) -> None:
    chance = random.Random(1)
    acknowledged = 0
    for _ in range(6):
        command = [sys.executable, "-c", COMMIT_FOR_EVER, str(tmp_path), str(acknowledged)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(chance.randrange(1, 60)):
                acknowledged = int(process.stdout.readline())
            process.kill()
            acknowledged = max([acknowledged, *(int(line) for line in process.stdout if line.endswith("\n"))])

        async with opened(tmp_path) as journal:
            records = await journal.since(0, 1_000_000)
            recovered = await journal.recover()
            last_id = journal._next_id - 1

        assert last_id >= acknowledged
        assert last_id % 2 == 0  # both events of each commit, or none
        assert [record.sequence for record in records] == list(range(1, len(records) + 1))
        assert recovered.spawner == f"r{max(int(run.run[1:]) for run in recovered.runs):06}"
        acknowledged = last_id


# -- what is kept ---------------------------------------------------------------------------------------------


async def has_definition(journal: Journal, stamp: str) -> bool:
    try:
        return bool(await journal.definition(stamp))
    except StateError:
        return False


async def test_a_definition_is_kept_as_long_as_a_workflow_or_an_open_run_needs_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await journal.commit(Commit([accepted("s1"), queued("r1", "s1")], 1.0, {"s1": b"one"}))
        await journal.commit(Commit([accepted("s2")], 2.0, {"s2": b"two"}))
        assert (await has_definition(journal, "s1"), await has_definition(journal, "s2")) == (True, True)

        await journal.commit(Commit([archived("r1")], 3.0))
        assert await has_definition(journal, "s1")
        await journal.commit(Commit([], 4.0, closed=[RunId("r1")]))
        assert not await has_definition(journal, "s1")

        await journal.commit(Commit([DefinitionRejected(ETL, "team/etl.yaml", "s3", ("bad",))], 5.0))
        assert await journal.definition("s2") == b"two"
        await journal.commit(Commit([WorkflowRemoved(ETL)], 6.0))
        assert not await has_definition(journal, "s2")


async def test_what_a_run_begins_with_waits_for_the_commit_that_is_under_way(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        commit = journal.commit(Commit([accepted("s1"), queued("r1", "s1")], 1.0, {"s1": b"one"}))
        records, due = await asyncio.gather(commit, journal.due(RunId("r1"), ETL, "s1"))

        assert (due.definition, due.past) == (b"one", Past({}, set(), {}))
        assert due.records == [record for record in records if isinstance(record.event, RunQueued)]
        with pytest.raises(StateError, match="cannot find the run r2"):
            await journal.due(RunId("r2"), ETL, "s1")


async def test_the_last_success_and_mail_of_a_task_are_kept_until_it_starts_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await journal.commit(Commit([queued("r1"), succeeded("r1", mail="m1")], 1.0))

        success = (await journal.past(ETL)).successes[TASK]
        assert (success.run, success.key, success.parts) == ("r1", "k1", {"command": "c1"})
        assert (success.outputs, success.files) == ({"n": 3}, {"out.txt": "h1"})
        assert (await journal.past(ETL)).mails == {TASK: "m1"}

        await journal.commit(Commit([TaskStarted(RunId("r1"), ETL, TASK, 2)], 2.0))
        assert (await journal.past(ETL)).successes == {}
        assert (await journal.past(ETL)).mails == {TASK: "m1"}


async def test_a_task_reused_in_its_turn_is_a_success_one_reused_by_the_plan_is_none_anew(
    tmp_path: Path,
) -> None:
    by_plan = TaskReused(RunId("r2"), ETL, TASK, "r1", "nothing changed", "k1")
    in_turn = TaskReused(RunId("r2"), ETL, TASK, "r1", "same message", "k2", {"n": 4}, {"subject": "p2"})

    async with opened(tmp_path) as journal:
        await journal.commit(Commit([queued("r1"), succeeded("r1"), queued("r2"), by_plan], 1.0))
        assert (await journal.past(ETL)).successes[TASK].key == "k1"

        await journal.commit(Commit([in_turn], 2.0))
        assert (await journal.past(ETL)).successes[TASK].key == "k2"


async def test_a_removed_workflow_leaves_no_success_and_no_mail(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await journal.commit(Commit([accepted("s1"), queued("r1"), succeeded("r1", mail="m1")], 1.0, {"s1": b"one"}))

        await journal.commit(Commit([WorkflowRemoved(ETL)], 2.0))

        assert await journal.past(ETL) == Past({}, set(), {})
        assert (await journal.recover()).workflows == ()


async def test_a_start_finds_the_workflows_their_last_run_and_every_record_of_open_runs(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await journal.commit(Commit([accepted("s1"), FirstScanEnded(), SpawnerJoined("sp1")], 1.0, {"s1": b"one"}))
        await whole_run(journal, "r1", 2.0)
        await journal.commit(Commit([queued("r3"), queued("r2"), started("r3")], 5.0))
        await journal.commit(Commit([DefinitionRejected(ETL, "team/etl.yaml", "s2", ("bad", "worse"))], 6.0))
    async with opened(tmp_path) as journal:
        recovered = await journal.recover()

    (row,) = recovered.workflows
    assert (row.workflow, row.stamp, row.good_stamp, row.problems) == (ETL, "s2", "s1", ("bad", "worse"))
    assert (row.sources, row.dotenv) == (("*.csv",), (".env",))
    assert (row.last_run, row.last_status, row.last_ended_s) == ("r1", "succeeded", 2.5)
    assert {run.run for run in recovered.runs} == {"r2", "r3"}
    assert [record.event for record in recovered.records] == [queued("r3"), queued("r2"), started("r3")]
    assert (recovered.spawner, recovered.seen_once) == ("sp1", True)


async def test_another_spawner_puts_earlier_successes_of_what_runs_in_doubt(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await journal.commit(Commit([SpawnerJoined("sp1"), queued("r1"), started("r1"), succeeded("r1")], 1.0))
        await journal.commit(Commit([archived("r1")], 2.0, closed=[RunId("r1")]))
        await journal.commit(Commit([queued("r2"), started("r2")], 3.0))

        await journal.commit(Commit([SpawnerJoined("sp1")], 4.0))
        same = (await journal.past(ETL)).successes
        await journal.commit(Commit([SpawnerJoined("sp2")], 5.0))
        another = (await journal.past(ETL)).successes

    assert same.keys() == {TASK}
    assert another == {}


async def test_what_succeeded_in_the_open_run_itself_is_not_in_doubt(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await journal.commit(Commit([SpawnerJoined("sp1"), queued("r1"), started("r1"), succeeded("r1")], 1.0))
        await journal.commit(Commit([SpawnerJoined("sp2")], 2.0))

        assert (await journal.past(ETL)).successes.keys() == {TASK}


async def test_each_event_of_a_commit_can_have_its_own_moment(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        records = await journal.commit(Commit([queued("r1"), started("r1")], 9.0, moments=[1.0, 2.0]))
        stored = await journal.records(RunId("r1"))

    assert [record.at_s for record in records] == [record.at_s for record in stored] == [1.0, 2.0]


async def test_a_large_commit_leaves_no_file_open_but_those_of_the_state(tmp_path: Path) -> None:
    """With a lock that is kept SQLite keeps, in the folder for temporary files, the one for undoing a statement too."""
    async with opened(tmp_path) as journal:
        await journal.commit(Commit([queued("r1"), started("r1")], 1.0))
        tasks = [TaskId(f"task{number}") for number in range(4_000)]
        random.Random(1).shuffle(tasks)
        events: list[Event] = [TaskStarted(RunId("r1"), ETL, task, 1) for task in tasks]
        await journal.commit(Commit(events, 1.0))
        await journal.commit(Commit(events, 2.0))
        links = [Path("/proc/self/fd", number) for number in os.listdir("/proc/self/fd")]
        opened_files = {os.readlink(link) for link in links if link.is_symlink()}

    assert {name for name in opened_files if "etilqs" in name} == set()


async def test_the_history_is_told_newest_first(tmp_path: Path) -> None:
    other = WorkflowId("other")
    async with opened(tmp_path) as journal:
        for number in range(1, 5):
            await journal.commit(Commit([queued(f"r{number}", workflow=other if number == 2 else ETL)], float(number)))

        assert [row.run for row in await journal.runs(limit=3)] == ["r4", "r3", "r2"]
        assert [row.run for row in await journal.runs(ETL)] == ["r4", "r3", "r1"]
        assert (await journal.runs(other))[0].queued_s == 2.0


@pytest.mark.parametrize("query", [queries.RECORDS_OF_RUN, queries.SINCE], ids=["of a run", "since"])
async def test_records_are_found_by_an_index(tmp_path: Path, query: str) -> None:
    async with opened(tmp_path):
        pass
    with closing(sqlite3.connect(tmp_path / "state.db")) as db:
        steps = db.execute(f"EXPLAIN QUERY PLAN {query}", (1, 2)[: query.count("?")]).fetchall()

    assert all("USING INDEX records_by_" in step[-1] for step in steps), steps


# -- trimming -------------------------------------------------------------------------------------------------


async def test_a_trim_keeps_the_newest_records_and_the_numbers_go_on(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        for number in range(20):
            await whole_run(journal, f"r{number:02}", float(number * 10))
        newest = (await journal.bounds())[1]

        await journal.trim(7)

        kept = await journal.since(0, 1000)
        assert [record.id for record in kept] == list(range(94, 101))
        assert await journal.bounds() == (newest - 6, newest)

        await journal.trim(0)
        assert await journal.bounds() == (newest + 1, newest)
    async with opened(tmp_path) as journal:
        assert await journal.bounds() == (newest + 1, newest)
        assert numbers(await journal.commit(Commit([queued("next")], 300.0))) == [(101, newest + 1)]


async def test_a_trim_stops_at_the_first_record_of_an_open_run(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await whole_run(journal, "r1")
        open_run = await journal.commit(Commit([queued("r2")], 3.0))
        await whole_run(journal, "r3", 4.0)

        await journal.trim(1)

        assert (await journal.bounds())[0] == open_run[0].sequence
        assert [record.event for record in (await journal.recover()).records] == [queued("r2")]


async def test_a_trim_forgets_old_runs_but_not_the_last_of_a_workflow(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await journal.commit(Commit([accepted("s1")], 0.5, {"s1": b"one"}))
        for number in range(3):
            await whole_run(journal, f"r{number}", float(number * 10))
        await journal.commit(Commit([SpawnerJoined("sp")], 100.0))

        await journal.trim(1)

        assert [row.run for row in await journal.runs()] == ["r2"]
        assert (await journal.recover()).workflows[0].last_run == "r2"


async def test_the_file_stops_growing_when_it_is_trimmed_now_and_then(tmp_path: Path) -> None:
    sizes = []
    numbering = count()
    async with opened(tmp_path) as journal:
        for _ in range(8):
            for _ in range(10):
                runs = [f"r{next(numbering):06}" for _ in range(50)]
                events = [event for run in runs for event in (queued(run), started(run), succeeded(run), archived(run))]
                await journal.commit(Commit(events, 1.0 + next(numbering), closed=[RunId(run) for run in runs]))
            await journal.trim(1000)
            sizes.append((tmp_path / "state.db").stat().st_size)
            assert (tmp_path / "state.db-wal").stat().st_size < 16 * 1024 * 1024

    assert sizes[-1] <= 1.1 * sizes[2]


# -- refusals -------------------------------------------------------------------------------------------------


def refusal(folder: Path) -> str:
    with pytest.raises(StateError) as caught:
        Journal(folder).open()
    return str(caught.value)


def test_a_file_that_is_no_database_is_refused_with_a_way_out_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"not a database at all" * 300)

    assert refusal(tmp_path) == (
        f"cannot open {tmp_path}/state.db: file is not a database;"
        " put a backup in its place, or move it away to begin anew"
    )
    assert (tmp_path / "state.db").read_bytes() == b"not a database at all" * 300
    assert "file is not a database" in refusal(tmp_path)  # and not "another wizflowd holds it"


async def test_a_file_of_a_newer_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    with closing(sqlite3.connect(tmp_path / "state.db")) as db:
        db.execute("PRAGMA user_version=99")
    before = (tmp_path / "state.db").read_bytes()

    message = refusal(tmp_path)

    assert message.startswith(f"cannot use {tmp_path}/state.db: it has format 99, this wizflowd knows 1; start the")
    assert (tmp_path / "state.db").read_bytes() == before


async def test_a_file_with_damaged_pages_is_an_error_not_a_crash(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        for number in range(100):
            await whole_run(journal, f"r{number}")
    with (tmp_path / "state.db").open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(4096 * 20))

    with pytest.raises(StateError, match=r"cannot (open|use) .*state\.db: "):
        async with opened(tmp_path) as journal:
            await journal.recover()


async def test_a_record_of_a_kind_that_is_not_known_is_an_error_that_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await journal.commit(Commit([queued("r1")], 1.0))
    with closing(sqlite3.connect(tmp_path / "state.db")) as db:
        db.execute("UPDATE records SET kind = 'RunTeleported'")
        db.commit()

    async with opened(tmp_path) as journal:
        with pytest.raises(StateError, match=r"cannot read record 1 \(RunTeleported\).*a newer wizflowd wrote it"):
            await journal.recover()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    assert refusal(tmp_path / "file" / "state") == f"cannot use {tmp_path}/file/state: Not a directory"


# -- a full disk ----------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(folder: Path) -> Path:
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return path
    raise AssertionError("the disk is not full")


def big_commit(run: str, size: int) -> Commit:
    return Commit([queued(run)], 1.0, {run: os.urandom(size)})


@pytest.mark.root
async def test_on_a_full_disk_a_commit_waits_and_goes_on_when_there_is_room(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ballast = small_disk / "ballast"
    async with opened(small_disk, 1024 * 1024) as journal:
        await journal.commit(Commit([queued("r0")], 1.0))
        assert ballast.stat().st_blocks * 512 == 1024 * 1024
        filler = fill(small_disk)

        caplog.set_level(logging.WARNING)
        await journal.commit(big_commit("r1", 300_000))  # the ballast gives way
        assert not ballast.exists()
        waiting = asyncio.create_task(journal.commit(big_commit("r2", 2_000_000)))
        await asyncio.sleep(1.2)
        assert not waiting.done()

        filler.unlink()
        assert numbers(await waiting) == [(3, 3)]
        assert ballast.exists()
        assert [row.run for row in await journal.runs()] == ["r2", "r1", "r0"]
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "the disk is full",
        "the disk has room again",
    ] * 2


@pytest.mark.root
async def test_a_journal_closes_though_a_commit_waits_for_room(small_disk: Path) -> None:
    async with opened(small_disk) as journal:
        fill(small_disk)
        waiting = asyncio.create_task(journal.commit(big_commit("r1", 300_000)))
        await asyncio.sleep(0.2)
    with pytest.raises(StateError, match="full"):
        await waiting


def test_without_ample_room_no_ballast_is_made(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path)
    journal = Journal(tmp_path, ballast_bytes=free.f_bavail * free.f_frsize // 2)

    journal.open()
    journal.close()

    assert not (tmp_path / "ballast").exists()


WRITE_BEYOND_A_LIMIT = """
import asyncio, resource, signal, sys
from pathlib import Path
from tests.test_journal import big_commit
from wizflowd.errors import StateError
from wizflowd.journal import Journal

async def write(folder):
    journal = Journal(folder)
    journal.open()
    try:
        await journal.commit(big_commit("r1", 1_000_000))
    except StateError as error:
        print(error)
    journal.close()

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
asyncio.run(write(Path(sys.argv[1])))
"""


def test_any_other_failed_write_is_final(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WRITE_BEYOND_A_LIMIT, tmp_path], capture_output=True, text=True, timeout=20
    )

    assert (done.stdout, done.stderr) == (f"cannot use {tmp_path}/state.db: disk I/O error\n", "")


async def test_a_backup_is_a_state_that_can_be_opened(tmp_path: Path) -> None:
    async with opened(tmp_path / "state") as journal:
        await whole_run(journal, "r1")
        (tmp_path / "copy").mkdir()

        size = await journal.backup(tmp_path / "copy" / "state.db")

        with pytest.raises(FileExistsError):
            await journal.backup(tmp_path / "copy" / "state.db")
    assert size == (tmp_path / "copy" / "state.db").stat().st_size
    async with opened(tmp_path / "copy") as journal:
        assert [row.run for row in await journal.runs()] == ["r1"]


async def test_a_restored_backup_begins_an_epoch_because_its_numbers_are_given_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        before = journal.epoch
        await journal.backup(tmp_path / "backup.db")
    (tmp_path / "state").mkdir()
    (tmp_path / "backup.db").rename(tmp_path / "state/state.db")

    async with opened(tmp_path / "state") as journal:
        assert journal.epoch not in ("", before)
