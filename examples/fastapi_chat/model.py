"""A model that needs no GPU: it repeats the prompt token by token."""

import asyncio
from collections.abc import AsyncIterator


async def answer(prompt: str, tokens_max: int) -> AsyncIterator[str]:
    words = (prompt.split() or ["hm"]) * tokens_max
    for word in words[:tokens_max]:
        await asyncio.sleep(0)
        yield f"{word} "
