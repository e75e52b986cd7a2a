"""The examples: what they say without their data, and their tables, pictures and JSON on made-up data and weights."""

import dataclasses
import gzip
import hashlib
import importlib
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import table
from released import donor, faces, proteins, splice_data
from released.dcgan import DCGAN
from released.mini_xception import MiniXception
from released.protein_mpnn import ProteinMPNN

PACKAGES = {
    "splice": "mavenn==1.1.4",
    "text": "vaderSentiment==3.3.2",
    "faces": "gan-face-generate==1.1.1",
    "antibodies": "antiberty==0.1.3",
    "proteins": "vermouth==0.15.0",
    "terrain": "adaptive-terrain-diffusion==0.4.2",
}


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """`python examples/NAME.py ARGUMENTS` in a folder of its own, which is its cache too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def call(name, *arguments):
        module = importlib.import_module(name)
        monkeypatch.setattr("sys.argv", [f"{name}.py", *map(str, arguments)])
        left = None
        try:
            table.run(module.ABOUT, module.demo)
        except SystemExit as error:
            left = error.code
        out, _ = capfd.readouterr()
        return SimpleNamespace(refused=left, stdout=out)

    call.folder = tmp_path
    return call


@pytest.mark.parametrize("name", PACKAGES)
def test_an_example_says_how_to_get_its_data(run, name):
    left = run(name, "--out", "out", "--data", ".")
    assert left.refused.startswith("error: ")
    assert left.refused.count("\n") == 0
    assert PACKAGES[name] in left.refused


@pytest.mark.release
def test_splice_on_made_up_sites(run, monkeypatch):
    """All methods run and are measured, on 300 random sites in the place of the real file."""
    import splice

    rng = np.random.default_rng(0)
    sites = {"".join(rng.choice(list("ACGU"), 3)) + "GU" + "".join(rng.choice(list("ACGU"), 4)) for _ in range(300)}
    lines = ["x,y", *(f"{s},{rng.normal():.3f}" for s in sorted(sites))]
    content = gzip.compress("\n".join(lines).encode())
    (run.folder / "mpsa_data.csv.gz").write_bytes(content)
    expected = dataclasses.replace(splice_data.MPSA, sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(splice_data, "MPSA", expected)
    network, around = donor.DonorNetwork(), np.zeros((2, 9, 4))
    params = network.init(jax.random.key(0), np.zeros((18, 4)))
    made_up = donor.Donor(params, around[:, :2], around[:, 2:], network.apply)
    monkeypatch.setattr(splice, "donor", lambda path, download: made_up)
    left = run("splice", "--data", ".", "--out", "out", "--quick", "--samples", 20)
    assert left.refused is None
    rows = json.loads((run.folder / "out" / "splice.json").read_text())["rows"]
    assert len(rows) > 20
    assert all(np.isfinite(row["measures"]["kl"]["value"]) for row in rows)
    assert "LaMBO-2" in left.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param("faces", marks=pytest.mark.release), "proteins"])
def test_released_models_on_made_up_weights(run, monkeypatch, name):
    """The tables, pictures and JSON come about, whatever the weights are."""
    faces_demo, proteins_demo = (importlib.import_module(example) for example in ("faces", "proteins"))

    def module(network, *inputs):
        return network.init(jax.random.key(0), *inputs), network.apply

    monkeypatch.setattr(faces, "generator", lambda p, download: faces.Generator(*module(DCGAN(8), np.zeros(100))))
    classifier = module(MiniXception(), np.zeros((64, 64, 1)))
    monkeypatch.setattr(faces, "expressions", lambda p, download: faces.Expressions(*classifier))
    rng = np.random.default_rng(0)

    def structure(entry, chains, path, download):
        atoms = np.cumsum(rng.normal(size=(20, 4, 3)), 0).astype(np.float32)
        return proteins.Structure(atoms, rng.integers(0, 20, 20), np.arange(20), np.zeros(20, int))

    def design(name, of, path, download):
        labels = 2 * ("membrane" in name)
        network = ProteinMPNN(3 if labels else 0)
        given = of.backbone, of.number, of.chain
        params = network.init(jax.random.key(0), *given, of.tokens, np.arange(20), 0 if labels else None)
        each = [network.apply(params, *given, label, method="encode") for label in range(labels) or (None,)]
        stacked = jax.tree.map(lambda *a: jax.numpy.stack(a), *each)
        return proteins.Design(params, stacked, network.apply, labels)

    monkeypatch.setattr(proteins_demo, "structure", structure)
    monkeypatch.setattr(proteins_demo, "design", design)
    assert faces_demo.faces is faces
    left = run(name, "--quick", "--out", "out")
    assert left.refused is None
    files = {"faces": faces_demo, "proteins": proteins_demo}[name].ABOUT.files
    assert {p.name for p in (run.folder / "out").iterdir()} == set(files)
    rows = json.loads((run.folder / "out" / files[0]).read_text())["rows"]
    assert len(rows) > 10
    assert all(np.isfinite(m["value"]) for row in rows for m in row["measures"].values())
