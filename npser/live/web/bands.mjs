// Speech at 16 kHz -> log-mel bands and their deltas: npser/features.py and npser/networks/numpy_layers.py.
import { Powers } from "./fft.mjs";
import { variance } from "./speech.mjs";

const TINIEST = 2 ** -126; // of float32

export class Bands {
  // k: the constants of npser/features.py, and the filters: `first` bin and `count` of each; mel: their weights, one after another.
  // bands: how many of them are heard.
  constructor(k, mel, bands) {
    Object.assign(this, { k, mel, bands, powers: new Powers(k.N_FFT) });
  }

  // Powers of the mel bands of the frame that begins at x[at], into out from `to` on.
  frame(x, at, out, to) {
    const P = this.powers.of(x, at);
    const { first, count } = this.k.filters;
    for (let band = 0, w = 0; band < first.length; band++) {
      let sum = 0;
      for (let bin = first[band], left = count[band]; left > 0; bin++, left--) sum += P[bin] * this.mel[w++];
      out[to + band] = sum;
    }
  }

  // Bands of a window x of at least a frame on each side, at one level, (L, heard) dB. carried: powers of its frames as far as
  // they are known, or null; the first and the last one see the ends reflected, and are made here.
  of(x, carried) {
    const { HOP, N_FFT, N_MELS, LEVEL_DB, NO_LEVEL, SPEECH_FLOOR_DB } = this.k;
    const L = Math.floor(x.length / HOP) + 1;
    const P = new Float32Array(L * N_MELS);
    if (carried) P.set(carried.subarray(0, P.length));
    else for (let t = 1; t < L - 1; t++) this.frame(x, (t - 1) * HOP, P, t * N_MELS);
    for (const t of [0, L - 1]) {
      const end = new Float32Array(N_FFT);
      for (let i = 0; i < N_FFT; i++) end[i] = x[reflected((t - 1) * HOP + i, x.length)];
      this.frame(end, 0, P, t * N_MELS);
    }
    const rms = Math.sqrt(variance(x));
    const gain = rms > NO_LEVEL ? Math.fround((10 ** (LEVEL_DB / 20) / rms) ** 2) : 1;
    const S = new Float32Array(L * this.bands);
    for (let t = 0; t < L; t++) {
      for (let band = 0; band < this.bands; band++) {
        const decibels = 10 * Math.log10(Math.max(P[t * N_MELS + band] * gain, TINIEST));
        S[t * this.bands + band] = Math.max(decibels, SPEECH_FLOOR_DB);
      }
    }
    return this.bands < N_MELS ? this.levelled(S) : S;
  }

  // The bands above those that are heard have no part in the level: the mean power of the others is brought to 1.
  levelled(S) {
    let sum = 0;
    for (let i = 0; i < S.length; i++) sum += 10 ** (S[i] / 10);
    const level = 10 * Math.log10(sum / S.length);
    return level > this.k.SILENT_DB ? S.map((decibels) => decibels - Math.fround(level)) : S;
  }

  // S (L, bands) -> bands, deltas, delta-deltas (L, 3 bands), by Savitzky and Golay's filters of nine frames. L is at least nine:
  // nothing shorter than SHORTEST seconds is answered.
  withDeltas(S) {
    const { bands } = this;
    const L = S.length / bands;
    const X = new Float32Array(3 * S.length);
    for (let t = 0; t < L; t++) {
      const centre = Math.min(Math.max(t, 4), L - 5);
      for (let band = 0; band < bands; band++) {
        let [line, parabola] = [0, 0];
        for (let n = -4; n <= 4; n++) {
          const value = S[(centre + n) * bands + band];
          line += (n / 60) * value;
          parabola += ((3 * n * n - 20) / 462) * value;
        }
        const at = 3 * t * bands + band;
        X[at] = S[t * bands + band];
        X[at + bands] = line;
        X[at + 2 * bands] = parabola;
      }
    }
    return X;
  }
}

function reflected(i, n) {
  if (i < 0) return -i;
  return i < n ? i : 2 * (n - 1) - i;
}
