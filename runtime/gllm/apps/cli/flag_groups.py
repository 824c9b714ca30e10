"""Groups of flags that several commands have: a dataclass whose fields become flags."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints


def takes_groups(function: Callable[..., None]) -> Callable[..., None]:
    """Give a typer command the flags of its parameters that are groups.

    A group is a frozen dataclass. Each field is annotated as a parameter of a typer command is, and has a default.

    @app.command()
    @takes_groups
    def serve(load: LoadFlags, *, timeout: float = 1.0) -> None: ...
    """
    own = inspect.signature(function, eval_str=True).parameters
    groups: dict[str, Any] = {
        name: parameter.annotation for name, parameter in own.items() if dataclasses.is_dataclass(parameter.annotation)
    }
    parameters: list[inspect.Parameter] = []
    for name, parameter in own.items():
        if name not in groups:
            parameters.append(parameter)
            continue
        hints = get_type_hints(groups[name], include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
            )
            for field in dataclasses.fields(groups[name])
        ]
    parameters.sort(key=lambda parameter: parameter.kind)  # Positional ones first; the sort is stable.

    def command(*args: Any, **values: Any) -> None:
        made = {
            name: group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})
            for name, group in groups.items()
        }
        function(*args, **values, **made)

    command.__name__ = function.__name__
    command.__doc__ = function.__doc__
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    vars(command)["__signature__"] = inspect.Signature(parameters)
    return command
