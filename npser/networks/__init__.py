"""The networks, one module each, named as in the literature. To add one, write its module and name it in model.NETWORKS:

1. ``Config``, its settings, a subclass of config.Config; ``PRESETS``; ``ABLATION``, its variants; ``SMALL``, for gradcheck;
   ``TITLE``; ``PUBLISHED``, the figures of its paper and their task; ``choices(c)``, what it tries on the validation part.
2. ``kind(c)``, what its store keeps; ``inputs(store, window, ...)``, from stored rows to x = (X, bounds of windows, ...).
3. ``shapes(c, emotions, genders)``, its parameters; ``forward(p, c, *x, rng)`` -> out and backward (its layers imported late).
4. ``loss(c, out, y)`` -> loss and gradients by out; backward of these -> gradients by layer; ``decide(p, c, out)`` -> logits.
5. ``plain_input(c, span)``, ``plain(t, c, X)``: the same for windows, without Numba; ``onnx_input``, ``onnx``: as a graph.
6. ``describe``, ``describe_input``, ``spectrum`` (mel bands), ``heads_of_attention``, ``samples_per_step``: info and explain.
7. Where it needs them: ``state``, arrays beside theta; ``evidence`` and ``solve``, a classifier that is solved, not descended;
   likewise, of what it learns from its input alone, ``draws``, ``evidence_of_input`` and ``solve_first``; ``familiar``, what
   of its tensors is another one for a voice that is known;
8. ``gradient(p, c, shards, pool)``, a mini-batch as one, such as for batch statistics; ``example``, its x for gradcheck;
9. ``init``, ``pretrain``, ``optimiser`` in place of the engine's; ``normalised_on``; ``reads_text(c)``, phonemes as Store.text.
   Settings that it does not use, it refuses.
10. Its kernels and layers, a slow statement in tests/reference_NAME.py, its tests. tests/toy_network.py has nearly all of this.
"""
