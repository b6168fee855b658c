"""A chat billed by the token, with further endpoints of fixed and of variable cost."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Body, Depends, FastAPI, Header, Request
from fastapi.responses import StreamingResponse

from entitlements import Entitlements
from entitlements.fastapi import (
    RESPONSES,
    Charge,
    Held,
    hold_credits,
    install,
    require_credits,
    require_variable_credits,
)
from examples.fastapi_chat.model import answer

POLICY = """
costs: {}
signup_bonuses: {user: 100}
price_book:
  parrot-1: {input: 1, output: 2, per: 1}
rate_limits:
  llm.parrot-1.output: 5000/day
"""
TOKENS_MAX = 30


def user(x_user: Annotated[str, Header()]) -> str:
    """Return the user's id. A real app takes it from its session or token."""
    return x_user


async def by_the_word(request: Request, _: str) -> int:
    return len((await request.body()).split())


async def room_for_an_answer(request: Request, _: str) -> dict[str, int]:
    """Return the units of the longest answer, so that no chat starts that cannot be paid."""
    prompt = (await request.body()).split()
    return {"llm.parrot-1.input": len(prompt), "llm.parrot-1.output": TOKENS_MAX}


app = FastAPI(title="A chat billed by the token", responses=RESPONSES)
install(app, Entitlements.open("sqlite:///chat.db", policy=POLICY))

Prompt = Annotated[str, Body(media_type="text/plain")]
Haiku = Annotated[Charge, Depends(require_credits("credits", 5, "a haiku", user=user))]
Translation = Annotated[
    Charge, Depends(require_variable_credits("credits", by_the_word, "a translation", user=user))
]
Chat = Annotated[Held, Depends(hold_credits(room_for_an_answer, "an answer", user=user))]


@app.post("/signup")
async def sign_up(request: Request, name: Annotated[str, Depends(user)]) -> dict[str, int]:
    """Open an account; the policy grants it 100 credits, once."""
    entitlements: Entitlements = request.app.state.entitlements
    opened = await entitlements.open_account(subject_type="user", subject_id=name)
    return {"credits": opened.new_balance}


@app.post("/haiku")
async def write_haiku(charge: Haiku) -> dict[str, object]:
    """Charge five credits; they are refunded if the handler raises."""
    return {"haiku": "an old silent pond / a frog jumps in / 402", "paid": charge.credits_consumed}


@app.post("/translate")
async def translate(prompt: Prompt, charge: Translation) -> dict[str, object]:
    """Charge one credit per word."""
    return {"translation": prompt[::-1], "left": charge.remaining_balance}


@app.post("/chat")
async def chat(prompt: Prompt, held: Chat) -> StreamingResponse:
    """Stream an answer. A reader who disconnects early pays for the tokens delivered so far."""

    async def tokens() -> AsyncIterator[str]:
        held.use("llm.parrot-1.input", len(prompt.split()))
        async for token in answer(prompt, TOKENS_MAX):
            held.use("llm.parrot-1.output")
            yield token

    return StreamingResponse(tokens(), media_type="text/plain")
