// What was heard: a session is a recording, or a time of listening. It stays in this tab until the tab closes.

const MOST_EVENTS = 50000; // of a session: half a day of answers, one a second
const MOST_RUNS = 20000;
const MOST_SESSIONS = 50;

export class Session {
  constructor(id, kind, name, size) {
    Object.assign(this, { id, kind, name, size, state: "waits", events: [], runs: [], seconds: 0, told: 0, lost: 0, part: 0 });
    Object.assign(this, { forgotten: 0, settings: null, sound: null, soundFrom: 0, look: null, problem: "", started: new Date() });
    this.spent = [];
  }

  // A report of the engine.
  hear({ events, runs, seconds, told, lost, part, look, spent }) {
    this.events.push(...events);
    for (const [start, end] of runs) {
      const last = this.runs.at(-1);
      if (last && start - last[1] < 1e-6) last[1] = end;
      else this.runs.push([start, end]);
    }
    this.seconds = seconds;
    this.told = told;
    this.lost = lost ?? 0;
    this.part = part ?? 0;
    if (part) this.size = seconds / part; // of a file: how long it is
    if (look) this.look = look;
    if (spent && events.some(({ event }) => event === "answer")) this.spent = [...this.spent.slice(-99), spent];
    const over = this.events.length - MOST_EVENTS;
    if (over > 0) {
      this.events.splice(0, over);
      this.forgotten += over;
    }
    if (this.runs.length > MOST_RUNS) this.runs.splice(0, this.runs.length - MOST_RUNS);
  }

  clear() {
    [this.events, this.runs, this.look, this.forgotten] = [[], [], null, 0];
  }

  // The answer that is shown large.
  get answer() {
    return this.events.findLast(({ event }) => event === "recording") ?? this.events.findLast(({ event }) => event !== "speech");
  }

  get speaking() {
    const last = this.events.findLast(({ event }) => event !== "answer");
    return last?.event === "speech";
  }
}

export function trimmed(sessions) {
  return sessions.slice(-MOST_SESSIONS);
}

const rounded = (seconds) => Math.round(seconds * 1000) / 1000;

// An event as `npser live --json` writes it.
export function rowOf({ event, start, end, emotion, probabilities, gender_probabilities, reason }) {
  if (event === "speech") return { event, start: rounded(start) };
  const genders = Object.keys(gender_probabilities).length ? { gender_probabilities } : {};
  return { event, start: rounded(start), end: rounded(end), emotion, probabilities, ...genders, ...(reason ? { reason } : {}) };
}

export function jsonOf(session, about) {
  const { name, kind, started, seconds, lost, forgotten, settings } = session;
  const model = { npser: about.version, sha256: about.sha256, emotions: about.emotions, genders: about.genders };
  const found = { source: name, kind, started: started.toISOString(), seconds: rounded(seconds), lost: rounded(lost), forgotten };
  return JSON.stringify({ model, ...found, microphone: settings, events: session.events.map(rowOf) }, null, 1);
}

// Columns as `npser predict --format csv --timeline` has them, with the kind of event.
export function csvOf(session, about) {
  const labels = [...about.emotions, ...about.genders];
  const quoted = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const lines = [["path", "event", "start", "end", "emotion", "gender", ...labels.map((label) => `p_${label}`), "reason"]];
  for (const one of session.events) {
    if (one.event === "speech") continue;
    const p = { ...one.probabilities, ...one.gender_probabilities };
    const gender = likeliest(one.gender_probabilities) ?? "";
    const values = labels.map((label) => p[label]?.toFixed(6) ?? "");
    const span = [one.start.toFixed(3), one.end.toFixed(3)];
    lines.push([session.name, one.event, ...span, one.emotion ?? "", gender, ...values, one.reason ?? ""]);
  }
  return lines.map((line) => `${line.map(quoted).join(",")}\n`).join("");
}

export function likeliest(probabilities) {
  return Object.entries(probabilities).reduce((best, one) => (!best || one[1] > best[1] ? one : best), null)?.[0] ?? null;
}
