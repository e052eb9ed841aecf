"""Results, looked at from where a report needs them."""

from collections.abc import Mapping
from typing import Any

from tracelift_jax.evals.metrics import nothing

Result = Mapping[str, Any]


class View:
    """Results by benchmark, source, executor and mode.

    Attributes:
        results: as `results.make_results` gives them. groups, changes: its groups and paired differences by what they
            are of. benchmarks, sources, executors, modes: their names, in order; the greedy mode first.
    """

    def __init__(self, results: Result):
        self.results = results
        self.groups = {_key(group): group for group in results["groups"]}
        self.changes = {_key(change): change for change in results["differences"]}
        names = [list(dict.fromkeys(key[n] for key in self.groups)) for n in range(4)]
        self.benchmarks, self.sources, self.executors, modes = names
        self.modes = [mode for mode in ("greedy", "sampled") if mode in modes]

    def sources_of(self, benchmark: str) -> list[str]:
        """The sources of a benchmark."""
        have = {key[:2] for key in self.groups}
        return [source for source in self.sources if (benchmark, source) in have]

    def by_mode(self, benchmark: str, source: str, executor: str, name: str) -> list[Result]:
        """One measure in every mode."""
        return [self.groups[benchmark, source, executor, mode][name] for mode in self.modes]

    def change_by_mode(self, benchmark: str, source: str, executor: str, name: str) -> list[Result]:
        """One paired difference in every mode."""
        return [self.changes.get((benchmark, source, executor, mode), {name: nothing()})[name] for mode in self.modes]

    def last(self, benchmark: str, source: str, executor: str) -> Result:
        """The group of the last mode, which is the sampled one where there are both."""
        return self.groups[benchmark, source, executor, self.modes[-1]]

    def passes(self) -> list[tuple[str, str]]:
        """The modes and k's of pass@k; none where it was not asked for."""
        asked = {mode: group["pass_at"] for (*_, mode), group in self.groups.items()}
        return [(mode, k) for mode in self.modes for k in asked[mode]]

    def passed(self, benchmark: str, source: str, executor: str) -> list[Result]:
        """pass@k for each of `passes`."""
        return [self.groups[benchmark, source, executor, mode]["pass_at"][k] for mode, k in self.passes()]

    def evaluated(self, benchmark: str) -> int:
        """How many problems are in the numbers of a benchmark."""
        about = self.results["problems"][benchmark]
        return about["problems"] - about["left_out"]


def _key(group: Result) -> tuple[str, str, str, str]:
    return group["benchmark"], group["source"], group["executor"], group["mode"]
