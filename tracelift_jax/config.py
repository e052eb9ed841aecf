"""All that a gin file can name: `from tracelift_jax import config`, then `config.Train.batch_size = 16`.

Each class is defined where it is used, as a frozen dataclass that checks its values.
"""

from tracelift_jax.models.build import LoraConfig, Model, Shape
from tracelift_jax.parallel.mesh import MeshConfig
from tracelift_jax.text.prompts import Frame, Prompts
from tracelift_jax.train.losses import GrpoConfig, RewardModelLossConfig
from tracelift_jax.train.run import Schedule
from tracelift_jax.train.sft import Sft
from tracelift_jax.train.update import OptimizerConfig

__all__ = [
    "Frame",
    "GrpoConfig",
    "LoraConfig",
    "MeshConfig",
    "Model",
    "OptimizerConfig",
    "Prompts",
    "RewardModelLossConfig",
    "Schedule",
    "Sft",
    "Shape",
]
