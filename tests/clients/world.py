"""The proxy, the servers and the table: what each client's exchanges are tried with."""

import collections
import json
import os
import pathlib
import re
import select
import shutil
import socket
import subprocess
import threading
import time
import zipfile

import servers
from servers import PATIENCE, PAYLOAD

WEB, READING, DENIED = "web.test", "reading.test", "denied.test"
POLICY = """default_permissions = "clients"
[permissions.clients.network]
enabled = true
[permissions.clients.network.domains]
"127.0.0.1" = "allow"
"web.test" = "allow"
"reading.test" = "read-only"
"**.denied.test" = { access = "deny", reason = "the run says so" }
"""
# Variables that lead a client past the proxy, or to other settings than the run's.
FOREIGN = re.compile(
    r"(?i)(.*_proxy|no_proxy|pip_.*|npm_config_.*|cargo_(http|net|registr|source).*|git_(ssh|config|proxy|ssl).*|ssl_cert.*|node_(options|extra.*|use.*)|"
    r"(curl|requests)_ca_bundle)$"
)
BLOCKED = "Blocked by network policy (denied)"


class Skip(Exception):
    """The client cannot be tried here; says why."""


class Failed(Exception):
    """Not what was expected; says what was."""


Said = collections.namedtuple("Said", "code out text")


def wait_for_line(stream, wanted, what):
    """Reads from a process until a line of it has what is wanted, and gives all lines."""
    deadline, said = time.monotonic() + PATIENCE, ""
    while not re.search(wanted, said):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([stream], [], [], left)[0]:
            raise Failed(f"{what} did not start in time: {said}")
        chunk = os.read(stream.fileno(), 4096)
        if not chunk:
            raise Failed(f"{what} ended: {said}")
        said += chunk.decode(errors="replace")
    return said


class Proxy:
    """A netproxy-dp with a policy of its own."""

    def __init__(self, binaries, folder, policy, hosts, *options, env=None):
        folder.mkdir()
        (folder / "config.toml").write_text(policy)
        (folder / "hosts").write_text(hosts)
        compiled = [binaries / "netpolicy", "compile", "--user", "config.toml", "-o", "policy.bin", "--strict"]
        subprocess.run(compiled, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=PATIENCE)
        command = [binaries / "netproxy-dp", "--json", "--policy", "policy.bin", "--hosts", "hosts", "--drain", "2", *options]
        command += [word for name in ("http", "socks", "admin") for word in (f"--{name}-listen", "127.0.0.1:0")]
        self.log = folder / "stderr"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        said = wait_for_line(self.process.stdout, '"admin"', "the proxy")
        lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        found = {line["listener"]: line["address"] for line in lines if line.get("event") == "listening"}
        self.address, self.socks, self.admin = found["http"], found["socks5"], found["admin"]
        # What it prints from here on is read, so that it never waits for a reader.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    @property
    def url(self):
        return f"http://{self.address}"

    def stop(self):
        """Asks it to end; gives what is wrong with how it did."""
        if self.process.poll() is not None:
            return f"the proxy ended by itself with code {self.process.returncode}: {self.log.read_text()[-500:]}"
        self.process.terminate()
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return "the proxy did not end after SIGTERM"
        said = self.log.read_text()
        return f"code {code}: {said[-500:]}" if code or "panicked" in said else None


class World:
    """The servers, the proxy, and the table of what came of it."""

    def __init__(self, folder, args):
        self.folder, self.args = folder, args
        self.seen, self.rows, self.started = [], [], []
        self.browser_is_done = threading.Event()
        self.git_root = str(folder / "git")
        self.client, self.version = "", ""
        self.home = folder / "home"
        self.home.mkdir()
        self.web = servers.Server(self)
        self.tls = None
        if shutil.which("openssl"):
            self.tls = servers.Server(self, servers.tls_context(folder, [WEB, READING, DENIED]))
        # A package file comes from another place than its index, where the ecosystem has it so.
        self.files = servers.packages({"npm": self.http(), "cargo": self.http()})
        hosts = "".join(f"127.0.0.1 {name}\n" for name in (WEB, READING, DENIED))
        self.proxy = Proxy(args.bin, folder / "proxy", POLICY, hosts)

    def http(self, path="", host=WEB):
        return f"http://{host}:{self.web.port}{path}"

    def https(self, path="", host=WEB):
        if not self.tls:
            raise Skip("openssl is not installed, so there is no certificate")
        return f"https://{host}:{self.tls.port}{path}"

    def env(self, proxy=None, **more):
        """An environment in which this proxy is the only one, and the run's authority is trusted."""
        proxy = proxy or self.proxy.url
        kept = {name: value for name, value in os.environ.items() if not FOREIGN.match(name)}
        kept.setdefault("RUSTUP_HOME", os.path.expanduser("~/.rustup"))
        ca = str(self.folder / "ca.pem")
        trusted = (
            {name: ca for name in ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS")}
            if self.tls
            else {}
        )
        proxies = {name: proxy for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "HTTP_PROXY")}
        return kept | trusted | proxies | {"HOME": str(self.home), "LC_ALL": "C.UTF-8", "THROUGH": proxy} | more

    def own_env(self, proxy, **more):
        """The client's own settings, with this proxy."""
        kept = {name: value for name, value in os.environ.items() if not re.match("(?i).*_proxy$", name)}
        return kept | {name: proxy for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "HTTP_PROXY", "CARGO_HTTP_PROXY")} | more

    def run(self, argv, env=None, data=b"", timeout=60, cwd=None):
        try:
            done = subprocess.run(
                [str(word) for word in argv], env=env or self.env(), input=data, capture_output=True, timeout=timeout, cwd=cwd or self.folder
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"no answer in {timeout} s") from None
        return Said(done.returncode, done.stdout, (done.stdout + done.stderr).decode(errors="replace"))

    def record(self, what, result, reason=""):
        self.rows.append((self.client, result))
        print(f"{self.client:<18} {self.version:<18} {what:<62} {result}{': ' + reason if reason else ''}", flush=True)

    def attempt(self, what, action):
        try:
            action()
            self.record(what, "ok")
        except Skip as reason:
            self.record(what, "skip", str(reason))
        except (Failed, OSError, subprocess.SubprocessError, ValueError) as error:
            self.record(what, "FAIL", " ".join(str(error).split())[-600:])

    def allowed(self, what, argv, want=PAYLOAD, file=None, code=0, **how):
        """The client ends well; what it got is the payload, or has the words that are wanted."""

        def action():
            said = self.run(argv() if callable(argv) else argv, **how)
            if said.code != code:
                raise Failed(f"exit code {said.code}: {said.text}")
            got = pathlib.Path(file).read_bytes() if file else said.out
            if isinstance(want, bytes) and got != want:
                raise Failed(f"{len(got)} bytes, and not the {len(want)} that were sent: {said.text[-300:]!r}")
            if isinstance(want, str) and want not in (got.decode(errors="replace") if file else said.text):
                raise Failed(f"says nothing of {want!r}: {said.text}")

        self.attempt(what, action)

    def denied(self, what, argv, says=BLOCKED, code=None, **how):
        """The client fails (or ends with that code), its words have those that are wanted, and no server heard of it."""

        def action():
            said = self.run(argv() if callable(argv) else argv, **how)
            if said.code == 0 if code is None else said.code != code:
                raise Failed(f"exit code {said.code}: {said.text}")
            for words in [says] if isinstance(says, str) else says:
                if words not in said.text:
                    raise Failed(f"says nothing of {words!r}: {said.text}")
            if reached := [seen for seen in self.seen if seen[0] == DENIED]:
                raise Failed(f"reached the server: {reached}")

        self.attempt(f"{what}, denied", action)

    def serve(self, argv, line, what, **how):
        """A server that is a process of its own; ends with the run."""
        process = subprocess.Popen([str(word) for word in argv], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **how)
        self.started.append(process)
        wait_for_line(process.stderr, line, what)
        threading.Thread(target=process.stderr.read, daemon=True).start()
        return process

    def must_not_have_been_seen(self):
        """A name for what no server may have seen, and what of it was."""
        return "nothing reached a denied host", [seen for seen in self.seen if seen[0] == DENIED]

    def stop(self):
        for process in self.started:
            process.terminate()
        for process in self.started:
            process.wait()


def free_port():
    """For a server that cannot say which port it took."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def program(name, *places):
    """Where a program is, those that only root has in its path included."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/local/sbin"]))
    return found or next((place for place in places if os.access(place, os.X_OK)), None)


def own_registry(w, what, argv, **env):
    """The client with its own settings: first beside the proxy, to learn whom it asks, then through one whose policy is for these hosts, then through one that denies them."""
    if not w.args.registries:
        return w.record(what, "skip", "not without --registries")
    tap = servers.Tap()
    try:
        direct = w.run(argv("direct"), env=w.own_env(tap.url, **env), timeout=100)
    except Failed as error:
        return w.record(what, "skip", f"the registry is out of reach: {error}")
    finally:
        tap.close()
    if direct.code or not tap.asked:
        return w.record(what, "skip", "the registry is out of reach" if direct.code else "no registry was asked")
    # A mirror may well stand on a private network, so its address is opened too.
    rules = "".join(f'"{name}" = "allow"\n' for name in sorted({name for pair in tap.asked for name in pair}))
    name = re.sub(r"\W", "-", f"{w.client}-{what}")
    for access, label in [("allow", "open"), ("deny", "closed")]:
        proxy = Proxy(w.args.bin, w.folder / f"{name}-{label}", POLICY + rules.replace("allow", access), "")
        try:
            how = {"env": w.own_env(proxy.url, **env), "timeout": 100}
            if access == "allow":
                w.allowed(f"{what}, {len(tap.asked)} hosts", argv(label), want=None, **how)
            else:
                w.denied(what, argv(label), says="403", **how)
        finally:
            if wrong := proxy.stop():
                w.record(f"{what}: the proxy", "FAIL", wrong)


def same_in_zip(path, member):
    if not path.exists():
        raise Skip("it was not fetched")
    if zipfile.ZipFile(path).read(member) != PAYLOAD:
        raise Failed("other bytes")


def same_below(folder, name):
    found = list(folder.rglob(name))
    if not found:
        raise Failed(f"there is no {name}")
    if found[0].read_bytes() != PAYLOAD:
        raise Failed("other bytes")


CLIENTS = []


def client(name, program_name=None, version=("--version",)):
    """A client of the table: the function makes its exchanges; it is skipped when the program is missing."""

    def register(function):
        CLIENTS.append((name, program_name or name, version, function))
        return function

    return register
