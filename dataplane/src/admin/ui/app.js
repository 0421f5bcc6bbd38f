// What moves on the page. The server writes all of it; here parts of a newer page take the place of older ones, and decisions are put into rows as they come. Text goes in as
// text, never as markup.
"use strict";

const ROWS = 200; // rows that are kept
const FLUSH = 250; // milliseconds between two changes of the table
const REFRESH = 2000; // milliseconds between two pages
const SAY = 10000; // milliseconds between two sentences to who listens rather than looks
const KEY = "netproxy-token";

const byId = (id) => document.getElementById(id);
const token = () => sessionStorage.getItem(KEY);
const isShown = () => document.body.dataset.access !== "locked";

let paused = false;
let streaming = false;
let waiting = []; // decisions that are not in the table yet
let skipped = 0; // decisions that came too fast to be shown
let heard = { allow: 0, deny: 0 };

function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (token()) headers.authorization = `Bearer ${token()}`;
  return fetch(path, { ...options, headers, cache: "no-store", credentials: "omit", redirect: "error" });
}

function say(text) {
  byId("said").textContent = text;
}

// ---- parts of the page -------------------------------------------------------------------------------------------------

const written = new Map(); // what the server last wrote of each part

function isInUse(part) {
  const selection = getSelection();
  return selection.rangeCount > 0 && !selection.isCollapsed && selection.containsNode(part, true);
}

function replace(part, newer) {
  const text = newer.innerHTML;
  if (written.get(part.id) === text || isInUse(part)) return;
  written.set(part.id, text);
  const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
  part.replaceChildren(...document.importNode(newer, true).childNodes);
  if (focused) (byId(focused) ?? byId("main")).focus({ preventScroll: true });
}

async function refresh() {
  const answer = await ask("/ui", { headers: { accept: "text/html" } });
  if (answer.status === 401) {
    sessionStorage.removeItem(KEY);
    if (isShown()) location.reload();
    return false;
  }
  if (!answer.ok) throw new Error(`the admin API answers ${answer.status}`);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (page.body.dataset.access === "locked") {
    if (token()) sessionStorage.removeItem(KEY);
    show(page);
    return false;
  }
  if (!isShown()) {
    show(page);
    stream();
    return true;
  }
  document.body.dataset.access = page.body.dataset.access;
  for (const part of document.querySelectorAll("[data-part]")) {
    const newer = page.getElementById(part.id);
    if (newer) replace(part, newer);
  }
  return true;
}

// The whole page is another one.
function show(page) {
  written.clear();
  document.body.replaceChildren(...document.importNode(page.body, true).childNodes);
  document.body.dataset.access = page.body.dataset.access;
  byId("token")?.focus();
}

async function refreshing() {
  if (!document.hidden && !paused && isShown()) {
    try {
      await refresh();
    } catch {
      liveState("the proxy does not answer; trying again");
    }
  }
  setTimeout(refreshing, REFRESH);
}

// ---- decisions as they come --------------------------------------------------------------------------------------------

function liveState(text) {
  const state = byId("live-state");
  if (state && state.textContent !== text) state.textContent = text;
}

let words; // what the page calls things: verdicts, protocols, reasons
const known = (names, name) => (Object.hasOwn(names, name) ? names[name] : String(name ?? ""));

function row(event) {
  words ??= JSON.parse(byId("row").dataset.words);
  const verdict = String(event["network.policy.decision"]);
  const host = String(event["server.address"] ?? "");
  const port = event["server.port"];
  const method = event["http.request.method"];
  const rule = event["network.policy.pattern"];
  const place = event["network.policy.place"];
  const line = byId("row").content.firstElementChild.cloneNode(true);
  const put = (field, text) => { line.querySelector(`[data-field="${field}"]`).textContent = text; };
  line.dataset.verdict = Object.hasOwn(words.verdicts, verdict) ? verdict : "deny";
  put("time", String(event["event.timestamp"] ?? "").slice(11, 19));
  put("verdict", known(words.verdicts, verdict));
  put("host", port ? `${host.includes(":") ? `[${host}]` : host}:${port}` : host);
  const protocol = known(words.protocols, event["network.transport.protocol"]);
  put("request", method && method !== "none" && method !== protocol ? `${method} ${protocol}` : protocol);
  put("client", String(event["client.address"] ?? ""));
  put("why", verdict === "allow" ? [rule, place].filter(Boolean).join(", ") : known(words.reasons, event["network.policy.reason"]));
  return line;
}

function take(event) {
  const name = String(event["event.name"] ?? "");
  skipped += Number(event.missed ?? (name.endsWith(".lost") ? event["event.lost.count"] : 0)) || 0;
  if (!name.endsWith(".policy_decision") && !name.endsWith(".revoked")) return;
  const verdict = event["network.policy.decision"];
  heard[verdict === "allow" ? "allow" : "deny"] += 1;
  waiting.push(event);
  if (waiting.length > ROWS) skipped += waiting.splice(0, waiting.length - ROWS).length;
}

function flush() {
  const rows = byId("live-rows");
  if (!rows || paused || waiting.length === 0) return;
  rows.prepend(...waiting.map(row).reverse());
  waiting = [];
  while (rows.childElementCount > ROWS) rows.lastElementChild.remove();
  byId("live-empty").hidden = true;
  liveState(skipped > 0 ? `live; ${skipped} went by too fast to be shown` : "live");
}

function speak() {
  const said = byId("live-said");
  if (said && !paused && heard.allow + heard.deny > 0) said.textContent = `${heard.deny} blocked and ${heard.allow} allowed in the last seconds`;
  heard = { allow: 0, deny: 0 };
}

async function stream() {
  if (streaming) return;
  streaming = true;
  for (let wait = 1000; isShown(); wait = Math.min(wait * 2, 30000)) {
    try {
      const answer = await ask("/v1/events", { headers: { accept: "text/event-stream" } });
      if (answer.ok) {
        wait = 1000;
        liveState("live");
        await read(answer.body);
      }
    } catch { /* the proxy went away, or the network did */ }
    if (isShown()) liveState("not connected; trying again");
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
  streaming = false;
}

async function read(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      try {
        take(JSON.parse(line.slice(5)));
      } catch { /* not an event of ours */ }
    }
  }
}

// ---- buttons -----------------------------------------------------------------------------------------------------------

async function change(path, body, done) {
  try {
    const sent = body ? { headers: { "content-type": "application/json" }, body: JSON.stringify(body) } : {};
    const answer = await ask(path, { method: "POST", ...sent });
    const said = await answer.json().catch(() => ({}));
    say(answer.ok ? done(said) : said.detail ?? said.error ?? `the admin API answers ${answer.status}`);
    await refresh();
  } catch {
    say("the proxy does not answer");
  }
}

async function copy(button) {
  const text = button.dataset.text;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without a secure context, or a leave to write: what is selected can be copied by hand.
    const line = button.parentElement.querySelector("code");
    getSelection().selectAllChildren(line);
    say("The line is selected: copy it with your keyboard.");
    return;
  }
  say(`Copied: ${text}`);
}

function pause(button) {
  paused = !paused;
  button.setAttribute("aria-pressed", String(paused));
  liveState(paused ? "paused: nothing on the page moves" : "live");
  flush();
}

const ACTIONS = {
  pause,
  copy,
  mode: ({ dataset: { mode } }) => change("/v1/mode", { mode: mode || null }, (said) => `The mode is ${said.mode}.`),
  reload: () => change("/v1/reload", null, (said) => (said.outcome === "unchanged" ? "The file holds the policy that is in force." : `Policy ${said.generation} is in force.`)),
  close: ({ dataset: { id } }) => change(`/v1/tunnels/${encodeURIComponent(id)}/close`, null, () => `Tunnel ${id} is being closed.`),
  forget: () => {
    sessionStorage.removeItem(KEY);
    location.reload();
  },
};

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-act]");
  if (button && Object.hasOwn(ACTIONS, button.dataset.act)) ACTIONS[button.dataset.act](button);
});
document.addEventListener("change", (event) => {
  if (event.target.name === "show") byId("live").dataset.show = event.target.value;
});
document.addEventListener("submit", async (event) => {
  if (event.target.id !== "unlock") return;
  event.preventDefault();
  sessionStorage.setItem(KEY, byId("token").value.trim());
  try {
    if (!(await refresh())) say("The admin API does not take this token.");
  } catch (error) {
    sessionStorage.removeItem(KEY);
    say(error.message);
  }
});

document.documentElement.classList.add("js");
setInterval(flush, FLUSH);
setInterval(speak, SAY);
if (isShown()) stream();
else if (token()) refresh().catch(() => say("The proxy does not answer."));
setTimeout(refreshing, REFRESH);
