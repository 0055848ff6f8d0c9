"""The words of a command line: which of them is the command, which are options, files and keys."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Sequence
from typing import Any, get_args

from r0.config import Section
from r0.config.suggest import nearest_command
from r0.errors import UserError

HELP = ("-h", "--help", "help")
OPTIONS = ("--dry-run", "--gpu-memory", "--help")  # all others are keys


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether a command line, without its command, asks for the command's keys: ``--help`` anywhere, or ``help`` alone."""
    return "-h" in arguments or "--help" in arguments or (list(arguments) == ["help"] and not os.path.exists("help"))


def take_command(arguments: list[str], commands: Collection[str]) -> str:
    """Remove and return the command at the beginning of a command line, of one or two words (``esci eval``).

    Raises:
        UserError: there is no such command.
    """
    name = " ".join(arguments[:2])
    if name not in commands:
        name = arguments[0]
    if name not in commands:
        near = nearest_command(arguments[:2], commands)
        hint = f"did you mean {near}?" if near else f"commands: {', '.join(commands)}"
        raise UserError(f"unknown command {name}; {hint}")
    del arguments[: len(name.split())]
    below = [command.partition(" ")[2] for command in commands if command.startswith(f"{name} ")]
    if arguments and not os.path.isfile(arguments[0]) and (near := nearest_command(arguments[:1], below)):
        raise UserError(f"unknown command {name} {arguments[0]}; did you mean {name} {near}?")
    return name


def take_gpu_memory(arguments: list[str]) -> float | None:
    """Remove ``--gpu-memory`` and return its value in GB.

    Raises:
        UserError: it names no positive number.
    """
    for place, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option.replace("_", "-") != "--gpu-memory":
            continue
        text = value if equals else "".join(arguments[place + 1 : place + 2])
        del arguments[place : place + (1 if equals else 2)]
        try:
            found = float(text)
        except ValueError:
            found = math.nan
        if not 0 < found < math.inf:
            raise UserError(f"--gpu-memory: give the size of a card in GB, such as --gpu-memory 80, not {text!r}")
        return found
    return None


def split(section: type[Section], arguments: list[str]) -> tuple[list[str], list[str], bool]:
    """The positionals, the keys as ``key=value``, and whether it is a dry run. ``section``: the command's configuration class.

    Raises:
        UserError: a word is neither an option nor a key nor a file, or the value of a key is missing.
    """
    positionals, overrides, dry_run = [], [], False
    _check_words(arguments)
    while arguments:
        argument = arguments.pop(0)
        if argument in ("--dry-run", "--dry_run"):
            dry_run = True
        elif argument.startswith("--"):
            overrides.append(_option(section, argument, arguments))
        elif "=" not in argument or _is_place(section, argument):
            positionals.append(argument)
        else:
            overrides.append(argument)
    return positionals, overrides, dry_run


def _is_place(section: type[Section], argument: str) -> bool:
    """Whether a word with an equals sign is a file, or a folder such as ``runs/lr=1``, rather than a key and its value. A
    folder that is called like a key and its value (of a run with ``output=seed=1``) is meant by ``./seed=1``.
    """
    first = argument.partition("=")[0].partition(".")[0]
    is_key = first in section.model_fields or first in getattr(section, "ALIASES", {})
    return os.path.isfile(argument) or (not is_key and os.path.exists(argument))


def _option(section: type[Section], argument: str, following: list[str]) -> str:
    """``--some-key V`` as ``some_key=V``; the value is taken off ``following``.

    Raises:
        UserError: the value is missing.
    """
    key, equals, value = argument[2:].partition("=")
    key = key.replace("-", "_")
    key = getattr(section, "ALIASES", {}).get(key, key)
    field = section.model_fields.get(key)
    if not equals and field is not None and (field.annotation is bool or bool in get_args(field.annotation)):
        value = following.pop(0) if following and _is_value(field.annotation, following[0]) else "true"
    elif not equals:
        if not following or following[0].startswith("--"):
            raise UserError(f"{argument}: a value is missing; write {argument} VALUE")
        value = following.pop(0)
    return f"{key}={value}"


def _is_value(annotation: Any, word: str) -> bool:
    """Whether the word behind a key that can be true is its value, and not the next file or key: a range of steps is too."""
    return word in ("true", "false", "auto") or (str in get_args(annotation) and word[:1].isdigit() and not os.path.isfile(word))


def _check_words(arguments: Sequence[str]) -> None:
    """Refuse words that are neither keys nor options nor files: other spellings of options, and blanks around an equals sign.

    Raises:
        UserError: with the right spelling.
    """
    for before, argument, after in zip(["", *arguments], arguments, [*arguments[1:], ""], strict=False):
        if argument.startswith("=") or (argument.endswith("=") and after and not _is_word_of_its_own(after)):
            key, value = (before, argument[1:] or after) if argument.startswith("=") else (argument[:-1], after)
            raise UserError(f"{argument}: write a key and its value without blanks around the equals sign: {key}={value}")
        plain = argument.lower().replace("_", "-").strip("-").replace("-", "")
        meant = next((option for option in OPTIONS if option.replace("-", "") == plain), None)
        if argument == "-n":
            meant = "--dry-run"
        if argument.startswith("-") and meant is not None and argument.replace("_", "-") != meant:
            raise UserError(f"{argument}: unknown option; did you mean {meant}?")
        if argument.startswith("-") and not argument.startswith("--") and not before.startswith("--"):
            raise UserError(f"{argument}: unknown option; the options are {', '.join(OPTIONS)}, and each key as --key VALUE")


def _is_word_of_its_own(argument: str) -> bool:
    return "=" in argument or argument.startswith("-") or os.path.isfile(argument)
