"""A user's own model is tried before anything is written, and its faults end in one line."""

from __future__ import annotations

import pytest
import torch

from data.loading.split import Split
from models.registry import build
from system.errors import InputError
from tests.own_model import OWN_MODEL
from utils.running.own_model import try_to_predict, try_to_save, try_to_train
from utils.tasks import SENTIMENT

RETURN = "return self.net(torch.cat([x.mean(dim=1) for x in (visual, audio, text)], dim=1))"
INIT = "self.net = nn.Sequential(hidden, nn.ReLU(), nn.Linear(config.hidden, outputs))"


@pytest.fixture
def try_model(small, tmp_path):
    """Build the example model with changes, and try it: `try_model((old, new), batch_size=4)`."""

    def run(*changes, batch_size=16, processes=1, accumulation_steps=1):
        text = OWN_MODEL
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "mine.py").write_text(text)
        split, name = Split(small / "train"), f"{tmp_path / 'mine.py'}:Mean"
        model = build(name, {}, split.widths, 1)
        try_to_predict(name, model, split)
        try_to_train(name, model, split, SENTIMENT, batch_size, processes, accumulation_steps)
        try_to_save(name, model)
        return model

    return run


SPARSE = """self.net = nn.Embedding(4, outputs, sparse=True)
        self.net.register_forward_pre_hook(lambda _, x: (x[0][:, 0].long() * 0,))"""
BATCH_NORM = (INIT, INIT.replace("nn.ReLU()", "nn.BatchNorm1d(config.hidden)"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((RETURN, "raise RuntimeError('one\\ntwo')"), r"does not predict \(RuntimeError: one\)"),
        ((RETURN, "import sys; sys.exit(3)"), r"does not predict \(SystemExit: 3\)"),
        ((RETURN, RETURN + "[:, 0]"), r"predicts shape \(2,\), expected \(2, 1\)"),
        (
            (RETURN, RETURN + ".squeeze(1 if self.training else 2)"),
            r"predicts shape|does not predict",
        ),
        (
            (RETURN, "assert not self.training, 'no'\n        " + RETURN),
            r"does not train \(AssertionError: no\)",
        ),
        ((RETURN, RETURN + ".detach()"), "depends on no trainable weight"),
        ((INIT, INIT + "\n        self.requires_grad_(False)"), "depends on no trainable weight"),
        (
            (
                RETURN,
                RETURN.replace("return", "y =") + ".exp()\n        return (y * y, y.add_(1))[0]",
            ),
            "does not train .*inplace",
        ),
        (
            (INIT, SPARSE),
            r"does not train: net\.weight has sparse gradients, .* leave sparse=True out",
        ),
        ((INIT, "self.net = nn.LazyLinear(outputs)"), "only when it is called .net.weight, net.b"),
        (
            (RETURN, "self.late = nn.Linear(1, 1)\n        " + RETURN),
            "only when it is called .late.bias, late.weight.",
        ),
        ((INIT, INIT + "\n        raise SystemExit(3)"), r"cannot be built \(SystemExit: 3\)"),
        (("hidden: int = 16", "hidden: list = ()"), r"hidden is \(\), expected one value"),
    ],
)
def test_a_model_that_cannot_be_trained_or_read_back_is_refused(try_model, change, message):
    with pytest.raises(InputError, match=message) as caught:
        try_model(change)
    assert "mine.py:Mean" in str(caught.value)
    assert "\n" not in str(caught.value)


EXTRA = """

    def get_extra_state(self):
        return {'steps': 0}

    def set_extra_state(self, state):
        pass"""
COMPLEX = "self.filter = nn.Parameter(torch.ones(2, dtype=torch.cfloat))"
HOLDS_NAN = "self.mask = nn.Parameter(torch.full((2,), -torch.inf), requires_grad=False)"


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("torch.polar(torch.ones(4), torch.arange(4.0))", "torch.complex64, torch.strided"),
        ("torch.ones(2, dtype=torch.uint16)", "torch.uint16"),
        ("torch.ones(2).to(torch.float8_e4m3fn)", "torch.float8_e4m3fn"),
        ("torch.arange(5).expand(3, 5)", "torch.int64"),
        ("torch.eye(3).to_sparse()", "torch.float32, torch.sparse_coo"),
        ("torch.eye(3).to_sparse_csr()", "torch.float32, torch.sparse_csr"),
    ],
)
def test_a_buffer_that_no_checkpoint_can_hold_is_kept_out_of_it_or_refused(try_model, value, kind):
    def register(options):
        return INIT, f"{INIT}\n        self.register_buffer('table', {value}{options})"

    try_model(register(", persistent=False"))
    with pytest.raises(
        InputError, match=rf"cannot hold table \({kind}.*persistent=False"
    ) as caught:
        try_model(register(""))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((RETURN, RETURN + EXTRA), r"cannot hold _extra_state \(dict\), only dense tensors"),
        ((INIT, f"{INIT}\n        {COMPLEX}"), r"cannot hold filter \(torch\.complex64"),
        ((INIT, f"{INIT}\n        {HOLDS_NAN}"), "its checkpoint: mask holds NaN, infinity"),
        (
            (
                "hidden: int = 16",
                "hidden: int = 16\n        where: Path = __import__('pathlib').Path()",
            ),
            r"cannot hold PosixPath\('.'\), the where of its config",
        ),
        (
            (
                RETURN,
                RETURN + "\n\n    def state_dict(self, **_):\n        return self.net.state_dict()",
            ),
            "could not load its own checkpoint .*Missing key",
        ),
        (
            (
                RETURN,
                RETURN + "\n\n    def state_dict(self, **_):\n        raise RuntimeError('no')",
            ),
            r"has no state_dict\(\) to save \(RuntimeError: no\)",
        ),
    ],
)
def test_a_model_that_could_not_load_its_checkpoint_is_refused(try_model, change, message):
    with pytest.raises(InputError, match=message) as caught:
        try_model(change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("batch_size", [1, 37, 74])
def test_a_batch_of_one_segment_is_tried_where_there_will_be_one(try_model, batch_size):
    """The split has 75 segments."""
    with pytest.raises(InputError, match=r"on a batch of one segment.*--batch_size .ValueError"):
        try_model(BATCH_NORM, batch_size=batch_size)
    try_model(batch_size=batch_size)


@pytest.mark.parametrize(
    ("batch_size", "processes"),
    [(73, 2), (72, 2), (72, 4), (37, 2), (2, 2), (100, 60)],
)
def test_a_share_of_one_segment_is_tried_where_a_process_has_one(try_model, batch_size, processes):
    """A process without a share, which a last batch of one leaves, trains on a row of zeros."""
    with pytest.raises(InputError, match=r"on a process's share of a batch of one.*--batch_size"):
        try_model(BATCH_NORM, batch_size=batch_size, processes=processes)
    try_model(batch_size=batch_size, processes=processes)


SQUEEZED = (RETURN, RETURN + ".squeeze()[:, None]")


@pytest.mark.parametrize(
    ("batch_size", "processes", "steps"), [(16, 1, 16), (5, 1, 3), (20, 2, 6), (76, 1, 40)]
)
def test_a_part_of_one_segment_is_tried_where_there_will_be_one(
    try_model, batch_size, processes, steps
):
    sizes = {"batch_size": batch_size, "processes": processes, "accumulation_steps": steps}
    message = r"on a part of a .*batch of one segment.*--accumulation_steps .IndexError"
    with pytest.raises(InputError, match=message):
        try_model(SQUEEZED, **sizes)
    try_model(**sizes)


@pytest.mark.parametrize(("batch_size", "steps"), [(25, 12), (16, 5), (75, 37)])
def test_a_model_that_needs_two_segments_trains_in_parts_of_two(try_model, batch_size, steps):
    try_model(SQUEEZED, batch_size=batch_size, accumulation_steps=steps)
    try_model(BATCH_NORM, batch_size=batch_size, accumulation_steps=100)


@pytest.mark.parametrize(("batch_size", "processes"), [(71, 2), (4, 1), (100, 2), (100, 37)])
def test_a_model_that_needs_two_segments_trains_where_each_process_has_two(
    try_model, batch_size, processes
):
    try_model(BATCH_NORM, batch_size=batch_size, processes=processes)


def test_a_trial_changes_no_weight_or_buffer(try_model):
    state = torch.get_rng_state()
    model = try_model(BATCH_NORM, batch_size=25)
    torch.set_rng_state(state)
    other = build_again(model)
    for (name, value), expected in zip(
        model.state_dict().items(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(value, expected), name
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_buffer_that_the_model_replaces_is_restored(try_model):
    mean = "self.register_buffer('mean', torch.zeros(1))"
    update = "if self.training:\n            self.mean = self.mean + visual.mean()\n        "
    model = try_model((INIT, f"{INIT}\n        {mean}"), (RETURN, update + RETURN))
    assert model.mean == 0


def test_a_buffer_that_cannot_be_written_to_is_accepted(try_model):
    ones = "self.register_buffer('ones', torch.ones(1).expand(16), persistent=False)"
    try_model((INIT, f"{INIT}\n        {ones}"), (RETURN, RETURN + " * self.ones[0]"))


def build_again(model):
    return type(model)(model.config, model.widths, model.outputs)
