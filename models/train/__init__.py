"""Training of a model: the update step, metrics, the moving average of the weights, the curriculum."""
