"""LLM with a fake engine: results, limits, failures, and that close leaves nothing."""

import threading
import time
from pathlib import Path

import pytest
from fake_engine import EOS, Fakes

from gllm import LLM, SamplingParams
from gllm.sampling_params import ParameterError
from gllm.wire.messages import EngineDown, EngineUp


def wait_until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


def test_one_prompt_and_many_in_order(llm: LLM) -> None:
    [one] = llm.generate("abc", SamplingParams(max_tokens=10))
    assert (one.prompt, one.text, one.outputs[0].finish_reason) == ("abc", "ABC", "stop")
    assert one.outputs[0].token_ids == [*b"ABC", EOS]
    prompts = [f"p{number}" for number in range(9)]
    assert [completion.text for completion in llm.generate(prompts)] == [prompt.upper() for prompt in prompts]


def test_token_ids_as_prompts(llm: LLM) -> None:
    assert [completion.text for completion in llm.generate([[97, 98], [99]])] == ["AB", "C"]
    [single] = llm.generate([97, 98])
    assert single.prompt is None
    assert single.prompt_token_ids == [97, 98]


def test_a_sampling_for_each_prompt(llm: LLM) -> None:
    results = llm.generate(["abc", "abc"], [SamplingParams(max_tokens=1), SamplingParams(max_tokens=2)])
    assert [(result.text, result.outputs[0].finish_reason) for result in results] == [("A", "length"), ("AB", "length")]
    with pytest.raises(ValueError, match=r"1 entries for 2 prompts"):
        llm.generate(["a", "b"], [SamplingParams()])


def test_chat_and_defaults(llm: LLM, fakes: Fakes) -> None:
    [answer] = llm.chat([{"role": "user", "content": "hi"}])
    assert answer.text == "USER:HI\n"
    assert fakes.client.submitted[-1][1] == SamplingParams(temperature=0.5, max_tokens=None)
    two = llm.chat([[{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]], SamplingParams())
    assert [result.text for result in two] == ["USER:A\n", "USER:B\n"]
    llm.generate("a")
    assert fakes.client.submitted[-1][1].max_tokens == 16


def test_n_answers_have_their_own_seeds(llm: LLM, fakes: Fakes) -> None:
    [completion] = llm.generate("abc", SamplingParams(n=3, seed=2**63 - 1))
    assert [output.index for output in completion.outputs] == [0, 1, 2]
    assert [sampling.seed for _, sampling in fakes.client.submitted] == [2**63 - 1, -(2**63), -(2**63) + 1]


def test_stop_strings_cut_text_tokens_and_logprobs(llm: LLM, fakes: Fakes) -> None:
    [completion] = llm.generate("hello world", SamplingParams(stop=("O W",), max_tokens=20, logprobs=0))
    answer = completion.outputs[0]
    assert (answer.text, answer.finish_reason, answer.stop_reason) == ("HELL", "stop", "O W")
    assert bytes(answer.token_ids) == b"HELLO W"
    assert len(answer.logprobs) == 7
    wait_until(lambda: fakes.client.left)


def test_stop_patterns_end_answers(llm: LLM) -> None:
    [completion] = llm.generate("hello world", SamplingParams(stop_regex=("O.W",), max_tokens=20))
    answer = completion.outputs[0]
    assert (answer.text, answer.finish_reason, answer.stop_reason) == ("HELLO W", "stop", "O.W")


def test_lists_and_single_strings_are_taken(llm: LLM) -> None:
    for stop in ("O W", ["O W"], ["x", "O W"]):
        [completion] = llm.generate("hello world", SamplingParams(stop=stop, stop_regex=None, stop_token_ids=[7]))
        assert (completion.text, completion.outputs[0].stop_reason) == ("HELL", "O W")
    [completion] = llm.generate("hello world", SamplingParams(stop_regex="O"))
    assert completion.text == "HELLO"


def test_bad_words_become_tokens(llm: LLM, fakes: Fakes) -> None:
    llm.generate("x", SamplingParams(bad_words=("no",), allowed_token_ids=(1, 2)))
    sampling = fakes.client.submitted[-1][1]
    assert sampling.bad_word_ids == (tuple(b"no"), tuple(b" no"))
    assert sampling.allowed_token_ids == (1, 2)


def test_long_prompts_are_cut_if_asked_for(llm: LLM) -> None:
    [completion] = llm.generate("x" * 100 + "abc", SamplingParams(truncate_prompt_tokens=-1, max_tokens=10))
    assert bytes(completion.prompt_token_ids) == b"x" * 51 + b"abc"
    [completion] = llm.generate("abcdef", SamplingParams(truncate_prompt_tokens=3, truncation_side="right"))
    assert completion.text == "ABC"


def test_scoring_only(llm: LLM, fakes: Fakes) -> None:
    [completion] = llm.generate("abc", SamplingParams(max_tokens=0))
    assert (completion.text, completion.outputs[0].token_ids) == ("", [])
    assert fakes.client.submitted[-1][1].max_tokens == 0


def test_a_stream_that_is_left_early_stops_the_request(llm: LLM, fakes: Fakes) -> None:
    assert "".join(llm.stream("hello")) == "HELLO"
    assert "".join(llm.stream([{"role": "user", "content": "x"}])) == "USER:X\n"
    stream = llm.stream("!hang")
    assert next(stream) == "!"
    stream.close()
    wait_until(lambda: fakes.client.left)
    assert not fakes.client.live
    with pytest.raises(ParameterError, match="n must be 1"):
        llm.stream("x", SamplingParams(n=2))


def test_large_batches_are_submitted_gradually(llm: LLM, fakes: Fakes) -> None:
    drawn = 0

    def requests():
        nonlocal drawn
        for number in range(100):
            drawn += 1
            yield number, "ab", SamplingParams(max_tokens=1)

    results = llm.generate_unordered(requests())
    assert drawn == 0
    keys = [next(results)[0]]
    assert drawn <= 2 * 2 + 1
    keys += [key for key, _ in results]
    assert sorted(keys) == list(range(100))
    assert fakes.client.most_live <= 2 * 2


@pytest.mark.parametrize(
    ("prompt", "sampling", "message"),
    [
        ("", SamplingParams(), "prompt is empty"),
        ([300], SamplingParams(), "from 0 to 256"),
        ([-1], SamplingParams(), "from 0 to 256"),
        ([[1.5]], SamplingParams(), "whole numbers"),
        ([{"role": "user"}], SamplingParams(), "use chat"),
        ("x" * 64, SamplingParams(max_tokens=1), "context has 64"),
        ("x" * 10, SamplingParams(max_tokens=60), "context has 64"),
        ("x", SamplingParams(stop_regex=("(",)), "unclosed group"),
        ("x", SamplingParams(truncate_prompt_tokens=60), "from 1 to the 48"),
    ],
)
def test_invalid_prompts_are_refused_before_any_work(llm: LLM, fakes: Fakes, prompt, sampling, message) -> None:
    with pytest.raises(ParameterError, match=message):
        llm.generate(["fine", prompt] if isinstance(prompt, str) else prompt, sampling)
    assert not fakes.client.submitted


def test_a_failed_request_does_not_affect_others(llm: LLM) -> None:
    good, bad = llm.generate(["ok", "!fail"])
    assert (good.text, good.error) == ("OK", None)
    assert bad.error == "the sampler choked"
    assert bad.outputs[0].finish_reason == "error"
    with pytest.raises(RuntimeError, match="the sampler choked"):
        list(llm.stream("!fail"))


def test_the_death_of_the_engine_is_an_exception_with_its_reason(llm: LLM, fakes: Fakes) -> None:
    stream = llm.stream("!hang")
    next(stream)
    llm.engine.call(_die(fakes, "worker-0 was killed"))
    with pytest.raises(RuntimeError, match="worker-0 was killed"):
        list(stream)
    with pytest.raises(RuntimeError, match="worker-0 was killed"):
        llm.generate("abc")


def test_requests_continue_after_a_restart_of_the_engine(llm: LLM, fakes: Fakes) -> None:
    async def replace() -> None:
        fakes.group.on_event(EngineDown(0, "worker-0 was killed", 60.0))
        fakes.group.on_event(EngineUp(1))

    stream = llm.stream("hello")
    first = next(stream)
    llm.engine.call(replace())
    assert first + "".join(stream) == "HELLO"
    assert (fakes.client.paused, fakes.client.epochs) == (["worker-0 was killed"], [0, 1])
    assert llm.engine.failure is None


async def _die(fakes: Fakes, reason: str) -> None:
    fakes.group.die(reason)


def test_close_ends_the_engine_and_running_requests(fakes: Fakes) -> None:
    llm = fakes.llm()
    failures: list[Exception] = []

    def run() -> None:
        try:
            llm.generate("!hang")
        except RuntimeError as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: fakes.client.live)
    llm.close()
    llm.close()
    thread.join(10)
    assert "closed" in str(failures[0])
    assert fakes.group.stopped
    assert not any(thread.name == "gllm-engine" for thread in threading.enumerate())
    with pytest.raises(RuntimeError, match="closed"):
        llm.generate("abc")


def test_an_engine_that_does_not_start_raises_its_reason(fakes: Fakes) -> None:
    fakes.refuse = "worker-0: the model needs 3 GB, 1 GB is free"
    with pytest.raises(RuntimeError, match="needs 3 GB"):
        fakes.llm()
    assert fakes.group.stopped
    assert not any(thread.name == "gllm-engine" for thread in threading.enumerate())


def test_forgotten_engines_are_closed(fakes: Fakes) -> None:
    fakes.llm()
    wait_until(lambda: fakes.group.stopped)


def test_wrong_options_say_what_to_write() -> None:
    with pytest.raises(TypeError, match="did you mean max_model_len"):
        LLM("m", max_model_length=5)
    with pytest.raises(ValueError, match=r"Invalid enum value 'fp8'.*dtype"):
        LLM("m", dtype="fp8")
    with pytest.raises(ValueError, match="generation_config"):
        LLM("m", generation_config="vllm")
    with pytest.raises(ValueError, match="looked for a folder"):
        LLM("/no/such/model")


def test_options_may_be_named_as_in_vllm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr("gllm.apps.offline.llm.LLM._start", lambda self, config, *more: setattr(self, "config", config))
    llm = LLM(str(tmp_path), tensor_parallel_size=2, max_num_batched_tokens=64, enforce_eager=True, block_size=32)
    engine = llm.config.engine
    assert (engine.tp, engine.max_prefill_tokens, engine.enforce_eager, engine.page_size) == (2, 64, True, 32)
    with pytest.raises(TypeError, match="no option 'trust_remote_code': code from a model folder is never run"):
        LLM(str(tmp_path), trust_remote_code=True)
