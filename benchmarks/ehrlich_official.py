"""The authors' own optimizers on our Ehrlich functions; needs neither JAX nor this package."""

import contextlib
import logging
import os
import random
import string
import tempfile
import time
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import edlib
import hydra
import numpy as np
import torch
from beignet import farthest_first_traversal
from cortex.acquisition import GraphNEI, get_graph_nei_runtime_kwargs
from cortex.data.dataset import NumpyDataset
from cortex.optim.generative import LaMBO
from holo.optim import DiscreteEvolution
from lightning import Trainer
from omegaconf import OmegaConf

from benchmarks.suite import Row, benchmark

LETTERS = np.array(list(string.ascii_uppercase + "012345"))
RECIPES = {
    "holo GA": "rates 1.1 / 32 as published; of 250, the published quantile 1e-4 leaves the two it must at least leave",
    "holo GA, tuned": "recombination 0.125, the best of 96 settings on ten other functions",
    "cortex LaMBO-2": "poli-baselines' but width 32 as in cortex's tutorial (128), 4 value heads (8), batches of 64 "
    "(128), 250 proposals (128), weights kept from round to round and a fixed number of batches (an epoch from the "
    "first weights), constant rate, float32 (16 bits)",
    "cortex LaMBO-2, feasibility known": "the same with constraint_fn",
}


class Ehrlich:
    """The function of one seed, from its tables, on a batch of sequences (n, L) of tokens."""

    def __init__(self, tables, seed):
        self.allowed, self.motifs, self.spacings = (tables[k][seed] for k in ("allowed", "motifs", "spacings"))
        self.start = tables["start"][seed]
        np.testing.assert_array_equal(self(tables["check"][seed]), tables["values"][seed])

    def feasible(self, x):
        return self.allowed[x[:, :-1], x[:, 1:]].all(1)

    def __call__(self, x):
        value = np.ones(len(x))
        for motif, spacing in zip(self.motifs, self.spacings, strict=True):
            at = np.arange(x.shape[1] - spacing[-1])[:, None] + spacing
            value *= (x[:, at] == motif).mean(-1).max(-1)
        return np.where(self.feasible(x), value, -np.inf)


class Asked:
    """Everything asked so far, oldest first, and the best value after every round."""

    def __init__(self, function):
        self.function, self.x, self.y = function, [function.start], [function(function.start)]
        self.trace = [float(self.y[0].max())]

    def ask(self, x):
        self.x.append(np.asarray(x))
        self.y.append(self.function(self.x[-1]))
        self.trace.append(max(self.trace[-1], float(self.y[-1].max())))
        return self.y[-1]


def genetic(asked, args, mutation, recombination, survivors):
    """holo-bench's genetic algorithm: one step on the 1,000 known starts, then rounds of smaller populations."""

    def evolution(particles):
        parameter = torch.nn.Parameter(particles[0].clone())
        settings = {"mutation_prob": mutation, "recombine_prob": recombination, "num_particles": len(particles)}
        optimizer = DiscreteEvolution(
            [parameter], list(range(len(LETTERS))), survival_quantile=survivors / len(particles), **settings
        )
        optimizer.state[parameter]["particles"] = particles
        return optimizer

    particles = torch.tensor(asked.x[0]).float()
    evolution(particles).step(lambda _: torch.tensor(-asked.y[0]).float())
    particles = particles[torch.randperm(len(particles))[: args.per_round]].clone()
    optimizer = evolution(particles)
    for _ in range(args.rounds):
        optimizer.step(lambda p: torch.tensor(-asked.ask(p[0].long().numpy())).float())


class Rows(NumpyDataset):
    """The same rows without a data frame's look-up for every one of them."""

    def __getitem__(self, index):
        if not hasattr(self, "columns_as_arrays"):
            self.columns_as_arrays = {c: self._data[c].to_numpy() for c in self.columns}
        return OrderedDict((c, a[index]) for c, a in self.columns_as_arrays.items())


def node(target, **arguments):
    return {"_target_": target, **arguments}


def tree_config(args, vocabulary):
    """poli-baselines' configuration of a cortex tree, with our letters as vocabulary."""
    tokenizer = node("cortex.tokenization.CachedBertTokenizerFast", vocab_file=vocabulary)
    data = node(
        "cortex.data.data_module.TaskDataModule", _recursive_=False, batch_size=args.batch, lengths=[1.0, 0.0],
        pin_memory=False, dataset_config=node(f"{__name__}.Rows", train="???")
    )  # fmt: skip
    shared = {"input_map": {"sequence": ["text"]}, "root_key": "sequence"}
    root = node(
        "cortex.model.root.Conv1dRoot", max_len=32, embed_dim=args.width, channel_dim=args.width, out_dim=args.width,
        num_blocks=2, kernel_size=3, corruption_process=node("cortex.corruption.MaskCorruptionProcess"),
        tokenizer_transform=node("cortex.transforms.HuggingFaceTokenizerTransform", tokenizer=tokenizer)
    )  # fmt: skip
    regression = node(
        "cortex.task.RegressionTask", outcome_cols=["value"], corrupt_train_inputs=True, nominal_label_var=0.01,
        ensemble_size=args.heads, data_module={**data, "balance_train_partition": ["recency"]}, **shared
    )  # fmt: skip
    denoising = node(
        "cortex.task.DenoisingLanguageModelTask", tokenizer=tokenizer, ensemble_size=1, data_module=data, **shared
    )
    branch = node("cortex.model.branch.Conv1dBranch", channel_dim=args.width, kernel_size=3)
    fit = {
        "reinitialize_roots": False, "linear_probing": False, "weight_averaging": None,
        "optimizer": node("torch.optim.Adam", lr=args.rate, betas=[0.9, 0.99]),
        "lr_scheduler": node("transformers.get_constant_schedule"),
    }  # fmt: skip
    return OmegaConf.create({
        "tree": node("cortex.model.tree.SequenceModelTree", _recursive_=False, fit_cfg=fit),
        "roots": {"sequence": root},
        "trunk": node("cortex.model.trunk.SumTrunk"),
        "branches": {
            "property": {**branch, "out_dim": 8, "num_blocks": 1},
            "generation": {**branch, "out_dim": 32, "num_blocks": 0},
        },
        "tasks": {"property": {"value": regression}, "generation": {"sequence": denoising}},
        "data_dir": "",
    })  # fmt: skip


def texts(x):
    return np.array([" ".join(row) for row in LETTERS[x]])


def fit(model, asked, args):
    """The tree's own training on what is known and feasible, for a fixed number of batches."""
    x, y = np.concatenate(asked.x[::-1]), np.concatenate(asked.y[::-1])
    ages = np.repeat(np.arange(len(asked.x)), [len(part) for part in asked.x[::-1]])
    recency = np.floor(np.log2(ages + 1)).astype(int)  # the last round, the two before, the four before, ...
    keep = np.isfinite(y)
    unique = np.unique(x[keep], axis=0)
    data = {
        "value": {"text": texts(x[keep]), "value": y[keep], "recency": recency[keep]},
        "sequence": {"text": texts(unique)},
    }
    for name, task in model.task_dict.items():
        for stage in ("test", "fit"):
            task.data_module.setup(stage=stage, dataset_kwargs={"data": data[name]})
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    steps = args.batches * (args.heads + 1)  # the tree takes a step for every head
    trainer = Trainer(max_steps=steps, max_epochs=-1, accelerator="cpu", devices=1, enable_model_summary=False, **quiet)
    trainer.fit(model, train_dataloaders=model.get_dataloader(split="train"))


def lambo(asked, args, known_feasibility):
    """Train the tree, propose mutants of the best sequences with LaMBO, ask; poli-baselines' outer loop."""
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "vocab.txt"
        vocabulary.write_text("\n".join(["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]", *LETTERS]))
        config = tree_config(args, str(vocabulary))
        model = hydra.utils.instantiate(config.tree)
        model.build_tree(config, skip_task_setup=True)
    transform = model.root_nodes["sequence"].eval_transform
    tokenizer = transform[0].tokenizer
    letter = {c: i for i, c in enumerate(LETTERS)}

    def tokens(text):
        return np.array([[letter[c] for c in t.split(" ")] for t in text])

    for _ in range(args.rounds):
        fit(model, asked, args)
        x, y = np.concatenate(asked.x), np.concatenate(asked.y)
        best = np.argsort(-y)[: 2 * args.per_round]
        chosen = farthest_first_traversal(
            library=texts(x[best]),
            distance_fn=lambda a, b: edlib.align(a, b)["editDistance"],
            ranking_scores=torch.tensor(y[best]),
            n=args.per_round,
            descending=True,
        )
        begin = texts(x[best][chosen.numpy()])
        model.eval()
        goal = {"objectives": ["value"], "constraints": None, "scaling": None}
        objective = GraphNEI(**goal, **get_graph_nei_runtime_kwargs(model=model, candidate_points=begin, **goal))
        index = transform(begin)
        optimizer = LaMBO(
            index, tokenizer.get_corruptible_mask(index), model, objective, max_num_solutions=args.per_round,
            num_mutations_per_step=args.mutations, max_guidance_updates=8, guidance_step_size=0.1, kl_weight=0.0,
            feature_attr_temp=1.0, domain_name="sequence", exclude_initial_solution=True, resample_edit_positions=True,
            constraint_fn=(lambda t: asked.function.feasible(tokens(t))) if known_feasibility else None
        )  # fmt: skip
        optimizer.step()
        asked.ask(tokens(optimizer.get_best_solutions()["sequence"].values))


class Settings(NamedTuple):
    rounds: int
    per_round: int
    width: int
    heads: int
    batch: int
    batches: int
    mutations: int
    rate: float


WAYS = {
    "holo GA": lambda asked, args: genetic(asked, args, 1.1 / 32, 1.1 / 32, 2),
    "holo GA, tuned": lambda asked, args: genetic(asked, args, 1.1 / 32, 0.125, 2),
    "cortex LaMBO-2": lambda asked, args: lambo(asked, args, False),
    "cortex LaMBO-2, feasibility known": lambda asked, args: lambo(asked, args, True),
}
PACKAGES = ("torch", "pytorch-holo", "pytorch-cortex", "botorch", "lightning")


@benchmark(quick={"seeds": 1, "rounds": 1}, packages=PACKAGES, device="cpu, one thread", recipes=RECIPES)
def ehrlich_official(
    functions: Path,
    seeds: int = 10,
    methods: tuple[str, ...] = tuple(WAYS),
    rounds: int = 30,
    per_round: int = 250,
    width: int = 32,
    heads: int = 4,
    batch: int = 64,
    batches: int = 20,
    mutations: int = 2,
    rate: float = 2.5e-3,
    known: list = (),
) -> Iterator[Row]:
    """What do the authors' own optimizers find on our Ehrlich functions?

    The functions come from `ehrlich --write-functions FILE`. Needs neither JAX nor this package, but, in an environment
    of its own, pytorch-holo 0.0.5, pytorch-cortex 0.0.4, beignet, boto3, lightning-cloud 0.5.70, setuptools below 80,
    numpy below 2, pandas below 3, and transformers below 5, with which cortex's tokenizer still knows the letters.

    The genetic algorithm is holo-bench's DiscreteEvolution. LaMBO-2 is cortex's LaMBO on cortex's SequenceModelTree: a
    convolutional root, a masked language head and an ensemble of value heads, trained by its own training step. Its
    settings are those of poli-baselines for Ehrlich functions, except for what `recipes` in the result says. Every
    method knows the values of the same 1,000 starts and then asks 250 times a round; sequences that are infeasible or
    known already cost a call too.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    tables, done = dict(np.load(functions)), [row["case"] for row in known]
    settings = Settings(rounds, per_round, width, heads, batch, batches, mutations, rate)
    for name in methods:
        for seed in range(seeds):
            if (case := {"method": name, "seed": seed}) in done:
                continue
            random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
            asked, began = Asked(Ehrlich(tables, seed)), time.process_time()
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                WAYS[name](asked, settings)
            share = np.isfinite(np.concatenate(asked.y[1:])).mean()
            best = {str(len(asked.x[0]) + per_round * i): value for i, value in enumerate(asked.trace)}
            cost = {"seconds": round(time.process_time() - began, 1), "feasible": round(float(share), 3)}
            yield Row(case, best, cost)
