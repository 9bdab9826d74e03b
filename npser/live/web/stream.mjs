// A stream of samples -> answers over time: npser/live/stream.py, with the answers of npser/lite.py.
import { Bands } from "./bands.mjs";
import { Held } from "./held.mjs";
import { Network, logSoftmax, softmax } from "./network.mjs";
import { Resampler } from "./resampler.mjs";
import { Detector, moment, places, refusal } from "./speech.mjs";

// A model: what the page holds. about: see `about` in npser/live/page.py; bytes: the numbers of its tensors.
export class Model {
  constructor(about, bytes) {
    Object.assign(this, about);
    const tensors = {};
    for (const [name, shape, at] of about.tensors) {
      const size = shape.reduce((a, b) => a * b, 1);
      tensors[name] = { shape, values: new Float32Array(bytes, 4 * at, size) };
    }
    this.mean = tensors["norm.mean"].values;
    this.std = tensors["norm.std"].values;
    this.rate = this.constants.features.SAMPLE_RATE;
    this.size = Math.round(this.config.max_seconds * this.rate); // samples of a window
    this.bands = new Bands(this.constants.features, tensors.mel.values, this.config.d_spec / 3);
    this.network = new Network(this.config, tensors);
  }

  // What a due of a stream says, by the network.
  finished({ event, start, end, parts, whole }) {
    return parts.length ? { event, start, end, whole, ...this.answer(parts), shown: parts.at(-1) } : { event, start, end };
  }

  // The answer for some windows, each as Stream.part gives it: the mean log-probability of those that are answered.
  answer(parts) {
    const emotions = [];
    const genders = [];
    for (const part of parts) {
      if (part.X === null) continue;
      const { emotion, gender, attention } = this.network.run(part.X, part.ownShare);
      part.attention = attention;
      part.X = null; // not needed any more
      emotions.push(logSoftmax(emotion.map((value) => value / this.temperature)));
      genders.push(logSoftmax(gender));
    }
    const reason = [...new Set(parts.map((part) => part.reason).filter(Boolean))].join(" and ");
    return this.meanOf(emotions, genders, reason);
  }

  // Of the log-probabilities of windows; of none, a reason.
  meanOf(emotions, genders, reason) {
    if (emotions.length === 0) return { emotion: null, probabilities: {}, gender_probabilities: {}, reason, log: null };
    const middle = (rows) => rows[0].map((_, n) => rows.reduce((sum, row) => sum + row[n], 0) / rows.length);
    const log = [middle(emotions), middle(genders)];
    const [p, q] = log.map(softmax);
    if (!p.every(Number.isFinite)) throw new Error("The network's numbers overflow on this sound. Its model file is damaged.");
    const named = (labels, values) => Object.fromEntries(labels.map((label, n) => [label, values[n]]));
    const emotion = this.emotions[p.indexOf(Math.max(...p))];
    return {
      ...{ emotion, probabilities: named(this.emotions, p), gender_probabilities: named(this.genders, q) },
      ...{ reason: null, log },
    };
  }
}

export class Stream {
  // every: seconds of speech from one answer to the next; adapt: to what is heard of the stream, see npser/adaptation.py.
  constructor(model, rate, every, adapt = false) {
    const { HOP, N_MELS } = model.constants.features;
    this.model = model;
    this.k = model.constants.stream;
    this.hop = HOP;
    this.width = N_MELS;
    this.every = Math.round((every * model.rate) / HOP) * HOP;
    this.adapt = adapt;
    this.resampler = new Resampler(model.constants.speech, model.rate, rate);
    this.detector = new Detector(model.constants.speech);
    this.x = new Held(Float32Array); // speech, from its sample `first` on, a multiple of HOP
    this.P = new Held(Float32Array); // mel powers of the frames that begin there, as far as they are complete
    this.P.push(new Float32Array(N_MELS));
    this.first = this.count = 0; // samples of speech: before x, and in all
    this.runs = []; // from that sample of the speech on, the stream runs on from that one, at 16 kHz
    this.due = this.every; // sample of the speech where the next answer ends
    this.begun = -1; // sample of the speech where the utterance that goes on began; -1: there is none
    this.silent = 0; // sample of the stream at 16 kHz since when there has been no speech
    this.heard = { frames: 0, sums: new Float64Array(this.model.mean.length), squares: new Float64Array(this.model.mean.length) };
    this.known = 0; // samples of speech that heard knows
    this.onSound = null; // hears the samples at 16 kHz, where somebody keeps them
    this.onSpeech = null; // is told where speech lies, in samples at 16 kHz
  }

  // Seconds of the stream that are told apart into speech and no speech.
  get told() {
    return (this.detector.told * this.detector.k.FRAME) / this.model.rate;
  }

  // Samples at the stream's rate -> events, as Event.row of npser/live/stream.py has them, but for the rounding of times.
  feed(block) {
    return this.take(block).map((due) => this.model.finished(due));
  }

  // The end of the stream: what there is to tell yet.
  end() {
    return this.rest().map((due) => this.model.finished(due));
  }

  // feed, as far as it goes without the network: `finished` does the rest, here or in another worker.
  take(block) {
    const x = this.resampler.feed(block);
    this.onSound?.(x);
    const dues = this.hear(this.detector.feed(x));
    const silence = this.detector.told * this.detector.k.FRAME - this.silent;
    return silence >= this.k.PAUSE * this.model.rate ? [...dues, ...this.utterance()] : dues;
  }

  // end, without the network.
  rest() {
    const x = this.resampler.end();
    this.onSound?.(x);
    return [...this.hear(this.detector.feed(x)), ...this.hear(this.detector.end()), ...this.utterance()];
  }

  // Runs of speech, as they go on.
  hear(runs) {
    const dues = [];
    const { rate } = this.model;
    for (const run of runs) {
      const end = run.start + run.x.length;
      if (run.start - this.silent >= this.k.PAUSE * rate) dues.push(...this.utterance());
      if (this.runs.length === 0 || run.start > this.silent) this.runs.push([this.count, run.start]);
      this.onSpeech?.(run.start, end);
      if (this.begun < 0) {
        this.begun = this.count;
        dues.push({ event: "speech", start: run.start / rate, end: run.start / rate, parts: [] });
      }
      for (let x = run.x; x.length; ) {
        const ended = this.begun + Math.round(this.k.LONGEST * rate);
        const n = Math.min(x.length, Math.min(this.due, ended) - this.count);
        this.x.push(x.subarray(0, n));
        x = x.subarray(n);
        this.count += n;
        this.frames();
        if (this.count === this.due) {
          dues.push(this.window("answer", [[Math.max(0, this.due - this.model.size), this.due]]));
          this.due += this.every;
        }
        if (this.count === ended) {
          dues.push(...this.utterance());
          this.begun = this.count;
        }
      }
      this.silent = end;
      this.forget();
    }
    return dues;
  }

  // The powers of the frames that are complete by now.
  frames() {
    const row = new Float32Array(this.width);
    for (let t = this.first / this.hop + this.P.length / this.width; t < Math.floor(this.count / this.hop); t++) {
      this.model.bands.frame(this.x.store, this.x.from + (t - 1) * this.hop - this.first, row, 0);
      this.P.push(row);
    }
  }

  // Let go of what no window will hold any more.
  forget() {
    const { N_FFT } = this.model.constants.features;
    const goesOn = this.begun >= 0 ? this.begun : this.count;
    const needed = Math.max(0, Math.min(this.count - this.model.size, goesOn, this.count - N_FFT));
    const frames = Math.floor((needed - this.first) / this.hop);
    if (frames <= 0) return;
    this.x.drop(frames * this.hop);
    this.P.drop(frames * this.width);
    this.first += frames * this.hop;
    this.runs.splice(0, Math.max(0, this.runs.filter(([sample]) => sample <= this.first).length - 1));
  }

  // The utterance that has come to its end, where there is one: half-overlapping windows, as a file has them.
  utterance() {
    const { begun, count } = this;
    const { size } = this.model;
    this.begun = -1;
    if (begun < 0 || begun === count) return [];
    const half = Math.floor(size / 2);
    const spans = [];
    for (let start = begun; start < Math.max(begun + 1, count - half); start += half) {
      spans.push([start, Math.min(start + size, count)]);
    }
    return [this.window("utterance", spans)];
  }

  // An event over some windows of the speech, each from a sample to another one, as it waits for the network.
  window(event, spans) {
    const { rate } = this.model;
    const parts = spans.map(([start, end]) => this.part(start, end));
    const last = parts.at(-1);
    return { event, start: parts[0].runs[0][1] / rate, end: moment(last.runs, last.samples, rate), parts };
  }

  // A window of the speech: X (L, d_spec) normalised and its bands S, or a reason.
  part(start, end) {
    const { model, hop, width } = this;
    const { N_FFT } = model.constants.features;
    const x = this.x.view(start - this.first, end - this.first);
    const found = { samples: x.length, runs: places(this.runs, start, end), X: null, S: null, attention: null, ownShare: 0 };
    const reason = refusal(model.constants.speech, model.rate, x);
    if (reason !== null) return { ...found, reason };
    const carries = x.length >= 2 * N_FFT && start % hop === 0;
    const carried = carries ? this.P.view(((start - this.first) / hop) * width, this.P.length) : null;
    const S = model.bands.of(x, carried);
    const X = model.bands.withDeltas(S);
    const [mean, std, ownShare] = this.adapt ? this.adapted(X, start, end) : [model.mean, model.std, 0];
    const d = mean.length;
    for (let i = 0; i < X.length; i++) X[i] = (X[i] - mean[i % d]) / std[i % d];
    return { ...found, X, S, ownShare, reason: null };
  }

  // The normaliser drawn towards what has been heard of the stream, and what that has of it; X (L, d) is that from sample start
  // to end of the speech.
  adapted(X, start, end) {
    const { heard, hop } = this;
    const { mean, std, rate } = this.model;
    const { SECONDS, NEGLIGIBLE, NOISE } = this.model.constants.adaptation;
    const d = mean.length;
    const frames = Math.min(X.length / d, Math.ceil((end - start) / hop)); // the last one may lie beyond the sound
    for (let t = Math.floor((Math.max(start, this.known) - start) / hop); t < frames; t++, heard.frames++) {
      for (let i = 0; i < d; i++) {
        heard.sums[i] += X[t * d + i];
        heard.squares[i] += X[t * d + i] ** 2;
      }
    }
    this.known = Math.max(this.known, end);
    if (heard.frames === 0) return [mean, std, 0];
    const enough = (SECONDS * rate) / hop;
    const share = heard.frames / (heard.frames + enough);
    const own = heard.sums.map((sum) => sum / heard.frames);
    const deviation = own.map((m, i) => Math.sqrt(Math.max(heard.squares[i] / heard.frames - m * m, 0)));
    const least = (s) => (heard.frames >= enough ? Math.max(NEGLIGIBLE, NOISE * s) : NEGLIGIBLE);
    return [
      mean.map((m, i) => (1 - share) * m + share * own[i]),
      std.map((s, i) => Math.exp((1 - share) * Math.log(s) + share * Math.log(deviation[i] < least(s) ? s : deviation[i]))),
      share,
    ];
  }
}

// A recording: the events of its stream with an answer every half window, and at the end what `npser predict` says of the whole.
export class Recording extends Stream {
  constructor(model, rate, adapt = false) {
    super(model, rate, Math.floor(model.size / 2) / model.rate, adapt);
    this.windows = 0; // whole ones, which overlap by half
    this.said = []; // of these, {log, reason}
    this.plain = 0; // samples heard
  }

  take(block) {
    this.plain += block.length;
    return super.take(block);
  }

  window(event, spans) {
    const whole = event === "answer" && spans[0][1] - spans[0][0] === this.model.size;
    this.windows += whole;
    return { ...super.window(event, spans), whole };
  }

  // The last window as well, where it is not whole; it is no event.
  rest() {
    const dues = super.rest();
    const start = this.every * Math.max(0, Math.ceil((this.count - this.model.size) / this.every));
    const more = this.windows < start / this.every + 1;
    return more ? [...dues, { ...super.window("last", [[start, this.count]]), whole: true }] : dues;
  }

  // Take note of what is finished, in its order. Returns the events among it.
  noted(events) {
    for (const { whole, log, reason } of events) if (whole) this.said.push({ log, reason });
    return events.filter(({ event }) => event !== "last");
  }

  feed(block) {
    return this.noted(super.feed(block));
  }

  end() {
    return [...this.noted(super.end()), this.all()];
  }

  // The answer over the whole, when all is noted.
  all() {
    const answered = this.said.filter(({ log }) => log);
    const reason = [...new Set(this.said.map((one) => one.reason).filter(Boolean))].join(" and ");
    const [emotions, genders] = [0, 1].map((n) => answered.map(({ log }) => log[n]));
    const end = Math.max(1, this.samples) / this.model.rate;
    return { event: "recording", start: 0, end, ...this.model.meanOf(emotions, genders, reason) };
  }

  // At 16 kHz.
  get samples() {
    const { same, heard, up, down } = this.resampler;
    return same ? this.plain : Math.round((heard * up) / down);
  }
}
