"""BERT folders of every layout, and what can be wrong with one."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from unittest.mock import Mock

import huggingface_hub
import pytest
import torch
from huggingface_hub.utils import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytorch_pretrained_bert import BertConfig, BertForPreTraining, BertModel
from safetensors.torch import save_file
from torch import nn

from data.text.bert import load_bert
from data.text.bert_files import find_bert
from system.bert import Bert
from system.errors import InputError

PIECES = "[PAD] [UNK] [CLS] [SEP] [MASK] great bad film ##s the a movie".split()
CONFIG = {
    "vocab_size": 14,  # more than there are pieces, as in some released BERTs
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 60,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
}
# What Hugging Face's configurations hold besides.
CONFIG_OF_TODAY = {
    **CONFIG,
    "architectures": ["BertForMaskedLM"],
    "classifier_dropout": None,
    "gradient_checkpointing": False,
    "layer_norm_eps": 1e-12,
    "model_type": "bert",
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "use_cache": True,
}
A_LAYER_WEIGHT = "encoder.layer.1.attention.output.dense.weight"


def random_model(**changes) -> BertForPreTraining:
    """A BERT with the heads it was pre-trained with, every weight away from 0 and 1."""
    torch.manual_seed(7)
    sizes = {**CONFIG, **changes}
    model = BertForPreTraining(BertConfig(sizes.pop("vocab_size"), **sizes))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model.eval()


def random_batch():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(len(PIECES), (3, 20), generator=generator)
    mask = (torch.arange(20) < torch.tensor([[20], [7], [2]])).long()
    return ids, mask


@torch.no_grad()
def features(model: BertModel) -> torch.Tensor:
    ids, mask = random_batch()
    return model(ids, attention_mask=mask, output_all_encoded_layers=False)[0]


def assert_same_weights(loaded: Bert, expected: BertModel):
    weights = {k: v for k, v in expected.state_dict().items() if not k.startswith("pooler.")}
    torch.testing.assert_close(dict(loaded.state_dict()), weights, atol=0, rtol=0)


def write_vocabulary(folder: Path, pieces=PIECES):
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")


def encoder_weights(model=None):
    return dict((model or random_model()).bert.state_dict())


def names_of_yesterday(model):
    """Name the weights as pytorch_pretrained_bert's own, converted files do."""
    norms = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    weights = {}
    for name, tensor in model.state_dict().items():
        for modern, old in norms.items():
            name = name.replace(modern, old)
        weights[name] = tensor
    return weights


def write_yesterday(folder, model):
    (folder / "bert_config.json").write_text(json.dumps(CONFIG))
    torch.save(
        names_of_yesterday(model),
        folder / "pytorch_model.bin",
        _use_new_zipfile_serialization=False,
    )


def write_yesterday_with_todays_file_format(folder, model):
    (folder / "bert_config.json").write_text(json.dumps(CONFIG))
    torch.save(names_of_yesterday(model), folder / "pytorch_model.bin")


def write_today(folder, model):
    (folder / "config.json").write_text(json.dumps(CONFIG_OF_TODAY))
    save_file(encoder_weights(model), folder / "model.safetensors")


def write_today_with_heads(folder, model):
    (folder / "config.json").write_text(json.dumps(CONFIG_OF_TODAY))
    # Its heads share the word embeddings, which safetensors does not store twice.
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")


def write_today_without_pooler(folder, model):
    (folder / "config.json").write_text(json.dumps(CONFIG_OF_TODAY))
    weights = {k: v for k, v in encoder_weights(model).items() if not k.startswith("pooler.")}
    save_file(weights, folder / "model.safetensors")


def write_today_as_bin(folder, model):
    (folder / "config.json").write_text(json.dumps(CONFIG_OF_TODAY))
    weights = {f"bert.{name}": tensor for name, tensor in encoder_weights(model).items()}
    weights["bert.embeddings.position_ids"] = torch.arange(60)[None]
    torch.save(weights, folder / "pytorch_model.bin")


LAYOUTS = [
    write_yesterday,
    write_yesterday_with_todays_file_format,
    write_today,
    write_today_with_heads,
    write_today_without_pooler,
    write_today_as_bin,
]


@pytest.fixture
def bert(tmp_path):
    """A folder in today's layout, whole."""
    write_vocabulary(tmp_path)
    write_today(tmp_path, random_model())
    return tmp_path


@pytest.fixture(scope="module")
def weight_files(tmp_path_factory):
    """The same weights in each file format, by name; each in a folder that is whole."""
    writers = {"safetensors": write_today, "zip": write_today_as_bin, "legacy": write_yesterday}
    files = {}
    for name, write in writers.items():
        folder = tmp_path_factory.mktemp(name)
        write_vocabulary(folder)
        write(folder, random_model())
        (files[name],) = [*folder.glob("*.bin"), *folder.glob("*.safetensors")]
    return files


def refusal(folder, *parts):
    """Load `folder`; returns the error, one line that holds all `parts`."""
    with pytest.raises(InputError) as caught:
        load_bert(folder)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message
    return message


# ---------------------------------------------------------------- folders that are right


@pytest.mark.parametrize("write", LAYOUTS)
def test_every_layout_gives_the_same_features(tmp_path, write):
    model = random_model()
    write_vocabulary(tmp_path)
    write(tmp_path, model)
    tokenizer, loaded = load_bert(tmp_path)
    assert tokenizer.tokenize("The GREAT films") == ["the", "great", "film", "##s"]
    assert not loaded.training
    assert_same_weights(loaded, model.bert)
    with torch.no_grad():
        found = loaded(*random_batch())
    torch.testing.assert_close(found, features(model.bert), atol=1e-5, rtol=0)


def test_half_precision_weights_compute_in_full(bert):
    model = random_model().half()
    save_file(encoder_weights(model), bert / "model.safetensors")
    assert_same_weights(load_bert(bert)[1], model.float().bert)


def test_a_whole_number_is_a_dropout_too(bert):
    values = {**CONFIG, "hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}
    (bert / "config.json").write_text(json.dumps(values))
    assert_same_weights(load_bert(bert)[1], random_model().bert)


def test_safetensors_come_before_the_pickle(bert):
    (bert / "pytorch_model.bin").write_bytes(b"not looked at")
    load_bert(bert)


# ---------------------------------------------------------------- folders that are not


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "no config.json or bert_config.json"),
        ("vocab.txt", "no vocab.txt"),
        ("model.safetensors", "no model.safetensors or pytorch_model.bin"),
    ],
)
def test_a_missing_file_is_named(bert, missing, message):
    (bert / missing).unlink()
    refusal(bert, bert, message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"{'vocab_size': 14}", "not JSON"),
        (b'{"vocab_size": 14', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "vocab_size"),
        (b"14", "vocab_size"),
        (b"{}", "vocab_size"),
    ],
)
def test_a_configuration_that_is_none(bert, content, message):
    (bert / "config.json").write_bytes(content)
    refusal(bert, bert / "config.json", message)


@pytest.mark.parametrize("value", ["14", None, 14.0, True, 0, -1, [14]])
@pytest.mark.parametrize(
    "name",
    [
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
        "type_vocab_size",
    ],
)
def test_a_size_that_is_none(bert, name, value):
    (bert / "config.json").write_text(json.dumps({**CONFIG, name: value}))
    refusal(bert, bert / "config.json", name, repr(value))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "mish"}, "'mish'"),
        ({"hidden_act": None}, "None"),
        ({"hidden_act": ["gelu"]}, "gelu"),
        ({"num_attention_heads": 3}, "16 is not divisible by 3 heads"),
        ({"layer_norm_eps": "0.5"}, "layer_norm_eps is '0.5', expected float"),
        ({"layer_norm_eps": 1}, "layer_norm_eps is 1: expected a number above 0, below 1"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps is 0.0: expected a number above 0, below 1"),
    ],
)
def test_other_nonsense_in_the_configuration(bert, changes, message):
    (bert / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    refusal(bert, bert / "config.json", message)


def test_sizes_beyond_any_memory_are_refused_before_they_are_taken(bert):
    (bert / "config.json").write_text(json.dumps({**CONFIG, "hidden_size": 2**16}))
    refusal(bert, bert / "model.safetensors", "(14, 16)", "(14, 65536)")
    (bert / "config.json").write_text(json.dumps({**CONFIG, "hidden_size": 16 * 10**6}))
    refusal(bert, bert / "config.json", "hidden_size is 16000000", "at most 65536")


def test_a_vocabulary_without_special_pieces(bert):
    write_vocabulary(bert, [piece for piece in PIECES if piece != "[CLS]"])
    assert "[SEP]" not in refusal(bert, bert / "vocab.txt", "[CLS]")


def test_a_vocabulary_that_is_not_text(bert):
    (bert / "vocab.txt").write_bytes(b"[PAD]\n\xff\xfe\n")
    refusal(bert, bert / "vocab.txt")


def test_a_vocabulary_with_a_mark_in_front(bert):
    """Some editors write one."""
    (bert / "vocab.txt").write_bytes(b"\xef\xbb\xbf" + (bert / "vocab.txt").read_bytes())
    assert load_bert(bert)[0].vocab["[PAD]"] == 0


def test_a_vocabulary_larger_than_the_table(bert):
    write_vocabulary(bert, [*PIECES, "one", "two", "three"])
    refusal(bert, bert / "vocab.txt", "15", "14")


def test_a_piece_given_twice_counts_twice(bert):
    # Its last number is what counts: that row must be there.
    write_vocabulary(bert, [*PIECES, "great", "great", "great"])
    refusal(bert, bert / "vocab.txt", "15", "14")


def test_a_layer_of_another_width(bert):
    weights = encoder_weights() | {A_LAYER_WEIGHT: torch.zeros(16, 15)}
    save_file(weights, bert / "model.safetensors")
    refusal(bert, bert / "model.safetensors", A_LAYER_WEIGHT, "(16, 15) instead of (16, 16)")


def test_a_missing_weight(bert):
    weights = encoder_weights()
    del weights[A_LAYER_WEIGHT], weights["embeddings.LayerNorm.bias"]
    save_file(weights, bert / "model.safetensors")
    refusal(bert, bert / "model.safetensors", "missing: embeddings.LayerNorm.bias, encoder")


@pytest.mark.parametrize("name", ["int8", "bool", "complex64", "float4_e2m1fn_x2"])
def test_weights_of_another_type(bert, name):
    # As numbers they would be used without their scales, or in part.
    weights, dtype = encoder_weights(), getattr(torch, name, None)
    if dtype is None:
        pytest.skip("of a later PyTorch")
    bits = torch.zeros(16, 16 * dtype.itemsize, dtype=torch.uint8)
    save_file(weights | {A_LAYER_WEIGHT: bits.view(dtype)}, bert / "model.safetensors")
    wanted = f"of another type: {A_LAYER_WEIGHT} torch.{name} instead of torch.float32"
    refusal(bert, bert / "model.safetensors", wanted)


def test_a_weight_under_two_names(bert):
    weights = encoder_weights()
    weights[f"bert.{A_LAYER_WEIGHT}"] = 2 * weights[A_LAYER_WEIGHT]
    save_file(weights, bert / "model.safetensors")
    refusal(bert, bert / "model.safetensors", f"has {A_LAYER_WEIGHT} under two names")


def test_many_more_tensors_than_a_bert_has(bert):
    # Each takes some 80 microseconds to read, and far more memory than in the file.
    save_file({str(k): torch.zeros(0) for k in range(50_001)}, bert / "model.safetensors")
    refusal(bert, bert / "model.safetensors", "it has 50,001 tensors")


def test_weights_of_another_kind_of_model(bert):
    named = {f"roberta.{name}": tensor for name, tensor in encoder_weights().items()}
    save_file(named, bert / "model.safetensors")
    refusal(bert, bert / "model.safetensors", "no weights named embeddings.* or encoder.*")


def test_weights_that_are_no_numbers(bert):
    weights = encoder_weights() | {A_LAYER_WEIGHT: torch.full((16, 16), torch.nan)}
    save_file(weights, bert / "model.safetensors")
    refusal(bert, bert / "model.safetensors", f"{A_LAYER_WEIGHT} holds NaN")


def test_another_pooler_does_not_matter(bert):
    weights = encoder_weights() | {"pooler.dense.weight": torch.zeros(3, 3)}
    save_file(weights, bert / "model.safetensors")
    assert_same_weights(load_bert(bert)[1], random_model().bert)


@pytest.mark.parametrize(("layers", "problem"), [(3, "unexpected: "), (1, "missing: ")])
def test_more_or_fewer_layers(bert, layers, problem):
    save_file(encoder_weights(random_model(num_hidden_layers=layers)), bert / "model.safetensors")
    refusal(bert, bert / "model.safetensors", problem, "encoder.layer.")


@pytest.mark.parametrize(
    "content",
    [[], {"a": 1}, {0: torch.zeros(1)}, torch.zeros(1), {"model": {"a": torch.zeros(1)}}],
)
def test_a_pickle_of_something_else(bert, content):
    (bert / "model.safetensors").unlink()
    torch.save(content, bert / "pytorch_model.bin")
    refusal(bert, bert / "pytorch_model.bin")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_what_is_there_instead_of_weights_is_told(bert, name):
    (bert / "model.safetensors").unlink()
    (bert / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    refusal(bert, bert / name, "is a Git-LFS pointer", "git lfs pull", "fetch it again")


class RunsCode:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("dump", [torch.save, lambda value, path: path.write_bytes(value)])
def test_a_pickle_that_would_run_code_does_not(bert, dump):
    (bert / "model.safetensors").unlink()
    mark = bert / "code was run"
    content = RunsCode(mark) if dump is torch.save else pickle.dumps(RunsCode(mark), protocol=2)
    dump(content, bert / "pytorch_model.bin")
    refusal(bert, bert / "pytorch_model.bin")
    assert not mark.exists()


damage_settings = settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("file_format", ["safetensors", "zip", "legacy"])
@given(share=st.floats(0, 1, exclude_max=True))
@damage_settings
def test_a_cut_off_file_is_refused(weight_files, tmp_path, file_format, share):
    path = tmp_path / weight_files[file_format].name
    shutil.copytree(weight_files[file_format].parent, tmp_path, dirs_exist_ok=True)
    whole = weight_files[file_format].read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    refusal(tmp_path, path)


@pytest.mark.parametrize("file_format", ["safetensors", "zip", "legacy"])
@given(data=st.data())
@damage_settings
def test_damage_ends_in_an_input_error_or_goes_unnoticed(weight_files, tmp_path, file_format, data):
    path = tmp_path / weight_files[file_format].name
    shutil.copytree(weight_files[file_format].parent, tmp_path, dirs_exist_ok=True)
    content = bytearray(weight_files[file_format].read_bytes())
    # Names, shapes and places stand at the ends; the numbers between cannot be wrong.
    ends = st.integers(0, 3000) | st.integers(len(content) - 3000, len(content) - 1)
    for place in data.draw(st.lists(ends, min_size=1, max_size=5)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        load_bert(tmp_path)
    except InputError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)


# ---------------------------------------------------------------- names on the hub


@pytest.fixture
def hub(monkeypatch, bert):
    """The Hugging Face hub, holding `bert` as somebody/bert; collects what is asked for."""
    asked = []

    def download(name, file, revision=None):
        assert revision == (None if file == "config.json" else bert.name)
        asked.append((name, file))
        if not (bert / file).is_file():
            raise EntryNotFoundError(f"404: {file}")
        return str(bert / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def files(asked):
    return {file for _, file in asked}


def test_a_name_is_fetched(hub, bert):
    assert find_bert("somebody/bert") == (bert, bert.name)  # a folder has a commit's name
    assert {name for name, _ in hub} == {"somebody/bert"}
    assert files(hub) == {"config.json", "vocab.txt", "model.safetensors"}
    load_bert(bert)


def test_a_name_without_safetensors_is_fetched_as_a_pickle(hub, bert):
    (bert / "model.safetensors").unlink()
    (bert / "pytorch_model.bin").touch()
    assert find_bert("somebody/bert")[0] == bert
    assert "pytorch_model.bin" in files(hub)


@pytest.mark.parametrize("file", ["config.json", "vocab.txt", "model.safetensors"])
def test_a_name_that_lacks_a_file(hub, bert, file):
    (bert / file).unlink()
    with pytest.raises(InputError, match="'somebody/bert' could not be fetched"):
        find_bert("somebody/bert")


def test_a_connection_lost_before_the_weights_asks_for_nothing_more(hub, bert, monkeypatch):
    download = huggingface_hub.hf_hub_download

    def broken(name, file, revision=None):
        path = download(name, file, revision)
        if file == "model.safetensors":
            raise LocalEntryNotFoundError("no connection")
        return path

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", broken)
    with pytest.raises(InputError, match="no connection"):
        find_bert("somebody/bert")
    assert "pytorch_model.bin" not in files(hub)


class BrokenOffError(Exception):
    """What the hub's client lets through of its HTTP library, which differs by version."""


@pytest.mark.parametrize(
    "error",
    [
        LocalEntryNotFoundError("Cannot find the requested files.\nCheck your connection."),
        RepositoryNotFoundError("404\n\nRepository Not Found", response=Mock(headers={})),
        BrokenOffError("peer closed connection"),
        ConnectionError(),
        OSError("\n"),
        ValueError("Repo id must be ..."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_name_that_cannot_be_fetched(monkeypatch, error):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", Mock(side_effect=error))
    with pytest.raises(InputError, match="'somebody/bert' could not be fetched") as caught:
        find_bert("somebody/bert")
    assert "\n" not in str(caught.value)
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    assert first_line in str(caught.value)


def test_a_name_that_can_be_none(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="somebody/bert/base"):
        find_bert("somebody/bert/base")


def test_a_folder_is_taken_as_it_is(bert, hub):
    assert find_bert(str(bert)) == (bert, None)
    assert not hub


@pytest.mark.parametrize("path", ["vocab.txt", "nowhere"])
def test_a_path_that_is_no_folder_is_not_asked_for(bert, hub, path):
    with pytest.raises(InputError, match="is not a folder"):
        find_bert(str(bert / path))
    with pytest.raises(InputError, match="is not a folder"):
        find_bert("./nowhere")
    assert not hub


# ---------------------------------------------------------------- tokenizer.json


def write_tokenizer(folder, numbers, **changes):
    """Write the vocabulary as Hugging Face's fast tokenizers have it, alone."""
    (folder / "vocab.txt").unlink(missing_ok=True)
    model = {"type": "WordPiece", "continuing_subword_prefix": "##", "vocab": numbers, **changes}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model}))


def numbered(pieces=PIECES):
    return {piece: number for number, piece in enumerate(pieces)}


def test_a_tokenizer_in_json_cuts_as_the_vocabulary_does(bert):
    expected, _ = load_bert(bert)
    write_tokenizer(bert, dict(reversed(numbered().items())))
    found, _ = load_bert(bert)
    assert found.vocab == expected.vocab
    assert found.tokenize("The GREAT films") == ["the", "great", "film", "##s"]


def test_numbers_that_no_piece_has(bert):
    numbers = {piece: number + (number > 8) for piece, number in numbered().items()}
    write_tokenizer(bert, numbers)
    tokenizer, _ = load_bert(bert)
    assert tokenizer.convert_tokens_to_ids(["##s", "the", "movie"]) == [8, 10, 12]


def test_vocab_txt_goes_before_json(bert):
    (bert / "tokenizer.json").write_text("nothing")
    assert load_bert(bert)[0].vocab == numbered()


@pytest.mark.parametrize(
    ("numbers", "changes", "message"),
    [
        (numbered(), {"type": "BPE"}, "has type BPE, prefix '##' and a dict of pieces"),
        (numbered(), {"continuing_subword_prefix": ""}, "type WordPiece, prefix '' and"),
        ([["a", 1]], {}, "and a list of pieces"),
        ({**numbered(), "great": 0}, {}, "numbers of its pieces"),
        ({**numbered(), "great": -1}, {}, "numbers of its pieces"),
        ({**numbered(), "great": 1.5}, {}, "numbers of its pieces"),
        ({**numbered(), "great": True}, {}, "numbers of its pieces"),
        ({**numbered(), "great": 10**12}, {}, "numbers of its pieces"),
        ({**numbered(), "great": 14}, {}, "has 15 pieces, but the configuration beside it says 14"),
        (numbered(PIECES[1:]), {}, "lacks [PAD]"),
        ({}, {}, "lacks [PAD]"),
    ],
)
def test_a_tokenizer_that_is_no_berts(bert, numbers, changes, message):
    write_tokenizer(bert, numbers, **changes)
    refusal(bert, bert / "tokenizer.json", message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *((content, "is not JSON") for content in (b"", b"\xff", b"[" * 200_000)),
        *((content, "describes no tokenizer") for content in (b"[1]", b"{}", b'{"model": 5}')),
        (b'{"model": {}}', "describes no tokenizer"),
    ],
)
def test_a_tokenizer_that_is_something_else(bert, content, message):
    (bert / "vocab.txt").unlink()
    (bert / "tokenizer.json").write_bytes(content)
    refusal(bert, bert / "tokenizer.json", message)


@pytest.mark.parametrize("kind", ["gpt2", "roberta", 5])
def test_a_folder_of_another_model_is_told(bert, kind):
    config = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(json.dumps({**config, "model_type": kind}))
    (bert / "vocab.txt").unlink()
    told = f": it is a {kind!r} model, but a 'bert' is needed."
    refusal(bert, f"BERT folder {bert} has no vocab.txt or tokenizer.json{told}")
    (bert / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {}}}')
    refusal(bert, "has type BPE", told)


@pytest.fixture
def cached(bert, tmp_path, monkeypatch):
    """The hub's files on a machine without a connection, as its client keeps them."""
    for name, value in (("HF_HUB_CACHE", str(tmp_path / "cached")), ("HF_HUB_OFFLINE", True)):
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    folder = tmp_path / "cached" / "models--somebody--bert" / "snapshots" / ("c" * 40)
    return Path(shutil.copytree(bert, folder))


def test_a_commit_that_is_cached_is_not_fetched(cached):
    assert find_bert("somebody/bert", commit=cached.name) == (cached, cached.name)
    (cached / "model.safetensors").rename(cached / "pytorch_model.bin")
    assert find_bert("somebody/bert", commit=cached.name) == (cached, cached.name)


def test_a_commit_of_which_a_part_is_kept_is_fetched(cached):
    (cached / "model.safetensors").unlink()
    with pytest.raises(InputError, match="'somebody/bert' could not be fetched"):
        find_bert("somebody/bert", commit=cached.name)
    found = find_bert("somebody/bert", commit=cached.name, with_weights=False)
    assert found == (cached, cached.name)
    (cached / "vocab.txt").unlink()
    with pytest.raises(InputError, match="'somebody/bert' could not be fetched"):
        find_bert("somebody/bert", commit=cached.name, with_weights=False)
