"""A telephone line as a live session: python telephone.py ws://127.0.0.1:8080/v1/stream < 8-kHz-mu-law"""

import asyncio
import json
import sys

import numpy as np
from tornado.websocket import websocket_connect


def linear(data: bytes) -> bytes:
    """Mu-law of G.711 -> s16le."""
    x = ~np.frombuffer(data, np.uint8)
    magnitude = (((x & 15).astype(np.int16) << 3) + 132 << (x >> 4 & 7)) - 132
    return np.where(x & 128, -magnitude, magnitude).astype("<i2").tobytes()


async def main(url: str) -> None:
    connection = await websocket_connect(url, subprotocols=["npser.v1"])
    await connection.write_message(json.dumps({"type": "session.update", "rate": 8000}))

    async def send() -> None:
        while data := await asyncio.to_thread(sys.stdin.buffer.read, 800):  # 0.1 s
            await connection.write_message(linear(data), binary=True)
            await asyncio.sleep(len(data) / 8000)  # a line comes as fast as that by itself
        await connection.write_message('{"type": "session.close"}')

    sending = asyncio.ensure_future(send())
    while (text := await connection.read_message()) is not None:
        if json.loads(text)["type"] != "progress":
            print(text, flush=True)
    await sending


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
