"""The model: architectures, ACT, loss, optimizers."""


def load_pretrained(path_or_repo, device="cpu", *, step=None, seq_len=None):
    """A trained model in one call: its ACT model under its loss, in evaluation mode, on `device`.

    From a run's folder, an exported folder, a weights file beside its all_config.yaml, or `hf://OWNER/NAME[/file]`.
    """
    # The one import upwards, made when called: users look for this function here, what it needs lies above.
    from trained_run import load_pretrained

    return load_pretrained(path_or_repo, device, step=step, seq_len=seq_len)
