"""Stored responses: continued, retrieved, deleted."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import openai
import pytest
from gateway_fakes import RunningServer
from openai.types.responses.response_item_list import ResponseItemList
from responses_checks import able_server, create, prompt_of, refused, says, stream


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with able_server() as running:
        yield running


def test_previous_response(client: openai.OpenAI, http: httpx.Client, server: RunningServer) -> None:
    first = client.responses.create(model="tiny", input="My name is Ann", instructions="Rules")
    says(server, "Ann")
    second = client.responses.create(model="tiny", input="Who am I?", previous_response_id=first.id, store=False)
    # Instructions are not carried over.
    assert prompt_of(server) == "<user>My name is Ann\n<assistant>Hello world\n<user>Who am I?\n<assistant>"
    assert second.previous_response_id == first.id
    assert client.responses.retrieve(first.id) == first
    with pytest.raises(openai.NotFoundError, match="Response with id"):
        client.responses.retrieve(second.id)
    # A reference to a stored item can replace the item.
    create(http, input=[{"type": "item_reference", "id": first.output[0].id}, {"id": first.output[0].id}])
    assert prompt_of(server) == "<assistant>Hello world\n<assistant>Hello world\n<assistant>"
    client.responses.delete(first.id)
    error = refused(http, previous_response_id=first.id)
    assert (error["status"], error["param"], error["code"]) == (
        404,
        "previous_response_id",
        "previous_response_not_found",
    )
    assert refused(http, previous_response_id="bad")["status"] == 400
    # An id from a client does not refer to an item: another client could guess it.
    create(http, input=[{"id": "msg_mine", "role": "user", "content": "secret"}])
    assert refused(http, input=[{"type": "item_reference", "id": "msg_mine"}])["code"] == "item_not_found"


def test_previous_response_streamed(http: httpx.Client, server: RunningServer) -> None:
    response = stream(http)[-1]["response"]
    assert http.get(f"/v1/responses/{response['id']}").json() == response
    stream(http, input="More", previous_response_id=response["id"])
    assert prompt_of(server) == "<user>Hi\n<assistant>Hello world\n<user>More\n<assistant>"


def test_input_items(client: openai.OpenAI, http: httpx.Client) -> None:
    first = client.responses.create(model="tiny", input="one")
    second = client.responses.create(model="tiny", input="two", previous_response_id=first.id)
    path = f"/v1/responses/{second.id}/input_items"
    page = http.get(path).json()
    ResponseItemList.model_validate(page, strict=True)
    assert [item["content"][0]["text"] for item in page["data"]] == ["two", "Hello world", "one"]
    assert page["has_more"] is False
    page = http.get(path, params={"order": "asc", "limit": 1}).json()
    assert (page["data"][0]["content"][0]["text"], page["has_more"]) == ("one", True)
    following = http.get(path, params={"order": "asc", "after": page["last_id"]}).json()
    assert [item["role"] for item in following["data"]] == ["assistant", "user"]
    assert len(list(client.responses.input_items.list(second.id, limit=1))) == 3
    for params in ({"order": "up"}, {"limit": "0"}, {"limit": "x"}, {"after": "msg_none"}):
        assert http.get(path, params=params).status_code == 400


def test_cancel(client: openai.OpenAI) -> None:
    response = client.responses.create(model="tiny", input="Hi")
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
        client.responses.cancel(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.cancel("resp_none")
    with pytest.raises(openai.BadRequestError, match="stream"):
        list(client.responses.retrieve(response.id, stream=True))
