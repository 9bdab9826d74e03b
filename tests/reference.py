"""The network of Li, Zhao and Kawahara (Interspeech 2019) as slow literal loops over scalars, to test against.

Equations (1)-(10) carry the paper's numbers and notation. Gradients come from the scalar differentiation of `Var`, so
nothing is derived by hand. NumPy only turns arrays into nested lists and back, and fits the polynomials of `deltas`.

Where the paper leaves a choice: pooling once, after the second convolution; LSTM gates in the order i f g o, textbook
sigmoid; dropout after each BLSTM layer, by element and time step; attention without bias; without attention z is the
mean over time; z = 0 for an utterance with fewer frames than a pooling window.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

# ---------------------------------------------------------------------------------------------- differentiation


class Var:
    """A scalar that remembers how it was made: `parents` holds (Var, derivative of this value by that Var)."""

    __slots__ = ("gradient", "parents", "serial", "value")
    serials = itertools.count()

    def __init__(self, value: float, *parents: "tuple[Var, float]") -> None:
        self.value = value
        self.parents = parents
        self.gradient = 0.0
        self.serial = next(Var.serials)

    def __add__(self, other: "Var | float") -> "Var":
        if not isinstance(other, Var):
            return Var(self.value + other, (self, 1.0))
        return Var(self.value + other.value, (self, 1.0), (other, 1.0))

    def __mul__(self, other: "Var | float") -> "Var":
        if not isinstance(other, Var):
            return Var(self.value * other, (self, other))
        return Var(self.value * other.value, (self, other.value), (other, self.value))

    def reciprocal(self) -> "Var":
        return Var(1.0 / self.value, (self, -1.0 / self.value**2))

    def __neg__(self) -> "Var":
        return self * -1.0

    def __sub__(self, other: "Var | float") -> "Var":
        return self + (-other)

    def __truediv__(self, other: "Var | float") -> "Var":
        return self * (other.reciprocal() if isinstance(other, Var) else 1.0 / other)

    def tanh(self) -> "Var":
        y = math.tanh(self.value)
        return Var(y, (self, 1.0 - y * y))

    def exp(self) -> "Var":
        y = math.exp(self.value)
        return Var(y, (self, y))

    def log(self) -> "Var":
        return Var(math.log(self.value), (self, 1.0 / self.value))

    def backward(self) -> None:
        """Put the derivative of this value by every Var it depends on into that Var's `gradient`."""
        reached: set[Var] = {self}
        stack: list[Var] = [self]
        while stack:
            for parent, _ in stack.pop().parents:
                if parent not in reached:
                    reached.add(parent)
                    stack.append(parent)
        self.gradient = 1.0
        # A Var is younger than its parents: going from young to old, each gradient is complete when it is read.
        for var in sorted(reached, key=lambda v: v.serial, reverse=True):
            for parent, derivative in var.parents:
                parent.gradient += derivative * var.gradient


Vector = list[Var]
Matrix = list[Vector]  # rows
Arrays = dict[str, np.ndarray]
Utterances = Sequence[np.ndarray]
Masks = Sequence[Sequence[np.ndarray]] | None
Logits = tuple[Matrix, Matrix | None]
Numbers = Sequence[float] | Sequence[int] | np.ndarray


def relu(x: Var) -> Var:
    return x if x.value > 0.0 else Var(0.0)


def maximum(values: Vector) -> Var:
    """The first of the largest: the result is that very Var, so its derivative is 1 and that of the others 0."""
    best = values[0]
    for x in values[1:]:
        if x.value > best.value:
            best = x
    return best


def sigmoid(x: Var) -> Var:
    """1 / (1 + exp(-x)), written so that the exponential cannot overflow."""
    if x.value >= 0.0:
        return ((-x).exp() + 1.0).reciprocal()
    return x.exp() / (x.exp() + 1.0)


def total(terms: Iterable[Var]) -> Var:
    result = Var(0.0)
    for term in terms:
        result = result + term
    return result


def dot(u: Vector, v: Vector) -> Var:
    return total(a * b for a, b in zip(u, v, strict=True))


def column(M: Matrix, k: int) -> Vector:
    return [row[k] for row in M]


def log_sum_exp(values: Vector) -> Var:
    """log sum exp, about the largest value so that the exponentials cannot overflow."""
    largest = max(x.value for x in values)
    return total((x - largest).exp() for x in values).log() + largest


def softmax(values: Vector) -> Vector:
    largest = max(x.value for x in values)  # a constant cancels
    exponentials = [(x - largest).exp() for x in values]
    denominator = total(exponentials)
    return [e / denominator for e in exponentials]


# ---------------------------------------------------------------------------------------------- equations (1)-(10)


def inner_product(A: Matrix, B: Matrix) -> Var:
    """Equation (2). A, B (n_cw, d) -> scalar."""
    return total(dot(a, b) for a, b in zip(A, B, strict=True))


def win(X: Matrix, i: int, n_cw: int) -> Matrix:
    """Equation (3), i = 1..L. x_1 is repeated to the left and x_L to the right. X (L, d) -> (n_cw, d)."""
    half = (n_cw - 1) // 2
    return [X[min(max(t, 1), len(X)) - 1] for t in range(i - half, i + half + 1)]


def convolution(X: Matrix, W: list[Matrix], b: Vector) -> Matrix:
    """Equation (1). X (L, d_in), W (d_in, n_cw, d_cnn), b (d_cnn,) -> H_cnn (L, d_cnn)."""
    n_cw, d_cnn = len(W[0]), len(b)
    filters = [[[W_d[tap][j] for W_d in W] for tap in range(n_cw)] for j in range(d_cnn)]  # W_j (n_cw, d_in)
    return [[relu(b[j] + inner_product(filters[j], win(X, i, n_cw))) for j in range(d_cnn)] for i in range(1, len(X) + 1)]


def max_pooling(H: Matrix, n_pw: int) -> Matrix:
    """Equation (4). Windows 1..n_pw, n_pw+1..2 n_pw, ...; the rest is dropped. H (L, d) -> (L // n_pw, d)."""
    windows = [H[i * n_pw - n_pw : i * n_pw] for i in range(1, len(H) // n_pw + 1)]  # n_pw = 3: win(H, 3i - 1, 3)
    return [[maximum(column(window, j)) for j in range(len(window[0]))] for window in windows]


def lstm(X: Matrix, W: Matrix, R: Matrix, b: Vector) -> Matrix:
    """One direction, from zero states, n = d_lstm. X (T, d_in), W (d_in, 4n), R (n, 4n), b (4n,) -> (T, n)."""
    n = len(R)
    h, c = [Var(0.0)] * n, [Var(0.0)] * n
    states: Matrix = []
    for x in X:
        s = [b[k] + dot(column(W, k), x) + dot(column(R, k), h) for k in range(4 * n)]
        i = [sigmoid(s[k]) for k in range(n)]
        f = [sigmoid(s[n + k]) for k in range(n)]
        g = [s[2 * n + k].tanh() for k in range(n)]
        o = [sigmoid(s[3 * n + k]) for k in range(n)]
        c = [f[k] * c[k] + i[k] * g[k] for k in range(n)]
        h = [o[k] * c[k].tanh() for k in range(n)]
        states.append(h)
    return states


def blstm(X: Matrix, p: dict[str, Any], layer: str) -> Matrix:
    """Section 4.2.2: h_t is the forward state at t, then the backward state at t. X (T, d_in) -> (T, 2 d_lstm)."""
    forward_states = lstm(X, p[f"{layer}.W_fw"], p[f"{layer}.R_fw"], p[f"{layer}.b_fw"])
    backward_states = lstm(X[::-1], p[f"{layer}.W_bw"], p[f"{layer}.R_bw"], p[f"{layer}.b_bw"])[::-1]
    return [fw + bw for fw, bw in zip(forward_states, backward_states, strict=True)]


def dropout(H: Matrix, mask: list[list[float]]) -> Matrix:
    """H (T, 2 d_lstm) times a mask of 0 and 1 / (1 - p), element by element."""
    return [[h * m for h, m in zip(*rows, strict=True)] for rows in zip(H, mask, strict=True)]


def self_attention(H: Matrix, W_s1: Matrix, w_s2: Matrix) -> Vector:
    """Equations (5)-(9). H (T, 2 d_lstm), W_s1 (2 d_lstm, d_attn), w_s2 (d_attn, n_attn) -> z (n_attn 2 d_lstm,)."""
    hidden = [[dot(column(W_s1, k), h).tanh() for k in range(len(w_s2))] for h in H]  # tanh(W_s1 H^T), one row per t
    z: Vector = []
    for j in range(len(w_s2[0])):
        a_j = softmax([dot(column(w_s2, j), u) for u in hidden])  # (5), (7): over time
        h_attn_j = [dot(a_j, column(H, d)) for d in range(len(H[0]))]  # (6), (8)
        z = z + h_attn_j  # (9): concatenation
    return z


def mean_over_time(H: Matrix) -> Vector:
    """The ablation "- self attention". H (T, 2 d_lstm) -> z (2 d_lstm,)."""
    return [total(column(H, d)) / len(H) for d in range(len(H[0]))]


def dense(z: Vector, W: Matrix, b: Vector) -> Vector:
    """Output layer, before the softmax. z (d,), W (d, classes), b (classes,) -> (classes,)."""
    return [b[k] + dot(z, column(W, k)) for k in range(len(b))]


def encode(p: dict[str, Any], X: Matrix, n_pw: int, attention: bool, masks: list[list[list[float]]] | None) -> Vector:
    """The encoding z of one utterance X (L, d_spec); masks holds one (T, 2 d_lstm) for each BLSTM layer.

    Without recurrence the pooled rows take the place of the BLSTM's, and there is one mask, (T, d_cnn).
    """
    H = convolution(X, p["cnn1.W"], p["cnn1.b"])
    H = convolution(H, p["cnn2.W"], p["cnn2.b"])
    H = max_pooling(H, n_pw)
    if not H:
        return [Var(0.0)] * len(p["emotion.W"])
    for i, layer in enumerate(["lstm1", "lstm2"] if "lstm1.W_fw" in p else [""]):
        H = blstm(H, p, layer) if layer else H
        if masks is not None:
            H = dropout(H, masks[i])
    return self_attention(H, p["attn.W_s1"], p["attn.w_s2"]) if attention else mean_over_time(H)


def cross_entropy(logits: Vector, y: int) -> Var:
    """-log softmax(logits)[y]; an unknown label, y = -1, has no term."""
    return log_sum_exp(logits) - logits[y] if y >= 0 else Var(0.0)


# ---------------------------------------------------------------------------------------------- arrays in and out


def nested(function: Callable[[Any], Any], a: Any) -> Any:
    return [nested(function, x) for x in a] if isinstance(a, list) else function(a)


def lift(a: np.ndarray) -> Any:
    """An array as nested lists of Vars."""
    return nested(Var, np.asarray(a, np.float64).tolist())


def values(a: Any) -> np.ndarray:
    return np.array(nested(lambda x: x.value, a), np.float64)


def gradients_of(p: dict[str, Any], params: Arrays) -> Arrays:
    """The gradients of parameters that were lifted, after backward, under their names and shapes."""
    return {name: np.array(nested(lambda x: x.gradient, p[name])).reshape(params[name].shape) for name in p}


def network(p: dict[str, Any], utterances: Utterances, n_pw: int, attention: bool, masks: Masks) -> Logits:
    """Section 4.3 on the encodings of all utterances -> emotion logits (B, classes), gender logits (B, 2) or None."""
    Z: Matrix = []
    for u, X in enumerate(utterances):
        Z.append(encode(p, lift(X), n_pw, attention, None if masks is None else [layer[u].tolist() for layer in masks]))
    emotion = [dense(z, p["emotion.W"], p["emotion.b"]) for z in Z]
    gender = [dense(z, p["gender.W"], p["gender.b"]) for z in Z] if "gender.W" in p else None
    return emotion, gender


def forward(
    params: Arrays, utterances: Utterances, n_pw: int = 3, attention: bool = True, masks: Masks = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Emotion logits (B, classes) and gender logits (B, 2) or None; utterances (L_u, d_spec).

    masks[layer][u] (T_u, 2 d_lstm) holds the dropout mask after BLSTM layer 0 or 1, of 0 and 1 / (1 - p).
    """
    p = {name: lift(a) for name, a in params.items()}
    emotion, gender = network(p, utterances, n_pw, attention, masks)
    return values(emotion), None if gender is None else values(gender)


def loss_and_gradients(
    params: Arrays,
    utterances: Utterances,
    emotion_y: Numbers,
    gender_y: Numbers | None,
    weight: Numbers,
    alpha: float = 1.0,
    beta: float = 1.0,
    attention: bool = True,
    masks: Masks = None,
    n_pw: int = 3,
) -> tuple[float, np.ndarray, np.ndarray | None, Arrays]:
    """Equation (10), each task the sum over utterances of weight_u times its cross-entropy; y and weight are (B,).

    Returns the loss, both logits as `forward` does, and the gradients as float64 under the names and shapes of `params`
    (zeros for a parameter the loss does not depend on).
    """
    p = {name: lift(a) for name, a in params.items()}
    emotion, gender = network(p, utterances, n_pw, attention, masks)
    w = [float(x) for x in weight]
    loss = total(cross_entropy(emotion[u], int(emotion_y[u])) * w[u] for u in range(len(emotion))) * alpha
    if gender is not None and gender_y is not None:
        loss = loss + total(cross_entropy(gender[u], int(gender_y[u])) * w[u] for u in range(len(gender))) * beta
    loss.backward()
    gradients = gradients_of(p, params)
    return loss.value, values(emotion), None if gender is None else values(gender), gradients


# ---------------------------------------------------------------------------------------------- Adam and deltas


def adam_step(
    p: Numbers,
    m: Numbers,
    v: Numbers,
    g: Numbers,
    iterations: int,
    lr: float = 1e-4,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-7,
    decay: float = 1e-6,
    clip: float = 1.0,
) -> tuple[list[float], list[float], list[float]]:
    """One update of Keras 2.2.4's Adam with clipvalue; `iterations` counts the updates already made. All (N,)."""
    t = iterations + 1
    lr = lr * (1.0 / (1.0 + decay * iterations))
    lr_t = lr * (math.sqrt(1.0 - b2**t) / (1.0 - b1**t))
    p_new, m_new, v_new = [], [], []
    for k in range(len(p)):
        g_k = min(max(float(g[k]), -clip), clip)
        m_k = b1 * float(m[k]) + (1.0 - b1) * g_k
        v_k = b2 * float(v[k]) + (1.0 - b2) * g_k**2
        p_new.append(float(p[k]) - lr_t * m_k / (math.sqrt(v_k) + eps))
        m_new.append(m_k)
        v_new.append(v_k)
    return p_new, m_new, v_new


def deltas(S: np.ndarray) -> np.ndarray:
    """Static, delta and delta-delta: S (L, bands) -> (L, 3 bands).

    Delta of order 1 (2) at t: a polynomial of degree 1 (2) is fitted to the nine frames about t, and its first (second)
    derivative is taken at t. Nearer than four frames to an end, the first (last) nine frames are fitted instead and the
    derivative is still taken at t; with fewer than nine frames in all, the first and the last frame are repeated.
    """
    S = np.asarray(S, np.float64)
    L, bands = S.shape
    out = np.zeros((L, 3 * bands))
    for t in range(L):
        centre = t if L < 9 else min(max(t, 4), L - 5)
        frames = [min(max(s, 0), L - 1) for s in range(centre - 4, centre + 5)]
        for k in range(bands):
            out[t, k] = S[t, k]
            for order in (1, 2):
                polynomial = np.polyfit(np.arange(-4.0, 5.0), S[frames, k], order)
                out[t, order * bands + k] = np.polyval(np.polyder(polynomial, order), t - centre)
    return out


def resampled(S: np.ndarray, frames: int, wider: float) -> np.ndarray:
    """S (L, bands) in another number of frames, from the first frame to the last, and with band c from where c / wider was."""
    L, bands = S.shape
    out = np.zeros((frames, bands))
    for t in range(frames):
        time = 0.0 if frames == 1 else t * (L - 1) / (frames - 1)
        row = [np.interp(time, np.arange(L), S[:, band]) for band in range(bands)]
        for band in range(bands):
            out[t, band] = np.interp(band / wider, np.arange(bands), row)
    return out


def with_echo(P: np.ndarray, keep: float, gain: float) -> np.ndarray:
    """Powers P (L, bands) and an echo of (1 - keep) gain keep^k of the power k frames earlier, k = 1, 2, ..."""
    out = np.zeros_like(P)
    for t in range(len(P)):
        out[t] = P[t]
        for s in range(t):
            out[t] += (1 - keep) * gain * keep ** (t - s) * P[s]
    return out
