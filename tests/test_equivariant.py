"""trm_equivariant: symmetries, grids of other sizes with the same weights, and units in dataset.json."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from sudoku_builds import build
from training_runs import train

from dataset.augment import SudokuSymmetry
from dataset.families.sudoku.rules import BoxShape, random_symmetries
from dataset.units import CellUnits
from models.ops import few_rows
from models.registry import build_model
from puzzle_dataset import PuzzleDataset
from utils.errors import UserError

ARCH = {"name": "trm_equivariant", "hidden_size": 12, "forward_dtype": "float32", "halt_max_steps": 3}
BOXES = [BoxShape(2, 2), BoxShape(2, 3), BoxShape(3, 2), BoxShape(3, 3)]


def model(num_cells: int, num_symbols: int, units: CellUnits | None = None, **arch):
    torch.manual_seed(0)
    sizes = {"seq_len": num_cells, "vocab_size": num_symbols + 2, "num_puzzle_identifiers": 1}
    built = build_model(ARCH | arch, **sizes, units=units and units.to_json()).eval()
    with torch.no_grad():
        built.architecture.q_head.weight.normal_()
    return built


@torch.no_grad()
def answer(built, tokens: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of the symbols (B, S, N) and q_halt (B,) after two supervision steps."""
    inner = built.architecture
    state = inner.initial_state(len(tokens))
    for _ in range(2):
        state, (logits, q_halt, _) = inner(state, torch.from_numpy(tokens), None)
    return logits[..., 2:], q_halt


def sources(symmetry: SudokuSymmetry, size: int) -> np.ndarray:
    """Return for each cell of the image (S,) the cell of the original grid that it comes from."""
    cells = np.arange(size * size).reshape(size, size)
    cells = cells.T if symmetry.transpose else cells
    return cells[symmetry.rows][:, symmetry.columns].ravel()


@pytest.mark.parametrize("pooling", ["mean", "mean_max"])
@pytest.mark.parametrize("box", BOXES, ids=str)
def test_a_symmetry_of_the_puzzle_permutes_the_logits_and_keeps_halting(box, pooling):
    built = model(box.num_cells, box.size, CellUnits.of_boxes(box.rows, box.columns), pooling=pooling)
    rng = np.random.default_rng(0)
    values = rng.integers(0, box.size + 1, (6, box.num_cells))
    drawn = random_symmetries(rng, 6, box)
    moved, expected = [], []
    logits, q_halt = answer(built, values + 1)
    for i in range(6):
        fields = (drawn.digits[i], drawn.rows[i], drawn.columns[i], drawn.transpose[i])
        cells, digits = sources(SudokuSymmetry(*fields), box.size), drawn.digits[i].astype(int)
        moved.append(digits[values[i][cells]] + 1)
        image = torch.empty_like(logits[i])
        image[:, digits[1:] - 1] = logits[i][cells]
        expected.append(image)
    moved_logits, moved_q = answer(built, np.stack(moved))
    torch.testing.assert_close(moved_logits, torch.stack(expected), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moved_q, q_halt, rtol=1e-4, atol=1e-4)
    assert logits.std() > 0.01


@pytest.mark.parametrize(
    "units",
    [CellUnits(axes=(4, 4), kinds=(((1,), (0,)),)), CellUnits.of_boxes(2, 2)],
    ids=["latin", "sudoku"],
)
def test_a_cell_depends_on_exactly_the_cells_in_its_units(units):
    built = model(16, 4, units, H_cycles=1, L_cycles=1, pooling="mean")
    inner = built.architecture
    x = torch.zeros(1, 64, 12)
    h = torch.randn(1, 64, 12, requires_grad=True)
    out = inner.f(inner.L_level, h, x).view(16, 4, 12)
    (grad,) = torch.autograd.grad(out[5].sum(), h)  # the cell in row 1, column 1
    heard = grad.view(16, 4, 12).abs().sum((1, 2)) > 0
    row, column, box = {4, 5, 6, 7}, {1, 5, 9, 13}, {0, 1, 4, 5}
    boxes = box if len(units.axes) == 4 else set()
    assert set(heard.nonzero().flatten().tolist()) == row | column | boxes


def test_the_same_weights_work_for_grids_of_any_size():
    small = model(16, 4)
    for box in (BoxShape(2, 3), BoxShape(3, 3), BoxShape(4, 4)):
        large = model(box.num_cells, box.size)
        large.load_state_dict(small.state_dict())
        tokens = np.random.default_rng(0).integers(1, box.size + 2, (2, box.num_cells))
        logits, q_halt = answer(large, tokens)
        assert logits.shape == (2, box.num_cells, box.size)
        assert logits.isfinite().all()
        assert q_halt.isfinite().all()


@torch.no_grad()
def test_pad_and_blank_are_never_predicted():
    built = model(16, 4)
    inner = built.architecture
    _, (logits, _, _) = inner(inner.initial_state(2), torch.ones(2, 16, dtype=torch.int32), None)
    assert (logits.argmax(-1) >= 2).all()


@pytest.fixture(scope="module")
def sudoku6x6(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tall") / "data"
    options = ["--size", "6", "--box-shape", "3x2", "--generate", "24", "--test-size", "8", "--num-aug", "0"]
    build("--output-dir", folder, *options)
    return folder


def test_the_units_are_those_of_the_recorded_boxes(sudoku6x6):
    data = PuzzleDataset([str(sudoku6x6)], "test", global_batch_size=8)
    assert CellUnits.from_json(data.model_sizes["units"], "") == CellUnits.of_boxes(3, 2)
    assert CellUnits.usual(36) == CellUnits.of_boxes(2, 3)


def test_it_trains_evaluates_and_records_its_units(sudoku6x6, tmp_path):
    run = tmp_path / "run"
    settings = ("arch=trm_equivariant", "arch.hidden_size=8", "arch.num_heads=1", "arch.puzzle_emb_len=0")
    assert train(sudoku6x6, run, *settings) == 0
    recorded = json.loads((run / "metadata.json").read_text())
    assert CellUnits.from_json(recorded["units"], "") == CellUnits.of_boxes(3, 2)


def test_a_dataset_of_another_family_can_define_units(tmp_path, sudoku6x6):
    path = stated(tmp_path, sudoku6x6, {"axes": [6, 6], "kinds": [[[1], [0]]]})
    data = PuzzleDataset([path], "test", global_batch_size=8)
    assert CellUnits.from_json(data.model_sizes["units"], "") == CellUnits((6, 6), (((1,), (0,)),))


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ({"axes": [6, 5], "kinds": [[[1], [0]]]}, "has 30 cells, but seq_len is 36"),
        ({"axes": [6, 6], "kinds": [[[2]]]}, r"the extent \[2\] must name some of the 2 axes"),
        ({"axes": [6, 6], "kinds": []}, "needs at least one extent"),
        ({"axes": [6.0, 6], "kinds": [[[1], [0]]]}, "6.0 is not a whole number"),
        ([6, 6], "must have the keys axes and kinds"),
    ],
)
def test_invalid_units_are_rejected_with_the_file(units, message, tmp_path, sudoku6x6):
    path = stated(tmp_path, sudoku6x6, units)
    with pytest.raises(UserError, match=message) as caught:
        _ = PuzzleDataset([path], "test", global_batch_size=8).model_sizes
    assert path in str(caught.value)


def test_a_grid_without_units_is_rejected():
    with pytest.raises(ValueError, match="30 cells do not form a Sudoku grid"):
        model(30, 6)


def stated(tmp_path, source, units) -> str:
    """Copy a dataset, with these units and without a family in dataset.json."""
    folder = tmp_path / "data"
    shutil.copytree(source, folder)
    for split in ("train", "test"):
        path = folder / split / "dataset.json"
        metadata = json.loads(path.read_text())
        for key in ("family", "box_shape"):
            metadata.pop(key, None)
        path.write_text(json.dumps(metadata | {"units": units}))
    return str(folder)


def test_lookups_in_a_small_table_and_their_gradients_equal_those_of_an_embedding():
    table = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([[2, 0, 2, 2], [0, 0, 2, 0]])  # without 1
    found, expected = few_rows(table, ids), torch.nn.functional.embedding(ids, table)
    assert torch.equal(found, expected)
    upstream = torch.randn_like(expected)
    gradients = [torch.autograd.grad(rows, table, upstream)[0] for rows in (found, expected)]
    torch.testing.assert_close(*gradients)
    assert (gradients[0][1] == 0).all()
