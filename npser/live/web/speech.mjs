// Speech or not, and what is not answered: npser/speech.py. Its constants come from there, as k.
import { Powers } from "./fft.mjs";
import { Held } from "./held.mjs";

// Blocks at 16 kHz -> those of their samples that are speech.
export class Detector {
  constructor(k) {
    this.k = k;
    this.powers = new Powers(k.FRAME);
    this.rest = new Held(Float32Array); // samples that are not yet told apart, from frame `told` on
    this.levels = []; // of the frames in memory, dB
    this.sustained = []; // which of them have the lines of LAG frames before
    this.lines = []; // of the last LAG of them
    this.loud = Array(k.AFTER).fill(false); // of frames, from AFTER frames before `told` on
    this.told = 0; // frames
  }

  // Samples -> runs of speech {start, x}, as far as they are told.
  feed(x) {
    const { CHUNK, FIRST, FRAME, AFTER, BEFORE } = this.k;
    this.rest.push(x);
    for (;;) {
      const frames = this.loud.length - AFTER; // of rest that are known to be loud or not
      const there = this.rest.length - frames * FRAME;
      const more = this.levels.length || !this.sounds(frames, Math.min(CHUNK, Math.floor(there / FRAME))) ? CHUNK : FIRST;
      if (there < more * FRAME) return this.tell(Math.max(0, frames - BEFORE));
      this.hear(frames, more);
    }
  }

  // The rest, after which all is silence: the last frame is filled up with it.
  end() {
    const { FRAME, AFTER, BEFORE } = this.k;
    this.rest.push(new Float32Array((FRAME - (this.rest.length % FRAME)) % FRAME));
    const known = this.loud.length - AFTER;
    this.hear(known, this.rest.length / FRAME - known);
    const frames = this.loud.length - AFTER;
    this.loud.push(...Array(BEFORE).fill(false));
    const runs = this.tell(frames);
    this.loud.length = AFTER;
    return runs;
  }

  // Whether any of some frames is more than digital silence.
  sounds(first, count) {
    for (let t = first; t < first + count; t++) if (this.level(this.power(t)) > this.k.SILENT_DB) return true;
    return false;
  }

  // The spectrum of a frame of rest.
  power(t) {
    const { FRAME, BINS } = this.k;
    return this.powers.of(this.rest.store, this.rest.from + t * FRAME).slice(...BINS);
  }

  // Its level, dB re full scale.
  level(power) {
    this.norm ??= 2 / this.k.FRAME / this.powers.window.reduce((sum, w) => sum + w * w, 0);
    return 10 * Math.log10(Math.max(total(power) * this.norm, this.k.NOTHING));
  }

  // Whether each of some frames is loud.
  hear(first, count) {
    const { SILENT_DB, MEMORY } = this.k;
    const powers = Array.from({ length: count }, (_, t) => this.power(first + t));
    const levels = powers.map((power) => this.level(power));
    const sustained = this.areSustained(powers.filter((_, t) => levels[t] > SILENT_DB).map((power) => linesOf(this.k, power)));
    this.levels = [...this.levels, ...levels.filter((level) => level > SILENT_DB)].slice(-MEMORY);
    this.sustained = [...this.sustained, ...sustained].slice(-MEMORY);
    const least = Math.max(threshold(this.k, this.levels), SILENT_DB);
    const music = isMusic(this.k, this.levels, this.sustained);
    let n = 0; // of the frames that are not digital silence
    for (const level of levels) {
      const note = level > SILENT_DB ? sustained[n++] : false;
      this.loud.push(level > least && !(music && note));
    }
  }

  // Whether each of some frames is sustained, by its lines; the first of all, by those that follow.
  areSustained(lines) {
    const { LAG, SUSTAINED } = this.k;
    if (!this.lines.length && lines.length) this.lines = Array.from({ length: LAG }, (_, t) => lines[LAG + t] ?? []);
    const both = [...this.lines, ...lines];
    this.lines = both.slice(-LAG);
    return lines.map((line, t) => total(line.map((value, bin) => value * (both[t][bin] ?? 0))) > SUSTAINED);
  }

  // Runs of speech among the first frames of rest, which are taken off it.
  tell(frames) {
    if (frames === 0) return [];
    const { AFTER, BEFORE, FEW, FRAME } = this.k;
    const runs = [];
    let near = 0; // loud frames around one
    for (let t = 0; t < AFTER + BEFORE; t++) near += this.loud[t];
    let begun = -1;
    for (let t = 0; t <= frames; t++) {
      if (t < frames) near += this.loud[t + AFTER + BEFORE];
      const active = t < frames && near >= FEW && this.rest.view(t * FRAME, (t + 1) * FRAME).some((x) => x !== 0);
      if (active && begun < 0) begun = t;
      if (!active && begun >= 0) {
        runs.push({ start: (this.told + begun) * FRAME, x: this.rest.view(begun * FRAME, t * FRAME).slice() });
        begun = -1;
      }
      near -= this.loud[t];
    }
    this.rest.drop(frames * FRAME);
    this.loud.splice(0, frames);
    this.told += frames;
    return runs;
  }
}

// What stands out of a spectrum, such as harmonics, in its logarithm: of mean 0 and length 1.
function linesOf(k, power) {
  const P = power.map((value) => Math.log(Math.max(value, k.NOTHING)));
  const half = Math.floor(k.SMOOTHED / 2);
  const lines = P.map((value, bin) => {
    let around = 0;
    for (let i = bin - half; i <= bin + half; i++) around += P[Math.min(Math.max(i, 0), P.length - 1)];
    return value - around / k.SMOOTHED;
  });
  const mean = total(lines) / lines.length;
  const length = Math.sqrt(total(lines.map((value) => (value - mean) ** 2)));
  return lines.map((value) => (value - mean) / Math.max(length, k.NOTHING));
}

// Whether there is music behind what is loud, by the levels of the frames in memory, and which of them are sustained.
function isMusic(k, levels, sustained) {
  if (levels.length < k.FIRST) return false;
  const middle = Float64Array.from(levels).sort()[(levels.length - 1) >> 1];
  const faint = sustained.filter((_, t) => levels[t] <= middle + k.NEAR);
  return faint.filter(Boolean).length / faint.length > k.MUSIC;
}

function total(values) {
  let sum = 0;
  for (const value of values) sum += value;
  return sum;
}

// The level over which a frame is loud, dB, by the frames in memory.
export function threshold(k, levels) {
  if (levels.length === 0) return 0;
  const sorted = Float64Array.from(levels).sort();
  const floor = sorted[Math.floor((sorted.length * k.FLOOR_PERCENT) / 100)];
  const peak = sorted[sorted.length - Math.min(k.PEAK_FRAMES, sorted.length)];
  return Math.max(peak - k.NEAR_DB, floor + Math.min(Math.max((peak - floor) / 2, k.RISE_DB[0]), k.RISE_DB[1]));
}

// Why a window at 16 kHz is not answered, or null.
export function refusal(k, rate, x) {
  if (x.length === 0) return k.NONE;
  if (x.length < Math.round(k.SHORTEST * rate)) return `shorter than ${k.SHORTEST} s`;
  const power = Array.from({ length: Math.floor(x.length / k.FRAME) }, (_, t) =>
    variance(x.subarray(t * k.FRAME, (t + 1) * k.FRAME)),
  );
  const sounds = (p) => p > k.NOTHING;
  if (power.filter(sounds).length < k.PEAK_FRAMES) return "silence";
  const inside = power.slice(power.findIndex(sounds), power.findLastIndex(sounds) + 1);
  const levels = Float64Array.from(inside, (p) => 10 * Math.log10(Math.max(p, k.NOTHING))).sort();
  const loud = levels[levels.length - k.PEAK_FRAMES];
  const pauses = levels[Math.floor(levels.length / 10)];
  if (loud < k.SILENT_DB) return "silence";
  return loud < k.FAINT_DB && loud - pauses < k.STEADY_DB ? "noise below the level of speech" : null;
}

export function variance(x) {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i];
  const mean = sum / x.length;
  let squares = 0;
  for (let i = 0; i < x.length; i++) squares += (x[i] - mean) ** 2;
  return squares / x.length;
}

// Those of the runs that a window of the speech has, counted from its first sample. A run: [sample of the speech, of the sound].
export function places(runs, start, end) {
  let k = runs.length - 1;
  while (k > 0 && runs[k][0] > start) k--;
  const inside = runs.slice(Math.max(0, k)).filter(([sample]) => sample < end);
  const found = inside.map(([sample, place]) => [sample - start, place]);
  const [sample, place] = found[0] ?? [0, 0];
  return [[0, place - sample], ...found.slice(1)];
}

// Seconds of the sound at which a sample of a window ends.
export function moment(runs, sample, rate) {
  let k = 0;
  while (k + 1 < runs.length && runs[k + 1][0] < sample) k++;
  return (runs[k][1] + sample - runs[k][0]) / rate;
}
