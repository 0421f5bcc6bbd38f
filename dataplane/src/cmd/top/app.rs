//! What is on the screen, and what keys make of it. Knows no terminal and no network.

use super::model::{Blocked, Decision, State, TopBlocked, Tunnel};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::collections::VecDeque;

/// Decisions that are kept.
const DECISIONS: usize = 500;
/// Characters of a filter.
const FILTER: usize = 100;

/// What is shown below the head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Pane {
    #[default]
    Live,
    Blocked,
    Tunnels,
    Policy,
    Charts,
}

impl Pane {
    pub(super) const ALL: [Self; 5] = [Self::Live, Self::Blocked, Self::Tunnels, Self::Policy, Self::Charts];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Live => "Live",
            Self::Blocked => "Blocked",
            Self::Tunnels => "Tunnels",
            Self::Policy => "Policy",
            Self::Charts => "Charts",
        }
    }

    fn beside(self, steps: usize) -> Self {
        let place = Self::ALL.iter().position(|pane| *pane == self).unwrap_or_default();
        Self::ALL.get((place + steps) % Self::ALL.len()).copied().unwrap_or_default()
    }
}

/// What the proxy is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    /// Switch the mode; `None` takes that back.
    Mode(Option<&'static str>),
    /// Load the policy again.
    Reload,
    /// Close a tunnel.
    Close(u64),
}

impl Order {
    /// What is asked before it is done.
    fn question(&self, app: &App) -> String {
        match self {
            Self::Mode(Some(mode)) => format!("switch the mode to {mode}?"),
            Self::Mode(None) => "take the mode from the policy again?".to_owned(),
            Self::Reload => "load the policy again?".to_owned(),
            Self::Close(id) => {
                let tunnel = app.state.tunnels.tunnels.iter().find(|tunnel| tunnel.id == *id);
                let whose = tunnel.map(|tunnel| format!(" of {} to {}", tunnel.client, authority(&tunnel.host, tunnel.port)));
                format!("close the tunnel{}?", whose.unwrap_or_default())
            }
        }
    }
}

/// What a key leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing but another screen.
    Stay,
    /// The end.
    Quit,
    /// Something for the proxy.
    Do(Order),
}

/// The screen's state.
#[derive(Debug, Default)]
pub(super) struct App {
    pub(super) pane: Pane,
    pub(super) state: State,
    pub(super) decisions: VecDeque<Decision>,
    /// Of decisions: allowed, and blocked, since this began.
    pub(super) counted: (u64, u64),
    /// The row that is chosen, by its place among those that are shown.
    pub(super) chosen: usize,
    pub(super) is_paused: bool,
    /// What rows have to hold.
    pub(super) filter: String,
    pub(super) is_filtering: bool,
    /// What is done if the answer is yes.
    pub(super) asked: Option<Order>,
    /// What came of the last order.
    pub(super) said: Option<String>,
    /// Why there is nothing new.
    pub(super) trouble: Option<String>,
    pub(super) has_colour: bool,
}

impl App {
    /// There is a newer state, or none is to be had.
    pub(super) fn polled(&mut self, state: Result<State, String>) {
        match state {
            Ok(_) if self.is_paused => self.trouble = None,
            Ok(state) => (self.state, self.trouble) = (state, None),
            Err(trouble) => self.trouble = Some(trouble),
        }
        self.keep_chosen();
    }

    /// A request was decided.
    pub(super) fn decided(&mut self, decision: Decision) {
        let (allowed, blocked) = &mut self.counted;
        *(if decision.verdict == "allow" { allowed } else { blocked }) += 1;
        if self.is_paused {
            return;
        }
        // Who looks at a row keeps looking at it.
        if self.pane == Pane::Live && self.chosen > 0 && self.holds(&decision) {
            self.chosen += 1;
        }
        self.decisions.push_front(decision);
        self.decisions.truncate(DECISIONS);
        self.keep_chosen();
    }

    /// What the question of the foot is.
    pub(super) fn question(&self) -> Option<String> {
        self.asked.as_ref().map(|order| order.question(self))
    }

    pub(super) fn key(&mut self, key: KeyEvent) -> Outcome {
        if key.kind == KeyEventKind::Release {
            return Outcome::Stay;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if matches!(key.code, KeyCode::Char('c')) { Outcome::Quit } else { Outcome::Stay };
        }
        if let Some(order) = self.asked.take() {
            return if matches!(key.code, KeyCode::Char('y' | 'Y')) { Outcome::Do(order) } else { Outcome::Stay };
        }
        if self.is_filtering {
            self.filter_key(key.code);
            return Outcome::Stay;
        }
        self.said = None;
        match key.code {
            KeyCode::Char('q') => return Outcome::Quit,
            KeyCode::Char(digit @ '1'..='5') => self.show(Pane::default().beside(usize::from(digit as u8 - b'1'))),
            KeyCode::Tab | KeyCode::Right => self.show(self.pane.beside(1)),
            KeyCode::BackTab | KeyCode::Left => self.show(self.pane.beside(Pane::ALL.len() - 1)),
            KeyCode::Down | KeyCode::Char('j') => self.chosen += 1,
            KeyCode::Up | KeyCode::Char('k') => self.chosen = self.chosen.saturating_sub(1),
            KeyCode::PageDown => self.chosen += 10,
            KeyCode::PageUp => self.chosen = self.chosen.saturating_sub(10),
            KeyCode::Home => self.chosen = 0,
            KeyCode::End => self.chosen = usize::MAX,
            KeyCode::Char('/') => self.is_filtering = true,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('m') => self.asked = Some(self.other_mode()),
            KeyCode::Char('r') => self.asked = Some(Order::Reload),
            KeyCode::Char('x') | KeyCode::Delete if self.pane == Pane::Tunnels => {
                self.asked = self.tunnels().get(self.chosen).map(|tunnel| Order::Close(tunnel.id));
            }
            _ => {}
        }
        self.keep_chosen();
        Outcome::Stay
    }

    fn filter_key(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.is_filtering = false,
            KeyCode::Esc => {
                self.is_filtering = false;
                self.filter.clear();
            }
            KeyCode::Backspace => _ = self.filter.pop(),
            KeyCode::Char(c) if !c.is_control() && self.filter.len() < FILTER => self.filter.push(c),
            _ => {}
        }
        self.chosen = 0;
    }

    fn show(&mut self, pane: Pane) {
        (self.pane, self.chosen) = (pane, 0);
    }

    /// Where the mode was switched, the policy's; else the other one.
    fn other_mode(&self) -> Order {
        let mode = &self.state.policy.mode;
        Order::Mode(match (&mode.wanted, mode.mode.as_str()) {
            (Some(_), _) => None,
            (None, "full") => Some("limited"),
            (None, _) => Some("full"),
        })
    }

    fn keep_chosen(&mut self) {
        let rows = match self.pane {
            Pane::Live => self.live().count(),
            Pane::Blocked => self.blocked().len(),
            Pane::Tunnels => self.tunnels().len(),
            Pane::Policy | Pane::Charts => 0,
        };
        self.chosen = self.chosen.min(rows.saturating_sub(1));
    }

    fn has(&self, texts: &[&str]) -> bool {
        let wanted = self.filter.to_lowercase();
        wanted.is_empty() || texts.iter().any(|text| text.to_lowercase().contains(&wanted))
    }

    fn holds(&self, decision: &Decision) -> bool {
        self.has(&[&decision.host, &decision.client, &decision.verdict, &decision.reason, &decision.method])
    }

    /// Decisions that the filter lets through, the latest first.
    pub(super) fn live(&self) -> impl Iterator<Item = &Decision> {
        self.decisions.iter().filter(|decision| self.holds(decision))
    }

    /// The same of hosts that were blocked.
    pub(super) fn blocked(&self) -> Vec<&TopBlocked> {
        let holds = |last: &Blocked| self.has(&[&last.host, &last.reason, last.rule.as_deref().unwrap_or_default()]);
        self.state.overview.blocked.iter().filter(|top| holds(&top.last)).collect()
    }

    /// The same of tunnels.
    pub(super) fn tunnels(&self) -> Vec<&Tunnel> {
        self.state.tunnels.tunnels.iter().filter(|tunnel| self.has(&[&tunnel.host, &tunnel.client, &tunnel.protocol])).collect()
    }
}

/// A host with its port, as URLs write it.
pub(super) fn authority(host: &str, port: u16) -> String {
    match port {
        0 => host.to_owned(),
        _ if host.contains(':') => format!("[{host}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn press(app: &mut App, codes: &[KeyCode]) -> Outcome {
        codes.iter().fold(Outcome::Stay, |_, code| app.key(KeyEvent::from(*code)))
    }

    fn letter(c: char) -> KeyCode {
        KeyCode::Char(c)
    }

    pub(in super::super) fn decision(host: &str, verdict: &str) -> Decision {
        Decision {
            time: "2027-01-15T08:00:00.123Z".to_owned(),
            verdict: verdict.to_owned(),
            reason: (if verdict == "allow" { "allow" } else { "not_allowed" }).to_owned(),
            protocol: "https_connect".to_owned(),
            host: host.to_owned(),
            port: 443,
            method: "none".to_owned(),
            client: "127.0.0.1:40000".to_owned(),
            ..Decision::default()
        }
    }

    fn with_tunnels(ids: &[u64]) -> State {
        let tunnel = |id: &u64| Tunnel { id: *id, host: format!("h{id}.test"), port: 443, client: "c".to_owned(), ..Tunnel::default() };
        let mut state = State::default();
        state.tunnels.tunnels = ids.iter().map(tunnel).collect();
        state.policy.mode.mode = "full".to_owned();
        state
    }

    #[test]
    fn panes_go_round() {
        let mut app = App::default();
        press(&mut app, &[KeyCode::Left]);
        assert_eq!(app.pane, Pane::Charts);
        press(&mut app, &[KeyCode::Tab, KeyCode::Right]);
        assert_eq!(app.pane, Pane::Blocked);
        press(&mut app, &[letter('4')]);
        assert_eq!(app.pane, Pane::Policy);
        assert_eq!(press(&mut app, &[letter('q')]), Outcome::Quit);
        assert_eq!(app.key(KeyEvent::new(letter('c'), KeyModifiers::CONTROL)), Outcome::Quit);
    }

    #[test]
    fn nothing_is_done_to_the_proxy_without_a_yes() {
        let mut app = App::default();
        app.polled(Ok(with_tunnels(&[7, 9])));
        press(&mut app, &[letter('3'), KeyCode::Down, KeyCode::Down, letter('x')]);
        assert_eq!(app.question().as_deref(), Some("close the tunnel of c to h9.test:443?"));
        assert_eq!(press(&mut app, &[letter('n'), letter('y')]), Outcome::Stay);
        assert_eq!(press(&mut app, &[letter('x'), letter('y')]), Outcome::Do(Order::Close(9)));
        assert_eq!(press(&mut app, &[letter('m'), letter('y')]), Outcome::Do(Order::Mode(Some("limited"))));
        app.state.policy.mode.wanted = Some("limited".to_owned());
        assert_eq!(press(&mut app, &[letter('m'), letter('y')]), Outcome::Do(Order::Mode(None)));
        assert_eq!(press(&mut app, &[letter('r'), letter('y')]), Outcome::Do(Order::Reload));
        // Elsewhere there is nothing to close.
        press(&mut app, &[letter('1'), letter('x')]);
        assert_eq!(app.asked, None);
    }

    #[test]
    fn the_row_that_is_looked_at_stays() {
        let mut app = App::default();
        ["a.test", "b.test", "c.test"].iter().for_each(|host| app.decided(decision(host, "deny")));
        press(&mut app, &[KeyCode::Down]);
        app.decided(decision("d.test", "allow"));
        assert_eq!(app.live().nth(app.chosen).map(|decision| decision.host.as_str()), Some("b.test"));
        assert_eq!(app.counted, (1, 3));
        press(&mut app, &[KeyCode::End]);
        assert_eq!(app.chosen, 3);
        press(&mut app, &[letter('/'), letter('q'), KeyCode::Backspace, letter('C'), letter('.'), KeyCode::Enter]);
        assert_eq!(app.live().map(|decision| decision.host.as_str()).collect::<Vec<_>>(), ["c.test"]);
        assert_eq!(app.chosen, 0);
        press(&mut app, &[KeyCode::Esc]);
        assert_eq!(app.live().count(), 4);
        (0..2 * DECISIONS).for_each(|_| app.decided(decision("e.test", "deny")));
        assert_eq!(app.decisions.len(), DECISIONS);
    }

    #[test]
    fn paused_is_paused_and_goes_on() {
        let mut app = App::default();
        press(&mut app, &[letter('p')]);
        app.decided(decision("a.test", "deny"));
        app.polled(Ok(with_tunnels(&[1])));
        assert_eq!((app.decisions.len(), app.state.tunnels.tunnels.len()), (0, 0));
        app.polled(Err("gone".to_owned()));
        assert_eq!(app.trouble.as_deref(), Some("gone"));
        press(&mut app, &[letter('p')]);
        app.polled(Ok(with_tunnels(&[1])));
        assert_eq!((app.trouble.as_deref(), app.state.tunnels.tunnels.len()), (None, 1));
    }
}
