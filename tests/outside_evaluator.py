"""The evaluator that `outside_family` names."""

import numpy as np

from dataset.families import family_of
from evaluators.base import Evaluator


class LatinLines(Evaluator):
    """Compute `latin/lines`: the share of rows and columns that hold each symbol once."""

    def __init__(self, data_paths, metadata):
        super().__init__(data_paths, metadata)
        self.family = family_of(metadata)

    def metric_names(self):
        return {"latin/lines"}

    def begin(self):
        self.counts = np.zeros(2, np.int64)

    def update(self, set_name, outputs, example_indices):
        lines = self.family.lines(outputs["preds"].numpy())
        self.counts += [lines.sum(), lines.size]

    def result(self, gather, save_dir):
        right, number = sum(gather(self.counts))
        return {"latin/lines": float(right / number)}
