"""Read diffusers' scheduler files: the schedule, what the network predicts, and the grid of timesteps."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from guidance_jax.core import Refused
from guidance_jax.models import parameterizations
from guidance_jax.models.parameterizations import Parameterization
from guidance_jax.schedules import CosineBetas, LinearBetas, RectifiedFlow, ScaledLinearBetas, Schedule
from guidance_jax.untrusted import whole_number

# options that a file may leave out: shared defaults, then those of each scheduler
DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "steps_offset": 0,
    "timestep_spacing": "linspace",
    "set_alpha_to_one": True,
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "rescale_betas_zero_snr": False,
    "use_karras_sigmas": False,
}
SCHEDULERS: dict[str, dict[str, Any]] = {
    "DDIMScheduler": {"timestep_spacing": "leading", "clip_sample": True},
    "DDPMScheduler": {"timestep_spacing": "leading", "clip_sample": True},
    "PNDMScheduler": {"timestep_spacing": "leading", "set_alpha_to_one": False},
    "EulerDiscreteScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "HeunDiscreteScheduler": {},
    "LMSDiscreteScheduler": {},
    "KDPM2DiscreteScheduler": {},
    "DPMSolverMultistepScheduler": {},
    "DPMSolverSinglestepScheduler": {},
    "UniPCMultistepScheduler": {},
}
# options that only these schedulers use; files of others may have them too
ONLY = {"set_alpha_to_one": ("DDIMScheduler", "PNDMScheduler"), "clip_sample": ("DDIMScheduler", "DDPMScheduler")}
# options that would change the process or the grid, with the only values that are supported
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "trained_betas": (None,),
    "thresholding": (False,),
    "interpolation_type": ("linear",),
    "timestep_type": ("discrete",),
    "final_sigmas_type": ("zero",),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "use_flow_sigmas": (False, None),
    "use_dynamic_shifting": (False, None),
    "flow_shift": (None, 1.0),
    "use_lu_lambdas": (False, None),
    "sigma_min": (None,),
    "sigma_max": (None,),
}
# options of the solver, which the user chooses, or of a feature that is off; they are ignored
SOLVER = (
    *("dynamic_thresholding_ratio", "sample_max_value", "skip_prk_steps", "variance_type", "algorithm_type"),
    *("solver_order", "solver_type", "lower_order_final", "euler_at_final", "lambda_min_clipped", "predict_x0"),
    *("disable_corrector", "solver_p", "time_shift_type", "sigma_data"),
)
PREDICTIONS = {
    "epsilon": parameterizations.eps,
    "sample": parameterizations.x0,
    "v_prediction": parameterizations.v,
}


FLOW_MATCHING = "FlowMatchEulerDiscreteScheduler"
FLOW: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "use_dynamic_shifting": False,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
FLOW_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "time_shift_type": ("exponential",),
    "shift_terminal": (None,),
    **{key: (False, None) for key in ("invert_sigmas", "stochastic_sampling", "use_karras_sigmas")},
    **{key: (False, None) for key in ("use_exponential_sigmas", "use_beta_sigmas")},
}


class Scheduler(NamedTuple):
    """The facts about a model that a scheduler file holds.

    Attributes:
      schedule: the schedule that the model was trained on.
      parameterization: what its output means.
      grid: the grid of timesteps for sampling: a function of `schedules` by name, with its options.
      clip: the radius to which the clean estimate is clipped; None for no clipping.
      shift: the options of `dynamic_shift`, if the shift of the grid depends on the size of the pictures; None if not.
    """

    schedule: Schedule
    parameterization: Parameterization
    grid: dict[str, Any]
    clip: float | None
    shift: dict[str, Any] | None = None


def process(about: Mapping[str, Any]) -> Scheduler:
    """Return the schedule, the parameterization and the grid of a `scheduler_config.json`.

    Raises:
      Refused: a scheduler, an option or a value that is not supported; the message names it.
    """
    name = about.get("_class_name")
    if name == FLOW_MATCHING:
        return flow(about)
    if name not in SCHEDULERS:
        raise Refused(f"the scheduler {name} is not supported; known are {', '.join(SCHEDULERS)}, {FLOW_MATCHING}")
    known = DEFAULTS | SCHEDULERS[name]
    for key, value in about.items():
        if key.startswith("_") or key in known or key in SOLVER:
            continue
        if value not in NEUTRAL.get(key, (None,)):
            raise Refused(f"the scheduler file has {key} = {value!r}, which is not supported")
    ignored = [k for k, names in ONLY.items() if name not in names]
    asked = {**known, **{k: v for k, v in about.items() if k in known and k not in ignored}}
    for key, value in asked.items():
        if type(value) is not type(known[key]) and not (type(known[key]) is float and type(value) is int):
            raise Refused(f"the scheduler file has {key} = {str(value)[:80]!r}, expected a value like {known[key]!r}")
    steps = whole_number(asked, "num_train_timesteps", "the scheduler file")
    first, last = asked["beta_start"], asked["beta_end"]
    if not 0 < first <= last < 1 or not asked["clip_sample_range"] > 0 or not 0 <= asked["steps_offset"] < steps:
        raise Refused(
            f"the scheduler file has betas from {first} to {last}, an offset of {asked['steps_offset']} and clipping "
            f"at {asked['clip_sample_range']}; betas must lie between 0 and 1, the offset below {steps}"
        )
    zero = bool(asked["rescale_betas_zero_snr"])
    schedules: dict[str, Schedule] = {
        "linear": LinearBetas(steps, round(first * steps, 12), round(last * steps, 12)),
        "scaled_linear": ScaledLinearBetas(steps, first, last, zero),
        "squaredcos_cap_v2": CosineBetas(steps),
    }
    if zero and asked["beta_schedule"] != "scaled_linear":
        raise Refused(f"the scheduler file rescales {asked['beta_schedule']} betas to zero SNR, which is not supported")
    for key, choices in (("beta_schedule", schedules), ("prediction_type", PREDICTIONS)):
        if asked[key] not in choices:
            raise Refused(f"the scheduler file has {key} = {asked[key]!r}, known are {', '.join(choices)}")
    grid = {
        "name": "spaced",
        "spacing": asked["timestep_spacing"],
        "offset": asked["steps_offset"] if asked["timestep_spacing"] == "leading" else 0,
        "clean": bool(asked["set_alpha_to_one"]),
    }
    schedule = schedules[asked["beta_schedule"]]
    if asked["use_karras_sigmas"]:
        ratios = schedule(0.0).ratio, schedule(float(steps - 1)).ratio
        grid = {"name": "karras", "lo": float(ratios[0]), "hi": float(ratios[1])}
    clip = float(asked["clip_sample_range"]) if asked["clip_sample"] else None
    return Scheduler(schedule, PREDICTIONS[asked["prediction_type"]], grid, clip)


def flow(about: Mapping[str, Any]) -> Scheduler:
    """Return the same facts for `FlowMatchEulerDiscreteScheduler`, with which SD3 and FLUX are sampled.

    diffusers' grid ends at the first timestep of training, unless the pipeline says otherwise. If the shift does not
    depend on the size of the pictures, diffusers shifts this timestep twice.

    Raises:
      Refused: an option or a value that is not supported; the message names it.
    """
    for key, value in about.items():
        if key.startswith("_") or key in FLOW or value in FLOW_NEUTRAL.get(key, (None,)):
            continue
        raise Refused(f"the scheduler file has {key} = {str(value)[:80]!r}, which is not supported")
    asked = FLOW | {k: about[k] for k in FLOW if about.get(k) is not None}
    for key, value in asked.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if (type(FLOW[key]) is bool) != isinstance(value, bool) or not (
            isinstance(value, bool) or (number and value > 0)
        ):
            raise Refused(f"the scheduler file has {key} = {str(value)[:80]}, expected a value like {FLOW[key]!r}")
    steps, shift = whole_number(asked, "num_train_timesteps", "the scheduler file"), float(asked["shift"])
    grid: dict[str, Any] = {"name": "shifted", "start": 1.0}
    if asked["use_dynamic_shifting"]:
        ends = {"least": "base_shift", "most": "max_shift"}
        ends |= {"least_tokens": "base_image_seq_len", "most_tokens": "max_image_seq_len"}
        grid["end"] = 1 / steps
        moving = {own: asked[key] for own, key in ends.items()}
        return Scheduler(RectifiedFlow(), parameterizations.velocity, grid, None, moving)
    grid |= {"shift": shift, "end": shift / (steps + shift - 1)}
    return Scheduler(RectifiedFlow(), parameterizations.velocity, grid, None)
