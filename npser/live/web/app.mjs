// The page: buttons, files, and what is shown. The engine is a worker for the microphone and another one for files.
import { HEIGHT, cellsOf, clock, draw, rangeOf } from "./chart.mjs";
import { decode } from "./decode.mjs";
import { drawLook } from "./look.mjs";
import { Microphone, PROCESSING, unable } from "./microphone.mjs";
import { coloursOf } from "./palette.mjs";
import { Session, csvOf, jsonOf, trimmed } from "./sessions.mjs";
import { byId, element, percent, save, showAbout, showAnswer, showColumns, showLegend, showRows } from "./view.mjs";

const about = JSON.parse(byId("about").textContent);
const colours = coloursOf(about.emotions);
const dark = matchMedia("(prefers-color-scheme: dark)");
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const QUIET = 0.0003; // peak, -70 dB: nothing comes from the microphone
const NOTHING_AFTER = 5000; // milliseconds of it
const SAY_EVERY = 5000; // milliseconds from one word to a screen reader to the next

let sessions = [];
let shown = null; // the session that is seen
let listening = null; // the one of the microphone
let state = "idle"; // idle, asking, listening, paused, stopping
let next = 1;
let [dirty, drawn, tabled, behind] = [true, 0, -1000, 0];
let [soundSince, clippedUntil, metered] = [0, 0, 0];
let [spoke, word, later] = [-SAY_EVERY, "", 0];
let [hiddenSince, wakeLock] = [0, null];
let aside = { text: "", until: 0 }; // beside the state
const files = new Map(); // by the id of their session

// The engine

const workers = {};
function engine(name) {
  if (workers[name]) return workers[name];
  const source = byId("engine-text").textContent;
  const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  worker.onmessage = ({ data }) => HEARS[data.tell](data, find(data.id));
  worker.onerror = (event) => problem(`The engine stopped (${event.message}). Load the page again.`);
  worker.postMessage({ do: "model", about, source, weights: byId("weights-text").textContent.trim() });
  workers[name] = worker;
  return worker;
}

const find = (id) => sessions.find((session) => session.id === id);

const HEARS = {
  heard(data, session) {
    if (!session) return;
    session.hear(data);
    if (session === listening) level(data);
    else if (!session.sound) HEARS.sound({ wav: files.get(session.id), from: 0 }, session);
    if (session === shown) changed();
    say(session);
  },
  sound({ wav, from }, session) {
    if (!session) return;
    session.sound = wav;
    session.soundFrom = from;
    if (session === shown) showPlayer();
  },
  async decode({ id }, session) {
    try {
      const { channels, rate } = await decode(files.get(id));
      const buffers = channels.map(({ buffer }) => buffer);
      engine("files").postMessage({ do: "samples", id, channels, rate, adapt: byId("adapt").checked }, buffers);
    } catch (error) {
      HEARS.failed({ message: error.message }, session);
    }
  },
  ended({ id, cancelled }, session) {
    if (session === listening) return stopped();
    files.delete(id);
    if (session) session.state = cancelled ? "cancelled" : "done";
    changed();
    nextFile();
  },
  failed({ message }, session) {
    if (!session || session === listening) problem(`The engine failed: ${message}`);
    if (!session) return;
    if (session === listening) return stop();
    session.state = "failed";
    session.problem = `${session.name} cannot be used: ${message}`;
    if (session === shown) problem(session.problem);
    files.delete(session.id);
    changed();
    nextFile();
  },
};

// The microphone

const microphone = new Microphone(byId("worklet-text").textContent, {
  waiting: () => status("The browser has not answered yet. Look for its question beside the address, or above this page."),
  gone() {
    problem("The microphone was unplugged, or another program took it. Connect it, then start again.");
    stop();
  },
  muted: (muted) => note(muted ? "The system has muted the microphone." : "", Infinity),
});

const wanted = () => ({
  device: byId("device").value,
  processing: Object.fromEntries(Object.keys(PROCESSING).map((name) => [name, byId(name).checked])),
});

async function start() {
  const why = unable();
  problem(why);
  if (why) return;
  become("asking", "Allow the microphone, if the browser asks.");
  let found = null;
  try {
    found = await microphone.start(wanted());
  } catch (error) {
    become("idle", "Not listening.");
    return problem(error.message);
  }
  if (!found) return; // stopped meanwhile
  listening = add(new Session(next++, "live", "microphone", 0));
  listening.state = "listening";
  listening.settings = found.settings;
  const { rate, port } = found;
  const [every, adapt, keep] = [Number(byId("every").value), byId("adapt").checked, byId("keep").checked];
  engine("live").postMessage({ do: "listen", id: listening.id, rate, every, adapt, keep, port }, [port]);
  soundSince = performance.now();
  note("", 0);
  show(listening);
  truth();
  devices();
  awake();
  become("listening", "Listening.");
}

function stop() {
  if (state === "asking") {
    microphone.close();
    return become("idle", "Not listening.");
  }
  if (!listening || state === "stopping") return;
  become("stopping", "Stopping.");
  microphone.stop();
  const session = listening;
  setTimeout(() => session === listening && engine("live").postMessage({ do: "end" }), 1000); // the audio thread may be gone
  setTimeout(() => session === listening && stopped(), 4000); // so may the engine
}

function stopped() {
  listening.state = "done";
  listening = null;
  microphone.close();
  wakeLock?.release().catch(() => {});
  wakeLock = null;
  meter(0, 0);
  byId("silent").hidden = true;
  become("idle", "Stopped.");
}

function pause() {
  const paused = state === "listening";
  microphone.pause(paused);
  engine("live").postMessage({ do: paused ? "sound" : "resumed" });
  soundSince = performance.now();
  if (paused) meter(0, 0);
  become(paused ? "paused" : "listening", paused ? "Paused. Time stands still." : "Listening.");
}

function clear() {
  if (shown === listening && listening) listening.clear();
  else if (shown && !files.has(shown.id)) {
    sessions = sessions.filter((session) => session !== shown);
    show(sessions.at(-1) ?? null);
  }
  changed();
}

async function changeMicrophone() {
  remember(byId("device").value);
  if (!listening) return;
  try {
    listening.settings = (await microphone.change(wanted())) ?? listening.settings;
    problem("");
  } catch (error) {
    problem(error.message);
  }
  truth();
}

// What the browser does to the sound, whatever it was asked for.
function truth() {
  const settings = shown?.settings;
  byId("truth").hidden = !settings;
  if (!settings) return;
  const processing = Object.entries(PROCESSING).map(([name, words]) => {
    const told = { true: "on", false: "off" }[settings[name]] ?? "not told";
    return `${words} ${told}${settings[name] === true && !byId(name).checked ? ", although it was asked to be off" : ""}`;
  });
  byId("truth").textContent = `${settings.device || "Microphone"}, ${settings.rate.toLocaleString("en")} Hz: ${processing.join("; ")}.`;
}

async function devices() {
  if (!navigator.mediaDevices?.enumerateDevices) return;
  const found = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind, deviceId }) => kind === "audioinput" && deviceId);
  const select = byId("device");
  const chosen = select.value || remembered();
  const named = found.filter(({ deviceId }) => !["default", "communications"].includes(deviceId));
  const options = named.map(({ deviceId, label }, n) => element("option", label || `microphone ${n + 1}`, { value: deviceId }));
  select.replaceChildren(element("option", "the browser's choice", { value: "" }), ...options);
  select.value = named.some(({ deviceId }) => deviceId === chosen) ? chosen : "";
}

function remembered() {
  try {
    return localStorage.getItem("npser.microphone") ?? "";
  } catch {
    return ""; // the browser keeps nothing for this page
  }
}

function remember(device) {
  try {
    localStorage.setItem("npser.microphone", device);
  } catch {
    // the browser keeps nothing for this page
  }
}

async function awake() {
  try {
    wakeLock = await navigator.wakeLock?.request("screen");
  } catch {
    wakeLock = null; // not here, or not now: it is a comfort
  }
}

// Files

function take(list) {
  const found = [...list];
  if (found.length === 0) return;
  problem("");
  for (const file of found) {
    const session = add(new Session(next++, "file", file.name, 0));
    files.set(session.id, file);
  }
  if (!listening) show(find([...files.keys()].at(-found.length)));
  nextFile();
}

function nextFile() {
  if (sessions.some((session) => session.state === "read")) return;
  const session = sessions.find(({ state, id }) => state === "waits" && files.has(id));
  if (!session) return;
  session.state = "read";
  session.begun = performance.now();
  engine("files").postMessage({ do: "file", id: session.id, file: files.get(session.id), adapt: byId("adapt").checked });
  if (!listening) show(session);
}

function cancel() {
  if (!shown || !files.has(shown.id)) return;
  if (shown.state === "waits") {
    files.delete(shown.id);
    shown.state = "cancelled";
  } else engine("files").postMessage({ do: "cancel", id: shown.id });
  changed();
}

// What is seen

function add(session) {
  sessions = trimmed([...sessions, session]);
  return session;
}

function show(session) {
  shown = session;
  byId("session-label").hidden = sessions.length < 2;
  byId("session").replaceChildren(
    ...sessions.map(({ id, name, started }) => element("option", `${name}, ${started.toLocaleTimeString("en-GB")}`, { value: id })),
  );
  if (!session) return changed();
  byId("session").value = session.id;
  byId("range").value = session.kind === "live" ? "60" : "0";
  problem(session.problem);
  showPlayer();
  truth();
  changed();
}

function changed() {
  dirty = true;
}

function become(next, text) {
  state = next;
  const active = ["asking", "listening", "paused"].includes(state);
  byId("start").textContent = active ? "Stop" : "Start listening";
  byId("start").disabled = state === "stopping";
  byId("pause").disabled = !["listening", "paused"].includes(state);
  byId("pause").textContent = state === "paused" ? "Go on" : "Pause";
  for (const id of ["adapt", "keep", "every"]) byId(id).disabled = active;
  status(text);
  changed();
}

function status(text) {
  byId("state").textContent = text;
}

function note(text, seconds) {
  aside = { text: ` ${text}`, until: performance.now() + 1000 * seconds };
}

function problem(text) {
  byId("problem").hidden = !text;
  byId("problem").textContent = text;
}

function level({ peak, rms, late }) {
  if (state !== "listening") return;
  const now = performance.now();
  if (peak > QUIET) soundSince = now;
  byId("silent").hidden = now - soundSince < NOTHING_AFTER;
  meter(rms, peak);
  const { lost } = listening;
  const slow = late > 2 ? ` This machine is ${late.toFixed(0)} s behind.` : "";
  const gone = lost > 0.5 ? ` ${lost.toFixed(1)} s of sound were lost: the browser or the machine was held up.` : "";
  status(`Listening, ${clock(listening.seconds)}.${slow}${gone}${now < aside.until ? aside.text : ""}`);
}

function meter(rms, peak) {
  const now = performance.now();
  const decibels = Math.max(-60, 20 * Math.log10(Math.max(rms, 1e-6)));
  byId("meter-bar").style.width = `${((decibels + 60) / 60) * 100}%`;
  if (peak >= 0.999) clippedUntil = now + 2000;
  byId("clip").classList.toggle("on", now < clippedUntil);
  byId("voice").classList.toggle("on", Boolean(listening?.speaking));
  if (now - metered < 1000 && rms > 0) return;
  metered = now;
  byId("meter").setAttribute("aria-valuenow", decibels.toFixed(0));
  byId("meter").setAttribute("aria-valuetext", decibels <= -60 ? "silence" : `${decibels.toFixed(0)} decibels`);
}

// A word for a screen reader, when the answer is another one, and seldom.
function say(session) {
  const answer = session?.answer;
  if (!answer || session !== shown) return;
  if (session.kind === "file" && answer.event !== "recording") return;
  const wait = spoke + SAY_EVERY - performance.now();
  if (wait > 0) {
    later ||= setTimeout(() => say(shown), wait);
    return;
  }
  clearTimeout(later);
  later = 0;
  const text = answer.emotion ? `${answer.emotion}, ${percent(answer.probabilities[answer.emotion])}` : answer.reason;
  if (text.split(",")[0] === word) return;
  [word, spoke] = [text.split(",")[0], performance.now()];
  byId("said").textContent = text;
}

function showPlayer() {
  const player = byId("player");
  if (player.src) URL.revokeObjectURL(player.src);
  player.hidden = !shown?.sound;
  if (shown?.sound) player.src = URL.createObjectURL(shown.sound);
  else player.removeAttribute("src");
}

// Seconds of the session where the player is, or null.
function head() {
  const player = byId("player");
  const playing = !player.hidden && (player.currentTime > 0 || !player.paused);
  return playing && shown ? player.currentTime + shown.soundFrom : null;
}

function range() {
  const span = Number(byId("range").value);
  const at = head();
  const [from, to] = rangeOf(shown, span);
  if (!span || at === null || to - from > span + 1e-6) return [from, to];
  const start = Math.max(0, Math.min(at - span / 2, Math.max(shown.seconds, span) - span));
  return [start, start + span];
}

function frame(now) {
  requestAnimationFrame(frame);
  if (!dirty || now - drawn < (calm.matches ? 1000 : 60)) return;
  [dirty, drawn] = [false, now];
  const style = getComputedStyle(document.documentElement);
  const inks = Object.fromEntries(
    ["ink", "soft", "line", "paper", "room", "accent", "head"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]),
  );
  const empty = { events: [], runs: [], seconds: 60, size: 0, kind: "file" };
  draw(byId("chart"), shown ?? empty, { range: shown ? range() : [0, 60], colours, inks, head: head() });
  showAnswer(shown, about, colours);
  showProgress();
  const look = shown?.look;
  byId("look").hidden = !look;
  if (look && look !== frame.look) showLook(look);
  frame.look = look;
  const some = shown !== null && shown.events.some(({ event }) => event !== "speech");
  for (const id of ["csv", "json"]) byId(id).disabled = !some;
  byId("wav").disabled = shown?.kind !== "live" || !shown.sound;
  byId("clear").disabled = !shown || (shown !== listening && files.has(shown.id));
  if (now - tabled < 1000) {
    behind ||= setTimeout(changed, 1000); // the table is
    return;
  }
  [tabled, behind] = [now, 0];
  showRows(shown, about);
}

function showProgress() {
  const going = Boolean(shown && files.has(shown.id));
  byId("progress").hidden = !going;
  if (!going) return;
  byId("progress-bar").value = shown.part;
  byId("progress-text").textContent =
    shown.state === "waits" ? "waits for the one before" : `${clock(shown.seconds)} heard, ${Math.round(100 * shown.part)}%`;
}

function showLook(look) {
  const top = drawLook(byId("spectrum"), byId("weights"), look, dark.matches);
  const weight = top ? ` The strongest attention is ${top.toFixed(1)} times the average.` : "";
  byId("look-text").textContent = `${look.seconds.toFixed(1)} s of speech.${weight}`;
}

function pointed(event) {
  if (!shown) return null;
  const box = byId("chart").getBoundingClientRect();
  const [from, to] = range();
  return from + ((event.clientX - box.left) / box.width) * (to - from);
}

function tellMoment(event) {
  const t = pointed(event);
  const cell = t === null ? null : cellsOf(shown.events).findLast(({ from, to }) => from <= t && t < to);
  const p = Object.entries(cell?.event.probabilities ?? {}).sort((a, b) => b[1] - a[1]);
  const words = p.map(([label, value]) => `${label} ${percent(value)}`).join(", ") || cell?.event.reason || "no answer";
  byId("moment").textContent = t === null ? "\u00a0" : `${clock(t)}  ${words}`;
}

const fileName = (ending) => `${shown.name.replace(/\.[^.]*$/, "")}-${shown.started.toISOString().slice(0, 19).replaceAll(":", "")}.${ending}`;

// Buttons and keys

function begin() {
  showAbout(about);
  showColumns(about);
  showLegend(about, colours);
  problem(unable());
  byId("chart").style.height = `${HEIGHT}px`;
  const actions = {
    start: () => (state === "idle" ? start() : stop()),
    ...{ pause, clear, cancel },
    csv: () => save(csvOf(shown, about), fileName("csv"), "text/csv"),
    json: () => save(jsonOf(shown, about), fileName("json"), "application/json"),
    wav: () => save(shown.sound, fileName("wav"), "audio/wav"),
  };
  for (const [id, action] of Object.entries(actions)) byId(id).addEventListener("click", action);
  for (const id of ["device", ...Object.keys(PROCESSING)]) byId(id).addEventListener("change", changeMicrophone);
  byId("range").addEventListener("change", changed);
  byId("session").addEventListener("change", ({ target }) => show(find(Number(target.value))));
  byId("files").addEventListener("change", ({ target }) => {
    take(target.files);
    target.value = ""; // so that the same file can be chosen again
  });
  byId("chart").addEventListener("pointermove", tellMoment);
  byId("chart").addEventListener("click", (event) => {
    if (shown?.sound && !byId("player").hidden) byId("player").currentTime = Math.max(0, pointed(event) - shown.soundFrom);
  });
  for (const event of ["timeupdate", "seeked", "pause"]) byId("player").addEventListener(event, changed);
  byId("player").addEventListener("error", () => (byId("player").hidden = true)); // a file that the browser does not play
  dark.addEventListener("change", () => {
    frame.look = null;
    changed();
  });
  window.addEventListener("resize", changed);
  navigator.mediaDevices?.addEventListener?.("devicechange", devices);
  devices();
  listenToPage();
  requestAnimationFrame(frame);
}

function listenToPage() {
  document.addEventListener("keydown", (event) => {
    const elsewhere = event.target.closest?.("button, input, select, summary, audio, a, [tabindex]");
    if (event.code !== "Space" || event.repeat || elsewhere || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    if (!byId("start").disabled) byId("start").click();
  });
  document.addEventListener("paste", ({ clipboardData }) => take(clipboardData?.files ?? []));
  let inside = 0;
  const dropping = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  document.addEventListener("dragenter", (event) => dropping(event) && (byId("drop").hidden = ++inside <= 0));
  document.addEventListener("dragleave", (event) => dropping(event) && (byId("drop").hidden = --inside <= 0));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    inside = 0;
    byId("drop").hidden = true;
    take(event.dataTransfer.files);
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) hiddenSince = performance.now();
    else if (listening) {
      const away = (performance.now() - hiddenSince) / 1000;
      note(`This tab was hidden for ${away.toFixed(0)} s; listening went on.`, 10);
      awake(); // the lock ends when a tab is hidden
    }
    changed();
  });
}

begin();
