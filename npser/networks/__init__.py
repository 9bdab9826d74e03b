"""The networks, one module each, named as in the literature. To add one, write its module and name it in model.NETWORKS:

1. ``Config``, its settings (a subclass of config.Config); ``PRESETS``; ``ABLATION``, variants; ``SMALL``, sizes for gradcheck.
2. ``kind(c)``, the features that its store keeps; ``inputs(store, window, ...)``, from stored rows to x = (X, bounds, ...);
   ``plain_input(c, x)``, the same of one waveform in plain NumPy.
3. ``shapes(c, emotions, genders)``, its parameters; ``forward(p, c, *x, rng)`` gives its output and ``backward``, which gives
   gradients by layer; ``loss(c, out, y)`` gives the loss and the gradients by ``out``; ``decide(p, c, out)``, (B,) logits.
4. ``plain(t, c, X)``, its second statement: one utterance, no Numba; ``describe(c)``, ``describe_input(c)``, ``spectrum(c, x)``,
   ``heads_of_attention(c)``, ``samples_per_step(c)`` for info and explain; ``onnx`` and ``onnx_input``, where it has a graph.
5. Where it needs them: ``state(c, ...)``, arrays beside theta; ``solve(p, c, evidence, y)``, those that are solved, from its
   ``evidence(p, c, out)``; ``gradient(p, c, shards, pool)``, one mini-batch at once; ``pretrain(network, store, window, pool)``.
6. Its kernels and layers; a slow statement in tests/reference.py; the tests of tests/test_seam.py. Nothing else changes.

The engine's layers are imported inside ``forward``, late: prediction reads these modules without Numba.
"""
