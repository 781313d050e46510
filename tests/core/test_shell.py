"""Commands for a shell: what is refused, what is warned of, and what a placeholder becomes."""

import time

import pytest

from wizflowd.core.placeholders import Reference
from wizflowd.core.shell import check_command, fill_command, shell_argv, warn_command
from wizflowd.errors import FillError


def filled(command: str) -> str:
    return fill_command(command, lambda reference: reference.text)[0]


@pytest.mark.parametrize(
    ("command", "program"),
    [
        ("echo {{v}}", 'echo "${WIZFLOW_V1}"'),
        ('echo "a{{v}}b"', 'echo "a${WIZFLOW_V1}b"'),
        ("echo 'a{{v}}b'", "echo 'a'\"${WIZFLOW_V1}\"'b'"),
        ("echo $'a\\'{{v}}b'", "echo $'a\\''\"${WIZFLOW_V1}\"$'b'"),
        ("cat <<E\n{{v}}\nE", "cat <<E\n${WIZFLOW_V1}\nE"),
        ("# it's {{v}}\necho {{v}}", '# it\'s ${WIZFLOW_V1}\necho "${WIZFLOW_V1}"'),
        ('x="$(echo "{{v}}" {{v}})"', 'x="$(echo "${WIZFLOW_V1}" "${WIZFLOW_V1}")"'),
        ('"$(case a in a) echo {{v}};; (b) ;; esac)"', '"$(case a in a) echo "${WIZFLOW_V1}";; (b) ;; esac)"'),
        ("echo a#'{{v}}'", "echo a#''\"${WIZFLOW_V1}\"''"),
        ('echo \\"{{v}}', 'echo \\""${WIZFLOW_V1}"'),
        ('echo "$x{{v}}" "\\${{v}}"', 'echo "$x${WIZFLOW_V1}" "\\$${WIZFLOW_V1}"'),
        ("cat <<A <<-'B'\n{{v}}\nA\n\t' \" `\n\tB\necho {{v}}", None),
        ("cat <<E \\\n| cat\n{{v}} \" '\nE\necho {{v}}", None),
        ("echo $(( 1 << 3 )) `date '` $# {{v}}", None),
        ("f() { echo '}' {{v}}; }; f", None),
        ("[[ a =~ ^(a|b)$ ]] && echo {{v}}", None),
        ("echo \\\n  {{v}} && \\\n  echo {{v}}", None),
        (r"echo '\{{v}}' \{{v}}", "echo '{{v}}' {{v}}"),
        ("docker ps -f '{{.Names}}'", "docker ps -f '{{.Names}}'"),
    ],
)
def test_a_placeholder_becomes_a_reference_quoted_for_its_place(command: str, program: str | None) -> None:
    expected = program or command.replace(" {{v}}", ' "${WIZFLOW_V1}"').replace("{{v}}", "${WIZFLOW_V1}")

    assert check_command(command, "bash") == ()
    assert filled(command) == expected


@pytest.mark.parametrize(
    "command",
    [
        *("cat <<'EOF'\n{{v}}\nEOF", 'cat <<"EOF"\n{{v}}\nEOF', "cat <<\\EOF\n{{v}}\nEOF", "cat <<{{v}}\nx\n{{v}}"),
        *(
            "cat <<EOF\n{{v}}\n",
            "cat <<EOF\n{{v}} \\\nEOF\n",
            "cat <<EOF\n{{v}}\nEO\\\nF\nEOF",
            "cat <<EOF; echo '\n'{{v}}",
        ),
        *("x=$(cat <<EOF\n{{v}}\nEOF)", "cat <<EOF $(\n) {{v}}\nEOF", "cat <<EOF\n$(echo {{v}}\nEOF\n)\nEOF"),
        *(
            "echo `echo {{v}}`",
            'echo "`echo {{v}}`"',
            "echo $(({{v}}+1))",
            "(({{v}}>1))",
            "echo $[{{v}}]",
            "let x={{v}}",
        ),
        *("for ((i=0;i<{{v}};i++)); do :; done", "echo $(( $(echo {{v}}) ))", "a[{{v}}]=1", "a=([{{v}}]=1)"),
        *(
            "a[ {{v}} ]=1",
            "a=([ {{v}} ]=1)",
            "echo ${a[{{v}}]}",
            "echo ${x:-{{v}}}",
            "echo ${{{v}}}",
            'echo "${x#{{v}}}"',
        ),
        *("[[ {{v}} -eq 1 ]]", '[[ 1 -lt "x{{v}}" ]]', "[[ -v {{v}} ]]", "[ -v {{v}} ]", "test {{v}} {{w}}"),
        *("echo ${{v}}", 'echo "${{v}}"', "declare -i x={{v}}", "declare -i x; x={{v}}", "declare -a x={{v}}"),
        *("x=(1); declare x={{v}}", "declare -n r={{v}}", "declare {{v}}=1", "export {{v}}", 'local "{{v}}"'),
        *("printf -v {{v}} x", "printf {{v}} x", "read {{v}}", "unset {{v}}", "set {{v}}", "command let {{v}}"),
        *(
            "RANDOM={{v}}",
            "for RANDOM in {{v}}; do :; done",
            "PS4={{v}}",
            "echo x >&{{v}}",
            "cat <&{{v}}",
            "wait {{v}}",
        ),
        *("echo '{{v}}", 'echo "{{v}}', "echo $(echo {{v}}", "(echo {{v}}", "echo `{{v}}", "case a in a) echo {{v}}"),
        *(
            'echo "$x[{{v}}]"',
            "echo $x[{{v}}]",
            'echo "${x:-"}"}" {{v}}',
            "echo <\\\n<EOF {{v}}",
            "((echo a); b) {{v}}",
        ),
        *(
            "echo {{v}} $\\\n(x)",
            "for x do let {{v}}; done",
            "function f { let {{v}}; }",
            "$(" * 50 + "{{v}}" + ")" * 50,
        ),
        "case a in a) let {{v}};; esac",
        "echo \0 {{v}}",
    ],
)
def test_a_placeholder_that_a_shell_would_evaluate_or_misread_is_refused(command: str) -> None:
    findings = check_command(command, "bash")

    assert findings
    assert all(finding.what and finding.hint for finding in findings)
    assert all(0 <= finding.offset <= len(command) for finding in findings)


@pytest.mark.parametrize(
    "command",
    [
        *("x={{v}} y='{{v}}' env", "export X={{v}}", "local x={{v}}", "declare -r x={{v}}", "read x < {{v}}"),
        *(
            "printf '%s' {{v}}",
            "printf -- {{v}}",
            "printf -v x %s {{v}}",
            "set -- {{v}}",
            "[ {{v}} = x ]",
            "[ -n {{v}} ]",
        ),
        *("[ {{v}} -eq 1 ]", "[[ {{v}} == x ]]", "[[ -n {{v}} && x -eq 1 ]]", "for i in {{v}}; do echo $i; done"),
        *(
            "case {{v}} in {{v}}|b) ;; esac",
            "cat <<< {{v}}",
            "echo x > {{v}} 2>&1",
            "diff <(echo {{v}}) x",
            "a=({{v}})",
        ),
        *("ls a[{{v}}]*", "echo ${x:-'a b'} \"${x%.*}\" {{v}}", "echo 'let' {{v}}", "if [ {{v}} ]; then :; fi"),
        *("while read -r l; do echo {{v}}; done", "echo {{v}}\r\n", "{ echo {{v}}; } | (cat)", "echo @(a|b) {{v}}"),
    ],
)
def test_a_placeholder_in_an_ordinary_place_is_accepted(command: str) -> None:
    assert check_command(command, "bash") == ()


@pytest.mark.parametrize(
    "shell",
    [
        *("sh", "/bin/sh", "dash", "bash -euo pipefail", "ksh", "/usr/bin/zsh -f", "busybox sh", "/bin/busybox ash"),
        "/usr/bin/env bash",
    ],
)
def test_a_shell_whose_quoting_is_known_takes_placeholders(shell: str) -> None:
    assert check_command("echo {{v}}", shell) == ()


@pytest.mark.parametrize(
    "shell",
    [
        *("fish", "python3", "env -i bash", "env A=/bin/bash fish", "env A=bash", "busybox ls", "sudo bash", "'"),
        *("", "bash5", "/opt/sh/csh"),
    ],
)
def test_another_shell_is_refused_only_where_there_is_a_placeholder(shell: str) -> None:
    assert check_command("echo {{v}}", shell)
    assert check_command("echo '", shell) == ()


@pytest.mark.parametrize("command", ["echo $'{{v}}'", "echo $'\\'' {{v}}", "((x)); echo {{v}}"])
def test_what_only_bash_reads_as_quotes_is_refused_under_sh(command: str) -> None:
    assert check_command(command, "sh")
    assert check_command(command, "bash") == ()


@pytest.mark.parametrize("command", ["[ {{v}} -eq 1 ]", "exit {{v}}", "printf %d {{v}}", "f() { return {{v}}; }"])
def test_what_ksh_and_zsh_compute_is_refused_under_them(command: str) -> None:
    assert check_command(command, "zsh")
    assert check_command(command, "ksh")
    assert check_command(command, "sh") == ()


def test_a_finding_tells_the_place_in_the_command_as_written() -> None:
    command = r"echo '\{{a}}' {{b}}; let x={{c}}"

    (finding,) = check_command(command, "bash")

    assert command[finding.offset :] == "x={{c}}"


@pytest.mark.parametrize(
    "command",
    [
        *("eval echo {{v}}", "eval 'x {{v}}'", "ssh h 'ls {{v}}'", "sh -c 'ls {{v}}'", '/bin/bash -ec "{{v}}"'),
        *(
            "su -c 'ls {{v}}' u",
            "xargs -n1 sh -c 'ls {{v}}'",
            "awk '/{{v}}/'",
            "sed s/{{v}}/x/",
            "python3 -c 'f({{v}})'",
        ),
        *("trap 'rm {{v}}' EXIT", "ssh h <<E\nls {{v}}\nE", "sh <<< {{v}}", "n={{v}}; echo $((n + 1))"),
        *("n={{v}}; [[ $n -gt 3 ]]", "f={{v}}; echo x >&$f", "read n <<< {{v}}; ((n))", "sudo -u x bash -c 'a {{v}}'"),
        *(
            "x=$(echo {{v}}); ((x))",
            "find . -exec sh -c 'a {{v}}' ';'",
            "perl -ne 'print {{v}}'",
            "env A=1 sh -c {{v}}",
        ),
    ],
)
def test_what_is_evaluated_again_is_warned_of_and_not_refused(command: str) -> None:
    assert warn_command(command)
    assert check_command(command, "bash") == ()


@pytest.mark.parametrize(
    "command",
    [
        *("echo {{v}}", "awk -v x={{v}} '{print x}' {{v}}", "sed -e s/a/b/ {{v}}", "n={{v}}; echo $((m))", "eval x"),
        *("python3 script.py {{v}}", "python3 -c 'import sys' {{v}}", "cat <<E\n{{v}}\nE", "ssh h ls; echo {{v}}"),
    ],
)
def test_what_is_evaluated_once_is_not_warned_of(command: str) -> None:
    assert warn_command(command) == ()


def test_each_reference_has_one_variable_that_nobody_else_has() -> None:
    command = "echo {{a}} '{{b.c}}' {{a}} $WIZFLOW_V2"

    program, variables = fill_command(command, lambda reference: list(reference.steps), taken=["WIZFLOW_V1"])

    assert variables == {"WIZFLOW_V3": '["a"]', "WIZFLOW_V4": '["b","c"]'}
    assert program.count("${WIZFLOW_V3}") == 2


def test_a_command_without_placeholders_stays_to_the_byte() -> None:
    assert fill_command("echo '{{.x}} \\{{ $(", lambda _: "")[0] == "echo '{{.x}} \\{{ $("


def test_no_value_is_in_the_program() -> None:
    program, variables = fill_command("echo {{v}} '{{v}}'", lambda _: "'; touch PWNED; '")

    assert "touch" not in program
    assert variables == {"WIZFLOW_V1": "'; touch PWNED; '"}


@pytest.mark.parametrize(
    ("value", "said"), [("a\0b", "NUL"), ("x" * 131_072, "128 KiB"), ("é" * 65_531, "128 KiB"), ("\ud800", "valid")]
)
def test_a_value_that_no_environment_can_hold_fails_and_is_named(value: str, said: str) -> None:
    with pytest.raises(FillError, match=r"\{\{v\}\}.*" + said):
        fill_command("echo {{v}}", lambda _: value)


def test_the_largest_value_is_128_kib_with_its_name() -> None:
    largest = "x" * (128 * 1024 - len("WIZFLOW_V1=") - 1)

    assert fill_command("echo {{v}}", lambda _: largest)[1] == {"WIZFLOW_V1": largest}


def test_a_command_that_is_refused_is_never_filled() -> None:
    with pytest.raises(FillError):
        fill_command("echo $(({{v}}))", lambda _: 1)


def test_a_lookup_error_passes() -> None:
    def missing(reference: Reference) -> None:
        raise FillError(f"no {reference.text}")

    with pytest.raises(FillError, match="no v"):
        fill_command("echo {{v}}", missing)


def test_the_shell_is_split_into_words() -> None:
    assert shell_argv("/bin/sh", "x y") == ("/bin/sh", "-c", "x y")
    assert shell_argv("bash -euo pipefail", "x") == ("bash", "-euo", "pipefail", "-c", "x")


@pytest.mark.parametrize("shell", ["", "bash '"])
def test_a_shell_that_cannot_be_read_is_refused(shell: str) -> None:
    with pytest.raises(FillError):
        shell_argv(shell, "x")


@pytest.mark.parametrize(
    "unit",
    ["$a[", "${", "$(", "((", "'", '"', "`", "<<E\n", "case x in ", "a[", "#\n", "{{v}}", "\\\n", "a[{{v}}", "'{{v}}"],
)
def test_a_hostile_command_is_read_in_linear_time(unit: str) -> None:
    start = time.monotonic()

    check_command("{{v}} " + unit * (200_000 // len(unit)), "bash")

    assert time.monotonic() - start < 5
