"""EMAIL attempts: one message each, to every recipient, through the SMTP server of the configuration.

In: an `EmailCall`. Out: an `Outcome`; `Succeeded.mail` is the digest by which an equal message is recognised later.
Used by the engine. aiosmtplib speaks the protocol: unlike smtplib in a thread it can be cancelled and timed as a whole.
"""

import asyncio
import contextlib
import email.errors
import email.header
import email.headerregistry
import email.message
import email.policy
import email.utils
import hashlib
import importlib
import mimetypes
import os
import re
from collections import OrderedDict
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msgspec.structs import replace

from wizflowd.core.attempt import EmailCall, Job, Succeeded, Unchanged
from wizflowd.core.values import digest
from wizflowd.errors import printable
from wizflowd.executors.connection import connection_error, tls_context
from wizflowd.executors.inprocess import AttemptError, InProcessExecutor, OutcomeUnknownError, Report, Trace, succeed
from wizflowd.executors.outputs import open_regular
from wizflowd.spawner.masking import Masker

if TYPE_CHECKING:  # importing aiosmtplib costs 60 ms: paid before the first attempt, in a thread
    import aiosmtplib

ANSWER_S = 300.0  # for one exchange with the server; RFC 5321 section 4.5.3.2
QUIT_S = 2.0
ATTACHMENTS_MAX = 50 * 1024 * 1024  # bytes, all of one message; servers take less
_REMEMBERED = 1000
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_MAILBOX = re.compile(r"[!#$%&'*+/=?^_`{|}~0-9A-Za-z.-]+@[0-9A-Za-z.-]+")

Address = email.headerregistry.Address


class _Policy(email.policy.EmailPolicy):
    """Lines as SMTP wants them, in 7 bits, which any server takes."""

    def fold_binary(self, name: str, value: str) -> bytes:
        if name != "Subject" or value.isascii():
            return super().fold_binary(name, value)
        # Python 3.11 loses blanks where it folds such a text itself: github.com/python/cpython/issues/92081
        folded = email.header.Header(str(value), "utf-8", header_name=name).encode(linesep="\r\n")
        return f"{name}: {folded}\r\n".encode()


_POLICY = _Policy(linesep="\r\n", cte_type="7bit")


@dataclass(frozen=True, slots=True)
class SmtpSettings:
    """The server of the configuration. `tls`: "tls" from the first byte; certificates are always verified."""

    host: str
    port: int
    tls: Literal["starttls", "tls", "none"] = "starttls"
    username: str = ""
    password: str = field(default="", repr=False)
    sender: str = ""
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class _Attachment:
    name: str
    content: bytes


class EmailExecutor(InProcessExecutor[EmailCall]):
    """Performs EMAIL attempts. `settings` may be replaced at any time; attempts in flight keep theirs."""

    def __init__(self, report: Report, settings: SmtpSettings | None) -> None:
        super().__init__(report)
        self.settings = settings
        # Who has a message already: a retry for the others must not send it to these again.
        self._delivered: OrderedDict[str, set[str]] = OrderedDict()

    async def warm_up(self) -> None:
        """Import what messages need."""
        await asyncio.to_thread(importlib.import_module, "aiosmtplib")

    async def _perform(self, call: EmailCall, trace: Trace) -> Succeeded | Unchanged:
        settings = self.settings
        if settings is None:
            what = "cannot send the message: no SMTP server is configured"
            raise AttemptError("refused", what, hint="set smtp: in the configuration", retryable=False)
        attachments = await asyncio.to_thread(_read_attachments, call)
        mail = _digest(call, attachments)
        if mail == call.last_sent:
            return Unchanged(trace.facts())
        sender = _address(call.sender or settings.sender, 'sender; set "from" in the task or smtp.from')
        recipients = [_address(recipient, "recipient") for recipient in call.recipients]
        message = await asyncio.to_thread(_compose, call, sender, recipients, attachments)

        delivered = self._delivered.setdefault(call.message_id or call.job.attempt, set())
        if len(self._delivered) > _REMEMBERED:
            self._delivered.popitem(last=False)
        waiting = [address for address in dict.fromkeys(r.addr_spec for r in recipients) if address not in delivered]
        delivery = _Delivery(settings, sender.addr_spec, message, trace)
        try:
            refused = await delivery.send_to(waiting)
        finally:
            delivered.update(delivery.accepted)
        if refused:
            raise _refused(settings, refused, got_it=len(delivered))
        return replace(await succeed(call.job, trace, None), mail=mail)


class _Delivery:
    """One message on its way through one connection; `accepted` are the addresses the server answers for."""

    def __init__(self, settings: SmtpSettings, sender: str, message: bytes, trace: Trace) -> None:
        self.accepted: tuple[str, ...] = ()
        self._settings = settings
        self._sender = sender
        self._message = message
        self._trace = trace

    async def send_to(self, addresses: list[str]) -> "list[aiosmtplib.SMTPRecipientRefused]":
        """Send the message to `addresses`; return those that the server refused, with its words."""
        import aiosmtplib

        if not addresses:
            return []
        client = await self._client()
        try:
            return await self._transact(client, addresses)
        except aiosmtplib.SMTPResponseException as exc:
            raise _refusal(self._settings, exc) from exc
        except (aiosmtplib.SMTPException, OSError) as exc:
            settings = self._settings
            raise connection_error(exc, settings.host, settings.port, ca_setting="smtp.ca_file") from exc
        finally:
            client.close()

    async def _client(self) -> "aiosmtplib.SMTP":
        import aiosmtplib

        settings = self._settings
        try:
            context = None if settings.tls == "none" else await asyncio.to_thread(tls_context, settings.ca_file)
        except OSError as exc:
            what = f"cannot use smtp.ca_file {settings.ca_file}: {exc}"
            raise AttemptError("input", what, retryable=False) from exc
        return aiosmtplib.SMTP(
            hostname=settings.host,
            port=settings.port,
            use_tls=settings.tls == "tls",
            start_tls=settings.tls == "starttls",
            tls_context=context,
            username=settings.username or None,
            password=settings.password or None,
            timeout=None,  # _answer bounds each exchange
        )

    async def _transact(
        self, client: "aiosmtplib.SMTP", addresses: list[str]
    ) -> "list[aiosmtplib.SMTPRecipientRefused]":
        import aiosmtplib

        await _answer(client.connect(), ANSWER_S)
        await _answer(client.mail(self._sender), ANSWER_S)
        refused = []
        for address in addresses:
            try:
                await _answer(client.rcpt(address), ANSWER_S)
            except aiosmtplib.SMTPRecipientRefused as exc:
                refused.append(exc)
        taken = set(addresses) - {exc.recipient for exc in refused}
        if taken:
            await self._hand_over(client)
            self.accepted = tuple(taken)
        with contextlib.suppress(aiosmtplib.SMTPException, OSError):  # the message is theirs, whatever comes now
            await _answer(client.quit(), QUIT_S)
        return refused

    async def _hand_over(self, client: "aiosmtplib.SMTP") -> None:
        """Send the message itself. From here to the answer nobody knows whether the server has it."""
        import aiosmtplib

        self._trace.unsure = f"while {self._settings.host} took the message"
        try:
            await _answer(client.data(self._message), ANSWER_S)
        except aiosmtplib.SMTPResponseException:
            self._trace.unsure = ""
            raise
        except (aiosmtplib.SMTPException, OSError) as exc:
            what = f"the connection broke off while {self._settings.host} took the message: {exc}"
            raise OutcomeUnknownError(what) from exc
        self._trace.unsure = ""


async def _answer(exchange: Awaitable[object], within_s: float) -> None:
    """Wait for the server, `within_s` at most. aiosmtplib's own time limit is `asyncio.wait_for`, which before
    Python 3.12 loses a cancellation that meets the answer."""
    try:
        async with asyncio.timeout(within_s) as limit:
            await exchange
    except TimeoutError as exc:
        if not limit.expired():
            raise
        raise TimeoutError(f"no answer within {within_s:g} s") from exc


def _refused(settings: SmtpSettings, refused: "list[aiosmtplib.SMTPRecipientRefused]", *, got_it: int) -> AttemptError:
    who = ", ".join(f"{exc.recipient} ({exc.code} {exc.message})" for exc in refused)
    others = f"; those not refused ({got_it}) got the message" if got_it else ""
    return AttemptError(
        "refused",
        printable(f"{settings.host} refused {who}{others}"),
        retryable=any(exc.code < 500 for exc in refused),
    )


def _refusal(settings: SmtpSettings, exc: "aiosmtplib.SMTPResponseException") -> AttemptError:
    import aiosmtplib

    what = f"cannot send the message: {settings.host}:{settings.port} answered {exc.code} {exc.message}"
    login = isinstance(exc, aiosmtplib.SMTPAuthenticationError)
    return AttemptError(
        "refused",
        printable(Masker([settings.password]).mask(what)),
        hint="see smtp.username and smtp.password" if login else "",
        retryable=exc.code < 500,
    )


def _read_attachments(call: EmailCall) -> list[_Attachment]:
    attachments = []
    room = ATTACHMENTS_MAX
    for path in call.attachments:
        try:
            with open_regular(_inside(path, call.job)) as file:
                content = file.read(room + 1)
        except OSError as exc:
            raise _bad_input(f"cannot attach {path}: {exc.strerror}") from exc
        room -= len(content)
        if room < 0:
            raise _bad_input(f"cannot attach {path}: the attachments are over {ATTACHMENTS_MAX} bytes")
        attachments.append(_Attachment(path.name, content))
    return attachments


def _inside(path: Path, job: Job) -> Path:
    """Return where `path` leads, which must be in the workspace or in the definition's folder."""
    real = Path(os.path.realpath(path))
    folders = [job.workspace] if job.source_folder == Path() else [job.workspace, job.source_folder]
    if not any(real.is_relative_to(os.path.realpath(folder)) for folder in folders):
        raise _bad_input(f"cannot attach {path}: it leads out of the workspace")
    return real


def _digest(call: EmailCall, attachments: list[_Attachment]) -> str:
    hashes = [f"{file.name}\0{hashlib.sha256(file.content).hexdigest()}" for file in attachments]
    return digest([call.subject, call.body, list(call.recipients), list(hashes)])


def _address(text: str, what: str) -> Address:
    """Return one mailbox, with or without a name before it; its domain in ASCII."""
    if _CONTROL.search(text):
        raise _bad_input(f'cannot send: "{printable(text)}" holds control characters and is no {what}')
    try:
        header = _POLICY.header_factory("To", text)
        addresses: tuple[Address, ...] = header.addresses
        (address,) = addresses
        domain = address.domain.encode("idna").decode()
        invalid = any(isinstance(defect, email.errors.InvalidHeaderDefect) for defect in header.defects)
        if invalid or not _MAILBOX.fullmatch(f"{address.username}@{domain}"):
            raise ValueError(address)
        return Address(address.display_name, address.username, domain)
    except ValueError as exc:
        raise _bad_input(f'cannot send: "{text}" is no e-mail address for a {what}') from exc


def _compose(call: EmailCall, sender: Address, recipients: list[Address], attachments: list[_Attachment]) -> bytes:
    for name, value in (("subject", call.subject), *(("attachment", file.name) for file in attachments)):
        if _CONTROL.search(value):
            raise _bad_input(f'cannot send: the {name} "{printable(value)}" holds control characters')
    message = email.message.EmailMessage(_POLICY)
    try:
        message["Subject"] = call.subject
        message["From"] = sender
        message["To"] = recipients
        message["Date"] = email.utils.localtime()
        message["Message-ID"] = f"<{call.message_id.strip('<>')}>" if call.message_id else email.utils.make_msgid()
        message.set_content(call.body)
        for file in attachments:
            kind, encoding = mimetypes.guess_type(file.name)
            main, _, sub = ("application/octet-stream" if encoding or not kind else kind).partition("/")
            message.add_attachment(file.content, maintype=main, subtype=sub, filename=file.name)
        return message.as_bytes()
    except ValueError as exc:  # lone surrogates, a line end in the message id
        raise _bad_input(f"cannot make the message: {exc}") from exc


def _bad_input(message: str) -> AttemptError:
    return AttemptError("input", message, retryable=False)
