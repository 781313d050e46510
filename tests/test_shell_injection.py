"""Values through real shells: they arrive to the byte, and nothing of them is ever run."""

import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wizflowd.core.shell import check_command, fill_command, shell_argv, warn_command

SHELLS = {
    name: path
    for name in ("sh", "dash", "bash", "busybox", "ksh", "ksh93", "mksh", "zsh")
    if (path := shutil.which(name))
}
KINDS = {"ksh93": "ksh", "mksh": "ksh", "busybox": "busybox sh"}
FUZZ_CASES = int(os.environ.get("WIZFLOW_FUZZ_CASES", "150"))
FUZZ_SEED = int(os.environ.get("WIZFLOW_FUZZ_SEED", "1"))

nasty = st.sampled_from(
    [
        *("'", '"', "`", "$", "\\", "\n", "\r", "\t", " ", ";", "&", "|", "<", ">", "(", ")", "{", "}", "[", "]", "#"),
        *("!", "*", "?", "~", "%", "-n", "\\\n", "$(touch PWNED)", "`touch PWNED`", "${IFS}", "$'", "EOF", "\nEOF\n"),
        *(
            "'; touch PWNED; '",
            '"; touch PWNED; "',
            "{{p0}}",
            "\x01",
            "\x7f",
            "\x81",
            "Á",
            "é",
            "日",
            "🚀",
            "\\0",
            "%s",
        ),
    ]
)
any_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
values = st.lists(st.lists(nasty | any_text, max_size=6).map("".join), min_size=1, max_size=12)

POSIX = {
    "bare": "printf '%s\\0' {{v}}",
    "double": "printf '%s\\0' \"{{v}}\"",
    "single": "printf '%s\\0' '{{v}}'",
    "glued": "printf '%s\\0' ''{{v}}\"\"''",
    "after an escaped quote": "true \\'; printf '%s\\0' \"{{v}}\"; true \\\"",
    "assignment": "x={{v}}; printf '%s\\0' \"$x\"",
    "assignment in single quotes": "x='{{v}}'; printf '%s\\0' \"$x\"",
    "substitution": "x=$(printf %s {{v}}.); printf '%s\\0' \"${x%.}\"",
    "substitution in quotes": 'x="$(printf %s "{{v}}.")"; printf \'%s\\0\' "${x%.}"',
    "nested": 'x="$(printf %s "$(printf %s \'{{v}}.\')")"; printf \'%s\\0\' "${x%.}"',
    "case": "case {{v}} in {{v}}) printf '%s\\0' {{v}};; esac",
    "case in a substitution": 'x="$(case a in a) printf %s {{v}}.;; b) ;; esac)"; printf \'%s\\0\' "${x%.}"',
    "function": "f() { printf '%s\\0' \"$1\"; }; f {{v}}",
    "subshell": "(printf '%s\\0' {{v}})",
    "for": "for i in {{v}}; do printf '%s\\0' \"$i\"; done",
    "comment": "# {{v}} '\nprintf '%s\\0' {{v}}",
    "set": "set -- {{v}}; printf '%s\\0' \"$1$2\"",
    "heredoc": "x=$(cat <<EOF\n{{v}}.\nEOF\n); printf '%s\\0' \"${x%.}\"",
    "heredoc with tabs": "x=$(cat <<-EOF\n\t{{v}}.\n\tEOF\n); printf '%s\\0' \"${x%.}\"",
    "substitution in a heredoc": "x=$(cat <<EOF\n$(printf %s '{{v}}.')\nEOF\n); printf '%s\\0' \"${x%.}\"",
}
BASH = {
    "ansi quotes": "printf '%s\\0' $'{{v}}'",
    "after ansi quotes": "true $'\\''; printf '%s\\0' {{v}}",
    "array": "a=({{v}} '{{v}}'); printf '%s\\0' \"${a[@]:0:1}\"",
    "process": "cat <(printf '%s\\0' {{v}})",
    "here-string": "x=$(cat <<< {{v}}.); printf '%s\\0' \"${x%.}\"",
    "test": "[[ {{v}} == \"{{v}}\" ]] && printf '%s\\0' {{v}}",
}


def run(shell: str, program: str, variables: dict[str, str], folder: Path) -> tuple[int, bytes]:
    argv = shell_argv("busybox sh" if shell == "busybox" else SHELLS[shell], program)
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **variables}
    done = subprocess.run(argv, env=environment, cwd=folder, capture_output=True, stdin=subprocess.DEVNULL, timeout=20)
    return done.returncode, done.stdout


def run_filled(shell: str, command: str, value: str, folder: Path) -> tuple[int, bytes]:
    program, variables = fill_command(command, lambda _: value)
    return run(shell, program, variables, folder)


def differences(shell: str, given_values: list[str], folder: Path) -> list[tuple[str, str, str]]:
    """Return position, value and what came of it, for each of `given_values` in each position, in one process."""
    known = {f"p{i}": value for i, value in enumerate(given_values)}
    positions = [(name, text) for name, text in (POSIX | BASH).items() if name in POSIX or speaks(shell, name)]
    expected = [(name, value) for name, _ in positions for value in given_values]
    command = "\n".join(text.replace("{{v}}", f"{{{{{p}}}}}") for _, text in positions for p in known)
    assert check_command(command, KINDS.get(shell, shell)) == ()
    program, variables = fill_command(command, lambda reference: known[reference.text])
    _, output = run(shell, program, variables, folder)
    arrived = output.decode("utf-8", "surrogateescape").split("\0")[:-1]
    assert len(arrived) == len(expected)
    return [(name, value, came) for (name, value), came in zip(expected, arrived, strict=True) if came != value]


def speaks(shell: str, position: str) -> bool:
    if shell in ("sh", "dash", "busybox"):
        return False
    return (shell, position) not in (("mksh", "array"), ("zsh", "array"), ("mksh", "process"))


@pytest.mark.parametrize("shell", SHELLS)
def test_a_value_arrives_to_the_byte_wherever_its_placeholder_stands(shell: str, tmp_path: Path) -> None:
    @settings(max_examples=12, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(values)
    def arrives(given_values: list[str]) -> None:
        assert differences(shell, given_values, tmp_path) == []

    arrives()

    assert not (tmp_path / "PWNED").exists()


EVIL = (
    "'; touch PWNED; $(touch PWNED) \"`touch PWNED`\n touch PWNED\nEOF\ntouch PWNED #",
    "a[$(touch PWNED)]",
    "path[$(touch PWNED)]",
    "-va[$(touch PWNED)]",
    "([$(touch PWNED)]=1 $(touch PWNED))",
)
FRAGMENTS = (
    *(
        "echo ",
        "printf '%s\\n' ",
        "x=",
        "x=1; ",
        "$x",
        "${x}",
        '"',
        '"',
        "'",
        "'",
        "$'",
        "\\",
        "\n",
        "\n",
        "; ",
        " ",
        " ",
    ),
    *(
        "$(",
        ")",
        "$(echo ",
        "(",
        ")",
        "((",
        "))",
        "$((",
        "))",
        "`",
        "{ ",
        "; }",
        "|",
        "&& ",
        "|| ",
        "<",
        ">f ",
        "2>&1 ",
    ),
    *("<<EOF\n", "\nEOF\n", "<<'EOF'\n", "<<-EOF\n", "\n\tEOF\n", "cat ", "cat <<EOF\n", "<<<", "#", " # ", ">&", "${"),
    *(
        "}",
        "${x:-",
        "[[ ",
        " ]] ",
        " == ",
        " -eq ",
        "[ ",
        " ] ",
        "case a in ",
        "a) ",
        ";; ",
        "esac ",
        "for i in ",
        "; do ",
    ),
    *(
        "; done ",
        "if true; then ",
        "; fi ",
        "a=(",
        "a[",
        "]=",
        "declare ",
        "declare -i ",
        "local ",
        "export ",
    ),
    *(
        "let ",
        "read ",
        "unset ",
        "set -- ",
        "printf ",
        "$",
        "\\\n",
        "\t",
        "true ",
        "!",
        "*",
        "?",
        "~",
        "1",
        "a",
        "b=",
        "<(",
        "=~",
    ),
    *(
        "$x[",
        "]",
        "${#x}",
        "$#",
        "$?",
        "EOF",
        "\\'",
        '\\"',
        "\\$",
        "$[",
        "@(",
        "eval_ ",
        "esac",
        "do ",
        "in ",
        "x+=",
        "x ",
        "test ",
    ),
)
BEFORE_BREAKING = (*POSIX.values(), *BASH.values())


CALLS_ITSELF = re.compile(r"\([\s\\]*\)")


def skeleton(chance: random.Random) -> str:
    """Return a command of shell fragments, half of them grown from one that works, with a placeholder in it.

    None defines a function: a broken one can call itself twice and fill the process table.
    """
    while CALLS_ITSELF.search(text := broken(chance)):
        pass
    return text


def broken(chance: random.Random) -> str:
    if chance.random() < 0.5:
        text = chance.choice(BEFORE_BREAKING).replace("{{v}}", chance.choice(("{{v}}", "w")))
        for _ in range(chance.randint(1, 4)):
            at = chance.randint(0, len(text))
            text = text[:at] + chance.choice(FRAGMENTS) + text[at + chance.choice((0, 0, 1)) :]
    else:
        text = "".join(chance.choices(FRAGMENTS, k=chance.randint(1, 14)))
    at = chance.randint(0, len(text))
    return text[:at] + "{{v}}" + text[at:]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_random_command_is_refused_or_runs_nothing_of_the_value(shell: str, tmp_path: Path) -> None:
    chance, accepted = random.Random(FUZZ_SEED), 0

    for _ in range(FUZZ_CASES):
        command = skeleton(chance)
        if check_command(command, KINDS.get(shell, shell)) or warn_command(command):
            continue
        accepted += 1
        for value in EVIL:
            run_filled(shell, command, value, tmp_path)
            assert not (tmp_path / "PWNED").exists(), (command, value)

    assert accepted > FUZZ_CASES // 20


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    "command",
    [
        *("let x={{v}}", "declare -i x={{v}}", "declare -i x; x={{v}}", "printf -v {{v}} x", "read {{v}} </dev/null"),
        *(
            "[[ {{v}} -eq 1 ]]",
            "[ {{v}} -eq 1 ]",
            "RANDOM={{v}}",
            "echo x >&{{v}}",
            "x=(1); declare x={{v}}",
            "export {{v}}",
        ),
        *("exit {{v}}", "printf %d {{v}}", "shift {{v}}", 'echo "$PATH[{{v}}]"', "test -t {{v}}", "declare {{v}}"),
    ],
)
def test_what_one_shell_evaluates_is_refused_there_or_harmless(shell: str, command: str, tmp_path: Path) -> None:
    if not check_command(command, KINDS.get(shell, shell)):
        for value in EVIL:
            run_filled(shell, command, value, tmp_path)

    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize("shell", SHELLS)
def test_the_largest_value_arrives_and_counts_as_one_word(shell: str, tmp_path: Path) -> None:
    value = "x '" * 43_686 + "12"

    _, output = run_filled(shell, 'set -- {{v}}; printf \'%s\' "$#" "$1"', value, tmp_path)

    assert output.decode() == "1" + value
