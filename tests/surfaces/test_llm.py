"""The official OpenAI client, metered, against a local provider."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import StreamingResponse

from entitlements.contracts import errors
from entitlements.holding import holds_ended
from entitlements.llm import MeteredChat
from entitlements.testing import Authority
from entitlements.transports.http.listening import bind
from tests.servers import free_port
from tests.surfaces.scene import Server

POLICY = """
costs: {}
price_book:
  parrot-1: {input: 1, output: 3, cached: 0, reasoning: 4, per: 1}
"""
USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 7,
    "total_tokens": 27,
    "prompt_tokens_details": {"cached_tokens": 8},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
HELLO: Any = [{"role": "user", "content": "hello, how are you?"}]
ANSWER = {"role": "assistant", "content": "hello, how are you?"}
TOOL_CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "t", "type": "function", "function": {"name": "add", "arguments": "{}"}}],
}
provider = FastAPI()


def _chunk(number: int | None) -> bytes:
    chunk: dict[str, Any] = {
        "id": "c-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "parrot-1",
        "choices": [],
        "usage": USAGE,
    }
    if number is not None:
        delta = {"role": "assistant", "content": f"{number} "}
        chunk |= {"choices": [{"index": 0, "delta": delta}], "usage": None}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


@provider.post("/v1/chat/completions", response_model=None)
async def complete(asked: dict[str, Any]) -> dict[str, Any] | Response:
    if asked["max_completion_tokens"] == 97:
        return Response(status_code=500)
    if asked.get("stream"):

        async def chunks() -> AsyncIterator[bytes]:
            for number in range(7):
                yield _chunk(number)
            if asked["max_completion_tokens"] == 99:
                await asyncio.Event().wait()
            if asked["max_completion_tokens"] != 98:
                yield _chunk(None)
            yield b"data: [DONE]\n\n"

        return StreamingResponse(chunks(), media_type="text/event-stream")
    return {
        "id": "c-1",
        "object": "chat.completion",
        "created": 1,
        "model": "parrot-1",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": TOOL_CALL if asked["max_completion_tokens"] == 96 else ANSWER,
            }
        ],
        "usage": USAGE if asked["max_completion_tokens"] not in (2, 96, 98) else None,
    }


@pytest.fixture
def entitlements_policy() -> str:
    return POLICY


@pytest.fixture
async def client() -> AsyncIterator[openai.AsyncOpenAI]:
    port = free_port()
    sockets = bind("127.0.0.1", port)
    server = Server(
        uvicorn.Config(provider, lifespan="off", log_config=None, timeout_keep_alive=75)
    )
    serving = asyncio.create_task(server.serve(sockets))
    async with openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0
    ) as opened:
        yield opened
    server.should_exit = True
    await serving
    for one in sockets:
        one.close()


@pytest.fixture
def chat(client: openai.AsyncOpenAI, entitlements: Authority) -> MeteredChat:
    entitlements.give("user:ada", 1_000)
    return MeteredChat(client.chat.completions.create, entitlements)


def spent(entitlements: Authority) -> int:
    balance = entitlements.sync.balance("ada")
    assert balance.user_held == 0
    return 1_000 - balance.user_balance


async def test_a_call_pays_the_reported_usage(chat: MeteredChat, entitlements: Authority) -> None:
    answer = await chat.create(
        user_id="ada", model="parrot-1", messages=HELLO, output_tokens_max=50
    )

    assert answer.choices[0].message.content == "hello, how are you?"
    assert spent(entitlements) == 20 + 7 * 3


async def test_kinds_of_tokens_can_have_separate_prices(
    client: openai.AsyncOpenAI, entitlements: Authority
) -> None:
    entitlements.give("user:ada", 1_000)
    chat = MeteredChat(
        client.chat.completions.create, entitlements, priced_apart=("cached", "reasoning")
    )

    await chat.create(user_id="ada", model="parrot-1", messages=HELLO, output_tokens_max=50)

    assert spent(entitlements) == (20 - 8) + (7 - 2) * 3 + 2 * 4


def estimated(*texts: str, at_least: int = 0) -> int:
    """Return the estimated credits: one per token of the prompt, three per token of the answer."""
    prompt = -(-len(json.dumps(HELLO, separators=(",", ":"))) // 4)
    return prompt + max(-(-len("".join(texts).encode()) // 4), at_least) * 3


async def test_a_response_without_usage_pays_an_estimate(
    chat: MeteredChat, entitlements: Authority
) -> None:
    await chat.create(user_id="ada", model="parrot-1", messages=HELLO, output_tokens_max=98)

    assert spent(entitlements) == estimated("hello, how are you?")


async def test_an_estimate_never_exceeds_the_hold(
    chat: MeteredChat, entitlements: Authority
) -> None:
    await chat.create(
        user_id="ada", model="parrot-1", messages=HELLO, output_tokens_max=2, input_tokens_max=3
    )

    assert spent(entitlements) == 3 + 2 * 3


async def test_a_response_of_tool_calls_without_usage_pays_the_whole_hold(
    chat: MeteredChat, entitlements: Authority
) -> None:
    await chat.create(
        user_id="ada", model="parrot-1", messages=HELLO, output_tokens_max=96, input_tokens_max=10
    )

    assert spent(entitlements) == 10 + 96 * 3


async def test_a_response_is_returned_even_if_the_hold_cannot_be_settled(
    chat: MeteredChat, entitlements: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async def settle(*_: object, **__: object) -> None:
        raise errors.Unavailable("unavailable", "away", retry_after_s=1)

    entitlements.settle = settle  # type: ignore[method-assign, assignment]

    answer = await chat.create(
        user_id="ada", model="parrot-1", messages=HELLO, output_tokens_max=50
    )

    assert answer.choices[0].message.content == "hello, how are you?"
    assert "could not be settled" in caplog.text
    assert entitlements.sync.balance("ada").user_held > 0, "the hold stays until it lapses"


async def test_a_call_that_fails_costs_nothing(chat: MeteredChat, entitlements: Authority) -> None:
    with pytest.raises(errors.PolicyDenied):
        await chat.create(user_id="ada", model="unknown", messages=HELLO, output_tokens_max=5)
    with pytest.raises(openai.InternalServerError):
        await chat.create(user_id="ada", model="parrot-1", messages=HELLO, output_tokens_max=97)

    assert spent(entitlements) == 0


async def test_without_credits_the_provider_is_not_called(
    chat: MeteredChat, entitlements: Authority
) -> None:
    with pytest.raises(errors.InsufficientCredits) as denied:
        await chat.create(user_id="ada", model="parrot-1", messages=HELLO, output_tokens_max=1_000)

    assert denied.value.data["missing_credits"] > 0
    assert spent(entitlements) == 0


async def test_a_stream_pays_the_usage_reported_at_its_end(
    chat: MeteredChat, entitlements: Authority
) -> None:
    async with chat.stream(
        user_id="ada", model="parrot-1", messages=HELLO, output_tokens_max=50
    ) as chunks:
        told = [chunk.choices[0].delta.content async for chunk in chunks if chunk.choices]

    assert told == [f"{number} " for number in range(7)]
    assert spent(entitlements) == 20 + 7 * 3


async def test_a_stream_that_is_abandoned_pays_for_the_delivered_part(
    chat: MeteredChat, entitlements: Authority
) -> None:
    async with chat.stream(
        user_id="ada", model="parrot-1", messages=HELLO, output_tokens_max=99
    ) as chunks:
        async for chunk in chunks:
            if chunk.choices[0].delta.content == "3 ":
                break
    await holds_ended()

    assert spent(entitlements) == estimated("0 ", "1 ", "2 ", "3 ", at_least=4)


async def test_a_stream_without_usage_pays_an_estimate(
    chat: MeteredChat, entitlements: Authority
) -> None:
    async with chat.stream(
        user_id="ada", model="parrot-1", messages=HELLO, output_tokens_max=98
    ) as chunks:
        assert len([chunk async for chunk in chunks]) == 7

    assert spent(entitlements) == estimated(*(f"{n} " for n in range(7)), at_least=7)
