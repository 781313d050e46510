"""`executors.email` against a real SMTP server on 127.0.0.1."""

import asyncio
import dataclasses
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.executors.conftest import Reports
from tests.servers import SmtpSink
from wizflowd.core.attempt import AttemptId, Cancelled, EmailCall, Failed, Job, Lost, Outcome, Succeeded, Unchanged
from wizflowd.executors import email as module
from wizflowd.executors.email import EmailExecutor, SmtpSettings

Send = Callable[..., Any]
MakeJob = Callable[..., Job]


@pytest.fixture
async def executor(reports: Reports) -> AsyncIterator[EmailExecutor]:
    async with EmailExecutor(reports, None) as executor:
        yield executor


@pytest.fixture
def call(make_job: MakeJob) -> EmailCall:
    return EmailCall(
        make_job(), "Done", "All is well.\n", ("ops@example.org",), "etl@example.org", message_id="r.t@host"
    )


@pytest.fixture
def send(executor: EmailExecutor, reports: Reports, call: EmailCall) -> Send:
    """Send `call` through a sink, or through the server of `settings`; `number` is that of the attempt."""

    async def send(
        sink: SmtpSink | None, *, number: int = 1, settings: SmtpSettings | None = None, **fields: Any
    ) -> Any:
        executor.settings = settings or (SmtpSettings("127.0.0.1", sink.port, tls="none") if sink else None)
        attempt = AttemptId(f"r/t/{number}")
        fields = {"job": replace(call.job, attempt=attempt), **fields}
        executor.start(replace(call, **fields))
        return await reports.wait(attempt)

    return send


def failed(outcome: Outcome, reason: str) -> Failed:
    assert isinstance(outcome, Failed), outcome
    assert outcome.reason == reason, outcome
    return outcome


async def test_every_recipient_gets_the_message(send: Send) -> None:
    with SmtpSink() as sink:
        outcome = await send(sink, recipients=("a@example.org", "Bé <b@example.org>", "a@example.org"))

    assert isinstance(outcome, Succeeded)
    (mail,) = sink.mails
    assert mail.sender == "etl@example.org"
    assert mail.recipients == ("a@example.org", "b@example.org")
    assert mail.message["To"] == "a@example.org, Bé <b@example.org>, a@example.org"
    assert mail.message["Subject"] == "Done"
    assert mail.message["Message-ID"] == "<r.t@host>"
    assert mail.message["Date"].datetime.tzinfo is not None
    assert mail.message.get_content() == "All is well.\r\n"


async def test_any_text_arrives_as_it_was_written(send: Send) -> None:
    body = ".\n..\nFrom me: grüße, 漢字 🎉\n" + "x" * 5000 + "\n\n.\n"
    with SmtpSink() as sink:
        await send(sink, subject="Größe 漢字 " * 30, body=body)

    (mail,) = sink.mails
    assert mail.message["Subject"] == ("Größe 漢字 " * 30)
    assert mail.message.get_content().replace("\r\n", "\n") == body
    assert mail.content.isascii()
    assert max(map(len, mail.content.split(b"\r\n"))) < 998


async def test_attachments_come_with_their_type_and_bytes(send: Send, call: EmailCall) -> None:
    folder = call.job.workspace
    files = {"report.csv": b"a,b\r\n", "größe.png": bytes(range(256)), "x.tar.gz": b"\x1f\x8b", "plain": b"?"}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with SmtpSink() as sink:
        await send(sink, attachments=tuple(folder / name for name in files))

    parts = list(sink.mails[0].message.iter_attachments())
    assert {part.get_filename(): part.get_payload(decode=True) for part in parts} == files
    assert [part.get_content_type() for part in parts] == [
        "text/csv",
        "image/png",
        "application/octet-stream",
        "application/octet-stream",
    ]


@pytest.mark.parametrize(("name", "cause"), [("absent", "No such file"), ("link", "leads out"), ("folder", "folder")])
async def test_an_attachment_that_cannot_be_read_fails_naming_it(
    send: Send, call: EmailCall, name: str, cause: str
) -> None:
    (call.job.workspace / "link").symlink_to("/etc/hostname")
    (call.job.workspace / "folder").mkdir()
    with SmtpSink() as sink:
        outcome = failed(await send(sink, attachments=(call.job.workspace / name,)), "input")

    assert outcome.message.startswith(f"cannot attach {call.job.workspace / name}: ")
    assert cause in outcome.message
    assert sink.mails == []


async def test_attachments_are_bounded_together(send: Send, call: EmailCall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ATTACHMENTS_MAX", 10)
    paths = (call.job.workspace / "a", call.job.workspace / "b")
    for path in paths:
        path.write_bytes(b"123456")
    with SmtpSink() as sink:
        outcome = failed(await send(sink, attachments=paths), "input")

    assert "over 10 bytes" in outcome.message


async def test_a_message_equal_to_the_last_one_is_not_sent(send: Send, call: EmailCall) -> None:
    (call.job.workspace / "a").write_text("1")
    with SmtpSink() as sink:
        first = await send(sink, attachments=(call.job.workspace / "a",))
        second = await send(sink, number=2, attachments=(call.job.workspace / "a",), last_sent=first.mail)

    assert isinstance(second, Unchanged)
    assert len(sink.mails) == 1


@pytest.mark.parametrize(
    "change", [{"subject": "Other"}, {"body": "Other"}, {"recipients": ("b@example.org",)}, {"attachments": ()}]
)
async def test_a_message_that_differs_from_the_last_one_is_sent(
    send: Send, call: EmailCall, change: dict[str, Any]
) -> None:
    (call.job.workspace / "a").write_text("1")
    attachments = (call.job.workspace / "a",)
    with SmtpSink() as sink:
        first = await send(sink, attachments=attachments)
        fields = {"attachments": attachments, "message_id": "r2.t@host", "last_sent": first.mail, **change}
        second = await send(sink, number=2, **fields)

    assert isinstance(second, Succeeded)
    assert second.mail != first.mail
    assert len(sink.mails) == 2


async def test_the_content_of_an_attachment_counts_for_the_digest(send: Send, call: EmailCall) -> None:
    path = call.job.workspace / "a"
    path.write_text("1")
    with SmtpSink() as sink:
        first = await send(sink, attachments=(path,))
        path.write_text("2")
        second = await send(sink, number=2, attachments=(path,), message_id="r2", last_sent=first.mail)

    assert isinstance(second, Succeeded)


async def test_a_recipient_refused_for_good_fails_naming_it_and_the_others_get_the_message(send: Send) -> None:
    with SmtpSink() as sink:
        sink.refuse["gone@example.org"] = "550 no such user"
        outcome = failed(await send(sink, recipients=("a@example.org", "gone@example.org")), "refused")

    assert outcome.message == (
        "127.0.0.1 refused gone@example.org (550 no such user); those not refused (1) got the message"
    )
    assert not outcome.retryable
    assert sink.mails[0].recipients == ("a@example.org",)


async def test_a_retry_after_a_refusal_for_now_does_not_send_twice(send: Send) -> None:
    recipients = ("a@example.org", "busy@example.org")
    with SmtpSink() as sink:
        sink.refuse["busy@example.org"] = "451 try again"
        first = failed(await send(sink, recipients=recipients), "refused")
        sink.refuse.clear()
        second = await send(sink, number=2, recipients=recipients)

    assert first.retryable
    assert isinstance(second, Succeeded)
    assert [mail.recipients for mail in sink.mails] == [("a@example.org",), ("busy@example.org",)]


@pytest.mark.parametrize(("reply", "retryable"), [("452 disk full", True), ("554 spam", False)])
async def test_a_refused_message_is_retried_only_when_refused_for_now(send: Send, reply: str, retryable: bool) -> None:
    with SmtpSink() as sink:
        sink.answer_data(reply)
        outcome = failed(await send(sink), "refused")

    assert outcome.message.endswith(f"answered {reply}")
    assert outcome.retryable is retryable


async def test_a_connection_lost_while_the_message_is_taken_leaves_the_outcome_unknown(send: Send) -> None:
    with SmtpSink() as sink:
        sink.answer_data("hang up")

        assert isinstance(await send(sink), Lost)


async def test_a_timeout_while_the_message_is_taken_leaves_the_outcome_unknown(send: Send, make_job: MakeJob) -> None:
    with SmtpSink() as sink:
        sink.answer_data("stall")
        outcome = await send(sink, job=make_job(timeout_s=1))

    assert isinstance(outcome, Lost)
    assert outcome.message == "timed out after 1 s, while 127.0.0.1 took the message"


async def test_a_server_that_never_greets_ends_in_a_timeout_and_can_be_cancelled(
    send: Send, executor: EmailExecutor, reports: Reports, call: EmailCall, make_job: MakeJob
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = SmtpSettings("127.0.0.1", silent.getsockname()[1], tls="none")
        failed(await send(None, settings=settings, job=make_job(timeout_s=0.2)), "timeout")

        executor.start(replace(call, job=make_job(attempt=AttemptId("r/t/2"))))
        connection, _ = await asyncio.to_thread(silent.accept)
        connection.close()
        connection, _ = await asyncio.to_thread(silent.accept)
        executor.cancel(AttemptId("r/t/2"))

        assert isinstance(await reports.wait("r/t/2"), Cancelled)
        with connection:
            assert connection.recv(1) == b""


async def test_a_server_that_stops_answering_is_a_connection_error(send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        outcome = failed(await send(None, settings=SmtpSettings("127.0.0.1", port, tls="none")), "connection")

    assert outcome.message == f"the exchange with 127.0.0.1:{port} broke off: no answer within 0.1 s"


async def test_no_cancellation_is_lost_that_meets_the_connection(
    executor: EmailExecutor, reports: Reports, call: EmailCall, make_job: MakeJob
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        executor.settings = SmtpSettings("127.0.0.1", silent.getsockname()[1], tls="none")
        for number in range(300):
            attempt = AttemptId(f"r/t/{number}")
            executor.start(replace(call, job=make_job(attempt=attempt)))
            connection, _ = await asyncio.to_thread(silent.accept)
            for _ in range(number % 4):
                await asyncio.sleep(0)
            executor.cancel(attempt)

            assert isinstance(await reports.wait(attempt), Cancelled)
            connection.close()


async def test_a_server_that_is_not_there_is_a_connection_error(send: Send) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    outcome = failed(await send(None, settings=SmtpSettings("127.0.0.1", port, tls="none")), "connection")

    assert outcome.message == f"cannot reach 127.0.0.1:{port}: Connection refused"
    assert outcome.retryable


async def test_without_a_server_the_message_tells_what_to_configure(send: Send) -> None:
    outcome = failed(await send(None), "refused")

    assert outcome.message == "cannot send the message: no SMTP server is configured; set smtp: in the configuration"
    assert not outcome.retryable


@pytest.mark.parametrize("tls", ["starttls", "tls"])
async def test_login_and_message_go_through_verified_tls(
    send: Send, server_tls: ssl.SSLContext, ca_file: Path, tls: Any
) -> None:
    with SmtpSink(tls=server_tls, tls_first=tls == "tls", login=("me", "pass word")) as sink:
        trusted = SmtpSettings("127.0.0.1", sink.port, tls, "me", "pass word", ca_file=ca_file)
        outcome = await send(None, settings=trusted)
        stranger = failed(
            await send(None, number=2, settings=dataclasses.replace(trusted, ca_file=None), message_id="2"),
            "connection",
        )

    assert isinstance(outcome, Succeeded)
    assert [mail.logged_in for mail in sink.mails] == [True]
    assert "cannot trust the certificate" in stranger.message
    assert "smtp.ca_file" in stranger.message


async def test_a_server_without_starttls_gets_nothing(send: Send) -> None:
    with SmtpSink() as sink:
        failed(await send(None, settings=SmtpSettings("127.0.0.1", sink.port, "starttls")), "connection")

    assert sink.mails == []


async def test_a_refused_login_names_the_settings_and_not_the_password(
    send: Send, server_tls: ssl.SSLContext, ca_file: Path
) -> None:
    with SmtpSink(tls=server_tls, login=("me", "right")) as sink:
        settings = SmtpSettings("127.0.0.1", sink.port, "starttls", "me", "wrong-pass", ca_file=ca_file)
        outcome = failed(await send(None, settings=settings), "refused")

    assert "smtp.username and smtp.password" in outcome.message
    assert "wrong-pass" not in outcome.message + repr(settings)
    assert not outcome.retryable


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"subject": "a\nBcc: x@example.org"}, "subject"),
        ({"subject": "a\rb"}, "subject"),
        ({"recipients": ("a@example.org\nBcc: x@example.org",)}, "control characters"),
        ({"recipients": ("a@example.org, x@example.org",)}, "no e-mail address"),
        ({"recipients": ("nobody",)}, "no e-mail address"),
        ({"recipients": ("",)}, "no e-mail address"),
        ({"recipients": ("jörg@example.org",)}, "no e-mail address"),
        ({"recipients": ("a@example.org> SIZE=1",)}, "no e-mail address"),
        ({"sender": "two words"}, "no e-mail address"),
        ({"sender": ""}, "smtp.from"),
        ({"message_id": "a\r\nBcc: x@example.org"}, "cannot make the message"),
        ({"body": "\ud800"}, "cannot make the message"),
    ],
)
async def test_what_would_break_the_message_is_refused(send: Send, fields: dict[str, Any], message: str) -> None:
    with SmtpSink() as sink:
        outcome = failed(await send(sink, **fields), "input")

    assert message in outcome.message
    assert not outcome.retryable
    assert sink.mails == []


async def test_a_domain_outside_ascii_is_sent_in_its_ascii_form(send: Send) -> None:
    with SmtpSink() as sink:
        await send(sink, recipients=("a@bücher.example",))

    assert sink.mails[0].recipients == ("a@xn--bcher-kva.example",)


async def test_the_sender_of_the_configuration_is_the_default(send: Send) -> None:
    with SmtpSink() as sink:
        settings = SmtpSettings("127.0.0.1", sink.port, "none", sender="Flow <flow@example.org>")
        await send(None, settings=settings, sender="")

    assert sink.mails[0].sender == "flow@example.org"
    assert sink.mails[0].message["From"] == "Flow <flow@example.org>"
