"""One pass over all parameters: clip, moments, update."""

import math

from npser_kernels import jit


@jit
def adam_step(theta, m, v, grad, rate, beta_1, beta_2, epsilon, clip):
    """Adam as Keras 2.2.4 has it, in place. theta, m, v, grad (P,); rate: the learning rate with decay and bias correction.

    epsilon stands outside the bias correction ("epsilon hat" of Kingma & Ba, section 2).
    """
    for i in range(theta.size):
        g = min(max(grad[i], -clip), clip)
        m[i] = beta_1 * m[i] + (1 - beta_1) * g
        v[i] = beta_2 * v[i] + (1 - beta_2) * g * g
        theta[i] -= rate * m[i] / (math.sqrt(v[i]) + epsilon)
