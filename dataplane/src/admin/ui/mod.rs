//! The dashboard: `GET /ui`, its script and its style.
//!
//! The server writes the whole page, so that it can be read without JavaScript; the script puts parts of a newer page in the place of older ones. Nothing in it is from elsewhere, nothing is inline, and
//! the browser is told so ([`POLICY`]).

mod chart;
pub(crate) mod overview;
mod page;
mod serve;
mod text;

pub(crate) use page::{Page, locked, page};

use super::model::{Blocked, BlockedRequest, Change, Stats};
use overview::{History, Overview};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What pages may load: what is here.
pub(crate) const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// The type of pages.
pub(crate) const HTML: &str = "text/html; charset=utf-8";

/// A file of the page: its type, and what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asset {
    /// Its media type.
    pub(crate) kind: &'static str,
    /// What is in it.
    pub(crate) body: &'static str,
}

/// The file with this path, if there is one. It is for everybody: there is nothing in it that is not in the program.
pub(crate) fn asset(path: &str) -> Option<Asset> {
    let (kind, body) = match path {
        "/ui/app.js" => ("text/javascript; charset=utf-8", include_str!("app.js")),
        "/ui/app.css" => ("text/css; charset=utf-8", include_str!("app.css")),
        "/ui/icon.svg" => ("image/svg+xml", include_str!("icon.svg")),
        _ => return None,
    };
    Some(Asset { kind, body })
}

/// What the dashboard remembers, for all who look at it.
#[derive(Debug, Default)]
pub(crate) struct Ui {
    history: Mutex<History>,
}

impl Ui {
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Client connections that were open at the last look.
    fn connections(&self) -> u64 {
        self.history().connections()
    }

    /// Another [`overview::INTERVAL`] has gone by: what was counted so far.
    pub(crate) fn add(&self, stats: Stats) {
        self.history().add(stats);
    }

    /// Counts what was blocked since the last look; `ring` gives what comes after a number. One look at a time: nothing is counted twice.
    pub(crate) fn look(&self, ring: impl FnOnce(u64) -> Blocked) {
        self.history().look(ring);
    }

    /// Blocked requests are counted anew: somebody has taken them out of the ring.
    pub(crate) fn forget(&self) {
        self.history().forget();
    }

    /// What is shown of it. `change` says what would let a request pass under the policy of now.
    pub(crate) fn overview(&self, change: impl FnMut(&BlockedRequest) -> Option<Change>) -> Overview {
        self.history().overview(change)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

    use super::super::model::{Layer, Mode, ModeState, Origin, Policy, Tunnel, Tunnels};
    use super::overview::tests::{request, stats};
    use super::*;

    fn policy() -> Policy {
        Policy {
            generation: 3,
            digest: "0123456789abcdef".repeat(4),
            format: "1.1".to_owned(),
            profile: "dev".to_owned(),
            profiles: vec!["dev".to_owned()],
            network: "proxied".to_owned(),
            mode: ModeState { mode: Mode::Full, policy_mode: Mode::Full, wanted: None, may_be_full: true, required_by: None },
            rules: 1_234,
            hooks: 0,
            bytes: 4_096,
            layers: vec![Layer { layer: "user".to_owned(), files: vec!["config.toml".to_owned()], holds: Vec::new() }],
            origin: Origin::File,
            file: Some("/etc/netproxy/policy.bin".to_owned()),
            loaded: "2027-01-15T07:58:00.000Z".to_owned(),
            last_error: None,
            withdrawn: false,
        }
    }

    fn tunnels(host: &str, client: &str) -> Tunnels {
        let tunnel = Tunnel {
            id: 42,
            client: client.to_owned(),
            protocol: "https_connect".to_owned(),
            host: host.to_owned(),
            port: 443,
            opened: String::new(),
            opened_ms: 1_799_999_940_000,
            up: 1_500,
            down: 2_000_000,
            generation: 3,
        };
        Tunnels { tunnels: vec![tunnel], next: None, total: 1 }
    }

    fn change(toml: Option<&str>, only: Option<&str>) -> Change {
        let text = |text: &str| text.to_owned();
        Change {
            table: Some(text("[permissions.dev.network.domains]")),
            toml: toml.map(text),
            place: None,
            only: only.map(text),
            help: text("requirements.toml:3 says so"),
        }
    }

    /// A page on which this host was blocked, and to which a tunnel of this client leads.
    fn shown(host: &str, client: &str, change: &Change, policy: &Policy, may_write: bool) -> String {
        let ui = Ui::default();
        let blocked =
            || Blocked { blocked: vec![BlockedRequest { client: Some(client.to_owned()), ..request(1, host) }], next: 1, lost: 0 };
        ui.look(|_| blocked());
        ui.add(stats(1_799_999_999_000, 0, &[]));
        ui.add(stats(1_800_000_000_000, 12, &[500]));
        let overview = ui.overview(|_| Some(change.clone()));
        page(&Page {
            overview: &overview,
            policy,
            tunnels: &tunnels(host, client),
            recent: &blocked().blocked,
            connections: 5,
            may_write,
            has_token: false,
            refresh: None,
            now_ms: 1_800_000_000_000,
        })
    }

    fn plain(change: &Change) -> String {
        shown("blocked.test", "127.0.0.1:5", change, &policy(), true)
    }

    #[test]
    fn hosts_and_clients_are_text_whatever_is_in_them() {
        let hostile = r#"<script>alert(1)</script>"'><img src=x onerror=alert(2)>&lt;{{7*7}}"#;
        let toml = format!("{hostile} = \"allow\"");
        let mut policy = policy();
        policy.last_error = Some(hostile.to_owned());
        policy.file = Some(hostile.to_owned());
        let page = shown(hostile, hostile, &change(Some(&toml), None), &policy, true);
        assert!(!page.contains("<script>") && !page.contains("<img"), "{page}");
        // Wherever it is, it is so in full: in text, and in attributes.
        let escaped = "&lt;script&gt;alert(1)&lt;/script&gt;&quot;'&gt;&lt;img src=x onerror=alert(2)&gt;&amp;lt;{{7*7}}";
        assert!(page.matches(escaped).count() >= 10, "{page}");
        assert_eq!(page.matches("onerror").count(), page.matches(escaped).count());
        assert!(page.contains(&format!("data-text=\"{escaped} = &quot;allow&quot;\"")), "{page}");
    }

    #[test]
    fn nothing_is_inline_or_from_elsewhere() {
        for page in [plain(&change(Some("x = \"allow\""), None)), locked()] {
            for forbidden in ["style=", "<style", "onclick", "javascript:", "http://", "https://", "url("] {
                assert!(!page.contains(forbidden), "{forbidden}: {page}");
            }
            let sources: Vec<_> =
                page.match_indices(" src=\"").map(|(at, found)| page[at + found.len()..].split('"').next().unwrap()).collect();
            assert_eq!(sources, ["/ui/app.js"]);
        }
        let css = asset("/ui/app.css").unwrap().body;
        assert!(!css.contains("url(") && !css.contains("@import"), "a style loads nothing");
        let script = asset("/ui/app.js").unwrap().body;
        for forbidden in ["innerHTML =", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage", "http"] {
            assert!(
                !script
                    .replace("http-equiv", "")
                    .replace("http: \"HTTP\"", "")
                    .replace("https: ", "")
                    .replace("https_connect", "")
                    .replace("http.request", "")
                    .contains(forbidden),
                "{forbidden}"
            );
        }
    }

    #[test]
    fn the_line_that_allows_is_shown_unless_only_an_administrator_can() {
        let page = plain(&change(Some("\"blocked.test\" = \"allow\""), None));
        assert!(page.contains(r#"<code class="line">&quot;blocked.test&quot; = &quot;allow&quot;</code>"#), "{page}");
        assert!(page.contains(r#"data-act="copy""#) && page.contains("[permissions.dev.network.domains]"));
        let page = plain(&change(Some("\"blocked.test\" = \"allow\""), Some("managed")));
        assert!(!page.contains(r#"data-act="copy""#) && !page.contains("= &quot;allow&quot;"), "{page}");
        assert!(page.contains("<strong>Only the managed layer</strong> can change this. requirements.toml:3 says so"));
    }

    #[test]
    fn who_may_only_read_gets_no_buttons_that_change_something() {
        let change = change(None, None);
        let acts = |may_write| {
            let page = shown("a.test", "c", &change, &policy(), may_write);
            ["mode", "reload", "close"].map(|act| page.contains(&format!("data-act=\"{act}\"")))
        };
        assert_eq!(acts(true), [true; 3]);
        assert_eq!(acts(false), [false; 3]);
    }

    #[test]
    fn a_mode_that_the_policy_does_not_let_be_cannot_be_chosen() {
        let page = |mode, policy_mode, wanted, may_be_full, required_by: Option<&str>| {
            let mode = ModeState { mode, policy_mode, wanted, may_be_full, required_by: required_by.map(str::to_owned) };
            shown("a.test", "c", &change(None, None), &Policy { mode, ..policy() }, true)
        };
        let button = |page: &str, mode: &str| {
            let at = page.find(&format!("data-mode=\"{mode}\"")).unwrap();
            page[at..].split('>').next().unwrap().to_owned()
        };
        for (required_by, why) in
            [(Some("managed"), "The managed layer requires limited mode"), (None, "it was compiled by an older version")]
        {
            let limited = page(Mode::Limited, Mode::Limited, None, false, required_by);
            let full = button(&limited, "full");
            assert!(full.contains("disabled") && full.contains(why), "{full}");
            assert!(button(&limited, "limited").contains("aria-pressed=\"true\""));
            assert!(!limited.contains("As the policy says"));
            assert_eq!(limited.contains("limited, as the policy says, required by the managed layer"), required_by.is_some());
        }
        let limited = page(Mode::Limited, Mode::Limited, None, true, None);
        assert!(!button(&limited, "full").contains("disabled") && !button(&limited, "full").contains("title"));
        for (mode, policy_mode, said) in [
            (Mode::Limited, Mode::Full, "limited, as switched here; the policy says full"),
            (Mode::Full, Mode::Limited, "full, as switched here; the policy says limited"),
        ] {
            let switched = page(mode, policy_mode, Some(mode), true, None);
            assert!(!button(&switched, "full").contains("disabled") && switched.contains("As the policy says"));
            assert!(switched.contains(said), "{said}");
        }
        // Switched under another policy, and this one does not let it be.
        let held = page(Mode::Limited, Mode::Limited, Some(Mode::Full), false, Some("mdm"));
        assert!(held.contains("limited, held by the policy; switched here: full, required by the mdm layer"));
        assert!(held.contains("As the policy says"), "it can be taken back");
    }

    #[test]
    fn a_policy_that_was_refused_or_withdrawn_is_said() {
        let (refused, blocked) = ("the last reload was refused", "Everything is blocked until a good policy is loaded.");
        for (withdrawn, said, not_said) in [(false, refused, blocked), (true, blocked, refused)] {
            let policy = Policy { last_error: Some("`policy.bin` is cut short".to_owned()), withdrawn, ..policy() };
            let page = shown("a.test", "c", &change(None, None), &policy, true);
            for said in [said, "`policy.bin` is cut short", "(2 min ago)", "0123456789ab", "1,234"] {
                assert!(page.contains(said), "{said}: {page}");
            }
            assert!(!page.contains(not_said), "{not_said}: {page}");
        }
    }

    #[test]
    fn without_a_token_there_is_a_question_and_nothing_else() {
        let page = locked();
        assert!(page.contains("data-access=\"locked\"") && page.contains("type=\"password\""));
        assert!(!page.contains("data-part"));
    }
}
