"""Reports of an evaluation, on memorisation and on the cost of training."""
