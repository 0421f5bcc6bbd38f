//! Real clients through the real proxy. What is installed on the machine is used; curl and git are needed, pip and npm are tried against the registries that their
//! own settings name, with policies made here from those settings.

use harness::{DataPlane, Origin, binaries, policy};
use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::process::{Command, Output};

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A command that has no proxy but this one.
fn through(proxy: SocketAddr, program: &str) -> Command {
    let mut command = Command::new(program);
    for name in ["NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"] {
        command.env_remove(name);
    }
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"] {
        command.env(name, format!("http://{proxy}"));
    }
    command
}

/// A proxy under three layers: a user's whole configuration as it is found on a machine, the administrator's, which the test gives, and a project's.
fn start(dir: &Path, managed: &str) -> DataPlane {
    std::fs::write(dir.join("config.toml"), include_str!("../cases/codex-config.toml")).unwrap();
    std::fs::write(dir.join("managed_config.toml"), managed).unwrap();
    std::fs::write(dir.join("project.toml"), "[permissions.workspace.network.domains]\n\"docs.project.example\" = \"allow\"\n").unwrap();
    let args = [
        "compile",
        "--user",
        "config.toml",
        "--managed",
        "managed_config.toml",
        "--project",
        "project.toml",
        "-o",
        "policy.bin",
        "--strict",
    ];
    let output = binaries::netpolicy(dir, &args);
    assert!(output.status.success(), "{}", text(&output));
    DataPlane::start(&["--policy", dir.join("policy.bin").to_str().unwrap()])
}

#[test]
fn curl_gets_what_is_allowed_and_hears_why_not() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::start();
    let allowed = format!("localhost:{}", origin.port());
    let proxy = start(dir.path(), &policy("", &[(&allowed, "allow")]));
    let socks5 = format!("socks5h://{}", proxy.socks5().unwrap());
    let curl = |args: &[&str]| {
        through(proxy.http(), "curl")
            .args(["-sS", "--max-time", "20", "-w", "%{http_code}/%{http_connect}"])
            .args(args)
            .output()
            .expect("curl is installed")
    };
    let url = format!("http://{allowed}/");
    assert_eq!(text(&curl(&[&url])), "origin299/000");
    assert_eq!(text(&curl(&["--proxytunnel", &url])), "origin299/200");
    assert_eq!(text(&curl(&["--proxy", &socks5, &url])), "origin299/000");
    let blocked = text(&curl(&["http://example.test/"]));
    assert!(blocked.contains("add \\\"example.test\\\" = \\\"allow\\\" under") && blocked.ends_with("403/000"), "{blocked}");
    let tunnel = curl(&["-v", "https://example.test/"]);
    assert!(!tunnel.status.success() && text(&tunnel).contains("403 Blocked by network policy (not_allowed)"), "{}", text(&tunnel));
    let by_the_user = text(&curl(&["http://a.exfil.example/"]));
    assert!(by_the_user.contains("denied by \\\"**.exfil.example\\\" in user config.toml:"), "{by_the_user}");
    let denied = curl(&["--proxy", &socks5, "http://example.test/"]);
    assert!(!denied.status.success() && text(&denied).contains("SOCKS5 connection to example.test"), "{}", text(&denied));
}

/// Git's own server, `git http-backend`, behind a few lines of CGI.
fn git_server(root: &Path) -> Origin {
    let root = root.to_owned();
    Origin::http(move |request, stream| {
        let mut words = request.first_line.split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut backend = Command::new("git")
            .arg("http-backend")
            .env("GIT_PROJECT_ROOT", &root)
            .env("GIT_HTTP_EXPORT_ALL", "1")
            .envs([("REQUEST_METHOD", method), ("PATH_INFO", path), ("QUERY_STRING", query), ("REMOTE_USER", "test")])
            .env("CONTENT_TYPE", request.header("content-type").unwrap_or_default())
            .env("HTTP_CONTENT_ENCODING", request.header("content-encoding").unwrap_or_default())
            .env("CONTENT_LENGTH", request.body.len().to_string())
            .env("GIT_PROTOCOL", request.header("git-protocol").unwrap_or_default())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("git is installed");
        let (mut input, body) = (backend.stdin.take().unwrap(), request.body.clone());
        std::thread::spawn(move || input.write_all(&body));
        let output = backend.wait_with_output().unwrap().stdout;
        let end = output.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let (head, body) = (String::from_utf8_lossy(&output[..end]).into_owned(), &output[end + 4..]);
        let status = head.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK");
        let head = format!("HTTP/1.1 {status}\r\n{head}\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).is_ok() && stream.write_all(body).is_ok()
    })
}

#[test]
fn git_clones_and_pushes_where_allowed_and_not_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let git = |proxy: Option<SocketAddr>, args: &[&str]| {
        let mut command = proxy.map_or_else(|| Command::new("git"), |proxy| through(proxy, "git"));
        command.args(["-c", "user.name=t", "-c", "user.email=t@example.test", "-c", "init.defaultBranch=main"]).args(args);
        command
            .current_dir(dir.path())
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("HOME", dir.path())
            .output()
            .expect("git is installed")
    };
    std::fs::create_dir(dir.path().join("served")).unwrap();
    for args in [
        &["init", "--quiet", "--bare", "served/repo.git"][..],
        &["-C", "served/repo.git", "config", "http.receivepack", "true"],
        &["init", "--quiet", "work"],
        &["-C", "work", "commit", "--quiet", "--allow-empty", "-m", "first"],
    ] {
        let output = git(None, args);
        assert!(output.status.success(), "{args:?}: {}", text(&output));
    }
    let server = git_server(&dir.path().join("served"));
    let url = format!("http://localhost:{}/repo.git", server.port());
    let open = start(dir.path(), &policy("", &[(&format!("localhost:{}", server.port()), "allow")]));
    for args in [&["-C", "work", "push", "--quiet", &url, "main"][..], &["clone", "--quiet", &url, "copy"]] {
        let output = git(Some(open.http()), args);
        assert!(output.status.success(), "{args:?}: {}", text(&output));
    }
    assert!(text(&git(None, &["-C", "copy", "log", "--format=%s"])).starts_with("first"));
    // Read-only lets git ask, and keeps it from sending: a clone needs POST too, and says 403.
    let reading = start(dir.path(), &policy("mode = \"limited\"\nallow_local_binding = true", &[("localhost", "allow")]));
    let output = git(Some(reading.http()), &["-C", "work", "push", &url, "main:other"]);
    assert!(!output.status.success() && text(&output).contains("403"), "{}", text(&output));
    let closed = start(dir.path(), &policy("", &[]));
    let output = git(Some(closed.http()), &["clone", &url, "denied"]);
    assert!(!output.status.success() && text(&output).contains("The requested URL returned error: 403"), "{}", text(&output));
}

/// The host of the first https URL in what a client says of its own settings.
fn host_in(settings: &str) -> Option<String> {
    let rest = settings.split("https://").nth(1)?;
    let host: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-')).collect();
    (!host.is_empty()).then_some(host)
}

/// A policy for one host and those below its registrable part, with the addresses that it has here opened: a mirror may well stand on a private network.
fn policy_for(hosts: &[String]) -> String {
    let mut domains: Vec<(String, &str)> = Vec::new();
    for host in hosts {
        domains.push((host.clone(), "allow"));
        let addresses = (host.as_str(), 443).to_socket_addrs().into_iter().flatten().map(|address| address.ip());
        domains.extend(addresses.map(|ip| (policy_format::net::Network::single(ip).to_string(), "allow")));
    }
    domains.sort();
    domains.dedup();
    let domains: Vec<(&str, &str)> = domains.iter().map(|(pattern, access)| (pattern.as_str(), *access)).collect();
    policy("", &domains)
}

#[test]
fn npm_works_where_allowed_and_says_403_where_not() {
    let dir = tempfile::tempdir().unwrap();
    let Ok(settings) = Command::new("npm").args(["config", "get", "registry"]).output() else {
        return eprintln!("npm is not installed");
    };
    let host = host_in(&text(&settings)).expect("npm has a registry");
    let view = |proxy: SocketAddr| {
        let args = ["view", "is-number", "version", "--fetch-retries=0", "--no-update-notifier", "--cache"];
        through(proxy, "npm").args(args).arg(dir.path().join("cache")).current_dir(dir.path()).output().unwrap()
    };
    let closed = start(dir.path(), &policy("", &[]));
    let denied = view(closed.http());
    assert!(!denied.status.success() && text(&denied).contains("403"), "{}", text(&denied));
    if (host.as_str(), 443).to_socket_addrs().is_err() {
        return eprintln!("the npm registry is out of reach: only the refusal was tested");
    }
    let open = start(dir.path(), &policy_for(&[host]));
    let output = view(open.http());
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn pip_works_where_allowed_and_says_blocked_where_not() {
    let dir = tempfile::tempdir().unwrap();
    let pip = |proxy: Option<SocketAddr>, args: &[&str]| {
        let mut command = proxy.map_or_else(|| Command::new("python3"), |proxy| through(proxy, "python3"));
        command
            .args(["-m", "pip"])
            .args(args)
            .args(["--retries", "1", "--no-cache-dir"])
            .env_remove("PIP_FIND_LINKS")
            .current_dir(dir.path())
            .output()
    };
    // What pip itself says of where it looks, without a proxy.
    let Ok(direct) = pip(None, &["download", "-vv", "--no-deps", "six==1.16.0", "-d", "direct"]) else {
        return eprintln!("python3 is not installed");
    };
    if text(&direct).contains("No module named pip") {
        return eprintln!("pip is not installed");
    }
    let download = ["download", "--no-deps", "six==1.16.0", "-d", "proxied"];
    let closed = start(dir.path(), &policy("", &[]));
    let denied = pip(Some(closed.http()), &download).unwrap();
    assert!(!denied.status.success() && text(&denied).contains("403 Blocked by network policy (not_allowed)"), "{}", text(&denied));
    if !direct.status.success() {
        return eprintln!("the package index is out of reach: only the refusal was tested");
    }
    let mut hosts: Vec<String> = text(&direct).split_whitespace().filter_map(host_in).collect();
    hosts.sort();
    hosts.dedup();
    let open = start(dir.path(), &policy_for(&hosts));
    let output = pip(Some(open.http()), &download).unwrap();
    assert!(output.status.success(), "hosts {}: {}", hosts.len(), text(&output));
}
