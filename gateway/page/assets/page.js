// Polls /status every second while the page is visible, and shows it; text only, never HTML.
"use strict";

const EVERY_MS = 1000;
const TIMEOUT_MS = 4000;
const CONFIG_EVERY_MS = 30000;
const MARKS = { ok: "✓", warn: "!", bad: "✕", wait: "…" };
const KINDS = ["hits", "misses", "passed", "errors"];
const NAMES = { gateway: "Gateway", upstream: "AOS", quota: "AOS quota", redis: "Redis", iam: "IAM" };
const MOST_NODES = 12;
const RATIO_DETAIL = "of execution calls served from the cache";
const HEIGHT = 140, WIDTH = 600;

const at = (id) => document.getElementById(id);
let configMs = -CONFIG_EVERY_MS;
let updatedMs = null;
let timer = null;
let isUpdating = false;

function put(element, text) {
  // Unchanged text is not set again: a screen reader would repeat a live region.
  if (element.textContent !== text) element.textContent = text;
}

function make(name, text, attributes = {}) {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function number(value) {
  if (value >= 10000) return Math.round(value).toLocaleString("en");
  return String(value >= 100 ? Math.round(value) : Number(value.toFixed(value < 10 ? 2 : 1)));
}

function seconds(value) {
  if (value === null) return "–";
  if (value < 0.001) return `${Math.round(value * 1e6)} µs`;
  return value < 1 ? `${number(value * 1000)} ms` : `${value.toFixed(2)} s`;
}

function count(value, what) {
  return `${number(value)} ${what}${value === 1 ? "" : "s"}`;
}

function bytes(value) {
  return value < 1048576 ? `${number(value / 1024)} KiB` : `${number(value / 1048576)} MiB`;
}

function banner(level, headline, todo, others) {
  at("banner").dataset.level = level;
  put(at("mark"), MARKS[level]);
  put(at("headline"), headline);
  put(at("todo"), todo && `What to do: ${todo}`);
  const list = at("others");
  if (list.dataset.texts !== JSON.stringify(others)) {
    list.dataset.texts = JSON.stringify(others);
    list.replaceChildren(...others.map((text) => make("li", text)));
  }
  document.title = `${level === "ok" ? "" : MARKS[level] + " "}aos-gateway`;
}

function chart(status) {
  const shape = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  // A short last step would look like a fall.
  const steps = status.timeline.filter((step) => step.over_s >= status.step_s * 0.5).slice(-status.steps);
  const rate = (step) => KINDS.reduce((sum, kind) => sum + step[kind], 0) / step.over_s;
  const most = Math.max(1, ...steps.map(rate));
  const width = WIDTH / status.steps;
  const bars = [];
  steps.forEach((step, index) => {
    const x = WIDTH - (steps.length - index) * width;
    let y = HEIGHT;
    for (const kind of KINDS) {
      const height = (step[kind] / step.over_s / most) * (HEIGHT - 6);
      if (height <= 0) continue;
      y -= height;
      bars.push(shape("rect", { class: kind, x: x + 0.5, y, width: width - 1, height }));
    }
  });
  at("chart").replaceChildren(...bars);
  for (const kind of KINDS) put(at(`sum-${kind}`), number(steps.reduce((sum, step) => sum + step[kind], 0)));
  const busy = steps.some((step) => rate(step) > 0);
  put(at("chart-text"), busy ? `Requests per second, in steps of ${status.step_s} s; the highest is ${number(most)}.` : "No requests yet.");
}

// Elements with the same key are kept, so that a text selection stays.
function keep(parent, items, fill) {
  const old = new Map([...parent.children].map((element) => [element.dataset.key, element]));
  let next = parent.firstElementChild;
  for (const item of items) {
    let element = old.get(item.key);
    old.delete(item.key);
    if (element === undefined) element = make(item.name, undefined, { "data-key": item.key });
    fill(element, item);
    if (element === next) next = next.nextElementSibling;
    else parent.insertBefore(element, next);
  }
  for (const element of old.values()) element.remove();
}

function card(name, level, lines) {
  return { key: name, name: "div", level, lines };
}

function cards(id, wanted) {
  keep(at(id), wanted, (box, { key, level, lines }) => {
    box.dataset.level = level || "";
    const texts = [key, ...lines.filter((line) => line)];
    while (box.children.length > texts.length) box.lastElementChild.remove();
    while (box.children.length < texts.length) box.append(make(box.children.length ? "dd" : "dt"));
    texts.forEach((text, index) => put(box.children[index], text));
  });
}

function rows(id, found, nothing) {
  const labels = [...at(id).querySelectorAll("th")].map((cell) => cell.textContent);
  const wanted = found.map(([key, ...cells]) => ({ key, name: "tr", cells }));
  if (!wanted.length) wanted.push({ key: "", name: "tr", cells: [nothing] });
  keep(at(id).tBodies[0], wanted, (row, { cells }) => {
    if (!row.cells.length) {
      row.setAttribute("role", "row");
      const more = found.length ? {} : { colspan: labels.length };
      row.append(...cells.map((_, index) => make("td", undefined, { role: "cell", "data-label": found.length ? labels[index] : "", ...more })));
    }
    cells.forEach((cell, index) => {
      const element = row.cells[index], is = JSON.stringify(cell);
      if (element.dataset.is === is) return;
      element.dataset.is = is;
      element.replaceChildren(...[].concat(cell).map((part) => part.name ? make(part.name, part.text, part.attributes) : part));
    });
  });
}

const code = (text) => ({ name: "code", text });

function phase(text) {
  // A phase that AOS is known to have stays in one piece.
  return text !== null && text.length <= 16 ? { name: "span", text, attributes: { class: "whole" } } : text ?? "–";
}

function progress(item) {
  if (item.progress === null) return "–";
  const name = `progress of ${item.action_id}`;
  return [{ name: "progress", attributes: { max: 100, value: item.progress, "aria-label": name } }, ` ${item.progress} %`];
}

function redisDetail(status) {
  const nodes = status.redis_nodes, more = nodes.length - MOST_NODES;
  return [
    `Subscription ${status.gauges.redis_subscription_up ? "up" : "down"}`,
    ...nodes.slice(0, MOST_NODES).map(([node, up]) => `Primary ${node}: ${up ? "up" : "down, not used"}`),
    more > 0 && `and ${number(more)} more`];
}

function leases(status) {
  const { led = 0, followed = 0, void: unshared = 0, waited = 0 } = status.leases;
  return [`${number(led)} led, ${number(followed)} followed`, `Last minute; ${number(unshared)} void, ${number(waited)} waited`];
}

function waiting(status) {
  const { waiting_callers: now, waiting_callers_limit: most } = status.gauges;
  if (!most) return ["off (wait.max_s = 0)"];
  const { woken = 0, timed_out: timedOut = 0, left = 0 } = status.waits;
  return [`${number(now)} of at most ${number(most)}`, `Last minute: ${number(woken)} woken, ${number(timedOut)} timed out, ${number(left)} left`];
}

function show(status) {
  banner(status.level, status.headline, status.todo, status.others);
  const workers = status.workers === 1 ? "1 process" : `${status.workers} processes`;
  put(at("about"), `${status.version} · ${workers} · scope ${status.scope} · in front of ${status.upstream_url}`);
  const minute = status.minute;
  put(at("per-s"), number(status.now.per_s));
  put(at("per-s-detail"), `${number(minute.requests)} in the last ${Math.round(minute.over_s)}\u00a0s`);
  put(at("ratio"), minute.hit_ratio < 0 ? "–" : `${(minute.hit_ratio * 100).toFixed(1)} %`);
  put(at("ratio-detail"), status.hit_ratio_detail ? `${RATIO_DETAIL}; ${status.hit_ratio_detail}` : RATIO_DETAIL);
  put(at("saved"), number(minute.saved));
  put(at("saved-detail"), `${number(minute.upstream_requests)} were made`);
  put(at("running"), number(status.saved_while_running));
  put(at("running-detail"), status.running_detail);
  put(at("failed"), number(minute.failed));
  at("failed").classList.toggle("some", minute.failed > 0);
  put(at("throttled"), number(minute.throttled));
  put(at("throttled-detail"), `status 429, ${number(minute.throttled_here)} by the gateway; ${count(status.gauges.throttled_callers, "caller")} throttled now`);
  at("throttled").classList.toggle("some", minute.throttled > 0);
  chart(status);
  const gauges = status.gauges;
  const hasRedis = status.parts.redis.state !== "off";
  const details = {
    upstream: `${count(gauges.upstream_connections, "connection")} in use, ${number(gauges.upstream_waiting)} waiting for one`,
    redis: hasRedis && redisDetail(status),
    iam: `${count(gauges.verified_tokens, "known token")}${status.workers > 1 ? ", of all workers together" : ""}`,
  };
  cards("parts", Object.entries(status.parts).map(([name, part]) =>
    card(NAMES[name] || name, part.level, [part.state, part.text, details[name]].flat())));
  rows("latency", status.latency.map((row) =>
    [row.name, row.name, ...row.seconds.map((value) => value <= row.finest_s ? `< ${seconds(row.finest_s)}` : seconds(value))]),
    "Nothing was measured.");
  rows("reasons", status.reasons.map((row) =>
    [row.reason, [code(row.reason), { name: "br" }, row.text], number(row.count)]), "None.");
  rows("executions", status.executions.map((item) => [
    `${item.stack_id} ${item.action_id}`, code(item.stack_id), code(item.action_id), phase(item.phase), progress(item),
    `${number(item.fetches + item.hits)} ×`, `${number(item.fetches)} ×`, `${Math.round(item.age_s)} s ago`]),
    "No execution was requested in the last minutes.");
  at("throttling").hidden = !status.throttled.length;
  rows("callers", status.throttled.map((item) => [
    `caller ${item.caller}`, item.caller ? code(item.caller) : "no credential", `${number(item.upstream + item.here)} ×`,
    `${number(item.upstream)} ×`, `${Math.round(item.age_s)} s ago`]), "None.");
  const processes = Array.isArray(status.health.workers) ? status.health.workers : [];
  processes.sort((one, other) => one.worker - other.worker);
  cards("inside", [
    ...processes.map((one) => card(`Worker ${one.worker}`, one.ready ? "ok" : "warn", [one.ready ? "ready" : "not ready", `process ${one.pid}`])),
    card("Callers", null, [count(gauges.connections, "connection")]),
    card("Waiting callers", null, waiting(status)),
    card("Memory tier", null, [count(gauges.memory_cache_entries, "record"), bytes(gauges.memory_cache_bytes)]),
    card("Fetches in flight", null, [number(gauges.fetches_in_flight)]),
    ...hasRedis ? [card("Pending in Redis", null, [count(gauges.redis_write_queue, "write"), `${count(gauges.redis_pending_invalidations, "stack")} to invalidate`]),
      card("Leases", null, leases(status))] : []]);
}

async function get(path) {
  const abort = new AbortController();
  const timeout = setTimeout(() => abort.abort(), TIMEOUT_MS);
  try {
    // The whole URL: a page opened with credentials in its URL may not fetch a relative one. The Accept keeps the
    // gateway from asking for the password again every second.
    const response = await fetch(location.origin + path, { signal: abort.signal, cache: "no-store", headers: { Accept: "application/json" } });
    if (response.status === 401) throw new Error("The admin token is no longer accepted.", { cause: "Reload this page and enter the current one." });
    if (!response.ok) throw new Error(`The gateway responded with status ${response.status}.`, { cause: "See its log." });
    return await response.json();
  } catch (error) {
    if (!(error instanceof TypeError || error.name === "AbortError")) throw error;
    throw new Error("The gateway does not answer.", { cause: "Check its process and its log. This page goes on when it is back." });
  } finally {
    clearTimeout(timeout);
  }
}

async function update() {
  timer = null;
  isUpdating = true;
  const begunMs = performance.now();
  let hasFailed = false;
  try {
    const status = await get("/status");
    updatedMs = performance.now();
    document.body.classList.remove("stale");
    show(status);
    if (begunMs - configMs >= CONFIG_EVERY_MS) {
      configMs = begunMs;
      put(at("config"), JSON.stringify(await get("/config"), null, 2));
    }
  } catch (error) {
    hasFailed = true;
    document.body.classList.add("stale");
    banner("bad", error.message, error.cause ?? "", []);
  }
  const oldS = updatedMs === null ? 0 : Math.round((performance.now() - updatedMs) / 1000);
  // Outside the live region, which a screen reader would repeat every second.
  put(at("age"), hasFailed ? (updatedMs === null ? "" : `The figures below are ${oldS} s old. Retrying every second.`) : "");
  put(at("freshness"), `Updated at ${new Date().toLocaleTimeString("en-GB")}, every second.`);
  isUpdating = false;
  if (!document.hidden) timer = setTimeout(update, Math.max(0, EVERY_MS - (performance.now() - begunMs)));
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && timer === null && !isUpdating) update();
});
update();
