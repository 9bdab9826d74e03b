"""Test the network with scikit-learn on speakers that it was not trained on, and keep one that was trained on all of them.

python examples/scikit_learn.py CORPUS [EPOCHS]       # a corpus with speakers, as npser train takes it
"""

import sys

import numpy as np
from sklearn.metrics import classification_report
from sklearn.model_selection import GroupKFold, cross_val_predict

from npser import EmotionClassifier, corpora

if len(sys.argv) not in (2, 3):
    sys.exit(__doc__)
utterances = corpora.load(sys.argv[1]).utterances
paths = [str(u.path) for u in utterances]
emotions = np.array([u.emotion for u in utterances])
speakers = np.array([u.speaker for u in utterances])

classifier = EmotionClassifier(epochs=int(sys.argv[2]) if len(sys.argv) == 3 else 40)
# The groups twice: for the splitter, and (params) for fit, which then calibrates on speakers that do not train.
arguments = {"groups": speakers, "cv": GroupKFold(5), "params": {"groups": speakers}}
print(classification_report(emotions, cross_val_predict(classifier, paths, emotions, **arguments)))

classifier.fit(paths, emotions, groups=speakers).save("model.safetensors")
print("model.safetensors: for npser predict, and for npser.load")
