"""``r0 completion bash|zsh|fish``: a completion script for commands, keys, and values that are words.

The script is generated from the configuration classes and runs without Python.
"""

from __future__ import annotations

from r0.command_line import OPTIONS
from r0.config.commands import CompletionConfig
from r0.config.describe import choices, keys

BASH = r"""# Completion of r0. In ~/.bashrc: source <(r0 completion bash)
_r0_words() {
  case "$1" in
%(cases)s
  esac
}
_r0() {
  local current="${COMP_WORDS[COMP_CWORD]}" command="${COMP_WORDS[1]}" before="" key="" reply
  local IFS=$' \t\n'
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "$(_r0_words "")" -- "$current"))
    return
  fi
  if [ "$COMP_CWORD" -gt 2 ] && [ -n "$(_r0_words "$command ${COMP_WORDS[2]}")" ]; then
    command="$command ${COMP_WORDS[2]}"
  fi
  # bash splits words at "=", zsh does not.
  if [ "$current" = "=" ]; then
    key="${COMP_WORDS[COMP_CWORD-1]}" current=""
  elif [ "${COMP_WORDS[COMP_CWORD-1]}" = "=" ]; then
    key="${COMP_WORDS[COMP_CWORD-2]}"
  elif [ "${current#*=}" != "$current" ]; then
    key="${current%%%%=*}" before="${current%%%%=*}=" current="${current#*=}"
  fi
  if [ -n "$key" ]; then
    local values="$(_r0_words "$command $key=")"
    if [ -n "$values" ]; then
      values=$(compgen -W "$values" -- "$current")
    else
      values=$(compgen -f -- "$current")
    fi
    for reply in $values; do COMPREPLY+=("$before$reply"); done
  else
    COMPREPLY=($(compgen -W "$(_r0_words "$command")" -- "$current") $(compgen -f -- "$current"))
  fi
  case "${COMPREPLY[0]}" in *=) compopt -o nospace 2>/dev/null ;; esac
  [ -e "${COMPREPLY[0]}" ] && compopt -o filenames 2>/dev/null
  return 0
}
complete -F _r0 r0
"""

ZSH = """# Completion of r0. In ~/.zshrc: source <(r0 completion zsh)
autoload -U +X compinit && compinit
autoload -U +X bashcompinit && bashcompinit
"""

FISH = """# Completion of r0. In ~/.config/fish/config.fish: r0 completion fish | source
function __r0_command
  set -l words (commandline -opc)
  set -e words[1]
  if contains -- "$words[1] $words[2]" %(pairs)s
    echo "$words[1] $words[2]"
  else
    echo "$words[1]"
  end
end
complete -c r0 -e
%(lines)s
"""


def run(config: CompletionConfig, dry_run: bool) -> int:
    """Print the script of the given shell."""
    scripts = {"bash": bash, "zsh": zsh, "fish": fish}
    print(scripts[config.shell](), end="")
    return 0


def words() -> dict[str, list[str]]:
    """Completions by context: an empty command line, a command (``stage_a``), or a key of a command (``stage_a algo=``)."""
    from r0.launch import COMMANDS

    found: dict[str, list[str]] = {"": list(dict.fromkeys(name.split()[0] for name in COMMANDS))}
    for name, command in COMMANDS.items():
        below = [other.split()[1] for other in COMMANDS if other.startswith(f"{name} ")]
        at_places = [word for place in command.positionals for word in choices(command.config.model_fields[place].annotation)]
        own = [(path, field) for path, field in keys(command.config) if path not in command.positionals or not at_places]
        found[name] = [*below, *at_places, *(f"{path}=" for path, _ in own), *OPTIONS]
        found |= {f"{name} {path}=": list(values) for path, field in own if (values := choices(field.annotation))}
    return found


def bash() -> str:
    """The script for bash."""
    cases = "\n".join(f'    "{place}") echo "{" ".join(following)}" ;;' for place, following in words().items())
    return BASH % {"cases": cases}


def zsh() -> str:
    """The script for zsh: that of bash, without a space after all completions (zsh cannot omit it after ``key=`` only)."""
    return ZSH + bash().replace("complete -F", "complete -o nospace -F")


def fish() -> str:
    """The script for fish."""
    from r0.launch import COMMANDS

    lines = [
        f"complete -c r0 -f -n 'test -z (__r0_command)' -a '{name}' -d '{_summary(COMMANDS[name].summary)}'"
        for name in COMMANDS
        if " " not in name
    ]
    everything = words()
    for name in COMMANDS:
        with_values = [
            f"{word}{value}"
            for word in everything[name]
            for value in (everything.get(f"{name} {word}", [""]) if word.endswith("=") else [""])
        ]
        lines.append(f"complete -c r0 -n 'test (__r0_command) = \"{name}\"' -a '{' '.join(with_values)}'")
    pairs = " ".join(f'"{name}"' for name in COMMANDS if " " in name)
    return FISH % {"pairs": pairs, "lines": "\n".join(lines)}


def _summary(text: str) -> str:
    return text.replace("'", "\\'")
