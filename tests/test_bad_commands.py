"""Bad command lines, one after another: each is one line on standard error and exit code 2, and nothing is drawn."""

import gzip
import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

from guidance_jax.app import cli, parts
from guidance_jax.app.commands import sample

DIGITS = "5" * 5000
DEEP = "[" * 3000 + "]" * 3000
SAMPLE = ("sample", "--models", "models", "--n", 2, "--steps", 2, "--out", "x.npz")
MMPS = (*SAMPLE, "--method", "MMPS", "--set", "measurement.operator.name=Downsample", "--set")
MEASURED = (*MMPS, "measurement.operator.factor=2", "--set")
TRAIN = ("train", "--out", "new")
EVALUATE = ("evaluate", "--models", "models", "--samples")
COMPARE = ("compare", "--models", "models", "--n", 2, "--steps", 2, "--out", "c")


def with_(*flags):
    return (*SAMPLE, *flags)


def setting(*assignments, method="CFG"):
    return (*SAMPLE, "--method", method, *(part for text in assignments for part in ("--set", text)))


# flags of `sample`; what the line must say beside being one
FLAGS = {
    "steps ²": (with_("--steps", "²"), "--steps must be a number from 1 to 100000"),
    "steps ٣": (with_("--steps", "٣"), "--steps must be a number"),
    "steps 0": (with_("--steps", "0"), "--steps must be a number"),
    "steps -3": (
        with_("--steps=-3"),
        "--steps must be a number",
    ),
    "steps 1e3": (with_("--steps", "1e3"), "--steps must be a number"),
    "steps 2.5": (with_("--steps", "2.5"), "--steps must be a number"),
    "steps of a trillion": (with_("--steps", "1000000000000"), "--steps must be a number from 1 to 100000"),
    "steps of 5000 digits": (with_("--steps", DIGITS), "--steps must be a number"),
    "steps empty": (with_("--steps", ""), "--steps must be a number"),
    "steps ddim²": (with_("--steps", "ddim²"), "--steps must be a number"),
    "steps ddim": (with_("--steps", "ddim"), "--steps must be a number"),
    "steps 3,": (with_("--steps", "3,"), "--steps must be a number"),
    "steps 0,3": (with_("--steps", "0,3"), "--steps must be a number"),
    "steps respaced": (with_("--steps", "ddim25"), "--steps must be a number for a model on"),
    "label ²": (with_("--label", "²"), "there is no class called '²'"),
    "label ٣": (with_("--label", "٣"), "there is no class called '٣'"),
    "label --5": (
        with_("--label=--5"),
        "there is no class called '--5'",
    ),
    "label -1": (
        with_("--label=-1"),
        "labels go from 0 to 9, got '-1'",
    ),
    "label of 5000 digits": (with_("--label", DIGITS), "labels go from 0 to 9"),
    "label 2**31": (with_("--label", 2**31), "labels go from 0 to 9"),
    "label 2**63": (with_("--label", 2**63), "labels go from 0 to 9"),
    "label 12": (with_("--label", 12), "got 12"),
    "label 1.5": (with_("--label", "1.5"), "there is no class called '1.5'"),
    "label nan": (with_("--label", "nan"), "there is no class called 'nan'"),
    "label empty": (with_("--label", ""), "--label must be numbers from 0 to 2147483647 or names"),
    "label ,": (with_("--label", ","), "--label must be"),
    "label 3,,4": (with_("--label", "3,,4"), "--label must be"),
    "label long": (with_("--label", "x" * 20_000), "--label must be"),
    "seed 2**63": (with_("--seed", 2**63), "--seed must be a whole number from 0 to 4294967295"),
    "seed 2**32": (with_("--seed", 2**32), "--seed must be a whole number from 0 to 4294967295"),
    "seed -1": (
        with_("--seed=-1"),
        "--seed must be a whole number from 0",
    ),
    "seed x": (with_("--seed", "x"), "--seed"),
    "seed 1.5": (with_("--seed", "1.5"), "--seed"),
    "seed ²": (with_("--seed", "²"), "--seed"),
    "seed of 5000 digits": (with_("--seed", DIGITS), "--seed"),
    "scale nan": (with_("--scale", "nan"), "--scale must be a finite number, got nan"),
    "scale inf": (with_("--scale", "inf"), "--scale must be a finite number, got inf"),
    "scale -inf": (
        with_("--scale=-inf"),
        "--scale must be a finite number, got -inf",
    ),
    "scale 1e39": (with_("--scale", "1e39"), "--scale must be a finite number"),
    "scale 1e400": (with_("--scale", "1e400"), "--scale must be a finite number"),
    "scale x": (with_("--scale", "x"), "--scale"),
    "clip -1": (
        with_("--clip=-1"),
        "--clip must be a number of 0 or more, got -1",
    ),
    "clip nan": (with_("--clip", "nan"), "--clip must be a number of 0 or more, got nan"),
    "clip inf": (with_("--clip", "inf"), "--clip must be a number of 0 or more, got inf"),
    "particles 1": (
        with_("--method", "Twisted", "--particles", 1),
        "--particles must be a whole number from 2 to 100000",
    ),
    "particles -2": (with_("--method", "Twisted", "--particles=-2"), "--particles must be a whole number"),
    "particles of a trillion": (
        with_("--method", "Twisted", "--particles", 10**12),
        "--particles must be a whole number",
    ),
    "particles x": (with_("--method", "Twisted", "--particles", "x"), "--particles"),
    "size ²x²": (with_("--size", "²x²"), "--size must be height x width"),
    "size 0x0": (with_("--size", "0x0"), "--size must be height x width"),
    "size -1x-1": (
        with_("--size=-1x-1"),
        "--size must be height x width",
    ),
    "size of a trillion": (with_("--size", "1000000000000x8"), "--size must be height x width"),
    "size 8": (with_("--size", "8"), "--size must be height x width"),
    "size of digits": (with_("--size", "64x64"), "remove the size"),
    "dtype": (with_("--dtype", "int8"), "--dtype must be float32, bfloat16 or float16, got 'int8'"),
    "dtype ²": (with_("--dtype", "²"), "--dtype must be"),
    "n 0": (("sample", "--models", "models", "--out", "x.npz", "--n", 0), "--n"),
    "n of a trillion": (("sample", "--models", "models", "--out", "x.npz", "--n", 10**12), "--n"),
    "n x": (("sample", "--models", "models", "--out", "x.npz", "--n", "x"), "--n"),
    "batch 0": (with_("--batch", 0), "--batch"),
    "batch x": (with_("--batch", "x"), "--batch"),
    "devices 0": (with_("--devices", 0), "--devices"),
    "devices 99": (with_("--devices", 99), "got devices=99"),
    "tile 1": (with_("--tile", 1), "--tile"),
    "microbatch 0": (with_("--microbatch", 0), "--microbatch"),
    "shard 0": (with_("--shard", 0), "--shard"),
    "an unknown flag": (with_("--sclae", 2), "--sclae"),
    "a word too many": (with_("seven"), "seven"),
    "a flag without its value": (with_("--scale"), "--scale"),
    "no out": (("sample", "--models", "models"), "--out"),
    "no models": (("sample", "--out", "x.npz"), "write --models FOLDER"),
    "models that are not there": (("sample", "--models", "nowhere", "--out", "x.npz"), "nowhere"),
    "models that are a file": (("sample", "--models", "plain", "--out", "x.npz"), "plain"),
    "models of no name": (("sample", "--models", "", "--out", "x.npz"), "holds no models"),
    "models of a long name": (("sample", "--models", "m" * 5000, "--out", "x.npz"), ""),
    "models of a name in two lines": (("sample", "--models", "a\nb", "--out", "x.npz"), "a b"),
    "models of bytes": (("sample", "--models", "\udcff", "--out", "x.npz"), ""),
    "out of another kind": (("sample", "--models", "models", "--out", "x.png"), "write --out x.npz"),
    "out that is a folder": (("sample", "--models", "models", "--out", "folder.npz"), "is a folder"),
    "out that is a file": (("sample", "--models", "models", "--out", "plain"), "plain is a file"),
    "out that cannot be": (("sample", "--models", "models", "--out", "plain/x.npz"), "plain"),
    "out of a long name": (("sample", "--models", "models", "--out", "m" * 5000 + ".npz"), "too long"),
    "method": (with_("--method", "CGF"), "did you mean CFG"),
    "method empty": (with_("--method", ""), "--method must be a name"),
    "method ²": (with_("--method", "²"), "there is no method called"),
    "method long": (with_("--method", "x" * 9000), "there is no method called"),
    "method that is a solver": (with_("--method", "DDIM"), "DDIM is a solver"),
    "solver": (with_("--solver", "DPM3"), "there is no solver called 'DPM3'"),
    "solver empty": (with_("--solver", ""), "--solver must be a name"),
    "solver that is a method": (with_("--solver", "CFG"), "CFG is a method"),
    "grid": (with_("--grid", "cosine"), "known are uniform"),
    "grid empty": (with_("--grid", ""), "--grid must be a name"),
    "prompt": (with_("--prompt", "a cat"), "prompts are for models of captions"),
    "prompt long": (with_("--prompt", "x" * 20_000), "--prompt must be captions of 10000 characters at most"),
    "negative": (with_("--negative", "blurry"), "prompts are for models of captions"),
    "prompt of half a character": (with_("--prompt", "\udcff"), "--prompt must be captions"),
    "a word of half a character": (setting("scale=\udcff"), "scale must be a finite number, a word"),
    "negative with a bell": (with_("--negative", "\a"), "--negative must be a caption"),
}

# what would have been ignored
IGNORED = {
    "label beside prompt": (with_("--label", 3, "--prompt", "a cat"), "prompts are for models of captions"),
    "devices of particles": (with_("--method", "Twisted", "--devices", 2), "devices"),
    "split of particles": (with_("--method", "Twisted", "--split"), "remove --devices and --split"),
    "particles of no population": (with_("--method", "CFG", "--particles", 8), "--particles has no effect for CFG"),
    "particles of nothing": (with_("--method", "none", "--particles", 8), "--particles has no effect for none"),
    "scale of nothing": (with_("--method", "none", "--scale", 3), "--scale has no effect for none"),
    "scale of what has none": (with_("--method", "TFG", "--scale", 3), "--scale has no effect for TFG"),
    "measurement of no inverse problem": (
        (*MEASURED, "measurement.observed=y.npy", "--method", "CFG"),
        "--measurement has no effect for CFG",
    ),
    "microbatch of nothing": (with_("--method", "none", "--microbatch", 2), "--microbatch has no effect for none"),
    "microbatch of a contrast": (
        with_("--method", "CFG", "--microbatch", 2),
        "--microbatch is for the gradient of a classifier",
    ),
    "microbatch of a measurement": (
        (*MEASURED, "measurement.observed=y.npy", "--method", "Reconstruction", "--microbatch", 2),
        "--microbatch has no effect",
    ),
    "tile without latents": (with_("--tile", 16), "--tile is for models of latents"),
    "shard without a job": (with_("--shard", 16), "--shard is for a long job"),
    "size of the digits": ((*TRAIN, "--data", "digits", "--size", 16), "--size is for a folder of images"),
    "size of the judge's digits": ((*EVALUATE, "good.npz", "--size", 16), "--size is for a folder of images"),
    "data without a judge": (("compare", "--models", "bare", "--data", "digits", "--out", "c"), "bare has none"),
    "size without a judge": (("compare", "--models", "bare", "--size", 8, "--out", "c"), "bare has none"),
    "measures of the judge": ((*EVALUATE, "good.npz", "--measures", "fid"), "--measures works only with --reference"),
    "inception of the judge": ((*EVALUATE, "good.npz", "--inception", "w"), "--inception works only with --reference"),
    "data of a reference": (
        ("evaluate", "--samples", "good.npz", "--reference", "good.npz", "--data", "digits"),
        "--data works only with --models",
    ),
    "size of a reference": (
        ("evaluate", "--samples", "good.npz", "--reference", "good.npz", "--size", 8),
        "--size works only with --models",
    ),
    "options of a method in compare": ((*COMPARE, "--set", "radius=3"), "write --method NAME:option=2"),
    "two assignments in one": (setting("eta=0.5\nradius=3", method="APG"), "one option=value at a time"),
}

OPTIONS = {
    "solver=5": (setting("solver=5"), "--set solver must be a name, or a table with a name, got 5"),
    "solver=[1]": (setting("solver=[1]"), "--set solver must be"),
    "solver=true": (setting("solver=true"), "--set solver must be"),
    "solver.name=5": (setting("solver.name=5"), "--set solver must be"),
    "solver without a name": (setting("solver.eta=1"), "the solver has no name"),
    "solver.eta=x": (setting("solver.name=DDIM", "solver.eta=x"), "eta of DDIM must be a finite number, got 'x'"),
    "solver.eta=[0,1]": (setting("solver.name=DDIM", "solver.eta=[0,1]"), "eta of DDIM must be a finite number"),
    "solver.eta=nan": (setting("solver.name=DDIM", "solver.eta=nan"), "solver.eta must be a finite number"),
    "solver.eta=true": (
        setting("solver.name=DDIM", "solver.eta=true"),
        "eta of DDIM must be a finite number, got True",
    ),
    "solver.schedule=3": (
        setting("solver.name=GLASS", "solver.schedule=3"),
        "must be given by the model or the measurement",
    ),
    "solver.steps=0": (setting("solver.name=GLASS", "solver.steps=0"), "a whole number from 1 to"),
    "solver.variance=systematic": (setting("solver.name=DDPM", "solver.variance=systematic"), "one of fixed_small"),
    "grid=5": (setting("grid=5"), "--set grid must be a name"),
    "grid.lo=x": (setting("grid.name=karras", "grid.lo=x"), "grid.lo must be a finite number from"),
    "grid.lo=-1": (setting("grid.name=karras", "grid.lo=-1"), "grid.lo must be a finite number from"),
    "grid.rho=0": (setting("grid.name=karras", "grid.rho=0"), "grid.rho must be a finite number from"),
    "grid.lo=[1]": (setting("grid.name=karras", "grid.lo=[1]"), "grid.lo must be a finite number from"),
    "grid.lo above hi": (setting("grid.name=karras", "grid.lo=90"), "0 < lo < hi"),
    "grid.steps=7": (setting("grid.name=karras", "grid.steps=7"), "has no options steps"),
    "grid.schedule=7": (setting("grid.name=karras", "grid.schedule=7"), "has no options schedule"),
    "grid.shift=0": (setting("grid.name=shifted", "grid.shift=0"), "grid.shift must be a finite number from"),
    "grid.start too large": (setting("grid.name=shifted", "grid.start=2"), "grid.start must be at most 0.999"),
    "grid.start=x": (setting("grid.name=shifted", "grid.start=x"), "grid.start must be a finite number from"),
    "grid.low=1": (setting("grid.name=karras", "grid.low=1"), "the grid karras has no options low"),
    "grid of betas": (setting("grid.name=spaced"), "spaced chooses timesteps of a Betas schedule"),
    "clip=[1,2]": (setting("clip=[1,2]"), "--set clip must be a number of 0 or more, got a list of 2"),
    "clip=x": (setting("clip=x"), "--set clip must be a number of 0 or more, got 'x'"),
    "clip=-1": (setting("clip=-1"), "--set clip must be a number of 0 or more, got -1"),
    "clip=true": (setting("clip=true"), "--set clip must be a number of 0 or more, got True"),
    "clip.x=1": (setting("clip.x=1"), "--set clip must be a number of 0 or more, got a table"),
    "scale=x": (setting("scale=x"), "scale of CFG must be a finite number or a part, got 'x'"),
    "scale=true": (setting("scale=true"), "scale of CFG must be a finite number or a part, got True"),
    "scale=nan": (setting("scale=nan"), "scale must be a finite number"),
    "scale=inf": (setting("scale=inf"), "scale must be a finite number"),
    "scale=[1,2]": (setting("scale=[1,2]"), "scale of CFG must be a finite number or a part, got a list of 2"),
    "scale ragged": (setting("scale=[[1],[1,2]]"), "scale must be a list of numbers, or of lists of equal length"),
    "scale deep": (setting(f"scale={'[' * 100}1{']' * 100}"), "scale must be a list of numbers"),
    "scale very deep": (setting(f"scale={DEEP}"), "scale of CFG must be"),
    "scale of words": (setting('scale=["a"]'), "scale must be a list of numbers"),
    "scale of 5000 digits": (setting(f"scale={DIGITS}"), "scale of CFG must be"),
    "scale a date": (setting("scale=1979-05-27"), "got date"),
    "scale=systematic": (setting("scale=systematic"), "scale of CFG must be a finite number or a part"),
    "scale=DDIM": (setting("scale.name=DDIM"), ""),
    "scale.name=5": (setting("scale.name=5"), ""),
    "a window of words": (
        setting("scale.name=Window", "scale.scale=2", "scale.lo=x", "scale.hi=2"),
        "lo of Window must be",
    ),
    "an empty window": (setting("scale.name=Window", "scale.scale=2", "scale.lo=3", "scale.hi=2"), "window is empty"),
    "a window of itself": (setting(*(f"scale{'.scale' * i}.name=Window" for i in range(12))), ""),
    "a population for a kernel": (
        setting("inner.name=Twisted", method="Recur"),
        "inner of Recur must be a kernel, got Twist",
    ),
    "a window of a reward": (
        setting("scale.name=Window", "scale.scale=2", "scale.lo=0.3", "scale.hi=5", method="BestOf"),
        "the scale of BestOf must be the same at every level",
    ),
    "a scale for other samples": (setting("scale.name=PerSample", "scale.scales=[1,2,3]"), "PerSample"),
    "a table of a few classes": (setting("scale.name=PerClass", "scale.table=x"), "table of PerClass must be"),
    "radius=[1,2]": (setting("radius=[1,2]", method="APG"), "radius of APG must be a finite number"),
    "in_turn=5": (setting("in_turn=5"), "in_turn of CFG must be true or false, got 5"),
    "null=-1": (setting("null=-1"), "null of CFG must be a label"),
    "null=²": (setting("null=²"), "null of CFG must be a label"),
    "inner=5": (setting("inner=5"), "inner of CFG must be a part, got 5"),
    "output=5": (setting("output=5", method="TCFG"), "must be given by the model or the measurement"),
    "steps=0": (setting("steps=0", method="Universal"), "steps of Universal must be a whole number from 1"),
    "draws=2.5": (setting("draws=2.5", method="LGD"), "draws of LGD must be a whole number from 1"),
    "every=0": (setting("every=0", method="Reuse"), "every of Reuse must be a whole number from 1"),
    "repeats=0": (setting("repeats=0", method="Recur"), "repeats of Recur must be a whole number from 1"),
    "repeats of a trillion": (setting("repeats=1000000000000", method="Recur"), "repeats must be a finite number"),
    "classifier=5": (setting("classifier=5", method="Classifier"), "classifier of Classifier must be a part"),
    "smc=5": (setting("smc=5", method="Twisted"), "smc must be a table of options"),
    "smc.resample=fixed_small": (setting("smc.resample=fixed_small", method="Twisted"), "one of systematic"),
    "smc.threshold=x": (setting("smc.threshold=x", method="Twisted"), "threshold of SMC must be a finite number"),
    "smc.thresh=1": (setting("smc.thresh=1", method="Twisted"), "did you mean threshold?"),
    "no =": (setting("scale"), "write --set scale=2.0"),
    "nothing before =": (setting("=3"), "--set takes option=value"),
    "a dot too many": (setting("scale..name=3"), ""),
    "a value and a table": (setting("scale=1", "scale.name=Window"), "gives scale twice"),
    "a path of thousands": (setting(".".join(["a"] * 3000) + "=1"), "got a table"),
    "an option that is a flag": (setting("seed=3"), "CFG has no option 'seed'"),
    "another's option": (setting("radus=3", method="APG"), "did you mean radius?"),
    "a method of tokens": (setting(method="TAG"), "TAG is for tokens"),
    "a method of hidden states": (setting(method="NOS"), "NOS needs a model of tokens"),
    "a solver of tokens": (with_("--solver", "Ancestral"), "Ancestral"),
    "a method of a function": (setting(method="PPLM"), "PPLM needs attribute; give it in Python"),
    "options of nothing": (setting("scale=2", method="none"), "--method none takes no options"),
    "smc of no population": (setting("smc.threshold=1"), "smc options are for particle methods"),
}

MEASUREMENTS = {
    "a number": (
        setting("measurement=5", method="MMPS"),
        "--set measurement must be a table of operator, std and observed",
    ),
    "a word": (setting("measurement=x", method="MMPS"), "--set measurement must be a table"),
    "nothing": (setting(method="MMPS"), "MMPS needs operator"),
    "no operator": (setting("measurement.observed=y.npy", method="MMPS"), "a measurement needs operator"),
    "an operator that is a number": (setting("measurement.operator=5", method="MMPS"), "measurement.operator must be"),
    "an operator that is a list": (setting("measurement.operator=[5]", method="MMPS"), "measurement.operator must be"),
    "an unknown operator": ((*MEASURED[:-2], "measurement.operator.name=Down"), ""),
    "an unknown key": ((*MEASURED, "measurement.sdt=1"), "a measurement has no key 'sdt'; did you mean std?"),
    "no observation": (MEASURED[:-1], "a measurement needs operator and observed"),
    "std x": (
        (*MEASURED, "measurement.observed=y.npy", "--set", "measurement.std=x"),
        "measurement.std must be a finite",
    ),
    "std -1": (
        (*MEASURED, "measurement.observed=y.npy", "--set", "measurement.std=-1"),
        "measurement.std must be a finite",
    ),
    "std nan": (
        (*MEASURED, "measurement.observed=y.npy", "--set", "measurement.std=nan"),
        "measurement.std must be a fin",
    ),
    "std true": (
        (*MEASURED, "measurement.observed=y.npy", "--set", "measurement.std=true"),
        "measurement.std must be a",
    ),
    "std [1]": (
        (*MEASURED, "measurement.observed=y.npy", "--set", "measurement.std=[1]"),
        "measurement.std must be a fin",
    ),
    **{
        f"factor {text or 'missing'}": (
            (*MMPS, f"measurement.operator.factor={text}", "--set", "measurement.observed=y.npy"),
            "factor of Downsample must be a whole number from 1",
        )
        for text in ("0", "-2", "2.0", "x", "true", "[2]")
    },
    "factor 3": (
        (*MMPS, "measurement.operator.factor=3", "--set", "measurement.observed=y.npy"),
        "with sides that 3 div",
    ),
    "observed 5": ((*MEASURED, "measurement.observed=5"), "measurement.observed must be"),
    "observed true": ((*MEASURED, "measurement.observed=true"), "measurement.observed must be"),
    "observed ragged": ((*MEASURED, "measurement.observed=[[1],[1,2]]"), "a list of numbers"),
    "observed nan": ((*MEASURED, "measurement.observed=[nan]"), "a list of finite numbers"),
    "observed of another shape": ((*MEASURED, "measurement.observed=[1,2]"), "the operator returns shape (4, 4, 1)"),
    "observed that is not there": ((*MEASURED, "measurement.observed=nowhere.npy"), "nowhere.npy does not exist"),
    **{
        f"observed {name}": ((*MEASURED, f"measurement.observed={name}"), words)
        for name, words in {
            "folder.npy": "folder.npy is not a file",
            "pipe.npy": "pipe.npy is not a file",
            "pipe.png": "pipe.png is not a file",
            "empty.npy": "empty.npy",
            "empty.png": "empty.png",
            "text.npy": "text.npy",
            "short.npy": "short.npy",
            "huge.npy": "huge.npy",
            "nan.npy": "not finite",
            "words.npy": "expected numbers",
            "complex.npy": "expected numbers",
            "objects.npy": "objects.npy",
            "none.npy": "the measurement has shape (0,)",
            "nothing.npz": "holds no arrays",
            "wide.png": "the measurement has shape (9, 9, 1)",
        }.items()
    },
    **{
        f"{what} beside a measurement": (
            (*MEASURED, "measurement.observed=y.npy", *(part for text in texts for part in ("--set", text))),
            f"{what} needs a label as the condition",
        )
        for what, texts in {
            "CFG": ("inner.name=CFG",),
            "Classifier": ("inner.name=Classifier",),
            "PerClass": ("scale.name=PerClass", "scale.table=[1,2]"),
        }.items()
    },
    "a mask of another shape": (
        setting(
            *("measurement.operator.name=Mask", "measurement.operator.mask=[1,0,1]"),
            *("measurement.observed=y.npy",),
            method="MMPS",
        ),
        "Mask does not accept samples of shape (8, 8, 1)",
    ),
    "a mask of another shape in the method": (
        setting(
            *("measurement.operator.name=Mask", "measurement.operator.mask=1", "measurement.observed=x.npy"),
            *("mask=[1,2]",),
            method="Inpaint",
        ),
        "the options of Inpaint do not fit",
    ),
    "a kernel of one axis": (
        setting(
            *("measurement.operator.name=Blur", "measurement.operator.kernel=[1,2,1]"),
            *("measurement.observed=y.npy",),
            method="MMPS",
        ),
        "Blur does not accept samples of shape (8, 8, 1)",
    ),
}

# the same by files: what is in ask.toml beside the models
SETTINGS = {
    'scale = "x"': "ask.toml: scale must be a finite number, got 'x'; write scale = 2",
    "scale = true": "ask.toml: scale must be a finite number, got True",
    "scale = nan": "ask.toml: scale must be a finite number, got nan",
    "scale = inf": "ask.toml: scale must be a finite number, got inf",
    "scale = 1e39": "ask.toml: scale must be a finite number",
    "scale = [1, 2]": "ask.toml: scale must be a finite number, got a list of 2",
    "scale = {name = 'Window'}": "ask.toml: scale must be a finite number, got a table",
    "scale = 1979-05-27": "ask.toml: scale must be a finite number, got date",
    'seed = "abc"': "ask.toml: seed must be a whole number from 0 to 4294967295, got 'abc'",
    "seed = 1.5": "ask.toml: seed must be a whole number from 0 to 4294967295, got 1.5",
    "seed = true": "ask.toml: seed must be a whole number",
    "seed = -1": "ask.toml: seed must be a whole number",
    "seed = 18446744073709551616": "ask.toml: seed must be a whole number",
    "seed = nan": "ask.toml: seed must be a whole number",
    f"seed = {DIGITS}": "ask.toml cannot be read",
    "method = 5": "ask.toml: method must be a name, or a table with a name, got 5",
    "method = true": "ask.toml: method must be a name",
    "method = ['CFG']": "ask.toml: method must be a name",
    "method = ''": "ask.toml: method must be a name",
    "method = {name = 5}": "ask.toml: method must be a name",
    "method = {name = 'CFG', scale = nan}": "ask.toml: scale must be a finite number",
    "method = {name = 'CFG', scale = [[1], [1, 2]]}": "ask.toml: scale must be a list of numbers",
    "method = {name = 'CFG', scale = 'x'}": "scale of CFG must be a finite number or a part, got 'x'",
    "method = {name = 'CFG', radus = 2}": "CFG has no option 'radus'",
    "solver = 5": "ask.toml: solver must be a name, or a table with a name, got 5",
    "solver = {name = 'DDIM', eta = 'x'}": "eta of DDIM must be a finite number",
    "solver = [1]": "ask.toml: solver must be a name",
    "grid = 5": "ask.toml: grid must be a name, or a table with a name, got 5",
    "grid = {name = 'karras', lo = 'x'}": "grid.lo must be a finite number from",
    "measurement = 5": "ask.toml: measurement must be a table of operator, std and observed, got 5",
    "measurement = {operator = 5}": "measurement.operator must be",
    "measurement = {std = 'x'}": "measurement.std must be a finite number from 0",
    "size = 5": "ask.toml: size must be height x width",
    "size = [8, 8]": "ask.toml: size must be height x width",
    "models = 5": "ask.toml: models must be a folder, got 5",
    "models = ['m']": "ask.toml: models must be a folder",
    'models = "a\\u0000b"': "ask.toml: models must be a folder",
    "steps = true": "ask.toml: steps must be a number from 1 to 100000",
    "steps = 2.5": "ask.toml: steps must be a number",
    "steps = 0": "ask.toml: steps must be a number",
    "steps = -5": "ask.toml: steps must be a number",
    "steps = 1000000000000": "ask.toml: steps must be a number from 1 to 100000",
    "steps = [5]": "ask.toml: steps must be a number",
    "steps = '²'": "ask.toml: steps must be a number",
    "labels = -1": "ask.toml: labels must be numbers from 0",
    "labels = 1.5": "ask.toml: labels must be numbers",
    "labels = true": "ask.toml: labels must be numbers",
    "labels = [[1]]": "ask.toml: labels must be numbers",
    "labels = [1, nan]": "ask.toml: labels must be numbers",
    "labels = 4294967296": "ask.toml: labels must be numbers from 0 to 2147483647",
    "labels = {a = 1}": "ask.toml: labels must be numbers",
    "labels = [12]": "got 12",
    "prompts = 5": "ask.toml: prompts must be captions",
    "prompts = [5]": "ask.toml: prompts must be captions",
    "negative = 5": "ask.toml: negative must be a caption",
    "particles = 1": "ask.toml: particles must be a whole number from 2 to 100000",
    "particles = 2.5": "ask.toml: particles must be a whole number",
    "particles = '8'": "ask.toml: particles must be a whole number",
    "clip = -1": "ask.toml: clip must be a number of 0 or more, got -1",
    "clip = true": "ask.toml: clip must be a number of 0 or more, got True",
    "clip = 'x'": "ask.toml: clip must be a number of 0 or more, got 'x'",
    "clip = [1, 2]": "ask.toml: clip must be a number of 0 or more, got a list of 2",
    "clip = nan": "ask.toml: clip must be a number of 0 or more, got nan",
    "dtype = 5": "ask.toml: dtype must be float32, bfloat16 or float16, got 5",
    "dtype = 'int8'": "ask.toml: dtype must be float32, bfloat16 or float16",
    "scael = 2.0": "a configuration has no key 'scael'; did you mean scale? its keys are",
    "given = ['scale']": "a configuration has no key 'given'",
    "'' = 2": "a configuration has no key ''",
    "method = [": "ask.toml cannot be read",
    "scale = 1\nscale = 2": "ask.toml cannot be read",
    f"scale = {DEEP}": "ask.toml cannot be read",
    "scale = " + "{a = " * 90 + "1" + "}" * 90: "ask.toml: scale must be a finite number, got a table",
    "method = {name = 'CFG', scale = " + "{a = " * 90 + "1" + "}" * 91: "got a table",
}

OTHERS = {
    "no such command": (("smaple",), "smaple"),
    "an unknown flag before": (("--verbose",), "--verbose"),
    "methods of a name": (("methods", "afg"), "did you mean"),
    "methods of ²": (("methods", "²"), "there is no method or part called '²'"),
    "methods of nothing": (("methods", ""), "there is no method or part called ''"),
    "methods of two": (("methods", "apg", "cfg"), "cfg"),
    "demo of poems": (("demo", "--task", "poems"), "No such option: --task"),
    "demo of 1 sample": (("demo", "--samples", 1), "--samples"),
    "demo of a trillion": (("demo", "--samples", 10**12), "--samples"),
    "demo of 1 step": (("demo", "--steps", 1), "--steps"),
    "demo of a trillion steps": (("demo", "--steps", 10**12), "--steps"),
    "demo into a file": (("demo", "--out", "plain"), "plain"),
    "train without out": (("train",), "--out"),
    "train into a file": (("train", "--out", "plain"), "plain"),
    "train with seed -1": ((*TRAIN, "--seed=-1"), "--seed must be a whole number from 0 to 4294967295, got -1"),
    "train with seed 2**63": ((*TRAIN, "--seed", 2**63), "--seed must be a whole number"),
    "train with preset": ((*TRAIN, "--preset", "huge"), "--preset must be one of quick"),
    "train of no steps": ((*TRAIN, "--steps", 0), "--steps must be a whole number from 1"),
    "train of many steps": ((*TRAIN, "--steps", 10**12), "--steps must be a whole number from 1"),
    "train of steps ²": ((*TRAIN, "--steps", "²"), "--steps"),
    "train at rate nan": ((*TRAIN, "--rate", "nan"), "--rate must be a finite number"),
    "train at rate inf": ((*TRAIN, "--rate", "inf"), "--rate must be a finite number"),
    "train at rate 0": ((*TRAIN, "--rate", 0), "--rate must be a finite number"),
    "train with ema nan": ((*TRAIN, "--ema", "nan"), "--ema must be a finite number"),
    "train with ema 1": ((*TRAIN, "--ema", 1), "--ema must be a finite number from 0.0 to 0.999999"),
    "train with dropout nan": ((*TRAIN, "--label-dropout", "nan"), "--label-dropout must be a finite number"),
    "train with dropout 2": ((*TRAIN, "--label-dropout", 2), "--label-dropout must be a finite number"),
    "train of width 0": ((*TRAIN, "--width", 0), "--width must be a whole number from 8"),
    "train of width 20": ((*TRAIN, "--width", 20), "widths must be multiples of 8"),
    "train of great width": ((*TRAIN, "--width", 8 * 10**11), "--width must be a whole number from 8"),
    "train on batches of none": ((*TRAIN, "--batch", 0), "--batch must be a whole number from 1"),
    "train with type": ((*TRAIN, "--dtype", "int8"), "--dtype must be float32"),
    "train saving never": ((*TRAIN, "--save-every", 0), "--save-every must be a whole number from 1"),
    "train on 99 devices": ((*TRAIN, "--devices", 99), "got devices=99"),
    "train on nothing": ((*TRAIN, "--data", "nowhere"), "there is no folder 'nowhere'"),
    "train on a file": ((*TRAIN, "--data", "plain"), "there is no folder 'plain'"),
    "train on an empty name": ((*TRAIN, "--data", ""), ""),
    "train on one class": ((*TRAIN, "--data", "photos"), "photos has one class, cat"),
    "train on size 0": ((*TRAIN, "--data", "photos", "--size", 0), "--size"),
    "train on size -5": ((*TRAIN, "--data", "photos", "--size=-5"), "--size"),
    "train on a great size": ((*TRAIN, "--data", "photos", "--size", 10**9), "--size"),
    "train on a pipe": ((*TRAIN, "--data", "pipes"), "is not a file"),
    "train on an IDX pipe": ((*TRAIN, "--data", "idx"), "is not a file"),
    "convert nothing": (("convert", "--out", "o"), ""),
    "convert what is not there": (("convert", "nowhere.pt", "--out", "o"), "nowhere.pt"),
    "convert of heads 0": (("convert", "plain.pt", "--out", "o", "--heads", 0), "--heads"),
    "convert of a schedule": (("convert", "plain.pt", "--out", "o", "--schedule", "x"), "schedule must be one of"),
    "convert a text": (("convert", "plain.pt", "--out", "o"), "plain.pt"),
    "compare at nan": ((*COMPARE, "--scales", "nan"), "--scales takes finite numbers"),
    "compare at inf": ((*COMPARE, "--scales", "1,inf"), "--scales takes finite numbers"),
    "compare at 1,": ((*COMPARE, "--scales", "1,"), "--scales takes finite numbers"),
    "compare at nothing": ((*COMPARE, "--scales", ""), "--scales takes finite numbers"),
    "compare at ²": ((*COMPARE, "--scales", "²"), "--scales takes finite numbers"),
    "compare of 1": (("compare", "--models", "models", "--n", 1, "--out", "c"), "--n"),
    "compare a name": ((*COMPARE, "--method", "CGF"), "did you mean CFG"),
    "compare an empty name": ((*COMPARE, "--method", ""), "there is no method called ''"),
    "compare an option": ((*COMPARE, "--method", "CFG:radus=3"), "CFG has no option 'radus'"),
    "compare a wrong option": ((*COMPARE, "--method", "CFG:scale"), "--set takes option=value"),
    "compare seed": ((*COMPARE, "--seed=-1"), "--seed must be a whole number"),
    "compare label": ((*COMPARE, "--method", "none", "--label", "²"), "there is no class called '²'"),
    "compare solver=5": ((*COMPARE, "--set", "solver=5"), "--set solver must be a name"),
    "compare clip": ((*COMPARE, "--set", "clip=-1"), "--set clip must be a number of 0 or more"),
    "compare into a file": (("compare", "--models", "models", "--out", "plain"), "plain"),
    "compare on data": ((*COMPARE, "--data", "nowhere"), "there is no folder 'nowhere'"),
    "evaluate without samples": (("evaluate", "--models", "models"), "--samples"),
    "evaluate by nothing": (("evaluate", "--samples", "good.npz"), "give either --reference"),
    "evaluate by both": ((*EVALUATE, "good.npz", "--reference", "good.npz"), "give either --reference"),
    "evaluate without a judge": (("evaluate", "--models", "bare", "--samples", "good.npz"), "bare has no judge"),
    "evaluate measures": (
        ("evaluate", "--samples", "good.npz", "--reference", "good.npz", "--measures", "fdi"),
        "--measures must be among fid",
    ),
    "evaluate by a pipe": (("evaluate", "--samples", "good.npz", "--reference", "pipe.npz"), "is not a file"),
    "evaluate without weights": (
        ("evaluate", "--samples", "good.npz", "--reference", "good.npz", "--inception", "w.pth"),
        "no Inception weights",
    ),
    "evaluate into a folder": ((*EVALUATE, "good.npz", "--out", "folder.npz"), "is a folder"),
    **{
        f"evaluate {name}": ((*EVALUATE, name), words)
        for name, words in {
            "nowhere.npz": "nowhere.npz does not exist",
            "plain": "plain is not an .npz file",
            "folder.npz": "is not a file",
            "pipe.npz": "is not a file",
            "empty.npz": "cannot be read",
            "array.npz": "cannot be read",
            "text.npz": "cannot be read",
            "cut.npz": "cut.npz",
            "flipped.npz": "flipped.npz",
            "members.npz": "members.npz",
            "nothing.npz": "holds no arrays",
            "none.npz": "evaluate takes uint8 NHWC images",
            "nan.npz": "evaluate takes uint8 NHWC images",
            "scalar.npz": "evaluate takes uint8 NHWC images",
            "unlabelled.npz": "has no labels (entry arr_1)",
            "other.npz": "samples must be (n, 8, 8, 1)",
            "objects.npz": "objects.npz",
        }.items()
    },
}

# a damaged file among the models: (file, content, command, words)
TABLES = (b"", b"{", b"[]", b"5", b"null", b"\xff\xfe\x00", b'{"a": ' * 5000)
EVALUATED = (*EVALUATE, "good.npz")
DAMAGED = {
    **{
        f"{file} {content[:12]!r}": (file, content, command, "restore it")
        for file, command in (
            ("data.json", SAMPLE),
            ("pipeline.json", SAMPLE),
            ("judge/config.json", EVALUATED),
            ("denoiser/config.json", SAMPLE),
            ("classifier/config.json", SAMPLE),
            ("model_index.json", SAMPLE),
        )
        for content in TABLES
    },
    "size of data.json": ("data.json", b'{"size": "x"}', EVALUATED, "data.json is damaged (size is 'x')"),
    "size 0 of data.json": ("data.json", b'{"size": 0}', EVALUATED, "data.json is damaged (size is 0)"),
    "data of data.json": ("data.json", b'{"data": 5}', EVALUATED, "data.json is damaged (data is 5)"),
    "classes of data.json": ("data.json", b'{"classes": 5}', SAMPLE, "data.json is damaged (classes is 5)"),
    "a class of data.json": ("data.json", b'{"classes": [5]}', SAMPLE, "data.json is damaged (classes is a list of 1)"),
    "a key of pipeline.json": ("pipeline.json", b'{"x": 5}', SAMPLE, "Pipeline has no field 'x'"),
    "grid of pipeline.json": ("pipeline.json", b'{"grid": 5}', SAMPLE, "Pipeline has grid = 5"),
    "clip of pipeline.json": ("pipeline.json", b'{"clip": "x"}', SAMPLE, "Pipeline has clip = 'x'"),
    "classes of pipeline.json": ("pipeline.json", b'{"classes": 5}', SAMPLE, "Pipeline has classes = 5"),
    "a clip of pipeline.json below 0": ("pipeline.json", b'{"clip": -1}', SAMPLE, "the pipeline has clip = -1"),
    "sizes of pipeline.json": ("pipeline.json", b'{"sizes": -1}', SAMPLE, "the pipeline has sizes = -1"),
    "no network": ("judge/config.json", b'{"format": "guidance_jax/1"}', EVALUATED, "config.json has network = None"),
    "another format": ("judge/config.json", b"{}", EVALUATED, "is not in the format guidance_jax/1"),
    "no classes": (
        "judge/config.json",
        b'{"format": "guidance_jax/1", "network": {}}',
        EVALUATED,
        "config.json",
    ),
    "ten classes": (
        "judge/config.json",
        b'{"format": "guidance_jax/1", "network": {"num_classes": "ten"}}',
        EVALUATED,
        "config.json",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models of the digits that ship with the package, a judge that was never trained, and files of every bad kind."""
    from PIL import Image

    from guidance_jax.app.data import remember
    from guidance_jax.checkpoints.config import config
    from guidance_jax.checkpoints.flat import save_flat
    from guidance_jax.models import Domain
    from guidance_jax.zoo.examples import digits
    from guidance_jax.zoo.judge import Judge
    from guidance_jax.zoo.networks import save

    root = tmp_path_factory.mktemp("bad")
    model, classifier = digits()
    save(root / "models" / "denoiser", model)
    save(root / "models" / "classifier", classifier)
    save(root / "bare" / "denoiser", model)
    judge = Judge(10, 8)
    params = judge.init(jax.random.key(0), np.zeros((8, 8, 1)))
    save_flat(root / "models" / "judge", params, config(judge, Domain((8, 8, 1), None, 10)))
    remember(root / "models", "digits", 32, tuple(f"class {i}" for i in range(10)))

    (root / "plain").write_text("plain text")
    (root / "plain.pt").write_text("plain text")
    for name in ("folder.npz", "folder.npy", "folder.toml"):
        (root / name).mkdir()
    for name in ("empty.npz", "empty.npy", "empty.png"):
        (root / name).write_bytes(b"")
    for name in ("text.npz", "text.npy"):
        (root / name).write_text("no array")
    (root / "photos" / "cat").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(root / "photos" / "cat" / "a.png")
    (root / "pipes" / "cat").mkdir(parents=True)
    (root / "idx").mkdir()
    pipes = ("pipe.npz", "pipe.npy", "pipe.png", "pipe.toml", "pipes/cat/a.png", "idx/train-images-idx3-ubyte")
    for name in pipes:
        os.mkfifo(root / name)
    Image.new("I;16", (4, 4)).save(root / "deep.png")
    Image.new("L", (9, 9)).save(root / "wide.png")

    np.save(root / "y.npy", np.zeros((4, 4, 1), np.float32))
    np.save(root / "x.npy", np.zeros((8, 8, 1), np.float32))
    np.save(root / "nan.npy", np.full((4, 4, 1), np.nan))
    np.save(root / "words.npy", np.asarray(["a"]))
    np.save(root / "complex.npy", np.zeros((4, 4, 1), complex))
    np.save(root / "objects.npy", np.asarray([{}]), allow_pickle=True)
    np.save(root / "none.npy", np.zeros(0))
    whole = (root / "y.npy").read_bytes()
    (root / "short.npy").write_bytes(whole[:-8])
    (root / "huge.npy").write_bytes(whole.replace(b"(4, 4, 1), }   ", b"(4444444444,),}"))

    images, labels = np.zeros((20, 8, 8, 1), np.uint8), np.arange(20) % 10
    np.savez(root / "good.npz", arr_0=images, arr_1=labels)
    np.savez(root / "nothing.npz")
    np.savez(root / "none.npz", arr_0=images[:0], arr_1=labels[:0])
    np.savez(root / "nan.npz", arr_0=np.full(images.shape, np.nan), arr_1=labels)
    np.savez(root / "scalar.npz", arr_0=np.uint8(3), arr_1=labels)
    np.savez(root / "unlabelled.npz", arr_0=images)
    np.savez(root / "other.npz", arr_0=images[:, :4], arr_1=labels)
    np.savez(root / "objects.npz", arr_0=np.asarray([{}]), arr_1=labels)
    (root / "array.npz").write_bytes(whole)
    good = (root / "good.npz").read_bytes()
    (root / "cut.npz").write_bytes(good[-200:])
    np.savez_compressed(root / "packed.npz", arr_0=np.random.default_rng(0).bytes(999), arr_1=labels)
    (root / "flipped.npz").write_bytes(good[:200] + bytes(b ^ 255 for b in good[200:400]) + good[400:])
    with zipfile.ZipFile(root / "members.npz", "w") as file:
        file.writestr("arr_0.npy", b"no array")
    return root


@pytest.fixture
def call(folder, monkeypatch, capfd):
    """`guidance-jax ARGUMENTS` in that folder: exit code and standard error."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))

    def run(arguments):
        monkeypatch.setattr("sys.argv", ["guidance-jax", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code or 0, capfd.readouterr().err

    yield run
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])


def one_line(left, words):
    code, err = left
    assert code == 2, err[-2000:]
    assert len(err.strip().splitlines()) == 1, err[-2000:]
    assert err.startswith("error: ")
    assert words in err
    assert len(err) < 2200


@pytest.mark.parametrize("what", FLAGS)
def test_flags(call, what):
    one_line(call(FLAGS[what][0]), FLAGS[what][1])


@pytest.mark.parametrize("what", IGNORED)
def test_nothing_is_ignored(call, what):
    one_line(call(IGNORED[what][0]), IGNORED[what][1])


@pytest.mark.parametrize("what", OPTIONS)
def test_options(call, what):
    one_line(call(OPTIONS[what][0]), OPTIONS[what][1])


@pytest.mark.parametrize("what", MEASUREMENTS)
def test_measurements(call, what):
    one_line(call(MEASUREMENTS[what][0]), MEASUREMENTS[what][1])


@pytest.mark.parametrize("what", SETTINGS, ids=lambda text: text[:40])
def test_files_of_settings(call, folder, what):
    own = "" if what.startswith("models") else 'models = "models"\n'
    (folder / "ask.toml").write_text(own + what + "\n", "utf-8")
    one_line(call(("sample", "--config", "ask.toml", "--n", 2, "--out", "x.npz")), SETTINGS[what])


def test_files_of_settings_that_are_none(call, folder):
    (folder / "binary.toml").write_bytes(bytes(range(256)))
    (folder / "latin.toml").write_bytes("method = 'é'".encode("latin-1"))
    (folder / "packed.toml").write_bytes(gzip.compress(b"scale = 2"))
    with (folder / "large.toml").open("wb") as file:
        file.truncate(2**30)
    for name, words in (
        ("nowhere.toml", "nowhere.toml does not exist"),
        ("folder.toml", "folder.toml is not a file"),
        ("pipe.toml", "pipe.toml is not a file"),
        ("/dev/zero", "/dev/zero is not a file"),
        ("binary.toml", "cannot be read"),
        ("latin.toml", "cannot be read"),
        ("packed.toml", "cannot be read"),
        ("large.toml", "at most 4,194,304 are accepted"),
        ("plain", "plain cannot be read"),
        ("plain/ask.toml", "plain/ask.toml"),
    ):
        one_line(call(("sample", "--config", name, "--out", "x.npz")), words)


@pytest.mark.slow
@pytest.mark.parametrize("what", OTHERS)
def test_other_commands(call, what):
    one_line(call(OTHERS[what][0]), OTHERS[what][1])


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_files_among_the_models(call, folder, what):
    name, content, command, words = DAMAGED[what]
    path = folder / "models" / name
    before = path.read_bytes() if path.exists() else None
    try:
        path.write_bytes(content)
        one_line(call(command), words)
    finally:
        path.unlink() if before is None else path.write_bytes(before)


@pytest.mark.parametrize("name", ["data.json", "pipeline.json", "judge/config.json", "denoiser/config.json"])
@pytest.mark.parametrize("kind", ["a folder", "a pipe"])
def test_files_among_the_models_that_are_none(call, folder, name, kind):
    path = folder / "models" / name
    before = path.read_bytes() if path.exists() else None
    path.unlink(missing_ok=True)
    try:
        path.mkdir() if kind == "a folder" else os.mkfifo(path)
        one_line(call(EVALUATED if name.startswith("judge") else SAMPLE), "is not a file")
    finally:
        path.rmdir() if kind == "a folder" else path.unlink()
        if before is not None:
            path.write_bytes(before)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_files_that_may_not_be_read(call, folder):
    for name in ("shut.toml", "shut.npz"):
        (folder / name).write_bytes(b"")
        (folder / name).chmod(0)
    one_line(call(("sample", "--config", "shut.toml", "--out", "x.npz")), "Permission denied")
    one_line(call((*EVALUATE, "shut.npz")), "Permission denied")


def test_nothing_was_written(folder):
    """After all of the above."""
    assert not [name for name in ("x.npz", "x.json", "c/comparison.json", "o", "d") if (folder / name).exists()]


def test_an_interruption_at_any_moment_is_one_line(call, monkeypatch):
    """Before a command, in it, and in what it imports."""
    said = "interrupted: everything saved so far is kept; run the same command again to continue"

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    for patched, name, command in (
        (cli.jax.config, "update", ("methods",)),
        (parts, "summary", ("methods",)),
        (sample, "plan", SAMPLE),
        (sample, "check_writable", SAMPLE),
    ):
        before = signal.getsignal(signal.SIGINT)
        try:
            with monkeypatch.context() as patch:
                patch.setattr(patched, name, interrupt)
                code, err = call(command)
        finally:
            signal.signal(signal.SIGINT, before)
        assert (code, err.strip().splitlines()) == (130, [said]), name


@pytest.mark.slow
def test_an_interruption_of_the_imports_is_one_line(tmp_path):
    """The modules of the commands take a second; Ctrl-C may come while they are read."""
    program = (
        "import sys, builtins, guidance_jax\n"
        "real = builtins.__import__\n"
        "def interrupted(name, *rest):\n"
        "    if name.endswith('metrics.fid'): raise KeyboardInterrupt\n"
        "    return real(name, *rest)\n"
        "builtins.__import__ = interrupted\n"
        "from guidance_jax.app.cli import main\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2])}
    left = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert left.returncode == 130
    assert len(left.stderr.strip().splitlines()) == 1


def test_settings_are_read_alike_from_flags_and_files():
    """The good ones: what the table takes becomes what a request holds."""
    from guidance_jax.app.request import Request
    from guidance_jax.app.schema import REQUEST, check

    table = json.loads(
        '{"steps": 40, "labels": [3, "class 1"], "method": "CFG", "clip": 0, "seed": 4294967295, "scale": 3,'
        ' "solver": {"name": "DDIM", "eta": 0.5}, "size": "512x768", "dtype": "float32", "prompts": "a cat"}'
    )
    found = check(REQUEST, table, "ask.toml: ")
    assert found["steps"] == "40"
    assert found["labels"] == (3, "class 1")
    assert found["method"] == {"name": "CFG"}
    assert found["clip"] is None
    assert found["prompts"] == ("a cat",)
    request = Request("models", **found)
    assert (request.seed, request.scale, request.dtype, request.clip) == (2**32 - 1, 3, None, None)
    assert request.sides() == (512, 768)
    assert check(REQUEST, {"labels": "3, class 1", "steps": "ddim25", "clip": 1.5}) == {
        "labels": ("3", "class 1"),
        "steps": "ddim25",
        "clip": 1.5,
    }
