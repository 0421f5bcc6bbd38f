import asyncio
import hashlib
import sys

import aiohttp


async def main():
    # The library heeds the environment's proxies only if it is told to.
    async with aiohttp.ClientSession(trust_env=True, timeout=aiohttp.ClientTimeout(30)) as session:
        async with session.get(sys.argv[1] + "/blob") as answer:
            print("GET", answer.status, hashlib.sha256(await answer.read()).hexdigest(), "HTTP/1.1")
        async with session.post(sys.argv[1] + "/echo", data=b"sent by aiohttp") as answer:
            print("POST", answer.status, answer.headers["x-proxy-error"])
            print(await answer.text())


asyncio.run(main())
