// Asks /status every second while somebody looks, and writes what it says; text only, never HTML.
"use strict";

const EVERY_MS = 1000;
const PATIENCE_MS = 4000;
const CONFIG_EVERY_MS = 30000;
const MARKS = { ok: "✓", warn: "!", bad: "✕", wait: "…" };
const KINDS = ["hits", "misses", "passed", "errors"];
const NAMES = { gateway: "Gateway", upstream: "AOS", redis: "Redis" };
const HEIGHT = 140, WIDTH = 600;

const at = (id) => document.getElementById(id);
let askedConfigMs = -CONFIG_EVERY_MS;
let answeredMs = null;
let timer = null;
let isAsking = false;

function put(element, text) {
  // Unchanged text is left alone: a live region would be read out again.
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
  return value >= 100 || Number.isInteger(value) ? String(Math.round(value)) : value.toFixed(value < 10 ? 2 : 1);
}

function seconds(value) {
  if (value === null) return "–";
  if (value < 0.001) return `${Math.round(value * 1e6)} µs`;
  return value < 1 ? `${number(value * 1000)} ms` : `${value.toFixed(2)} s`;
}

function bytes(value) {
  return value < 1048576 ? `${number(value / 1024)} KiB` : `${number(value / 1048576)} MiB`;
}

function banner(level, headline, others) {
  at("banner").dataset.level = level;
  put(at("mark"), MARKS[level]);
  put(at("headline"), headline);
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
  const busy = steps.some((step) => rate(step) > 0);
  put(at("chart-text"), busy ? `Requests per second, in steps of ${status.step_s} s; the highest is ${number(most)}.` : "No requests yet.");
}

function card(name, level, lines) {
  const box = make("div", undefined, level ? { "data-level": level } : {});
  box.append(make("dt", name), ...lines.map((line) => make("dd", line)));
  return box;
}

function rows(id, found, cells, nothing) {
  const labels = [...at(id).querySelectorAll("th")].map((cell) => cell.textContent);
  const made = found.map((item) => {
    const row = make("tr");
    cells(item).forEach((cell, index) => {
      const element = make("td", undefined, { "data-label": labels[index] });
      element.append(...[].concat(cell));
      row.append(element);
    });
    return row;
  });
  if (!made.length) {
    const row = make("tr");
    row.append(make("td", nothing, { colspan: labels.length, "data-label": "" }));
    made.push(row);
  }
  at(id).tBodies[0].replaceChildren(...made);
}

function progress(item) {
  if (item.progress === null) return "–";
  const name = `progress of ${item.action_id}`;
  return [make("progress", undefined, { max: 100, value: item.progress, "aria-label": name }), ` ${item.progress} %`];
}

function show(status) {
  banner(status.level, status.headline, status.others);
  const workers = status.workers === 1 ? "1 process" : `${status.workers} processes`;
  put(at("about"), `${status.version} · ${workers} · in front of ${status.upstream_url}`);
  const minute = status.minute;
  put(at("per-s"), number(status.now.per_s));
  put(at("per-s-note"), `${number(minute.requests)} in the last ${Math.round(minute.over_s)} s`);
  put(at("ratio"), minute.hit_ratio < 0 ? "–" : `${(minute.hit_ratio * 100).toFixed(1)} %`);
  put(at("saved"), number(minute.saved));
  put(at("saved-note"), `${number(minute.upstream_calls)} were made`);
  put(at("failed"), number(minute.failed));
  at("failed").classList.toggle("some", minute.failed > 0);
  chart(status);
  at("parts").replaceChildren(
    ...Object.entries(status.parts).map(([name, part]) => card(NAMES[name] || name, part.level, [part.state, part.text])));
  rows("latency", status.latency, (row) => [row.name, ...row.seconds.map(seconds)], "Nothing was measured.");
  rows("reasons", status.reasons, (row) => [[make("code", row.reason), make("br"), row.text], number(row.count)], "None.");
  rows("executions", status.executions, (item) => [
    make("code", item.stack_id), make("code", item.action_id), item.phase ?? "–", progress(item),
    `${item.fetches} ×`, `${Math.round(item.age_s)} s ago`], "No execution was fetched in the last minutes.");
  const gauges = status.gauges;
  // Redis itself is judged among the parts: before its first operation nobody knows how it is.
  const health = Object.entries(status.health).filter(([name, value]) => name !== "redis" && typeof value !== "object");
  const processes = Array.isArray(status.health.workers) ? status.health.workers : [];
  at("inside").replaceChildren(
    ...processes.map((one) => card(`Worker ${one.worker}`, one.ready ? "ok" : "warn", [one.ready ? "ready" : "not ready", `process ${one.pid}`])),
    card("Connections", null, [`${number(gauges.connections)} from callers`, `${number(gauges.upstream_connections)} to AOS in use, ${number(gauges.upstream_waiting)} waiting`]),
    card("Memory tier", null, [`${number(gauges.memory_entries)} records`, bytes(gauges.memory_bytes)]),
    card("Under way", null, [`${number(gauges.flights)} fetches`, `${number(gauges.redis_queue)} stores to Redis, ${number(gauges.redis_debts)} forgets owed`]),
    card("Health", null, [`scope ${status.scope}`, ...health.map(([name, value]) => `${name} ${value}`)]));
}

async function get(path) {
  const gone = new AbortController();
  const patience = setTimeout(() => gone.abort(), PATIENCE_MS);
  try {
    const answer = await fetch(path, { signal: gone.signal, cache: "no-store" });
    if (answer.status === 401) throw new Error("The admin token is no longer accepted: load this page again.");
    if (!answer.ok) throw new Error(`The gateway answered ${answer.status}.`);
    return await answer.json();
  } catch (error) {
    throw error instanceof TypeError || error.name === "AbortError" ? new Error("The gateway does not answer.") : error;
  } finally {
    clearTimeout(patience);
  }
}

async function turn() {
  timer = null;
  isAsking = true;
  const begunMs = performance.now();
  try {
    const status = await get("/status");
    answeredMs = performance.now();
    document.body.classList.remove("stale");
    show(status);
    if (begunMs - askedConfigMs >= CONFIG_EVERY_MS) {
      askedConfigMs = begunMs;
      put(at("config"), JSON.stringify(await get("/config"), null, 2));
    }
  } catch (error) {
    const since = answeredMs === null ? "" : ` These figures are ${Math.round((performance.now() - answeredMs) / 1000)} s old.`;
    document.body.classList.add("stale");
    banner("bad", error.message + since, []);
  }
  put(at("freshness"), `Asked at ${new Date().toLocaleTimeString("en-GB")}, every second.`);
  isAsking = false;
  if (!document.hidden) timer = setTimeout(turn, Math.max(0, EVERY_MS - (performance.now() - begunMs)));
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && timer === null && !isAsking) turn();
});
turn();
