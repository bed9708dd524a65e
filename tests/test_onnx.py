"""A supervision step as ONNX: for every architecture ONNX Runtime computes what PyTorch computes."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch
from trained_folders import SIZES, TINY_ARCH, randomised, write_run

from evaluators.exports.onnx_check import NUM_STEPS, TOLERANCE, compare_with_torch
from evaluators.exports.onnx_step import DESCRIPTION_NAME, MODEL_NAME, PACKAGES, describe_step, onnx_bytes
from evaluators.inference import Solver
from export import main
from models.arch_configs import CONFIGS
from models.losses import ACTLossHead
from utils.errors import UserError

MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
SMALL = {"hidden_size": 16, "H_cycles": 1, "L_cycles": 1, "halt_max_steps": 4, "forward_dtype": "float32"}
LOCAL = {"name": "trm_local", **SMALL}
# One block a network, because the exporter takes a second for each application of one.
ARCHS = {
    "trm": {"num_heads": 2, "L_layers": 1, "puzzle_emb_ndim": 16, "puzzle_emb_len": 1},
    "trm_singlez": {"num_heads": 2, "L_layers": 1, "puzzle_emb_ndim": 0, "mlp_t": True},
    "trm_hier6": {"num_heads": 2, "L_layers": 1, "puzzle_emb_ndim": 0, "pos_encodings": "learned"},
    "hrm": {"num_heads": 2, "L_layers": 1, "H_layers": 1, "puzzle_emb_ndim": 16},
    "transformers_baseline": {"num_heads": 2, "H_layers": 1, "puzzle_emb_ndim": 0},
    "urm": {"num_heads": 2, "L_layers": 1, "puzzle_emb_ndim": 0},
    "se_rrm": {"num_heads": 2, "L_layers": 1},
    "trm_equivariant": {},
    "trm_local": {},
}


def contracting(arch: dict, sizes: dict = SIZES) -> ACTLossHead:
    """Build a model whose updates are small beside its latents, so that rounding does not grow from step to step."""
    model = randomised(arch, sizes)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("down_proj.weight", "o_proj.weight")):
                weight *= 0.2
    return model


def test_every_architecture_is_tested():
    assert ARCHS.keys() == CONFIGS.keys()


@needs_onnx
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "trm_local" else [pytest.mark.slow]) for name in ARCHS]
)
def test_onnx_runtime_agrees_with_pytorch_over_16_steps_in_batches_of_any_size(name):
    sizes = SIZES | {"num_puzzle_identifiers": 3 if ARCHS[name].get("puzzle_emb_ndim") else 1}
    model = contracting({"name": name, **SMALL, **ARCHS[name]}, sizes)
    agreement = compare_with_torch(onnx_bytes(model), model)
    assert NUM_STEPS == 16
    assert agreement.by_step <= TOLERANCE == 1e-4
    assert agreement.iterated <= TOLERANCE
    assert agreement.same_answers == 1
    outputs = describe_step(model)["outputs"]
    assert ("q_continue" in outputs) == (name in ("hrm", "transformers_baseline")), outputs


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folders of a run and of its ONNX file, written by the command."""
    root = tmp_path_factory.mktemp("onnx")
    arch = LOCAL | {"forward_dtype": "bfloat16"}
    run = write_run(root / "run", randomised(arch), arch, metadata=SIZES)
    main([f"checkpoint={run}", f"onnx={root / 'out'}"])
    return run, root / "out"


@needs_onnx
def test_a_program_needs_only_the_two_files_to_solve_puzzles(written):
    import onnxruntime

    from trained_run import open_trained

    run, folder = written
    assert {path.name for path in folder.iterdir()} == {MODEL_NAME, DESCRIPTION_NAME}
    described = json.loads((folder / DESCRIPTION_NAME).read_text())
    session = onnxruntime.InferenceSession(folder / described["file"], providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == described["inputs"]
    assert json.loads(session.get_modelmeta().custom_metadata_map["description"]) == described

    puzzles = np.random.default_rng(0).integers(1, 7, (5, 16)).astype(np.int32)
    latents = {
        name: np.broadcast_to(np.float32(one["values"]), (5, *one["shape"][1:])).copy()
        for name, one in described["latents"].items()
    }
    trained = open_trained(str(run))
    solver = Solver(trained.build(settings={"forward_dtype": "float32"}))
    for step in solver.refine(puzzles, max_steps=4):
        outputs = dict(
            zip(
                described["outputs"],
                session.run(described["outputs"], {"inputs": puzzles, **latents}),
                strict=True,
            )
        )
        latents = {name: outputs[f"next_{name}"] for name in latents}
        assert (outputs["logits"].argmax(-1) == step.answer.numpy()).all()
        assert outputs["confidence"] == pytest.approx(step.confidence.numpy(), abs=1e-4)
        assert outputs["q_halt"] == pytest.approx(step.q_halt.numpy(), abs=1e-4)


@needs_onnx
def test_the_initial_latents_are_exactly_the_models_and_for_random_ones_those_of_an_evaluation():
    for random_init in (False, True):
        model = randomised(LOCAL | {"random_init": random_init})
        (described,) = describe_step(model)["latents"].values()
        (latent,) = model.act.start_evaluation(1, torch.device("cpu"))
        found = np.broadcast_to(np.float32(described["values"]), described["shape"])
        assert (found == latent.numpy()).all()
        assert found.std(axis=1).max() > 0 if random_init else (found == found[:, :1]).all()


@needs_onnx
def test_an_onnx_file_of_other_weights_is_rejected():
    model = randomised(LOCAL)
    content = onnx_bytes(model)
    with torch.no_grad():
        model.architecture.lm_head.weight[0, 0] += 0.1
    with pytest.raises(UserError, match=r"differs by .* from PyTorch's, more than 0\.0001"):
        compare_with_torch(content, model)


def test_missing_packages_are_named_with_the_cure(tmp_path, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "onnxscript" else found(name, *rest)
    )
    with pytest.raises(SystemExit):
        main(["checkpoint=x", f"onnx={tmp_path / 'out'}"])
    message = capsys.readouterr().err
    assert "onnxscript" in message
    assert "pip install -r requirements-onnx.txt" in message
    assert not (tmp_path / "out").exists()


@needs_onnx
def test_a_model_that_adds_noise_has_no_onnx_file(tmp_path, capsys):
    arch = TINY_ARCH | {"noise": 0.1}
    run = write_run(tmp_path / "run", randomised(arch), arch, metadata=SIZES)
    with pytest.raises(SystemExit):
        main([f"checkpoint={run}", f"onnx={tmp_path / 'out'}"])
    assert "adds noise in each step (arch.noise=0.1)" in capsys.readouterr().err


@needs_onnx
def test_a_folder_with_other_files_is_not_touched(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(SystemExit):
        main(["checkpoint=x", f"onnx={tmp_path}"])
    assert f"onnx={tmp_path}: holds other files (mine.txt)" in capsys.readouterr().err
