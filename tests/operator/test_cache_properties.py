"""The cache against a model of an API server whose watches break, lag and repeat, and whose answers come late or never.

Within one watch the API server keeps the order of events. Everything else comes in any order.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, example, given, settings

from gllm_operator.kube.cache import Cache
from gllm_operator.names import DEPLOYMENT
from gllm_operator.objects import Object, ObjectKey, ref_of

SPACES, NAMES, DEPLOYMENTS = ("a", "b"), ("x", "y"), ("one", "two")
Where = tuple[str, str]


class Server:
    """Objects of one kind, and the events of a watch that selects by label."""

    def __init__(self) -> None:
        self.version = 1
        self.uids = 0
        self.objects: dict[Where, Object] = {}
        self.events: list[tuple[str, Object]] = []

    def write(self, where: Where, change: Callable[[Object], None] | None) -> Object | None:
        """Create or change an object; None deletes it. Returns what the API server answers."""
        old = self.objects.get(where)
        self.version += 1
        if change is None:
            if old is None:
                return None
            del self.objects[where]
            gone = self.at_version(old)
            self.tell("DELETED", old, gone)
            return gone
        new = copy.deepcopy(old) if old is not None else self.fresh(where)
        change(new)
        new = self.objects[where] = self.at_version(new)
        self.tell("ADDED" if old is None else "MODIFIED", old, new)
        return copy.deepcopy(new)

    def fresh(self, where: Where) -> Object:
        self.uids += 1
        metadata = {"namespace": where[0], "name": where[1], "uid": f"u{self.uids}", "labels": {DEPLOYMENT: "one"}}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}

    def at_version(self, one: Object) -> Object:
        return one | {"metadata": one["metadata"] | {"resourceVersion": str(self.version)}}

    def tell(self, type: str, old: Object | None, new: Object) -> None:
        was, is_now = old is not None and selected(old), selected(new) and type != "DELETED"
        if was or is_now:
            self.events.append(("DELETED" if not is_now else "MODIFIED" if was else "ADDED", copy.deepcopy(new)))

    def list(self, space: str | None) -> list[Object]:
        return [copy.deepcopy(one) for (at, _), one in self.objects.items() if space in (None, at) and selected(one)]


def selected(one: Object) -> bool:
    return "hidden" not in one["metadata"]["labels"]


class Client:
    """The informer's part: one list and watch for each scope, driven step by step."""

    def __init__(self, server: Server, scopes: tuple[str | None, ...], chance: random.Random) -> None:
        self.server, self.chance, self.scopes = server, chance, scopes
        self.cache = Cache()
        self.positions = dict.fromkeys(scopes, 0)
        self.listing: dict[str | None, tuple[list[Object], int]] = {}
        self.answers: list[Callable[[], None]] = []

    def deliver(self, scope: str | None, back: int = 0) -> bool:
        """Process the next event, or a list that was asked for. `back` events come once more."""
        if scope in self.listing:
            items, version = self.listing.pop(scope)
            self.cache.replace("v1", "Pod", scope, items, version)
            return True
        at = self.positions[scope] = max(0, self.positions[scope] - back)
        if at == len(self.server.events):
            return False
        self.positions[scope] += 1
        type, one = self.server.events[at]
        if scope in (None, one["metadata"]["namespace"]):
            (self.cache.remove if type == "DELETED" else self.cache.put)(copy.deepcopy(one))
        return True

    def list(self, scope: str | None) -> None:
        """The watch broke: events are lost, and a list is asked for, whose answer comes later."""
        self.listing[scope] = (self.server.list(scope), self.server.version)
        self.positions[scope] = len(self.server.events)

    def own_write(self, where: Where, change: Callable[[Object], None]) -> None:
        answer = self.server.write(where, change)
        if answer is not None and selected(answer):
            self.answers.append(lambda: self.cache.wrote(copy.deepcopy(answer)))

    def own_delete(self, where: Where, at_once: bool) -> None:
        old = self.server.objects.get(where)
        if old is None:
            return
        if at_once:
            self.server.write(where, None)
            self.answers.append(lambda: self.cache.deleted(where[0], ref_of(old), old["metadata"]["uid"]))
        else:
            self.own_write(where, lambda one: one["metadata"].update(deletionTimestamp="now"))
            self.server.write(where, None)

    def answer(self, keep: bool) -> None:
        if self.answers:
            self.chance.choice(self.answers)() if keep else self.answers.pop(self.chance.randrange(len(self.answers)))()

    def finish(self) -> None:
        """Deliver all that is left, with answers and repeats between."""
        while sum(self.deliver(scope) for scope in self.scopes):
            self.answer(keep=True)
            if self.chance.random() < 0.3:
                self.deliver(self.chance.choice(self.scopes), back=self.chance.randint(0, 4))
        for answer in self.answers:
            answer()

    def check(self) -> None:
        for space in SPACES:
            for name in DEPLOYMENTS:
                key = ObjectKey(space, name)
                found = {one["metadata"]["name"]: _identity(one) for one in self.cache.of(key)}
                truth = {
                    where[1]: _identity(one)
                    for where, one in self.server.objects.items()
                    if where[0] == space and selected(one) and one["metadata"]["labels"].get(DEPLOYMENT) == name
                }
                assert found == truth


def _identity(one: Object) -> tuple[str, str]:
    return one["metadata"]["uid"], one["metadata"]["resourceVersion"]


def label(name: str, value: str) -> Callable[[Object], None]:
    return lambda one: one["metadata"].update(labels=one["metadata"]["labels"] | {name: value})


def show(one: Object) -> None:
    one["metadata"]["labels"] = {DEPLOYMENT: one["metadata"]["labels"][DEPLOYMENT]}


WHERE = st.tuples(st.sampled_from(SPACES), st.sampled_from(NAMES))
ACTIONS = st.one_of(
    st.tuples(st.sampled_from(["touch", "touch", "delete", "delete", "own write", "own delete", "own end"]), WHERE),
    st.tuples(st.sampled_from(["hide", "show", "move"]), WHERE),
    st.tuples(st.sampled_from(["deliver", "deliver all", "deliver all", "list", "repeat"]), st.integers(0, 1)),
    st.tuples(st.sampled_from(["answer", "answer again", "lose answer"]), st.none()),
)


@settings(max_examples=300, suppress_health_check=list(HealthCheck), deadline=None)
@given(actions=st.lists(ACTIONS, min_size=15, max_size=60), all=st.booleans(), seed=st.integers(0, 2**16))
@example(  # The race: the end of the object is seen before the answer to its DELETE.
    actions=[("own write", ("a", "x")), ("deliver all", 0), ("own delete", ("a", "x")), ("deliver all", 0)],
    all=True,
    seed=0,
)
def test_the_cache_ends_as_the_server(actions: list[tuple[str, Any]], all: bool, seed: int) -> None:
    server = Server()
    client = Client(server, (None,) if all else SPACES, random.Random(seed))
    for scope in client.scopes:
        client.list(scope)
        client.deliver(scope)
    for action, argument in actions:
        act(server, client, action, argument)
    client.finish()
    client.check()


def act(server: Server, client: Client, action: str, argument: Any) -> None:
    scope = client.scopes[argument % len(client.scopes)] if isinstance(argument, int) else None
    match action:
        case "touch":
            server.write(argument, lambda one: None)
        case "delete":
            server.write(argument, None)
        case "hide" | "show" | "move" if argument in server.objects:
            changes = {"hide": label("hidden", "yes"), "show": show, "move": label(DEPLOYMENT, "two")}
            server.write(argument, changes[action])
        case "own write":
            client.own_write(argument, show)
        case "own delete" | "own end":
            client.own_delete(argument, at_once=action == "own end")
        case "deliver":
            client.deliver(scope)
        case "deliver all":
            while client.deliver(scope):
                pass
        case "list":
            client.list(scope)
        case "repeat":
            client.deliver(scope, back=3)
        case "answer" | "answer again":
            client.answer(keep=action == "answer again")
        case "lose answer" if client.answers:
            client.answers.pop()
