"""A setting as a flag of the command line, and commands that take such flags."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import msgspec
import typer

from gllm.config import EngineConfig, GatewayConfig, ModelSource, NodesConfig


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One setting of `ModelSource`, `EngineConfig`, `GatewayConfig` or `NodesConfig` on the command line."""

    owner: type[ModelSource] | type[EngineConfig] | type[GatewayConfig] | type[NodesConfig]
    name: str
    """The setting's field."""
    panel: str
    help: str
    spelling: str = ""
    """Empty: the field's name in kebab case."""
    least: float | None = None
    most: float | None = None
    shown_default: str | bool = True
    parse: Callable[[str], Any] | None = None
    check: Callable[..., Any] | None = None
    envvar: str | None = None
    metavar: str | None = None
    optional: bool = False
    """Whether the value is None if the flag is not given."""

    @property
    def option(self) -> str:
        """The declaration for typer: `--name`, or `--name/--no-name`."""
        return self.spelling or "--" + self.name.replace("_", "-")

    @property
    def default(self) -> Any:
        """The value that a command gets when the flag is not given."""
        if self.optional:
            return None
        return next(field.default for field in msgspec.structs.fields(self.owner) if field.name == self.name)

    def parameter(self) -> inspect.Parameter:
        """Return the function parameter from which typer makes the flag, with the type and default of the setting."""
        default = self.default
        option = typer.Option(
            self.option,
            help=self.help,
            rich_help_panel=self.panel,
            min=self.least,
            max=self.most,
            show_default=self.shown_default,
            parser=self.parse,
            metavar=self.metavar or ("SIZE" if self.parse is not None else None),
            callback=self.check,
            envvar=self.envvar,
            show_envvar=self.envvar == "GLLM_API_KEY",
        )
        kind: Any = get_type_hints(self.owner)[self.name]
        if self.optional:
            kind = kind | None
        elif self.parse is not None and not isinstance(default, int):
            kind, default = str, ""  # the argument of the parser
        annotation = Annotated[kind, option]
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def takes_flags(*flags: Flag) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a typer command these flags; their values reach its parameter `flags` as a dict, for `make_config`.

    @app.command()
    @takes_flags(*ENGINE_FLAGS)
    def chat(model: ModelArgument = "", *, flags: dict[str, Any]) -> None: ...
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(function, eval_str=True).parameters.values()
        parameters = [flag.parameter() for flag in flags]
        parameters += [parameter for parameter in own if parameter.name != "flags"]
        parameters.sort(key=lambda parameter: parameter.kind)  # Positional ones first; the sort is stable.

        def command(**values: Any) -> None:
            taken = {flag.name: values.pop(flag.name) for flag in flags}
            function(**values, flags=taken)

        command.__name__ = function.__name__
        command.__doc__ = function.__doc__
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        vars(command)["__signature__"] = inspect.Signature(parameters)
        return command

    return decorate
