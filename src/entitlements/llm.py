"""Metered calls of language models: each call holds credits first and pays for its tokens.

Works with any client that has OpenAI's `chat.completions.create`. The metrics are those of the
policy's price book for a model: ``llm.MODEL.input``, ``output``, ``cached``, ``reasoning``.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Literal, NamedTuple

import msgspec

from entitlements.api import Entitlements
from entitlements.contracts.errors import EntitlementsError
from entitlements.holding import Held, holding

log: Final = logging.getLogger(__name__)

BYTES_PER_TOKEN: Final = 4
"""For English text. A token is at least one byte, so bytes are an upper bound for a prompt."""


class Usage(NamedTuple):
    """Tokens of one call by kind; each token counts in one kind."""

    input: int
    cached: int
    output: int
    reasoning: int


def usage_of(told: Any) -> Usage | None:
    """Return the tokens of a provider's usage, an object or a mapping; None without counts.

    It supports the formats of OpenAI's chat completions and responses, Anthropic and Gemini. Counts
    that are missing, null or negative are 0. Tokens written to a cache count as input.
    """
    if told is None:
        return None
    prompt = _first(told, "prompt_tokens", "input_tokens", "prompt_token_count")
    answer = _first(told, "completion_tokens", "output_tokens", "candidates_token_count")
    if prompt is None and answer is None:
        return None
    whole, output = _count(prompt), _count(answer)

    read, written = _get(told, "cache_read_input_tokens"), _get(told, "cache_creation_input_tokens")
    if read is not None or written is not None:  # Anthropic: not included in the input tokens
        return Usage(whole + _count(written), _count(read), output, 0)

    thoughts = _get(told, "thoughts_token_count")  # Gemini: not included in the output tokens
    if thoughts is not None:
        reasoning = _count(thoughts)
    else:
        reasoning = _detail(
            told, "reasoning_tokens", "completion_tokens_details", "output_tokens_details"
        )
        output -= reasoning if reasoning <= output else 0

    cached = _count(_get(told, "cached_content_token_count"))
    cached = cached or _detail(
        told, "cached_tokens", "prompt_tokens_details", "input_tokens_details"
    )
    return Usage(whole - cached if cached <= whole else whole, cached, output, reasoning)


class MeteredChat:
    """A provider's chat API, with calls charged to your users.

    ``priced_apart`` are the kinds of tokens that have separate prices in the policy; others count
    as input and output. ``limit_as`` is the provider's name of the output limit parameter.
    """

    def __init__(
        self,
        create: Callable[..., Awaitable[Any]],
        entitlements: Entitlements,
        *,
        priced_apart: Collection[Literal["cached", "reasoning"]] = (),
        limit_as: str = "max_completion_tokens",
    ) -> None:
        self._create = create
        self._entitlements = entitlements
        self._priced_apart = priced_apart
        self._limit_as = limit_as

    async def create(
        self,
        *,
        user_id: str | int,
        org_id: str | int | None = None,
        model: str,
        messages: Sequence[Any],
        output_tokens_max: int,
        input_tokens_max: int | None = None,
        ttl_s: int = 300,
        extend_for_s: int = 3600,
        **options: Any,
    ) -> Any:
        """Call the model and return the provider's response.

        If the usage cannot be settled, the response is returned, the error is logged and the hold
        lapses. If the response has no usage, the call pays an estimate, at most the held credits.
        Exceptions of the provider's client are raised and nothing is charged. Raise as
        `Entitlements.take_hold` does.
        """
        tokens = _Tokens(model, messages, input_tokens_max, output_tokens_max)
        answered: list[Any] = []
        try:
            async with self._holding(tokens, user_id, org_id, ttl_s, extend_for_s) as held:
                limit = {self._limit_as: output_tokens_max}
                answer = await self._create(model=model, messages=messages, **limit, **options)
                answered.append(answer)
                tokens.see(answer, "message")
                tokens.settle(held, self._priced_apart)
        except EntitlementsError:
            if not answered:
                raise
            log.exception("the usage of a model call could not be settled; its hold lapses")
        return answered[0]

    @asynccontextmanager
    async def stream(
        self,
        *,
        user_id: str | int,
        org_id: str | int | None = None,
        model: str,
        messages: Sequence[Any],
        output_tokens_max: int,
        input_tokens_max: int | None = None,
        ttl_s: int = 300,
        extend_for_s: int = 3600,
        **options: Any,
    ) -> AsyncIterator[AsyncIterator[Any]]:
        """Yield the chunks of a response.

        A stream that ends before the provider reports the usage pays an estimate for the prompt and
        the received text, as `create` does.
        """
        tokens = _Tokens(model, messages, input_tokens_max, output_tokens_max)
        async with self._holding(tokens, user_id, org_id, ttl_s, extend_for_s) as held:
            limit = {self._limit_as: output_tokens_max}
            chunks = await self._create(
                model=model,
                messages=messages,
                stream=True,
                stream_options={"include_usage": True},
                **limit,
                **options,
            )
            try:
                yield tokens.counted(chunks)
            finally:
                tokens.settle(held, self._priced_apart)
                await chunks.close()

    def _holding(
        self,
        tokens: _Tokens,
        user_id: str | int,
        org_id: str | int | None,
        ttl_s: int,
        extend_for_s: int,
    ) -> AbstractAsyncContextManager[Held]:
        return holding(
            self._entitlements,
            {
                f"{tokens.prefix}input": tokens.input_max,
                f"{tokens.prefix}output": tokens.output_max,
            },
            user_id=user_id,
            org_id=org_id,
            ttl_s=ttl_s,
            extend_for_s=extend_for_s,
        )


class _Tokens:
    """The tokens that a call can use at most, and has used."""

    def __init__(
        self, model: str, messages: Sequence[Any], input_max: int | None, output_max: int
    ) -> None:
        size = len(msgspec.json.encode(messages, enc_hook=str))
        self.prefix = f"llm.{model}."
        self.input_max = size if input_max is None else input_max
        self.output_max = output_max
        self._prompt = -(-size // BYTES_PER_TOKEN)
        self._text = 0
        """Bytes of received text."""
        self._pieces = 0
        """Chunks with text."""
        self._calls_tools = False
        self._told: Usage | None = None
        """The usage that the provider reported."""

    async def counted(self, chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for chunk in chunks:
            self.see(chunk, "delta")
            yield chunk

    def see(self, answer: Any, part: Literal["message", "delta"]) -> None:
        """Count the content of a response, or of a chunk of one."""
        self._told = usage_of(_get(answer, "usage")) or self._told
        for choice in _get(answer, "choices") or ():
            piece = _get(choice, part)
            if text := _text(_get(piece, "content")):
                self._text += len(text.encode("utf-8", "surrogatepass"))
                self._pieces += 1
            self._calls_tools |= bool(_get(piece, "tool_calls") or _get(piece, "function_call"))

    def settle(self, held: Held, priced_apart: Collection[str]) -> None:
        """Report the usage of the call to the hold: the provider's, else an estimate."""
        used = self._told or self._estimate()
        cached = used.cached if "cached" in priced_apart else 0
        reasoning = used.reasoning if "reasoning" in priced_apart else 0
        for kind, tokens in (
            ("input", used.input + used.cached - cached),
            ("output", used.output + used.reasoning - reasoning),
            ("cached", cached),
            ("reasoning", reasoning),
        ):
            if tokens:
                held.use(f"{self.prefix}{kind}", tokens)

    def _estimate(self) -> Usage:
        """Estimate the tokens as a quarter of the bytes of prompt and text.

        It is at least one token per chunk and at most the held tokens. The size of tool calls
        without text is unknown, so they count as all held tokens.
        """
        if self._calls_tools and not self._text:
            return Usage(self.input_max, 0, self.output_max, 0)
        output = max(-(-self._text // BYTES_PER_TOKEN), self._pieces)
        return Usage(min(self._prompt, self.input_max), 0, min(output, self.output_max), 0)


def _text(content: Any) -> str:
    """Return the text of a message's content, which can have several parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return "".join(_text(_get(part, "text")) for part in content)
    return ""


def _get(told: Any, name: str) -> Any:
    return told.get(name) if isinstance(told, Mapping) else getattr(told, name, None)


def _first(told: Any, *names: str) -> Any:
    return next((found for name in names if (found := _get(told, name)) is not None), None)


def _detail(told: Any, name: str, *holders: str) -> int:
    return _count(_get(_first(told, *holders), name))


def _count(told: Any) -> int:
    return max(0, told) if isinstance(told, int) else 0
