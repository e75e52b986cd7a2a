"""Files that are damaged, foreign or made to do harm: a result, or one line, and nothing beside.

`GUIDANCE_JAX_FUZZ` is how many mutated files of each format are read, 100 by default.
"""

import copy
import dataclasses
import gzip
import io
import json
import os
import random
import resource
import shutil
import struct
import zipfile
from importlib import import_module
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from flax import nnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.numpy import load_file, save_file

import guidance_jax as gj
from guidance_jax.checkpoints.config import build, config, describe
from guidance_jax.checkpoints.flat import save_flat
from guidance_jax.checkpoints.store import save_params
from guidance_jax.checkpoints.tensors import nest
from guidance_jax.core import Refused
from guidance_jax.datasets.arrays import read_array, read_npz
from guidance_jax.datasets.idx import read_idx
from guidance_jax.datasets.pictures import picture
from guidance_jax.untrusted import SMALL, plain_name, read_json, reading
from guidance_jax.zoo.adm.network import ADMUNet
from guidance_jax.zoo.convert import convert, read_state, recognize, unwrap
from guidance_jax.zoo.diffusers.folder import read_diffusers
from guidance_jax.zoo.dit.network import DiT
from guidance_jax.zoo.gpt2.reader import load_gpt2
from guidance_jax.zoo.judge import Judge
from guidance_jax.zoo.load import load
from guidance_jax.zoo.pipeline import Pipeline
from guidance_jax.zoo.pipeline_parts import PipelineParts
from guidance_jax.zoo.stable_diffusion.clip import CLIPText
from guidance_jax.zoo.state_dict import Options
from guidance_jax.zoo.tokenizer import Tokenizer
from guidance_jax.zoo.transformer import Transformer
from released.keras_file import read_keras
from released.onnx_file import read_onnx
from released.proteins import read_pdb
from tests.test_latent_models import SHAPES, change, whole
from tests.test_pretrained import openai, state

COUNT = int(os.environ.get("GUIDANCE_JAX_FUZZ", "100"))
MEMORY = 512 * 2**20  # by which the largest mutated file may raise the peak of the process
X = jnp.zeros((8, 8, 1))
DOMAIN = gj.Domain((8, 8, 1), gj.Cosine(), 3)


# names


@pytest.mark.parametrize(
    "name", ["text_encoder/../../evil", "..", ".hidden", "", "a\\b", "/etc", "a\0", 3, None, "a\n"]
)
def test_names_in_files_are_no_paths(name):
    with pytest.raises(Refused, match="expected a plain name"):
        plain_name(name, "model_index.json")


def test_plain_names_are_those_of_released_files():
    for name in ("diffusion_pytorch_model.fp16-00001-of-00002.safetensors", "text_encoder_2", "model.bin"):
        assert plain_name(name, "") == name


def test_a_folder_of_diffusers_writes_nothing_outside_its_place(tmp_path):
    folder = whole("sd15", tmp_path / "in" / "folder")
    shutil.copytree(folder / "text_encoder", tmp_path / "evil")
    shutil.copytree(folder / "tokenizer", tmp_path / "tokenizer_evil")
    change(folder / "model_index.json", **{"text_encoder/../../../evil": ["transformers", "CLIPTextModel"]})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Refused, match="expected a plain name without folders"):
        convert(folder, tmp_path / "out" / "models")
    assert sorted(tmp_path.rglob("*")) == before


def test_an_index_of_weights_names_files_of_its_folder(tmp_path):
    folder = whole("sd15", tmp_path / "in")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(tmp_path / "elsewhere.safetensors")
    index = {"weight_map": {"conv_in.weight": "../../elsewhere.safetensors"}}
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(Refused, match=r"names the file '\.\./\.\./elsewhere"):
        read_diffusers(folder)


def test_parts_with_the_name_of_a_path_are_not_written(tmp_path):
    own = PipelineParts({"grid": None}, {"text/../../evil": (config(JUDGE, DOMAIN), PARAMS)})
    with pytest.raises(Refused, match="expected a plain name"):
        own.write(tmp_path / "out")
    assert not list(tmp_path.iterdir())


# what was read is what the network needs

JUDGE = Judge(3, 8)
PARAMS = jax.tree.map(np.asarray, JUDGE.init(jax.random.key(0), X))


@pytest.fixture
def flat(tmp_path):
    """A small checkpoint in one safetensors file."""
    save_flat(tmp_path / "judge", PARAMS, config(JUDGE, DOMAIN))
    return tmp_path / "judge"


def infinite(t):
    t["params/head/bias"][1] = np.inf


DAMAGES = {
    "NaN": (lambda t: t["params/head/kernel"].__setitem__((0, 0), np.nan), "head/kernel holds 1 of 96 numbers"),
    "infinity": (infinite, "head/bias holds 1 of 3 numbers that are not finite"),
    "transposed": (lambda t: t.update({"params/head/kernel": t["params/head/kernel"].T.copy()}), r"shape \(32, 3\)"),
    "whole": (lambda t: t.update({"params/head/bias": np.ones(3, np.int32)}), "head/bias holds whole numbers"),
    "missing": (lambda t: t.pop("params/head/bias"), r"head/bias: expected shape \(3,\), the checkpoint has None"),
    "left over": (lambda t: t.update({"params/head/more": np.ones(2)}), "head/more: expected shape None"),
    "outside": (lambda t: t.update({"other/head": np.ones(2)}), "other/head: expected shape None"),
    "both": (lambda t: t.update({"params/head": np.ones(2)}), "both an array and a folder"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_flat_checkpoint_holds_what_its_network_needs(flat, damage):
    change_tensors, message = DAMAGES[damage]
    tensors = {k: v.copy() for k, v in load_file(flat / "model.safetensors").items()}
    change_tensors(tensors)
    save_file(tensors, flat / "model.safetensors")
    with pytest.raises(Refused, match=message) as caught:
        load(flat)
    assert "\n" not in str(caught.value)


def test_an_orbax_checkpoint_holds_what_its_network_needs(tmp_path):
    params = jax.tree.map(np.array, PARAMS)
    params["params"]["head"]["bias"][0] = np.nan
    save_params(tmp_path / "nan", params, config(JUDGE, DOMAIN))
    with pytest.raises(Refused, match="head/bias holds 1 of 3 numbers that are not finite"):
        load(tmp_path / "nan")
    save_params(tmp_path / "other", PARAMS, config(Judge(3, 16), DOMAIN))
    with pytest.raises(Refused, match=r"Judge, params/conv_0/bias: expected shape \(16,\), the checkpoint has \(8,\)"):
        load(tmp_path / "other")


def test_foreign_tensors_that_are_not_finite_are_named():
    wrong = openai("adm_class")
    wrong["out.0.bias"][3] = np.nan
    with pytest.raises(Refused, match=r"the tensor out\.0\.bias holds 1 of 32 numbers that are not finite"):
        recognize(wrong, Options(16, gj.CosineBetas(1000), None, 16, False))
    wrong = state(SHAPES["DiT"], 0.05)
    wrong["blocks_0.attn.proj.bias"] = wrong["blocks.0.attn.proj.bias"]
    with pytest.raises(Refused, match="occurs twice"):
        recognize(wrong, Options(num_heads=4, family="DiT"))


def test_names_that_go_on_where_others_end_are_refused():
    assert nest({"a/b": 1, "a/c/d": 2}) == {"a": {"b": 1, "c": {"d": 2}}}
    for names in (["a", "a/b"], ["a/b", "a"], ["a/b/c", "a/b"]):
        with pytest.raises(Refused, match="both an array and a folder"):
            nest(dict.fromkeys(names, 1))


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("num_classes", "ten", "Judge has num_classes = 'ten', expected int"),
        ("num_classes", True, "num_classes = True, expected int"),
        ("num_classes", 3.0, r"num_classes = 3\.0, expected int"),
        ("dropout", "a", "dropout = 'a', expected float"),
        ("dtype", "pwn", "dtype = 'pwn', expected float16"),
        ("width", 10**12, "numbers of a configuration must lie between"),
        ("width", None, "width = None, expected int"),
        ("width", [8], r"width = \(8,\), expected int"),
        ("width", 0, "cannot be read"),
        ("groups", 8, "Judge has no field 'groups'"),
        ("parent", None, "Judge has no field 'parent'"),
        ("type", "Domain", "Domain has no field"),
        ("type", "register", "unknown type 'register'"),
        ("type", ["Judge"], "unknown type"),
        ("function", "Judge", "unknown function 'Judge'"),
    ],
)
def test_fields_of_a_configuration_are_of_their_types(flat, entry, value, message):
    about = json.loads((flat / "config.json").read_text())
    about["network"][entry] = value
    (flat / "config.json").write_text(json.dumps(about))
    with pytest.raises(Refused, match=message) as caught:
        load(flat)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": None}, "network = None, expected dict"),
        ({"domain": 3}, r"domain = 3, expected dict \| None"),
        ({"domain": {"type": "Eps"}}, "domain: expected a domain, got a Eps"),
        ({"domain": {"type": "Domain"}}, "Domain needs the field 'shape', which is missing"),
        ({"domain": {"type": "Domain", "shape": [8, 8, 0]}}, "the shapes of a domain must have 1 to"),
        ({"domain": {"type": "Domain", "shape": [2**20] * 3}}, "the shapes of a domain must have 1 to"),
        ({"parameterization": {"type": "Cosine"}}, "parameterization: expected a parameterization, got a Cosine"),
        ({"network": {"type": "Cosine"}}, "network: expected a network, got a Cosine|cannot be used"),
        ({"batched": "yes"}, "batched = 'yes', expected bool"),
        ({"options": []}, "options = "),
    ],
)
def test_entries_of_a_configuration_are_what_they_are_for(flat, changes, message):
    change(flat / "config.json", **changes)
    with pytest.raises(Refused, match=message):
        load(flat)


def test_a_configuration_may_ask_for_no_more_than_its_file_holds(tmp_path):
    """Blocks are traced in a loop, positions made by NumPy, before any shape is compared."""
    small = {"params": {"a": np.ones(3, np.float32)}}
    for network, domain in (
        (Transformer(3, 3, 4, depth=2**20), None),
        (DiT(width=2**16, out_channels=1, patch=1), gj.Domain((4096, 4096, 1))),
    ):
        folder = tmp_path / type(network).__name__
        save_flat(folder, small, config(network, domain, gj.parameterizations.eps))
        with pytest.raises(Refused, match=r"there are only 1 arrays|would be .* in memory"):
            load(folder)


def test_types_of_computation_are_kept_by_name():
    network = ADMUNet(8, 1, 1, (2,), (1, 2), groups=4, dtype=jnp.bfloat16)
    written = json.loads(json.dumps(describe(network)))
    assert written["dtype"] == "bfloat16"
    assert build(written).dtype == jnp.bfloat16
    assert jax.eval_shape(build(written).init, jax.random.key(0), X, jnp.zeros(()))["params"].keys() >= {"out_2"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "RecursionError"),
        ("[" * 40 + "]" * 40, "expected a dict"),
        ('{"a":' * 40 + "1" + "}" * 40, "more than 32 levels"),
        ('{"a": NaN}', "NaN is not finite"),
        ('{"a": 1e999}', "1e999 is not finite"),
        ('{"a": ' + "9" * 5000 + "}", "cannot be read"),
        ("\xff", "cannot be read"),
        ("3", "holds a int, expected a dict"),
        (" " * 2**22 + "{}", "at most 4,194,304 are accepted"),
    ],
)
def test_json_from_outside_is_small_shallow_and_finite(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text, encoding="latin1")
    with pytest.raises(Refused, match=message) as caught:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


# tokenizers


def small_tokenizer(folder):
    """Words a and b, marks around, as JSON."""
    kit = pytest.importorskip("tokenizers")
    rule = kit.Tokenizer(kit.models.WordLevel({"a": 0, "b": 1, "<|endoftext|>": 2}, unk_token="<|endoftext|>"))
    rule.pre_tokenizer = kit.pre_tokenizers.Whitespace()
    folder.mkdir(parents=True, exist_ok=True)
    rule.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def zeros(network, *inputs):
    """Parameters of a network."""
    return jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), jax.eval_shape(network.init, jax.random.key(0), *inputs))


@pytest.mark.parametrize("known", [3, 2])
def test_a_tokenizer_of_another_model_is_refused_when_the_pipeline_is_assembled(known, tmp_path):
    small_tokenizer(tmp_path)
    text, unet = CLIPText(known, 4, 8, 1, 1, 8), ADMUNet(4, 1, 1, (), (1,), groups=2)
    own = PipelineParts({}, tokenizers={"text": Tokenizer.clip(tmp_path, 4)})
    own.parts["denoiser"] = (
        config(unet, gj.Domain((8, 8, 1), gj.Cosine()), gj.parameterizations.eps),
        zeros(unet, X, 0.0),
    )
    own.parts["text"] = config(text, None), zeros(text, np.zeros(4, int))
    if known == 3:
        assert own.assemble().text[0].tokenizer.vocabulary == 3
    else:
        with pytest.raises(
            Refused, match="the tokenizer has tokens up to 2, pads with 2, the network has tokens 0 to 1"
        ):
            own.assemble()


def test_tokens_that_the_network_does_not_know_are_refused(tmp_path):
    """A template may add any token, whatever the vocabulary."""
    path = small_tokenizer(tmp_path)
    rule = json.loads(path.read_text())
    rule["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "x", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"x": {"id": "x", "ids": [999], "tokens": ["x"]}},
    }
    path.write_text(json.dumps(rule))
    own = Tokenizer.clip(tmp_path, 4).within(3)
    with pytest.raises(Refused, match="'a b' has the token 999, the network has 3 tokens"):
        own(["a b"])
    with pytest.raises(Refused, match="the network has tokens 0 to 1"):
        own.within(2)


def test_a_panic_of_the_tokenizers_package_is_one_line(monkeypatch, tmp_path):
    """Rust's panics are no `Exception`."""

    class PanicException(BaseException):
        pass

    with pytest.raises(Refused, match="PanicException: index out of bounds"), reading("the file"):
        raise PanicException("index out of bounds\nmore")
    with pytest.raises(KeyboardInterrupt), reading("the file"):
        raise KeyboardInterrupt


# sizes


def test_a_small_file_that_would_fill_the_memory_is_refused(tmp_path):
    shape = struct.pack(">3I", 300, 1000, 1000)
    with gzip.open(tmp_path / "train-images-idx3-ubyte.gz", "wb", compresslevel=1) as file:
        file.write(b"\0\0\x08\3" + shape)
        for _ in range(300):
            file.write(bytes(10**6))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Refused, match="in memory; at most"):
        read_idx(tmp_path / "train-images-idx3-ubyte.gz")
    np.savez_compressed(tmp_path / "a.npz", np.zeros(2**25, np.float32))
    after_write = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Refused, match="134,217,856 in memory; at most 67,108,864"):
        read_npz(tmp_path / "a.npz")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - after_write
    assert grown * 1024 < SMALL
    assert (after_write - before) * 1024 < 5 * SMALL


def test_sizes_that_a_header_claims_are_compared(tmp_path):
    raw = io.BytesIO()
    np.lib.format.write_array_header_1_0(raw, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)})
    (tmp_path / "a.npy").write_bytes(raw.getvalue() + bytes(16))
    with pytest.raises(Refused, match="which does not match its size"):
        read_array(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_BZIP2) as file:
        file.writestr("a.npy", raw.getvalue() + bytes(16))
    with pytest.raises(Refused, match="compressed by a method that NumPy does not use"):
        read_npz(tmp_path / "a.npz")
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.create_dataset("layer/kernel:0", (2**20, 2**10), "f4", chunks=(1024, 1024))  # nothing is stored
    with pytest.raises(Refused, match="4,294,967,296 in memory"):
        read_keras(content.getvalue())


def test_other_files_are_not_followed(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(range(16)))
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.create_dataset("layer/kernel:0", (4,), "f4", external=[(str(tmp_path / "secret"), 0, 16)])
    with pytest.raises(Refused, match="lies in another file"):
        read_keras(content.getvalue())
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "network.a.weight")
    onnx.external_data_helper.set_external_data(tensor, str(tmp_path / "secret"))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    model = helper.make_model(helper.make_graph([], "g", [], [], [tensor]))
    with pytest.raises(Refused, match="lies in another file"):
        read_onnx(model.SerializeToString())


@pytest.mark.parametrize("read", [read_idx, read_array, picture, read_json, read_state, lambda p: read_state(p, "a")])
@pytest.mark.parametrize("suffix", ["gz", "safetensors", "png"])
def test_a_pipe_is_no_file(tmp_path, read, suffix):
    path = tmp_path / f"a.{suffix}"
    os.mkfifo(path)
    with pytest.raises(Refused):
        read(path)


# foreign state dicts


@pytest.mark.parametrize(
    "order", [["_orig_mod.", "module."], ["module.", "_orig_mod."], ["model.", "_orig_mod."], ["model."]]
)
def test_wrappers_come_off_in_any_order(order):
    bare = state(SHAPES["DiT"], 0.05)
    wrapped = {"".join(order) + k: v for k, v in bare.items()} | {"n_averaged": np.array(7)}
    found = unwrap(wrapped)
    assert list(found) == list(bare)
    for name in bare:
        assert found[name] is bare[name]


def test_compiled_blocks_are_blocks():
    bare = state(SHAPES["DiT"], 0.05)
    blocks = {
        k.replace("blocks.0.", "blocks.0._orig_mod.").replace("blocks.1.", "blocks.1._orig_mod."): k for k in bare
    }
    assert list(unwrap({new: bare[old] for new, old in blocks.items()})) == list(bare)
    with pytest.raises(Refused, match="two tensors of the state dict have the same name"):
        unwrap({"blocks.0.a": 1, "blocks.0._orig_mod.a": 2})


def test_what_is_not_recognised_is_told_by_names_of_both_sides():
    with pytest.raises(
        Refused, match=r"encoder\.layer\.0\.weight.*blocks\.0\.adaLN_modulation\.1\.weight.*map_layer0"
    ) as caught:
        recognize({"encoder.layer.0.weight": np.zeros(3)})
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_label_table_without_a_row_for_unconditional():
    shapes = {k: ([1, v[1]] if k == "y_embedder.embedding_table.weight" else v) for k, v in SHAPES["DiT"].items()}
    one = state(shapes, 0.05)
    found = recognize(one, Options(num_heads=4, family="DiT"))
    assert (found.domain.num_classes, found.domain.null_label, found.network.num_classes) == (None, None, 0)
    name = "y_embedder.embedding_table.weight"
    twice = recognize(one | {name: np.concatenate([one[name]] * 2)}, Options(num_heads=4, family="DiT"))
    x = jnp.asarray(np.random.default_rng(0).normal(size=found.domain.shape), jnp.float32)
    got = jax.jit(found.network.apply)(found.params, x, 7.0)
    want = jax.jit(twice.network.apply)(twice.params, x, 7.0, jnp.asarray(0))
    np.testing.assert_allclose(got, want, atol=1e-6)
    full = recognize(state(SHAPES["DiT"], 0.05), Options(num_heads=4, family="DiT", null_label=False))
    assert (full.domain.num_classes, full.domain.null_label, full.network.num_classes) == (11, None, 11)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": "many"}, "vocab_size = 'many'"),
        ({"n_layer": 10**5}, "100,000 layers, the checkpoint tensors of"),
        ({"n_layer": 10**9}, "n_layer = 1000000000, expected a whole number"),
        ({"bos_token_id": 10**5}, "first = 100000, expected a whole number from 0 to"),
    ],
)
def test_the_configuration_of_gpt2_is_compared(tmp_path, changes, message):
    folder = shutil.copytree(Path(__file__).parent / "golden" / "gpt2", tmp_path / "gpt2")
    change(folder / "config.json", **changes)
    with pytest.raises(Refused, match=message):
        load_gpt2(folder)


def test_lines_that_are_no_atoms_are_one_line():
    atom = "ATOM      1  N   MET A   1      27.340  24.430   2.614"
    for line in ("ATOM", atom.replace("27.340", "   x  "), atom.replace("27.340", "   nan")):
        with pytest.raises(Refused) as caught:
            read_pdb(line)
        assert "\n" not in str(caught.value)


# one's own networks


class Small(nnx.Module):
    def __init__(self, rngs):
        self.inside = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.outside = nnx.Conv(4, 1, (3, 3), rngs=rngs)

    def __call__(self, x, t, cond=None):
        return self.outside(nnx.silu(self.inside(x)))


@pytest.mark.slow
def test_an_nnx_network_is_saved_by_a_name_of_one_s_own(tmp_path, monkeypatch):
    classes = import_module("guidance_jax.checkpoints.config")
    monkeypatch.setattr(classes, "KNOWN", dict(classes.KNOWN))
    network = gj.from_nnx(Small(nnx.Rngs(0)), gj.parameterizations.eps, gj.Domain((8, 8, 1)))
    with pytest.raises(Refused, match=r"give it a name: @gj\.register def my_network") as caught:
        gj.save(tmp_path / "model", network)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model").exists()

    @gj.register
    def my_network(params, x, t, cond):
        return network.apply(params, x, t, cond)

    gj.save(tmp_path / "model", dataclasses.replace(network, apply=my_network))
    again = gj.load(tmp_path / "model")
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
    np.testing.assert_array_equal(again.apply(again.params, x, 0.5, None), network.apply(network.params, x, 0.5, None))


@pytest.mark.parametrize("make", ["equinox", "velocity"])
def test_networks_of_other_libraries_say_how_they_are_saved(tmp_path, make):
    import equinox as eqx

    if make == "equinox":
        network = gj.from_equinox(eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0)), gj.parameterizations.eps)
    else:
        network = gj.from_velocity(lambda params, t, x, cond: params * x, params=jnp.ones(2), data_at=0, batched=False)
    with pytest.raises(Refused, match="give it a name"):
        gj.save(tmp_path / "model", network)


# conditions


def words(params, x, t, cond):
    """A network that encodes captions as what it is given."""
    return cond


WORDS = gj.Network(
    (), words, gj.parameterizations.eps, gj.Domain((8, 8, 1), gj.Cosine(), 3, 3), encodes=True, batched=False
)


def test_one_caption_is_no_list_of_letters(tmp_path):
    small_tokenizer(tmp_path)
    captions = Pipeline(WORDS, tokenizer=Tokenizer.clip(tmp_path, 4))
    np.testing.assert_array_equal(captions.conditions("a b"), [[0, 1, 2, 2]])
    np.testing.assert_array_equal(captions.conditions(["a b", "b"]), [[0, 1, 2, 2], [1, 2, 2, 2]])
    with pytest.raises(Refused, match="conditional on captions, got"):
        captions.conditions(3)


def test_classes_are_asked_for_by_name_or_number():
    classes = Pipeline(WORDS, classes=("cat", "dog", "7"))
    for asked, want in (("dog", [1]), (2, [2]), (["cat", "1", np.int64(3)], [0, 1, 3]), ("7", [2])):
        assert classes.conditions(asked).tolist() == want
    for wrong in ("cow", "\u00b2", "9" * 5000, 4, -1, 1.5, True, None, [[1]]):
        with pytest.raises(Refused, match="there is no class called"):
            classes.conditions([wrong])


# mutated files


def mutated(raw: bytes, draw: random.Random) -> bytes:
    """Some bytes of a file changed, doubled, removed, or a number in it made large."""
    data = bytearray(raw)
    for _ in range(draw.choice((1, 1, 2, 5, 20))):
        at = draw.randrange(len(data) + 1) if draw.random() < 0.5 else draw.randrange(min(len(data), 64) + 1)
        kind = draw.randrange(6)
        if kind == 0:
            data[at : at + 1] = bytes([draw.randrange(256)])
        elif kind == 1:
            data[at : at + draw.choice((1, 2, 4, 8))] = draw.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))
        elif kind == 2:
            del data[at : at + draw.choice((1, 4, 64, len(data)))]
        elif kind == 3:
            data[at:at] = data[at : at + draw.choice((1, 8, 256))]
        elif kind == 4 and data:
            data[at % len(data)] ^= 1 << draw.randrange(8)
        else:
            data[at:at] = draw.choice((b"9" * 12, b"-1", b"../", b"null", b"[" * 50, b"NaN", b"{}", b'"', b"\n"))
    return bytes(data)


VALUES = (None, True, -1, 0, 1, 3, 2**40, 1.5, -0.5, "x", "..", "../x", [], [1], {}, {"type": "Judge"}, "float32")


def mutated_json(raw: bytes, draw: random.Random) -> bytes:
    """A value of a JSON file replaced, removed, moved or doubled; one in four as `mutated`."""
    if draw.random() < 0.25:
        return mutated(raw, draw)
    root = json.loads(raw)
    for _ in range(draw.choice((1, 1, 2, 4))):
        node = root
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw.choice(keys)
            if isinstance(node[key], dict | list) and node[key] and draw.random() < 0.7:
                node = node[key]
                continue
            kind = draw.randrange(4)
            if kind == 0:
                node[key] = copy.deepcopy(draw.choice(VALUES))
            elif kind == 1:
                del node[key]
            elif kind == 2 and isinstance(node, dict):
                node[draw.choice(("x", "../x", "type", "text_encoder/../x", str(key) + "_2"))] = copy.deepcopy(
                    node[key]
                )
            elif isinstance(node[key], int | float):
                node[key] = node[key] * draw.choice((-1, 2, 1000, 10**9, 0.5))
            break
    return json.dumps(root).encode()


def safetensors_case(folder):
    save_flat(folder / "judge", PARAMS, config(JUDGE, DOMAIN))
    return folder / "judge" / "model.safetensors", mutated, lambda path: load(path.parent)


def config_case(folder):
    save_flat(folder / "judge", PARAMS, config(JUDGE, DOMAIN))
    return folder / "judge" / "config.json", mutated_json, lambda path: load(path.parent)


def pipeline_case(folder):
    network = ADMUNet(4, 1, 1, (), (1,), groups=2)
    params = zeros(network, X, 0.0)
    own = PipelineParts(
        {"grid": {"name": "karras", "lo": 0.1, "hi": 10.0}, "clip": 1.0, "classes": ["a", "b"], "sizes": 0}
    )
    own.parts["denoiser"] = config(network, gj.Domain((8, 8, 1), gj.Cosine()), gj.parameterizations.eps), params
    own.write(folder / "pipeline")
    return folder / "pipeline" / "pipeline.json", mutated_json, lambda path: PipelineParts.read(path.parent).check()


def read_index(path):
    """What says which networks a folder of diffusers holds; they themselves are too slow to build each time."""
    try:
        read_diffusers(path)
    except Refused as error:
        if "has no weights that can be read" not in str(error):
            raise


def index_case(folder):
    whole("dit", folder / "dit")
    for file in (folder / "dit").rglob("*.safetensors"):
        file.unlink()
    return folder / "dit" / "model_index.json", mutated_json, lambda path: read_index(path.parent)


def scheduler_case(folder):
    index_case(folder)
    file = folder / "dit" / "scheduler" / "scheduler_config.json"
    return file, mutated_json, lambda path: read_index(path.parent.parent)


def options_case(folder):
    """The configuration of one network among them, with its tensors as they are."""
    whole("dit", folder / "dit")
    change(folder / "dit" / "model_index.json", vae=[None, None])
    return folder / "dit" / "transformer" / "config.json", mutated_json, lambda path: read_diffusers(path.parent.parent)


def tokenizer_case(folder):
    return (
        small_tokenizer(folder / "text"),
        mutated_json,
        lambda path: Tokenizer.clip(path.parent, 8).within(3)(["a b"]),
    )


def npz_case(folder):
    np.savez_compressed(folder / "a.npz", np.arange(60.0).reshape(3, 20))
    return folder / "a.npz", mutated, read_array


def npy_case(folder):
    np.save(folder / "a.npy", np.arange(60.0).reshape(3, 20))
    return folder / "a.npy", mutated, read_array


def idx_case(folder):
    (folder / "a-ubyte").write_bytes(b"\0\0\x08\3" + struct.pack(">3I", 2, 4, 4) + bytes(32))
    return folder / "a-ubyte", mutated, read_idx


def idx_gz_case(folder):
    idx_case(folder)
    (folder / "a.gz").write_bytes(gzip.compress((folder / "a-ubyte").read_bytes(), mtime=0))
    return folder / "a.gz", mutated, read_idx


def png_case(folder):
    pixels = np.random.default_rng(0).integers(0, 255, (12, 12, 4), np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    return folder / "a.png", mutated, lambda path: picture(path, "RGB", 8)


def jpeg_case(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 255, (12, 12, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "a.jpg", exif=exif)
    return folder / "a.jpg", mutated, lambda path: picture(path, "RGB", 8)


def gif_case(folder):
    pixels = np.random.default_rng(0).integers(0, 255, (12, 12), np.uint8)
    Image.fromarray(pixels).convert("P").save(folder / "a.gif", transparency=3)
    return folder / "a.gif", mutated, lambda path: picture(path, "RGB", 8)


def onnx_case(folder):
    from tests.test_released import onnx_of

    (folder / "a.onnx").write_bytes(onnx_of())
    return folder / "a.onnx", mutated, lambda path: read_onnx(path.read_bytes())


def keras_case(folder):
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("model_weights/dense/dense/kernel:0", data=np.ones((3, 2), np.float32))
        file.create_dataset("model_weights/norm/norm/gamma:0", data=np.ones(64), chunks=(8,), compression="gzip")
    return folder / "a.h5", mutated, lambda path: read_keras(path.read_bytes())


CASES = {name.removesuffix("_case"): f for name, f in list(globals().items()) if name.endswith("_case")}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_a_mutated_file_is_a_result_or_one_line(case, tmp_path):
    """Seeded mutations of a small file of each format; nothing is written, and the memory stays bounded."""
    (tmp_path / "in").mkdir()
    path, mutate, read = CASES[case](tmp_path / "in")
    raw = path.read_bytes()
    read(path)  # the file itself is good
    files = sorted(tmp_path.rglob("*"))
    draw, lines = random.Random(case), []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(COUNT):
        path.write_bytes(mutate(raw, draw))
        try:
            read(path)
        except Refused as error:
            lines.append(str(error))
    refused = len(lines)
    assert not [line for line in lines if "\n" in line or len(line) > 3000]
    assert refused > COUNT // 10
    assert sorted(tmp_path.rglob("*")) == files
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY
    print(f"{case}: {COUNT} files, {refused} refused")
