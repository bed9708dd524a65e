"""The model: architectures, ACT, loss, optimizers."""
