//! The tools that are tried: a table.

/// How a tool is tried. In arguments, environment and input, `{url}` is an address below the origin that ends with a slash, `{path}` its path, `{host}` and `{port}` the origin's, `{proxy}` the
/// proxy as `host:port`, `{dir}` an empty folder.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probe {
    /// What it is called in the table.
    pub(super) name: &'static str,
    /// The program; the first of these that is installed.
    pub(super) programs: &'static [&'static str],
    /// How it says its version.
    pub(super) version: &'static [&'static str],
    /// What has to succeed for the tool to be there at all, such as an import; nothing, where the program is enough.
    pub(super) needs: &'static [&'static str],
    pub(super) arguments: &'static [&'static str],
    /// Variables on top of all others.
    pub(super) env: &'static [(&'static str, &'static str)],
    /// What it reads from standard input.
    pub(super) input: &'static str,
    /// A file that it is given in its folder: name and content.
    pub(super) file: Option<(&'static str, &'static str)>,
    /// What helps where it does not take the proxy.
    pub(super) unproxied: &'static str,
    /// What helps where it takes the proxy and does not trust the authority.
    pub(super) untrusted: &'static str,
}

const PROBE: Probe = Probe {
    name: "",
    programs: &[],
    version: &["--version"],
    needs: &[],
    arguments: &[],
    env: &[],
    input: "",
    file: None,
    unproxied: "see whether its settings name another proxy, or none for this host",
    untrusted: "see whether its settings name other authorities; `netproxy-dp init` makes one that the system can trust",
};

/// Trust it in the system.
const SYSTEM: &str = "it asks the system only: trust an authority of `netproxy-dp init` there";

const PYTHON: &[&str] = &["python3", "python"];

const JAVA: &str = "import java.net.*;
public class Probe {
    public static void main(String[] arguments) throws Exception {
        HttpURLConnection connection = (HttpURLConnection) new URL(arguments[0]).openConnection();
        System.exit(connection.getResponseCode() == 200 ? 0 : 1);
    }
}
";

const GO: &str = "package main

import (
\t\"net/http\"
\t\"os\"
)

func main() {
\tif _, err := http.Get(os.Args[1]); err != nil {
\t\tpanic(err)
\t}
}
";

pub(super) const PROBES: &[Probe] = &[
    Probe {
        name: "curl",
        programs: &["curl"],
        arguments: &["-sS", "-o", "{dir}/out", "{url}"],
        untrusted: "see whether `~/.curlrc` names `cacert`",
        ..PROBE
    },
    Probe {
        name: "wget",
        programs: &["wget"],
        arguments: &["-q", "-O", "{dir}/out", "--tries=1", "{url}"],
        untrusted: "with settings of your own, WGETRC is left alone: write `ca_certificate = FILE` there, with the file of SSL_CERT_FILE",
        ..PROBE
    },
    Probe {
        name: "git",
        programs: &["git"],
        arguments: &["ls-remote", "{url}repo.git"],
        env: &[("GIT_TERMINAL_PROMPT", "0")],
        unproxied: "see `git config --show-origin http.proxy`: it comes before the environment",
        untrusted: "see `git config --show-origin http.sslBackend`: schannel and Secure Transport ask the system only",
        ..PROBE
    },
    Probe {
        name: "openssl",
        programs: &["openssl"],
        version: &["version"],
        arguments: &[
            "s_client",
            "-proxy",
            "{proxy}",
            "-connect",
            "{host}:{port}",
            "-servername",
            "{host}",
            "-verify_return_error",
            "-verify_hostname",
            "{host}",
            "-quiet",
        ],
        input: "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n",
        ..PROBE
    },
    Probe {
        name: "python urllib",
        programs: PYTHON,
        arguments: &["-c", "import sys, urllib.request as r; r.urlopen(sys.argv[1]).read()", "{url}"],
        ..PROBE
    },
    Probe {
        name: "python requests",
        programs: PYTHON,
        version: &["-c", "import requests; print(requests.__version__)"],
        needs: &["-c", "import requests"],
        arguments: &["-c", "import sys, requests; requests.get(sys.argv[1])", "{url}"],
        ..PROBE
    },
    Probe {
        name: "python httpx",
        programs: PYTHON,
        version: &["-c", "import httpx; print(httpx.__version__)"],
        needs: &["-c", "import httpx"],
        arguments: &["-c", "import sys, httpx; httpx.get(sys.argv[1])", "{url}"],
        unproxied: "a client with `trust_env=False` does not look at the environment",
        ..PROBE
    },
    Probe {
        name: "python aiohttp",
        programs: PYTHON,
        version: &["-c", "import aiohttp; print(aiohttp.__version__)"],
        needs: &["-c", "import aiohttp"],
        arguments: &[
            "-c",
            "import sys, asyncio, aiohttp\nasync def main():\n    async with aiohttp.ClientSession(trust_env=True) as s:\n        async with s.get(sys.argv[1]) as r: await r.read()\nasyncio.run(main())",
            "{url}",
        ],
        unproxied: "a session needs `trust_env=True`",
        ..PROBE
    },
    Probe {
        name: "pip",
        programs: &["pip3", "pip"],
        arguments: &[
            "download",
            "--no-deps",
            "--no-cache-dir",
            "--disable-pip-version-check",
            "--retries",
            "0",
            "-d",
            "{dir}",
            "--index-url",
            "{url}simple",
            "netproxy-doctor",
        ],
        ..PROBE
    },
    Probe {
        name: "uv",
        programs: &["uv"],
        arguments: &["pip", "compile", "-", "--no-cache", "--index-url", "{url}simple"],
        input: "netproxy-doctor\n",
        ..PROBE
    },
    Probe {
        name: "node fetch",
        programs: &["node"],
        needs: &["-e", "process.exit(typeof fetch === 'function' ? 0 : 1)"],
        arguments: &["-e", "fetch(process.argv[1]).then(r => r.text()).catch(e => { console.error(e); process.exit(1) })", "{url}"],
        unproxied: "Node.js takes the proxy from the environment from 22.21 and 24.5 on; older ones need a dispatcher of undici, or axios",
        ..PROBE
    },
    Probe {
        name: "node axios",
        programs: &["node"],
        version: &["-p", "require('axios/package.json').version"],
        needs: &["-e", "require('axios')"],
        arguments: &["-e", "require('axios').get(process.argv[1]).catch(e => { console.error(e.message); process.exit(1) })", "{url}"],
        ..PROBE
    },
    Probe {
        name: "npm",
        programs: &["npm"],
        arguments: &["view", "netproxy-doctor", "--registry", "{url}", "--fetch-retries", "0", "--cache", "{dir}/cache"],
        ..PROBE
    },
    Probe {
        name: "cargo",
        programs: &["cargo"],
        arguments: &["--config", "net.retry=0", "install", "netproxy-doctor", "--index", "sparse+{url}", "--root", "{dir}"],
        ..PROBE
    },
    Probe {
        name: "java",
        programs: &["java"],
        version: &["-version"],
        needs: &["--list-modules"],
        arguments: &["{dir}/Probe.java", "{url}"],
        file: Some(("Probe.java", JAVA)),
        unproxied: "a program with its own client may not look at `https.proxyHost`",
        untrusted: "Java reads the truststore since 8u301; a program with its own `-Djavax.net.ssl.trustStore` keeps that",
        ..PROBE
    },
    Probe {
        name: "go",
        programs: &["go"],
        version: &["version"],
        arguments: &["run", "{dir}/probe.go", "{url}"],
        env: &[("GO111MODULE", "off")],
        file: Some(("probe.go", GO)),
        untrusted: "on macOS and Windows it asks the system only: trust an authority of `netproxy-dp init` there",
        ..PROBE
    },
    Probe {
        name: "ruby",
        programs: &["ruby"],
        arguments: &["-rnet/http", "-ropenssl", "-e", "exit Net::HTTP.get_response(URI(ARGV[0])).is_a?(Net::HTTPOK)", "{url}"],
        ..PROBE
    },
    Probe { name: "gem", programs: &["gem"], arguments: &["fetch", "netproxy-doctor", "--clear-sources", "--source", "{url}"], ..PROBE },
    Probe {
        name: "perl HTTP::Tiny",
        programs: &["perl"],
        version: &["-MHTTP::Tiny", "-e", "print HTTP::Tiny->VERSION"],
        needs: &["-MHTTP::Tiny", "-MIO::Socket::SSL", "-e", "1"],
        arguments: &[
            "-MHTTP::Tiny",
            "-e",
            "my $r = HTTP::Tiny->new(verify_SSL => 1)->get($ARGV[0]); die $r->{content} unless $r->{success}",
            "{url}",
        ],
        ..PROBE
    },
    Probe {
        name: "perl LWP",
        programs: &["perl"],
        version: &["-MLWP", "-e", "print LWP->VERSION"],
        needs: &["-MLWP::Protocol::https", "-e", "1"],
        arguments: &[
            "-MLWP::UserAgent",
            "-e",
            "my $r = LWP::UserAgent->new(env_proxy => 1)->get($ARGV[0]); die $r->status_line unless $r->is_success",
            "{url}",
        ],
        unproxied: "a client needs `env_proxy => 1`",
        ..PROBE
    },
    Probe {
        name: "php curl",
        programs: &["php"],
        needs: &["-r", "exit(function_exists('curl_init') ? 0 : 1);"],
        arguments: &["-r", "$c = curl_init($argv[1]); exit(curl_exec($c) === false ? 1 : 0);", "{url}"],
        unproxied: "streams of PHP (`file_get_contents`) take no proxy from the environment",
        ..PROBE
    },
    Probe {
        name: "deno",
        programs: &["deno"],
        arguments: &["run", "--allow-net", "--no-config", "{dir}/probe.js", "{url}"],
        file: Some(("probe.js", "await (await fetch(Deno.args[0])).text();\n")),
        ..PROBE
    },
    Probe {
        name: "bun",
        programs: &["bun"],
        arguments: &["run", "{dir}/probe.js", "{url}"],
        file: Some(("probe.js", "await (await fetch(process.argv[2])).text();\n")),
        ..PROBE
    },
    Probe {
        name: "aws",
        programs: &["aws"],
        arguments: &["s3", "ls", "--no-sign-request", "--region", "us-east-1", "--endpoint-url", "{url}"],
        env: &[("AWS_MAX_ATTEMPTS", "1")],
        ..PROBE
    },
    Probe {
        name: "chromium",
        programs: &["chromium", "chromium-browser", "google-chrome"],
        arguments: &["--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir={dir}/profile", "--dump-dom", "{url}"],
        unproxied: "it takes ALL_PROXY before all others, and does not know `socks5h` there: start it with `--proxy-server=$HTTPS_PROXY`",
        untrusted: "browsers take no variable: `certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n netproxy -i FILE`, with an authority of `netproxy-dp init`",
        ..PROBE
    },
    Probe {
        name: "firefox",
        programs: &["firefox"],
        arguments: &["--headless", "--no-remote", "--profile", "{dir}", "--screenshot", "{dir}/out.png", "{url}"],
        unproxied: "its settings name the proxy: choose that of the system",
        untrusted: SYSTEM,
        ..PROBE
    },
];
