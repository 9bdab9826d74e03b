// Probabilities over time, on a canvas: answers as stacked parts, utterances below them, then speech and no speech, then the clock.

const LANES = { answers: [0, 132], utterances: [140, 162], speech: [168, 178], axis: [180, 200] };
export const HEIGHT = 200;
const STEPS = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400];

export function clock(seconds) {
  const whole = Math.floor(Math.max(0, seconds));
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h ? `${h}:${String(m).padStart(2, "0")}:${String(s).padStart(2, "0")}` : `${m}:${String(s).padStart(2, "0")}`;
}

// Where each answer is drawn: from the one before, or where speech began, to its end. What no answer covers is the utterance's.
export function cellsOf(events) {
  const cells = [];
  let until = 0;
  for (const event of events) {
    if (event.event === "recording") continue;
    if (event.event === "speech") until = Math.max(until, event.start);
    else if (event.end > until + 1e-6) {
      cells.push({ from: Math.max(until, event.start), to: event.end, event });
      until = event.end;
    }
  }
  return cells;
}

// Seconds that are to be seen, from and to. span: how many; 0 stands for all.
export function rangeOf(session, span) {
  const end = Math.max(session.seconds, session.size, 0.001);
  return span && (end > span || session.kind === "live") ? [Math.max(0, end - span), Math.max(end, span)] : [0, end];
}

export function draw(canvas, session, { range: [from, to], colours, inks, head }) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
  if (canvas.height !== Math.round(HEIGHT * ratio)) canvas.height = Math.round(HEIGHT * ratio);
  const g = canvas.getContext("2d");
  g.setTransform(ratio, 0, 0, ratio, 0, 0);
  g.clearRect(0, 0, width, HEIGHT);
  const x = (t) => ((t - from) / (to - from)) * width;
  for (const [top, bottom] of [LANES.answers, LANES.utterances, LANES.speech]) box(g, inks.room, 0, top, width, bottom - top);
  const seen = (start, end) => end > from && start < to;
  const shown = session ? session.events : [];
  for (const cell of cellsOf(shown)) if (seen(cell.from, cell.to)) stack(g, x(cell.from), x(cell.to), cell.event, colours, inks);
  for (const event of shown) if (event.event === "utterance" && seen(event.start, event.end)) utterance(g, x, event, colours, inks);
  const [top, bottom] = LANES.speech;
  for (const [start, end] of session ? session.runs : []) {
    if (seen(start, end)) box(g, inks.accent, x(start), top, Math.max(1, x(end) - x(start)), bottom - top);
  }
  axis(g, from, to, x, width, inks);
  if (head !== null && head >= from && head <= to) box(g, inks.head, x(head) - 1, 0, 2, LANES.speech[1]);
}

function box(g, colour, left, top, width, height) {
  g.fillStyle = colour;
  g.fillRect(left, top, width, height);
}

function stack(g, left, right, event, colours, inks) {
  const [top, bottom] = LANES.answers;
  if (event.emotion === null) box(g, inks.line, left, top, right - left, bottom - top);
  let y = bottom;
  for (const [label, p] of Object.entries(event.probabilities)) {
    const height = p * (bottom - top);
    y -= height;
    box(g, colours[label], left, y, Math.max(1, right - left - (right - left > 6 ? 1 : 0)), height);
  }
}

function utterance(g, x, { start, end, emotion }, colours, inks) {
  const [top, bottom] = LANES.utterances;
  const [left, right] = [x(start), x(end)];
  const width = Math.max(1, right - left - 1);
  box(g, emotion ? colours[emotion] : inks.line, left, bottom - 4, width, 4);
  if (!emotion) return;
  g.fillStyle = inks.ink;
  g.font = "12px system-ui, sans-serif";
  g.textAlign = "left";
  if (g.measureText(emotion).width + 8 < width) g.fillText(emotion, Math.max(left, 0) + 4, top + 13);
}

function axis(g, from, to, x, width, inks) {
  const step = STEPS.find((one) => (to - from) / one <= Math.max(2, width / 80)) ?? 28800;
  g.font = "12px system-ui, sans-serif";
  g.fillStyle = inks.soft;
  for (let t = Math.ceil(from / step) * step; t <= to; t += step) {
    const left = x(t);
    g.fillRect(left, LANES.axis[0], 1, 4);
    const text = step < 1 ? `${t.toFixed(1)} s` : clock(t);
    g.textAlign = left < 16 ? "left" : left > width - 20 ? "right" : "center";
    g.fillText(text, Math.min(Math.max(left, 0), width), LANES.axis[1] - 3);
  }
}
