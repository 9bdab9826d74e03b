// The network, equations (1)-(9) of the paper: npser/networks/li2019.py, `plain`. One window at a time.

// A matrix (K, N) ready for products: two columns beside each other, so that four rows by two columns are summed in registers.
class Matrix {
  constructor(W, K, N) {
    Object.assign(this, { K, N, packed: new Float64Array(K * (N + (N % 2))) });
    for (let j = 0; j < N; j++) {
      const at = (j >> 1) * 2 * K + (j % 2);
      for (let k = 0; k < K; k++) this.packed[at + 2 * k] = W[k * N + j];
    }
  }

  // Rows of A, row r being A[r step ... r step + K], times this, plus b: (rows, N). They may overlap, as a convolution's do.
  product(A, rows, step, b) {
    const { K, N, packed } = this;
    const out = new Float64Array(rows * N);
    const four = new Float64Array(4 * K);
    for (let r = 0; r < rows; r += 4) {
      for (let i = 0; i < 4; i++) {
        const from = Math.min(r + i, rows - 1) * step;
        for (let k = 0; k < K; k++) four[4 * k + i] = A[from + k];
      }
      for (let j = 0; j < N; j += 2) tile(four, packed, j * K, K, out, r, rows, j, N, b);
    }
    return out;
  }
}

function tile(four, packed, at, K, out, r, rows, j, N, b) {
  let [s00, s10, s20, s30, s01, s11, s21, s31] = [0, 0, 0, 0, 0, 0, 0, 0];
  for (let k = 0, a = 0, w = at; k < K; k++, a += 4, w += 2) {
    const left = packed[w];
    const right = packed[w + 1];
    const a0 = four[a];
    const a1 = four[a + 1];
    const a2 = four[a + 2];
    const a3 = four[a + 3];
    s00 += a0 * left;
    s10 += a1 * left;
    s20 += a2 * left;
    s30 += a3 * left;
    s01 += a0 * right;
    s11 += a1 * right;
    s21 += a2 * right;
    s31 += a3 * right;
  }
  const there = rows - r;
  for (let n = 0; n < 2 && j + n < N; n++) {
    const bias = b ? b[j + n] : 0;
    let to = r * N + j + n;
    out[to] = (n ? s01 : s00) + bias;
    if (there > 1) out[(to += N)] = (n ? s11 : s10) + bias;
    if (there > 2) out[(to += N)] = (n ? s21 : s20) + bias;
    if (there > 3) out[to + N] = (n ? s31 : s30) + bias;
  }
}

export class Network {
  // config: the sizes, those of npser/networks/statistics.py among them; tensors: {name: {shape, values}} of the model file.
  constructor(config, tensors) {
    this.config = config;
    this.t = Object.fromEntries(Object.entries(tensors).map(([name, { values }]) => [name, values]));
    const matrix = (name) => new Matrix(tensors[name].values, ...tensors[name].shape);
    this.cnn = ["cnn1", "cnn2"].map((layer) => taps(tensors[`${layer}.W`]));
    this.lstm = ["lstm1", "lstm2"]
      .filter((layer) => `${layer}.W_fw` in tensors) // li2019_feedforward has none
      .map((layer) =>
        ["fw", "bw"].map((direction) => ({
          W: matrix(`${layer}.W_${direction}`),
          R: fours(tensors[`${layer}.R_${direction}`]),
          b: tensors[`${layer}.b_${direction}`].values,
        })),
      );
    this.attn = "attn.W_s1" in tensors ? [matrix("attn.W_s1"), matrix("attn.w_s2")] : null;
    const there = (head) => (`${head}.W` in tensors ? matrix(`${head}.W`) : null);
    this.heads = ["emotion", "gender", "statistics"].map(there);
  }

  // X (L, d_spec), normalised -> logits of emotion and gender, and the attention (n_attn, T) or null. ownShare: what the voice's own
  // statistics have of the normaliser.
  run(X, ownShare = 0) {
    const { n_cw, n_pw, d_cnn, d_spec } = this.config;
    let H = conv(X, d_spec, this.cnn[0], this.t["cnn1.b"], n_cw); // (1)-(3)
    H = maxpool(conv(H, d_cnn, this.cnn[1], this.t["cnn2.b"], n_cw), d_cnn, n_pw); // (4)
    const T = H.length / d_cnn;
    let D = d_cnn;
    for (const layer of this.lstm) {
      H = blstm(H, T, D, layer);
      D = H.length / T;
    }
    const [z, attention] = this.attn ? attend(H, T, D, ...this.attn) : [mean(H, T, D), null]; // (5)-(9)
    const from = [z, z, this.heads[2] && statistics(X, d_spec, d_spec / 3)];
    const [own, gender, also] = ["emotion", "gender", "statistics"].map((head, n) =>
      this.heads[n] ? this.heads[n].product(from[n], 1, from[n].length, this.t[`${head}.b`]) : new Float64Array(0),
    );
    const share = also.length ? shareOf(from[2], this.config) : 0;
    const times = 1 + (this.config.familiar - 1) * ownShare;
    const emotion = share ? own.map((value, k) => (1 - share) * value + share * times * also[k]) : own;
    return { emotion, gender, attention };
  }
}

// W (C, n_cw, K) -> the matrix (n_cw C, K) by which n_cw rows after one another are multiplied.
function taps({ values, shape: [C, n, K] }) {
  const W = new Float64Array(values.length);
  for (let c = 0; c < C; c++) {
    for (let j = 0; j < n; j++) W.set(values.subarray((c * n + j) * K, (c * n + j + 1) * K), (j * C + c) * K);
  }
  return new Matrix(W, n * C, K);
}

// Equations (1)-(3) and ReLU. X (L, C) -> (L, K); the first and the last row are repeated.
function conv(X, C, W, b, n) {
  const L = X.length / C;
  const half = (n - 1) / 2;
  const padded = new Float64Array((L + 2 * half) * C);
  padded.set(X, half * C);
  for (let j = 0; j < half; j++) {
    padded.set(X.subarray(0, C), j * C);
    padded.set(X.subarray((L - 1) * C), (half + L + j) * C);
  }
  const out = W.product(padded, L, C, b);
  for (let i = 0; i < out.length; i++) if (out[i] < 0) out[i] = 0;
  return out;
}

// Equation (4). X (L, C) -> (L / n, C)
function maxpool(X, C, n) {
  const T = Math.floor(X.length / C / n);
  const out = new Float64Array(T * C);
  for (let t = 0; t < T; t++) {
    for (let c = 0; c < C; c++) {
      let most = X[t * n * C + c];
      for (let j = 1; j < n; j++) most = Math.max(most, X[(t * n + j) * C + c]);
      out[t * C + c] = most;
    }
  }
  return out;
}

// R (H, 4H), four columns beside each other.
function fours({ values, shape: [H, N] }) {
  const out = new Float64Array(H * N);
  for (let j = 0; j < N; j++) for (let k = 0; k < H; k++) out[((j >> 2) * H + k) * 4 + (j & 3)] = values[k * N + j];
  return { H, packed: out };
}

// Section 4.2.2. X (T, C) -> (T, 2H)
function blstm(X, T, C, directions) {
  const { H } = directions[0].R;
  const out = new Float64Array(T * 2 * H);
  directions.forEach(({ W, R, b }, back) => recurrence(W.product(X, T, C, b), T, R, out, back));
  return out;
}

// Gates in the order i f g o; the backward direction (1) goes from the end to the start.
function recurrence(Z, T, { H, packed }, out, back) {
  const h = new Float64Array(H);
  const c = new Float64Array(H);
  const gates = new Float64Array(4 * H);
  for (let step = 0; step < T; step++) {
    const t = back ? T - 1 - step : step;
    for (let j = 0, w = 0; j < 4 * H; j += 4) {
      const z = t * 4 * H + j;
      let g0 = Z[z];
      let g1 = Z[z + 1];
      let g2 = Z[z + 2];
      let g3 = Z[z + 3];
      for (let k = 0; k < H; k++, w += 4) {
        const value = h[k];
        g0 += value * packed[w];
        g1 += value * packed[w + 1];
        g2 += value * packed[w + 2];
        g3 += value * packed[w + 3];
      }
      gates[j] = g0;
      gates[j + 1] = g1;
      gates[j + 2] = g2;
      gates[j + 3] = g3;
    }
    for (let k = 0; k < H; k++) {
      c[k] = sigmoid(gates[H + k]) * c[k] + sigmoid(gates[k]) * tanh(gates[2 * H + k]);
      h[k] = sigmoid(gates[3 * H + k]) * tanh(c[k]);
      out[t * 2 * H + back * H + k] = h[k];
    }
  }
}

function sigmoid(x) {
  return 1 / (1 + Math.exp(-x));
}

// Math.tanh is three times as slow. Off by 1e-16.
function tanh(x) {
  return 1 - 2 / (Math.exp(2 * x) + 1);
}

// Equations (5)-(9). H (T, D) -> z (n_attn D), a (n_attn, T)
function attend(H, T, D, W_s1, w_s2) {
  const hidden = W_s1.product(H, T, D, null);
  for (let i = 0; i < hidden.length; i++) hidden[i] = tanh(hidden[i]);
  const E = w_s2.product(hidden, T, W_s1.N, null); // (T, n_attn)
  const heads = w_s2.N;
  const z = new Float64Array(heads * D);
  const a = new Float64Array(heads * T);
  for (let head = 0; head < heads; head++) {
    const weights = softmax(Float64Array.from({ length: T }, (_, t) => E[t * heads + head]));
    a.set(weights, head * T);
    for (let t = 0; t < T; t++) for (let d = 0; d < D; d++) z[head * D + d] += weights[t] * H[t * D + d];
  }
  return [z, a];
}

function mean(H, T, D) {
  const z = new Float64Array(D);
  for (let i = 0; i < H.length; i++) z[i % D] += H[i] / Math.max(T, 1);
  return z;
}

// Of the first C columns of X (L, width): mean, deviation, and root mean square of the change from row to row, (3 C).
// npser/networks/statistics.py, `of_windows`.
function statistics(X, width, C) {
  const L = X.length / width;
  const out = new Float64Array(3 * C);
  for (let c = 0; c < C; c++) {
    let [sum, away, change] = [0, 0, 0];
    for (let i = c; i < X.length; i += width) sum += X[i];
    const mean = sum / Math.max(L, 1);
    for (let i = c; i < X.length; i += width) {
      away += (X[i] - mean) ** 2;
      if (i >= width) change += (X[i] - X[i - width]) ** 2;
    }
    out[c] = mean;
    out[C + c] = Math.sqrt(away / Math.max(L, 1));
    out[2 * C + c] = Math.sqrt(change / Math.max(L - 1, 1));
  }
  return out;
}

// What the regression has of the answer, by the statistics Z (3 C).
function shareOf(Z, { share, lowest, present: [none, whole] }) {
  const C = Z.length / 3;
  const moves = Z.subarray(C, C + Math.min(lowest, C));
  const part = (moves.reduce((a, b) => a + b) / moves.length - none) / (whole - none);
  return share * Math.min(Math.max(part, 0), 1);
}

export function logSoftmax(x) {
  const most = x.reduce((a, b) => Math.max(a, b), -Infinity);
  const sum = x.reduce((total, value) => total + Math.exp(value - most), 0);
  return x.map((value) => value - most - Math.log(sum));
}

export function softmax(x) {
  return logSoftmax(x).map(Math.exp);
}
