// The form, the runs, and the state of the workers.

import { ApiError, get, stream } from "/api.js";
import { Lane, tokensPerSecond } from "/lane.js";

const STATUS_MS = 5000; // between two requests for the state of the workers
const $ = (id) => document.getElementById(id);
const form = $("ask");
const lanes = [new Lane(), new Lane()];
let run = null; // the current run: how to abort it, and a promise of its end

const labelOf = (method) => [...$("method").options].find((option) => option.value === method).textContent;
const chosen = () => ($("compare").checked ? [$("method").value, $("other").value] : [$("method").value]);
const used = (field, methods) => {
  const by = field.closest("[data-methods]")?.dataset.methods.split(" ");
  return !by || methods.some((method) => by.includes(method));
};

// The value of a field. If it is undefined, the server chooses.
function valueOf(field) {
  const text = field.value;
  if (field.dataset.text !== undefined) return text === "" ? undefined : text;
  if (field.dataset.list !== undefined) return text.split(",").map((part) => (part.trim() === "" ? part : Number(part)));
  return text === "" ? undefined : Number(text);
}

// The body of the request. The name of each input is the path of its value in the body.
function bodyFor(model, method, seed) {
  const body = { model, stream: true, decoding: { method, trace: true } };
  const message = $("prompt").value;
  if ($("chat").checked) body.messages = [{ role: "user", content: message }];
  else body.prompt = message;
  for (const field of form.querySelectorAll("input[name]")) {
    if (!used(field, [method])) continue;
    const path = field.name.split(".");
    const within = path.length > 1 ? body[path[0]] : body;
    within[path.at(-1)] = valueOf(field);
  }
  body.seed ??= seed;
  return body;
}

const words = (error) => (error instanceof ApiError ? error.message : `The server cannot be reached (${error.message}).`);

async function fill(lane, body, signal) {
  lane.begin();
  const path = body.messages ? "/v1/chat/completions" : "/v1/completions";
  try {
    for await (const { choices, tandem } of stream(path, $("key").value, body, signal)) {
      if (choices?.length) lane.chunk(choices[0], tandem);
    }
  } catch (error) {
    if (signal.aborted) return lane.stopped();
    lane.failed(words(error));
    if (error.param) form.querySelector(`[name="${CSS.escape(error.param)}"]`)?.setAttribute("aria-invalid", "true");
  }
}

async function start() {
  problem("");
  form.querySelectorAll("[aria-invalid]").forEach((field) => field.removeAttribute("aria-invalid"));
  if ($("prompt").value === "") {
    $("prompt").focus();
    return problem("Write a prompt, or insert the sample.");
  }
  run?.abort.abort();
  const mine = { abort: new AbortController(), before: run?.ended };
  run = mine;
  $("stop").disabled = false;
  mine.ended = runAll(mine);
  await mine.ended;
  if (run !== mine) return;
  run = null;
  if (document.activeElement === $("stop")) $("run").focus();
  $("stop").disabled = true;
  showStatus();
}

async function runAll({ abort: { signal }, before }) {
  // The previous run writes to the same columns until it has ended.
  await before;
  const methods = chosen();
  // Drawn here, because both columns need the same seed.
  const seed = crypto.getRandomValues(new Uint32Array(1))[0];
  layout();
  methods.forEach((method, i) => lanes[i].reset(labelOf(method)));
  if ($("results").getBoundingClientRect().top > innerHeight / 2) $("results").scrollIntoView();
  $("spoken").textContent = "Running.";
  try {
    const model = (await get("/v1/models", $("key").value)).data[0].id;
    const jobs = methods.map((method, i) => () => fill(lanes[i], bodyFor(model, method, seed), signal));
    if ($("order").value === "together") await Promise.all(jobs.map((job) => job()));
    else for (const job of jobs) if (!signal.aborted) await job();
  } catch (error) {
    problem(words(error));
  }
  if (signal.aborted) $("spoken").textContent = "Stopped.";
  else conclude(lanes.slice(0, methods.length));
}

// Announces the results to screen readers, once, and compares two methods.
function conclude(done) {
  const ended = done.filter((lane) => lane.statistics);
  const spoken = ended.map((lane) => `${lane.name}: ${lane.statistics.new_tokens} tokens, ${tokensPerSecond(lane.statistics).toFixed(0)} per second. Text: ${lane.text}`);
  if (done.length === 2 && ended.length === 2) {
    const ratio = tokensPerSecond(done[0].statistics) / tokensPerSecond(done[1].statistics);
    const same = done[0].text === done[1].text ? "and wrote the same text" : "and wrote another text";
    $("verdict").textContent = `${done[0].name} is ${ratio.toFixed(2)}× as fast as ${done[1].name}, ${same}.`;
    $("verdict").hidden = false;
    spoken.push($("verdict").textContent);
  }
  $("spoken").textContent = spoken.join(" ") || "Failed.";
}

function problem(message) {
  $("problem").textContent = message;
  $("problem").hidden = !message;
}

// Shows as many columns as there are methods, and the settings that these methods read.
function layout() {
  const methods = chosen();
  const columns = lanes.slice(0, methods.length);
  if ($("lanes").children.length !== columns.length) $("lanes").replaceChildren(...columns.map((lane) => lane.element));
  $("lanes").dataset.columns = columns.length;
  $("verdict").hidden = true;
  for (const field of form.querySelectorAll("[data-methods]")) field.hidden = !used(field, methods);
  for (const field of form.querySelectorAll("[data-compare]")) field.hidden = methods.length < 2;
  // A column without a text has its method as its title.
  columns.forEach((lane, i) => { if (!lane.text && !run) lane.reset(labelOf(methods[i])); });
}

async function showStatus() {
  try {
    const status = await get("/v1/status", $("key").value);
    $("pair").textContent = `${status.target_model} with ${status.draft_model || "no draft"}, context ${status.context_length}`;
    $("workers").replaceChildren(...status.workers.map((worker) => {
      const item = document.createElement("li");
      item.dataset.state = worker.state;
      const load = worker.kv_cache_tokens ? `, KV ${Math.round((100 * (worker.kv_cache_tokens_used ?? 0)) / worker.kv_cache_tokens)} %` : "";
      item.append(Object.assign(document.createElement("b"), { textContent: worker.role }), ` ${worker.address} ${worker.state}${load}`);
      return item;
    }));
    $("chat-field").hidden = !status.chat;
    if (!status.chat) $("chat").checked = false;
  } catch (error) {
    $("pair").textContent = words(error);
    $("workers").replaceChildren();
  }
}

$("other").append(...[...$("method").options].map((option) => new Option(option.text, option.value)));
$("other").value = "autoregressive";
form.addEventListener("submit", (event) => { event.preventDefault(); start(); });
$("stop").addEventListener("click", () => run?.abort.abort());
$("sample").addEventListener("click", () => {
  $("prompt").value = $("prompt").placeholder;
  $("prompt").focus();
  $("prompt").scrollTop = 0;
});
for (const id of ["method", "other", "compare"]) $(id).addEventListener("change", layout);
$("key").addEventListener("change", showStatus);
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    start();
  } else if (event.key === "Escape") run?.abort.abort();
});
setInterval(() => { if (document.visibilityState === "visible") showStatus(); }, STATUS_MS);
$("settings").open = !matchMedia("(max-width: 52rem)").matches;
lanes.forEach((lane) => lane.reset(""));
layout();
showStatus();
