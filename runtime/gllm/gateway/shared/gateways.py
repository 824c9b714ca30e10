"""The models of one HTTP server: each has its own `Gateway`, and requests name the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gllm.engine.client.engines import RemoteEngines
from gllm.gateway.protocol.errors import ApiError, bad_request
from gllm.gateway.shared.gateway import Gateway


class Gateways:
    """At least one model. The settings of the server are those of the first."""

    def __init__(self, models: Sequence[Gateway]) -> None:
        self._models = tuple(models)
        self._by_name = {name: one for one in models for name in one.model.names}
        self._settled = False
        """Whether no model had to be waited for once."""

    def __iter__(self) -> Iterator[Gateway]:
        return iter(self._models)

    @property
    def first(self) -> Gateway:
        return self._models[0]

    def of(self, name: str | None) -> Gateway:
        """Return the gateway of the model that a request names. If there is only one model, the name may be left out.

        Raises ApiError 404 for an unknown name, and 400 if a name is needed.
        """
        if name:
            found = self._by_name.get(name)
            if found is not None:
                return found
            raise ApiError(
                404,
                f"The model '{name}' does not exist; this server has {self._listed()}.",
                param="model",
                code="model_not_found",
            )
        if len(self._models) == 1:
            return self.first
        raise bad_request("model", f"Name the 'model': this server has {self._listed()}.", "missing_required_parameter")

    def shown(self, name: str | None) -> Gateway:
        """Return the gateway of a model for a route that only shows something: without a name, the first."""
        return self.of(name) if name else self.first

    def _listed(self) -> str:
        return ", ".join(f"'{one.model.name}'" for one in self._models)

    # --- the state of the server ---------------------------------------------------------------------

    @property
    def live(self) -> int:
        """Choices that are admitted and not finished."""
        return sum(one.admission.live for one in self._models)

    def drain(self) -> None:
        """Let new connections go to another server."""
        for one in self._models:
            one.draining = True

    def unhealthy(self) -> str | None:
        """Return why the process should be restarted, None if it is healthy."""
        return next((problem for one in self._models if (problem := one.unhealthy()) is not None), None)

    def not_ready(self, recovering: bool = False) -> str | None:
        """Return why new requests should go to another server, None if they should not.

        One model that is ready is enough: another one without engines must not take this one with it. Only a gateway
        that starts waits for each model whose engines serve gateways of another version, as in a rollout.
        """
        problems = {one.model.name: one.not_ready(recovering) for one in self._models}
        self._settled = self._settled or all(map(_is_settled, self._models))
        if self._settled and None in problems.values():
            return None
        several = len(self._models) > 1
        found = [f"{name}: {text}" if several else text for name, text in problems.items() if text is not None]
        return "; ".join(found) or None

    def states(self, recovering: bool) -> dict[str, dict[str, object]]:
        """Return the state of each model in front of engines on other machines, by its name; empty for a group."""
        found: dict[str, dict[str, object]] = {}
        for one in self._models:
            idle = one.idle_seconds()
            if idle is not None:
                problem = one.not_ready(recovering)
                state = found[one.model.name] = {"ready": problem is None, "idle_seconds": round(idle, 3)}
                if problem is not None:
                    state["reason"] = problem
        return found


def _is_settled(gateway: Gateway) -> bool:
    engine = gateway.engine
    return not isinstance(engine, RemoteEngines) or engine.hello is not None or engine.may_come
