"""Name the emotion of every recording in a folder, in a table; what `npser predict FOLDER --format csv` does, to be changed.

python examples/folder_to_csv.py runs/NAME/model.safetensors recordings/ answers.csv
"""

import csv
import sys
from pathlib import Path

import npser

if len(sys.argv) != 4:
    sys.exit(__doc__)
model, folder, out = npser.load(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".wav", ".flac", ".ogg", ".mp3"))
with out.open("w", newline="") as file:
    table = csv.writer(file)
    table.writerow(["path", "seconds", "emotion", *model.emotions, "why not"])
    for path, p in zip(paths, model.predict_many(paths), strict=True):  # from 200 files on, the compiled engine
        probabilities = [f"{p.probabilities[label]:.4f}" if p.probabilities else "" for label in model.emotions]
        table.writerow([path, f"{p.seconds:.2f}", p.emotion, *probabilities, p.reason or p.error])
