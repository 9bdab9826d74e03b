"""Name the emotion of a recording with onnxruntime alone: no npser, no signal processing.

npser export runs/NAME/model.safetensors model.onnx --with-features
python examples/onnx_alone.py model.onnx recording.wav

The wav has 16 bits, 16 kHz and one channel: ffmpeg -i ANY -ac 1 -ar 16000 -c:a pcm_s16le recording.wav
"""

import json
import sys
import wave

import numpy as np
import onnxruntime

if len(sys.argv) != 3:
    sys.exit(__doc__)
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
constants, labels = about["features"], about["labels"]["emotion"]
try:
    with wave.open(sys.argv[2]) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (constants["sample_rate"], 1, 2):
            raise wave.Error("another rate, number of channels or of bits")
        x = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
except wave.Error as error:
    sys.exit(f"{sys.argv[2]}: expected a wav of 16 bits, 16 kHz and one channel ({error})")
if "speech" in constants:
    print("note: this network was trained without pauses; cut long ones out of the recording first", file=sys.stderr)

# One window, or half-overlapping ones, whose log-probabilities are averaged
half = round(constants["max_seconds"] * constants["sample_rate"]) // 2
windows = [x[None, start : start + 2 * half] for start in range(0, max(len(x) - half, 1), half)]
log_p = np.mean([np.log(np.asarray(session.run(["emotion"], {"waveform": window})[0])[0]) for window in windows], axis=0)
p = np.exp(log_p) / np.exp(log_p).sum()
for label, share in zip(labels, p, strict=True):
    print(f"{label:>10} {share:.3f}")
