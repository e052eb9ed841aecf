"""What traces are rewarded for: the settings of `reward.py` and `code_reward.py`."""

import dataclasses
from typing import Literal

from tracelift_jax.checked import check_types, require
from tracelift_jax.rollout.own_reward import OwnReward
from tracelift_jax.rollout.shaping import Shaping

ExecStyle = Literal["binary", "pass_rate", "coderl", "hybrid"]


@dataclasses.dataclass(frozen=True)
class RewardConfig:
    """What a trace is rewarded for; e2e, s and u are the primary verdict, the grade and the uplift.

    Attributes:
        kind: "tracelift" 0.5 e2e + 0.5 shaped(s, u); "exec_only" e2e; and two ablations of the quality term,
            "rm_only" 0.5 e2e + 0.5 s, "uplift_only" 0.5 e2e + 0.5 u.
        uplift: "sampled" compares `repeats` verdicts with the baseline's; "likelihood" compares the executor's
            probability of the reference answer with and without the reasoning; "none" measures no uplift.
        repeats: K, executor samples a trace for the sampled uplift.
        baseline: "cached" measures the executor without reasoning once per problem, by `baseline_samples` samples, and
            keeps the counts; "resample" draws K fresh ones for every trace (reference).
        baseline_samples: answers a problem of a cached baseline, for the sampled uplift.
        shaping: "product" s u (reference); "sign_aware" s u for u >= 0, (1 - s) u below: monotone in both.
        adaptive: E, further executor samples for each trace of the groups that the first K leave most undecided; 0
            draws none. For the sampled uplift; see `rollout/adaptive.py` for what undecided means.
        adaptive_share: the share of a batch's groups that get them, rounded up.
        malformed: of traces without closing tag, empty, or with a second opening tag: "fail" counts them as always
            wrong with grade 0; "execute" closes the tag and judges them like any other; "mask" leaves them out of
            the group.
        own: a reward of your own in place of the equation of `kind`, see `rollout/own_reward.py`. It is given what
            `uplift` measures, and grades where there is a reward model.
    """

    kind: Literal["tracelift", "exec_only", "rm_only", "uplift_only"] = "tracelift"
    uplift: Literal["sampled", "likelihood", "none"] = "likelihood"
    repeats: int = 3
    baseline: Literal["cached", "resample"] = "cached"
    baseline_samples: int = 8
    adaptive: int = 0
    adaptive_share: float = 0.25
    shaping: Shaping = "sign_aware"
    malformed: Literal["fail", "execute", "mask"] = "fail"
    own: OwnReward | None = None

    def __post_init__(self) -> None:
        check_types(self)
        name = type(self).__name__
        require(self.repeats >= 1, f"{name}.repeats must be at least 1, got {self.repeats}")
        samples = self.baseline_samples
        require(samples >= 1, f"{name}.baseline_samples must be at least 1, got {samples}")
        require(self.adaptive >= 0, f"{name}.adaptive must not be negative, got {self.adaptive}")
        share = self.adaptive_share
        require(0 < share <= 1, f"{name}.adaptive_share must lie in (0, 1], got {share}")
        require(self.adaptive == 0 or self.uplift == "sampled", f'{name}.adaptive needs uplift = "sampled"')
        unmeasured = self.needs_uplift and self.uplift == "none"
        require(not unmeasured, f'{name}.uplift must not be "none" for kind "{self.kind}"')
        fixed = self.own is None or type(self.own).__hash__ is not None
        require(fixed, f"{name}.own must be hashable: make {type(self.own).__name__} a frozen dataclass")

    @property
    def needs_uplift(self) -> bool:
        """Whether the reward is computed from the uplift."""
        if self.own is not None:
            return self.uplift != "none"
        return self.kind in ("tracelift", "uplift_only")

    @property
    def needs_grade(self) -> bool:
        """Whether the reward cannot be computed without the reward model's score."""
        return self.own is None and self.kind in ("tracelift", "rm_only")


@dataclasses.dataclass(frozen=True)
class CodeRewardConfig(RewardConfig):
    """What a trace for a program is rewarded for; see `rollout/code_reward.py` for exec and coeff.

    The paper's code has `shaping` "product", `baseline` "resample" and `clip_reward` True.

    Attributes:
        kind: "tracelift" exec + weight shaped(s, coeff); "exec_only" exec; and two ablations of the quality term,
            "rm_only" exec + weight s, "uplift_only" exec + weight coeff.
        uplift: "sampled" or "none"; a program is no short canonical answer, so that its probability says little.
        exec_style: "binary", "pass_rate", "coderl" or "hybrid": see `exec_reward`.
        weight: of the quality term.
        tie_table: (count, coefficient) pairs: what a tie of so many right answers is worth, in place of
            `tie_coefficient`'s own value; counts that are not in it keep that.
        clip_reward: whether all but "exec_only" are clipped to [0, 1] (reference).
    """

    uplift: Literal["sampled", "likelihood", "none"] = "sampled"
    exec_style: ExecStyle = "hybrid"
    weight: float = 0.2
    tie_table: tuple[tuple[int, float], ...] = ()
    clip_reward: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.uplift != "likelihood", 'CodeRewardConfig.uplift must be "sampled" or "none" for programs')
        require(self.adaptive == 0, "CodeRewardConfig.adaptive must be 0: programs are run once a step")
        require(self.weight >= 0, f"CodeRewardConfig.weight must not be negative, got {self.weight}")
        counts = [count for count, _ in self.tie_table]
        require(len(set(counts)) == len(counts), f"CodeRewardConfig.tie_table has a count twice: {self.tie_table}")
        for count, coefficient in self.tie_table:
            require(count >= 0, f"CodeRewardConfig.tie_table: a count must not be negative, got {count}")
            require(
                -1 <= coefficient <= 1, f"CodeRewardConfig.tie_table: a coefficient lies in [-1, 1], got {coefficient}"
            )
