//! A thousand credentials through the real proxy: in every place of a request, to the right host and to wrong ones. The origin of the one gets a credential in the one place where
//! it belongs; everybody else gets none, wherever they look.

use harness::http2::{Http2, Http2Origin};
use harness::planted::{self, Planted, Way, base64, everywhere, field_with, found};
use harness::tls::{Authority, Front, through, trusting};
use harness::{Client, DataPlane, Exchange, Origin, binaries, policy};
use rustls::ClientConfig;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Every credential of these tests has it, and no dummy: one search finds them all.
const MARK: &str = "rEaL5Qx9vW2kZ8tN";
/// Credentials that the policy describes, each in a variable of its own.
const DESCRIBED: usize = 1000;
/// Variables of one of its entries.
const TOGETHER: usize = 50;

const RIGHT: &str = "service.test";
const WRONG: &[&str] = &["evil.test", "service.test.evil.test", "api.github.com.evil.test", "raw.github.com"];
const KNOWN: &[(&str, &str, &str, &[Way])] = &[
    ("GH_TOKEN", "ghp_", "api.github.com", GITHUB),
    ("GITHUB_TOKEN", "github_pat_", "tenant.ghe.com", GITHUB),
    ("GH_ENTERPRISE_TOKEN", "", "github.corp.test", GITHUB),
    ("OPENAI_API_KEY", "sk-proj-", "api.openai.com", &[Way::Bearer]),
];
const GITHUB: &[Way] = &[Way::Bearer, Way::Token, Way::BasicUser, Way::BasicPassword];
/// How those of the policy are sent, and the words of the policy for that.
const WAYS: &[(&[Way], &str)] = &[
    (&[Way::Bearer], "auth = \"bearer\""),
    (&[Way::Token], "auth = \"token\""),
    (&[Way::BasicUser, Way::BasicPassword], "auth = \"basic\""),
    (&[Way::Field], "auth = \"header\"\nheader = \"x-service-key\"\nprefix = \"Key \""),
];

/// What the proxy refuses to read, over HTTP/1.1, and how it answers.
const REFUSED: &[(&str, u16)] = &[("fragment", 400), ("trace", 400)];

/// A variable of the proxy's environment with a credential.
struct Credential {
    variable: String,
    real: String,
    right: &'static str,
    ways: &'static [Way],
}

/// The places of a head, of which each described credential is put in one.
fn credentials() -> Vec<Credential> {
    let real = |prefix: &str, seed: usize| planted::secret(prefix, seed as u64 + 1) + MARK;
    let known = KNOWN.iter().enumerate().map(|(at, (variable, prefix, right, ways))| Credential {
        variable: (*variable).to_owned(),
        real: real(prefix, DESCRIBED + at),
        right,
        ways,
    });
    let described = (0..DESCRIBED).map(|at| Credential {
        variable: format!("CREDENTIAL_{at}"),
        real: real(["", "glpat-", "a.b-", "npm_"][at % 4], at),
        right: RIGHT,
        ways: WAYS[at / TOGETHER % WAYS.len()].0,
    });
    known.chain(described).collect()
}

fn toml(ports: &[u16]) -> String {
    let domains: Vec<(&str, &str)> = hosts().into_iter().map(|host| (host, "allow")).collect();
    let prefixes: Vec<String> = ports.iter().map(|port| format!("\"https://{RIGHT}:{port}/\"")).collect();
    let mut toml = policy("allow_local_binding = true\ncredential_broker = true\nmitm = { mode = \"always\" }", &domains);
    for first in (0..DESCRIBED).step_by(TOGETHER) {
        let variables: Vec<String> = (first..first + TOGETHER).map(|at| format!("\"CREDENTIAL_{at}\"")).collect();
        toml += &format!(
            "[permissions.workspace.network.credentials.of{first}]\nenv = [{}]\nurl_prefixes = [{}]\n{}\n",
            variables.join(", "),
            prefixes.join(", "),
            WAYS[first / TOGETHER % WAYS.len()].1
        );
    }
    toml
}

fn hosts() -> Vec<&'static str> {
    KNOWN.iter().map(|(_, _, right, _)| *right).chain([RIGHT]).chain(WRONG.iter().copied()).collect()
}

/// The environment of the proxy, but for what a test adds.
fn variables(credentials: &[Credential], roots: &str) -> Vec<(String, String)> {
    let own = [("SSL_CERT_FILE", roots), ("GH_HOST", "github.corp.test")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    credentials.iter().map(|credential| (credential.variable.clone(), credential.real.clone())).chain(own).collect()
}

/// The proxy, two origins in TLS and one outside of it, and the dummies.
struct World {
    credentials: Vec<Credential>,
    dummies: HashMap<String, String>,
    proxy: DataPlane,
    folder: tempfile::TempDir,
    front: Front,
    /// The same origin on another port.
    elsewhere: Front,
    origin: Origin,
    second: Http2Origin,
    trust: [Arc<ClientConfig>; 2],
    /// All that was answered to clients.
    answered: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let (authority, folder, origin) = (Authority::new(), tempfile::tempdir().unwrap(), Origin::start());
        let server = |protocol| authority.server(&hosts(), &[protocol]);
        let (front, elsewhere) = (Front::of(&origin, server("http/1.1")), Front::of(&origin, server("http/1.1")));
        let second = Http2Origin::start(server("h2"), 299, &[]);
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let lines: String = hosts().iter().map(|host| format!("127.0.0.1 {host}\n")).collect();
        std::fs::write(path("hosts"), lines).unwrap();
        binaries::compile_to(&toml(&[front.port(), second.port()]), Path::new(&path("policy.bin")));
        let credentials = credentials();
        let mut command = Command::new(binaries::path("netproxy-dp"));
        binaries::without_proxies(&mut command).args(binaries::FREE_PORTS).args([
            "--policy",
            &path("policy.bin"),
            "--hosts",
            &path("hosts"),
        ]);
        command.envs(variables(&credentials, authority.file().to_str().unwrap())).env("NETPROXY_STATE_DIR", path("state"));
        command.stdin(Stdio::null()).stderr(std::fs::File::create(path("stderr")).unwrap());
        let proxy = DataPlane::spawn(command);
        let own = binaries::authority_in(Path::new(&path("state")));
        let trust = ["http/1.1", "h2"].map(|protocol| trusting(&own, &[protocol]));
        let dummies = dummies(&path("state"));
        Self { credentials, dummies, proxy, folder, front, elsewhere, origin, second, trust, answered: Vec::new() }
    }

    fn dummy(&self, credential: &Credential) -> &str {
        &self.dummies[&credential.variable]
    }
}

/// What `netproxy-dp env` has for programs; nothing of its own environment comes through.
fn dummies(state: &str) -> HashMap<String, String> {
    let mut command = Command::new(binaries::path("netproxy-dp"));
    let output = command.args(["env", "--shell", "json", "--state-dir", state]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(found(&output.stdout, MARK), None);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// One request, and what became of it.
struct Sent {
    request: Planted,
    authority: String,
    /// What has to stand in the last field, as the origin sees it; `None` where everything stays as it is.
    expected: Option<Vec<u8>>,
    status: u16,
}

impl Sent {
    /// What is wrong with it, as it arrived.
    fn wrong(&self, arrived: Option<&Exchange>) -> Option<String> {
        let Some(seen) = arrived else {
            return (self.expected.is_some() || self.status == 299).then(|| "it did not arrive".to_owned());
        };
        let shown = found(&seen.raw_head, MARK).or_else(|| found(&seen.raw_body, MARK));
        if shown.is_some() != self.expected.is_some() {
            return Some(format!("a credential is there: {shown:?}"));
        }
        let (last, others) = self.request.headers.split_last().unwrap();
        let has = |name: &str, value: &[u8]| {
            seen.headers.iter().any(|(other, found)| other.eq_ignore_ascii_case(name) && found.as_bytes() == value.trim_ascii())
        };
        // This one ends at every proxy.
        let ends = |name: &str| name.eq_ignore_ascii_case("proxy-authorization");
        let missing = others.iter().find(|(name, value)| !has(name, value.as_bytes()) && !ends(name)).or_else(|| {
            let expected = self.expected.as_deref().unwrap_or(last.1.as_bytes());
            (!has(&last.0, expected) && !ends(&last.0)).then_some(last)
        });
        let count = |fields: &[(String, String)], name: &str| fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name)).count();
        if count(&seen.headers, &last.0) != count(&self.request.headers, &last.0) && !ends(&last.0) {
            return Some(format!("`{}` is there {} times", last.0, count(&seen.headers, &last.0)));
        }
        missing.map(|(name, _)| format!("`{name}` is {:?}", seen.header(&name.to_ascii_lowercase())))
    }
}

/// Where a request goes, and whether what it carries belongs there.
fn sent(request: &Planted, number: usize, authority: String, credential: &Credential, dummy: &str, is_right: bool) -> Sent {
    let expected =
        (is_right && request.way.is_some_and(|way| credential.ways.contains(&way))).then(|| field_with(request, dummy, &credential.real));
    let mut request = request.clone();
    request.headers.insert(0, ("x-number".to_owned(), number.to_string()));
    Sent { request, authority, expected, status: 0 }
}

/// Compares all that was sent with all that arrived; how many credentials were where they belong.
fn compare(sent: &[Sent], arrived: &[Exchange]) -> usize {
    let by_number: BTreeMap<usize, &Exchange> =
        arrived.iter().filter_map(|exchange| Some((exchange.header("x-number")?.parse().ok()?, exchange))).collect();
    assert_eq!(by_number.len(), arrived.len(), "each came once");
    let failed: Vec<String> = sent
        .iter()
        .enumerate()
        .filter_map(|(number, sent)| {
            let seen = by_number.get(&number).copied();
            let (request, head) = (&sent.request, |seen: &Exchange| seen.raw_head.escape_ascii().to_string());
            let why = sent.wrong(seen)?;
            Some(format!("{} to {} ({}): {why}\n    {request:?}\n    {:?}", request.place, sent.authority, sent.status, seen.map(head)))
        })
        .collect();
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), sent.len(), failed[..failed.len().min(20)].join("\n"));
    sent.iter().filter(|sent| sent.expected.is_some()).count()
}

/// A connection that is opened anew where the last answer was its last.
struct Line {
    proxy: SocketAddr,
    trust: Option<Arc<ClientConfig>>,
    open: HashMap<String, Client>,
}

impl Line {
    /// The status; what was answered is kept in `answered`.
    fn ask(&mut self, authority: &str, method: &str, bytes: &[u8], answered: &mut Vec<u8>) -> u16 {
        let mut client = self.open.remove(authority).unwrap_or_else(|| match &self.trust {
            Some(trust) => through(self.proxy, authority, trust).unwrap().client,
            None => Client::connect(self.proxy),
        });
        let answer = client.send(bytes).answer_to(method);
        for (name, value) in answer.headers.iter().chain(&answer.trailers) {
            answered.extend_from_slice(format!("{} {name}: {value}\n", answer.reason).as_bytes());
        }
        answered.extend_from_slice(&answer.body);
        if answer.header("connection") != Some("close") {
            self.open.insert(authority.to_owned(), client);
        }
        answer.status
    }
}

/// Each known credential in every place, and each of a thousand others in one, to its own host and to one that it is not for, on its port and on another.
fn plan(world: &World, port: u16, others: &[u16], described: usize) -> Vec<Sent> {
    let mut all = Vec::new();
    let places = everywhere("xx").len();
    let mut add = |credential: &Credential, place: usize| {
        let dummy = world.dummy(credential);
        let request = &everywhere(dummy)[place];
        let wrong = WRONG[place % WRONG.len()];
        all.push(sent(request, all.len(), format!("{}:{port}", credential.right), credential, dummy, true));
        all.push(sent(request, all.len(), format!("{wrong}:{port}"), credential, dummy, false));
        // Those of the policy are for one port; those that are known are for all.
        if let (true, Some(other)) = (credential.right == RIGHT, others.first()) {
            all.push(sent(request, all.len(), format!("{RIGHT}:{other}"), credential, dummy, false));
        }
    };
    for (at, credential) in world.credentials.iter().take(KNOWN.len() + described).enumerate() {
        match at.checked_sub(KNOWN.len()) {
            None => (0..places).for_each(|place| add(credential, place)),
            Some(at) => add(credential, at % places),
        }
    }
    all
}

#[test]
fn a_thousand_credentials_go_where_they_belong_and_nowhere_else() {
    let mut world = World::new();
    for credential in &world.credentials {
        let dummy = world.dummy(credential);
        assert!(dummy != credential.real && dummy.len() >= 16 && found(dummy.as_bytes(), MARK).is_none(), "{}", credential.variable);
    }
    let mut answered = Vec::new();
    over_http_1(&world, &mut answered);
    over_http_2(&world, &mut answered);
    bodies_and_trailers(&world, &mut answered);
    in_the_clear(&world, &mut answered);
    world.answered = answered;
    nothing_is_told(&world);
}

fn over_http_1(world: &World, answered: &mut Vec<u8>) {
    let mut line = Line { proxy: world.proxy.http(), trust: Some(Arc::clone(&world.trust[0])), open: HashMap::new() };
    let mut all = plan(world, world.front.port(), &[world.elsewhere.port()], DESCRIBED);
    for sent in &mut all {
        sent.status = line.ask(&sent.authority, &sent.request.method, &sent.request.head(&sent.authority, &[]), answered);
        let refused = REFUSED.iter().find(|(place, _)| *place == sent.request.place).map(|(_, status)| *status);
        assert_eq!(sent.status, refused.unwrap_or(299), "{}: {:?}", sent.request.place, sent.request);
    }
    let translated = compare(&all, &world.origin.requests());
    assert!(translated > 80 && all.len() > 3000, "{translated} of {}", all.len());
}

fn over_http_2(world: &World, answered: &mut Vec<u8>) {
    let before = answered.len();
    let mut open: HashMap<String, Http2> = HashMap::new();
    let (mut all, mut unsaid) = (plan(world, world.second.port(), &[], DESCRIBED / 4), 0);
    for sent in &mut all {
        let authority = sent.authority.clone();
        let connection =
            open.entry(authority.clone()).or_insert_with(|| Http2::over(through(world.proxy.http(), &authority, &world.trust[1]).unwrap()));
        let Planted { method, path_and_query, headers, .. } = &sent.request;
        match connection.ask(method, &authority, path_and_query, headers, None) {
            Ok(answer) => {
                answered.extend_from_slice(format!("{:?}", answer.headers).as_bytes());
                answered.extend_from_slice(&answer.body);
                sent.status = answer.status;
            }
            Err(_) => {
                open.remove(&authority);
                unsaid += 1;
            }
        }
    }
    let translated = compare(&all, &world.second.requests());
    assert!(translated > 40 && unsaid * 20 < all.len() && answered.len() > before, "{translated} of {}, {unsaid} unsaid", all.len());
}

/// What a body or a trailer says of credentials is nobody's business.
fn bodies_and_trailers(world: &World, answered: &mut Vec<u8>) {
    let (seen_1, seen_2) = (world.origin.requests().len(), world.second.requests().len());
    let mut line = Line { proxy: world.proxy.http(), trust: Some(Arc::clone(&world.trust[0])), open: HashMap::new() };
    let mut second = None;
    let chosen: Vec<&Credential> = world.credentials.iter().take(KNOWN.len()).chain(world.credentials.iter().step_by(TOGETHER)).collect();
    for credential in &chosen {
        let dummy = world.dummy(credential);
        let basic = base64(format!("x:{dummy}").as_bytes());
        let body = format!("Authorization: Bearer {dummy}\r\n{{\"token\": \"{dummy}\", \"pair\": \"Basic {basic}\"}}{dummy}");
        let trailers =
            [("x-key", format!("Bearer {dummy}")), ("authorization", format!("Bearer {dummy}")), ("x-service-key", format!("Key {dummy}"))];
        let authority = format!("{}:{}", credential.right, world.front.port());
        let head = format!("POST /{dummy} HTTP/1.1\r\nHost: {authority}\r\n");
        let length = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        let lines: String = trailers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x};token={dummy}\r\n{body}\r\n0\r\n{lines}\r\n", body.len());
        for request in [length, chunked] {
            assert_eq!(line.ask(&authority, "POST", request.as_bytes(), answered), 299);
        }
        if credential.right == RIGHT {
            let authority = format!("{RIGHT}:{}", world.second.port());
            let second = second.get_or_insert_with(|| Http2::over(through(world.proxy.http(), &authority, &world.trust[1]).unwrap()));
            let trailers = trailers.map(|(name, value)| (name.to_owned(), value));
            assert_eq!(second.ask("POST", &authority, "/", &[], Some((body.as_bytes(), &trailers))).unwrap().status, 299);
        }
    }
    let arrived = [&world.origin.requests()[seen_1..], &world.second.requests()[seen_2..]].concat();
    assert!(arrived.len() > 2 * chosen.len(), "{}", arrived.len());
    for seen in arrived {
        assert_eq!(found(&seen.raw_head, MARK).or_else(|| found(&seen.raw_body, MARK)), None, "{seen:?}");
        assert!(seen.body.starts_with(b"Authorization: Bearer "), "bodies go on as they are: {seen:?}");
    }
}

/// Outside of TLS everybody reads along.
fn in_the_clear(world: &World, answered: &mut Vec<u8>) {
    let before = world.origin.requests().len();
    let mut line = Line { proxy: world.proxy.http(), trust: None, open: HashMap::new() };
    for (credential, ways) in world.credentials.iter().zip(KNOWN).map(|(credential, (.., ways))| (credential, *ways)) {
        let authority = format!("{}:{}", credential.right, world.origin.port());
        for request in everywhere(world.dummy(credential)).iter().filter(|request| request.way.is_some_and(|way| ways.contains(&way))) {
            let head = Planted { path_and_query: format!("http://{authority}/"), ..request.clone() }.head(&authority, &[]);
            assert_eq!(line.ask(&authority, &request.method, &head, answered), 299, "{}", request.place);
        }
    }
    let arrived = &world.origin.requests()[before..];
    assert!(arrived.len() > 30, "{}", arrived.len());
    for seen in arrived {
        assert_eq!(found(&seen.raw_head, MARK), None, "{seen:?}");
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Wherever the proxy speaks, and to whomever.
fn nothing_is_told(world: &World) {
    // Errors that have to do with a request that carries one: an origin that is not there, and one that is not allowed.
    let credential = &world.credentials[0];
    let mut answers = world.answered.clone();
    for authority in ["api.github.com:1", "denied.test:443"] {
        let dummy = world.dummy(credential);
        let head = format!(
            "GET http://{authority}/{dummy} HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {dummy}\r\nConnection: close\r\n\r\n"
        );
        answers.extend(Client::connect(world.proxy.http()).send(head).rest());
    }
    let admin = |path: &str| Client::connect(world.proxy.admin()).send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).rest();
    let state = files(&world.folder.path().join("state"));
    assert!(state.iter().any(|path| path.ends_with("current.json")), "{state:?}");
    let mut places = vec![
        ("answers".to_owned(), answers),
        ("standard output".to_owned(), world.proxy.said().into_bytes()),
        ("/metrics".to_owned(), admin("/metrics")),
        ("/health".to_owned(), admin("/health")),
        ("/nothing".to_owned(), admin("/nothing")),
    ];
    // State, policy, names, and what went to standard error.
    places.extend(files(world.folder.path()).into_iter().map(|path| (path.display().to_string(), std::fs::read(path).unwrap())));
    for (place, bytes) in places {
        assert!(!bytes.is_empty() || place.starts_with(world.folder.path().to_str().unwrap()), "nothing in {place}");
        assert_eq!(found(&bytes, MARK), None, "{place}");
    }
}

/// A command has dummies, and cannot look for more where it comes from: not as the user of the proxy either.
#[cfg(target_os = "linux")]
#[test]
fn a_command_sees_dummies_and_nothing_of_who_started_it() {
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::os::unix::process::CommandExt;
    /// Whom root becomes, since root may read everything.
    const NOBODY: u32 = 65534;

    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let path = |name: &str| folder.path().join(name);
    binaries::compile_to(&toml(&[443]), &path("policy.bin"));
    // Where anybody can run it.
    std::fs::copy(binaries::path("netproxy-dp"), path("netproxy-dp")).unwrap();
    std::fs::copy(authority.file(), path("roots.pem")).unwrap();
    std::fs::create_dir(path("state")).unwrap();
    for name in ["", "policy.bin", "netproxy-dp", "roots.pem", "state"] {
        std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let credentials = credentials();
    let script =
        "env; echo ---; cat /proc/$PPID/environ; cat /proc/$PPID/mem; for task in /proc/$PPID/task/*; do cat $task/environ; done; cat $0/*";
    let mut command = Command::new(path("netproxy-dp"));
    binaries::without_proxies(&mut command)
        .args(["exec", "--policy"])
        .arg(path("policy.bin"))
        .args(["--", "sh", "-c", script])
        .arg(path("state"));
    command.envs(variables(&credentials, path("roots.pem").to_str().unwrap())).env("NETPROXY_STATE_DIR", path("state"));
    // A copy of one, as configuration has it.
    command.env("INDEX_URL", format!("https://user:{}@service.test/", credentials[9].real)).current_dir("/").stdin(Stdio::null());
    if rustix::process::geteuid().is_root() {
        chown(path("state"), Some(NOBODY), Some(NOBODY)).unwrap();
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let (environment, looked) = out.split_once("---\n").unwrap_or_else(|| panic!("{out}{err}"));
    assert_eq!((found(out.as_bytes(), MARK), found(err.as_bytes(), MARK)), (None, None));
    assert!(err.matches("Permission denied").count() >= 3, "{err}");
    assert!(looked.contains("BEGIN CERTIFICATE"), "the state folder was read: {looked:.200}");
    let seen: HashMap<&str, &str> = environment.lines().filter_map(|line| line.split_once('=')).collect();
    for credential in &credentials {
        let dummy = seen[credential.variable.as_str()];
        assert!(dummy.len() >= 16 && dummy != credential.real, "{}", credential.variable);
    }
    assert_eq!(seen["INDEX_URL"], format!("https://user:{}@service.test/", seen[credentials[9].variable.as_str()]));
}
