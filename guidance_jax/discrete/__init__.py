"""Token sequences: absorbing and uniform diffusion, their solvers, and guidance of rates and of hidden states."""

from guidance_jax.discrete import entrgi, orders, remasking, sites
from guidance_jax.discrete.ancestral import Ancestral
from guidance_jax.discrete.any_order import AnyOrder
from guidance_jax.discrete.automaton_guidance import AutomatonGuidance, AutomatonTwist
from guidance_jax.discrete.density_ratio import DensityRatio, NeighbourClassifier
from guidance_jax.discrete.entrgi import EntRGi
from guidance_jax.discrete.entropy_bound import EntropyBound
from guidance_jax.discrete.first_hitting import FirstHitting
from guidance_jax.discrete.forbid import Forbid
from guidance_jax.discrete.gibbs import GibbsCorrector
from guidance_jax.discrete.infill import Infill
from guidance_jax.discrete.jump import SingleJump
from guidance_jax.discrete.lambo import LaMBO
from guidance_jax.discrete.mask_predict import MaskPredict
from guidance_jax.discrete.masked_contrast import AdaptiveCFG, PromptCFG
from guidance_jax.discrete.network import HiddenNetwork, TokenNetwork
from guidance_jax.discrete.nos import NOS, ValueHead
from guidance_jax.discrete.planned import PlannedUnmasking
from guidance_jax.discrete.prediction import TokenPrediction
from guidance_jax.discrete.predictor import PredictorGuidance
from guidance_jax.discrete.predictor_free import PredictorFree
from guidance_jax.discrete.process import Absorbing, Uniform
from guidance_jax.discrete.remasking import Remasking
from guidance_jax.discrete.sundae import SUNDAE
from guidance_jax.discrete.tag import TAG
from guidance_jax.discrete.tau_leap import TauLeap

__all__ = [
    "Absorbing",
    "AdaptiveCFG",
    "Ancestral",
    "AnyOrder",
    "AutomatonGuidance",
    "AutomatonTwist",
    "DensityRatio",
    "EntRGi",
    "EntropyBound",
    "FirstHitting",
    "Forbid",
    "GibbsCorrector",
    "HiddenNetwork",
    "Infill",
    "LaMBO",
    "MaskPredict",
    "NOS",
    "NeighbourClassifier",
    "PlannedUnmasking",
    "PredictorFree",
    "PredictorGuidance",
    "PromptCFG",
    "Remasking",
    "SUNDAE",
    "SingleJump",
    "TAG",
    "TauLeap",
    "TokenNetwork",
    "TokenPrediction",
    "Uniform",
    "ValueHead",
    "entrgi",
    "orders",
    "remasking",
    "sites",
]
