//! Several profiles in one policy file: data planes that each decide under one of them.

use harness::{Client, DataPlane, Origin, binaries};
use std::fs;
use std::path::Path;

const BOTH: &str = "default_permissions = \"dev\"
[permissions.base.network]
enabled = true
allow_local_binding = true
domains = { \"shared.test\" = \"allow\" }
[permissions.dev]
extends = \"base\"
[permissions.dev.network.domains]
\"dev.test\" = \"allow\"
[permissions.ci]
extends = \"base\"
[permissions.ci.network]
mode = \"limited\"
[permissions.ci.network.domains]
\"ci.test\" = \"allow\"
[permissions.locked.network]
enabled = false
";

/// Compiles with the real binary, and puts the policy in place by rename.
fn compile(dir: &Path, toml: &str, profiles: &[&str]) {
    fs::write(dir.join("config.toml"), toml).unwrap();
    let output = binaries::netpolicy(dir, &[&["compile", "--user", "config.toml", "-o", "policy.bin"], profiles].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn start(dir: &Path, profile: &[&str]) -> DataPlane {
    let hosts = dir.join("hosts");
    fs::write(&hosts, "127.0.0.1 shared.test dev.test ci.test\n").unwrap();
    let policy = dir.join("policy.bin");
    DataPlane::start(&[&["--policy", policy.to_str().unwrap(), "--hosts", hosts.to_str().unwrap()], profile].concat())
}

fn health(proxy: &DataPlane) -> serde_json::Value {
    Client::connect(proxy.admin()).send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").answer().json()["policy"].clone()
}

/// Which of the names answer, and whether POST does.
fn open(proxy: &DataPlane, port: u16) -> String {
    let status = |name: &str| harness::client::get(proxy.http(), &format!("http://{name}.test:{port}/")).status;
    let mut open: Vec<&str> = ["shared", "dev", "ci"].into_iter().filter(|name| status(name) == 299).collect();
    let post = format!("POST / HTTP/1.1\r\nHost: shared.test:{port}\r\nContent-Length: 0\r\n\r\n");
    if Client::connect(proxy.http()).send(post).answer().status == 299 {
        open.push("post");
    }
    open.join(" ")
}

#[test]
fn two_data_planes_on_one_policy_decide_each_under_its_profile() {
    let dir = tempfile::tempdir().unwrap();
    compile(dir.path(), BOTH, &["--all-profiles"]);
    let origin = Origin::start();
    let (dev, ci) = (start(dir.path(), &[]), start(dir.path(), &["--profile", "ci"]));
    let shown = |proxy: &DataPlane| {
        let health = health(proxy);
        (health["profile"].as_str().unwrap().to_owned(), health["mode"].as_str().unwrap().to_owned())
    };
    assert_eq!((shown(&dev), shown(&ci)), (("dev".into(), "full".into()), ("ci".into(), "limited".into())));
    assert_eq!((open(&dev, origin.port()), open(&ci, origin.port())), ("shared dev post".into(), "shared ci".into()));
    assert_eq!(health(&dev)["digest"], health(&ci)["digest"]);
    // What to change is said for the profile that was asked.
    let blocked = harness::client::get(ci.http(), "http://nowhere.test/");
    assert!(blocked.json()["message"].as_str().unwrap().contains("[permissions.ci.network.domains]"));

    // The profiles change places and rules: each stays under its own.
    compile(dir.path(), &BOTH.replace("\"ci.test\" = \"allow\"", ""), &["--profile", "locked", "--profile", "ci", "--profile", "dev"]);
    let named = start(dir.path(), &["--profile", "dev"]);
    assert_eq!(ci.next_reload()["outcome"], "swapped");
    assert_eq!((open(&ci, origin.port()), health(&ci)["profile"].as_str()), ("shared".into(), Some("ci")));
    assert_eq!(open(&named, origin.port()), "shared dev post");
    // Without a name it is the first, and that one is off now.
    assert_eq!(dev.next_reload()["outcome"], "swapped");
    assert_eq!((open(&dev, origin.port()), health(&dev)["profile"].as_str()), (String::new(), Some("locked")));
}

#[test]
fn a_policy_without_the_profile_is_refused_and_the_one_in_force_stays() {
    let dir = tempfile::tempdir().unwrap();
    compile(dir.path(), BOTH, &["--all-profiles"]);
    let origin = Origin::start();
    let ci = start(dir.path(), &["--profile", "ci"]);
    compile(dir.path(), BOTH, &["--profile", "dev", "--profile", "base"]);
    let said = ci.next_reload();
    let error = said["error"].as_str().unwrap_or_default();
    assert!(said["outcome"] == "refused" && error.ends_with("is refused: it has no profile `ci`; it has `dev`, `base`"), "{said}");
    assert_eq!(open(&ci, origin.port()), "shared ci");
    let health = health(&ci);
    assert_eq!((health["generation"].as_u64(), health["last_error"].as_str()), (Some(1), Some(error)));
    // It comes back, somewhere else.
    compile(dir.path(), BOTH, &["--profile", "dev", "--profile", "base", "--profile", "ci"]);
    assert_eq!(ci.next_reload()["outcome"], "swapped");
    assert_eq!(open(&ci, origin.port()), "shared ci");
}

#[test]
fn a_tunnel_is_decided_again_under_its_own_profile() {
    let dir = tempfile::tempdir().unwrap();
    let toml = BOTH.replace("mode = \"limited\"\n", "");
    compile(dir.path(), &toml, &["--all-profiles"]);
    let origin = Origin::echo();
    let ci = start(dir.path(), &["--profile", "ci"]);
    let tunnel = |name: &str| {
        let mut client = Client::connect(ci.http());
        assert_eq!(client.tunnel(&format!("{name}.test:{}", origin.port())).status, 200, "{name}");
        client
    };
    let (mut stays, mut goes) = (tunnel("shared"), tunnel("ci"));
    // `ci` has another number now, and the profile that has its old one allows neither: the first number of the new policy is off.
    compile(
        dir.path(),
        &toml.replace("\"ci.test\" = \"allow\"", "\"dev.test\" = \"allow\""),
        &["--profile", "ci", "--profile", "dev", "--profile", "locked"],
    );
    assert_eq!(ci.next_reload()["outcome"], "swapped");
    assert_eq!(goes.rest(), Vec::<u8>::new(), "what its profile no longer allows is closed");
    stays.send("still here");
    assert_eq!(stays.bytes(10), b"still here");
}

#[test]
fn a_profile_that_is_not_there_or_off_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    compile(dir.path(), BOTH, &["--all-profiles"]);
    let policy = dir.path().join("policy.bin");
    let policy = policy.to_str().unwrap();
    for (args, code, words) in [
        (&["--policy", policy, "--profile", "cii"][..], 2, "it has no profile `cii`; it has `dev`, `base`, `ci`, `locked`"),
        (&["--policy", policy, "--profile", "locked"][..], 1, "switches the network off"),
        (&["--profile", "dev"][..], 2, "--policy"),
    ] {
        let output = std::process::Command::new(binaries::path("netproxy-dp")).args(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(code) && said.contains(words), "{args:?}: {said}");
        assert!(output.stdout.is_empty(), "nothing listens");
    }
}

#[test]
fn only_what_the_profile_asks_for_counts() {
    let dir = tempfile::tempdir().unwrap();
    let toml = "default_permissions = \"far\"
[permissions.far.network]
enabled = true
upstream = \"http://far.example.com:3128\"
[permissions.near.network]
enabled = true
domains = { \"shared.test\" = \"allow\" }
allow_local_binding = true
[permissions.hooked.network]
enabled = true
domains = { \"shared.test\" = \"allow\" }
allow_local_binding = true
mitm = { actions.a.strip_request_headers = [\"cookie\"], hooks.h = { host = \"shared.test\", methods = [\"GET\"], path_prefixes = [\"/\"], action = [\"a\"] } }
";
    compile(dir.path(), toml, &["--all-profiles"]);
    let bytes = fs::read(dir.path().join("policy.bin")).unwrap();
    let upstream = |name: &str| netproxy::Policy::from_bytes_as(bytes.clone(), name).unwrap().meta().upstream.clone();
    assert_eq!((upstream("far").map(|upstream| upstream.shown()), upstream("near")), (Some("http://far.example.com:3128".into()), None));
    let (near, hooked) = (start(dir.path(), &["--profile", "near"]), start(dir.path(), &["--profile", "hooked"]));
    assert_eq!((health(&near)["profile"].as_str(), health(&hooked)["profile"].as_str()), (Some("near"), Some("hooked")));
    let proxy = |name: &str| netproxy::Policy::from_bytes_as(bytes.clone(), name);
    assert_eq!(proxy("near").unwrap().meta().profile, "near");
    let unknown = proxy("afar").unwrap_err();
    assert_eq!(unknown.to_string(), "it has no profile `afar`; it has `far`, `hooked`, `near`");
    // A hook has tunnels read in its own profile.
    let origin = Origin::echo();
    let echoed = |proxy: &DataPlane| {
        let mut client = Client::connect(proxy.http());
        assert_eq!(client.tunnel(&format!("shared.test:{}", origin.port())).status, 200);
        client.send("no TLS").finish().rest()
    };
    assert_eq!((echoed(&hooked), echoed(&near)), (Vec::new(), b"no TLS".to_vec()));
}
