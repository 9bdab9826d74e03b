"""One pass over all parameters: clip, means of squares, update."""

import math

from npser_kernels import jit


@jit
def adadelta_step(theta, m, v, grad, rate, rho, epsilon, clip):
    """Adadelta (Zeiler, 2012) as Keras 2.2.4 has it, in place. theta, m, v, grad (P,).

    v: the running mean of squared gradients; m: that of squared changes, before the rate.
    """
    for i in range(theta.size):
        g = min(max(grad[i], -clip), clip)
        v[i] = rho * v[i] + (1 - rho) * g * g
        change = g * math.sqrt(m[i] + epsilon) / math.sqrt(v[i] + epsilon)
        theta[i] -= rate * change
        m[i] = rho * m[i] + (1 - rho) * change * change
