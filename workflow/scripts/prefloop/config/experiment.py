"""The runs of an experiment and the paths of their files, which rules produce and figures read.

Snakemake imports this module at every start, so it imports nothing heavy.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Literal, NamedTuple

from prefloop.config.feedback_identity import feedback_identity
from prefloop.config.resolve import baseline_of, labels_of, of_method, target_measure

CHOSEN = "chosen"  # the opponent: the data set's preferred responses


@dataclass
class ByTemperature:
    """Policies that are evaluated at several sampling temperatures."""

    temperatures: tuple[float, ...] = ()
    """Sampling temperatures."""
    methods: tuple[str, ...] = ()
    """Methods that are evaluated."""


@dataclass
class ByCheckpoint(ByTemperature):
    """Policies that are evaluated within rounds."""

    steps: tuple[int, ...] = ()
    """Optimizer steps of a round after which the policy is saved."""


@dataclass
class Primary:
    """The primary contrast, which was chosen before the run: a method minus the baseline in one measure."""

    method: str = ""
    """Method of the contrast; empty if there is no primary contrast."""
    measure: str = ""
    """reward, feedback, win, or <evaluator>_reward or <evaluator>_win of a named evaluator."""


@dataclass
class Experiment:
    """The runs of an experiment, and what is evaluated."""

    root: Path
    """The experiment's folder."""
    methods: tuple[str, ...]
    """Methods, in the order of legends."""
    seeds: tuple[int, ...]
    """Seeds of every method."""
    rounds: int
    """Rounds of every run."""
    steps: int
    """Steps of every round."""
    temperature: float = 0.7
    """Temperature of the samples that are evaluated."""
    samples: int = 1
    """Evaluated samples per prompt."""
    opponents: tuple[str, ...] = ("initial",)
    """Opponents of every policy. Figures with one opponent use the first."""
    fine_tuned: bool = False
    """Whether the initial policy was fine-tuned, so that it differs from the base model."""
    start: str | None = None
    """The other run's policy that is the initial policy; None if that is the base or the fine-tuned model."""
    baseline: str = ""
    """The method that is subtracted in differences."""
    primary: Primary = field(default_factory=Primary)
    """The contrast that was chosen before the run; all others are exploratory."""
    evaluator: str = ""
    """The feedback that decides comparisons, as `feedback_identity` writes it; empty if unknown."""
    evaluators: tuple[str, ...] = ()
    """Names of further evaluators, which score the same comparisons."""
    evaluated_by: tuple[str, ...] = ()
    """The feedback of each further evaluator, in the same order, as `feedback_identity` writes it."""
    trained_by: tuple[str, ...] = ()
    """The feedback of each method's training, as `feedback_identity` writes it; empty if unknown."""
    acquiring: tuple[str, ...] = ()
    """Methods that choose which responses get a label."""
    equal_cost: Literal["labels", "tokens", "flops", "pairs"] | None = None
    """Resource that all methods should spend equally; None if there is none."""
    mixing: tuple[str, ...] = ()
    """Methods that also train on pairs of earlier rounds or of the data set, so that they need the stage mix_pairs."""
    labels: tuple[str, ...] = ()
    """Names of the methods in figures, tables and captions, in the same order; empty for the methods' own names."""
    by_temperature: ByTemperature = field(default_factory=ByTemperature)
    """Policies that are evaluated at other temperatures."""
    by_checkpoint: ByCheckpoint = field(default_factory=ByCheckpoint)
    """Policies that are evaluated during training."""

    def folders(self) -> Iterator[tuple[dict, Path]]:
        """Yield ({method, seed, round}, folder) for every round of every run."""
        for method in self.methods:
            for seed in self.seeds:
                for number in range(1, self.rounds + 1):
                    keys = {"method": method, "seed": seed, "round": number}
                    yield keys, self.root / method / f"seed-{seed}" / f"round-{number}"

    def step_folders(self) -> Iterator[tuple[dict, Path]]:
        """Yield ({method, seed, round, step}, folder) for every step of every run."""
        for keys, folder in self.folders():
            for step in range(1, self.steps + 1):
                yield keys | {"step": step}, folder / f"step-{step}"

    def comparison(
        self,
        method: str,
        seed: int = -1,
        round_index: int = 0,
        *,
        temperature: float | None = None,
        opponent: str | None = None,
        checkpoint: int | None = None,
    ) -> "Comparison":
        """Return a policy's comparison, by default at the experiment's temperature and with its first opponent."""
        temperature = self.temperature if temperature is None else temperature
        return Comparison(method, seed, round_index, temperature, opponent or self.opponents[0], checkpoint)

    def by_round(self) -> list["Comparison"]:
        """Return the comparisons of every round of every run, and of the initial policy."""
        runs = [self.comparison(keys["method"], keys["seed"], keys["round"]) for keys, _ in self.folders()]
        return [self.comparison("initial"), *runs]

    def at_the_end(
        self,
        methods: tuple[str, ...] | None = None,
        *,
        temperature: float | None = None,
        opponent: str | None = None,
    ) -> list["Comparison"]:
        """Return the comparisons of the last round of every run of these methods; None means all methods."""
        runs = [(method, seed) for method in (self.methods if methods is None else methods) for seed in self.seeds]
        return [self.comparison(*run, self.rounds, temperature=temperature, opponent=opponent) for run in runs]

    def against_everybody(self) -> list["Comparison"]:
        """Return the comparisons of the last round of every run with each opponent other than the method itself."""
        comparisons = [comparison for opponent in self.opponents for comparison in self.at_the_end(opponent=opponent)]
        return [comparison for comparison in comparisons if comparison.method != comparison.opponent]

    def over_temperatures(self) -> list["Comparison"]:
        """Return the comparisons of the base, the initial policy and the last rounds at every temperature."""
        comparisons = []
        for temperature in self.by_temperature.temperatures:
            comparisons += [self.comparison(name, temperature=temperature) for name in self.untrained]
            comparisons += self.at_the_end(self.by_temperature.methods, temperature=temperature)
        return comparisons

    def over_training(self) -> list["Comparison"]:
        """Return the comparisons of the initial policy, every checkpoint and every round, at their temperatures."""
        comparisons = []
        for temperature in self.by_checkpoint.temperatures or (self.temperature,):
            comparisons.append(self.comparison("initial", temperature=temperature))
            for method in self.by_checkpoint.methods:
                for seed in self.seeds:
                    for number in range(1, self.rounds + 1):
                        for step in (*self.by_checkpoint.steps, None):
                            comparisons.append(
                                self.comparison(method, seed, number, temperature=temperature, checkpoint=step)
                            )
        return comparisons

    def label(self, name: str) -> str:
        """Return a method's name in figures, tables and captions. Other policies and opponents keep their own names."""
        return dict(zip(self.methods, self.labels, strict=False)).get(name, name)

    @property
    def untrained(self) -> tuple[str, ...]:
        """The policies before preference training: the base, if it was fine-tuned, and the initial one."""
        return ("base", "initial") if self.fine_tuned else ("initial",)

    @property
    def comparisons(self) -> list["Comparison"]:
        """All comparisons, without repetitions."""
        result = [*self.by_round(), *self.against_everybody(), *self.over_temperatures(), *self.over_training()]
        return list(dict.fromkeys(result))


class Comparison(NamedTuple):
    """One policy's samples against an opponent's."""

    method: str
    """A method, or base or initial."""
    seed: int
    """−1 for base and initial."""
    round: int
    """0 for base and initial."""
    temperature: float
    opponent: str
    """initial, chosen, or a method."""
    checkpoint: int | None = None
    """Optimizer steps of the round after which the policy was saved; None means the round's end."""

    @property
    def policy(self) -> str:
        """The policy's folder, relative to the experiment's."""
        if self.round == 0:
            return self.method
        run = f"{self.method}/seed-{self.seed}/round-{self.round}"
        return run if self.checkpoint is None else f"{run}/checkpoint-{self.checkpoint}"

    @property
    def folder(self) -> str:
        """The folder of its samples and judgments, relative to the experiment's."""
        return f"{self.policy}/evaluation/{temperature_folder(self.temperature)}"

    @property
    def judgments(self) -> str:
        """The file of its judgments, relative to the experiment's folder."""
        return f"{self.folder}/against-{self.opponent}.jsonl"

    def judged_by(self, evaluator: str) -> str:
        """The file of its judgments by a named evaluator, relative to the experiment's folder."""
        return f"{self.folder}/{evaluator}/against-{self.opponent}.jsonl"


def temperature_folder(temperature: float) -> str:
    """Return the name of a temperature's folder, such as temperature-0.7, without an exponent, as rules expect it."""
    return f"temperature-{Decimal(repr(float(temperature))):f}"


def experiment_of(config: dict, root: str) -> Experiment:
    """Return the experiment that a config describes, for programs that read all of its results."""
    methods, evaluation = config["compare"], config["evaluation"]
    temperatures, checkpoints = evaluation["by_temperature"], evaluation["by_checkpoint"]
    by_temperature, by_checkpoint = ByTemperature(), ByCheckpoint()
    if "temperatures" in config["figures"]:
        by_temperature = ByTemperature(floats(temperatures["temperatures"]), tuple(temperatures["methods"] or methods))
    if "checkpoints" in config["figures"]:
        by_checkpoint = ByCheckpoint(
            floats(checkpoints["temperatures"] or [evaluation["temperature"]]),
            tuple(checkpoints["methods"] or methods),
            tuple(sorted(checkpoints["steps"])),
        )
    labels = labels_of(config)
    return Experiment(
        root=Path(root),
        methods=tuple(methods),
        seeds=tuple(config["seeds"]),
        rounds=config["rounds"],
        steps=config["steps"],
        temperature=float(evaluation["temperature"]),
        samples=evaluation["samples"],
        opponents=tuple(evaluation["opponents"]),
        fine_tuned=config["sft"]["enabled"],
        start=config["policy"].get("start"),
        baseline=baseline_of(config),
        primary=Primary(evaluation["primary"]["method"] or "", target_measure(config, "primary")),
        evaluator=feedback_identity(evaluation["evaluator"]),
        evaluators=tuple(evaluation["evaluators"]),
        evaluated_by=tuple(map(feedback_identity, evaluation["evaluators"].values())),
        trained_by=tuple(feedback_identity(of_method(config, method)["feedback"]) for method in methods),
        equal_cost=evaluation["equal_cost"],
        acquiring=tuple(m for m in methods if of_method(config, m)["acquisition"]["rule"] != "all"),
        mixing=tuple(method for method in methods if mixes_pairs(of_method(config, method)["pairs"])),
        labels=tuple(labels.values()) if list(labels.values()) != list(methods) else (),
        by_temperature=by_temperature,
        by_checkpoint=by_checkpoint,
    )


def mixes_pairs(pairs: dict) -> bool:
    """Whether pairs of earlier rounds or of the data set join those of a round."""
    return pairs["replay"]["share"] > 0 or pairs["offline_share"] > 0


def floats(values: list) -> tuple[float, ...]:
    return tuple(map(float, values))
