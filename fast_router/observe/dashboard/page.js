// The dashboard's page. No library and nothing from outside: it asks its own server for JSON and draws.
import { explainer } from "./explain.js";
import { plotter } from "./plots.js";

const $ = (id) => document.getElementById(id);
const TROUBLE = new Set(["resting", "failing", "held", "draining", "drained", "probing", "due", "closed"]);
const AWAY = new Set(["held", "draining", "drained"]);
const FEW = 50; // rows of a model before "show all"
const CARDS = 6; // deployments in trouble that get a card of their own
const COLUMNS = [
  ["server", "server"], ["state", "state"], ["in_flight", "in flight", true], ["share", "share", true],
  ["rate", "calls/s", true], ["failures", "failed", true], ["p50", "p50", true], ["p95", "p95", true],
  ["p99", "p99", true], ["first_p95", "1st token p95", true], ["", "why"], ["", ""],
];

const params = new URLSearchParams(location.hash.slice(1));
if (params.get("token")) {
  sessionStorage.setItem("token", params.get("token"));
  history.replaceState(null, "", location.pathname); // not for the eyes behind one's back, nor for the history
}
const view = {
  token: sessionStorage.getItem("token") || "", data: null, at: 0, before: null, filter: "", paused: false,
  sort: ["", 1], open: new Map(), all: new Set(), history: null, plotted: "",
};

// -- small helpers ----------------------------------------------------------------------------------------

function el(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [k, v] of Object.entries(value)) made.style.setProperty(k, v);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}
// Elements that stay are kept, so that focus and scrolling survive a refresh.
function sync(parent, items, key, make, update) {
  const known = parent.known ?? (parent.known = new Map());
  const seen = new Set();
  let place = parent.firstChild;
  for (const item of items) {
    const id = key(item);
    seen.add(id);
    let child = known.get(id);
    if (!child) known.set(id, (child = make(item)));
    update?.(child, item);
    if (child === place) place = place.nextSibling;
    else parent.insertBefore(child, place);
  }
  for (const [id, child] of known) if (!seen.has(id)) { child.remove(); known.delete(id); }
}
function text(node, value) { if (node.textContent !== value) node.textContent = value; }
function figure(value, unit = "") {
  if (value === null || value === undefined) return "–";
  const shown = value === 0 ? "0" : value < 10 ? value.toPrecision(2).replace(/\.0$/, "") : value < 1000 ? value.toFixed(0) : value.toLocaleString("en", { maximumFractionDigits: 0 });
  return unit ? `${shown} ${unit}` : shown;
}
function seconds(value) {
  if (value === null || value === undefined) return "–";
  return value < 1 ? `${Math.round(value * 1000)} ms` : value < 100 ? `${value.toFixed(value < 10 ? 2 : 1)} s` : `${Math.round(value)} s`;
}
function duration(value) {
  if (value < 60) return `${Math.max(0, Math.round(value))} s`;
  const minutes = Math.floor(value / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(value % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}
const clock = (epoch) => new Date(epoch * 1000).toLocaleTimeString([], { hour12: false });
const now = () => view.data.now + (performance.now() - view.at) / 1000;
const left = (row) => row.seconds_left === null ? null : Math.max(0, row.seconds_left - (performance.now() - view.at) / 1000);
function toast(message) {
  text($("toast"), message);
  $("toast").classList.add("shown");
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => $("toast").classList.remove("shown"), 4000);
}

// -- talking to the server --------------------------------------------------------------------------------

async function ask(path, body) {
  const headers = { "X-Fast-Router-Token": view.token };
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), cache: "no-store" });
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(found.error || `${answer.status} ${answer.statusText}`), { status: answer.status, found });
  return found;
}
function lost(error) {
  const refused = error.status === 401;
  text($("lost"), refused ? "This page needs the address with the token that `fast-router dashboard` printed." : `No answer (${error.message}); what you see is from ${view.data ? clock(view.data.now) : "before"}. Trying again …`);
  $("lost").hidden = false;
}
async function poll() {
  let every = 2000;
  try {
    if (!view.paused && !document.hidden) {
      const data = await ask("api/state");
      rates(data);
      view.data = data;
      view.at = performance.now();
      every = data.every * 1000;
      $("lost").hidden = true;
      draw();
    }
  } catch (error) { lost(error); }
  setTimeout(poll, every);
}
async function pollHistory() {
  try {
    if (!view.paused && !document.hidden) {
      view.history = await ask(`api/history?model=${encodeURIComponent(view.plotted)}`);
      plots();
    }
  } catch { /* the other poll says it */ }
  clearTimeout(pollHistory.timer);
  pollHistory.timer = setTimeout(pollHistory, 10000);
}
function rates(data) {
  const before = view.counts, counts = new Map(), passed = view.data ? data.now - view.data.now : 0;
  for (const group of data.groups) {
    group.rate = group.failing = 0;
    for (const row of group.deployments) {
      row.model = group.model;
      const key = `${group.model} ${row.id}`, calls = [row.successes + row.failures, row.failures];
      const last = before?.get(key);
      row.rate = last && passed > 0 ? Math.max(0, calls[0] - last[0]) / passed : null;
      row.failing = last && passed > 0 ? Math.max(0, calls[1] - last[1]) / passed : null;
      group.rate += row.rate ?? 0;
      group.failing += row.failing ?? 0;
      counts.set(key, calls);
    }
  }
  view.counts = counts;
}

// -- drawing ----------------------------------------------------------------------------------------------

function matches(row) {
  const word = view.filter;
  return !word || [row.model, row.server, row.id, row.state].some((part) => part.toLowerCase().includes(word));
}
function draw() {
  const data = view.data;
  const rows = data.groups.flatMap((group) => group.deployments);
  const about = data.processes.find((each) => each.litellm);
  text($("about"), about ? `${about.version} on LiteLLM ${about.litellm} · ${data.processes[0].host ?? ""}${data.read_only ? " · read only" : ""}` : data.processes.length ? `${data.processes[0].version ?? ""} without LiteLLM` : "");
  tiles(data, rows);
  rollouts(data);
  trouble(rows);
  models(data);
  choices(data);
  lately(data);
  lanes(data);
  workers(data);
  capabilities(data);
  tick();
}
function tiles(data, rows) {
  const up = rows.filter((row) => row.state === "up" || row.state === "warming").length;
  const sum = (key) => data.groups.reduce((total, group) => total + (group[key] ?? 0), 0);
  const held = rows.filter((row) => AWAY.has(row.state)).length;
  const failing = sum("failing");
  const list = [
    ["Deployments up", `${up}`, `of ${rows.length}`, rows.length && up === rows.length ? "good" : up < rows.length - held ? "bad" : ""],
    ["In flight", `${sum("in_flight")}`, ""],
    ["Calls", figure(sum("rate")), "per s"],
    ["Failures", figure(failing), "per s", failing > 0 ? "bad" : ""],
    ["Latency p95", seconds(data.total.p95), `p50 ${seconds(data.total.p50)}`],
    ["First token p95", seconds(data.total.first_p95), `p50 ${seconds(data.total.first_p50)}`],
    ["Workers", `${data.processes.filter((each) => !each.error).length}`, data.idle ? `and ${data.idle} idle` : "", data.processes.some((each) => each.error) ? "bad" : ""],
  ];
  sync($("tiles"), list, (item) => item[0],
    (item) => el("div", { class: "tile card" }, el("span", {}, item[0]), el("b", {}, el("span"), " ", el("small"))),
    (tile, item) => {
      tile.className = `tile card ${item[3] ?? ""}`;
      const bold = tile.querySelector("b");
      text(bold.firstChild, item[1]);
      bold.firstChild.style.cssText = "color:inherit;font-size:inherit";
      text(bold.lastChild, item[2]);
    });
}
function rollouts(data) {
  const section = $("rollouts");
  section.hidden = !data.rollouts.length;
  section.replaceChildren(...data.rollouts.map((each) => {
    const observes = each.rollout === "observe";
    const heads = ["arm", "requests", "failed", "retries", "p50", "p95", "1st token"];
    const seen = each.observed || {};
    const said = observes
      ? `LiteLLM picks, we only watch: ${figure(seen.same_pick)} of ${figure(seen.compared)} picks as ours; to resting ${figure(seen.to_resting)}, full ${figure(seen.to_full)}, just failed ${figure(seen.to_just_failed)}`
      : `by ${each.measure}: ${each.verdict} (${each.shared})`;
    const tried = each.experiment;
    const title = tried ? `Experiment: ${tried.share} % of the requests by ${tried.strategy}, the others by ${each.configured.join(", ") || "what is configured"}`
      : observes ? "Rollout: observe" : `Rollout: ${each.rollout} % of the requests`;
    return el("div", { class: "rollout" },
      el("h2", {}, title),
      el("table", {},
        el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", {}, head)))),
        el("tbody", {}, ...each.arms.map((arm) => el("tr", {},
          ...[arm.arm, figure(arm.requests), figure(arm.failures), figure(arm.retries), seconds(arm.latency.p50), seconds(arm.latency.p95), seconds(arm.first_token.p50)]
            .map((cell) => el("td", {}, cell)))))),
      el("p", {}, said));
  }));
}
function trouble(rows) {
  const ill = rows.filter((row) => TROUBLE.has(row.state) && matches(row));
  const shown = ill.slice(0, CARDS);
  if (ill.length > shown.length) shown.push({ more: ill.length - shown.length });
  sync($("trouble"), shown, (row) => row.more ? "more" : `${row.model} ${row.id}`,
    (row) => row.more ? el("p", { class: "more" }) : el("article", {}, el("p", {}, el("b"), " ", el("span", { class: "pill" }), " ", el("span", { class: "since" }), el("br"), el("span", { class: "why" })), el("span", { class: "countdown" }), el("span", { class: "act" })),
    (card, row) => {
      if (row.more) return text(card, `… and ${row.more} more; they come first in their models below`);
      card.className = AWAY.has(row.state) ? "held" : row.state === "resting" || row.state === "failing" ? "" : "soft";
      card.row = row;
      text(card.querySelector("b"), `${row.server} · ${row.model}`);
      pill(card.querySelector(".pill"), row);
      text(card.querySelector(".why"), [row.reason, serving(row)].filter(Boolean).join(" · "));
      actions(card.querySelector(".act"), row);
    });
}
function serving(row) {
  const group = view.data.groups.find((each) => each.model === row.model);
  const others = group.deployments.filter((each) => each.id !== row.id && (each.state === "up" || each.state === "warming"));
  if (!others.length) return "nothing else serves";
  const servers = [...new Set(others.map((each) => each.server))];
  return `meanwhile ${servers.slice(0, 3).join(", ")}${servers.length > 3 ? ` and ${servers.length - 3} more` : ""}`;
}
function pill(node, row) {
  node.className = `pill ${row.state}`;
  text(node, row.workers_alike < row.workers ? `${row.state} ${row.workers_alike}/${row.workers}` : row.state);
}
function actions(node, row) {
  const wanted = view.data.read_only ? [] : AWAY.has(row.state) ? ["wake"] : row.state === "resting" || row.state === "failing" ? ["wake", "rest"] : ["rest", "drain"];
  sync(node, wanted, (action) => action,
    (action) => el("button", { type: "button", onclick: () => decide(action, node.row) }, action),
    (button, action) => button.setAttribute("aria-label", `${action} ${row.server} in ${row.model}`));
  node.row = row;
}
function ordered(group) {
  const rows = group.deployments.filter(matches), [key, way] = view.sort;
  if (!key) return rows;
  return [...rows].sort((a, b) => {
    const x = a[key], y = b[key];
    if (x === y) return 0;
    if (x === null || x === undefined) return 1;
    if (y === null || y === undefined) return -1;
    return (x < y ? -1 : 1) * way;
  });
}
function models(data) {
  const groups = data.groups.map((group) => ({ ...group, rows: ordered(group) })).filter((group) => group.rows.length);
  groups.sort((a, b) => (a.up === a.size) - (b.up === b.size) || (a.model < b.model ? -1 : 1));
  const list = groups.length ? groups.slice(0, view.filter ? 60 : 200) : [{ model: "", empty: true }];
  sync($("models"), list, (group) => group.model || "\0", (group) => group.empty ? el("p", { class: "none" }) : makeGroup(group), (node, group) => {
    if (group.empty) return text(node, data.groups.length ? "Nothing matches the filter." : data.processes.length ? "No deployment yet: a Router shows up with its first request." : data.nothing);
    updateGroup(node, group);
  });
}
function makeGroup(group) {
  const head = el("thead", {}, el("tr", {}, ...COLUMNS.map(([key, name, number]) => el("th", { class: number ? "n" : null, scope: "col", "data-key": key }, key ? el("button", { type: "button", onclick: () => sortBy(key) }, name) : name))));
  const body = el("tbody");
  const table = el("table", {}, el("caption", { class: "hidden" }, `Deployments of ${group.model}`), head, body);
  const toggle = el("button", { type: "button", onclick: () => { view.open.set(group.model, !isOpen(group.model)); draw(); } }, el("h2", {}, group.model), el("span", { class: "strategy" }), el("span", { class: "meter" }), el("span", { class: "sums" }));
  const why = el("button", { class: "explain", type: "button", "aria-label": `explain ${group.model}`, onclick: () => explain(group.model) }, "Why?");
  return el("div", { class: "group" }, el("div", { class: "group-head" }, toggle, why), el("div", { class: "body" }, table, el("button", { class: "all", type: "button", onclick: () => { view.all.add(group.model); draw(); } })));
}
const isOpen = (model) => view.open.get(model) ?? (view.data.groups.length <= 12 || Boolean(view.filter) || view.data.groups.some((g) => g.model === model && g.up < g.size));
function updateGroup(node, group) {
  const open = isOpen(group.model), toggle = node.firstChild.firstChild;
  toggle.setAttribute("aria-expanded", open);
  text(toggle.querySelector(".strategy"), group.strategy);
  const part = (states) => group.deployments.filter((row) => states.includes(row.state)).length;
  const parts = [["up", part(["up", "warming"]), "var(--green)"], ["limit", part(["full", "spent", "slow", "due", "probing"]), "var(--amber)"], ["held", part(["held", "draining", "drained", "closed"]), "var(--cyan)"], ["ill", part(["resting", "failing"]), "var(--red)"]].filter((each) => each[1]);
  const meter = toggle.querySelector(".meter");
  meter.title = `${group.up} of ${group.size} up`;
  sync(meter, parts, (each) => each[0], (each) => el("i", { style: { "--c": each[2] } }), (bar, each) => (bar.style.flex = String(each[1])));
  const sums = [["up", `${group.up}/${group.size}`, "up", group.up < group.size], ["flight", group.in_flight, "in flight"], ["rate", figure(group.rate), "calls/s"], ["failed", figure(group.failing), "failed/s", group.failing > 0], ["p95", seconds(group.p95), "p95"]];
  const hits = hitShares(group.deployments.map((row) => row.cache));
  if (hits) sums.push(["cache", hits, "cached"]);
  sync(toggle.querySelector(".sums"), sums, (each) => each[0], () => el("span", {}, el("b"), ""), (span, each) => {
    text(span.firstChild, String(each[1]));
    span.firstChild.className = each[3] ? "bad" : "";
    if (span.childNodes.length < 2) span.append("");
    span.lastChild === span.firstChild ? span.append(` ${each[2]}`) : (span.lastChild.textContent = ` ${each[2]}`);
  });
  const body = node.lastChild;
  body.hidden = !open;
  if (!open) return;
  for (const th of body.querySelectorAll("th")) {
    const mine = th.dataset.key && th.dataset.key === view.sort[0];
    mine ? th.setAttribute("aria-sort", view.sort[1] > 0 ? "ascending" : "descending") : th.removeAttribute("aria-sort");
  }
  const shown = view.all.has(group.model) ? group.rows : group.rows.slice(0, FEW);
  sync(body.querySelector("tbody"), shown, (row) => row.id, makeRow, updateRow);
  const more = body.lastChild;
  more.hidden = shown.length === group.rows.length;
  text(more, `Show all ${group.rows.length}`);
}
// Cache hits as `predicted / reported`; empty where no strategy looks at caches.
function hitShares(caches) {
  const known = caches.filter((cache) => cache);
  if (!known.length) return "";
  const share = (hits, of) => {
    const total = known.reduce((sum, cache) => sum + (cache[of] ?? 0), 0);
    return total ? `${Math.round((100 * known.reduce((sum, cache) => sum + (cache[hits] ?? 0) * (cache[of] ?? 0), 0)) / total)} %` : "–";
  };
  return `${share("predicted_hit_share", "prompt_tokens")} expected, ${share("reported_hit_share", "reported_prompt_tokens")} told`;
}
function makeRow(row) {
  const cell = (name, label, ...children) => el("td", { class: name, "data-label": label }, ...children);
  return el("tr", {},
    cell("server", null, el("span"), el("code"), el("small")), cell("", null, el("span", { class: "pill" })),
    cell("n", "in flight"), cell("n", "share", el("span", { class: "share" }, el("i")), el("span")), cell("n", "calls/s"), cell("n", "failed"),
    cell("n", "p50"), cell("n", "p95"), cell("n", "p99"), cell("n", "1st token p95"), cell("why"), cell("act"));
}
function updateRow(tr, row) {
  const c = tr.children;
  tr.row = row;
  text(c[0].firstChild, row.server);
  text(c[0].children[1], row.short);
  const hits = hitShares([row.cache]);
  text(c[0].lastChild, hits && `cached: ${hits}`);
  c[0].title = row.id;
  pill(c[1].firstChild, row);
  text(c[2], String(row.in_flight));
  const share = row.share === null ? 0 : row.share * 100;
  c[3].firstChild.firstChild.style.width = `${share}%`;
  text(c[3].lastChild, row.share === null ? "–" : `${share.toFixed(share < 10 ? 1 : 0)} %`);
  text(c[4], figure(row.rate));
  text(c[5], String(row.failures));
  c[5].title = Object.entries(row.kinds).map(([kind, count]) => `${count} ${kind.replaceAll("_", " ")}`).join(", ");
  text(c[6], seconds(row.p50));
  text(c[7], seconds(row.p95));
  text(c[8], seconds(row.p99));
  text(c[9], seconds(row.first_p95));
  actions(c[11], row);
}
function sortBy(key) {
  const numbers = COLUMNS.find((column) => column[0] === key)[2];
  view.sort = view.sort[0] !== key ? [key, numbers ? -1 : 1] : view.sort[1] === (numbers ? -1 : 1) ? [key, -view.sort[1]] : ["", 1];
  draw();
}
// What changes with the clock alone: countdowns, and since when.
function tick() {
  if (!view.data) return;
  const age = (performance.now() - view.at) / 1000;
  text($("clock"), view.paused ? "paused" : `as of ${clock(view.data.now)}${age > 10 ? `, ${duration(age)} ago` : ""}`);
  for (const card of $("trouble").children) {
    if (!card.row) continue;
    text(card.querySelector(".since"), card.row.since ? `for ${duration(now() - card.row.since)}, since ${clock(card.row.since)}` : "");
    const wait = left(card.row);
    text(card.querySelector(".countdown"), wait === null ? "" : wait > 0 ? `${AWAY.has(card.row.state) ? "ends in" : "next try in"} ${duration(wait)}` : "its next call is the try");
  }
  for (const tr of document.querySelectorAll("#models tbody tr")) {
    const row = tr.row, wait = row && left(row);
    if (!row || (!row.reason && !row.since && !wait)) { if (tr.children[10].textContent) text(tr.children[10], ""); continue; }
    const parts = [row.reason, row.since && !AWAY.has(row.state) ? `for ${duration(now() - row.since)}` : "", wait ? `${row.state === "warming" ? "full share" : AWAY.has(row.state) ? "ends" : "next try"} in ${duration(wait)}` : ""];
    text(tr.children[10], parts.filter(Boolean).join(", "));
  }
}
setInterval(tick, 1000);

// -- the lower part ---------------------------------------------------------------------------------------

function table(parent, rows, none) {
  const list = rows.length ? rows : [[none]];
  if (!parent.firstChild) parent.append(el("table", {}, el("tbody")));
  sync(parent.querySelector("tbody"), list, (row) => row[0], (row) => el("tr", {}, ...row.map((_, place) => el("td", { class: place ? "n" : rows.length ? null : "none" }))), (tr, row) => row.forEach((value, place) => text(tr.children[place], String(value))));
}
function lately(data) {
  const list = data.changes.length ? data.changes : [{ at: 0, what: "Nothing has rested, returned or been held." }];
  sync($("changes"), list, (each) => `${each.at} ${each.id} ${each.what}`, (each) => each.at ? el("li", {}, el("time", {}, clock(each.at)), el("b", {}, `${each.server} · ${each.model} `), each.what) : el("li", { class: "none" }, each.what));
}
function lanes(data) {
  const rows = ["fast", "request_lane", "filtered", "delegated"].filter((lane) => data.lanes[lane] || lane !== "request_lane").map((lane) => [lane.replace("_", " "), figure(data.lanes[lane])]);
  table($("lanes"), [...rows, ...data.lanes.reasons.map((each) => [`${each.lane}: ${each.reason}`, figure(each.picks)])], "");
  table($("waits"), data.waits.map((each) => [`${each.model} · ${figure(each.count)}`, `p50 ${seconds(each.p50)}, p95 ${seconds(each.p95)}`]), "No request has waited for a deployment.");
  table($("events"), data.events.map((each) => [`${each.event.replaceAll("_", " ")} · ${each.model}`, figure(each.count)]), "No retry, hedge, wait or refusal yet.");
}
function workers(data) {
  table($("workers"), data.processes.map((each) => [`${each.pid} ${each.program ?? ""}${each.ports?.length ? ` :${each.ports.join(", ")}` : ""}${each.config ? ` ${each.config}` : ""}`, each.error ?? `${figure(each.picks)} picks, up ${duration(data.now - each.started)}`]), "No process answers.");
  const states = data.shared_state.filter((state) => "connected" in state);
  const fleet = states.length ? [[`Redis at ${states[0].redis}`, states.every((state) => state.connected) ? "connected" : "away"]] : [];
  const others = new Map(states.flatMap((state) => Object.entries(state.instances ?? {})));
  for (const [id, each] of others) fleet.push([`${each.host ?? id} ${each.pid ?? ""}`, `${each.in_flight} in flight`]);
  for (const celery of data.celery.slice(0, 1)) fleet.push(["Celery", celery.connected ? `${celery.picks} picks by workers` : "not connected"]);
  table($("fleet"), fleet, "Shared state and Celery are off.");
}
function capabilities(data) {
  const list = Object.entries(data.capabilities ?? {}).filter(([name]) => name !== "options_without_effect");
  const idle = (data.capabilities?.options_without_effect ?? []).map((sentence) => [sentence, { on: false, why: "has no effect" }]);
  sync($("capabilities"), [...list, ...idle], ([name]) => name, ([name]) => el("li", {}, el("span", {}, name.replaceAll("_", " "), el("small"))), (li, [, each]) => {
    li.className = each.on ? "on" : "";
    text(li.querySelector("small"), each.why);
  });
}
function choices(data) {
  const names = data.groups.slice().sort((a, b) => b.picks - a.picks).map((group) => group.model).slice(0, 300);
  sync($("plotted").known ? $("plotted") : Object.assign($("plotted"), { known: new Map([["", $("plotted").firstElementChild]]) }), ["", ...names], (name) => name, (name) => el("option", { value: name }, name));
}

const plots = plotter({ el, text, sync, figure, seconds, clock, past: () => view.history, section: $("plots") });
const explain = explainer({ el, text, ask, figure });

// -- orders -----------------------------------------------------------------------------------------------

const SAYS = {
  rest: ["Rest", "gets no more calls. Those that run go on. It stays so over restarts of the proxy, until its time is over or it is woken."],
  drain: ["Drain", "gets no more calls; it shows as drained when those that run have ended. It stays so until its time is over or it is woken."],
  wake: ["Wake", "takes calls again at once."],
};
function decide(action, row) {
  const dialog = $("ask"), [verb, what] = SAYS[action];
  text($("ask-title"), `${verb} ${row.server}?`);
  text($("ask-text"), `${row.model} on ${row.server} (id ${row.short}) ${what}`);
  $("ask-options").hidden = action === "wake";
  $("ask-problem").hidden = true;
  $("ask-for").value = "";
  $("ask-server").checked = false;
  $("ask-server").disabled = row.server === "–";
  let force = false;
  const yes = $("ask-yes");
  const say = () => { text(yes, force ? `${verb} all the same` : verb); yes.classList.toggle("danger", force); };
  say();
  yes.onclick = async () => {
    yes.disabled = true;
    const whole = $("ask-server").checked && action !== "wake";
    try {
      const done = await ask("api/order", { action, target: whole ? row.server : row.id, model: whole ? null : row.model, seconds: Number($("ask-for").value) || null, force });
      dialog.close();
      toast(`${done.targets} deployment${done.targets === 1 ? "" : "s"}: ${action}; ${done.told} worker${done.told === 1 ? "" : "s"} told`);
      draw();
    } catch (error) {
      text($("ask-problem"), error.message);
      $("ask-problem").hidden = false;
      force = error.status === 409;
      say();
    } finally { yes.disabled = false; }
  };
  dialog.showModal();
  yes.focus();
}

// -- the controls -----------------------------------------------------------------------------------------

function theme(next) {
  const chosen = next ?? localStorage.getItem("theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  document.documentElement.dataset.theme = chosen;
  if (next) localStorage.setItem("theme", next);
  plots();
}
const otherTheme = () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
function pause() {
  view.paused = !view.paused;
  $("pause").setAttribute("aria-pressed", view.paused);
  text($("pause"), view.paused ? "Go on" : "Pause");
  tick();
}
$("theme").onclick = otherTheme;
$("pause").onclick = pause;
$("filter").oninput = (event) => { view.filter = event.target.value.trim().toLowerCase(); if (view.data) draw(); };
$("plotted").onchange = (event) => { view.plotted = event.target.value; pollHistory(); };
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => theme());
addEventListener("keydown", (event) => {
  if ($("ask").open || $("explain").open || event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(document.activeElement.tagName);
  if (event.key === "Escape" && document.activeElement === $("filter")) { $("filter").value = view.filter = ""; $("filter").blur(); if (view.data) draw(); }
  if (typing) return;
  if (event.key === "/") { event.preventDefault(); $("filter").focus(); }
  if (event.key === "p") pause();
  if (event.key === "t") otherTheme();
});
theme();
poll();
pollHistory();
