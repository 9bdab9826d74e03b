"""The networks, one module each, named as in the literature. To add one, write its module and name it in model.NETWORKS:

1. ``Config``, its settings, a subclass of config.Config; ``PRESETS``; ``ABLATION``, its variants; ``SMALL``, for gradcheck.
2. ``kind(c)``, what its store keeps; ``inputs(store, window, ...)``, from stored rows to x = (X, bounds, ...).
3. ``shapes(c, emotions, genders)``, its parameters; ``forward(p, c, *x, rng)`` -> out and backward (its layers imported late).
4. ``loss(c, out, y)`` -> loss and gradients by out; backward of these -> gradients by layer; ``decide(p, c, out)`` -> logits.
5. ``plain_input(c, x)`` and ``plain(t, c, X)``: the same for one waveform in NumPy, without Numba, which prediction lacks.
6. ``describe``, ``describe_input``, ``spectrum``, ``heads_of_attention``, ``samples_per_step``: for info and explain.
7. ``onnx_input`` and ``onnx``, where it has a graph. Without them `npser export` says so.
8. Where it needs them: ``state``, arrays beside theta; ``evidence`` and ``solve``, a classifier that is solved, not descended.
9. ``gradient(p, c, shards, pool)``, a mini-batch as one, such as for batch statistics; ``pretrain``, its own start of theta.
10. Its kernels and layers, a slow statement in tests/reference.py, and its tests. Nothing else changes: tests/test_seam.py.
"""
