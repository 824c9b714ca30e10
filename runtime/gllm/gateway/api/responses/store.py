"""Stored responses, for `previous_response_id`, item references and GET. They are kept in memory only."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from gllm.gateway.protocol.errors import ApiError, bad_request
from gllm.gateway.protocol.item_schema import Item

MAX_RESPONSES = 4096
MAX_BYTES = 128 * 1024 * 1024
_encode = msgspec.json.Encoder().encode


class StoredResponse:
    """A response and its conversation as JSON, which takes a fraction of the memory of the objects."""

    def __init__(self, body: bytes, history: tuple[bytes, ...], own_input: Sequence[Item], output: Sequence[Item]):
        self.body = body
        self.input = (*history, *(_encode(item) for item in own_input))
        """All items of the prompt, the items of earlier responses first."""
        self.conversation = (*self.input, *(_encode(item) for item in output))
        self.own = {item["id"]: index for index, item in enumerate((*own_input, *output), len(history))}
        """Index in `conversation` of each item that is new with this response, by its id."""
        # Items shared with earlier responses count for each response, so the bound still holds when those are dropped.
        self.size = len(body) + sum(len(item) for item in self.conversation)


class ResponseStore:
    """Keeps the most recently used responses, within bounds on their number and bytes."""

    def __init__(self, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES) -> None:
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, StoredResponse] = OrderedDict()
        self._bytes = 0
        self._holders: dict[str, str] = {}
        """Id of an item to the id of the first response that has it."""

    def add(self, response_id: str, stored: StoredResponse) -> None:
        self._kept[response_id] = stored
        self._bytes += stored.size
        for item_id in stored.own:
            self._holders.setdefault(item_id, response_id)
        while len(self._kept) > self._max_responses or self._bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, response_id: str) -> None:
        stored = self._kept.pop(response_id)
        self._bytes -= stored.size
        for item_id in stored.own:
            if self._holders.get(item_id) == response_id:
                del self._holders[item_id]

    def get(self, response_id: str) -> StoredResponse:
        """Return a stored response. Raises ApiError 404."""
        stored = self._kept.get(response_id)
        if stored is None:
            raise ApiError(
                404, f"Response with id '{response_id[:64]}' not found.", param="response_id", code="response_not_found"
            )
        self._kept.move_to_end(response_id)
        return stored

    def delete(self, response_id: str) -> None:
        """Delete a response. Later responses keep their copy of the conversation. Raises ApiError 404."""
        self.get(response_id)
        self._drop(response_id)

    def history(self, previous_response_id: str | None) -> tuple[bytes, ...]:
        """Return the conversation up to and including that response.

        Raises ApiError 404, or 400 for an id of another kind.
        """
        if previous_response_id is None:
            return ()
        if not previous_response_id.startswith("resp_"):
            raise bad_request("previous_response_id", "an id of a response begins with 'resp_'", "invalid_value")
        try:
            return self.get(previous_response_id).conversation
        except ApiError:
            raise ApiError(
                404,
                f"Previous response with id '{previous_response_id[:64]}' not found.",
                param="previous_response_id",
                code="previous_response_not_found",
            ) from None

    def item(self, item_id: str) -> Item:
        """Return an item of a stored response. Raises ApiError 404."""
        holder = self._holders.get(item_id)
        if holder is not None:
            stored = self.get(holder)
            found: Item = msgspec.json.decode(stored.conversation[stored.own[item_id]])
            return found
        raise ApiError(
            404,
            f"Item with id '{item_id[:64]}' not found; items are kept with stored responses only.",
            param="input",
            code="item_not_found",
        )


def read_items(encoded: Sequence[bytes]) -> list[Item]:
    return [msgspec.json.decode(item) for item in encoded]
