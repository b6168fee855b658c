"""Calls of language models within holds: no call begins without credits, each pays its tokens.

Works with any client whose `chat.completions.create` is OpenAI's. The metrics are those that the
policy's price book makes of a model: ``llm.MODEL.input``, ``output``, ``cached``, ``reasoning``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Literal

import msgspec

from entitlements.api import Entitlements
from entitlements.holding import Held, holding

BYTES_PER_TOKEN: Final = 4
"""Of English text. A token is a byte at least, so that bytes bound what a prompt may use."""


class MeteredChat:
    """A provider's chat, for the account of your users.

    ``priced_apart`` are the kinds of tokens that have prices of their own in the policy; others
    count as input and output. ``limit_as`` is what the provider calls the limit of an answer.
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
        **options: Any,
    ) -> Any:
        """The provider's answer. An answer that tells no usage pays all that was held.

        Raises what the provider's client does, and then nothing is charged; and as
        `Entitlements.take_hold`.
        """
        tokens = _Tokens(model, messages, input_tokens_max, output_tokens_max)
        async with self._holding(tokens, user_id, org_id, ttl_s) as held:
            limit = {self._limit_as: output_tokens_max}
            answer = await self._create(model=model, messages=messages, **limit, **options)
            if answer.usage is None:
                tokens.use(held, tokens.input_max, output_tokens_max)
            else:
                tokens.use_told(held, answer.usage, self._priced_apart)
        return answer

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
        **options: Any,
    ) -> AsyncIterator[AsyncIterator[Any]]:
        """The chunks of an answer. Who leaves before its end, where the provider tells the usage,
        pays a token for each chunk that came, and the prompt as far as it can be estimated.
        """
        tokens = _Tokens(model, messages, input_tokens_max, output_tokens_max)
        async with self._holding(tokens, user_id, org_id, ttl_s) as held:
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
                if tokens.told is not None:
                    tokens.use_told(held, tokens.told, self._priced_apart)
                else:
                    tokens.use(held, tokens.input_estimate, tokens.delivered)
                await chunks.close()

    def _holding(
        self, tokens: _Tokens, user_id: str | int, org_id: str | int | None, ttl_s: int
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
        )


class _Tokens:
    """Those that a call may use, and has."""

    def __init__(
        self, model: str, messages: Sequence[Any], input_max: int | None, output_max: int
    ) -> None:
        size = len(msgspec.json.encode(messages))
        self.prefix = f"llm.{model}."
        self.input_max = size if input_max is None else input_max
        self.input_estimate = min(self.input_max, -(-size // BYTES_PER_TOKEN))
        self.output_max = output_max
        self.delivered = 0
        self.told: Any = None
        """The provider's own account, from the last chunk."""

    async def counted(self, chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for chunk in chunks:
            if chunk.usage is not None:
                self.told = chunk.usage
            if chunk.choices:
                self.delivered += 1
            yield chunk

    def use(self, held: Held, input_tokens: int, output_tokens: int) -> None:
        held.use(f"{self.prefix}input", input_tokens)
        held.use(f"{self.prefix}output", output_tokens)

    def use_told(self, held: Held, usage: Any, priced_apart: Collection[str]) -> None:
        """Cached tokens are part of the prompt's, and reasoning of the answer's."""
        cached = _part(usage, "prompt_tokens_details", "cached_tokens")
        reasoning = _part(usage, "completion_tokens_details", "reasoning_tokens")
        cached = cached if "cached" in priced_apart else 0
        reasoning = reasoning if "reasoning" in priced_apart else 0
        self.use(held, usage.prompt_tokens - cached, usage.completion_tokens - reasoning)
        if cached:
            held.use(f"{self.prefix}cached", cached)
        if reasoning:
            held.use(f"{self.prefix}reasoning", reasoning)


def _part(usage: Any, details: str, name: str) -> int:
    return getattr(getattr(usage, details, None), name, None) or 0
