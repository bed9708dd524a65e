"""Compare an answer (S,) with its label (S,), whose ignored cells are -100."""

from __future__ import annotations

import numpy as np

from dataset.families.wording import count

# In batches, as in torch; on disk ignored cells hold the `ignore_label_id` of the dataset.
IGNORE_LABEL_ID = -100


def equals(answer: np.ndarray, labels: np.ndarray) -> bool:
    """Return True if the answer matches every labelled cell."""
    return bool(((answer == labels) | (labels == IGNORE_LABEL_ID)).all())


def agreement(answer: np.ndarray, labels: np.ndarray) -> str:
    """Format how many labelled cells of an answer are right."""
    labelled = labels != IGNORE_LABEL_ID
    right = int(((answer == labels) & labelled).sum())
    return f"{right} of {count(int(labelled.sum()), 'cell')} as in the answer"


def compare_with_labels(answer: np.ndarray, labels: np.ndarray | None) -> str:
    """Say whether a valid answer equals the label, as the end of a sentence; "" if that is unknown."""
    if labels is None:
        return ""
    return ", and equal to the answer" if equals(answer, labels) else ", but not the one in the dataset"
