"""The live requests of a client: which engine has which, and what follows when an engine is lost.

No request is lost with an engine: the client keeps the prompt and the generated tokens of each, and submits them to
another engine, which continues with the same tokens that the last one would have generated.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable

from gllm.engine.client.link import EngineLink
from gllm.engine.client.resubmit import RequestRecord, for_engine
from gllm.engine.client.stream import OutputStream
from gllm.sampling_params import SamplingParams
from gllm.wire.messages import Submit
from gllm.wire.origin import NO_ORIGIN, Origin

logger = logging.getLogger("gllm.engine.client")

Choose = Callable[[OutputStream], EngineLink | None]
"""Returns the engine for a request; None: it waits."""


class LiveRequests:
    """Requests that were submitted and have not ended. All methods belong to one asyncio loop."""

    def __init__(self, choose: Choose) -> None:
        self._choose = choose
        self._live: dict[str, OutputStream] = {}
        self._place: dict[OutputStream, EngineLink] = {}
        """The engine that has the request; the others wait."""
        self._suspects: deque[OutputStream] = deque()
        """Live requests, not sent yet, that may have caused the failures."""
        self.trial: OutputStream | None = None
        """The suspect that an engine has; the next one is sent when this one has a token or has ended."""

    def __len__(self) -> int:
        return len(self._live)

    def add(
        self,
        request_id: str,
        token_ids: list[int],
        sampling: SamplingParams,
        priority: int = 0,
        cache_salt: str = "",
        origin: Origin = NO_ORIGIN,
    ) -> OutputStream:
        """Submit a request, now or when an engine serves. Raises ValueError if `request_id` is live."""
        if request_id in self._live:
            raise ValueError(f"request_id {request_id!r} is already live")
        record = RequestRecord(
            Submit(
                request_id=request_id,
                token_ids=token_ids,
                sampling=for_engine(sampling),
                priority=priority,
                cache_salt=cache_salt,
                origin=origin,
            )
        )
        stream = self._live[request_id] = OutputStream(request_id, record, self._leave)
        self._submit(stream)
        return stream

    def submit_waiting(self) -> None:
        """Submit the requests that wait, in order of arrival; suspects one after another."""
        for stream in self._live.values():
            if stream in self._place or stream in self._suspects:
                continue
            if stream.record.suspect:
                self._suspects.append(stream)
            else:
                self._submit(stream)
        if self.trial is None:
            self._try_next_suspect()

    def lose(self, link: EngineLink, reason: str) -> None:
        """Take the requests of an engine that ended. They wait, or fail if they lost too many."""
        for stream in [one for one, place in self._place.items() if place is link]:
            del self._place[stream]
            if stream is self.trial:
                self.trial = None
            stream.record.on_engine_lost()
            names = {"request_id": stream.record.origin.http_id, "choice": stream.request_id}
            tokens = len(stream.record.generated)
            if not stream.record.exhausted:
                logger.info("request waits for another engine", extra={**names, "tokens": tokens, "reason": reason})
            else:
                logger.error("request failed with its engines", extra={**names, "tokens": tokens, "reason": reason})
                del self._live[stream.request_id]
                stream.fail(
                    f"the engine failed {stream.record.losses} times in a row while it had this request, "
                    f"which is not submitted again: {reason}"
                )

    def fail_all(self, reason: str) -> None:
        """Let all requests raise EngineError(reason) after their outputs so far."""
        self._fail(list(self._live.values()), reason)
        self.trial = None

    def fail_waiting(self, seconds: float, reason: str) -> None:
        """Let requests fail that have waited this long for an engine. Suspects also wait for the one that is tried."""
        limit = time.monotonic() - seconds
        waiting = [one for one in self._live.values() if one not in self._place and one.record.waits_since < limit]
        self._fail([one for one in waiting if self.trial is None or one not in self._suspects], reason)

    def on_output(self, stream: OutputStream, ended: bool) -> None:
        """Follow a stream: its engine has sent an output."""
        if ended:
            self._forget(stream)
        if stream is self.trial:
            self._try_next_suspect()

    def _fail(self, streams: Iterable[OutputStream], reason: str) -> None:
        for stream in streams:
            self._forget(stream)
            stream.fail(reason)

    def _forget(self, stream: OutputStream) -> None:
        self._live.pop(stream.request_id, None)
        self._place.pop(stream, None)

    def _submit(self, stream: OutputStream) -> None:
        link = self._choose(stream)
        if link is not None:
            self._place[stream] = link
            link.submit(stream)

    def _try_next_suspect(self) -> None:
        self.trial = None
        while self._suspects and self.trial is None:
            stream = self._suspects[0]
            if self._live.get(stream.request_id) is stream:
                self._submit(stream)
                if stream not in self._place:
                    return
                self.trial = stream
            self._suspects.popleft()

    def _leave(self, stream: OutputStream) -> None:
        if self._live.get(stream.request_id) is not stream:
            return
        link = self._place.get(stream)
        self._forget(stream)
        if link is not None:
            link.abort(stream)
        if stream is self.trial:
            self._try_next_suspect()
