"""What the soak leads to: good answers and bad ones over HTTP, and an echo. Prints its two ports; runs until it is ended."""

import asyncio
import socket
import struct

BODY = bytes(range(256)) * 800


def reset(writer):
    """Ends a connection with RST (SO_LINGER of no time, socket(7))."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def http(reader, writer):
    """One connection. Paths are what the clients of the soak ask for."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            path = head.split(b" ", 2)[1]
            length = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            body = await reader.readexactly(length[0]) if length else b""
            if path == b"/echo":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            elif path == b"/big":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY))
            elif path == b"/chunked":
                pieces = [BODY[at : at + 9000] for at in range(0, len(BODY), 9000)]
                writer.write(
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                    + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
                    + b"0\r\n\r\n"
                )
            elif path == b"/until-closed":
                writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + BODY)
                break
            elif path == b"/interim":
                writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            elif path == b"/closes":  # says nothing of it: the next request on this connection finds it gone
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                break
            elif path == b"/reset":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY[:100]))
                await writer.drain()
                return reset(writer)
            elif path == b"/short":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY[:5000]))
                break
            elif path == b"/garbage":
                writer.write(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
                break
            elif path == b"/silent":
                break
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()
    except (asyncio.IncompleteReadError, OSError):
        pass
    finally:
        writer.close()


async def echo(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        pass
    finally:
        writer.close()


async def main():
    servers = [await asyncio.start_server(handler, "127.0.0.1", 0, backlog=1024) for handler in (http, echo)]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(main())
