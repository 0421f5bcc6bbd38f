//! Draws the screen. Colour says nothing that a word does not say too.

use super::app::{App, Pane, authority};
use super::model::{Decision, Layer, Policy, Series, Times, TopBlocked, Tunnel};
use super::text::{Age, Bytes, Count, Micros, PROTOCOLS, clock, known, seconds};
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row, Sparkline, StatefulWidget, Table, TableState, Tabs, Widget, Wrap};

/// Columns of a terminal that have room for everything.
const ROOMY: u16 = 90;
/// Rows of the pane that says what would allow a host.
const REMEDY: u16 = 4;

/// The whole screen.
pub(super) fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    let [head, tabs, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)]).areas(area);
    Paragraph::new(summary(app)).render(head, buffer);
    let names = Pane::ALL.iter().enumerate().map(|(place, pane)| format!("{} {}", place + 1, pane.name()));
    let chosen = Pane::ALL.iter().position(|pane| *pane == app.pane);
    Tabs::new(names)
        .select(chosen)
        .divider(" ")
        .padding("", "")
        .highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .render(tabs, buffer);
    pane(app, app.pane, body, buffer);
    Paragraph::new(foot_line(app)).render(foot, buffer);
}

/// What is said once: all panes but the live one, one below the other. Where there is a width, nothing is wider; where there is none, nothing is cut.
pub(super) fn once(app: &App, width: Option<u16>) -> String {
    let Some(width) = width else { return whole(app) };
    let blocked = u16::try_from(app.blocked().len()).unwrap_or(u16::MAX);
    let tunnels = u16::try_from(app.tunnels().len()).unwrap_or(u16::MAX);
    let policy = policy_rows(&app.state.policy, app).len();
    let parts = [
        (Pane::Blocked, blocked.saturating_add(1)),
        (Pane::Tunnels, tunnels.saturating_add(1)),
        (Pane::Policy, u16::try_from(policy).unwrap_or(u16::MAX)),
    ];
    let mut out = text_of(width, 1, |area, buffer| Paragraph::new(summary(app)).render(area, buffer));
    for (which, rows) in parts {
        out.push_str(&format!("\n{}\n", which.name()));
        out.push_str(&text_of(width, rows.min(200), |area, buffer| match which {
            Pane::Blocked => table(app, remedies(app), area, buffer),
            which => pane(app, which, area, buffer),
        }));
    }
    out
}

/// All of it, for a pipe.
fn whole(app: &App) -> String {
    let policy: String = policy_rows(&app.state.policy, app).iter().map(|line| format!("{line}\n")).collect();
    let parts = [(Pane::Blocked, remedies(app).text()), (Pane::Tunnels, tunnels(app).text()), (Pane::Policy, policy)];
    parts.into_iter().fold(format!("{}\n", summary(app)), |out, (which, text)| format!("{out}\n{}\n{text}", which.name()))
}

fn text_of(width: u16, height: u16, draw: impl FnOnce(Rect, &mut Buffer)) -> String {
    let area = Rect::new(0, 0, width, height);
    let mut buffer = Buffer::empty(area);
    draw(area, &mut buffer);
    lines(&buffer)
}

/// The text of a screen, without the spaces at the ends of lines.
pub(super) fn lines(buffer: &Buffer) -> String {
    let area = buffer.area;
    let row = |y: u16| {
        let cells = (area.left()..area.right()).filter_map(|x| buffer.cell((x, y)));
        cells.map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned() + "\n"
    };
    (area.top()..area.bottom()).map(row).collect()
}

fn pane(app: &App, which: Pane, area: Rect, buffer: &mut Buffer) {
    match which {
        Pane::Live => live(app, area, buffer),
        Pane::Blocked => blocked(app, area, buffer),
        Pane::Tunnels => table(app, tunnels(app), area, buffer),
        Pane::Policy => Paragraph::new(policy_rows(&app.state.policy, app)).wrap(Wrap { trim: false }).render(area, buffer),
        Pane::Charts => charts(app, area, buffer),
    }
}

fn quiet() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

/// Of what was blocked.
fn denied(app: &App) -> Style {
    if app.has_colour { bold().fg(Color::Red) } else { bold() }
}

fn summary(app: &App) -> Line<'static> {
    let series = &app.state.overview.series;
    let policy = &app.state.policy;
    let last = |values: &[u64]| values.last().copied().unwrap_or_default();
    let mode = if policy.withdrawn || policy.network == "blocked" {
        "everything is blocked".to_owned()
    } else {
        format!("mode {}", policy.mode.mode)
    };
    let blocked = last(&series.denied);
    Line::from(vec![
        Span::styled("netproxy ", bold()),
        Span::raw(format!("{mode} · policy {} · {}/s allowed · ", policy.generation, count(last(&series.allowed)))),
        Span::styled(format!("{}/s blocked", count(blocked)), if blocked > 0 { denied(app) } else { Style::new() }),
        Span::raw(format!(
            " · {} tunnels · {}/s down · {}/s up",
            count(app.state.tunnels.total),
            bytes(last(&series.down)),
            bytes(last(&series.up))
        )),
    ])
}

fn foot_line(app: &App) -> Line<'static> {
    if let Some(question) = app.question() {
        return Line::from(vec![Span::styled(question, bold()), Span::raw("  y yes, any other key no")]);
    }
    if app.is_filtering {
        return Line::from(vec![
            Span::styled(format!("/{}", app.filter), bold()),
            Span::styled("  enter keeps it, esc clears it", quiet()),
        ]);
    }
    let mut spans = Vec::new();
    let mut flag = |text: String| spans.extend([Span::styled(text, Style::new().add_modifier(Modifier::REVERSED)), Span::raw(" ")]);
    if let Some(trouble) = &app.trouble {
        flag(trouble.clone());
    }
    if let Some(said) = &app.said {
        flag(said.clone());
    }
    if app.is_paused {
        flag("paused".to_owned());
    }
    if !app.filter.is_empty() {
        flag(format!("/{}", app.filter));
    }
    let close = if app.pane == Pane::Tunnels { "x close  " } else { "" };
    spans.push(Span::styled(format!("q quit  ←→ pane  ↑↓ row  {close}/ filter  p pause  m mode  r reload"), quiet()));
    Line::from(spans)
}

/// A column of a table: its head, its width, and whether it is left out where there is little room.
struct Column(&'static str, Constraint, bool);

/// Columns that are always shown.
const fn always(head: &'static str, width: Constraint) -> Column {
    Column(head, width, false)
}

/// Columns for which there has to be room.
const fn roomy(head: &'static str, width: Constraint) -> Column {
    Column(head, width, true)
}

/// What a table has in it.
struct Listing {
    columns: Vec<Column>,
    rows: Vec<Vec<Span<'static>>>,
    /// Said where there are no rows.
    none: &'static str,
}

impl Listing {
    fn new<const N: usize>(columns: [Column; N], rows: impl Iterator<Item = Vec<Span<'static>>>, none: &'static str) -> Self {
        Self { columns: columns.into(), rows: rows.collect(), none }
    }

    /// All of it as text, each column as wide as its widest cell: for who reads lines, and has no screen.
    fn text(&self) -> String {
        if self.rows.is_empty() {
            return format!("{}\n", self.none);
        }
        let head = self.columns.iter().map(|column| Span::raw(column.0)).collect();
        let all: Vec<&Vec<Span<'_>>> = std::iter::once(&head).chain(&self.rows).collect();
        let widest = |at: usize| all.iter().filter_map(|row| row.get(at)).map(Span::width).max().unwrap_or_default();
        let widths: Vec<usize> = (0..self.columns.len()).map(widest).collect();
        let line = |row: &&Vec<Span<'_>>| {
            let cells =
                row.iter().zip(&widths).map(|(cell, width)| format!("{}{} ", cell.content, " ".repeat(width.saturating_sub(cell.width()))));
            cells.collect::<String>().trim_end().to_owned() + "\n"
        };
        all.iter().map(line).collect()
    }
}

fn table(app: &App, Listing { columns, rows, none }: Listing, area: Rect, buffer: &mut Buffer) {
    if rows.is_empty() {
        return Paragraph::new(Span::styled(none, quiet())).render(area, buffer);
    }
    let is_shown = |column: &&Column| !column.2 || area.width >= ROOMY;
    let row = |cells: Vec<Span<'static>>| Row::new(columns.iter().zip(cells).filter(|(column, _)| is_shown(column)).map(|(_, cell)| cell));
    let table = Table::new(rows.into_iter().map(row), columns.iter().filter(is_shown).map(|column| column.1))
        .header(Row::new(columns.iter().filter(is_shown).map(|column| column.0)).style(quiet()))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::new().with_selected(Some(app.chosen));
    StatefulWidget::render(table, area, buffer, &mut state);
}

fn live(app: &App, area: Rect, buffer: &mut Buffer) {
    let row = |decision: &Decision| {
        let is_allowed = decision.verdict == "allow";
        let time = decision.time.get(11..19).unwrap_or_default().to_owned();
        let verdict = match decision.verdict.as_str() {
            "allow" => "allowed",
            "ask" => "asked",
            _ => "blocked",
        };
        let why = match &decision.rule {
            Some(rule) if is_allowed => rule.clone(),
            _ if is_allowed => String::new(),
            _ => decision.reason.clone(),
        };
        let method = if decision.method == "none" { "" } else { &decision.method };
        let request = format!("{method} {}", known(PROTOCOLS, &decision.protocol)).trim_start().to_owned();
        let style = if is_allowed { Style::new() } else { denied(app) };
        vec![
            Span::raw(time),
            Span::styled(verdict, style),
            Span::raw(authority(&decision.host, decision.port)),
            Span::raw(request),
            Span::raw(decision.client.clone()),
            Span::raw(why),
        ]
    };
    let columns = [
        always("time", Constraint::Length(8)),
        always("verdict", Constraint::Length(7)),
        always("host", Constraint::Fill(3)),
        roomy("request", Constraint::Length(14)),
        roomy("client", Constraint::Length(21)),
        always("why", Constraint::Fill(2)),
    ];
    let none = "nothing yet: decisions are shown as they are made";
    table(app, Listing::new(columns, app.live().map(row), none), area, buffer);
}

fn blocked(app: &App, area: Rect, buffer: &mut Buffer) {
    let [rows, below] = Layout::vertical([Constraint::Min(2), Constraint::Length(REMEDY)]).areas(area);
    let all = app.blocked();
    let row = |top: &&TopBlocked| {
        vec![
            Span::raw(format!("{:>7}", count(top.count))),
            Span::raw(authority(&top.last.host, top.last.port)),
            Span::styled(top.last.reason.clone(), denied(app)),
            Span::raw(clock(top.last.timestamp)),
            Span::raw(top.last.rule.clone().unwrap_or_else(|| "no rule".to_owned())),
        ]
    };
    let columns = [
        always("  count", Constraint::Length(7)),
        always("host", Constraint::Fill(3)),
        always("reason", Constraint::Length(18)),
        roomy("last", Constraint::Length(8)),
        roomy("rule", Constraint::Fill(2)),
    ];
    table(app, Listing::new(columns, all.iter().map(row), "nothing was blocked"), rows, buffer);
    if let Some(top) = all.get(app.chosen) {
        Paragraph::new(remedy(top)).wrap(Wrap { trim: false }).render(below, buffer);
    }
}

/// What would allow the host that is chosen.
fn remedy(top: &TopBlocked) -> Vec<Line<'static>> {
    let last = &top.last;
    let rule = last.place.as_ref().map(|place| format!(", by {} in {place}", last.rule.as_deref().unwrap_or_default()));
    let mut lines =
        vec![Line::styled(format!("{}: {}{}", authority(&last.host, last.port), last.reason, rule.unwrap_or_default()), bold())];
    match &last.change {
        None => lines.push(Line::raw("no single line allows it")),
        Some(change) => match (&change.only, &change.toml) {
            (Some(only), _) => {
                let place = change.place.as_ref().map(|place| format!("the rule is in {place}"));
                lines.push(Line::raw(format!("only the {only} layer can change this: {}", place.as_ref().unwrap_or(&change.help))));
            }
            (None, Some(toml)) => {
                let place = change.place.as_ref().map(|place| format!(", instead of the line at {place}"));
                lines.push(Line::styled(
                    format!("to allow it, under {}{}:", change.table.as_deref().unwrap_or_default(), place.unwrap_or_default()),
                    quiet(),
                ));
                lines.push(Line::raw(toml.clone()));
            }
            (None, None) => lines.push(Line::raw(change.help.clone())),
        },
    }
    lines
}

/// The hosts with what would allow them in the same row: there is nothing to choose.
fn remedies(app: &App) -> Listing {
    let row = |top: &&TopBlocked| {
        let change = top.last.change.as_ref();
        let remedy = change.map(|change| match (&change.only, &change.toml) {
            (Some(only), _) => format!("only the {only} layer"),
            (None, Some(toml)) => toml.clone(),
            (None, None) => change.help.clone(),
        });
        let texts = [
            format!("{:>7}", count(top.count)),
            authority(&top.last.host, top.last.port),
            top.last.reason.clone(),
            remedy.unwrap_or_default(),
        ];
        texts.map(Span::raw).to_vec()
    };
    let columns = [
        always("  count", Constraint::Length(7)),
        always("host", Constraint::Fill(2)),
        always("reason", Constraint::Length(18)),
        always("to allow it", Constraint::Fill(3)),
    ];
    Listing::new(columns, app.blocked().iter().map(row), "nothing was blocked")
}

fn tunnels(app: &App) -> Listing {
    let now = app.state.overview.series.end_ms;
    let row = |tunnel: &&Tunnel| {
        let texts = [
            authority(&tunnel.host, tunnel.port),
            tunnel.client.clone(),
            known(PROTOCOLS, &tunnel.protocol).to_owned(),
            format!("{:>9}", age(now.saturating_sub(tunnel.opened_ms) / 1_000)),
            format!("{:>8}", bytes(tunnel.up)),
            format!("{:>8}", bytes(tunnel.down)),
        ];
        texts.map(Span::raw).to_vec()
    };
    let columns = [
        always("host", Constraint::Fill(3)),
        roomy("client", Constraint::Length(21)),
        roomy("protocol", Constraint::Length(10)),
        always("      age", Constraint::Length(9)),
        always("      up", Constraint::Length(8)),
        always("    down", Constraint::Length(8)),
    ];
    Listing::new(columns, app.tunnels().iter().map(row), "no tunnel is open")
}

fn policy_rows(policy: &Policy, app: &App) -> Vec<Line<'static>> {
    let row = |name: &'static str, value: String| Line::from(vec![Span::styled(format!("{name:<12}"), quiet()), Span::raw(value)]);
    let state = &policy.mode;
    let mut mode = match &state.wanted {
        Some(wanted) if *wanted == state.mode => {
            format!("{}, as switched while it runs; the policy says {}", state.mode, state.policy_mode)
        }
        Some(wanted) => format!("{}, held by the policy; switched while it runs: {wanted}", state.mode),
        None => format!("{}, as the policy says", state.mode),
    };
    if let Some(layer) = &state.required_by {
        mode.push_str(&format!("; required by the {layer} layer"));
    }
    let now = app.state.overview.series.end_ms / 1_000;
    let since = seconds(&policy.loaded).and_then(|at| u64::try_from(at).ok()).map(|at| format!(" ({} ago)", age(now.saturating_sub(at))));
    let mut rows = vec![
        row("digest", policy.digest.clone()),
        row("generation", policy.generation.to_string()),
        row("in force", format!("{}{}", policy.loaded, since.unwrap_or_default())),
        row("profile", policy.profile.clone()),
        row("network", policy.network.clone()),
        row("mode", mode),
        row("rules", format!("{}, and {} hooks; format {}", count(policy.rules), policy.hooks, policy.format)),
    ];
    rows.extend(policy.file.clone().map(|file| row("file", file)));
    let of_layer = |layer: &Layer| {
        let held = layer.holds.iter().map(|demand| format!("holds {demand}"));
        format!("{}: {}", layer.layer, layer.files.iter().cloned().chain(held).collect::<Vec<_>>().join(", "))
    };
    rows.extend(policy.layers.iter().map(|layer| row("layer", of_layer(layer))));
    let what = if policy.withdrawn { "everything is blocked until a good policy is loaded" } else { "the last reload was refused" };
    rows.extend(policy.last_error.clone().map(|error| Line::styled(format!("{what}: {error}"), bold())));
    rows
}

fn charts(app: &App, area: Rect, buffer: &mut Buffer) {
    let Series { allowed, denied: blocked, up, down, times, .. } = &app.state.overview.series;
    let of = |what: &str, of: fn(&Times) -> &Vec<Option<u64>>| -> Vec<Option<u64>> {
        times.iter().find(|times| times.what == what).map(|times| of(times).clone()).unwrap_or_default()
    };
    let some = |values: &[u64]| values.iter().copied().map(Some).collect::<Vec<_>>();
    let per_second: fn(u64) -> String = |value| format!("{}/s", count(value));
    let bytes_per_second: fn(u64) -> String = |value| format!("{}/s", bytes(value));
    let plain = Style::new();
    let charts = [
        ("allowed", some(allowed), per_second, plain),
        ("blocked", some(blocked), per_second, denied(app)),
        ("down", some(down), bytes_per_second, plain),
        ("up", some(up), bytes_per_second, plain),
        ("first byte, half within", of("first_byte", |times| &times.p50), micros as fn(u64) -> String, plain),
        ("first byte, 99 % within", of("first_byte", |times| &times.p99), micros, plain),
        ("connect, 99 % within", of("connect", |times| &times.p99), micros, plain),
    ];
    let places = Layout::vertical(charts.iter().map(|_| Constraint::Fill(1))).split(area);
    for ((name, values, shown, style), place) in charts.into_iter().zip(places.iter()) {
        let [title, drawing] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(*place);
        let values = values.get(values.len().saturating_sub(usize::from(drawing.width))..).unwrap_or_default();
        let highest = values.iter().flatten().max();
        let now = values.iter().rev().find_map(|value| *value);
        let said = match (now, highest) {
            (Some(now), Some(highest)) => format!("{name}: {} now, {} at most", shown(now), shown(*highest)),
            _ => format!("{name}: nothing was measured"),
        };
        Paragraph::new(Span::styled(said, quiet())).render(title, buffer);
        // The latest is at the right edge.
        let gap = drawing.width.saturating_sub(u16::try_from(values.len()).unwrap_or(u16::MAX));
        let drawing = Rect { x: drawing.x + gap, width: drawing.width - gap, ..drawing };
        Sparkline::default().data(values.iter().map(|value| value.unwrap_or_default())).style(style).render(drawing, buffer);
    }
}

fn count(value: u64) -> String {
    Count(value).to_string()
}

fn bytes(value: u64) -> String {
    Bytes(value).to_string()
}

fn micros(value: u64) -> String {
    Micros(value).to_string()
}

fn age(value: u64) -> String {
    Age(value).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::super::app::tests::decision;
    use super::super::model::{self, State};
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent};
    use serde_json::json;

    fn state() -> State {
        let last = |host: &str, reason: &str| json!({ "host": host, "port": 443, "reason": reason, "timestamp": 1_800_000_000, "protocol": "http" });
        let change = |mut last: serde_json::Value, change: serde_json::Value| {
            last.as_object_mut().unwrap().insert("change".to_owned(), change);
            last
        };
        let toml = json!({ "table": "[permissions.dev.network.domains]", "toml": "\"a.test\" = \"allow\"", "help": "" });
        let mut denied = change(last("b.test", "denied"), json!({ "only": "managed", "help": "ask an administrator" }));
        denied
            .as_object_mut()
            .unwrap()
            .extend(json!({ "rule": "**.b.test", "place": "managed requirements.toml:3" }).as_object().unwrap().clone());
        let overview = json!({
            "blocked": [{ "count": 1_200, "last": change(last("a.test", "not_allowed"), toml) }, { "count": 3, "last": denied }, { "count": 1, "last": last("\u{1b}[2Jc.test", "not_allowed_local") }],
            "series": { "end_ms": 1_800_000_060_000_u64, "allowed": [0, 4, 8], "denied": [0, 1, 2], "up": [0, 0, 500], "down": [0, 0, 1_500_000],
                        "times": [{ "what": "first_byte", "p50": [null, 800, 900], "p99": [null, 12_000, 30_000] }] },
        });
        let policy = json!({
            "generation": 3, "digest": "0123456789abcdef", "format": "1.1", "profile": "dev", "network": "proxied", "rules": 1_234, "hooks": 2, "loaded": "2027-01-15T08:00:00.000Z",
            "mode": { "mode": "limited", "policy_mode": "full", "wanted": "limited" }, "layers": [{ "layer": "mdm", "files": [], "holds": ["mode = \"limited\""] }, { "layer": "managed", "files": ["requirements.toml"] }, { "layer": "user", "files": ["config.toml"] }],
            "file": "/etc/netproxy/policy.bin", "last_error": "`policy.bin` is cut short", "unknown": [1],
        });
        let tunnels = json!({ "total": 2, "tunnels": [
            { "id": 7, "client": "127.0.0.1:40000", "protocol": "https_connect", "host": "git.test", "port": 443, "opened_ms": 1_800_000_000_000_u64, "up": 1_500, "down": 2_000_000 },
            { "id": 9, "client": "[::1]:40001", "protocol": "socks5_tcp", "host": "fd00::1", "port": 22, "opened_ms": 1_799_999_000_000_u64, "up": 0, "down": 0 },
        ] });
        State { policy: model::read(policy).unwrap(), overview: model::read(overview).unwrap(), tunnels: model::read(tunnels).unwrap() }
    }

    fn app(keys: &str) -> App {
        let mut app = App::default();
        app.polled(Ok(state()));
        app.decided(decision("a.test", "deny"));
        app.decided(decision("ok.test", "allow"));
        for key in keys.chars() {
            app.key(KeyEvent::from(if key == '\n' { KeyCode::Enter } else { KeyCode::Char(key) }));
        }
        app
    }

    fn screen(app: &App, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(app, frame.area(), frame.buffer_mut())).unwrap();
        lines(terminal.backend().buffer())
    }

    /// Screens to the letter, in `tests/top`; `BLESS=1` writes them anew.
    #[test]
    fn screens_are_as_they_were() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/top");
        let mut wrong = Vec::new();
        for (name, keys, width, height) in [
            ("live", "1", 110, 10),
            ("live-filtered", "/a.t\np", 110, 10),
            ("live-narrow", "1", 48, 8),
            ("blocked", "2", 110, 14),
            ("blocked-managed", "2j", 110, 14),
            ("tunnels", "3", 110, 8),
            ("tunnels-closing", "3jx", 110, 8),
            ("policy", "4", 110, 16),
            ("charts", "5", 60, 30),
            ("mode", "m", 110, 6),
            ("tiny", "1", 3, 2),
        ] {
            let (path, shown) = (folder.join(format!("{name}.txt")), screen(&app(keys), width, height));
            if std::env::var_os("BLESS").is_some() {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(&path, &shown).unwrap();
            }
            if std::fs::read_to_string(&path).unwrap_or_default() != shown {
                wrong.push(format!("{name}:\n{shown}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn all_of_it_fits_on_a_page_for_a_pipe() {
        let said = once(&app(""), None);
        for part in [
            "mode limited",
            "a.test:443",
            "\"a.test\" = \"allow\"",
            "only the managed layer",
            "git.test:443",
            "[fd00::1]:22",
            "managed: requirements.toml",
            "is cut short",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(once(&app(""), Some(120)).contains("\"a.test\" = \"allow\""));
    }

    #[test]
    fn nothing_is_cut_for_a_pipe() {
        let host = format!("{}.test", vec!["a".repeat(60); 4].join("."));
        let toml = format!("\"{host}\" = \"allow\"");
        let mut app = app("");
        app.state.overview.blocked[0].last.host.clone_from(&host);
        app.state.overview.blocked[0].last.change.as_mut().unwrap().toml = Some(toml.clone());
        app.state.tunnels.tunnels[0].host.clone_from(&host);
        app.state.policy.last_error = Some(host.repeat(10));
        let said = once(&app, None);
        let blocked = said.lines().find(|line| line.contains(&toml)).unwrap();
        assert!(blocked.contains(&format!("{host}:443 ")), "host and line are whole: {said}");
        assert!(said.lines().any(|line| line.starts_with(&format!("{host}:443 ")) && line.contains("127.0.0.1:40000")), "{said}");
        assert!(said.contains(&host.repeat(10)), "{said}");
        assert!(said.lines().all(|line| line.trim_end() == line), "{said}");
        // A terminal is as wide as it is.
        assert!(once(&app, Some(120)).lines().all(|line| line.chars().count() <= 120));
    }

    #[test]
    fn what_a_terminal_takes_for_a_command_is_never_on_the_screen() {
        for keys in ["1", "2", "2jj", "3"] {
            assert!(!screen(&app(keys), 120, 20).contains('\u{1b}'), "{keys}");
        }
        assert!(screen(&app("2"), 120, 20).contains("\\u{1b}[2Jc.test:443"));
    }

    #[test]
    fn without_colour_nothing_is_coloured_and_with_it_only_what_was_blocked() {
        let colours = |app: &App| {
            let mut terminal = Terminal::new(TestBackend::new(100, 12)).unwrap();
            terminal.draw(|frame| draw(app, frame.area(), frame.buffer_mut())).unwrap();
            terminal.backend().buffer().content.iter().map(|cell| cell.fg).collect::<std::collections::HashSet<_>>()
        };
        assert_eq!(colours(&app("1")), [Color::Reset].into());
        let coloured = App { has_colour: true, ..app("1") };
        assert_eq!(colours(&coloured), [Color::Reset, Color::Red].into());
    }
}
