"""completion: scripts for bash, zsh and fish, made of the commands themselves."""

from argparse import Namespace

from swarmctl.command import Command, Parser
from swarmctl.http import Client
from swarmctl.main import GROUPS, SHORT, commands

_Words = dict[str, list[str]]


def _configure(parser: Parser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def _complete(_: Client, args: Namespace) -> int:
    words = command_words()
    print({"bash": _bash, "zsh": _zsh, "fish": _fish}[args.shell](words))
    return 0


def command_words() -> _Words:
    """Return what may follow each command line so far: `""`, `service`, `service create`."""
    found: _Words = {"": [*GROUPS, *SHORT]}
    for group in GROUPS:
        known = commands(group)
        found[group] = list(known)
        for name, command in known.items():
            found[f"{group} {name}"] = _flags(command)
    for name, group in SHORT.items():
        found[name] = _flags(commands(group, name)[name])
    return found


def _flags(command: Command) -> list[str]:
    parser = Parser("swarmctl")
    command.configure(parser)
    return parser.long_flags()


def _cases(words: _Words) -> str:
    lines = [f'        "{line}") words="{" ".join(known)}" ;;' for line, known in words.items()]
    return "\n".join(lines)


def _bash(words: _Words) -> str:
    return f"""_swarmctl() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" line="" words=""
    if [ "$COMP_CWORD" -gt 1 ]; then line="${{COMP_WORDS[1]}}"; fi
    case "$line" in
        {"|".join(GROUPS)})
            if [ "$COMP_CWORD" -gt 2 ]; then line="$line ${{COMP_WORDS[2]}}"; fi ;;
    esac
    case "$line" in
{_cases(words)}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
    if [ "${{#COMPREPLY[@]}}" -eq 0 ]; then COMPREPLY=($(compgen -f -- "$current")); fi
}}
complete -F _swarmctl swarmctl"""


def _zsh(words: _Words) -> str:
    return f"""#compdef swarmctl
_swarmctl() {{
    local line="" words_known="" current=$CURRENT
    if (( current > 2 )); then line="${{words[2]}}"; fi
    case "$line" in
        {"|".join(GROUPS)})
            if (( current > 3 )); then line="$line ${{words[3]}}"; fi ;;
    esac
    case "$line" in
{_cases(words).replace("words=", "words_known=")}
    esac
    compadd -- ${{=words_known}} || _files
}}
compdef _swarmctl swarmctl"""


def _fish(words: _Words) -> str:
    lines = ["complete -c swarmctl -f"]
    for line, known in words.items():
        depth = len(line.split()) + 1
        # Commands stand at one place of the line, flags anywhere behind their command.
        compare = "-eq" if line == "" or line in GROUPS else "-ge"
        condition = (
            f"set -l w (commandline -opc); test (count $w) {compare} {depth}; "
            f"and test (string join ' ' $w[1..{depth}]) = '{f'swarmctl {line}'.strip()}'"
        )
        for word in known:
            what = f"-l {word[2:]}" if word.startswith("--") else f"-a {word}"
            lines.append(f'complete -c swarmctl -n "{condition}" {what}'.replace("$w", r"\$w"))
    return "\n".join(lines)


COMMANDS = {"completion": Command("print a completion script", _configure, _complete)}
