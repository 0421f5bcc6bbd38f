"""The clients, in the order of the table. Each is a function that gets the world and where its program is."""

import hashlib
import os
import pathlib
import subprocess
import sys

import servers
from servers import PATIENCE, PAYLOAD
from tls_world import METHOD_POLICY, PROGRAMS, interpreters
from world import WEB, Failed, Skip, client, program, same_below, same_in_zip

ANSWER = [METHOD_POLICY, '"reason":"method_not_allowed"']


@client("curl")
def curl(w, curl):
    quiet = [curl, "-sS", "--max-time", "30"]
    post = [*quiet, "-i", "-d", "sent by curl"]
    w.allowed("GET", [*quiet, w.https("/blob")])
    w.allowed("HEAD", [*quiet, "-I", w.https("/blob")], want="Content-Length: 300001")
    w.allowed("GET, chunked answer", [*quiet, w.https("/chunked")])
    w.allowed("GET twice, one connection", [*quiet, "-o", "/dev/null", w.https("/blob"), w.https("/blob"), "-w", "%{num_connects}"], want="10")
    w.allowed("GET, TLS 1.2", [*quiet, "--tls-max", "1.2", w.https("/blob")])
    w.blocked("POST", [*post, w.https("/echo")], says=["403 ", *ANSWER], code=0)
    w.blocked("POST, -f", [*quiet, "-f", "-d", "sent by curl", w.https("/echo")], says="error: 403", code=22)
    w.blocked("PUT", [*quiet, "-i", "-T", w.origin_folder / "ca.pem", w.https("/echo")], says=["403 ", *ANSWER], code=0)
    if b"HTTP2" in w.run([curl, "--version"]).out:
        second = w.second_origin()
        w.allowed("GET, HTTP/2", [*quiet, "-o", "/dev/null", "-w", "%{http_version} %{size_download}", f"{second}/blob"], want=f"2 {len(PAYLOAD)}")
        w.blocked("POST, HTTP/2", [*post, f"{second}/echo"], says=["HTTP/2 403", *ANSWER], code=0)
    socks = ["-x", "socks5h://" + w.proxy.socks]
    try:
        server = servers.Server(w, w.context, 443)
    except OSError:
        return w.record("SOCKS5", "skip", "no port 443 to be had here")
    try:
        w.allowed("GET, SOCKS5", [*quiet, *socks, f"https://{WEB}/blob"])
        w.blocked("POST, SOCKS5", [*post, *socks, f"https://{WEB}/echo"], says=["403 ", *ANSWER], code=0)
    finally:
        server.shutdown()
        server.server_close()


@client("wget")
def wget(w, wget):
    quiet = [wget, "-nv", "-O", "-", "--tries=1", "--timeout=30"]
    w.allowed("GET", [*quiet, w.https("/blob")])
    w.blocked("POST", [*quiet, "-S", "--post-data=sent by wget", w.https("/echo")], says=["ERROR 403", METHOD_POLICY], code=8)


@client("openssl", version=("version",))
def openssl(w, openssl):
    target = w.https("").removeprefix("https://")

    def s_client(words, *more):
        command = [openssl, "s_client", "-proxy", w.proxy.address, "-connect", target, "-servername", WEB, "-verify_return_error", *more]
        # The end of the input would end the session before the answer, so it is kept open until the server closes.
        with subprocess.Popen(command, cwd=w.folder, env=w.env(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            process.stdin.write(words.replace("\n", "\r\n").encode())
            process.stdin.flush()
            out = process.stdout.read()
            return out, process.stderr.read().decode(errors="replace")

    quiet = ["-quiet", "-verify_hostname", WEB, "-x509_strict"]

    def read(*more):
        out, said = s_client(f"GET /blob HTTP/1.1\nHost: {target}\nConnection: close\n\n", *quiet, *more)
        if not out.endswith(PAYLOAD):
            raise Failed(f"{len(out)} bytes, without the payload: {said}")

    def write():
        out, said = s_client(f"POST /echo HTTP/1.1\nHost: {target}\nConnection: close\nContent-Length: 4\n\nsent", *quiet)
        if not out.startswith(b"HTTP/1.1 403 ") or any(words.encode() not in out for words in ANSWER):
            raise Failed(f"{out} {said}")

    def verified():
        """Our authority alone is enough, and its constraints are in it."""
        out, said = s_client(f"HEAD / HTTP/1.1\nHost: {target}\nConnection: close\n\n", "-showcerts")
        begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----\n"
        if begin not in out:
            raise Failed(said)
        (w.folder / "shown.pem").write_bytes(out[out.index(begin) : out.index(end) + len(end)])
        done = w.run([openssl, "verify", "-x509_strict", "-no-CApath", "-no-CAstore", "-CAfile", w.authority, "-verify_hostname", WEB, "shown.pem"])
        if done.code:
            raise Failed(done.text)
        text = w.run([openssl, "x509", "-in", w.authority, "-noout", "-text"]).text
        for words in ("Name Constraints: critical", f"DNS:{WEB}"):
            if words not in text:
                raise Failed(f"the authority's certificate has no `{words}`: {text}")

    w.attempt("s_client GET", read)
    w.attempt("s_client GET, TLS 1.2", lambda: read("-tls1_2"))
    w.attempt("s_client POST, blocked", write)
    w.attempt("verify -x509_strict; the authority is constrained", verified)


@client("git")
def git(w, git):
    me = ["-c", "user.name=t", "-c", "user.email=t@web.test", "-c", "init.defaultBranch=main"]
    bare, work = pathlib.Path(w.git_root) / "repo.git", w.folder / "work"
    env = {"GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1"}
    for args in (["init", "-q", "--bare", bare], ["-C", bare, "config", "http.receivepack", "true"], ["init", "-q", work]):
        subprocess.run([git, *me, *args], check=True, env=w.plain_env(), timeout=PATIENCE)
    (work / "payload.bin").write_bytes(PAYLOAD)
    for args in (["add", "."], ["commit", "-q", "-m", "first"], ["push", "-q", bare, "main"]):
        subprocess.run([git, *me, "-C", work, *args], check=True, env=w.plain_env(), timeout=PATIENCE)
    subprocess.run([git, "-C", bare, "update-server-info"], check=True, env=w.plain_env(), timeout=PATIENCE)
    url, clone = w.https("/git/repo.git"), w.folder / "clone"
    how = {"env": w.env(**env)}
    # Smart HTTP posts even to read; what it reads by GET is the list of branches, and an older protocol reads all by GET.
    w.allowed("ls-remote, smart HTTP, version 0", [git, "-c", "protocol.version=0", "ls-remote", url], want="refs/heads/main", **how)
    w.allowed("clone by GET alone", [git, *me, "clone", "-q", url, clone], file=clone / "payload.bin", env=w.env(GIT_SMART_HTTP="0", **env))
    w.blocked("clone, smart HTTP", [git, *me, "clone", "-q", url, w.folder / "never"], says="403", code=128, **how)
    w.blocked("push", [git, *me, "-C", work, "push", "-q", url, "main:other"], says="403", **how)


@client("urllib", program_name=sys.executable)
def urllib(w, python):
    w.both("", [python, PROGRAMS / "with_urllib.py", "URL"])
    w.both(", VERIFY_X509_STRICT", [python, PROGRAMS / "with_urllib.py", "URL", "strict"])


@client("python-strict", program_name=sys.executable, version=())
def python_strict(w, _):
    found = interpreters()
    if not found:
        raise Skip("no Python from 3.13 on")
    for minor, path in found.items():
        w.version = f"3.{minor}"
        w.both(", strict by default", [path, PROGRAMS / "with_urllib.py", "URL"])


def library(w, name):
    env = w.env(PYTHONPATH=str(w.python(name)))
    w.version = w.run([sys.executable, "-c", f"import {name}; print({name}.__version__)"], env=env).out.decode().strip()
    return env


@client("requests", program_name=sys.executable, version=())
def requests(w, python):
    w.both("", [python, PROGRAMS / "with_requests.py", "URL"], env=library(w, "requests"))


@client("httpx", program_name=sys.executable, version=())
def httpx(w, python):
    env = library(w, "httpx")
    w.both("", [python, PROGRAMS / "with_httpx.py", "URL"], "HTTP/1.1", env=env)
    w.both(", HTTP/2", [python, PROGRAMS / "with_httpx.py", "URL", "http2"], "HTTP/2", env=env)


@client("aiohttp", program_name=sys.executable, version=())
def aiohttp(w, python):
    w.both("", [python, PROGRAMS / "with_aiohttp.py", "URL"], env=library(w, "aiohttp"))


@client("pip", program_name=sys.executable, version=("-m", "pip", "--version"))
def pip(w, python):
    if w.run([python, "-m", "pip", "--version"]).code:
        raise Skip("not installed")
    quiet = ["--retries=0", "--disable-pip-version-check"]
    download = [python, "-m", "pip", "download", "-q", "--no-deps", "--no-cache-dir", *quiet]
    w.allowed("index and wheel", [*download, "--index-url", w.https("/simple/"), "-d", w.folder / "pip", "netpolicy-demo"], want=None)
    w.attempt("the wheel's bytes", lambda: same_in_zip(w.folder / "pip/netpolicy_demo-1.0.0-py3-none-any.whl", "netpolicy_demo/payload.bin"))
    # The one thing that it posts.
    w.blocked("search", [python, "-m", "pip", "search", *quiet, "--index", w.https("/echo"), "demo"], says="403")


@client("uv", program_name=sys.executable, version=())
def uv(w, python):
    folder = w.python("uv")
    uv = next((path for path in (folder / "bin/uv", program("uv")) if path and os.access(path, os.X_OK)), None)
    if not uv:
        raise Skip("not installed")
    w.version = w.run([uv, "--version"]).text.split()[1]
    quiet = ["--no-progress", "--no-cache", "--no-config"]
    install = [uv, "pip", "install", "-q", *quiet, "--python", python, "--no-deps", "--target", w.folder / "uv"]
    w.allowed("index and wheel", [*install, "--index-url", w.https("/simple/"), "netpolicy-demo"], file=w.folder / "uv/netpolicy_demo/payload.bin")
    wheel = w.folder / "netpolicy_demo-1.0.0-py3-none-any.whl"
    wheel.write_bytes(w.files[f"/wheels/{wheel.name}"][1])
    w.blocked("publish", [uv, "publish", *quiet, "--publish-url", w.https("/echo"), "--token", "none", wheel], says="403")


@client("cargo")
def cargo(w, cargo):
    project = w.folder / "cargo"
    (project / "src").mkdir(parents=True)
    (project / "src/lib.rs").write_text("")
    about = 'name = "netpolicy-caller"\nversion = "0.1.0"\nedition = "2021"\ndescription = "a test"\nlicense = "MIT"\n'
    (project / "Cargo.toml").write_text(f'[package]\n{about}[dependencies]\nnetpolicy-demo = {{ version = "1", registry = "local" }}\n[workspace]\n')
    local = ["--config", f'registries.local.index="sparse+{w.https("/index/")}"', "--config", "net.retry=0"]
    how = {"env": w.env(CARGO_HOME=str(w.folder / "cargo-home"), CARGO_REGISTRIES_LOCAL_TOKEN="none"), "cwd": project}
    w.allowed("sparse index and crate", [cargo, "fetch", "-q", *local], want=None, **how)
    w.attempt("the crate's bytes", lambda: same_below(w.folder / "cargo-home", "netpolicy-demo-1.0.0/payload.bin"))
    w.blocked("publish", [cargo, "publish", "-q", *local, "--registry", "local", "--no-verify", "--allow-dirty"], says="403", **how)


@client("aws", program_name=sys.executable, version=())
def aws(w, python):
    folder = w.python("awscli")
    command = [python, "-m", "awscli", "--endpoint-url", w.https(), "--no-sign-request", "--region", "none", "s3api"]
    how = {"env": w.env(PYTHONPATH=str(folder), AWS_MAX_ATTEMPTS="1", AWS_EC2_METADATA_DISABLED="true")}
    w.version = w.run([python, "-m", "awscli", "--version"], **how).text.split()[0].removeprefix("aws-cli/")
    w.files["/bucket/blob"] = ("application/octet-stream", PAYLOAD)
    about = ["--bucket", "bucket", "--key", "blob"]
    w.allowed("get-object", [*command, "get-object", *about, w.folder / "got"], file=w.folder / "got", **how)
    w.blocked("put-object", [*command, "put-object", *about, "--body", w.origin_folder / "ca.pem"], says="(403)", **how)


@client("grpc", program_name=sys.executable, version=())
def grpc(w, python):
    how = {"env": library(w, "grpc")}
    w.blocked("a call", lambda: [python, PROGRAMS / "with_grpc.py", w.second_origin()], says="PERMISSION_DENIED", code=0, **how)


@client("npm")
def npm(w, npm):
    quiet = ["--fetch-retries=0", "--no-update-notifier", "--no-audit", "--no-fund", "--cache", w.folder / "npm-cache", "--loglevel=error"]
    registry = w.https("/npm/")
    for name in ("npm", "npm-own"):
        (w.folder / name).mkdir()
        (w.folder / name / "package.json").write_text('{"name":"netpolicy-own","version":"1.0.0"}')
    install = [npm, "install", *quiet, "--prefix", w.folder / "npm", "--registry", registry, "netpolicy-demo@1.0.0"]
    w.allowed("package and tarball", install, file=w.folder / "npm/node_modules/netpolicy-demo/payload.bin")
    token = f"--{registry.removeprefix('https:')}:_authToken=none"
    w.blocked("publish", [npm, "publish", *quiet, "--registry", registry, token], says=["403", "PUT"], cwd=w.folder / "npm-own")


LIBRARIES = ("undici@6", "axios@1")


def with_axios(w, node, **more):
    folder = w.node_modules(*LIBRARIES)
    version = w.run([node, "-p", "require('axios/package.json').version"], cwd=folder).text.strip()
    w.both(f" by axios {version}", [node, PROGRAMS / "with_axios.mjs", "URL"], env=w.env(WITH_AXIOS=folder, **more))


def heeds_the_environment(w, node):
    return b"--use-env-proxy" in w.run([node, "--help"]).out


@client("node")
def node(w, node):
    if heeds_the_environment(w, node):
        w.both(" by fetch", [node, PROGRAMS / "fetch.mjs", "URL"])
    else:
        w.both(" by undici", [node, PROGRAMS / "fetch.mjs", "URL"], env=w.env(WITH_UNDICI=w.node_modules(*LIBRARIES)))
    with_axios(w, node)


def fetched_program(w, node, package, path):
    """A program that a package for this machine has in it."""
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(os.uname().machine, "none")
    found = w.node_modules(package.format(machine)) + path.format(machine)
    w.version = w.run([found, "--version"]).text.split("(")[0].strip().removeprefix("deno ").removeprefix("v")
    return found


@client("node-24", program_name="node", version=())
def node_24(w, node):
    """A version that heeds NODE_USE_ENV_PROXY, where the one that is installed does not."""
    if heeds_the_environment(w, node):
        raise Skip("the one that is installed does what this one is for")
    node = fetched_program(w, node, "node-linux-{}@24", "node-linux-{}/bin/node")
    w.both(" by fetch", [node, PROGRAMS / "fetch.mjs", "URL"])
    with_axios(w, node)


@client("deno", program_name="npm", version=())
def deno(w, node):
    deno = program("deno") or fetched_program(w, node, "@deno/linux-{}-glibc@2", "@deno/linux-{}-glibc/deno")
    w.both(" by fetch", [deno, "run", "--quiet", "--allow-all", PROGRAMS / "fetch.mjs", "URL"], env=w.env(DENO_NO_UPDATE_CHECK="1"))


@client("bun", program_name="npm", version=())
def bun(w, node):
    bun = program("bun") or fetched_program(w, node, "@oven/bun-linux-{}@1", "@oven/bun-linux-{}/bin/bun")
    w.both(" by fetch", [bun, PROGRAMS / "fetch.mjs", "URL"])


@client("java", program_name="javac", version=("-version",))
def java(w, _):
    run = [program("java"), PROGRAMS / "Https.java", "URL"]
    w.both(" by java.net.http", run, "HTTP/1.1")
    w.both(" by java.net.http, HTTP/2", run, "HTTP/2")


@client("maven", program_name="mvn")
def maven(w, mvn):
    folder = w.folder / "maven"
    folder.mkdir()
    pom = "<project><modelVersion>4.0.0</modelVersion><groupId>test.netpolicy</groupId><artifactId>{}</artifactId><version>1.0.0</version><packaging>pom</packaging>{}</project>"
    parent = pom.format("above", "").encode()
    at = "/maven/test/netpolicy/above/1.0.0/above-1.0.0.pom"
    w.files[at] = ("text/xml", parent)
    w.files[f"{at}.sha1"] = ("text/plain", hashlib.sha1(parent).hexdigest().encode())
    of = "<parent><groupId>test.netpolicy</groupId><artifactId>above</artifactId><version>1.0.0</version><relativePath/></parent>"
    (folder / "pom.xml").write_text(pom.format("below", of))
    # Plugins come from where the system's packages keep them.
    central = "<mirror><id>system</id><mirrorOf>central</mirrorOf><url>file:///usr/share/maven-repo</url></mirror>"
    origin = f"<repository><id>origin</id><url>{w.https('/maven')}</url></repository>"
    profile = f"<profile><id>run</id><repositories>{origin}</repositories></profile>"
    (folder / "settings.xml").write_text(
        f"<settings><mirrors>{central}</mirrors><profiles>{profile}</profiles><activeProfiles><activeProfile>run</activeProfile></activeProfiles></settings>"
    )
    quiet = [mvn, "-q", "-B", "-s", folder / "settings.xml", f"-Dmaven.repo.local={folder}/local"]
    w.allowed(
        "validate, a parent from the repository", [*quiet, "validate"], want=parent, file=folder / "local" / at.removeprefix("/maven/"), cwd=folder
    )
    plugins = sorted(pathlib.Path("/usr/share/maven-repo/org/apache/maven/plugins/maven-deploy-plugin").glob("3.*"))
    if not plugins:
        return w.record("deploy-file", "skip", "libmaven-deploy-plugin-java is not installed")
    goal = f"org.apache.maven.plugins:maven-deploy-plugin:{plugins[-1].name}:deploy-file"
    about = ["-DgroupId=test.netpolicy", "-DartifactId=sent", "-Dversion=1.0.0", "-DgeneratePom=false", "-DrepositoryId=origin"]
    w.blocked("deploy-file", [*quiet, goal, *about, f"-Dfile={w.origin_folder}/ca.pem", f"-Durl={w.https('/maven')}"], says="403", cwd=w.home)


@client("go", version=("version",))
def go(w, go):
    settings = {"GO111MODULE": "off", "GOPROXY": "off", "GOTOOLCHAIN": "local", "GOCACHE": str(w.folder / "go-cache"), "GOFLAGS": ""}
    built = w.run([go, "build", "-o", w.folder / "https-go", PROGRAMS / "https.go"], env=w.env(**settings))
    if built.code:
        raise Failed(built.text)
    w.both(" by net/http", [w.folder / "https-go", "URL"], "HTTP/1.1")
    w.both(" by net/http, HTTP/2", [w.folder / "https-go", "URL"], "HTTP/2")


@client("ruby")
def ruby(w, ruby):
    w.both(" by net/http", [ruby, PROGRAMS / "https.rb", "URL"])


@client("perl", version=("-v",))
def perl(w, perl):
    for name, file, needed in (("LWP", "lwp.pl", "LWP::Protocol::https"), ("HTTP::Tiny", "tiny.pl", "IO::Socket::SSL")):
        if w.run([perl, f"-M{needed}", "-e", "1"]).code:
            w.record(f"GET by {name}", "skip", f"{needed} is not installed")
        else:
            w.both(f" by {name}", [perl, PROGRAMS / file, "URL"])


@client("php")
def php(w, php):
    modules = w.run([php, "-m"]).text.split()
    for name, file, needed in (("curl_exec", "curl.php", "curl"), ("streams", "streams.php", "openssl")):
        if needed not in modules:
            w.record(f"GET by {name}", "skip", f"php-{needed} is not installed")
        else:
            w.both(f" by {name}", [php, PROGRAMS / file, "URL"])


PAGE = b"""<!doctype html><title>page</title><p id=said><script>
function exchange(method, path, body) {
  const request = new XMLHttpRequest();
  request.open(method, path, false);
  request.overrideMimeType("text/plain; charset=x-user-defined");
  request.send(body);
  return request;
}
const read = exchange("GET", "/blob"), text = read.responseText;
let sum = 0;
for (let at = 0; at < text.length; at++) sum = (sum * 31 + (text.charCodeAt(at) & 255)) % 4294967296;
const write = exchange("POST", "/echo", "sent by a page");
document.getElementById("said").textContent =
  `GET ${read.status} ${text.length} ${sum} POST ${write.status} ${write.getResponseHeader("x-proxy-error")}`;
</script>
"""


@client("chromium", program_name="chromium|/usr/bin/chromium-browser|/usr/bin/google-chrome")
def chromium(w, chromium):
    certutil = program("certutil")
    if not certutil:
        raise Skip("no certutil to tell it whom to trust (libnss3-tools)")
    w.files["/tls-page"] = ("text/html", PAGE)
    # It has a store of its own.
    store = w.home / ".pki/nssdb"
    store.mkdir(parents=True)
    for args in (["-N", "--empty-password"], ["-A", "-n", "netproxy", "-t", "C,,", "-i", w.authority]):
        subprocess.run([certutil, "-d", f"sql:{store}", *args], check=True, capture_output=True, timeout=PATIENCE)
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
    flags += ["--disable-dev-shm-usage", "--disable-sync", f"--user-data-dir={w.folder}/browser", "--timeout=20000", "--dump-dom"]
    said = w.run([chromium, *flags, w.https("/tls-page")])
    total = 0
    for byte in PAYLOAD:
        total = (total * 31 + byte) % 4294967296

    def shows(words):
        if words not in said.text:
            raise Failed(f"exit code {said.code}: {said.out.decode(errors='replace') or said.text}")

    w.attempt("page and GET by its script", lambda: shows(f"GET 200 {len(PAYLOAD)} {total} "))
    w.attempt("POST by its script, blocked", lambda: shows(f"POST 403 {METHOD_POLICY}"))


@client("exec", program_name=sys.executable, version=())
def executed(w, python):
    """A proxy for one command, and the one that runs already."""
    words = [python, PROGRAMS / "with_urllib.py", "URL"]
    w.both(" by urllib", [*w.exec_command(), *words], env=w.plain_env(**w.own))
    w.both(" by urllib, --running", [*w.exec_command("--running"), *words], env=w.plain_env(NETPROXY_STATE_DIR=str(w.state)))
