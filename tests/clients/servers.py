"""What the clients talk to: servers on loopback, each in threads of this process, or a process that ends with it.

One handler answers HTTP and HTTPS: bytes, echoes, a page, a WebSocket, git's own CGI program, and small package indexes. Every request's host is kept,
so that the run can prove that none reached a host that is denied.
"""

import base64
import gzip
import hashlib
import http.server
import io
import json
import os
import re
import socket
import ssl
import struct
import subprocess
import tarfile
import threading
import zipfile

PAYLOAD = hashlib.shake_128(b"netpolicy clients").digest(300_001)
PATIENCE = 20
WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE

    def log_message(self, *_):
        pass

    def answer(self, body, kind="application/octet-stream", status=200):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        found = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return found

    def any_method(self):
        world = self.server.world
        world.seen.append((self.headers.get("Host", "").rsplit(":", 1)[0], self.command, self.path))
        path, _, query = self.path.partition("?")
        if path == "/blob":
            return self.answer(PAYLOAD)
        if path == "/chunked":
            return self.chunked()
        if path == "/echo":
            return self.answer(self.body())
        if path == "/ws":
            return self.websocket()
        if path == "/page":
            return self.answer(PAGE, "text/html")
        if path == "/held.png":  # the page is not loaded before its WebSocket has done its work
            world.browser_is_done.wait(PATIENCE)
            return self.answer(b"", "image/png")
        if path.startswith("/git/"):
            return self.git(path[len("/git") :], query)
        if (found := world.files.get(path)) is not None:
            return self.answer(found[1], found[0])
        return self.answer(b"nothing here\n", "text/plain", 404)

    do_GET = do_HEAD = do_POST = do_PUT = do_OPTIONS = any_method

    def chunked(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Trailer", "X-Digest")
        self.end_headers()
        for start in range(0, len(PAYLOAD), 10_000):
            piece = PAYLOAD[start : start + 10_000]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\nX-Digest: %s\r\n\r\n" % hashlib.sha256(PAYLOAD).hexdigest().encode())

    def websocket(self):
        """Greets, then sends every message back, until the client closes (RFC 6455)."""
        key = self.headers.get("Sec-WebSocket-Key", "").encode()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key + WEBSOCKET_GUID).digest()).decode())
        self.end_headers()
        self.close_connection = True
        self.frame(1, b"hello")
        while True:
            first, second = self.rfile.read(2)
            length = second & 127
            if length >= 126:
                length = int.from_bytes(self.rfile.read(2 if length == 126 else 8), "big")
            mask = self.rfile.read(4)
            data = bytes(byte ^ mask[at % 4] for at, byte in enumerate(self.rfile.read(length)))
            if data == b"seen":
                self.server.world.browser_is_done.set()
            self.frame(first & 15, data)
            if first & 15 == 8:
                return

    def frame(self, opcode, data):
        length = (
            struct.pack("!B", len(data))
            if len(data) < 126
            else struct.pack("!BH" if len(data) < 65536 else "!BQ", 126 + (len(data) > 65535), len(data))
        )
        self.wfile.write(bytes([128 | opcode]) + length + data)

    def git(self, path, query):
        """Git's own server is a CGI program."""
        env = dict(os.environ, GIT_PROJECT_ROOT=self.server.world.git_root, GIT_HTTP_EXPORT_ALL="1", REQUEST_METHOD=self.command, PATH_INFO=path)
        env |= {"QUERY_STRING": query, "REMOTE_USER": "test", "CONTENT_TYPE": self.headers.get("Content-Type", "")}
        env |= {"HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""), "GIT_PROTOCOL": self.headers.get("Git-Protocol", "")}
        body = self.body()
        said = subprocess.run(
            ["git", "http-backend"], input=body, env=env | {"CONTENT_LENGTH": str(len(body))}, capture_output=True, timeout=PATIENCE
        )
        head, _, body = said.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.answer(body, fields.get("Content-Type", ""), int(fields.get("Status", "200").split()[0]))


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, world, tls=None, port=0):
        self.world, self.tls = world, tls
        super().__init__(("127.0.0.1", port), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self):
        return self.server_address[1]

    def get_request(self):
        connection, address = super().get_request()
        if self.tls:  # the handshake is made by the connection's own thread
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, request, client_address):
        pass  # a client that leaves, or that a test sends away, is no news


PAGE = b"""<!doctype html><title>page</title><p id=fetched><p id=spoken><script>
const request = new XMLHttpRequest();
request.open("POST", "/echo", false);
request.send("posted by the page");
document.getElementById("fetched").textContent = request.responseText;
const socket = new WebSocket(location.origin.replace("http", "ws") + "/ws");
socket.onmessage = event => {
  document.getElementById("spoken").textContent = "heard " + event.data;
  if (event.data === "hello") socket.send("seen"); else socket.close();
};
</script><img src=/held.png>
"""


def tls_context(folder, names):
    """A certificate authority and a server's certificate, made with openssl: the context of the server; `ca.pem` in the folder is what clients trust."""

    def openssl(*args):
        subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True, timeout=PATIENCE)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl(
        "req",
        "-x509",
        *key,
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
        "-days",
        "2",
        "-subj",
        "/CN=netpolicy test CA",
        "-addext",
        "keyUsage=critical,keyCertSign,cRLSign",
    )
    openssl("req", *key, "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", "/CN=netpolicy test server")
    (folder / "leaf.ext").write_text(
        "subjectAltName=" + ",".join(f"DNS:{name}" for name in names) + ",IP:127.0.0.1\nextendedKeyUsage=serverAuth\nauthorityKeyIdentifier=keyid\n"
    )
    openssl(
        "x509",
        "-req",
        "-in",
        "leaf.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "leaf.ext",
        "-out",
        "leaf.pem",
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "leaf.pem", folder / "leaf.key")
    return context


def tar(files):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def packages(bases):
    """What each package manager asks for, by path: the package `netpolicy-demo` 1.0.0 holds the payload. `bases` gives the URL that a file is found under, by ecosystem."""
    files = {}
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("netpolicy_demo/payload.bin", PAYLOAD)
        archive.writestr("netpolicy_demo/__init__.py", "")
        archive.writestr("netpolicy_demo-1.0.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: netpolicy-demo\nVersion: 1.0.0\n")
        archive.writestr("netpolicy_demo-1.0.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("netpolicy_demo-1.0.0.dist-info/RECORD", "")
    name = "netpolicy_demo-1.0.0-py3-none-any.whl"
    digest = hashlib.sha256(wheel.getvalue()).hexdigest()
    files["/simple/netpolicy-demo/"] = ("text/html", f'<a href="/wheels/{name}#sha256={digest}">{name}</a>'.encode())
    files[f"/wheels/{name}"] = ("application/octet-stream", wheel.getvalue())

    tarball = tar({"package/package.json": b'{"name":"netpolicy-demo","version":"1.0.0"}', "package/payload.bin": PAYLOAD})
    dist = {"tarball": f"{bases['npm']}/npm/-/demo.tgz", "integrity": "sha512-" + base64.b64encode(hashlib.sha512(tarball).digest()).decode()}
    entry = {"name": "netpolicy-demo", "version": "1.0.0", "dist": dist}
    document = {"name": "netpolicy-demo", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": entry}}
    files["/npm/netpolicy-demo"] = ("application/json", json.dumps(document).encode())
    files["/npm/-/demo.tgz"] = ("application/octet-stream", tarball)

    manifest = b'[package]\nname = "netpolicy-demo"\nversion = "1.0.0"\nedition = "2021"\n'
    crate = tar({f"netpolicy-demo-1.0.0/{path}": data for path, data in {"Cargo.toml": manifest, "src/lib.rs": b"", "payload.bin": PAYLOAD}.items()})
    line = {"name": "netpolicy-demo", "vers": "1.0.0", "deps": [], "features": {}, "cksum": hashlib.sha256(crate).hexdigest(), "yanked": False}
    files["/index/config.json"] = ("application/json", json.dumps({"dl": f"{bases['cargo']}/crates", "api": bases["cargo"]}).encode())
    files["/index/ne/tp/netpolicy-demo"] = ("text/plain", json.dumps(line).encode() + b"\n")
    files["/crates/netpolicy-demo/1.0.0/download"] = ("application/octet-stream", crate)

    packed = (
        f"Package: netpolicy-demo\nVersion: 1.0.0\nArchitecture: all\nMaintainer: none <none@web.test>\nFilename: ./demo.deb\nSize: {len(PAYLOAD)}\n"
    )
    packed = (packed + f"SHA256: {hashlib.sha256(PAYLOAD).hexdigest()}\nDescription: a test\n").encode()
    files["/apt/./Packages"] = files["/apt/Packages"] = ("text/plain", packed)
    files["/apt/./Packages.gz"] = files["/apt/Packages.gz"] = ("application/gzip", gzip.compress(packed))
    files["/apt/./demo.deb"] = files["/apt/demo.deb"] = ("application/octet-stream", PAYLOAD)
    return files


class Tap:
    """A CONNECT proxy without a policy that keeps what it is asked for: how the run learns which hosts a client with its own settings talks to."""

    def __init__(self):
        self.asked = set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.serve, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.connection, args=(client,), daemon=True).start()

    def connection(self, client):
        try:
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(4096) or b"\r\n\r\n"
            asked = re.match(rb"CONNECT ([^ ]+):(\d+) ", head)
            if not asked:
                return client.close()
            host, port = asked[1].decode(), int(asked[2])
            server = socket.create_connection((host, port), PATIENCE)
        except OSError:
            return client.close()
        self.asked.add((host, server.getpeername()[0]))
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        threading.Thread(target=relay, args=(server, client), daemon=True).start()
        relay(client, server)

    def close(self):
        self.listener.close()


def relay(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass
