"""The bodies of POST /generate and POST /v1/score."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from gllm.gateway.protocol.completion_schema import MAX_PROMPT_TOKENS, MAX_PROMPTS, TokenIds
from gllm.gateway.protocol.constraints import Grammar, SchemaOrText
from gllm.gateway.protocol.generation_schema import Stop
from gllm.gateway.protocol.schema import MAX_INT, Body, Label, TokenId, by_type
from gllm.sampling_params import MAX_LOGPROB_TOKEN_IDS, MAX_LOGPROBS, MAX_STOP_TOKEN_IDS, ParameterError

MAX_JOINED_CHARS = 16 * 2**20
"""The query is repeated for each item: without a limit a small body could take much memory."""


def _kind(value: Any) -> str | None:
    """Return the tag of a union's member, chosen by the first item: a batch is a list of lists or of texts."""
    if not isinstance(value, list):
        return "(text)" if isinstance(value, str) else None
    first = value[0] if value else 0
    if isinstance(first, list):
        return "list[list[int]]"
    return "list[str]" if isinstance(first, str) else "list[int]"


def _by_kind(expected: str) -> Discriminator:
    return Discriminator(_kind, custom_error_type="wrong_type", custom_error_message=f"Input should be {expected}")


_Texts = Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
_ListsOfIds = Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
_AskedIds = Annotated[
    list[Annotated[int, Field(ge=-MAX_INT, le=MAX_INT)]], Field(max_length=MAX_LOGPROB_TOKEN_IDS, fail_fast=True)
]
"""Ids of any sign. They are compared with the vocabulary later; that error says that they are not in it."""


class NativeSampling(Body):
    """`sampling_params` of /generate. The completion that is made of them checks most ranges."""

    max_new_tokens: Annotated[int, Field(ge=0, le=MAX_INT)] | None = None
    min_new_tokens: Annotated[int, Field(ge=0, le=MAX_INT)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    sampling_seed: int | None = None
    logit_bias: dict[str, float] | None = None
    stop: Stop | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOP_TOKEN_IDS, fail_fast=True)] | None = None
    stop_regex: Stop | None = None
    no_stop_trim: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    n: int | None = None
    json_schema: SchemaOrText | None = None
    regex: Grammar | None = None
    ebnf: Grammar | None = None


class GenerateRequest(Body):
    """Texts or token ids to continue. The answer to one text with n = 1 is an object, any other is a list."""

    text: (
        Annotated[
            Annotated[str, Tag("(text)")] | Annotated[_Texts, Tag("list[str]")],
            by_type("a string or a list of strings", {str: "(text)", list: "list[str]"}),
        ]
        | None
    ) = None
    input_ids: (
        Annotated[
            Annotated[TokenIds, Tag("list[int]")] | Annotated[_ListsOfIds, Tag("list[list[int]]")],
            _by_kind("token ids or a list of lists of token ids"),
        ]
        | None
    ) = None
    model: Label | None = None
    sampling_params: NativeSampling | None = None
    return_logprob: bool | None = None
    logprob_start_len: Annotated[int, Field(ge=-1, le=MAX_INT)] | None = None
    """The first prompt token whose logprob is returned; -1: only the answer has logprobs."""
    top_logprobs_num: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    token_ids_logprob: (
        Annotated[
            Annotated[_AskedIds, Tag("list[int]")]
            | Annotated[list[_AskedIds], Field(max_length=MAX_PROMPTS, fail_fast=True), Tag("list[list[int]]")],
            _by_kind("a list of token ids, or one for each text"),
        ]
        | None
    ) = None
    """Tokens whose logprobs are returned at each position of the answer: one list for all texts, or one for each."""
    return_text_in_logprobs: bool | None = None
    stream: bool | None = None
    priority: Annotated[int, Field(ge=-MAX_INT, le=MAX_INT)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> GenerateRequest:
        if (self.text is None) == (self.input_ids is None):
            raise ParameterError("text", "give either text or input_ids")
        if not self.return_logprob:
            return self
        if self.token_ids_logprob and (self.top_logprobs_num or self.shows_prompt):
            raise ParameterError(
                "token_ids_logprob", "token_ids_logprob goes neither with top_logprobs_num nor with logprob_start_len"
            )
        if self.shows_prompt and self.stream:
            raise ParameterError("logprob_start_len", "the logprobs of the prompt cannot be streamed")
        return self

    @property
    def shows_prompt(self) -> bool:
        """Whether the request asks for logprobs of the prompt."""
        return bool(self.return_logprob) and self.logprob_start_len is not None and self.logprob_start_len >= 0

    @property
    def prompts(self) -> str | list[str] | list[int] | list[list[int]]:
        given = self.input_ids if self.text is None else self.text
        assert given is not None
        return given

    @property
    def is_batch(self) -> bool:
        """Whether the prompts are a list of texts, or a list of lists of ids."""
        prompts = self.prompts
        return isinstance(prompts, list) and not isinstance(prompts[0], int)

    @property
    def has_one_answer(self) -> bool:
        return not self.is_batch and ((self.sampling_params and self.sampling_params.n) or 1) == 1


class ScoreRequest(Body):
    """Asks for the probability of each label as the next token after the query and each item."""

    model: Label | None = None
    query: Annotated[
        Annotated[str, Tag("(text)")] | Annotated[TokenIds, Tag("list[int]")],
        by_type("a string or token ids", {str: "(text)", list: "list[int]"}),
    ]
    items: Annotated[
        Annotated[str, Tag("(text)")]
        | Annotated[_Texts, Tag("list[str]")]
        | Annotated[_ListsOfIds, Tag("list[list[int]]")],
        _by_kind("a string, a list of strings or a list of lists of token ids"),
    ]
    label_token_ids: Annotated[list[TokenId], Field(min_length=1, max_length=MAX_LOGPROB_TOKEN_IDS, fail_fast=True)]
    apply_softmax: bool | None = None
    """true: the scores of an item's labels add up to 1. false: each score is a probability among all tokens."""
    item_first: bool | None = None

    @model_validator(mode="after")
    def _alike(self) -> ScoreRequest:
        items_are_ids = not isinstance(self.items, str) and isinstance(self.items[0], list)
        if isinstance(self.query, list) != items_are_ids:
            raise ParameterError("items", "query and items must both be text, or both token ids")
        count = 1 if isinstance(self.items, str) else len(self.items)
        most = MAX_PROMPT_TOKENS if items_are_ids else MAX_JOINED_CHARS
        if len(self.query) * count > most:
            raise ParameterError("query", f"the query, repeated for each of {count} items, is longer than {most}")
        return self

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """One prompt for each item: the query and the item, joined."""
        query: Any = self.query
        items: Any = [self.items] if isinstance(self.items, str) else self.items
        return [item + query if self.item_first else query + item for item in items]
