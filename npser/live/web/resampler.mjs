// Blocks of samples at some rate -> samples at 16 kHz, by a windowed sinc: npser/speech.py, class Resampler.
import { Held } from "./held.mjs";

export class Resampler {
  // k: the constants of npser/speech.py; target: the rate to go to.
  constructor(k, target, rate) {
    const common = divisor(target, rate);
    this.k = k;
    this.up = target / common;
    this.down = rate / common;
    this.same = rate === target;
    this.half = Math.ceil((k.CROSSINGS * Math.max(1, this.down / this.up)) / k.PASSED); // samples on each side of a centre
    this.size = 2 * this.half + 1;
    this.held = new Held(Float64Array); // the first one is centred half a filter back
    this.held.push(new Float64Array(this.half));
    this.heard = this.made = this.dropped = 0; // samples heard, samples made, and samples of held that are gone
    this.table = this.same || this.up * this.size > k.LARGEST ? null : this.phases();
  }

  // Samples at the source's rate -> those at 16 kHz that are complete.
  feed(x) {
    if (this.same) return x;
    this.heard += x.length;
    this.held.push(x);
    const last = this.dropped + this.held.length - this.size; // where the last filter may begin
    return this.samples(last < 0 ? 0 : Math.floor((last * this.up + this.up - 1) / this.down) + 1 - this.made);
  }

  // The rest, after which all is silence.
  end() {
    if (this.same || this.heard === 0) return new Float32Array(0);
    const wanted = Math.max(1, Math.floor((2 * this.heard * this.up + this.down) / (2 * this.down)));
    this.held.push(new Float64Array(this.size + this.half + this.down));
    return this.samples(Math.max(0, wanted - this.made));
  }

  samples(n) {
    const { up, down, size, table } = this;
    const out = new Float32Array(Math.max(0, n));
    const { store, from } = this.held;
    for (let m = 0; m < out.length; m++) {
      const place = (this.made + m) * down;
      const phase = place % up;
      const at = from + (place - phase) / up - this.dropped;
      out[m] = table ? dot(store, at, table, phase * size, size) : dot(store, at, this.taps(phase / up), 0, size);
    }
    this.made += out.length;
    const gone = Math.floor((this.made * down) / up) - this.dropped;
    this.held.drop(gone);
    this.dropped += gone;
    return out;
  }

  // The filter for a moment so far behind a sample, 0 to 1: weights of the samples around it.
  taps(fraction) {
    const { half, k } = this;
    const cutoff = k.PASSED * Math.min(1, this.up / this.down);
    const out = new Float64Array(this.size);
    for (let i = -half; i <= half; i++) {
      const t = i - fraction;
      const inside = Math.max(0, 1 - (t / (half + 1)) ** 2);
      const window = bessel(k.SHAPE * Math.sqrt(inside)) / bessel(k.SHAPE);
      const x = Math.PI * cutoff * t;
      out[i + half] = Math.fround(cutoff * (x === 0 ? 1 : Math.sin(x) / x) * window);
    }
    return out;
  }

  phases() {
    const table = new Float64Array(this.up * this.size);
    for (let phase = 0; phase < this.up; phase++) table.set(this.taps(phase / this.up), phase * this.size);
    return table;
  }
}

function divisor(a, b) {
  return b === 0 ? a : divisor(b, a % b);
}

// Four sums, so that none waits for the one before.
function dot(x, at, y, from, n) {
  let [a, b, c, d] = [0, 0, 0, 0];
  let i = 0;
  for (; i + 3 < n; i += 4) {
    a += x[at + i] * y[from + i];
    b += x[at + i + 1] * y[from + i + 1];
    c += x[at + i + 2] * y[from + i + 2];
    d += x[at + i + 3] * y[from + i + 3];
  }
  for (; i < n; i++) a += x[at + i] * y[from + i];
  return a + b + (c + d);
}

// The modified Bessel function of order 0, by its series.
function bessel(x) {
  let [sum, term] = [1, 1];
  for (let n = 1; term > 1e-17 * sum; n++) {
    term *= (x / (2 * n)) ** 2;
    sum += term;
  }
  return sum;
}
