//! The variables of a child's environment: one table of all of them, and what each is set to.
//!
//! A variable is here because the documentation of its program says so. Programs that ask the system only, and those that have authorities of their own built in and no variable for
//! others, cannot be helped from here: `netproxy-dp doctor` says what helps them.

use super::java;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// What a variable is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// `http://` and the address of the HTTP proxy.
    HttpProxy,
    /// `socks5h://` and the address of the SOCKS5 proxy; the HTTP proxy where SOCKS5 is off.
    AnyProxy,
    /// The address of the HTTP proxy as `host:port`.
    ProxyAddress,
    /// The host of the HTTP proxy.
    ProxyHost,
    /// The port of the HTTP proxy.
    ProxyPort,
    /// What is reached without a proxy: nothing, or what is not public where `allow_local_binding` opens that.
    NoProxy,
    /// The same text always: a switch.
    Fixed(&'static str),
    /// `1` where `allow_local_binding` is true, `0` where not.
    LocalBinding,
    /// A file with all trusted authorities, as PEM; only where TLS is opened.
    Bundle,
    /// Options of the Java virtual machine, behind those that are there already.
    Java,
    /// The command for ssh, through `netproxy-dp connect`; only where there is none yet.
    Ssh,
    /// Settings of wget, where the user has none; only where TLS is opened.
    Wget,
    /// A folder with settings of PHP, behind those that are there already; only where TLS is opened.
    Php,
}

/// A variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What it is set to.
    pub purpose: Purpose,
    /// Who reads it.
    pub readers: &'static str,
}

const fn variable(name: &'static str, purpose: Purpose, readers: &'static str) -> Variable {
    Variable { name, purpose, readers }
}

/// Every variable. What the system reads without regard to case is here once in each spelling that some program wants.
pub const VARIABLES: &[Variable] = &[
    variable("CODEX_NETWORK_PROXY_ACTIVE", Purpose::Fixed("1"), "programs that want to know whether there is a proxy"),
    variable("CODEX_NETWORK_ALLOW_LOCAL_BINDING", Purpose::LocalBinding, "programs that want to know whether local addresses are open"),
    variable("HTTP_PROXY", Purpose::HttpProxy, "nearly all clients, for http"),
    variable("http_proxy", Purpose::HttpProxy, "curl, and others that take no upper case"),
    variable("HTTPS_PROXY", Purpose::HttpProxy, "nearly all clients, for https"),
    variable("https_proxy", Purpose::HttpProxy, "wget, gRPC, and others"),
    // Not SOCKS5: Deno and Chromium take this one before all others, Chromium does not know `socks5h`, httpx ends where the package for SOCKS5 is not there, and in limited mode SOCKS5
    // is for port 443 alone.
    variable("ALL_PROXY", Purpose::HttpProxy, "curl, git, Go, httpx, for all else"),
    variable("all_proxy", Purpose::HttpProxy, "Chromium, Deno, curl, and others that take no upper case"),
    variable("FTP_PROXY", Purpose::AnyProxy, "clients of FTP"),
    variable("ftp_proxy", Purpose::AnyProxy, "clients of FTP"),
    variable("WS_PROXY", Purpose::HttpProxy, "clients of WebSockets"),
    variable("ws_proxy", Purpose::HttpProxy, "clients of WebSockets"),
    variable("WSS_PROXY", Purpose::HttpProxy, "clients of WebSockets over TLS"),
    variable("wss_proxy", Purpose::HttpProxy, "clients of WebSockets over TLS"),
    variable("NO_PROXY", Purpose::NoProxy, "nearly all clients"),
    variable("no_proxy", Purpose::NoProxy, "curl, wget, and others"),
    variable("grpc_proxy", Purpose::HttpProxy, "gRPC, before all others"),
    variable("no_grpc_proxy", Purpose::NoProxy, "gRPC, before all others"),
    variable("RSYNC_PROXY", Purpose::ProxyAddress, "rsync"),
    variable("npm_config_proxy", Purpose::HttpProxy, "npm"),
    variable("npm_config_http_proxy", Purpose::HttpProxy, "npm"),
    variable("npm_config_https_proxy", Purpose::HttpProxy, "npm"),
    variable("npm_config_noproxy", Purpose::NoProxy, "npm"),
    variable("NPM_CONFIG_PROXY", Purpose::HttpProxy, "npm"),
    variable("NPM_CONFIG_HTTP_PROXY", Purpose::HttpProxy, "npm"),
    variable("NPM_CONFIG_HTTPS_PROXY", Purpose::HttpProxy, "npm"),
    variable("NPM_CONFIG_NOPROXY", Purpose::NoProxy, "npm"),
    variable("YARN_HTTP_PROXY", Purpose::HttpProxy, "Yarn"),
    variable("YARN_HTTPS_PROXY", Purpose::HttpProxy, "Yarn"),
    variable("YARN_NO_PROXY", Purpose::NoProxy, "Yarn"),
    variable("BUNDLE_HTTP_PROXY", Purpose::HttpProxy, "Bundler"),
    variable("BUNDLE_HTTPS_PROXY", Purpose::HttpProxy, "Bundler"),
    variable("BUNDLE_NO_PROXY", Purpose::NoProxy, "Bundler"),
    variable("PIP_PROXY", Purpose::HttpProxy, "pip"),
    variable("CARGO_HTTP_PROXY", Purpose::HttpProxy, "cargo, before its configuration files"),
    variable("DOCKER_HTTP_PROXY", Purpose::HttpProxy, "Docker"),
    variable("DOCKER_HTTPS_PROXY", Purpose::HttpProxy, "Docker"),
    variable("NODE_USE_ENV_PROXY", Purpose::Fixed("1"), "Node.js: fetch and http take the proxy from the environment"),
    variable("ELECTRON_GET_USE_PROXY", Purpose::Fixed("true"), "the installer of Electron"),
    variable("GLOBAL_AGENT_HTTP_PROXY", Purpose::HttpProxy, "programs on Node.js with global-agent, such as that installer"),
    variable("GLOBAL_AGENT_HTTPS_PROXY", Purpose::HttpProxy, "programs on Node.js with global-agent"),
    variable("GLOBAL_AGENT_NO_PROXY", Purpose::NoProxy, "programs on Node.js with global-agent"),
    variable("CLOUDSDK_PROXY_TYPE", Purpose::Fixed("http"), "gcloud"),
    variable("CLOUDSDK_PROXY_ADDRESS", Purpose::ProxyHost, "gcloud"),
    variable("CLOUDSDK_PROXY_PORT", Purpose::ProxyPort, "gcloud"),
    variable("JAVA_TOOL_OPTIONS", Purpose::Java, "every Java virtual machine: Maven, Gradle, sbt and all other programs on it"),
    variable("GIT_SSH_COMMAND", Purpose::Ssh, "git over ssh"),
    variable("CODEX_CA_CERTIFICATE", Purpose::Bundle, "Codex"),
    variable("SSL_CERT_FILE", Purpose::Bundle, "OpenSSL, and with it Python, Ruby, PHP, HTTP::Tiny; Go, .NET, uv, rustls"),
    variable("NIX_SSL_CERT_FILE", Purpose::Bundle, "programs from Nix"),
    variable("CURL_CA_BUNDLE", Purpose::Bundle, "curl; Requests"),
    variable("REQUESTS_CA_BUNDLE", Purpose::Bundle, "Requests, and with it conda, Poetry and the Azure CLI"),
    variable("PIP_CERT", Purpose::Bundle, "pip"),
    variable("HTTPLIB2_CA_CERTS", Purpose::Bundle, "httplib2, and with it Google's older clients"),
    variable("AWS_CA_BUNDLE", Purpose::Bundle, "AWS' command line and SDKs"),
    variable("CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", Purpose::Bundle, "gcloud"),
    variable("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", Purpose::Bundle, "gRPC"),
    variable("NODE_EXTRA_CA_CERTS", Purpose::Bundle, "Node.js, Bun, and with them Yarn and pnpm"),
    variable("npm_config_cafile", Purpose::Bundle, "npm"),
    variable("NPM_CONFIG_CAFILE", Purpose::Bundle, "npm"),
    variable("DENO_CERT", Purpose::Bundle, "Deno"),
    variable("GIT_SSL_CAINFO", Purpose::Bundle, "git over https"),
    variable("CARGO_HTTP_CAINFO", Purpose::Bundle, "cargo"),
    variable("BUNDLE_SSL_CA_CERT", Purpose::Bundle, "Bundler"),
    variable("COMPOSER_CAFILE", Purpose::Bundle, "Composer"),
    variable("HEX_CACERTS_PATH", Purpose::Bundle, "Hex, and Mix"),
    variable("PERL_LWP_SSL_CA_FILE", Purpose::Bundle, "Perl's LWP"),
    variable("WGETRC", Purpose::Wget, "wget, which takes authorities from its settings where it is built with GnuTLS"),
    variable("PHP_INI_SCAN_DIR", Purpose::Php, "PHP: curl takes authorities from its settings"),
];

/// Variables whose file, where one is named at the start, goes into the bundle: those of [`Purpose::Bundle`], and the folders of OpenSSL.
pub(crate) fn names_authorities() -> impl Iterator<Item = &'static str> {
    VARIABLES.iter().filter(|variable| variable.purpose == Purpose::Bundle).map(|variable| variable.name)
}

/// Of an environment, the variables that name authorities: nothing else is kept of it, for it may have secrets.
pub(crate) fn naming_authorities(env: &HashMap<String, String>) -> HashMap<String, String> {
    let names = names_authorities().chain(["SSL_CERT_DIR"]);
    names.filter_map(|name| env.get_key_value(name).map(|(name, value)| (name.clone(), value.clone()))).collect()
}

/// What is not public and what programs write for it; those that read no networks take the names.
const LOCAL: &str = "localhost,127.0.0.1,::1,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16";

/// What a child is told of a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildEnv {
    /// Address of the HTTP proxy.
    pub http: SocketAddr,
    /// Address of the SOCKS5 proxy, unless it is off.
    pub socks5: Option<SocketAddr>,
    /// Whether addresses that are not public are open, and so reached without the proxy.
    pub allow_local_binding: bool,
    /// What children trust beyond what the system does, where TLS is opened.
    pub files: Option<Files>,
    /// The program that `GIT_SSH_COMMAND` runs as `PROGRAM connect HOST PORT`; without it, that variable is not set.
    pub connect: Option<PathBuf>,
}

/// The files that the variables name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Our authority alone, as PEM.
    pub authority: PathBuf,
    /// The system's authorities, the user's and ours, as PEM.
    pub bundle: PathBuf,
    /// The same for Java, as PKCS#12 with the password `changeit`.
    pub truststore: PathBuf,
    /// Settings of wget that name the bundle.
    pub wgetrc: PathBuf,
    /// A folder with settings of PHP that name the bundle.
    pub php: PathBuf,
}

impl ChildEnv {
    /// The variables, by name. `parent` is the environment that they go on top of: some of its values are kept and added to.
    #[must_use]
    pub fn variables(&self, parent: &HashMap<String, String>) -> BTreeMap<&'static str, String> {
        VARIABLES.iter().filter_map(|variable| Some((variable.name, self.value(variable, parent)?))).collect()
    }

    /// Puts the variables into an environment.
    pub fn apply(&self, env: &mut HashMap<String, String>) {
        let variables = self.variables(env);
        env.extend(variables.into_iter().map(|(name, value)| (name.to_owned(), value)));
    }

    /// `http://` and the address of the HTTP proxy.
    #[must_use]
    pub fn http_url(&self) -> String {
        format!("http://{}", self.http)
    }

    fn value(&self, variable: &Variable, parent: &HashMap<String, String>) -> Option<String> {
        let before = parent.get(variable.name).map(String::as_str).filter(|value| !value.trim().is_empty());
        let text = |path: &Path| path.to_str().map(str::to_owned);
        match variable.purpose {
            Purpose::HttpProxy => Some(self.http_url()),
            Purpose::AnyProxy => Some(self.socks5.map_or_else(|| self.http_url(), |socks5| format!("socks5h://{socks5}"))),
            Purpose::ProxyAddress => Some(self.http.to_string()),
            Purpose::ProxyHost => Some(self.http.ip().to_string()),
            Purpose::ProxyPort => Some(self.http.port().to_string()),
            Purpose::NoProxy => Some(if self.allow_local_binding { LOCAL } else { "" }.to_owned()),
            Purpose::Fixed(value) => Some(value.to_owned()),
            Purpose::LocalBinding => Some(if self.allow_local_binding { "1" } else { "0" }.to_owned()),
            Purpose::Bundle => text(&self.files.as_ref()?.bundle),
            Purpose::Java => {
                let truststore = self.files.as_ref().and_then(|files| files.truststore.to_str());
                Some(java::options(before, self.http, self.allow_local_binding, truststore))
            }
            Purpose::Ssh => {
                let own = before.is_some_and(|command| !is_our_ssh(command)) || parent.contains_key("GIT_SSH");
                if own { None } else { ssh(self.connect.as_deref()?, self.http) }
            }
            Purpose::Wget => {
                let wgetrc = &self.files.as_ref()?.wgetrc;
                let home = || Path::new(parent.get("HOME").map_or("", String::as_str)).join(".wgetrc").exists();
                let own = before.map_or_else(home, |before| !is_sibling(Path::new(before), wgetrc));
                if own { None } else { text(wgetrc) }
            }
            Purpose::Php => {
                let php = self.files.as_ref()?.php.as_path();
                // An entry that is empty stands for the folder that PHP was built with.
                let mut entries: Vec<&str> = before.map_or_else(|| vec![""], |before| before.split(SEPARATOR).collect());
                entries.retain(|entry| !is_sibling(Path::new(entry), php));
                entries.push(php.to_str().filter(|php| !php.contains(SEPARATOR))?);
                Some(entries.join(SEPARATOR))
            }
        }
    }

    /// Variables of `parent` that name authorities which are in none of `included`, so that the bundle that takes their place does not have them: name and file.
    #[must_use]
    pub fn missing(&self, parent: &HashMap<String, String>, included: &[PathBuf]) -> Vec<(&'static str, PathBuf)> {
        let Some(files) = &self.files else { return Vec::new() };
        names_authorities()
            .filter_map(|name| Some((name, PathBuf::from(parent.get(name).filter(|value| !value.is_empty())?))))
            .filter(|(_, path)| !included.contains(path) && !is_sibling(path, &files.bundle) && path.is_file())
            .collect()
    }
}

/// What is to be taken out of an environment again: variables that go, and those that are left with a value. Of variables that somebody else may have set, only values of ours go; of the
/// others, all.
#[must_use]
pub fn removed(env: &HashMap<String, String>, state: &Path) -> BTreeMap<&'static str, Option<String>> {
    let of_ours = |value: &str| Path::new(value).starts_with(state);
    let left = |variable: &Variable| {
        let value = env.get(variable.name)?;
        match variable.purpose {
            Purpose::Bundle | Purpose::Wget => of_ours(value).then_some(None),
            Purpose::Ssh => is_our_ssh(value).then_some(None),
            Purpose::Java => {
                let rest = java::without_ours(value);
                (rest != *value).then(|| Some(rest).filter(|rest| !rest.is_empty()))
            }
            Purpose::Php => {
                let (ours, rest): (Vec<&str>, Vec<&str>) = value.split(SEPARATOR).partition(|entry| of_ours(entry));
                (!ours.is_empty()).then(|| Some(rest.join(SEPARATOR)).filter(|rest| !rest.is_empty()))
            }
            _ => Some(None),
        }
    };
    VARIABLES.iter().filter_map(|variable| Some((variable.name, left(variable)?))).collect()
}

/// Between the entries of a list of folders.
const SEPARATOR: &str = if cfg!(windows) { ";" } else { ":" };

/// Whether a path is one of the files that are written beside `ours`: an older one of ours.
fn is_sibling(path: &Path, ours: &Path) -> bool {
    path.is_absolute() && path.parent() == ours.parent()
}

/// ssh through the proxy. git hands the command to a shell, and ssh hands what is in it to another.
fn ssh(program: &Path, http: SocketAddr) -> Option<String> {
    let program = super::shell::sh_quoted(&program.to_str()?.replace('%', "%%"));
    Some(format!("{SSH}{}", super::shell::sh_quoted(&format!("ProxyCommand={program}{SSH_PROXY}{http} %h %p"))))
}

const SSH: &str = "ssh -o ";
const SSH_PROXY: &str = " connect --proxy http://";

fn is_our_ssh(command: &str) -> bool {
    command.starts_with(SSH) && command.contains("ProxyCommand=") && command.contains(SSH_PROXY)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

    use super::*;

    fn child() -> ChildEnv {
        ChildEnv {
            http: "127.0.0.1:3128".parse().unwrap(),
            socks5: Some("127.0.0.1:8081".parse().unwrap()),
            allow_local_binding: false,
            files: None,
            connect: Some("/opt/net proxy's/100%/netproxy-dp".into()),
        }
    }

    fn files() -> Files {
        Files {
            authority: "/state/ca-1.pem".into(),
            bundle: "/state/ca-bundle-1.pem".into(),
            truststore: "/state/truststore-1.p12".into(),
            wgetrc: "/state/wgetrc-1".into(),
            php: "/state/php-1".into(),
        }
    }

    fn env(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn each_name_is_there_once() {
        let mut names: Vec<_> = VARIABLES.iter().map(|variable| variable.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), VARIABLES.len());
    }

    #[test]
    fn the_page_has_every_variable() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/environment.md")).unwrap();
        for Variable { name, readers, .. } in VARIABLES {
            let row = page.lines().find(|line| line.starts_with(&format!("| `{name}` | ")));
            assert!(row.is_some_and(|row| row.ends_with(&format!(" | {readers} |"))), "{name}: {readers}");
        }
    }

    #[test]
    fn without_files_nothing_is_said_of_trust() {
        let variables = child().variables(&env(&[]));
        for variable in VARIABLES {
            let trust = matches!(variable.purpose, Purpose::Bundle | Purpose::Wget | Purpose::Php);
            assert_eq!(variables.contains_key(variable.name), !trust, "{}", variable.name);
        }
        assert!(!variables["JAVA_TOOL_OPTIONS"].contains("trustStore"));
    }

    #[test]
    fn values_by_purpose() {
        let with = ChildEnv { files: Some(files()), ..child() };
        let variables = with.variables(&env(&[]));
        for (name, value) in [
            ("HTTPS_PROXY", "http://127.0.0.1:3128"),
            ("all_proxy", "http://127.0.0.1:3128"),
            ("ftp_proxy", "socks5h://127.0.0.1:8081"),
            ("RSYNC_PROXY", "127.0.0.1:3128"),
            ("CLOUDSDK_PROXY_ADDRESS", "127.0.0.1"),
            ("CLOUDSDK_PROXY_PORT", "3128"),
            ("NO_PROXY", ""),
            ("CODEX_NETWORK_ALLOW_LOCAL_BINDING", "0"),
            ("SSL_CERT_FILE", "/state/ca-bundle-1.pem"),
            ("WGETRC", "/state/wgetrc-1"),
            ("PHP_INI_SCAN_DIR", ":/state/php-1"),
        ] {
            assert_eq!(variables[name], value, "{name}");
        }
        let open = ChildEnv { socks5: None, allow_local_binding: true, ..with };
        let variables = open.variables(&env(&[]));
        assert_eq!((variables["FTP_PROXY"].as_str(), variables["NO_PROXY"].as_str()), ("http://127.0.0.1:3128", LOCAL));
        assert_eq!(variables["CODEX_NETWORK_ALLOW_LOCAL_BINDING"], "1");
    }

    #[test]
    fn what_the_user_has_is_kept_and_what_we_had_is_replaced() {
        let with = ChildEnv { files: Some(files()), ..child() };
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join(".wgetrc"), "").unwrap();
        for (before, name, value) in [
            (env(&[("GIT_SSH_COMMAND", "ssh -i key")]), "GIT_SSH_COMMAND", None),
            (env(&[("GIT_SSH", "plink")]), "GIT_SSH_COMMAND", None),
            (env(&[("WGETRC", "/home/u/wgetrc")]), "WGETRC", None),
            (env(&[("HOME", home.path().to_str().unwrap())]), "WGETRC", None),
            (env(&[("WGETRC", "/state/wgetrc-0")]), "WGETRC", Some("/state/wgetrc-1")),
            (env(&[("PHP_INI_SCAN_DIR", "/a:/state/php-0:/b")]), "PHP_INI_SCAN_DIR", Some("/a:/b:/state/php-1")),
        ] {
            assert_eq!(with.variables(&before).get(name).map(String::as_str), value, "{before:?}");
        }
        // Once more on top of itself changes nothing, and an old address gives way.
        let mut first = env(&[("JAVA_TOOL_OPTIONS", "-Xmx1g '-Dname=with blank'")]);
        with.apply(&mut first);
        let mut second = first.clone();
        with.apply(&mut second);
        assert_eq!(first, second);
        let other = ChildEnv { http: "127.0.0.1:9".parse().unwrap(), ..with };
        other.apply(&mut second);
        assert!(!second.values().any(|value| value.contains("3128")), "{second:?}");
        assert!(second["JAVA_TOOL_OPTIONS"].starts_with("-Xmx1g '-Dname=with blank' "));
    }

    #[test]
    fn what_was_set_can_be_taken_out_again() {
        let with = ChildEnv { files: Some(files()), ..child() };
        let before = env(&[("JAVA_TOOL_OPTIONS", "-Xmx1g"), ("PATH", "/bin")]);
        let mut after = before.clone();
        with.apply(&mut after);
        for (name, left) in removed(&after, Path::new("/state")) {
            match left {
                Some(left) => after.insert(name.to_owned(), left),
                None => after.remove(name),
            };
        }
        assert_eq!(after, before);
        let own = env(&[("SSL_CERT_FILE", "/home/u/ca.pem"), ("GIT_SSH_COMMAND", "ssh -i key"), ("JAVA_TOOL_OPTIONS", "-Xmx1g")]);
        assert_eq!(removed(&own, Path::new("/state")), BTreeMap::new());
    }

    #[test]
    fn authorities_that_the_bundle_does_not_have_are_said() {
        let folder = tempfile::tempdir().unwrap();
        let corp = folder.path().join("corp.pem");
        std::fs::write(&corp, "").unwrap();
        let with = ChildEnv { files: Some(files()), ..child() };
        let parent = env(&[("PIP_CERT", corp.to_str().unwrap()), ("SSL_CERT_FILE", "/state/ca-bundle-0.pem"), ("DENO_CERT", "/not/there")]);
        assert_eq!(with.missing(&parent, &[]), [("PIP_CERT", corp.clone())]);
        assert_eq!(with.missing(&parent, &[corp]), []);
    }

    /// Through both shells, as git and ssh do it: the program gets its arguments as they are.
    #[cfg(unix)]
    #[test]
    fn the_command_for_ssh_survives_two_shells() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("it's $HOME \"100%\"");
        std::fs::create_dir(&odd).unwrap();
        let script = |path: &Path, text: &str| {
            std::fs::write(path, text).unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        let program = odd.join("netproxy-dp");
        script(&program, "#!/bin/sh\nprintf '%s|' \"$@\"\n");
        // An ssh that does with the command what ssh does: replaces its tokens, and has a shell run it.
        let fake = "#!/bin/sh\nfor last; do :; done\ncommand=$(printf '%s' \"${2#ProxyCommand=}\" | sed -e 's/%h/host.test/; s/%p/22/; s/%%/%/g')\nexec sh -c \"$command\"\n";
        script(&folder.path().join("ssh"), fake);
        let command = ssh(&program, "127.0.0.1:3128".parse().unwrap()).unwrap();
        assert!(is_our_ssh(&command));
        let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
        let output = std::process::Command::new("sh")
            .args(["-c", &format!("{command} host.test git-upload-pack")])
            .env("PATH", path)
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "connect|--proxy|http://127.0.0.1:3128|host.test|22|", "{command}");
    }
}
