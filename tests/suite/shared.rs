//! How a policy file is held in memory: a private copy, or the file itself.

use harness::{Client, DataPlane, Origin, binaries, compile, policy};
use netproxy::NetworkProxy;
use policy_format::{Blob, SectionKind, reseal};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn allows(name: &str) -> Vec<u8> {
    compile(&policy("allow_local_binding = true", &[(name, "allow")]))
}

/// A folder and a policy file in it that only their owner writes, whatever the umask.
fn place(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    chmod(dir.path(), 0o755);
    let file = dir.path().join("policy.bin");
    replace(&file, bytes);
    fs::write(dir.path().join("hosts"), "127.0.0.1 a.test b.test\n").unwrap();
    (dir, file)
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Puts a new file in the place of one, by rename.
fn replace(file: &Path, bytes: &[u8]) {
    let fresh = file.with_extension("new");
    fs::write(&fresh, bytes).unwrap();
    chmod(&fresh, 0o644);
    fs::rename(fresh, file).unwrap();
}

/// Writes over the beginning of a file, which keeps its length.
fn write_over(file: &Path, bytes: &[u8]) {
    fs::OpenOptions::new().write(true).open(file).unwrap().write_all(bytes).unwrap();
}

fn start(file: &Path, map: &str) -> DataPlane {
    let hosts = file.with_file_name("hosts");
    DataPlane::start(&["--policy", file.to_str().unwrap(), "--policy-map", map, "--hosts", hosts.to_str().unwrap()])
}

/// What comes of a request: `served`, or the reason of the block.
fn outcome(proxy: &DataPlane, name: &str, origin: &Origin) -> String {
    let answer = harness::client::get(proxy.http(), &format!("http://{name}:{}/", origin.port()));
    if answer.status == 299 { "served".to_owned() } else { answer.blocked_reason() }
}

fn last_error(proxy: &DataPlane) -> Option<String> {
    let health = Client::connect(proxy.admin()).send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").answer().json();
    health["policy"]["last_error"].as_str().map(str::to_owned)
}

/// What `netproxy-dp` says when it does not start, and its exit code.
fn refusal(file: &Path, map: &str) -> (Option<i32>, String) {
    let args = ["--policy", file.to_str().unwrap(), "--policy-map", map];
    let output = Command::new(binaries::path("netproxy-dp")).args(binaries::FREE_PORTS).args(args).output().unwrap();
    assert!(output.stdout.is_empty(), "nothing listens");
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[cfg(target_os = "linux")]
fn maps(proxy: &DataPlane) -> String {
    fs::read_to_string(format!("/proc/{}/maps", proxy.id())).unwrap()
}

#[test]
fn both_serve_and_swap_by_rename() {
    for map in ["private", "shared"] {
        let (_dir, file) = place(&allows("a.test"));
        let origin = Origin::start();
        let proxy = start(&file, map);
        assert_eq!((outcome(&proxy, "a.test", &origin), outcome(&proxy, "b.test", &origin)), ("served".into(), "not_allowed".into()));
        // Only a shared map is a map of the file.
        #[cfg(target_os = "linux")]
        assert_eq!(maps(&proxy).contains("policy.bin"), map == "shared");
        replace(&file, &allows("b.test"));
        let said = proxy.next_reload();
        assert_eq!((said["outcome"].as_str(), said["generation"].as_u64()), (Some("swapped"), Some(2)), "{map}: {said}");
        assert_eq!((outcome(&proxy, "a.test", &origin), outcome(&proxy, "b.test", &origin)), ("not_allowed".into(), "served".into()));
        // A file that was replaced is no file that was changed, and the same policy in a new file is no news.
        replace(&file, &allows("b.test"));
        assert_eq!(proxy.next_reload()["outcome"], "unchanged", "{map}");
        // Nor is a bad one a reason to give up the good one.
        replace(&file, b"noise");
        let said = proxy.next_reload();
        assert!(said["outcome"] == "refused" && said["error"].as_str().unwrap().contains("is refused"), "{map}: {said}");
        assert_eq!(outcome(&proxy, "b.test", &origin), "served", "{map}");
    }
}

#[test]
fn what_others_can_write_is_not_shared() {
    let (dir, file) = place(&allows("a.test"));
    let (folder, name) = (dir.path().to_str().unwrap(), file.to_str().unwrap());
    let cases = [
        ((0o664, 0o755), Some(format!("`{name}` can be written by others than its owner (mode 0664); run `chmod go-w {name}`"))),
        ((0o646, 0o755), Some(format!("run `chmod go-w {name}`"))),
        ((0o644, 0o775), Some(format!("`{folder}` can be written by others than its owner (mode 0775); run `chmod go-w {folder}`"))),
        ((0o644, 0o777), Some(format!("run `chmod go-w {folder}`"))),
        // As /tmp is: others can write into it, and not take away what is ours.
        ((0o644, 0o1777), None),
        ((0o600, 0o700), None),
    ];
    for ((mode, folder_mode), words) in cases {
        chmod(&file, mode);
        chmod(dir.path(), folder_mode);
        match words {
            Some(words) => {
                let (code, said) = refusal(&file, "shared");
                assert!(code == Some(2) && said.contains(&words) && said.contains("or use `--policy-map private`"), "{said}");
            }
            None => drop(start(&file, "shared")),
        }
        drop(start(&file, "private"));
    }
    // Nor is what belongs to another user. Only root can give a file away.
    let nobody = 65_534;
    if std::os::unix::fs::chown(&file, Some(nobody), None).is_ok() {
        let (code, said) = refusal(&file, "shared");
        assert!(code == Some(2) && said.contains(&format!("`{name}` belongs to user {nobody}")), "{said}");
        std::os::unix::fs::chown(&file, Some(0), None).unwrap();
    }
    // The folder that a link leads into counts as well.
    let links = tempfile::tempdir().unwrap();
    let link = links.path().join("link.bin");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    chmod(dir.path(), 0o775);
    let (code, said) = refusal(&link, "shared");
    assert!(code == Some(2) && said.contains(&format!("run `chmod go-w {folder}`")), "{said}");
}

#[test]
fn a_file_that_is_damaged_or_missing_is_refused_as_in_private() {
    let (dir, file) = place(b"");
    let good = allows("a.test");
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for (bytes, words) in [
        (&b""[..], "the file has 0 bytes"),
        (b"noise", "not a policy blob"),
        (&good[..good.len() - 1], "cut, padded or still being written"),
        (&flipped, "does not match its digest"),
    ] {
        replace(&file, bytes);
        let (code, said) = refusal(&file, "shared");
        assert!(code == Some(2) && said.contains(words), "{said}");
    }
    let output = Command::new(binaries::path("netproxy-dp")).args(["--policy-map", "shared"]).output().unwrap();
    assert!(
        output.status.code() == Some(2) && String::from_utf8(output.stderr).unwrap().contains("--policy <FILE>"),
        "the built-in policy is no file"
    );
    for (path, words) in [(dir.path(), "it is not a regular file"), (&dir.path().join("none.bin"), "cannot read the policy")] {
        let (code, said) = refusal(path, "shared");
        assert!(code == Some(2) && said.contains(words), "{said}");
    }
}

#[test]
fn truncation_does_not_reach_a_private_copy() {
    let (_dir, file) = place(&allows("a.test"));
    let origin = Origin::start();
    let mut proxy = start(&file, "private");
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(0).unwrap();
    let said = proxy.next_reload();
    assert_eq!(said["outcome"], "refused", "{said}");
    assert_eq!((outcome(&proxy, "a.test", &origin), proxy.is_alive()), ("served".into(), true));
}

/// The policy in force is not the one that was verified any more. What it would say does not matter: nothing passes.
#[test]
fn a_shared_policy_that_is_written_over_is_withdrawn() {
    let (a, b) = (allows("a.test"), allows("b.test"));
    assert_eq!(a.len(), b.len());
    let (_dir, file) = place(&a);
    let origin = Origin::echo();
    let serving = Origin::start();
    let proxy = start(&file, "shared");
    let mut tunnel = Client::connect(proxy.http());
    assert_eq!(tunnel.tunnel(&format!("a.test:{}", origin.port())).status, 200);
    // Damage.
    write_over(&file, &[0x5a; 8]);
    let said = proxy.next_reload();
    let error = said["error"].as_str().unwrap().to_owned();
    assert!(said["outcome"] == "withdrawn" && error.contains("was written to while it was mapped"), "{said}");
    assert_eq!(outcome(&proxy, "a.test", &serving), "proxy_disabled");
    assert_eq!(tunnel.rest(), Vec::<u8>::new(), "tunnels are closed");
    // What is there now is no policy.
    let said = proxy.next_reload();
    assert!(said["outcome"] == "refused" && said["error"].as_str().unwrap().contains("not a policy blob"), "{said}");
    assert_eq!((outcome(&proxy, "a.test", &serving), last_error(&proxy).is_some()), ("proxy_disabled".into(), true));
    // A good one, even the same, ends it.
    replace(&file, &a);
    assert_eq!(proxy.next_reload()["outcome"], "swapped");
    assert_eq!((outcome(&proxy, "a.test", &serving), last_error(&proxy)), ("served".into(), None));
    // A good policy written in place is withdrawn too, and loaded as what it is now.
    write_over(&file, &b);
    assert_eq!(proxy.next_reload()["outcome"], "withdrawn");
    assert_eq!(proxy.next_reload()["outcome"], "swapped");
    assert_eq!((outcome(&proxy, "a.test", &serving), outcome(&proxy, "b.test", &serving)), ("not_allowed".into(), "served".into()));
}

#[test]
fn what_changes_about_a_shared_file_but_not_in_it_is_looked_into() {
    let (dir, file) = place(&allows("a.test"));
    let origin = Origin::start();
    let proxy = start(&file, "shared");
    // Another name for it: the bytes are verified again, and are what they were.
    let other = dir.path().join("other.bin");
    fs::hard_link(&file, &other).unwrap();
    assert_eq!(proxy.next_reload()["outcome"], "unchanged");
    assert_eq!(outcome(&proxy, "a.test", &origin), "served");
    // Written, and the time of that set back.
    let times = fs::metadata(&file).unwrap();
    write_over(&file, &[0x5a; 8]);
    fs::File::options().write(true).open(&file).unwrap().set_modified(times.modified().unwrap()).unwrap();
    let said = proxy.next_reload();
    assert!(said["outcome"] == "withdrawn", "{said}");
    replace(&file, &allows("a.test"));
    while proxy.next_reload()["outcome"] != "swapped" {}
    // Opened to others.
    chmod(&file, 0o666);
    let said = proxy.next_reload();
    assert!(said["outcome"] == "withdrawn" && said["error"].as_str().unwrap().contains("run `chmod go-w"), "{said}");
    assert_eq!(outcome(&proxy, "a.test", &origin), "proxy_disabled");
    chmod(&file, 0o644);
    while proxy.next_reload()["outcome"] != "swapped" {}
    assert_eq!(outcome(&proxy, "a.test", &origin), "served");
}

/// The number of rules in the header of the trie: lookups find all that is there, whatever it says.
const RULES: (SectionKind, usize) = (SectionKind::Trie, 44);

/// A policy that allows `a.test` and denies so many names, as it is and with another byte in that place, under the right digest.
fn wrong_inside(names: usize, (section, at): (SectionKind, usize)) -> (Vec<u8>, Vec<u8>) {
    let denied: Vec<String> = (0..names).map(|number| format!("host-{number}.of-a-long-list.example")).collect();
    let domains: Vec<(&str, &str)> = denied.iter().map(|name| (name.as_str(), "deny")).chain([("a.test", "allow")]).collect();
    let good = compile(&policy("allow_local_binding = true", &domains));
    let at = Blob::open(&good).unwrap().section(section).as_ptr().addr() - good.as_ptr().addr() + at;
    let mut wrong = good.clone();
    wrong[at] ^= 1;
    reseal(&mut wrong);
    (good, wrong)
}

/// What only the compiler could have got wrong: the digest is right, and there are too many rules for clients to wait until each was looked at.
#[test]
fn a_large_policy_is_served_before_its_rules_were_looked_at_and_withdrawn_if_they_are_wrong() {
    let (good, wrong) = wrong_inside(LARGE, RULES);
    assert!(good.len() > 1 << 20, "{}", good.len());
    let origin = Origin::start();
    for map in ["private", "shared"] {
        let (_dir, file) = place(&wrong);
        let proxy = start(&file, map);
        let said = proxy.next_reload();
        assert!(said["outcome"] == "withdrawn" && said["error"].as_str().unwrap().contains("(the number of rules)"), "{said}");
        assert_eq!((outcome(&proxy, "a.test", &origin), last_error(&proxy).is_some()), ("proxy_disabled".into(), true));
        replace(&file, &good);
        assert_eq!(proxy.next_reload()["outcome"], "swapped");
        assert_eq!((outcome(&proxy, "a.test", &origin), last_error(&proxy)), ("served".into(), None));
        // While another is in force, there is time for all of it before.
        replace(&file, &wrong);
        assert_eq!(proxy.next_reload()["outcome"], "refused");
        assert_eq!(outcome(&proxy, "a.test", &origin), "served");
    }
}

/// Names in a policy whose rules are many.
const LARGE: usize = 50_000;

/// A small one, or what all rules share.
#[test]
fn what_takes_no_time_to_look_at_is_looked_at_before_anybody_is_served() {
    for (names, place_of, what) in [(3, RULES, "(the number of rules)"), (LARGE, (SectionKind::Conditions, 0), "(the first word is not 0)")]
    {
        let (_, wrong) = wrong_inside(names, place_of);
        let (_dir, file) = place(&wrong);
        for map in ["private", "shared"] {
            let (code, said) = refusal(&file, map);
            assert!(code == Some(2) && said.contains(what), "{names} names: {code:?} {said}");
        }
    }
}

/// A child of `exec` would run, a process before this one would be gone, and a program that embeds the proxy has not asked for it.
#[test]
fn all_of_a_large_policy_is_looked_at_first_where_somebody_counts_on_it() {
    let (_, wrong) = wrong_inside(LARGE, RULES);
    let (dir, file) = place(&wrong);
    let (file, said) = (file.to_str().unwrap(), "(the number of rules)");
    let run = |args: &[&str]| {
        let output = Command::new(binaries::path("netproxy-dp")).args(args).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, error) = run(&["exec", "--policy", file, "--", "true"]);
    assert!(code == Some(2) && error.contains(said), "{code:?} {error}");
    let (code, error) = run(&["check", "--policy", file]);
    assert!(code == Some(1) && error.contains(said), "{code:?} {error}");
    let socket = dir.path().join("next.sock");
    let mut hands_over = vec!["--hand-over", socket.to_str().unwrap()];
    let allowed = dir.path().join("good.bin");
    replace(&allowed, &allows("a.test"));
    let before = DataPlane::start(&[&["--policy", allowed.to_str().unwrap()], &hands_over[..]].concat());
    hands_over.extend(["--policy", file]);
    let (code, error) = run(&[&hands_over[..], &binaries::FREE_PORTS].concat());
    assert!(code == Some(2) && error.contains(said), "{code:?} {error}");
    assert_eq!(outcome(&before, "b.test", &Origin::start()), "not_allowed", "the one before goes on");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bound = |later| runtime.block_on(NetworkProxy::builder().policy(file).rules_later(later).free_ports().bind());
    assert!(bound(false).unwrap_err().to_string().contains(said));
    assert!(bound(true).is_ok());
}

/// A sealed memfd cannot change, so nobody's word is needed for it.
#[cfg(target_os = "linux")]
#[test]
fn a_sealed_memfd_is_shared_as_it_is() {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    use std::os::fd::AsRawFd;
    let origin = Origin::start();
    let (_dir, hosts) = place(b"");
    let mut memory = fs::File::from(memfd_create("policy", MemfdFlags::ALLOW_SEALING).unwrap());
    memory.write_all(&allows("a.test")).unwrap();
    let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), memory.as_raw_fd()));
    // Unsealed, it is a file like others, and one that everybody may write.
    let (code, said) = refusal(&path, "shared");
    assert!(code == Some(2) && said.contains("cannot be shared"), "{said}");
    fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL).unwrap();
    let hosts = hosts.with_file_name("hosts");
    let proxy = DataPlane::start(&["--policy", path.to_str().unwrap(), "--policy-map", "shared", "--hosts", hosts.to_str().unwrap()]);
    assert!(maps(&proxy).contains("memfd:policy"));
    assert_eq!(outcome(&proxy, "a.test", &origin), "served");
}
