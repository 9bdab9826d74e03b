// Powers of the spectrum of n real samples, n twice a product of 2, 4 and 5: of 800 and of 400.
export class Powers {
  constructor(n) {
    this.half = n / 2; // complex numbers: even samples are real parts, odd ones imaginary parts
    this.a = [new Float64Array(this.half), new Float64Array(this.half)];
    this.b = [new Float64Array(this.half), new Float64Array(this.half)];
    this.out = new Float64Array(this.half + 1);
    this.window = Float64Array.from({ length: n }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / n)); // Hann, periodic
    this.stages = [];
    for (let left = this.half, stride = 1; left > 1; ) {
      const radix = [4, 5, 2].find((r) => left % r === 0);
      this.stages.push({ radix, blocks: left / radix, stride, twiddles: turns(left) });
      left /= radix;
      stride *= radix;
    }
    this.turns = turns(n);
  }

  // |X_k|^2 of the windowed samples from x[at] on; k from 0 to n / 2. The array is used again by the next call.
  of(x, at) {
    let [re, im] = this.a;
    let [toRe, toIm] = this.b;
    const { half, window, out } = this;
    for (let i = 0; i < half; i++) {
      re[i] = x[at + 2 * i] * window[2 * i];
      im[i] = x[at + 2 * i + 1] * window[2 * i + 1];
    }
    for (const stage of this.stages) {
      STAGES[stage.radix](re, im, toRe, toIm, stage);
      [re, im, toRe, toIm] = [toRe, toIm, re, im];
    }
    const { cos, sin } = this.turns;
    for (let k = 0; k <= half; k++) { // of the even and the odd samples to that of all
      const p = k === half ? 0 : k;
      const q = k === 0 ? 0 : half - k;
      const evenRe = 0.5 * (re[p] + re[q]);
      const evenIm = 0.5 * (im[p] - im[q]);
      const oddRe = 0.5 * (im[p] + im[q]);
      const oddIm = 0.5 * (re[q] - re[p]);
      const real = evenRe + oddRe * cos[k] - oddIm * sin[k];
      const imaginary = evenIm + oddRe * sin[k] + oddIm * cos[k];
      out[k] = real * real + imaginary * imaginary;
    }
    return out;
  }
}

// exp(-2 pi i k / n)
function turns(n) {
  const angle = (k) => (-2 * Math.PI * k) / n;
  return {
    cos: Float64Array.from({ length: n }, (_, k) => Math.cos(angle(k))),
    sin: Float64Array.from({ length: n }, (_, k) => Math.sin(angle(k))),
  };
}

// Stockham's steps, which leave the spectrum in its order: y[q + s (r p + j)] = w^(p j) sum_k x[q + s (p + k m)] e^(-2 pi i j k / r)
const STAGES = { 2: byTwo, 4: byFour, 5: byFive };

function byTwo(re, im, toRe, toIm, { blocks, stride, twiddles: { cos, sin } }) {
  for (let p = 0; p < blocks; p++) {
    for (let q = 0; q < stride; q++) {
      const a = q + stride * p;
      const b = a + stride * blocks;
      const to = q + 2 * stride * p;
      const r = re[a] - re[b];
      const i = im[a] - im[b];
      toRe[to] = re[a] + re[b];
      toIm[to] = im[a] + im[b];
      toRe[to + stride] = r * cos[p] - i * sin[p];
      toIm[to + stride] = r * sin[p] + i * cos[p];
    }
  }
}

function byFour(re, im, toRe, toIm, { blocks, stride, twiddles: { cos, sin } }) {
  const far = stride * blocks;
  for (let p = 0; p < blocks; p++) {
    const [c1, s1, c2, s2, c3, s3] = [cos[p], sin[p], cos[2 * p], sin[2 * p], cos[3 * p], sin[3 * p]];
    for (let q = 0; q < stride; q++) {
      const a = q + stride * p;
      const to = q + 4 * stride * p;
      const sumRe = re[a] + re[a + 2 * far];
      const sumIm = im[a] + im[a + 2 * far];
      const differenceRe = re[a] - re[a + 2 * far];
      const differenceIm = im[a] - im[a + 2 * far];
      const oddRe = re[a + far] + re[a + 3 * far];
      const oddIm = im[a + far] + im[a + 3 * far];
      const turnedRe = im[a + far] - im[a + 3 * far]; // -i times the difference of the odd ones
      const turnedIm = re[a + 3 * far] - re[a + far];
      toRe[to] = sumRe + oddRe;
      toIm[to] = sumIm + oddIm;
      let r = differenceRe + turnedRe;
      let i = differenceIm + turnedIm;
      toRe[to + stride] = r * c1 - i * s1;
      toIm[to + stride] = r * s1 + i * c1;
      r = sumRe - oddRe;
      i = sumIm - oddIm;
      toRe[to + 2 * stride] = r * c2 - i * s2;
      toIm[to + 2 * stride] = r * s2 + i * c2;
      r = differenceRe - turnedRe;
      i = differenceIm - turnedIm;
      toRe[to + 3 * stride] = r * c3 - i * s3;
      toIm[to + 3 * stride] = r * s3 + i * c3;
    }
  }
}

const [COS1, SIN1] = [Math.cos((2 * Math.PI) / 5), Math.sin((2 * Math.PI) / 5)];
const [COS2, SIN2] = [Math.cos((4 * Math.PI) / 5), Math.sin((4 * Math.PI) / 5)];

function byFive(re, im, toRe, toIm, { blocks, stride, twiddles: { cos, sin } }) {
  const far = stride * blocks;
  for (let p = 0; p < blocks; p++) {
    for (let q = 0; q < stride; q++) {
      const a = q + stride * p;
      const to = q + 5 * stride * p;
      const x0 = re[a];
      const y0 = im[a];
      const sum1Re = re[a + far] + re[a + 4 * far];
      const sum1Im = im[a + far] + im[a + 4 * far];
      const sum2Re = re[a + 2 * far] + re[a + 3 * far];
      const sum2Im = im[a + 2 * far] + im[a + 3 * far];
      const less1Re = re[a + far] - re[a + 4 * far];
      const less1Im = im[a + far] - im[a + 4 * far];
      const less2Re = re[a + 2 * far] - re[a + 3 * far];
      const less2Im = im[a + 2 * far] - im[a + 3 * far];
      toRe[to] = x0 + sum1Re + sum2Re;
      toIm[to] = y0 + sum1Im + sum2Im;
      const even1Re = x0 + COS1 * sum1Re + COS2 * sum2Re;
      const even1Im = y0 + COS1 * sum1Im + COS2 * sum2Im;
      const even2Re = x0 + COS2 * sum1Re + COS1 * sum2Re;
      const even2Im = y0 + COS2 * sum1Im + COS1 * sum2Im;
      const odd1Re = SIN1 * less1Im + SIN2 * less2Im; // -i times the odd part
      const odd1Im = -SIN1 * less1Re - SIN2 * less2Re;
      const odd2Re = SIN2 * less1Im - SIN1 * less2Im;
      const odd2Im = -SIN2 * less1Re + SIN1 * less2Re;
      turned(toRe, toIm, to + stride, even1Re + odd1Re, even1Im + odd1Im, cos[p], sin[p]);
      turned(toRe, toIm, to + 2 * stride, even2Re + odd2Re, even2Im + odd2Im, cos[2 * p], sin[2 * p]);
      turned(toRe, toIm, to + 3 * stride, even2Re - odd2Re, even2Im - odd2Im, cos[3 * p], sin[3 * p]);
      turned(toRe, toIm, to + 4 * stride, even1Re - odd1Re, even1Im - odd1Im, cos[4 * p], sin[4 * p]);
    }
  }
}

function turned(toRe, toIm, at, r, i, c, s) {
  toRe[at] = r * c - i * s;
  toIm[at] = r * s + i * c;
}
