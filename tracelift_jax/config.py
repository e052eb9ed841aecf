"""All that a gin file can name: `from tracelift_jax import config`, then `config.Train.batch_size = 16`.

Each class is defined where it is used, as a frozen dataclass that checks its values.
"""

from tracelift_jax.evals.experiment import Benchmark, Evaluate, ExecutorModel, ServedExecutor
from tracelift_jax.groups.build import Recipe
from tracelift_jax.groups.chat_server import ChatServer
from tracelift_jax.groups.load import GroupFiles
from tracelift_jax.groups.prepare import Prepare
from tracelift_jax.groups.source import DialGroups, ImperfectDial
from tracelift_jax.models.build import Adapter, LoraConfig, Model, Shape
from tracelift_jax.parallel.mesh import MeshConfig, Rules
from tracelift_jax.rollout.evaluate import Evaluation
from tracelift_jax.rollout.reward_config import CodeRewardConfig, RewardConfig
from tracelift_jax.rollout.sample import Sampling
from tracelift_jax.rollout.served import ExecutorServer
from tracelift_jax.serve.scorer import Scorer, Service
from tracelift_jax.tasks.code import CodeFields, CodeTask, HumanEval, Mbpp
from tracelift_jax.tasks.dial import DialTask
from tracelift_jax.tasks.dial_code import DialCode
from tracelift_jax.tasks.files import Fields, JsonlTask
from tracelift_jax.tasks.sandbox import Limits, SandboxConfig
from tracelift_jax.text.prompts import Chat, Frame, Prompts
from tracelift_jax.train.baseline_file import BaselineFile
from tracelift_jax.train.guard import Guard
from tracelift_jax.train.losses import GrpoConfig, RewardModelLossConfig
from tracelift_jax.train.planner_loop import Train
from tracelift_jax.train.process_bench import ProcessBench
from tracelift_jax.train.reward_model import TrainRm
from tracelift_jax.train.roles import Roles
from tracelift_jax.train.run import Schedule
from tracelift_jax.train.sft import Sft
from tracelift_jax.train.update import OptimizerConfig

__all__ = [
    "Adapter",
    "BaselineFile",
    "Benchmark",
    "Chat",
    "ChatServer",
    "CodeFields",
    "CodeRewardConfig",
    "CodeTask",
    "DialCode",
    "DialGroups",
    "DialTask",
    "Evaluate",
    "Evaluation",
    "ExecutorModel",
    "ExecutorServer",
    "Fields",
    "Frame",
    "GroupFiles",
    "GrpoConfig",
    "Guard",
    "HumanEval",
    "ImperfectDial",
    "JsonlTask",
    "Limits",
    "LoraConfig",
    "Mbpp",
    "MeshConfig",
    "Model",
    "OptimizerConfig",
    "Prepare",
    "ProcessBench",
    "Prompts",
    "Recipe",
    "RewardConfig",
    "RewardModelLossConfig",
    "Roles",
    "Rules",
    "Sampling",
    "SandboxConfig",
    "Schedule",
    "Scorer",
    "ServedExecutor",
    "Service",
    "Sft",
    "Shape",
    "Train",
    "TrainRm",
]
