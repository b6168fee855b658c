"""A copy of the active policy in Redis, under a key that other services read."""

from __future__ import annotations

import asyncio
from typing import Final, Self

import msgspec
from redis.exceptions import RedisError

from entitlements.adapters.redis.connecting import client
from entitlements.app.policy.cache_copy import CopyFailed

KEY: Final = "entitlements:policies:v1"
PUT_S: Final = 0.5


class RedisPolicyCopy:
    """Stores JSON with ``version`` and ``content``. Implements `app.policy_copy.PolicyCopy`.

    Raises AddressUnusable.
    """

    def __init__(self, url: str) -> None:
        self._redis = client(url)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._redis.aclose()

    async def put(self, version: str, content: str, *, ttl_s: int) -> None:
        value = msgspec.json.encode({"version": version, "content": content})
        try:
            async with asyncio.timeout(PUT_S):
                if ttl_s:
                    await self._redis.set(KEY, value, ex=ttl_s)
                else:
                    await self._redis.delete(KEY)
        except (RedisError, OSError) as error:  # a timeout is an OSError
            raise CopyFailed(str(error) or type(error).__name__) from error
