"""No error, log line or repr of a client shows its key, or a password of its URLs."""

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from entitlements.client import AsyncClient, Client
from entitlements.contracts.errors import EntitlementsError
from tests.servers import free_port
from tests.surfaces.scene import serving

CANARY = "hush4f1c"
KEY = f"ent_{CANARY}".ljust(47, "x")


def shown(error: BaseException) -> str:
    """Return everything that a program can print of an error."""
    return "".join(traceback.format_exception(error)) + repr(error) + str(error)


@pytest.mark.parametrize("around", ["{}\n", "{}\r\n", " {}", "\t{} "], ids=repr)
async def test_white_space_around_a_key_is_stripped(tmp_path: Path, around: str) -> None:
    async with (
        serving(f"sqlite:///{tmp_path}/books.db") as (_, port, secret),
        AsyncClient(f"http://127.0.0.1:{port}", key=around.format(secret)) as client,
    ):
        balance = await client.balance("ada")

    assert balance.user_balance == 0


@pytest.mark.parametrize("make", [AsyncClient, Client])
@pytest.mark.parametrize(
    "key",
    ["", " ", "\n", f"ent_\n{CANARY}", f"ent {CANARY}", f"{CANARY}\0", f"{CANARY}å"],
    ids=repr,
)
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(
    make: Callable[..., object], key: str
) -> None:
    with pytest.raises(ValueError, match=r"^key must ") as refused:
        make("http://127.0.0.1", key=key)

    assert CANARY not in shown(refused.value)


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        (f"http://ada:{CANARY}@127.0.0.1", None),
        (f"http://ada:{CANARY}@127.0.0.1:{CANARY}", None),
        (f"http://ada:{CANARY}/@127.0.0.1", None),
        (f"http://ada:{CANARY}@[::1", None),
        (f"ftp://ada:{CANARY}@127.0.0.1", None),
        ("http://127.0.0.1", f"http://ada:{CANARY}@127.0.0.1:{CANARY}"),
        ("http://127.0.0.1", f"http://ada:{CANARY}/@127.0.0.1"),
        ("http://127.0.0.1", f"gopher://ada:{CANARY}@127.0.0.1"),
    ],
)
def test_an_unusable_url_is_refused_without_showing_its_password(
    url: str, proxy: str | None
) -> None:
    with pytest.raises(ValueError) as refused:
        AsyncClient(url, proxy=proxy)

    assert CANARY not in shown(refused.value)


Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def hangs_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


def answers(response: bytes) -> Connected:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)
        writer.close()

    return answer


HEAD = b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
FAILURES: dict[str, Connected] = {
    "hangs up": hangs_up,
    "speaks no HTTP": answers(b"hello\r\n\r\n"),
    "answers half": answers(b"HTTP/1.1 200 OK\r\n" + HEAD % (99, b"{")),
    "answers something else": answers(b"HTTP/1.1 200 OK\r\n" + HEAD % (2, b"[]")),
    "redirects": answers(b"HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n"),
    "fails": answers(b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n"),
    "denies": answers(b"HTTP/1.1 402 Pay\r\n" + HEAD % (2, b"{}")),
}


@pytest.fixture(params=["nobody there", "not known", *FAILURES])
async def address(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a server that fails in one of several ways."""
    if request.param == "nobody there":
        yield f"http://127.0.0.1:{free_port()}"
    elif request.param == "not known":
        async with serving(f"sqlite:///{tmp_path}/books.db") as (_, port, _):
            yield f"http://127.0.0.1:{port}"
    else:
        server = await asyncio.start_server(FAILURES[request.param], "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_no_failure_shows_the_key(address: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with AsyncClient(address, key=KEY, attempts_max=2) as client:
        with pytest.raises(EntitlementsError) as failed:
            await client.consume(user_id="ada", metric="cj_comparison", amount=1)
        told = shown(failed.value) + repr(client) + str(client)

    assert CANARY not in told
    assert CANARY not in caplog.text


async def test_a_proxy_that_refuses_does_not_show_its_password(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    server = await asyncio.start_server(
        answers(b"HTTP/1.1 407 Who\r\ncontent-length: 0\r\n\r\n"), "127.0.0.1", 0
    )
    port = server.sockets[0].getsockname()[1]
    proxy = f"http://ada:{CANARY}@127.0.0.1:{port}"
    async with server, AsyncClient("http://127.0.0.1", key=KEY, proxy=proxy) as client:
        with pytest.raises(EntitlementsError) as failed:
            await client.balance("ada")

    assert CANARY not in shown(failed.value)
    assert CANARY not in caplog.text
