"""The way into a testbed from the machine: a port on the loopback address that leads to the same port inside.

usage: door.py NETWORK PORT_FILE

It listens outside, on any free port or on that of PORT_FILE if there is one, writes it there, and then enters the network
namespace, where it connects for every client.
"""

import asyncio
import contextlib
import os
import socket
import sys
from pathlib import Path

import host


async def pass_on(reader, writer):
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def serve(listener, port):
    async def lead_in(reader, writer):
        try:
            with contextlib.suppress(OSError):
                inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    await asyncio.gather(pass_on(reader, inner_writer), pass_on(inner_reader, writer))
                finally:
                    inner_writer.transport.abort()
        finally:
            writer.transport.abort()

    async with await asyncio.start_server(lead_in, sock=listener) as server:
        await server.serve_forever()


def main():
    network, file = Path(sys.argv[1]), Path(sys.argv[2])
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(file.read_text()) if file.exists() else 0))
    port = listener.getsockname()[1]
    unfinished = file.with_suffix(".new")
    unfinished.write_text(f"{port}\n")
    os.rename(unfinished, file)
    host.enter_network(network.name)
    asyncio.run(serve(listener, port))


if __name__ == "__main__":
    main()
