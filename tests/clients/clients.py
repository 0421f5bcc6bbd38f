"""The clients, in the order of the table. Each is a function that gets the world and where its program is."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

from servers import PATIENCE, PAYLOAD
from world import BLOCKED, DENIED, READING, WEB, Failed, Skip, client, free_port, own_registry, program, same_below, same_in_zip

HERE = pathlib.Path(__file__).resolve().parent
CONNECT = HERE / "connect"


def is_our_json(said):
    body = json.loads(said.out)
    found = {key: body.get(key) for key in ("status", "reason", "rule", "layer", "host")}
    if found != {"status": "blocked", "reason": "denied", "rule": "**.denied.test", "layer": "user", "host": DENIED}:
        raise Failed(f"another answer: {body}")


@client("curl")
def curl(w, curl):
    quiet = [curl, "-sS", "--max-time", "30"]
    socks5, socks5h, socks4 = (["-x", f"{scheme}://{w.proxy.socks}"] for scheme in ("socks5", "socks5h", "socks4"))
    blob = w.http("/blob")
    (w.folder / "upload").write_bytes(PAYLOAD)
    w.allowed("GET http", [*quiet, blob])
    w.allowed("GET http, HTTP/1.0", [*quiet, "-0", blob])
    w.allowed("GET http, chunked answer", [*quiet, w.http("/chunked")])
    w.allowed("PUT http, with Expect: 100-continue", [*quiet, "-T", "upload", "-H", "Expect: 100-continue", w.http("/echo")])
    w.allowed("PUT http, chunked", [*quiet, "-T", "-", w.http("/echo")], data=PAYLOAD)
    w.allowed("GET http twice, one connection", [*quiet, "-o", "/dev/null", blob, blob, "-w", "%{num_connects}"], want="10")
    w.allowed("CONNECT to http", [*quiet, "-p", blob])
    w.attempt("GET http denied: the JSON says which rule", lambda: is_our_json(w.run([*quiet, w.http("/blob", DENIED)])))
    w.allowed("GET http, read-only host", [*quiet, w.http("/blob", READING)])
    w.denied("PUT http, read-only host", [*quiet, "-T", "upload", w.http("/echo", READING)], says='"reason":"method_not_allowed"', code=0)
    w.allowed("GET https", lambda: [*quiet, w.https("/blob")])
    w.allowed("GET https, chunked answer", lambda: [*quiet, w.https("/chunked")])
    w.denied("GET https", lambda: [*quiet, "-v", w.https("/blob", DENIED)], code=56)
    w.allowed("socks5", [*quiet, *socks5, f"http://127.0.0.1:{w.web.port}/blob"])
    w.denied("socks5, an address that no rule has", [*quiet, *socks5, f"http://127.0.0.2:{w.web.port}/blob"], says="(2)", code=97)
    w.allowed("socks5h", [*quiet, *socks5h, blob])
    w.allowed("socks5h to https", lambda: [*quiet, *socks5h, w.https("/blob")])
    w.denied("socks5h", [*quiet, *socks5h, w.http("/blob", DENIED)], says="(2)", code=97)
    w.denied("socks4", [*quiet, *socks4, f"http://127.0.0.1:{w.web.port}/blob"], says="SOCKS4", code=97)


@client("wget")
def wget(w, wget):
    quiet = [wget, "-nv", "-O", "-", "--tries=1", "--timeout=30"]
    w.allowed("GET http", [*quiet, w.http("/blob")])
    w.denied("GET http", [*quiet, w.http("/blob", DENIED)], code=8)
    w.allowed("GET https", lambda: [*quiet, f"--ca-certificate={w.folder}/ca.pem", w.https("/blob")])
    w.denied("GET https", lambda: [*quiet, w.https("/blob", DENIED)])


@client("openssl", version=("version",))
def openssl(w, openssl):
    def s_client(host):
        port = w.https("").rsplit(":", 1)[1]
        return [
            openssl,
            "s_client",
            "-proxy",
            w.proxy.address,
            "-connect",
            f"{host}:{port}",
            "-servername",
            host,
            "-CAfile",
            "ca.pem",
            "-verify_return_error",
            "-quiet",
            "-no_ign_eof",
        ]

    def exchange():
        request = f"GET /blob HTTP/1.0\r\nHost: {WEB}\r\n\r\n".encode()
        # The end of the input would end the session before the answer, so it is kept open until the server closes.
        with subprocess.Popen(
            s_client(WEB), cwd=w.folder, env=w.env(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            process.stdin.write(request)
            process.stdin.flush()
            got = process.stdout.read()
        if not got.endswith(PAYLOAD):
            raise Failed(f"{len(got)} bytes, without the payload")

    w.attempt("s_client -proxy", exchange)
    w.denied("s_client -proxy", lambda: s_client(DENIED), says="403")


@client("ab", version=("-V",))
def ab(w, ab):
    command = [ab, "-q", "-n", "200", "-c", "8", "-k", "-X", w.proxy.address]
    w.allowed("200 requests, HTTP/1.0 with keep-alive", [*command, w.http("/blob")], want="Complete requests:      200\nFailed requests:        0")
    w.denied("200 requests", [*command, w.http("/blob", DENIED)], says="Non-2xx responses:      200", code=0)


@client("git")
def git(w, git):
    me = ["-c", "user.name=t", "-c", "user.email=t@web.test", "-c", "init.defaultBranch=main", "-c", "protocol.version=2"]
    bare = pathlib.Path(w.git_root) / "repo.git"
    if not bare.exists():
        work = w.folder / "work"
        for args in (["init", "-q", "--bare", bare], ["-C", bare, "config", "http.receivepack", "true"], ["init", "-q", work]):
            subprocess.run([git, *me, *args], check=True, env=w.env(), timeout=PATIENCE)
        (work / "payload.bin").write_bytes(PAYLOAD)
        for args in (["add", "."], ["commit", "-q", "-m", "first"]):
            subprocess.run([git, *me, "-C", work, *args], check=True, env=w.env(), timeout=PATIENCE)
    env = {"GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1"}

    def exchange(what, push, clone, denied, says, **more):
        copy = w.folder / f"clone {what}"
        how = {"env": w.env(**env, **more)}
        w.allowed(
            f"push, {what}",
            lambda: [git, *me, "-C", w.folder / "work", "push", "-q", push() if callable(push) else push, f"main:{what.replace(' ', '-')}"],
            want=None,
            **how,
        )
        w.allowed(
            f"clone, {what}",
            lambda: [git, *me, "clone", "-q", "-b", what.replace(" ", "-"), clone() if callable(clone) else clone, copy],
            file=copy / "payload.bin",
            **how,
        )
        w.denied(f"clone, {what}", lambda: [git, *me, "clone", "-q", denied() if callable(denied) else denied, w.folder / "never"], says=says, **how)

    path = "/git/repo.git"
    exchange("http", w.http(path), w.http(path), w.http(path, DENIED), "error: 403")
    exchange("https", lambda: w.https(path), lambda: w.https(path), lambda: w.https(path, DENIED), "response 403")
    socks = {name: f"socks5h://{w.proxy.socks}" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")}
    exchange("socks5h", w.http(path), w.http(path), w.http(path, DENIED), "(2)", **socks)

    # The protocol of git's daemon, through a program that makes the tunnel.
    port = free_port()
    w.serve(
        [
            git,
            "daemon",
            "--reuseaddr",
            "--verbose",
            "--export-all",
            "--enable=receive-pack",
            f"--base-path={w.git_root}",
            "--listen=127.0.0.1",
            f"--port={port}",
        ],
        "Ready to rumble",
        "git daemon",
        env=w.env(),
    )
    exchange(
        "git protocol by CONNECT",
        f"git://{WEB}:{port}/repo.git",
        f"git://{WEB}:{port}/repo.git",
        f"git://{DENIED}:{port}/repo.git",
        BLOCKED,
        GIT_PROXY_COMMAND=str(CONNECT),
    )


def sshd_port(w):
    """A server for this user alone, with keys made for the run."""
    if hasattr(w, "sshd_port"):
        return w.sshd_port
    sshd = program("sshd")
    if not sshd:
        raise Skip("no sshd to talk to (openssh-server)")
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", w.folder / key], check=True, timeout=PATIENCE)
    shutil.copy(w.folder / "user.pub", w.folder / "authorized")
    if os.getuid() == 0:  # where the package's service would have made it
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    options = {
        "HostKey": w.folder / "host",
        "AuthorizedKeysFile": w.folder / "authorized",
        "StrictModes": "no",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
        "PidFile": "none",
    }
    options |= {"KbdInteractiveAuthentication": "no", "PermitRootLogin": "yes"}
    port = free_port()
    argv = [sshd, "-D", "-e", "-f", "/dev/null", "-p", str(port), "-o", "ListenAddress=127.0.0.1"]
    for name, value in options.items():
        argv += ["-o", f"{name}={value}"]
    w.serve(argv, "Server listening", "sshd", env=w.env())
    w.sshd_port = port
    return port


@client("ssh", version=("-V",))
def ssh(w, ssh):
    port = sshd_port(w)
    host, _, socks_port = w.proxy.socks.rpartition(":")
    ways = {
        "a helper, CONNECT": (f"env THROUGH={w.proxy.url} {CONNECT} %h %p", BLOCKED),
        "a helper, SOCKS5": (f"env THROUGH=socks5h://{w.proxy.socks} {CONNECT} %h %p", "SOCKS5 reply 2"),
    }
    nc, ncat = program("nc.openbsd", "/bin/nc.openbsd"), program("ncat")
    if nc:
        ways["nc -X connect"] = (f"{nc} -X connect -x {w.proxy.address} %h %p", "Proxy error")
        ways["nc -X 5"] = (f"{nc} -X 5 -x {w.proxy.socks} %h %p", "")
    if ncat:
        ways["ncat, CONNECT"] = (f"{ncat} --proxy-type http --proxy {w.proxy.address} %h %p", "403")
        ways["ncat, SOCKS5"] = (f"{ncat} --proxy-type socks5 --proxy-dns remote --proxy {w.proxy.socks} %h %p", "")
    quiet = [
        ssh,
        "-F",
        "none",
        "-i",
        w.folder / "user",
        "-p",
        port,
        "-o",
        "BatchMode=yes",
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "StrictHostKeyChecking=no",
    ]
    (w.folder / "sent.bin").write_bytes(PAYLOAD)
    for what, (command, says) in ways.items():
        through = [*quiet, "-o", f"ProxyCommand={command}"]
        w.allowed(f"ProxyCommand {what}, both ways", [*through, WEB, "cat"], data=PAYLOAD)
        w.denied(f"ProxyCommand {what}", [*through, DENIED, "cat"], says=says, code=255)
    if not (pathlib.Path(w.git_root) / "repo.git").exists():
        return
    for scheme, proxy in (("CONNECT", w.proxy.url), ("SOCKS5", f"socks5h://{w.proxy.socks}")):
        copy, env = w.folder / f"ssh-clone-{scheme}", w.env(proxy, GIT_SSH_COMMAND=" ".join(map(str, quiet)) + f" -o 'ProxyCommand={CONNECT} %h %p'")
        clone = [program("git"), "clone", "-q", "-b", "http"]
        w.allowed(f"git clone over SSH, {scheme}", [*clone, f"ssh://{WEB}:{port}{w.git_root}/repo.git", copy], file=copy / "payload.bin", env=env)
        w.denied(
            f"git clone over SSH, {scheme}",
            [*clone, f"ssh://{DENIED}:{port}{w.git_root}/repo.git", w.folder / "never"],
            says=BLOCKED if scheme == "CONNECT" else "SOCKS5 reply 2",
            env=env,
        )


@client("pip", program_name=sys.executable, version=("-m", "pip", "--version"))
def pip(w, python):
    if w.run([python, "-m", "pip", "--version"]).code:
        raise Skip("not installed")
    download = [python, "-m", "pip", "download", "-vv", "--no-deps", "--no-cache-dir", "--retries=1", "--disable-pip-version-check"]
    wheel = "netpolicy_demo-1.0.0-py3-none-any.whl"

    def fetch(scheme, host, to):
        base = getattr(w, scheme)("/simple/", host)
        trusted = ["--trusted-host", f"{host}:{base.split(':')[2].split('/')[0]}"] if scheme == "http" else []
        return [*download, *trusted, "--index-url", base, "-d", w.folder / to, "netpolicy-demo"]

    for scheme, says in (("http", "403"), ("https", BLOCKED)):
        to = f"pip-{scheme}"
        w.allowed(f"index and wheel, {scheme}", lambda: fetch(scheme, WEB, to), want=None)
        w.attempt(f"the wheel's bytes, {scheme}", lambda: same_in_zip(w.folder / to / wheel, "netpolicy_demo/payload.bin"))
        w.denied(f"index, {scheme}", lambda: fetch(scheme, DENIED, "never"), says=says)
    own_registry(w, "its own index", lambda to: [*download, "-d", w.folder / f"pip-own-{to}", "six==1.16.0"], PIP_FIND_LINKS="")


@client("npm")
def npm(w, npm):
    quiet = ["--fetch-retries=0", "--no-update-notifier", "--no-audit", "--no-fund", "--cache", w.folder / "npm-cache", "--loglevel=error"]

    def install(url, to):
        (w.folder / to).mkdir(exist_ok=True)
        (w.folder / to / "package.json").write_text("{}")
        return [npm, "install", *quiet, "--prefix", w.folder / to, "--registry", url, "netpolicy-demo@1.0.0"]

    for scheme, says in (("http", "403"), ("https", "403")):
        to = f"npm-{scheme}"
        w.allowed(
            f"package and tarball, {scheme}",
            lambda: install(getattr(w, scheme)("/npm/"), to),
            want=PAYLOAD,
            file=w.folder / to / "node_modules/netpolicy-demo/payload.bin",
        )
        shutil.rmtree(w.folder / "npm-cache", ignore_errors=True)
        w.denied(f"package, {scheme}", lambda: install(getattr(w, scheme)("/npm/", DENIED), "never"), says=says)
    own_registry(w, "its own registry", lambda to: [npm, "view", "is-number", "version", *quiet, "--cache", w.folder / f"npm-own-{to}"])


@client("cargo")
def cargo(w, cargo):
    def fetch(index, to):
        project = w.folder / f"cargo-{to}"
        (project / "src").mkdir(parents=True, exist_ok=True)
        (project / "src/lib.rs").write_text("")
        dependency = 'netpolicy-demo = { version = "1", registry = "local" }' if index else 'is-even = "1"'
        (project / "Cargo.toml").write_text(
            f'[package]\nname = "a"\nversion = "0.1.0"\nedition = "2021"\n[dependencies]\n{dependency}\n[workspace]\n'
        )
        local = ["--config", f'registries.local.index="sparse+{index}"'] if index else []
        return [cargo, "fetch", "-q", *local, "--config", "net.retry=0", "--manifest-path", project / "Cargo.toml"]

    def env(to, **more):
        return w.env(CARGO_HOME=str(w.folder / f"cargo-home-{to}"), CARGO_HTTP_PROXY=w.proxy.url, **more)

    for scheme in ("http", "https"):
        ca = {"CARGO_HTTP_CAINFO": str(w.folder / "ca.pem")} if scheme == "https" else {}
        w.allowed(f"sparse index and crate, {scheme}", lambda: fetch(getattr(w, scheme)("/index/"), scheme), want=None, env=env(scheme, **ca))
        w.attempt(f"the crate's bytes, {scheme}", lambda: same_below(w.folder / f"cargo-home-{scheme}", "netpolicy-demo-1.0.0/payload.bin"))
        w.denied(
            f"sparse index, {scheme}",
            lambda: fetch(getattr(w, scheme)("/index/", DENIED), f"never-{scheme}"),
            says="403",
            env=env(f"never-{scheme}", **ca),
        )
    own_registry(w, "its own registry", lambda to: fetch(None, f"own-{to}"), CARGO_HOME=str(own_cargo_home(w)), RUSTUP_HOME=w.env()["RUSTUP_HOME"])


def own_cargo_home(w):
    """The user's own settings of cargo, without what cargo has fetched."""
    home, own = w.folder / "cargo-home-own", pathlib.Path(os.environ.get("CARGO_HOME", os.path.expanduser("~/.cargo")))
    home.mkdir(exist_ok=True)
    for name in ("config.toml", "config", "credentials.toml"):
        if (own / name).exists():
            shutil.copy(own / name, home / name)
    return home


@client("apt-get")
def apt_get(w, apt_get):
    def command(host, to):
        folder = w.folder / f"apt-{to}"
        for name in ("lists/partial", "cache/archives/partial", "etc", "down"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "sources.list").write_text(f"deb [trusted=yes] {w.http('/apt', host)} ./\n")
        (folder / "status").write_text("")
        options = {
            "Acquire::http::Proxy": w.proxy.url,
            "Dir::Etc::sourcelist": folder / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::Etc::main": "-",
            "Dir::Etc::parts": "-",
        }
        options |= {
            "Dir::State::lists": folder / "lists",
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder / "cache",
            "APT::Sandbox::User": "root",
            "Acquire::Retries": "0",
        }
        options |= {"APT::Update::Error-Mode": "any", "Acquire::Languages": "none", "Debug::NoLocking": "true"}
        return [apt_get, "-q", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]

    env = w.env("", http_proxy="", https_proxy="")
    w.allowed("update", [*command(WEB, "web"), "update"], want=None, env=env)
    w.allowed(
        "download",
        [*command(WEB, "web"), "download", "netpolicy-demo"],
        file=w.folder / "apt-web/down/netpolicy-demo_1.0.0_all.deb",
        env=env,
        cwd=w.folder / "apt-web/down",
    )
    w.denied("update", [*command(DENIED, "denied"), "update"], says=BLOCKED, env=env)


def in_python(w, library, code):
    """A program that gets its URL as argument. The library is fetched into the run's folder where it is not installed."""
    env = w.env()
    if w.run([sys.executable, "-c", f"import {library}"]).code:
        if not w.args.registries:
            raise Skip("not installed, and not fetched without --registries")
        path = w.folder / "python"
        fetched = w.run(
            [sys.executable, "-m", "pip", "install", "-q", "--retries=0", "--timeout=15", "--target", path, library], env=dict(os.environ), timeout=90
        )
        if fetched.code:
            raise Skip("not installed, and pip could not fetch it")
        env["PYTHONPATH"] = str(path)
    w.version = (
        w.run([sys.executable, "-c", f"import {library}; print(getattr({library}, '__version__', ''))"], env=env).out.decode().strip() or w.version
    )
    return [sys.executable, "-c", f"import sys, {library}\nurl = sys.argv[1]\n{code}"], env


@client("urllib", program_name=sys.executable)
def urllib(w, python):
    program = [python, "-c", "import sys, urllib.request\nsys.stdout.buffer.write(urllib.request.urlopen(sys.argv[1], timeout=30).read())"]
    for scheme, says in (("http", BLOCKED), ("https", BLOCKED)):
        w.allowed(f"GET {scheme}", lambda: [*program, getattr(w, scheme)("/blob")])
        w.denied(f"GET {scheme}", lambda: [*program, getattr(w, scheme)("/blob", DENIED)], says=says)


@client("requests", program_name=sys.executable, version=())
def requests(w, _):
    program, env = in_python(
        w, "requests", "answer = requests.get(url, timeout=30)\nanswer.raise_for_status()\nsys.stdout.buffer.write(answer.content)"
    )
    post, _ = in_python(w, "requests", "sys.stdout.buffer.write(requests.post(url, data=iter([sys.stdin.buffer.read()]), timeout=30).content)")
    for scheme, says in (("http", BLOCKED), ("https", BLOCKED)):
        w.allowed(f"GET {scheme}", lambda: [*program, getattr(w, scheme)("/blob")], env=env)
        w.allowed(f"POST {scheme}, chunked", lambda: [*post, getattr(w, scheme)("/echo")], data=PAYLOAD, env=env)
        w.denied(f"GET {scheme}", lambda: [*program, getattr(w, scheme)("/blob", DENIED)], says=says, env=env)


@client("websockets", program_name=sys.executable, version=())
def websockets(w, _):
    code = """
from websockets.sync.client import connect
with connect(url, open_timeout=20) as socket:
    assert socket.recv(timeout=20) == "hello"
    sent = sys.stdin.buffer.read()
    socket.send(sent)
    sys.stdout.buffer.write(socket.recv(timeout=20))
"""
    program, env = in_python(w, "websockets", code)
    if tuple(map(int, w.version.split(".")[:1])) < (15,):
        raise Skip("versions before 15 know no proxies")
    for scheme in ("http", "https"):
        w.allowed(
            f"echo, {scheme.replace('http', 'ws')}", lambda: [*program, getattr(w, scheme)("/ws").replace("http", "ws", 1)], data=PAYLOAD, env=env
        )
        w.denied(
            f"echo, {scheme.replace('http', 'ws')}",
            lambda: [*program, getattr(w, scheme)("/ws", DENIED).replace("http", "ws", 1)],
            says="403",
            env=env,
        )


UPGRADE = """
const proxy = new URL(process.env.http_proxy), url = new URL(process.argv[1]), http = require("http");
const request = http.request({host: proxy.hostname, port: proxy.port, path: url.href, headers: {
  host: url.host, connection: "Upgrade", upgrade: "websocket", "sec-websocket-version": 13, "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="}});
request.on("response", answer => { console.log(answer.statusCode, answer.statusMessage); process.exit(1); });
request.on("upgrade", (answer, socket, head) => {
  let got = head;
  const look = () => { if (got.length >= 7) { console.log(answer.headers["sec-websocket-accept"], got.subarray(2, 7).toString()); process.exit(0); } };
  socket.on("data", data => { got = Buffer.concat([got, data]); look(); });
  look();
});
request.end();
"""
FETCH = """
fetch(process.argv[1], {signal: AbortSignal.timeout(30000)})
  .then(async answer => { if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`); process.stdout.write(Buffer.from(await answer.arrayBuffer())); })
  .catch(error => { console.error(error, error.cause); process.exitCode = 1; });
"""


@client("node")
def node(w, node):
    w.allowed("http.request with Upgrade, absolute form", [node, "-e", UPGRADE, w.http("/ws")], want="s3pPLMBiTxaQ9kYGzzhZRbK+xOo= hello")
    w.denied("http.request with Upgrade, absolute form", [node, "-e", UPGRADE, w.http("/ws", DENIED)], says=BLOCKED)
    env, before, what = w.env(NODE_USE_ENV_PROXY="1"), "", "fetch, NODE_USE_ENV_PROXY"
    if b"--use-env-proxy" not in w.run([node, "--help"]).out:
        if not w.args.registries or not program("npm"):
            return w.record("fetch", "skip", "this version has no NODE_USE_ENV_PROXY, and undici is not fetched without --registries")
        fetched = w.run(
            [
                program("npm"),
                "install",
                "--no-audit",
                "--no-fund",
                "--fetch-retries=0",
                "--prefix",
                w.folder / "undici",
                "--cache",
                w.folder / "undici-cache",
                "undici@6",
            ],
            env=dict(os.environ),
            timeout=90,
        )
        if fetched.code:
            return w.record("fetch", "skip", "this version has no NODE_USE_ENV_PROXY, and npm could not fetch undici")
        env, what = w.env(NODE_PATH=str(w.folder / "undici/node_modules")), "fetch, undici's ProxyAgent"
        before = "const {ProxyAgent, fetch} = require('undici'); require('undici').setGlobalDispatcher(new ProxyAgent(process.env.http_proxy));"
    for scheme in ("http", "https"):
        w.allowed(f"{what}, {scheme}", lambda: [node, "-e", before + FETCH, getattr(w, scheme)("/blob")], env=env)
        w.denied(f"{what}, {scheme}", lambda: [node, "-e", before + FETCH, getattr(w, scheme)("/blob", DENIED)], says="403", env=env)


@client("chromium", program_name="chromium|/usr/bin/chromium-browser|/usr/bin/google-chrome")
def chromium(w, chromium):
    def browse(url, proxy, *more):
        w.browser_is_done.clear()
        shutil.rmtree(w.folder / "browser", ignore_errors=True)
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-dev-shm-usage",
        ]
        return [chromium, *flags, f"--user-data-dir={w.folder}/browser", f"--proxy-server={proxy}", "--timeout=20000", *more, "--dump-dom", url]

    both = ["posted by the page</p>", "heard seen</p>"]

    def page(what, url, proxy, *more):
        def action():
            said = w.run(browse(url() if callable(url) else url, proxy, *more))
            if any(words not in said.text for words in both):
                raise Failed(f"exit code {said.code}, {said.text[-600:]}")

        w.attempt(f"page, script and WebSocket, {what}", action)

    socks = f"socks5://{w.proxy.socks}"
    # The certificate is the run's own; the browser has its own store, so it is told to take any.
    page("http", w.http("/page"), w.proxy.url)
    page("https", lambda: w.https("/page"), w.proxy.url, "--ignore-certificate-errors")
    page("SOCKS5", w.http("/page"), socks)
    w.denied("page, http", lambda: browse(w.http("/page", DENIED), w.proxy.url), says='"reason":"denied"', code=0)
    w.denied("page, https", lambda: browse(w.https("/page", DENIED), w.proxy.url), says="ERR_TUNNEL_CONNECTION_FAILED", code=0)
    w.denied("page, SOCKS5", lambda: browse(w.http("/page", DENIED), socks), says="ERR_SOCKS_CONNECTION_FAILED", code=0)
