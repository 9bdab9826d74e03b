// The engine's end of the page: a worker that listens to a microphone's port, or goes through files.
import { Model, Recording, Stream } from "./stream.mjs";
import { blocksOf, openWav, wavOf } from "./wav.mjs";

const KEPT_SECONDS = 1800; // of sound, where it is kept
const LATE = 30; // seconds behind the microphone from which on sound is dropped
const GAP = 1; // seconds without a block that count as lost sound
const RANGE_DB = 80; // from the faintest to the loudest shade of the spectrogram, as npser explain has it
const LOOKS = 300; // milliseconds from one spectrogram to the next
const TOLD = 100; // milliseconds from one report on a file to the next
const LONG = 60; // seconds of a recording from which on other workers help
const HELPERS = 3; // of them at most
const AHEAD = 2; // dues that wait for each helper

let model = null;
let live = null;
const cancelled = new Set();

const DOES = {
  model(order) {
    const { about, weights } = order;
    Helper.model = order;
    const text = atob(weights);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    model = new Model(about, bytes.buffer);
  },
  listen(order) {
    live = new Listener(order);
  },
  finish({ number, due }) {
    self.postMessage({ number, event: model.finished(due) });
  },
  // The microphone is gone, or its thread does not answer.
  end() {
    live?.end();
  },
  resumed() {
    if (live) live.last = null;
  },
  sound() {
    live?.sound();
  },
  cancel({ id }) {
    cancelled.add(id);
  },
  async file({ id, file, adapt }) {
    const k = model.constants.features;
    if (file.size === 0) throw new Error("it is empty.");
    const wav = await openWav(file, k);
    if (wav === null) self.postMessage({ tell: "decode", id });
    else await through(id, blocksOf(file, wav, k), wav.rate, adapt, (wav.to - wav.from) / wav.width / wav.channels);
  },
  async samples({ id, channels, rate, adapt }) {
    await through(id, mixed(channels), rate, adapt, channels[0].length);
  },
};

self.onmessage = async ({ data }) => {
  try {
    await DOES[data.do](data);
  } catch (error) {
    self.postMessage({ tell: "failed", id: data.id, number: data.number, message: error.message });
  }
};

// Another worker with the same model, for long recordings on machines with several cores.
class Helper {
  static model = null;
  static all = [];

  constructor() {
    this.waiting = new Map();
    this.given = 0;
    this.worker = new Worker(URL.createObjectURL(new Blob([Helper.model.source], { type: "text/javascript" })));
    this.worker.postMessage(Helper.model);
    this.worker.onmessage = ({ data: { number, event, message } }) => {
      const { resolve, reject } = this.waiting.get(number);
      this.waiting.delete(number);
      if (event) resolve(event);
      else reject(new Error(message));
    };
    this.worker.onerror = () => {
      Helper.all = Helper.all.filter((helper) => helper !== this); // it cannot be had here: do it oneself
      for (const { due, resolve } of this.waiting.values()) resolve(model.finished(due));
    };
  }

  finish(due) {
    const number = this.given++;
    this.worker.postMessage({ do: "finish", number, due });
    return new Promise((resolve, reject) => this.waiting.set(number, { due, resolve, reject }));
  }

  static start() {
    const more = Math.min(HELPERS, (navigator.hardwareConcurrency || 1) - 1);
    while (Helper.all.length < more) Helper.all.push(new Helper());
  }

  static stop() {
    for (const helper of Helper.all.splice(0)) helper.worker.terminate();
  }

  // By a helper that has time for it, else here.
  static async finished(due) {
    const free = due.parts.length && Helper.all.find(({ waiting }) => waiting.size < AHEAD);
    return free ? free.finish(due) : model.finished(due);
  }
}

// A microphone that is listened to.
class Listener {
  constructor({ id, rate, every, adapt, keep, port }) {
    Object.assign(this, { id, rate, port, last: null, lost: 0, seconds: 0, runs: [], looked: 0 });
    this.kept = { parts: [], samples: 0, gone: 0 };
    this.stream = new Stream(model, rate, every, adapt);
    this.stream.onSpeech = (start, end) => this.runs.push([start / model.rate, end / model.rate]);
    if (keep) this.stream.onSound = (x) => this.keep(x);
    port.onmessage = ({ data }) => (data.end ? this.end() : this.hear(data));
  }

  hear({ x, time }) {
    const late = (Date.now() - time) / 1000;
    const wait = this.last === null ? 0 : (time - this.last) / 1000 - x.length / this.rate;
    this.last = time;
    if (wait > GAP) this.lost += wait;
    if (late > LATE) {
      this.lost += x.length / this.rate;
      return;
    }
    this.seconds += x.length / this.rate;
    let [peak, squares] = [0, 0];
    for (let i = 0; i < x.length; i++) {
      peak = Math.max(peak, Math.abs(x[i]));
      squares += x[i] * x[i];
    }
    const start = performance.now();
    const events = this.stream.feed(x);
    this.tell({ events, peak, rms: Math.sqrt(squares / Math.max(1, x.length)), late, spent: performance.now() - start });
  }

  tell(more) {
    const { id, runs, seconds, lost } = this;
    const look = performance.now() - this.looked > LOOKS ? lookOf(more.events) : null;
    if (look) this.looked = performance.now();
    self.postMessage({ tell: "heard", id, runs, seconds, lost, told: this.stream.told, ...more, events: plain(more.events), look });
    this.runs = [];
  }

  end() {
    if (live !== this) return;
    live = null;
    this.port.close();
    this.tell({ events: this.stream.end(), peak: 0, rms: 0, late: 0, spent: 0 });
    this.sound();
    self.postMessage({ tell: "ended", id: this.id });
  }

  keep(x) {
    const kept = this.kept;
    kept.parts.push(Int16Array.from(x, (value) => Math.max(-32768, Math.min(32767, Math.round(value * 32768)))));
    kept.samples += x.length;
    while (kept.samples > KEPT_SECONDS * model.rate) {
      const { length } = kept.parts.shift();
      kept.samples -= length;
      kept.gone += length;
    }
  }

  sound() {
    const { parts, samples, gone } = this.kept;
    if (samples) self.postMessage({ tell: "sound", id: this.id, wav: wavOf(parts, model.rate), from: gone / model.rate });
  }
}

// Go through a recording, block by block.
async function through(id, blocks, rate, adapt, samples) {
  const recording = new Recording(model, rate, adapt);
  let runs = [];
  recording.onSpeech = (start, end) => runs.push([start / model.rate, end / model.rate]);
  let [heard, events, last] = [0, [], 0];
  const report = (more) => {
    const [seconds, look] = [heard / rate, lookOf(events)];
    self.postMessage({ tell: "heard", id, events: plain(events), runs, seconds, told: recording.told, part: heard / samples, look, ...more });
    [events, runs, last] = [[], [], performance.now()];
  };
  const going = []; // what the network is asked, in order
  const collect = async (most) => {
    while (going.length > most) events.push(...recording.noted([await going.shift()]));
  };
  if (samples / rate > LONG) Helper.start();
  try {
    for await (const block of blocks) {
      if (cancelled.has(id)) break;
      for (const due of recording.take(block)) going.push(settled(Helper.finished(due)));
      heard += block.length;
      await collect(2 * AHEAD * Helper.all.length);
      if (performance.now() - last > TOLD) report({});
    }
    if (heard === 0 && !cancelled.has(id)) throw new Error("it holds no samples.");
    going.push(...recording.rest().map((due) => settled(Helper.finished(due))));
    await collect(0);
  } finally {
    Helper.stop();
  }
  events.push(recording.all());
  report({ told: heard / rate, part: 1 });
  self.postMessage({ tell: "ended", id, cancelled: cancelled.has(id) });
}

// A promise that is looked at later: what it is rejected with is told then.
function settled(promise) {
  promise.catch(() => {});
  return promise;
}

// The samples of a decoded file, block by block, channels averaged.
async function* mixed(channels) {
  const size = 1 << 16;
  for (let at = 0; at < channels[0].length; at += size) {
    await new Promise((done) => setTimeout(done)); // a word of the page comes in between
    const out = channels[0].slice(at, at + size);
    for (let i = 0; i < out.length && channels.length > 1; i++) {
      out[i] = channels.reduce((sum, channel) => sum + channel[at + i], 0) / channels.length;
    }
    yield out;
  }
}

function plain(events) {
  return events.map(({ shown, log, whole, ...event }) => event);
}

// What is to be seen of the last window that was answered: shades of its bands, and its attention.
function lookOf(events) {
  const part = events.findLast(({ shown }) => shown?.S)?.shown;
  if (!part) return null;
  const { S } = part;
  const most = S.reduce((a, b) => Math.max(a, b), -Infinity);
  const shades = Uint8Array.from(S, (decibels) => 255 * Math.min(1, Math.max(0, (decibels - most) / RANGE_DB + 1)));
  const heads = model.network.attn ? model.network.attn[1].N : 0;
  const attention = part.attention && Float32Array.from(part.attention);
  return { shades, bands: model.bands.bands, attention, heads, seconds: part.samples / model.rate };
}
