"""Name the emotion of a recording with a trained model, and show where each attention head looked.

python examples/classify.py runs/NAME/model.safetensors recording.wav
"""

import sys

import npser

if len(sys.argv) != 3:
    sys.exit(__doc__)
model = npser.load(sys.argv[1])
prediction = model.predict(sys.argv[2])
if prediction.emotion is None:
    print(f"no answer: {prediction.reason}")
for label, p in prediction.probabilities.items():
    print(f"{label:>10} {p:6.3f} {'#' * round(40 * p)}")
if prediction.attention is not None and prediction.times is not None:
    for head, weights in enumerate(prediction.attention, 1):
        print(f"head {head} looks most at {prediction.times[weights.argmax()]:.2f} s")
