//! `netproxy-dp top`: what the running proxy does, in a terminal, from its admin API.

mod app;
mod client;
mod model;
#[path = "../../admin/ui/text.rs"]
mod text;
mod view;

use super::{no, print, running};
use crate::cli::Top;
use crate::{Failure, unusable};
use app::{App, Order, Outcome};
use client::{Address, Api, Raw};
use model::{Decision, State};
use ratatui::crossterm::event::{self, Event};
use ratatui::{DefaultTerminal, Frame};
use std::io::IsTerminal;
use std::time::Duration;
use tokio::sync::mpsc::{self, Receiver, Sender};

/// Between two questions.
const INTERVAL: Duration = Duration::from_secs(1);
/// Screens are drawn no more often.
const FRAME: Duration = Duration::from_millis(100);
/// What is on its way to the screen.
const WAITING: usize = 1_024;
/// Characters a line, of a terminal that does not say, and at least.
const WIDTH: u16 = 120;
const NARROWEST: u16 = 40;

/// What changes the screen.
enum Update {
    Polled(Box<Result<State, String>>),
    Decided(Box<Decision>),
    Done(Result<String, String>),
    Terminal(Event),
    Ended,
}

pub(crate) fn run(arguments: &Top) -> Result<u8, Failure> {
    let api = Api::new(address(arguments)?, arguments.admin_token_file.as_deref()).map_err(unusable)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unusable)?;
    if arguments.once {
        print(&runtime.block_on(once(&api, arguments.json)).map_err(no)?);
        return Ok(0);
    }
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(unusable("this is no terminal: `--once` prints what there is, and ends"));
    }
    // A mistake in the address, or a token that is not taken, is said before there is a screen.
    let state = runtime.block_on(api.state()).map_err(no)?;
    // A panic puts the terminal back, too.
    let mut terminal = ratatui::try_init().map_err(unusable)?;
    let mut app = App { has_colour: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()), ..App::default() };
    app.polled(Ok(state));
    let ended = runtime.block_on(show(&mut terminal, &mut app, &api));
    let restored = ratatui::try_restore();
    // The thread that reads keys waits for one.
    runtime.shutdown_background();
    ended.and(restored).map_err(unusable)?;
    Ok(0)
}

/// What was named, or what the running proxy says of itself.
fn address(arguments: &Top) -> Result<Address, Failure> {
    match (&arguments.admin, &arguments.admin_socket) {
        (Some(url), _) => Address::of_url(url).map_err(unusable),
        (None, Some(path)) => Ok(Address::Unix(path.clone())),
        (None, None) => {
            let (manifest, folder) = running(&arguments.state)?;
            let admin = manifest.admin.ok_or_else(|| {
                no(format!(
                    "the proxy whose state folder is `{}` does not say where its admin API is: name it with `--admin http://IP:PORT`",
                    folder.display()
                ))
            })?;
            Ok(Address::Tcp(admin.to_string()))
        }
    }
}

/// What there is, as text, or as JSON the way the API says it.
async fn once(api: &Api, json: bool) -> Result<String, String> {
    if json {
        let Raw { policy, overview, tunnels } = api.raw().await?;
        return Ok(format!("{:#}\n", serde_json::json!({ "policy": policy, "overview": overview, "tunnels": tunnels })));
    }
    let mut app = App::default();
    app.polled(Ok(api.state().await?));
    let columns = || ratatui::crossterm::terminal::size().map_or(WIDTH, |(columns, _)| columns.max(NARROWEST));
    Ok(view::once(&app, std::io::stdout().is_terminal().then(columns)))
}

async fn show(terminal: &mut DefaultTerminal, app: &mut App, api: &Api) -> std::io::Result<()> {
    let (sender, mut updates) = mpsc::channel(WAITING);
    std::thread::Builder::new().name("keys".to_owned()).spawn({
        let sender = sender.clone();
        move || keys(&sender)
    })?;
    tokio::spawn(poll(api.clone(), sender.clone()));
    tokio::spawn(follow(api.clone(), sender.clone()));
    let mut stopped = std::pin::pin!(stop());
    loop {
        terminal.draw(|frame| draw(app, frame))?;
        let update = tokio::select! {
            update = updates.recv() => update,
            () = &mut stopped => return Ok(()),
        };
        let Some(update) = update else { return Ok(()) };
        let is_key = matches!(update, Update::Terminal(_));
        if !apply(app, update, api, &sender) || !drain(app, &mut updates, api, &sender) {
            return Ok(());
        }
        // Keys are seen at once; what else comes is gathered.
        if !is_key {
            tokio::time::sleep(FRAME).await;
            if !drain(app, &mut updates, api, &sender) {
                return Ok(());
            }
        }
    }
}

fn draw(app: &App, frame: &mut Frame<'_>) {
    let area = frame.area();
    view::draw(app, area, frame.buffer_mut());
}

/// Whatever waits is applied before the next screen. `false`: it is over.
fn drain(app: &mut App, updates: &mut Receiver<Update>, api: &Api, sender: &Sender<Update>) -> bool {
    // No more than fits: who is told faster than they can be shown would never see a screen.
    for _ in 0..WAITING {
        let Ok(update) = updates.try_recv() else { break };
        if !apply(app, update, api, sender) {
            return false;
        }
    }
    true
}

fn apply(app: &mut App, update: Update, api: &Api, sender: &Sender<Update>) -> bool {
    match update {
        Update::Polled(state) => app.polled(*state),
        Update::Decided(decision) => app.decided(*decision),
        Update::Done(said) => app.said = Some(said.unwrap_or_else(|why| format!("not done: {why}"))),
        Update::Terminal(Event::Key(key)) => match app.key(key) {
            Outcome::Stay => {}
            Outcome::Quit => return false,
            Outcome::Do(order) => {
                let (api, sender) = (api.clone(), sender.clone());
                tokio::spawn(async move { carry_out(order, &api, &sender).await });
            }
        },
        // A new size is seen with the next screen.
        Update::Terminal(_) => {}
        Update::Ended => return false,
    }
    true
}

async fn carry_out(order: Order, api: &Api, sender: &Sender<Update>) {
    let said = match order {
        Order::Mode(mode) => api.set_mode(mode).await,
        Order::Reload => api.reload().await,
        Order::Close(id) => api.close(id).await,
    };
    let _ = sender.send(Update::Done(said)).await;
    let _ = sender.send(Update::Polled(Box::new(api.state().await))).await;
}

/// Asks again and again.
async fn poll(api: Api, sender: Sender<Update>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        if sender.send(Update::Polled(Box::new(api.state().await))).await.is_err() {
            return;
        }
    }
}

/// Follows decisions, and begins anew when the connection ends. Those that come faster than they are shown are left out.
async fn follow(api: Api, sender: Sender<Update>) {
    while !sender.is_closed() {
        // Why there is none, the questions say.
        let _ = api.events(|decision| _ = sender.try_send(Update::Decided(Box::new(decision)))).await;
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Reads keys and sizes, on a thread of its own: a terminal is read by waiting.
fn keys(sender: &Sender<Update>) {
    while let Ok(event) = event::read() {
        if sender.blocking_send(Update::Terminal(event)).is_err() {
            return;
        }
    }
    // Nobody sits there any more.
    let _ = sender.blocking_send(Update::Ended);
}

/// A signal to end.
#[cfg(unix)]
async fn stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let caught = [SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt()].map(signal);
    let [Ok(mut terminate), Ok(mut hangup), Ok(mut interrupt)] = caught else { return std::future::pending().await };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
        _ = interrupt.recv() => {}
    }
}

#[cfg(not(unix))]
async fn stop() {
    std::future::pending().await
}
