"""A Dagu file -> one workflow.

In: the text of a Dagu DAG, chain or graph, in either spelling of its keys. Out: an `Imported`. Dagu hands parameters
and outputs from step to step as variables of the environment; so does what comes out, by `env` and placeholders. Raises
WizflowError where the file is no mapping with steps.
"""

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from wizflowd.core.calendar import CalendarError, check_cron
from wizflowd.core.loader import LoadLimits, Syntax, load
from wizflowd.core.values import text_of
from wizflowd.errors import DefinitionError, WizflowError
from wizflowd.importers.writing import Imported, identifier, literal, make_valid, write_definition

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_HANDLERS = {"success": "success", "failure": "failure", "exit": "always", "cancel": "always", "abort": "always"}
_SILENT = frozenset(
    {
        *("name", "description", "type", "steps", "schedule", "params", "env", "dotenv", "handler_on"),
        *("max_active_steps", "max_active_runs", "timeout_sec", "hist_retention_days"),
    }
)
"""What a file says that is carried over; all else is told to be left out."""
_STEP = frozenset(
    {
        *("name", "id", "description", "command", "cmd", "script", "args", "shell", "dir", "working_dir", "depends"),
        *("output", "retry_policy", "continue_on", "executor", "type", "config", "env", "run", "call", "params"),
        *("timeout_sec", "stdout", "stderr"),
    }
)


@dataclass(slots=True)
class _Reading:
    """What has been read: the `ids` of steps by name, the `makers` of variables, and the ids that are `taken`."""

    chain: bool
    zone: str = ""
    ids: dict[str, str] = field(default_factory=dict)
    makers: dict[str, str] = field(default_factory=dict)
    taken: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def leave(self, where: str, what: str) -> None:
        self.left_out.append(f"{where}: {what}" if where else what)


def import_dagu(text: str, name: str, *, zone: str = "") -> Imported:
    """Return the workflow of a DAG; `name` is that of its file, `zone` that of times which name none (empty: UTC).

    Raises WizflowError.
    """
    try:
        document = load(text.encode(), Syntax.YAML, LoadLimits()).value
    except DefinitionError as error:
        raise WizflowError(f"cannot read {name}: {error.lines(name)[0]}") from error
    dag = _snake(document)
    if not isinstance(dag, dict) or not isinstance(dag.get("steps"), list | dict) or not dag["steps"]:
        raise WizflowError(f"cannot import {name}: it is no Dagu file", hint="a Dagu file has a list of steps")
    steps = _steps(dag["steps"])
    chain = dag.get("type", "chain") != "graph" and not any("depends" in step for step, _ in steps)
    reading = _Reading(chain, zone)
    for key in dag.keys() - _SILENT:
        reading.leave("", f"{key} has no counterpart")
    definition = _header(dag, reading)
    definition["tasks"] = _tasks(steps, reading)
    definition["finally"] = _handlers(dag.get("handler_on"), reading)
    definition = make_valid(definition, reading.left_out)
    file = identifier(str(dag.get("name") or name), {}, "workflow")
    return Imported({f"{file}.yaml": write_definition(definition, reading.left_out)}, tuple(reading.left_out))


def _snake(value: Any) -> Any:
    """Return Dagu's camelCase keys as it spells them now; what is inside `env` and the like stays as it is."""
    if isinstance(value, list):
        return [_snake(item) for item in value]
    if not isinstance(value, dict):
        return value
    spelled = {
        re.sub(r"(?<=[a-z])([A-Z])", lambda found: f"_{found[1].lower()}", key): each for key, each in value.items()
    }
    return {key: each if key in ("env", "params", "config") else _snake(each) for key, each in spelled.items()}


def _steps(steps: Any) -> list[tuple[dict[str, Any], int]]:
    """Return every step with the number of its group: those of one group run side by side in a chain."""
    entries = steps
    if isinstance(steps, dict):
        entries = [
            {"name": name, **(step if isinstance(step, dict) else {"command": step})} for name, step in steps.items()
        ]
    return [
        (step if isinstance(step, dict) else {"command": step}, group)
        for group, entry in enumerate(entries)
        for step in (entry if isinstance(entry, list) else [entry])
    ]


# -- the whole ------------------------------------------------------------------------------------------------------


def _header(dag: Mapping[str, Any], reading: _Reading) -> dict[str, Any]:
    params = _params(dag.get("params"), reading)
    env = {name: literal(value) for name, value in _pairs(dag.get("env"), "env", reading)}
    active = dag.get("max_active_runs")
    concurrency: dict[str, Any] = {}
    if isinstance(dag.get("max_active_steps"), int) and dag["max_active_steps"] > 0:
        concurrency["max_tasks"] = dag["max_active_steps"]
    if isinstance(active, int) and active != 1:
        concurrency["policy"] = "allow"
    days, timeout = dag.get("hist_retention_days"), dag.get("timeout_sec")
    return {
        "workflow_name": str(dag["name"]) if dag.get("name") else None,
        "description": str(dag.get("description") or ""),
        "params": params,
        "env": {**{name: f"{{{{params.{name}}}}}" for name in params}, **env},
        "dotenv": _dotenv(dag.get("dotenv"), reading),
        "timeout": timeout if isinstance(timeout, int) and timeout > 0 else None,
        "concurrency": concurrency,
        "retention": {"days": days} if isinstance(days, int) and days > 0 else None,
        "schedule": _schedule(dag.get("schedule"), reading),
    }


def _params(value: Any, reading: _Reading) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            words: Iterable[Any] = shlex.split(value)
        except ValueError:
            reading.leave("params", "they cannot be read")
            return {}
        value = [dict([word.split("=", 1)]) if "=" in word else word for word in words]
    params: dict[str, Any] = {}
    for index, (name, default) in enumerate(_entries(value), 1):
        if _NAME.fullmatch(name):
            params[name] = default if isinstance(default, str | int | float | bool) else text_of(default)
        else:
            reading.leave("params", f"the parameter {index} has no name that a workflow can use")
    return params


def _pairs(value: Any, where: str, reading: _Reading) -> list[tuple[str, str]]:
    pairs = []
    for name, each in _entries(value):
        if _NAME.fullmatch(name):
            pairs.append((name, text_of(each)))
        else:
            reading.leave(where, f"{name!r} is no variable")
    return pairs


def _entries(value: Any) -> list[tuple[str, Any]]:
    """Return the entries of a mapping, or of a list of mappings and `NAME=value` texts."""
    if isinstance(value, dict):
        return [(str(name), each) for name, each in value.items()]
    found: list[tuple[str, Any]] = []
    for item in value if isinstance(value, list) else []:
        if isinstance(item, dict):
            found += [(str(name), each) for name, each in item.items()]
        else:
            name, equals, each = text_of(item).partition("=")
            found.append((name, each) if equals else ("", each))
    return found


def _dotenv(value: Any, reading: _Reading) -> list[str]:
    files = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    good = [
        file for file in files if isinstance(file, str) and not file.startswith("/") and ".." not in file.split("/")
    ]
    if len(good) < len(files):
        reading.leave("dotenv", "only files below the definition's folder can be named")
    return good


def _schedule(value: Any, reading: _Reading) -> list[dict[str, str]]:
    if isinstance(value, dict):
        for key in value.keys() - {"start"}:
            reading.leave("schedule", f"{key}: a run is not stopped or started anew by the clock")
        value = value.get("start")
    schedule = []
    for expression in [value] if isinstance(value, str) else value if isinstance(value, list) else []:
        zone, cron = re.fullmatch(r"(?:(?:CRON_)?TZ=(\S+)\s+)?(.*)", str(expression), re.DOTALL).groups()  # type: ignore[union-attr]
        try:
            check_cron(cron)
        except CalendarError as error:
            reading.leave("schedule", error.message)
        else:
            zone = zone or reading.zone
            schedule.append({"cron": cron, **({"timezone": zone} if zone else {})})
    return schedule


# -- the steps ------------------------------------------------------------------------------------------------------


def _tasks(steps: list[tuple[dict[str, Any], int]], reading: _Reading) -> list[dict[str, Any]]:
    tasks, groups = [], [group for _, group in steps]
    for index, (step, _) in enumerate(steps):
        name = str(step.get("name") or step.get("id") or f"step{index + 1}")
        own = identifier(name, set(reading.taken))
        reading.taken.append(own)
        reading.ids[name] = own
        if step.get("id"):
            reading.ids[str(step["id"])] = own
        output = step.get("output")
        variable = output.get("name") if isinstance(output, dict) else output
        if isinstance(variable, str) and _NAME.fullmatch(variable.lstrip("$")):
            reading.makers[variable.lstrip("$")] = own
    names = reading.taken[:]
    for index, (step, group) in enumerate(steps):
        task = _task(step, names[index], reading)
        if reading.chain and group:
            before = max(each for each in groups if each < group)
            task["depends_on"] = [names[at] for at, each in enumerate(groups) if each == before]
        tasks.append(task)
    return tasks


def _task(step: Mapping[str, Any], own: str, reading: _Reading) -> dict[str, Any]:
    for key in step.keys() - _STEP:
        reading.leave(f"step {own}", f"{key} has no counterpart")
    task: dict[str, Any] = {"id": own}
    if step.get("name") and step["name"] != own:
        task["name"] = " ".join(str(step["name"]).split())
    task |= _what(step, own, reading)
    depends = step.get("depends")
    wanted = [depends] if isinstance(depends, str) else depends if isinstance(depends, list) else []
    found = [reading.ids[str(each)] for each in wanted if str(each) in reading.ids]
    if len(found) < len(wanted):
        reading.leave(f"step {own}", "it depends on a step that is not there")
    if found:
        task["depends_on"] = found
    mine = [variable for variable, maker in reading.makers.items() if maker == own]
    if mine and task["type"] in ("SHELL", "RESTAPI"):
        task["outputs"] = {variable: {"type": "text"} for variable in mine}
    env = {name: literal(value) for name, value in _pairs(step.get("env"), f"step {own}: env", reading)}
    texts = " ".join(text_of(each) for each in (step.get("command"), step.get("script"), step.get("args")) if each)
    for variable, maker in reading.makers.items():
        if maker != own and re.search(rf"\$\{{?{variable}\b", texts):
            env[variable] = f"{{{{tasks.{maker}.outputs.{variable}}}}}"
    if env:
        task["env"] = env
    return task | _policies(step, own, reading)


def _what(step: Mapping[str, Any], own: str, reading: _Reading) -> dict[str, Any]:
    """Return the fields of what a step does, by its executor."""
    executor = step.get("executor") or step.get("type") or ""
    config = step.get("config") or {}
    if isinstance(executor, dict):
        executor, config = executor.get("type", ""), executor.get("config") or {}
    command = _command(step)
    child = step.get("run") or step.get("call")
    if child:
        params = _params(step.get("params"), reading)
        return {"type": "WORKFLOW", "workflow": str(child), **({"params": params} if params else {})}
    if executor == "http" and isinstance(command, str) and len(command.split()) >= 2:
        return _rest(command, config, own, reading)
    if executor == "mail" and isinstance(config, dict) and config.get("to"):
        to = config["to"] if isinstance(config["to"], list) else [config["to"]]
        message = {"subject": text_of(config.get("subject")), "emailBody": text_of(config.get("message"))}
        sender = {"from": str(config["from"])} if config.get("from") else {}
        return {"type": "EMAIL", "recipients": [str(each) for each in to], **_literals(message), **sender}
    if executor not in ("", "command", "shell"):
        reading.leave(
            f"step {own}", f"the executor {executor} has no counterpart; the task fails until it is rewritten"
        )
        return {
            "type": "SHELL",
            "command": f"echo 'rewrite this task: it had the executor {identifier(str(executor), {})}' >&2\nexit 1\n",
        }
    if not command:
        reading.leave(f"step {own}", "it does nothing")
        return {"type": "SHELL", "command": "true"}
    folder = step.get("dir") or step.get("working_dir")
    if folder and isinstance(command, str):
        command = f"cd {shlex.quote(str(folder)) if not str(folder).startswith(('$', '~')) else folder}\n{command}"
    shell = {"shell": str(step["shell"])} if isinstance(step.get("shell"), str) else {}
    return {"type": "SHELL", "command": command, **shell}


def _command(step: Mapping[str, Any]) -> str | list[str]:
    script, command = step.get("script"), step.get("command", step.get("cmd"))
    if script:
        return literal(str(script))
    if isinstance(command, list):
        return [literal(text_of(word)) for word in command]
    args = step.get("args")
    words = shlex.join(map(str, args)) if isinstance(args, list) else str(args or "")
    return literal(f"{text_of(command)} {words}".strip())


def _rest(command: str, config: Any, own: str, reading: _Reading) -> dict[str, Any]:
    method, url = command.split(None, 1)
    given = config if isinstance(config, dict) else {}
    task: dict[str, Any] = {"type": "RESTAPI", "method": method.upper(), "url": url.strip().strip("\"'")}
    for key in ("headers", "query"):
        if isinstance(given.get(key), dict):
            task[key] = _literals(given[key])
    if given.get("body") is not None:
        task["body"] = literal(text_of(given["body"]))
    if isinstance(given.get("timeout"), int) and given["timeout"] > 0:
        task["timeout"] = given["timeout"]
    if not task["url"].startswith(("http://", "https://")):
        reading.leave(f"step {own}", "its URL is not known before it runs; write it with a placeholder")
        task["url"] = "http://rewrite.invalid/"
    return task


def _literals(texts: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): literal(text_of(text)) for name, text in texts.items()}


def _policies(step: Mapping[str, Any], own: str, reading: _Reading) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    retry = step.get("retry_policy")
    if isinstance(retry, dict):
        limit, delay = retry.get("limit"), retry.get("interval_sec")
        fields["retry"] = {
            "limit": limit if isinstance(limit, int) and 0 <= limit <= 1000 else 1,
            "delay": delay if isinstance(delay, int) and delay >= 0 else 0,
        }
        if isinstance(retry.get("backoff"), int | float) and retry["backoff"] is not True and retry["backoff"] >= 1:
            fields["retry"]["backoff"] = retry["backoff"]
        codes = retry.get("exit_code")
        if isinstance(codes, list) and all(isinstance(code, int) and 0 <= code <= 255 for code in codes):
            fields["retry"]["on_exit"] = codes
    going_on = step.get("continue_on")
    if going_on == "failed" or (isinstance(going_on, dict) and going_on.get("failure", going_on.get("failed"))):
        fields["continue_on_failure"] = True
    if isinstance(going_on, dict):
        for key in going_on.keys() & {"skipped", "exit_code", "output", "mark_success"}:
            reading.leave(f"step {own}", f"continue_on.{key} has no counterpart")
    if isinstance(step.get("timeout_sec"), int) and step["timeout_sec"] > 0:
        fields["timeout"] = step["timeout_sec"]
    for key in ("stdout", "stderr"):
        if step.get(key):
            reading.leave(f"step {own}", f"{key}: what a task prints is in its log")
    return fields


def _handlers(handlers: Any, reading: _Reading) -> list[dict[str, Any]]:
    tasks = []
    for event, step in handlers.items() if isinstance(handlers, dict) else []:
        if event not in _HANDLERS or not isinstance(step, dict | str):
            reading.leave(f"handler_on.{event}", "it has no counterpart")
            continue
        own = identifier(f"on_{event}", set(reading.taken))
        reading.taken.append(own)
        task = _task({"command": step} if isinstance(step, str) else {**step, "name": own}, own, reading)
        if _HANDLERS[event] != "always":
            task["run_on"] = _HANDLERS[event]
        elif event != "exit":
            task["when"] = "run.status == 'cancelled'"
        tasks.append(task)
    return tasks
