"""Loading weights from files, folders, the hub and published runs; and errors."""

from __future__ import annotations

import os
import pickle
import re
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from golden_files import model_stems
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import save_file
from trained_folders import SIZES, TINY_ARCH, published_run, randomised, write_run

import models
from dataset.format import write_identifiers
from models.losses import ACTLossHead
from models.pretrained import WeightsMismatch, canonical_names, load_weights
from models.registry import build_model
from puzzle_dataset import IDENTIFIERS_KEY, identifier_hashes
from trained_run import open_trained
from utils.errors import UserError
from utils.weights import locate, read_state_dict

FLOAT32_STEMS = [stem for stem in model_stems() if "bf16" not in stem]


def same_weights(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def ignore(line: str) -> None:
    pass


# Published runs


@pytest.mark.parametrize("prefix", ["_orig_mod.", ""], ids=["compiled", "uncompiled"])
@pytest.mark.parametrize("stem", FLOAT32_STEMS)
def test_a_published_run_gives_the_answers_of_the_published_code(tmp_path, stem, prefix):
    folder, golden = published_run(tmp_path / "run", stem, prefix)
    seq_len = int(golden["eval/batch/inputs"].shape[1])
    model = models.load_pretrained(folder, seq_len=seq_len)
    keys = ("inputs", "labels", "puzzle_identifiers")
    batch = {key: torch.from_numpy(golden[f"eval/batch/{key}"]) for key in keys}
    with torch.no_grad():
        _, _, _, outputs = model(model.initial_carry(batch), batch)
    np.testing.assert_allclose(outputs["logits"].numpy(), golden["eval/act0/logits"], atol=1e-4)
    np.testing.assert_allclose(outputs["q_halt_logits"].numpy(), golden["eval/act0/q_halt_logits"], atol=1e-4)
    assert not model.training


def test_an_unknown_seq_len_is_an_error_that_names_the_option(tmp_path):
    folder, _ = published_run(tmp_path / "run", "trm_attn_rope")
    with pytest.raises(UserError, match="give seq_len="):
        models.load_pretrained(folder)


@pytest.mark.parametrize("stem", ["trm_mlp_t", "trm_learned", "hrm_mlp_t"])
def test_weights_with_a_known_length_need_no_seq_len_and_reject_another(tmp_path, stem):
    folder, golden = published_run(tmp_path / "run", stem)
    length = golden["eval/batch/inputs"].shape[1]
    assert models.load_pretrained(folder).architecture.config.seq_len == length
    with pytest.raises(UserError, match=f"was trained with {length}"):
        models.load_pretrained(folder, seq_len=length + 1)


# Finding


def test_the_newest_weights_of_a_run_are_used(tmp_path):
    folder = write_run(tmp_path / "run", randomised(), step=900)
    torch.save(randomised(seed=1).state_dict(), folder / "step_1000")
    torch.save({"preds": torch.zeros(3)}, folder / "step_2000_all_preds.0")
    (folder / "state_step_3000").mkdir()
    assert locate(str(folder)).weights.name == "step_1000"
    assert locate(str(folder), step=900).weights.name == "step_900"
    assert locate(str(folder / "step_900")).step == 900
    with pytest.raises(UserError, match=r"no weights of step 7; it has: step_900, step_1000"):
        locate(str(folder), step=7)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "no such file or folder"),
        ("run/step_5_all_preds.0", "saved predictions, not weights: name step_5"),
        ("run/all_config.yaml", "name the folder"),
        ("run/state_step_5", r"full training state.*step_5"),
        ("run/state_step_5/1-shared.pt", r"full training state.*step_5"),
        ("empty", "holds no weights"),
        ("two", "several .safetensors files"),
    ],
)
def test_other_files_are_rejected_with_a_suggestion(tmp_path, name, message):
    run = write_run(tmp_path / "run", randomised(), step=5)
    (run / "step_5_all_preds.0").write_bytes(b"")
    (run / "state_step_5").mkdir()
    torch.save({"model": {}, "step": 5}, run / "state_step_5" / "1-shared.pt")
    (tmp_path / "empty").mkdir()
    (tmp_path / "two").mkdir()
    for file in "ab":
        save_file({"x": torch.zeros(1)}, tmp_path / "two" / f"{file}.safetensors")
    with pytest.raises(UserError, match=message):
        locate(str(tmp_path / name))


def test_a_misspelt_path_names_the_folder_beside_it(tmp_path):
    run = write_run(tmp_path / "my_run", randomised(), step=5)
    with pytest.raises(
        UserError, match=f"my_rum: no such file or folder \\(did you mean {re.escape(str(run))}\\?\\)"
    ):
        locate(str(tmp_path / "my_rum"))
    with pytest.raises(
        UserError, match=r"step_6: no such file or folder \(did you mean \S+/my_run/step_5\?\)"
    ):
        locate(str(run / "step_6"))
    with pytest.raises(UserError, match="elsewhere: no such file or folder; a checkpoint is"):
        locate(str(tmp_path / "elsewhere"))


def test_a_name_below_a_folder_of_this_machine_is_not_looked_up_on_the_hub(tmp_path, monkeypatch):
    def asked(**wanted):
        raise AssertionError(f"the hub was asked for {wanted}")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", asked)
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "export" / "demo", randomised(), step=5, metadata=SIZES)
    with pytest.raises(UserError, match=r"export/dem: no such file or folder \(did you mean export/demo\?\)"):
        models.load_pretrained("export/dem")


def test_weights_without_a_config_are_rejected(tmp_path):
    torch.save(randomised().state_dict(), tmp_path / "step_1")
    with pytest.raises(UserError, match=r"no all_config\.yaml"):
        open_trained(str(tmp_path / "step_1"))


def test_the_best_weights_have_a_recorded_step(tmp_path):
    folder = write_run(tmp_path / "run", randomised(), step=900, metadata=SIZES)
    shutil.copy(folder / "step_900", folder / "best")
    (folder / "best.json").write_text('{"step": 900, "metric": "test/exact_accuracy", "value": 0.5}')
    assert open_trained(str(folder / "best")).step == 900


# The hub


class Hub:
    """A fake download function: a folder on disk as the repository OWNER/NAME."""

    def __init__(self, root: Path):
        self.root, self.asked = root, []

    def download(self, repo_id, filename, revision=None):
        assert repo_id == "owner/name"
        self.asked.append(filename)
        if not (self.root / filename).is_file():
            raise EntryNotFoundError(f"no {filename}")
        return str(self.root / filename)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Hub:
    stand_in = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", stand_in.download)
    monkeypatch.setattr(
        huggingface_hub,
        "list_repo_files",
        lambda name, revision=None: [
            str(path.relative_to(stand_in.root)) for path in stand_in.root.rglob("*") if path.is_file()
        ],
    )
    return stand_in


@pytest.mark.parametrize(
    "source", ["hf://owner/name/arc/step_20", "hf://owner/name/arc", "hf://owner/name@main/arc"]
)
def test_a_file_or_folder_on_the_hub_loads_with_its_config(hub, source):
    model = randomised(seed=3)
    write_run(hub.root / "arc", randomised(), step=10, metadata=SIZES)
    write_run(hub.root / "arc", model, step=20, metadata=SIZES)
    loaded = models.load_pretrained(source)
    assert same_weights(loaded.state_dict(), model.state_dict())
    assert "arc/step_10" not in hub.asked


def test_a_repository_with_one_run_loads_by_its_name(hub):
    model = randomised(seed=3)
    write_run(hub.root, model, metadata=SIZES)
    assert same_weights(models.load_pretrained("owner/name").state_dict(), model.state_dict())


def test_missing_files_in_the_repository_are_reported(hub):
    write_run(hub.root, randomised(), metadata=SIZES)
    with pytest.raises(UserError, match="neither a file nor a folder other"):
        locate("hf://owner/name/other")
    with pytest.raises(UserError, match="not an address on the hub"):
        locate("hf://owner")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (LocalEntryNotFoundError("offline"), "the hub cannot be reached"),
        (ConnectionError("refused"), "the hub cannot be reached"),
    ],
)
def test_an_unreachable_hub_is_reported(monkeypatch, error, message):
    def fail(**_):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(UserError, match=message):
        locate("hf://owner/name")


# Reading


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("made_by_the_pickle",)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_pickle_with_code_is_rejected_and_does_not_run(tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "step_1"
    if form == "pickle":
        path.write_bytes(pickle.dumps({"weight": Malicious()}))
    else:
        torch.save({"weight": Malicious()}, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(UserError, match=r"step_1: is a pickle that needs to run code.*refused"):
        read_state_dict(path)
    assert not (tmp_path / "made_by_the_pickle").exists()


def test_truncated_and_foreign_files_are_reported(tmp_path):
    whole = tmp_path / "whole"
    torch.save(randomised().state_dict(), whole)
    content = whole.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 0xFF
    save_file({"x": torch.zeros(100)}, tmp_path / "x.safetensors")
    cases = {
        "empty": b"",
        "half": content[: len(content) // 2],
        "flipped": bytes(flipped),
        "text": b"arch:\n  name: trm\n",
        "words": b"hello",  # also a pickle, which refers to a missing object
        "half.safetensors": (tmp_path / "x.safetensors").read_bytes()[:200],
        "text.safetensors": b"hello",
    }
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=f"{name}: is damaged"):
            read_state_dict(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"hello", "it begins with b'hell', unlike files of torch.save"),
        (b"\x80\x02he", "its pickled contents are truncated or garbled"),
        (b"\x80\x02", "its pickled contents are truncated or garbled"),
    ],
)
def test_the_error_explains_why_a_file_has_no_weights(tmp_path, content, reason):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(f"file: is damaged or not a weights file ({reason})")):
        read_state_dict(tmp_path / "file")


def test_random_bytes_after_the_start_of_a_pickle_give_that_error(tmp_path):
    rng = np.random.default_rng(0)
    for _ in range(300):
        (tmp_path / "file").write_bytes(b"\x80\x02" + rng.bytes(rng.integers(1, 40)))
        with pytest.raises(
            UserError, match=r"file: is (damaged or not a weights file|a pickle that needs to run code)"
        ):
            read_state_dict(tmp_path / "file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"w": torch.zeros(1)}, "step": 5}, "training state with the parts model, step"),
        ([torch.zeros(1)], "holds a list, not a state dict"),
        (torch.zeros(1), "holds a Tensor, not a state dict"),
        ({"w": torch.zeros(1), "epoch": 3}, "epoch is a int, but weights are all tensors"),
        ({"a._orig_mod.w": torch.zeros(1), "a.w": torch.zeros(1)}, "both with and without"),
    ],
)
def test_other_contents_are_rejected_with_a_message(tmp_path, content, message):
    torch.save(content, tmp_path / "file")
    with pytest.raises(UserError, match=message):
        read_state_dict(tmp_path / "file")


def test_a_full_training_state_is_detected_and_its_weights_are_suggested(tmp_path):
    (tmp_path / "state_step_7").mkdir()
    path = tmp_path / "state_step_7" / "1-shared.pt"
    torch.save({"model": {"w": torch.zeros(1)}, "step": 7}, path)
    with pytest.raises(UserError, match=str(tmp_path / "step_7")):
        read_state_dict(path)


# Names and shapes


@pytest.mark.parametrize(
    "renamed",
    [
        lambda name: name,
        lambda name: name.removeprefix("model."),
        lambda name: name.removeprefix("model.inner."),
        lambda name: f"module.{name}",
    ],
    ids=["loss head", "act model", "architecture", "wrapped"],
)
def test_weights_load_with_any_prefix_of_names(renamed):
    source, target = randomised(seed=1), randomised(seed=2)
    state = {renamed(name): value.clone() for name, value in source.state_dict().items()}
    load_weights(target, state, source="x", purpose="evaluate", notice=ignore)
    assert same_weights(target.state_dict(), source.state_dict())


def test_the_prefix_of_torch_compile_is_stripped_anywhere(tmp_path):
    state = randomised().state_dict()
    torch.save(
        {name.replace("inner.", "inner._orig_mod."): v for name, v in state.items()}, tmp_path / "inside"
    )
    torch.save({f"_orig_mod.{name}": v for name, v in state.items()}, tmp_path / "outside")
    assert same_weights(read_state_dict(tmp_path / "inside"), state)
    assert same_weights(read_state_dict(tmp_path / "outside"), state)


def test_a_mismatch_lists_names_and_does_not_change_the_model():
    model = randomised(TINY_ARCH | {"L_layers": 6})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = randomised(sizes=SIZES | {"vocab_size": 9}).state_dict()
    other |= {f"model.inner.extra.{i}": torch.zeros(2) for i in range(30)}
    with pytest.raises(WeightsMismatch) as caught:
        load_weights(model, other, source="FILE", purpose="finetune", notice=ignore)
    message = str(caught.value)
    assert "missing (20)" in message
    assert "unexpected (30)" in message
    assert "and 18 more" in message
    assert "lm_head.weight: (9, 32) in the weights, (7, 32) in the model" in message
    assert message.startswith("FILE")
    assert len(message.splitlines()) < 45
    assert same_weights(model.state_dict(), before)


def test_for_finetuning_a_table_of_another_size_becomes_its_mean_row_with_a_notice():
    source = randomised(sizes=SIZES | {"num_puzzle_identifiers": 5})
    target = randomised(sizes=SIZES | {"num_puzzle_identifiers": 3}, seed=1)
    notices: list[str] = []
    load_weights(target, source.state_dict(), source="FILE", purpose="finetune", notice=notices.append)
    mean = source.architecture.puzzle_emb.weights.mean(0)
    assert torch.allclose(target.architecture.puzzle_emb.weights, mean.expand(3, -1))
    assert len(notices) == 1
    assert "5 rows, not 3" in notices[0]


def test_for_evaluation_a_table_of_another_size_is_rejected_with_an_explanation():
    source = randomised(sizes=SIZES | {"num_puzzle_identifiers": 5})
    target = randomised(sizes=SIZES | {"num_puzzle_identifiers": 3})
    with pytest.raises(WeightsMismatch, match=r"(?s)5 puzzle identifiers, the data has 3.*identifiers\.json"):
        load_weights(target, source.state_dict(), source="FILE", purpose="evaluate", notice=ignore)


def test_for_evaluation_with_one_identifier_the_mean_row_is_used():
    source = randomised(sizes=SIZES | {"num_puzzle_identifiers": 5})
    target, notices = randomised(), []
    load_weights(target, source.state_dict(), source="FILE", purpose="evaluate", notice=notices.append)
    assert len(notices) == 1


def test_names_without_a_known_prefix_are_unchanged():
    state = {"a.weight": torch.zeros(1)}
    assert canonical_names(state).keys() == state.keys()


# Data against weights


def with_identifiers(folder: Path, names: list[str]) -> str:
    folder.mkdir()
    write_identifiers(folder, names)
    return str(folder)


def test_data_of_different_sizes_is_rejected_with_both_numbers(tmp_path):
    trained = open_trained(str(write_run(tmp_path / "run", randomised(), metadata=SIZES)))
    with pytest.raises(UserError, match=r"(?s)vocab_size: 7 in the weights, 12 in the data"):
        trained.sizes_for(SIZES | {"vocab_size": 12}, ["data/x"], ignore)
    with pytest.raises(UserError, match=r"(?s)seq_len: 16 in the weights, 36 in the data"):
        trained.sizes_for(SIZES | {"seq_len": 36}, ["data/x"], ignore)


def test_different_identifiers_are_rejected_and_equal_ones_accepted(tmp_path):
    same = with_identifiers(tmp_path / "same", ["<blank>", "a", "b", "c"])
    other = with_identifiers(tmp_path / "other", ["<blank>", "b", "a", "c"])
    sizes = SIZES | {"num_puzzle_identifiers": 4}
    metadata = sizes | {IDENTIFIERS_KEY: identifier_hashes([same])}
    trained = open_trained(str(write_run(tmp_path / "run", randomised(sizes=sizes), metadata=metadata)))
    notices: list[str] = []
    assert trained.sizes_for(sizes, [same], notices.append) == sizes
    assert not notices
    with pytest.raises(UserError, match=r"other/identifiers\.json: differs from the training data"):
        trained.sizes_for(sizes, [other], notices.append)


def test_one_of_several_training_datasets_is_evaluated_with_the_whole_table(tmp_path):
    first = with_identifiers(tmp_path / "first", ["<blank>", "a"])
    second = with_identifiers(tmp_path / "second", ["<blank>", "-", "b", "c"])
    sizes = SIZES | {"num_puzzle_identifiers": 4}
    metadata = sizes | {IDENTIFIERS_KEY: identifier_hashes([first, second])}
    trained = open_trained(str(write_run(tmp_path / "run", randomised(sizes=sizes), metadata=metadata)))
    built = trained.build(sizes=trained.sizes_for(sizes | {"num_puzzle_identifiers": 2}, [first], ignore))
    assert built.architecture.puzzle_emb.weights.shape[0] == 4


def test_weights_without_a_record_of_identifiers_are_used_with_a_warning(tmp_path):
    sizes = SIZES | {"num_puzzle_identifiers": 4}
    trained = open_trained(str(write_run(tmp_path / "run", randomised(sizes=sizes), metadata=sizes)))
    notices: list[str] = []
    trained.sizes_for(
        sizes, [with_identifiers(tmp_path / "data", ["<blank>", "a", "b", "c"])], notices.append
    )
    assert len(notices) == 1
    assert "has no record of its puzzle identifiers" in notices[0]


def test_the_config_of_another_program_is_rejected(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match=r"not written by export\.py"):
        open_trained(str(tmp_path))


def test_loading_returns_the_loss_head_in_evaluation_mode_on_the_device(tmp_path):
    model = randomised()
    loaded = models.load_pretrained(str(write_run(tmp_path / "run", model, metadata=SIZES)), device="cpu")
    assert isinstance(loaded, ACTLossHead)
    assert not loaded.training
    assert same_weights(
        loaded.state_dict(), build_model(TINY_ARCH, **SIZES).state_dict() | model.state_dict()
    )
