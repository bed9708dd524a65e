"""The model: architectures, ACT, loss, optimizers."""


def load_pretrained(path_or_repo, device="cpu", *, step=None, seq_len=None):
    """Load a trained model: the ACT model in its loss head, in evaluation mode, on `device`.

    `path_or_repo` is a run's folder, an exported folder, a weights file next to its all_config.yaml, or
    `hf://OWNER/NAME[/file]`.
    """
    # Imported on call, because trained_run is built on top of models/.
    from trained_run import load_pretrained

    return load_pretrained(path_or_repo, device, step=step, seq_len=seq_len)
