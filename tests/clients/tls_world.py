"""The origin with TLS, the proxy in limited mode, and the environment that the proxy gives to its children."""

import glob
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import threading

import servers
from servers import PATIENCE, PAYLOAD
from world import WEB, Failed, Proxy, Skip, World, free_port, program

POLICY = """default_permissions = "clients"
[permissions.clients.network]
enabled = true
mode = "limited"
[permissions.clients.network.domains]
"127.0.0.1" = "allow"
"web.test" = "allow"
"""
PROGRAMS = pathlib.Path(__file__).resolve().parent / "tls_programs"
DIGEST = hashlib.sha256(PAYLOAD).hexdigest()
METHOD_POLICY = "blocked-by-method-policy"
WRITES = ("POST", "PUT", "PATCH", "DELETE")
# What a client needs of the machine, and nothing that tells of proxies or certificates.
KEPT = ("PATH", "LANG", "TMPDIR", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "JAVA_HOME")


class TlsWorld(World):
    """An origin that only the proxy trusts, and a proxy that only lets read."""

    def __init__(self, folder, args):
        self.folder, self.args = folder, args
        self.seen, self.rows, self.started = [], [], []
        self.browser_is_done = threading.Event()
        self.git_root = str(folder / "git")
        self.client, self.version = "", ""
        self.home, self.state = folder / "home", folder / "state"
        self.origin_folder = folder / "origin"
        for path in (self.home, self.state, self.origin_folder):
            path.mkdir()
        self.state.chmod(0o700)
        if not program("openssl"):
            sys.exit("openssl is not installed, so there is no certificate for the origin")
        self.context = servers.tls_context(self.origin_folder, [WEB])
        self.tls = servers.Server(self, self.context)
        self.files = servers.packages({"npm": self.https(), "cargo": self.https()})
        self.fetched = {}
        self.own = {"SSL_CERT_FILE": str(self.origin_folder / "ca.pem"), "NETPROXY_STATE_DIR": str(self.state)}
        self.proxy = Proxy(args.bin, folder / "proxy", POLICY, f"127.0.0.1 {WEB}\n", env=self.plain_env(**self.own))
        self.child = self.child_env()

    def plain_env(self, **more):
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        kept.setdefault("RUSTUP_HOME", os.path.expanduser("~/.rustup"))
        return kept | {"HOME": str(self.home), "LC_ALL": "C.UTF-8", "NO_COLOR": "1"} | more

    def child_env(self):
        """What the running proxy says that a child's environment has to have."""
        command = [self.args.bin / "netproxy-dp", "env", "--shell", "json"]
        said = subprocess.run(command, env=self.plain_env(NETPROXY_STATE_DIR=str(self.state)), capture_output=True, timeout=PATIENCE)
        if said.returncode:
            raise Failed(f"netproxy-dp env: {said.stderr.decode()}")
        return json.loads(said.stdout)

    def exec_command(self, *options):
        """What starts a command through the proxy of the world's policy."""
        folder = self.folder / "proxy"
        options = options or ("--policy", folder / "policy.bin", "--hosts", folder / "hosts")
        return [self.args.bin / "netproxy-dp", "exec", *options, "--"]

    def env(self, **more):
        return self.plain_env() | self.child | more

    @property
    def authority(self):
        """The file of the proxy's own authority, without the roots of the platform."""
        found = [path for path in self.state.rglob("ca-*.pem") if "bundle" not in path.name]
        if len(found) != 1:
            raise Failed(f"{self.state} has {[path.name for path in found]} for its authority")
        return found[0]

    def second_origin(self):
        """An origin that also speaks HTTP/2; gives its URL."""
        if "h2" not in self.fetched:
            node = program("node")
            if not node:
                raise Skip("no origin that speaks HTTP/2: node is not installed")
            (self.origin_folder / "payload").write_bytes(PAYLOAD)
            port = free_port()
            files = [self.origin_folder / name for name in ("leaf.pem", "leaf.key", "payload")]
            self.serve([node, PROGRAMS / "h2_origin.mjs", *files, port], "listening", "the origin with HTTP/2", env=self.plain_env())
            self.fetched["h2"] = f"https://{WEB}:{port}"
        return self.fetched["h2"]

    def must_not_have_been_seen(self):
        return "no write reached the origin", [seen for seen in self.seen if seen[1] in WRITES]

    def blocked(self, what, argv, says="403", code=None, **how):
        """The client fails (or ends with that code), its words have those that are wanted, and the origin heard of no write."""

        def action():
            said = self.run(argv() if callable(argv) else argv, **how)
            if said.code == 0 if code is None else said.code != code:
                raise Failed(f"exit code {said.code}: {said.text}")
            for words in [says] if isinstance(says, str) else says:
                if words not in said.text:
                    raise Failed(f"says nothing of {words!r}: {said.text}")
            if reached := self.must_not_have_been_seen()[1]:
                raise Failed(f"reached the origin: {reached}")

        self.attempt(f"{what}, blocked", action)

    def both(self, what, argv, protocol=None, **how):
        """One of the programs: what it read and what came of its write are a step each."""
        lines = []

        def read():
            url = self.second_origin() if protocol == "HTTP/2" else self.https()
            said = self.run([url if word == "URL" else word for word in argv], **how)
            lines.extend(said.out.decode(errors="replace").splitlines())
            got = next((line.split() for line in lines if line.startswith("GET ")), None)
            if not got or got[1:3] != ["200", DIGEST]:
                raise Failed(f"exit code {said.code}: {said.text}")
            if protocol and got[3] != protocol:
                raise Failed(f"spoke {got[3]}")
            if said.code:
                lines.append(f"exit code {said.code}: {said.text}")

        def write():
            at = next((at for at, line in enumerate(lines) if line.startswith("POST ")), None)
            if at is None or lines[at].split() != ["POST", "403", METHOD_POLICY]:
                raise Failed("\n".join(lines))
            if '"reason":"method_not_allowed"' not in "".join(lines[at + 1 :]):
                raise Failed(f"another body: {lines[at + 1 :]}")
            if reached := self.must_not_have_been_seen()[1]:
                raise Failed(f"reached the origin: {reached}")

        self.attempt(f"GET{what}", read)
        if lines:
            self.attempt(f"POST{what}, blocked", write)

    def python(self, *libraries):
        """The folder of the libraries that this Python lacks, fetched where that is allowed; None where it lacks none."""
        if "python" not in self.fetched:
            wanted = {"requests": "requests", "httpx": "httpx[http2]", "aiohttp": "aiohttp", "uv": "uv", "awscli": "awscli", "grpc": "grpcio"}
            names = {"httpx": "httpx, h2"}
            self.fetched["missing"] = [name for name in wanted if self.run([sys.executable, "-c", f"import {names.get(name, name)}"]).code]
            path, missing = self.folder / "python", self.fetched["missing"]
            if missing and self.args.registries:
                command = [
                    sys.executable,
                    "-m",
                    "pip",
                    "install",
                    "-q",
                    "--retries=0",
                    "--timeout=15",
                    "--disable-pip-version-check",
                    "--target",
                    path,
                ]
                if not self.run([*command, *(wanted[name] for name in missing)], env=dict(os.environ), timeout=120).code:
                    self.fetched["missing"] = []
            self.fetched["python"] = path
        if lacking := [name for name in libraries if name in self.fetched["missing"]]:
            raise Skip(f"{', '.join(lacking)}: not installed, and not fetched" + ("" if self.args.registries else " without --registries"))
        return self.fetched["python"]

    def node_modules(self, *packages):
        """The folder of packages for Node, fetched where that is allowed."""
        folder, npm = self.folder / "-".join(["node", *packages]), program("npm")
        if not folder.exists():
            if not self.args.registries or not npm:
                raise Skip("not fetched without --registries" if npm else "npm is not installed")
            quiet = ["--no-audit", "--no-fund", "--fetch-retries=0", "--prefix", folder, "--cache", self.folder / "node-cache"]
            if self.run([npm, "install", *quiet, *packages], env=dict(os.environ), timeout=120).code:
                raise Skip("npm could not fetch it")
        return f"{folder}/node_modules/"


def interpreters():
    """Every Python from 3.13 on that the machine has, by version: these verify strictly by default."""
    found = {}
    places = [*os.environ.get("PATH", "").split(os.pathsep), *glob.glob(os.path.expanduser("~/.pyenv/versions/*/bin")), "/usr/local/bin"]
    for minor in range(13, 20):
        for place in places:
            path = os.path.join(place, f"python3.{minor}")
            if "shims" not in place and os.access(path, os.X_OK):
                found.setdefault(minor, path)
    return found
