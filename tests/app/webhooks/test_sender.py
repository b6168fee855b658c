"""Messages go only to the address that was checked."""

import asyncio
import ssl
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from entitlements.adapters.http.sender import HttpSender
from entitlements.app.webhooks.store import Answered, ForbiddenAddress, NotReached, Unresolvable
from tests.app.webhooks.receiver import Message, Receiver, status


class Names:
    """A resolver that returns the given answers in turn, and then always the last one."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def test_a_private_address_is_refused_before_anything_is_sent(receiver: Receiver) -> None:
    async with HttpSender(resolve=Names(["127.0.0.1"])) as sender:
        answer = await sender.post(f"http://hooks.test:{receiver.port}/", {}, b"{}")

    assert answer == NotReached("its host is not on the public internet")
    assert receiver.got == []


async def test_one_private_address_among_public_ones_is_refused(receiver: Receiver) -> None:
    async with HttpSender(resolve=Names(["8.8.8.8", "127.0.0.1"])) as sender:
        with pytest.raises(ForbiddenAddress):
            await sender.require_public("https://hooks.test/")


async def test_a_name_that_becomes_private_after_the_check_gets_nothing(
    receiver: Receiver,
) -> None:
    names = Names(["8.8.8.8"], ["127.0.0.1"])
    url = f"http://hooks.test:{receiver.port}/"
    async with HttpSender(resolve=names) as sender:
        await sender.require_public(url)

        answer = await sender.post(url, {}, b"{}")

    assert answer == NotReached("its host is not on the public internet")
    assert receiver.got == []


async def test_a_name_is_resolved_once_per_message_and_that_address_is_used(
    receiver: Receiver,
) -> None:
    # The system's resolver does not know this name, so the address must come from `names`.
    names = Names(["127.0.0.1"])
    async with HttpSender(allow_private=True, resolve=names) as sender:
        for _ in range(2):
            answer = await sender.post(f"http://hooks.invalid:{receiver.port}/p?q=1", {}, b"{}")
            assert answer == Answered(200)

    assert names.asked == ["hooks.invalid", "hooks.invalid"]
    assert receiver.got[0].line == "POST /p?q=1 HTTP/1.1"
    assert receiver.got[0].headers["host"] == f"hooks.invalid:{receiver.port}"


@pytest.mark.parametrize("url", ["https://127.0.0.1/", "https://[::1]/", "https://0x7f.1/",
                                 "https://2130706433/", "https://localhost/"])  # fmt: skip
async def test_other_spellings_of_localhost_are_refused(url: str) -> None:
    async with HttpSender() as sender:
        with pytest.raises(ForbiddenAddress):
            await sender.require_public(url)


async def test_a_name_that_does_not_exist_is_reported() -> None:
    async with HttpSender() as sender:
        with pytest.raises(Unresolvable):
            await sender.require_public("https://nowhere.invalid/")

        answer = await sender.post("https://nowhere.invalid/", {}, b"{}")

    assert answer == NotReached("its host is unknown")


async def test_the_next_address_is_tried_if_one_does_not_respond(receiver: Receiver) -> None:
    names = Names(["127.0.0.9", "127.0.0.1"])
    async with HttpSender(allow_private=True, resolve=names) as sender:
        answer = await sender.post(f"http://hooks.test:{receiver.port}/", {}, b"{}")

    assert answer == Answered(200)


async def test_redirects_are_not_followed(receiver: Receiver) -> None:
    away = status(307, f"location: {receiver.url}")
    async with Receiver(lambda _: away) as door, HttpSender(allow_private=True) as sender:
        answer = await sender.post(door.url, {}, b"{}")

    assert answer == Answered(307)
    assert receiver.got == []


async def test_cookies_are_not_kept(receiver: Receiver) -> None:
    receiver.answer = lambda _: status(200, "set-cookie: a=b")
    async with HttpSender(allow_private=True) as sender:
        for _ in range(2):
            await sender.post(receiver.url, {}, b"{}")

    assert "cookie" not in receiver.got[1].headers


async def test_an_endless_body_is_not_read(receiver: Receiver) -> None:
    endless = b"HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n" + b"x" * 1_000
    receiver.answer = lambda _: endless
    async with HttpSender(allow_private=True) as sender:
        assert await sender.post(receiver.url, {}, b"{}") == Answered(200)


async def test_a_receiver_that_does_not_respond_times_out() -> None:
    async def never(_: Message) -> bytes:
        await asyncio.Event().wait()
        return b""

    async with Receiver(never) as silent, HttpSender(allow_private=True, timeout_s=0.2) as sender:
        answer = await sender.post(silent.url, {}, b"{}")

    assert answer == NotReached("no response within 0.2 seconds")


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 2\r\n\r\n"])
async def test_a_response_that_is_not_http_counts_as_not_reached(
    receiver: Receiver, answer: bytes
) -> None:
    receiver.answer = lambda _: answer
    async with HttpSender(allow_private=True) as sender:
        assert isinstance(await sender.post(receiver.url, {}, b"{}"), NotReached)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a self-signed certificate of hooks.test, in one file with its key."""
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=hooks.test", "-addext", "subjectAltName=DNS:hooks.test",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    both = folder / "both.pem"
    both.write_bytes((folder / "cert.pem").read_bytes() + (folder / "key.pem").read_bytes())
    return both


@pytest.mark.parametrize(("host", "is_its_own"), [("hooks.test", True), ("other.test", False)])
async def test_the_certificate_must_match_the_name_and_not_the_address(
    certificate: Path,
    host: str,
    is_its_own: bool,  # noqa: FBT001
) -> None:
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(certificate)
    shown: list[str | None] = []
    serving.sni_callback = lambda _socket, name, _context: shown.append(name)
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with Receiver(tls=serving) as receiver:
        url = f"https://{host}:{receiver.port}/"
        resolve = Names(["127.0.0.1"])
        async with HttpSender(allow_private=True, resolve=resolve, verify=trusting) as sender:
            answer = await sender.post(url, {}, b"{}")

    assert shown == [host]
    assert (answer == Answered(200)) is is_its_own
    assert len(receiver.got) == is_its_own
