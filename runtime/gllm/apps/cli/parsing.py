"""Translate arguments before typer parses them: flags of vLLM and SGLang get their names here, underscores become
dashes, and the error for an unknown flag names the flag that was probably meant."""

from __future__ import annotations

import difflib
import os
import re
from collections import deque
from typing import Any

import typer.core

from gllm.apps.compat_flags import ANY, COMPAT_FLAGS, MODEL, CompatFlag, canonical, dashed, find

_LEAST_ALIKE = 0.8
"""Ratio of difflib from which a known flag is suggested for an unknown one."""
_LEAST_ALIKE_WORD = 0.75
"""Minimum ratio of each word to a word of the known flag, which may have more words: --log-format is not
--load-format."""
_VERY_ALIKE = 0.9
"""From this ratio on, single words are not compared."""


_SEVERAL = {"--goodput": r"[a-z0-9]+:[0-9.]+", "--metadata": r"\w[^=]*=.*", "--header": r"\w[^=]*=.*"}
"""Flags that are repeated, and the form of their values."""
_COUNTS = ("--max-model-len", "--max-prefill-tokens")
_UNITS = {"k": 1000, "K": 2**10, "m": 10**6, "M": 2**20}


class Command(typer.core.TyperCommand):
    """A subcommand with flags of its own."""

    compat_flags = False
    """Whether to translate the flags of vLLM and SGLang."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        options = {
            name: not getattr(option, "is_flag", False)
            for option in self.get_params(ctx)
            for name in (*option.opts, *option.secondary_opts)
            if name.startswith("-")
        }
        try:
            args = translate(args, options, compat_flags=self.compat_flags)
        except ValueError as error:
            ctx.fail(str(error))
        return super().parse_args(ctx, args)


class EngineCommand(Command):
    """A subcommand with MODEL and the settings of an engine."""

    compat_flags = True


def translate(args: list[str], options: dict[str, bool], *, compat_flags: bool) -> list[str]:
    """Return the arguments with the names in `options`, which maps a name to whether a value follows.

    Raises ValueError for a flag that is unknown or has no counterpart here.
    """
    done: list[str] = []
    words = deque(args)
    has_model = False
    while words:
        word = words.popleft()
        if word == "--":
            return [*done, word, *words]
        name, equals, value = _optimization(word).partition("=") if compat_flags else word.partition("=")
        name = dashed(name)
        row = find(name) if compat_flags else None
        if row is not None and _is_switch(row, options):
            name, equals, value = _switched(name, equals, value, words)
            row = find(name)
        if not name.startswith("-"):
            done.append(word)
            has_model = True
        elif name == "--enable-expert-parallel" and row is not None:
            done += ["--ep", _ranks_of_a_stage(args)]
        elif row is not None and row.ours in (MODEL, *options):
            done += _renamed(row, name, equals, value, words, options)
            if row.ours == "--served-model-name" and has_model and "--served-model-alias" in options:
                done += _more_names(words)
            has_model = has_model or row.ours == MODEL
        elif row is not None and not row.ours and name not in options:
            _leave_out(row, name, equals, value, words)
        elif compat_flags and name not in options and _is_off(name, options):
            pass  # Off is the default of vLLM and SGLang.
        elif name in options or not name.startswith("--"):
            done.append(name + equals + value)
            if options.get(name) and not equals and words:
                done.append(words.popleft())
            while name in _SEVERAL and words and re.fullmatch(_SEVERAL[name], words[0]):
                done += [name, words.popleft()]  # vLLM writes all values after one flag.
        else:
            raise ValueError(f"No such option: {name}{_suggestion(name, options, compat_flags=compat_flags)}")
    return done


def _renamed(
    row: CompatFlag, name: str, equals: str, value: str, words: deque[str], options: dict[str, bool]
) -> list[str]:
    if row.ours != MODEL and not options[row.ours]:
        return [row.ours + equals + value]
    if not equals:
        if not words:
            raise ValueError(f"Option {name!r} requires an argument.")
        value = words.popleft()
    value = row.values.get(value, value)
    if row.ours in _COUNTS:
        value = _count(value)
    if row.ours == MODEL:
        return [value]
    if name.endswith("-init-addr"):
        host, port = _address(name, value)
        return [row.ours, host, "--master-port", port]
    return [row.ours, value]


def _optimization(word: str) -> str:
    """Return `-O=3` for vLLM's `-O3`; any other word unchanged."""
    return re.sub(r"^-O(?=\d$)", "-O=", word)


def _is_switch(row: CompatFlag, options: dict[str, bool]) -> bool:
    """Whether the flag takes no value; False for a refused flag, for which this is not known."""
    if row.ours:
        return not options.get(row.ours, True)
    return row.ignored == ()


def _is_off(name: str, options: dict[str, bool]) -> bool:
    """Whether the flag turns off a switch that is off by default (such as --no-enforce-eager) or is refused."""
    row = find("--" + name.removeprefix("--no-")) if name.startswith("--no-") else None
    if row is None:
        return False
    return _is_switch(row, options) or "--enable-expert-parallel" in row.names or (not row.ours and row.ignored is None)


def _switched(name: str, equals: str, value: str, words: deque[str]) -> tuple[str, str, str]:
    """Translate a switch with a value, as in older vLLM: `--flag=false` and `--flag False` are --no-flag."""
    if not equals and words and words[0].lower() in ("true", "false"):
        value = words.popleft()
    if value.lower() == "false":
        return f"--no-{name.removeprefix('--')}", "", ""
    return (name, "", "") if value.lower() == "true" else (name, equals, value)


def _address(name: str, value: str) -> tuple[str, str]:
    """Return host and port of HOST:PORT or [ADDRESS]:PORT. Raises ValueError."""
    match = re.fullmatch(r"(?:tcp://)?(?:\[(?P<address>[^]]+)\]|(?P<host>[^:]+)):(?P<port>\d+)", value)
    if match is None:
        raise ValueError(f"{name} {value}: write HOST:PORT, or [ADDRESS]:PORT for IPv6.")
    return match["address"] or match["host"], match["port"]


def _count(value: str) -> str:
    """Translate vLLM's 32k (1000) and 32K (1024); return anything else unchanged."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmM])", value)
    return value if match is None else str(round(float(match[1]) * _UNITS[match[2]]))


def _more_names(words: deque[str]) -> list[str]:
    """Take the further names of vLLM's `MODEL --served-model-name ONE OTHER ...`; return them as an alias flag."""
    names = []
    while words and not words[0].startswith("-"):
        names.append(words.popleft())
    return ["--served-model-alias", ",".join(names)] if names else []


def _leave_out(row: CompatFlag, name: str, equals: str, value: str, words: deque[str]) -> None:
    """Pass over a flag that changes nothing here, with its value. Raises ValueError if it would change something."""
    if row.ignored is None:
        raise ValueError(f"{name} does not exist here: {row.note}.")
    if not row.ignored:
        return
    if not equals:
        value = words.popleft() if words else ""
    if row.ignored != ANY and value not in row.ignored:
        raise ValueError(f"{name} {value} is not supported: {row.note}.")


def _ranks_of_a_stage(args: list[str]) -> str:
    """Return the value of --tp, under any of its names."""
    for index, word in enumerate(args):
        name, equals, value = word.partition("=")
        if canonical(name) == "--tp":
            return value if equals else "".join(args[index + 1 : index + 2])
    return os.environ.get("GLLM_TP") or "1"


def _suggestion(name: str, options: dict[str, bool], *, compat_flags: bool) -> str:
    """Return the end of the error; empty unless exactly one flag is most similar."""
    similar = {option: option for option in options}
    if compat_flags:
        similar |= {other: row.ours for row in COMPAT_FLAGS if row.ours in options for other in row.names}
    alike: dict[str, float] = {}
    for known, option in similar.items():
        alike[option] = max(alike.get(option, 0.0), _likeness(name.strip("-"), known.strip("-")))
    best = max(alike.values(), default=0.0)
    found = [option for option, likeness in alike.items() if likeness == best]
    return f" (did you mean {found[0]}?)" if best >= _LEAST_ALIKE and len(found) == 1 else ""


def _likeness(typed: str, known: str) -> float:
    likeness = _ratio(typed, known)
    words, others = typed.split("-"), known.split("-")
    same_words = len(words) <= len(others) and all(
        max(_ratio(word, other) for other in others) >= _LEAST_ALIKE_WORD for word in words
    )
    return likeness if same_words or likeness >= _VERY_ALIKE else 0.0


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
