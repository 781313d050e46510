"""Attempts of kinds that packages add: the package performs, we bound, log, mask and take the outputs.

In: a `PluginCall`. Out: one outcome. What a package raises ends its attempt and nothing else (`inprocess`).
"""

import json
import os

from wizflowd.core.attempt import PluginCall, Succeeded
from wizflowd.core.kinds import KINDS, KindCall, KindError
from wizflowd.executors.inprocess import AttemptError, InProcessExecutor, Trace, succeed
from wizflowd.spawner.log import CappedLog
from wizflowd.spawner.masking import Masker
from wizflowd.threads import as_guest


class PluginExecutor(InProcessExecutor[PluginCall]):
    """Performs attempts of all kinds that are registered."""

    async def _perform(self, call: PluginCall, trace: Trace) -> Succeeded:
        job = call.job
        masker = Masker(job.secrets)
        log = CappedLog(job.log_path, job.log_max)

        def write(line: str) -> None:
            trace.log = os.path.basename(job.log_path)
            log.write(masker.feed(f"{line}\n".encode("utf-8", "backslashreplace")))

        try:
            with as_guest():
                result = await KINDS[call.kind].perform(KindCall(call.task, job.workspace, write))
        except KindError as error:
            message = "".join(str(error.message))  # plain text, also of a type of the package's own
            raise AttemptError("response", message, hint=error.hint, retryable=error.retryable) from error
        except SystemExit as error:
            raise RuntimeError(f"it would end the daemon (exit status {error.code})") from error
        finally:
            log.write(masker.flush())
            log.close()
        text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, allow_nan=False)
        return await succeed(job, trace, text.encode("utf-8", "surrogatepass"))

    def _culprit(self, call: PluginCall) -> str:
        return f"the package that adds {call.kind}"
