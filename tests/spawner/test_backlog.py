"""What a daemon has handed over before there is a place for it, as a real spawner starts it or lets go of it."""

import signal

import pytest

from tests.spawner.conftest import Make, Spawner, wait_for
from wizflowd.spawner.protocol import Message

GOOD = "true"


def request(spawner: Spawner, name: str, script: str = GOOD, *after: str, order: int = 0) -> Message:
    return spawner.request(
        *(name, "/bin/sh", "-c", f"echo {name} >> begun; {script}"),
        patient=True,
        good_without=str(spawner.folder / f"{name}.outputs"),
        after=after,
        order=[0, 0, order],
    )


def queue(spawner: Spawner, limit: int, *requests: Message, unwell: int | None = None) -> None:
    known = spawner.hello["unwell"] if unwell is None else unwell
    spawner.send({"op": "queue", "unwell": known, "limit": limit, "requests": list(requests)})


def begun(spawner: Spawner) -> list[str]:
    path = spawner.folder / "begun"
    return path.read_text().split() if path.exists() else []


def told(spawner: Spawner) -> list[tuple[str, str]]:
    """Return what the spawner has told of attempts up to its answer to a withdrawal."""
    spawner.ask({"op": "withdraw"}, "withdrawn")
    return [(message["op"], message["attempt"]) for message in spawner.messages if "attempt" in message]


def test_as_many_run_as_there_are_places_and_the_least_order_comes_first(spawner: Spawner) -> None:
    script = "[ ! -e busy ] || touch two; touch busy; sleep 0.05; rm busy"
    queue(spawner, 1, *(request(spawner, name, script, order=order) for name, order in (("c", 3), ("a", 1), ("b", 2))))

    for name in "abc":
        spawner.next("exited", name)

    assert begun(spawner) == ["a", "b", "c"]
    assert not (spawner.folder / "two").exists()


def test_all_places_are_taken(spawner: Spawner) -> None:
    queue(spawner, 3, *(request(spawner, name, "sleep 60") for name in "abcd"))

    wait_for(lambda: len(begun(spawner)) == 3)

    assert len(spawner.ask({"op": "hello"}, "hello")["attempts"]) == 3


def test_what_comes_after_others_waits_for_all_of_them_though_there_is_a_place(spawner: Spawner) -> None:
    slow = "while [ ! -e gate ]; do sleep 0.01; done"
    queue(spawner, 4, request(spawner, "a"), request(spawner, "b", slow), request(spawner, "c", GOOD, "a", "b"))
    queue(spawner, 4, request(spawner, "d", GOOD, "c"))
    spawner.next("exited", "a")
    wait_for(lambda: "b" in begun(spawner))

    assert sorted(begun(spawner)) == ["a", "b"]
    (spawner.folder / "gate").touch()
    spawner.next("exited", "d")
    assert begun(spawner)[2:] == ["c", "d"]


def test_a_start_is_told_before_its_end_and_after_the_end_that_made_room(spawner: Spawner) -> None:
    queue(spawner, 1, request(spawner, "a", order=1), request(spawner, "b", "sleep 60", order=2))
    wait_for(lambda: begun(spawner) == ["a", "b"])

    assert told(spawner)[-2:] == [("exited", "a"), ("started", "b")]


@pytest.mark.parametrize("script", ["exit 1", "kill -9 $$", "touch a.outputs"], ids=["exit", "signal", "file"])
def test_an_end_that_is_not_plainly_good_drops_all_that_waits(spawner: Spawner, script: str) -> None:
    queue(spawner, 1, request(spawner, "a", script, order=1), request(spawner, "b", order=2))
    exited = spawner.next("exited", "a")

    assert not exited["well"]
    assert told(spawner) == []
    assert begun(spawner) == ["a"]


def test_a_good_end_is_one_though_what_it_left_running_had_to_be_ended(spawner: Spawner) -> None:
    queue(spawner, 1, request(spawner, "a", "sleep 60 & sleep 0", order=1), request(spawner, "b", order=2))
    exited = spawner.next("exited", "a")

    assert exited["well"]
    assert exited["leftovers"] == 1
    spawner.next("exited", "b")


def test_what_cannot_be_started_drops_all_that_waits(spawner: Spawner) -> None:
    nowhere = request(spawner, "a") | {"argv": ["/nowhere"]}
    queue(spawner, 1, nowhere, request(spawner, "b", order=2))
    spawner.next("refused", "a")

    assert told(spawner) == []
    assert begun(spawner) == []


def test_what_was_handed_over_without_knowing_of_a_bad_end_is_not_started(spawner: Spawner) -> None:
    spawner.run("a", "exit 1")
    queue(spawner, 2, request(spawner, "b"))
    dropped = spawner.next("dropped")

    assert told(spawner) == []
    queue(spawner, 2, request(spawner, "b"), unwell=dropped["unwell"])
    spawner.next("exited", "b")


def test_nothing_starts_after_a_withdrawal_and_what_had_started_is_told_before(spawner: Spawner) -> None:
    queue(spawner, 1, request(spawner, "a", "sleep 0.1", order=1), request(spawner, "b", order=2))

    assert told(spawner) == [("started", "a")]
    spawner.next("exited", "a")
    assert told(spawner) == [("started", "a")]
    assert begun(spawner) == ["a"]


def test_what_runs_already_is_not_started_again_and_what_comes_after_it_follows(spawner: Spawner) -> None:
    held = request(spawner, "a", "while [ ! -e gate ]; do sleep 0.01; done")
    spawner.send(held)
    spawner.next("started", "a")
    queue(spawner, 1, held, request(spawner, "b", GOOD, "a"))
    (spawner.folder / "gate").touch()
    spawner.next("exited", "b")

    assert begun(spawner) == ["a", "b"]


def test_what_has_ended_already_is_told_and_what_comes_after_it_follows(spawner: Spawner) -> None:
    spawner.send(request(spawner, "a"))
    spawner.next("exited", "a")
    queue(spawner, 1, request(spawner, "a"), request(spawner, "b", GOOD, "a"))

    spawner.next("exited", "a")
    spawner.next("exited", "b")
    assert begun(spawner) == ["a", "b"]


def test_what_a_daemon_handed_over_goes_with_it(make: Make) -> None:
    spawner = make("--own")
    queue(spawner, 1, request(spawner, "a", "while [ ! -e gate ]; do sleep 0.01; done"), request(spawner, "b"))
    wait_for(lambda: begun(spawner) == ["a"])

    spawner.socket.close()
    wait_for(spawner._connects)
    spawner.ask({"op": "hello"}, "hello")
    (spawner.folder / "gate").touch()
    spawner.next("exited", "a")

    assert told(spawner) == []
    assert begun(spawner) == ["a"]


def test_a_spawner_that_is_told_to_end_starts_nothing_more(spawner: Spawner) -> None:
    queue(spawner, 1, request(spawner, "a", "sleep 60"), request(spawner, "b"))
    wait_for(lambda: begun(spawner) == ["a"])

    spawner.process.send_signal(signal.SIGTERM)
    spawner.process.wait(10)

    assert begun(spawner) == ["a"]


def test_another_version_of_the_spawner_says_that_it_does_not_have_what_was_handed_over(spawner: Spawner) -> None:
    queue(spawner, 1, request(spawner, "a", "while [ ! -e gate ]; do sleep 0.01; done"), request(spawner, "b"))
    wait_for(lambda: begun(spawner) == ["a"])

    spawner.send({"op": "reexec"})
    dropped = spawner.next("dropped")
    spawner.next("hello")
    (spawner.folder / "gate").touch()
    spawner.next("exited", "a")
    assert begun(spawner) == ["a"]
    queue(spawner, 1, request(spawner, "b"), unwell=dropped["unwell"])
    spawner.next("exited", "b")


def test_a_daemon_hears_of_all_that_ended_in_order_while_plenty_waits(spawner: Spawner) -> None:
    queue(spawner, 1, *(request(spawner, f"t{number}", order=number) for number in range(40)))

    for number in range(40):
        spawner.next("exited", f"t{number}")

    assert begun(spawner) == [f"t{number}" for number in range(40)]
