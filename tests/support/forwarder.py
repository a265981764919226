"""A TCP forwarder between a process and a server, for partitions: it can stop forwarding without closing anything."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from urllib.parse import urlsplit


class Forwarder:
    """Forwards a loopback port to the server behind `url`, on a thread of its own.

    Attributes:
        delay: Seconds by which everything is late, in both directions.
        url: The server's address, by way of the forwarder.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = parts.port
        self.delay = 0.0
        self._loop = asyncio.new_event_loop()
        self._through = asyncio.Event()
        self._through.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        port = self._server.sockets[0].getsockname()[1]
        self.url = url.replace(f":{parts.port}", f":{port}")

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """From now on nothing gets through; connections stay open, and new ones are taken and left alone."""
        self._loop.call_soon_threadsafe(self._through.clear)

    def mend(self) -> None:
        """What waited goes on, as TCP would send it again."""
        self._loop.call_soon_threadsafe(self._through.set)

    def _call(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader, writer) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await self._through.wait()
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            try:
                await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
            finally:
                back.close()
        writer.close()

    async def _pump(self, reader, writer) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._through.wait()
                writer.write(data)
                await writer.drain()
        writer.close()
