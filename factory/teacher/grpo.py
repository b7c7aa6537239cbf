"""One stage of reinforcement learning: ask, sample, reward, learn, from the first step or from wherever it stopped.

Everything a step does is a function of the policy, the reference, the step's number and the position in the
stream of prompts: seeds come from them, and there is no other state. So a checkpoint is model, optimiser,
reference and that position, and a run that was killed goes on with the numbers of one that was not.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill import training_log as log
from distill.batches import Order
from distill.chat import parse_template, to_jinja
from distill.gemma.folder import ModelFolder
from distill.gemma.tokenizer import Tokenizer
from distill.sft import stopped
from distill.stopping import stop_signals
from distill.train_identity import copy_base, model_is_whole, refuse_foreign_folder
from factory.judge import is_graded
from factory.store import Run
from factory.teacher.identity import PromptRow, Question, differences_of, manifest_of, questions_of
from factory.teacher.rewards import Reward, RewardFunction, Sampled, Scorer
from factory.teacher.rollout import InProcessRollout, Request, Rollout, request_seed
from factory.teacher.settings import Rl
from factory.teacher.telemetry import Graded, domain_metrics, rollout_rows, sample_metrics, weighted_mean
from filters.errors import UserError
from filters.workers import WorkerPool

REFERENCES = "references"
_MOST_IDLE = 0.75
"""However many groups taught nothing, a round asks for at most four times what is lacking."""
_UNREWARDED_STEPS = 3


@dataclass(frozen=True, slots=True)
class RlProgress:
    """How far a stage is. `accuracy` is of the last step's samples, `seconds` of one step."""

    job: str
    step: int
    steps: int
    reward: float
    accuracy: float | None
    tokens: float
    seconds: float


@dataclass(frozen=True, slots=True)
class RlResult:
    """What a finished stage leaves: the model's folder, metrics.parquet, and figures of the last step.

    Attributes:
        seconds: of work, over all processes that had a part in it; None where it is not known.
    """

    model: Path
    metrics: Path
    steps: int
    last: dict[str, float]
    resumed_from: int
    seconds: float | None


def train_rl(
    job: str,
    spec: Rl,
    base: ModelFolder,
    prompts: Sequence[PromptRow],
    out: Path,
    run: Run,
    *,
    validation: Sequence[PromptRow] = (),
    scorers: Mapping[str, Scorer] | None = None,
    identities: Mapping[str, Any] | None = None,
    workers: int = 2,
    rollout: Callable[[Any, Tokenizer], Rollout] | None = None,
    on_progress: Callable[[RlProgress], None] = lambda _: None,
    on_message: Callable[[str], None] = lambda _: None,
) -> RlResult:
    """Train `base` on `prompts`; the finished model is `out/model`, every sample a row of `rollouts`.

    A folder that holds the same stage goes on from its last checkpoint. SIGINT and SIGTERM save a checkpoint
    first (in the main thread).

    Args:
        job: name of the stage in `metrics` and `rollouts`.
        prompts: rows of `prompts` to learn from; validation: rows that are only asked.
        scorers: by name, for the parts of the reward that ask one.
        identities: by name, what decides about a scorer's scores, as JSON values
            (`factory.teacher.scorers.identities_of`). A stage with others is another stage.
        rollout: makes another source of samples from the model and its tokenizer.

    Raises:
        UserError: no prompt fits; a folder of another stage (names what differs); a number that is not finite
            (names step and sample); stopped by a signal (exit code 128 + signal).
    """
    tokenizer = Tokenizer.load(base.path)
    asked, checked = questions_of(spec, prompts, validation, tokenizer, on_message)
    with log.disk_faults(out), log.locked(out):
        manifest = manifest_of(job, spec, base, asked, checked, identities)
        previous = log.read_manifest(out)
        if previous is not None:
            if found := differences_of(previous, manifest):
                raise UserError(f"{out} holds another stage: {found[0]}. Choose another folder")
            if previous["status"] == "done" and model_is_whole(out, previous):
                on_message(f"{out} is finished already")
                journal = log.Journal(out, job)
                journal.read()
                return RlResult(
                    out / log.MODEL,
                    journal.fold(),  # a lost file comes back
                    spec.steps,
                    journal.values(spec.steps),
                    spec.steps,
                    previous.get("seconds"),
                )
        else:
            refuse_foreign_folder(out)
            run.drop("rollouts", job)
            copy_base(base, out)
            log.write_manifest(out, manifest)
        with WorkerPool(workers) as pool:
            stage = _Stage(job, spec, base, tokenizer, asked, checked, out, run, pool, scorers, rollout)
            stage.on_progress, stage.say = on_progress, on_message
            result = stage.work()
        model = ModelFolder.open(result.model).content_hash
        log.write_manifest(out, {**manifest, "status": "done", "model": model, "seconds": result.seconds})
        if stage.stopped_by is not None:  # it came behind the last step; nothing more is to be begun
            raise stopped(stage.stopped_by, spec.steps, spec.steps)
        return result


def evenly(groups: Sequence[Any], parts: int) -> list[Sequence[Any]]:
    """The groups in at most so many runs of neighbours. None is empty, and their lengths differ by one at most."""
    parts = min(parts, len(groups))
    ends = [len(groups) * n // parts for n in range(parts + 1)] if parts else []
    return [groups[start:end] for start, end in itertools.pairwise(ends)]


# --------------------------------------------------------------------------------------------- the stage


class _Stage:
    """One stage in one process."""

    def __init__(
        self,
        job: str,
        spec: Rl,
        base: ModelFolder,
        tokenizer: Tokenizer,
        asked: Sequence[Question],
        checked: Sequence[Question],
        out: Path,
        run: Run,
        pool: WorkerPool,
        scorers: Mapping[str, Scorer] | None,
        rollout: Callable[[Any, Tokenizer], Rollout] | None,
    ) -> None:
        self.job, self.spec, self.base, self.tokenizer = job, spec, base, tokenizer
        self.asked, self.checked, self.out, self.run = asked, checked, out, run
        self.style = parse_template(spec.template).style
        self.reward = RewardFunction(spec.rewards, self.style, pool, scorers)
        self.order = Order(len(asked), spec.seed)
        self.journal = log.Journal(out, job)
        self.on_progress: Callable[[RlProgress], None] = lambda _: None
        self.say: Callable[[str], None] = lambda _: None
        self.stopped_by: signal.Signals | None = None
        self.position = 0  # of the next prompt in the stream
        self.taught_nothing = 0.0  # share of the last step's groups
        self.unrewarded = 0  # steps in a row none of whose samples had a reward
        self._make(rollout)

    def _make(self, rollout: Callable[[Any, Tokenizer], Rollout] | None) -> None:
        from distill.gemma.checkpoint import load_model
        from distill.gemma.mesh import make_mesh
        from factory.teacher.assembly import loss_of, optimiser_of, schedule_of, update_shape
        from factory.teacher.trainer import GrpoTrainer

        spec, config = self.spec, self.base.config
        mesh = make_mesh(spec.mesh.fsdp, spec.mesh.tp)
        self.schedule = schedule_of(spec)
        self.trainer = GrpoTrainer(
            load_model(self.base, dtype=spec.dtype, mesh=mesh),
            optimiser_of(spec),
            loss=loss_of(spec, config),
            shape=update_shape(spec, config),
            checkpoints=self.out / log.CHECKPOINTS,
            mesh=mesh,
        )
        self.reference: Any = None
        self.rollout = (
            rollout(self.trainer.model, self.tokenizer)
            if rollout is not None
            else InProcessRollout(
                self.trainer.model,
                self.tokenizer,
                temperature=spec.temperature,
                prompt_length=spec.prompt_length,
                max_new_tokens=spec.last_limit,
                batch_size=spec.rollout_batch,
                mesh=mesh,
                dtype=spec.compute,
            )
        )

    # ------------------------------------------------------------------------------------ going on

    def work(self) -> RlResult:
        from distill.gemma.checkpoint import save_model

        with stop_signals(self._stop):
            restored, state = self.trainer.restored
            self.journal.open(restored)
            if restored:
                self.position = int(state["position"])
                self.taught_nothing = float(state["taught_nothing"])
                self.say(f"going on at step {restored} of {self.spec.steps}")
            self._restore_reference(restored, bool(state.get("own_reference")))
            try:
                with self.run.writer("rollouts", self.job) as rollouts:
                    self._loop(restored, rollouts)
            finally:
                self.journal.close()
                self.trainer.close()
            saved = save_model(
                self.trainer.model,
                self.base.config,
                self.out / log.MODEL,
                tokenizer_from=self.out / log.BASE,
                chat_template=to_jinja(parse_template(self.spec.template)),
                overwrite=True,
            )
        last = self.journal.values(self.spec.steps)
        metrics, seconds = self.journal.fold(), round(self.journal.elapsed, 3)
        return RlResult(saved.path, metrics, self.spec.steps, last, restored, seconds)

    def _loop(self, restored: int, rollouts: Any) -> None:
        spec = self.spec
        if restored == 0:
            self._validate(0)
        for step in range(restored + 1, spec.steps + 1):
            started = time.perf_counter()
            samples, numbers = self._step(step)
            numbers["speed/seconds"] = time.perf_counter() - started
            numbers[log.ELAPSED] = self.journal.elapsed
            rollouts.append(rollout_rows(self.job, step, samples))
            self.journal.add(step, numbers)
            self._tell(step, numbers)
            if spec.validation is not None and (step % spec.validation.every == 0 or step == spec.steps):
                self._validate(step)
            if step % spec.checkpoint_every == 0 or step == spec.steps or self.stopped_by is not None:
                self._save(step)
            if self.stopped_by is not None and step < spec.steps:
                raise stopped(self.stopped_by, step, spec.steps)

    def _tell(self, step: int, numbers: Mapping[str, float]) -> None:
        self.on_progress(
            RlProgress(
                self.job,
                step,
                self.spec.steps,
                numbers.get("reward", 0.0),
                numbers.get("accuracy"),
                numbers.get("tokens/response", 0.0),
                numbers["speed/seconds"],
            )
        )

    def _stop(self, number: signal.Signals) -> None:
        self.stopped_by = number
        self.say(f"{number.name}: saving a checkpoint after this step; once more ends the process at once")

    def _save(self, step: int) -> None:
        self.journal.sync()
        own = self.reference is not None and self.spec.reference_every is not None
        if own:
            self._save_reference(step)
        state = {"position": self.position, "taught_nothing": self.taught_nothing, "own_reference": own}
        self.trainer.save(step, state)

    # ------------------------------------------------------------------------------------ reference

    def _restore_reference(self, step: int, own: bool) -> None:
        """The reference of a step: the base, or, once it was refreshed, what was saved beside the checkpoint."""
        if not self.spec.kl:
            return
        from flax import nnx

        from distill.gemma.checkpoint import load_model
        from distill.trainer import restore_model

        model = load_model(self.base, dtype=self.spec.dtype, mesh=self.trainer.mesh)
        if own:
            restore_model(model, self.out / REFERENCES, step)
        self.reference = nnx.split(model)[1]

    def _save_reference(self, step: int) -> None:
        import orbax.checkpoint as ocp
        from flax import nnx
        from tunix.sft.checkpoint_manager import CheckpointManager

        folder = self.out / REFERENCES
        if (folder / str(step)).exists():  # a process that died between the two
            shutil.rmtree(folder / str(step))
        policy = ocp.checkpoint_managers.LatestN(3)
        manager = CheckpointManager(
            str(folder.resolve()), ocp.CheckpointManagerOptions(preservation_policy=policy)
        )
        graph = nnx.split(self.trainer.model)[0]
        manager.save(step, nnx.merge(graph, self.reference), force=True)
        manager.close()

    # ------------------------------------------------------------------------------------- one step

    def _step(self, step: int) -> tuple[list[Graded], dict[str, float]]:
        """Sample, reward and learn once; all samples drawn, and the numbers."""
        spec = self.spec
        self.rollout.reset_clock()
        drawn, numbers = self._collect(step)
        self._refuse_nothing_to_learn(step, drawn)
        groups = self._with_advantages(drawn)
        wanted = self._learnt_from(groups)
        updated = time.perf_counter()
        learnt = self._update(step, [groups[number] for number in wanted])
        seconds = time.perf_counter() - updated
        self.rollout.sync()
        samples = [
            sample if number in wanted else dataclasses.replace(sample, advantage=None)
            for number, group in enumerate(groups)
            for sample in group
        ]
        numbers |= sample_metrics(samples) | domain_metrics(samples) | learnt
        numbers["speed/rollout"] = self.rollout.tokens / max(self.rollout.seconds, 1e-9)
        numbers["speed/update"] = learnt.get("tokens/learnt", 0.0) / max(seconds, 1e-9)
        if spec.reference_every and step % spec.reference_every == 0:
            self.reference = self.trainer.snapshot()
        return samples, numbers

    def _refuse_nothing_to_learn(self, step: int, groups: Sequence[Sequence[Graded]]) -> None:
        """One step without any reward may be an accident; several in a row are a mistake in questions or settings."""
        why = Counter(s.reward.masked_because for group in groups for s in group)
        self.unrewarded = 0 if None in why else self.unrewarded + 1
        if self.unrewarded == _UNREWARDED_STEPS:
            reason, count = why.most_common(1)[0]
            raise UserError(
                f"step {step} of {self.job}: for {self.unrewarded} steps no sample could be rewarded; of the last "
                f"{why.total():,}, {count:,} because {reason}. There is nothing to learn from; the steps before are "
                "kept as far as the last checkpoint",
                exit_code=1,
            )

    def _collect(self, step: int) -> tuple[list[list[Graded]], dict[str, float]]:
        """Groups of a step. With dynamic sampling, until enough of them teach something.

        A round asks for more than is lacking, by the share that taught nothing in the step before: few rounds keep
        the sampler's rows full. In all it asks for at most `max_rounds` times `prompts`.
        """
        from factory.teacher.loss import has_variance

        spec = self.spec
        rounds = spec.dynamic_sampling.max_rounds if spec.dynamic_sampling is not None else 1
        expected = 1.0 - min(self.taught_nothing, _MOST_IDLE) if rounds > 1 else 1.0
        groups: list[list[Graded]] = []
        taught = dropped = drawn_rounds = 0
        while drawn_rounds < rounds and taught < spec.prompts and len(groups) < rounds * spec.prompts:
            asked = math.ceil((spec.prompts - taught) / expected)
            fresh = self._draw(step, min(asked, rounds * spec.prompts - len(groups)), len(groups))
            drawn_rounds += 1
            useful = sum(has_variance([s.reward.total for s in group]) for group in fresh)
            taught, dropped = taught + useful, dropped + len(fresh) - useful
            groups += fresh
        self.taught_nothing = dropped / len(groups)
        numbers = {
            "zero_variance": self.taught_nothing,
            "groups/drawn": float(len(groups)),
            "groups/rounds": float(drawn_rounds),
        }
        return groups, numbers

    def _draw(self, step: int, count: int, first_group: int) -> list[list[Graded]]:
        """The next `count` prompts of the stream, sampled and rewarded."""
        spec = self.spec
        positions = list(itertools.islice(self._stream(step), count))
        self.position = positions[-1] + 1
        questions = [self.asked[self.order[position]] for position in positions]
        requests = [
            Request(
                q.ids, request_seed(spec.seed, spec.noise or self.job, step, position, i), spec.limit(step)
            )
            for q, position in zip(questions, positions, strict=True)
            for i in range(spec.samples)
        ]
        graded = self._graded(requests, questions, spec.samples, step, positions, first_group)
        return [graded[n : n + spec.samples] for n in range(0, len(graded), spec.samples)]

    def _stream(self, step: int) -> Iterator[int]:
        """Positions from here on. Prompts without a grader are passed over until a scorer is asked about them.

        R1 takes them in with the preferences, in the last part of its last stage (arXiv 2501.12948v2);
        before, tags and language would be all that their answers are paid for.
        """
        scored = bool(self.spec.rewards.preferences(step - 1))
        for position in itertools.count(self.position):
            if scored or is_graded(self.asked[self.order[position]].row):
                yield position

    def _graded(
        self,
        requests: Sequence[Request],
        questions: Sequence[Question],
        samples: int,
        step: int,
        positions: Sequence[int],
        first_group: int,
    ) -> list[Graded]:
        drawn = self.rollout.draw(requests)
        thoughts = {text: self._reasoning_tokens(text) for text in {one.text for one in drawn}}
        sampled = [
            Sampled(
                questions[n // samples].row,
                one.text,
                one.token_ids,
                thoughts[one.text],
                one.truncated,
            )
            for n, one in enumerate(drawn)
        ]
        rewards: list[Reward] = self.reward(sampled, step - 1, requests[0].max_new_tokens)
        return [
            Graded(
                one,
                reward,
                positions[n // samples],
                first_group + n // samples,
                n % samples,
                requests[n].prompt_ids,
            )
            for n, (one, reward) in enumerate(zip(sampled, rewards, strict=True))
        ]

    def _reasoning_tokens(self, text: str) -> int:
        reasoning = self.style.parse(text).reasoning
        return len(self.tokenizer.encode(reasoning)) if reasoning else 0

    def _with_advantages(self, groups: Sequence[Sequence[Graded]]) -> list[list[Graded]]:
        from factory.teacher.loss import group_advantages, most_different

        found = []
        for group in groups:
            rewards = [s.reward.total for s in group]
            chosen = set(most_different(rewards, self.spec.learnt_samples))
            # Advantages are those of the chosen among themselves, so that they still add up to nothing.
            rewards = [reward if n in chosen else None for n, reward in enumerate(rewards)]
            advantages = group_advantages(rewards, scale=self.spec.advantages)
            found.append(
                [dataclasses.replace(s, advantage=a) for s, a in zip(group, advantages, strict=True)]
            )
        return found

    # --------------------------------------------------------------------------------------- learning

    def _learnt_from(self, groups: Sequence[Sequence[Graded]]) -> list[int]:
        """Which groups a step learns from: those that teach something, and the others only where asked for."""
        spec = self.spec
        skip = spec.mask_zero_variance or spec.dynamic_sampling is not None
        wanted = [
            number
            for number, group in enumerate(groups)
            if any(s.advantage for s in group) or (not skip and any(s.advantage is not None for s in group))
        ]
        return wanted[: spec.prompts]

    def _update(self, step: int, groups: Sequence[Sequence[Graded]]) -> dict[str, float]:
        """Learn from the groups: `epochs` times over `minibatches` of them, fewer only where there are fewer groups."""
        spec = self.spec
        if not groups:
            return {"groups/learnt": 0.0}
        batches = [
            self._batch([s for group in part for s in group if s.advantage is not None], spec.limit(step))
            for part in evenly(groups, spec.minibatches)
        ]
        old = None
        if not self.trainer.loss_config.on_policy:
            old = [self.trainer.logprobs(batch.rows) for batch in batches]
        reference = None
        if spec.kl:
            reference = [self.trainer.logprobs(batch.rows, self.reference) for batch in batches]
        parts, rates = [], []
        for epoch in range(spec.epochs):
            # Where a step has its places in the schedule does not depend on how many groups there were before it.
            first = ((step - 1) * spec.epochs + epoch) * spec.minibatches
            counts = [first + n * spec.minibatches // len(batches) for n in range(len(batches))]
            parts += self.trainer.update(batches, counts, old, reference)
            rates += [float(self.schedule(count)) for count in counts]
        for part in parts:
            if not all(map(math.isfinite, part.values())):
                raise UserError(
                    f"step {step} of {self.job}: the loss is {part['loss']}, the gradient's norm {part['grad_norm']}; "
                    "nothing of this step is saved. Try a lower learning rate or a longer warm-up in a new folder",
                    exit_code=1,
                )
        return {
            **weighted_mean(parts),
            "tokens/learnt": sum(part["tokens"] for part in parts),
            "groups/learnt": float(len(groups)),
            "learning_rate": sum(rates) / len(rates),
        }

    def _batch(self, samples: Sequence[Graded], limit: int) -> Any:
        from factory.teacher.loss import token_weights
        from factory.teacher.trainer import Batch, pack_samples

        spec = self.spec
        lengths = [len(s.sampled.token_ids) for s in samples]
        asked = spec.prompts * spec.learnt_samples / spec.minibatches
        kept = [True] * len(samples)
        weights = token_weights(lengths, kept, spec.aggregation, max_tokens=limit, asked=asked)
        # A sure policy draws the same answer often. Its gradient is taken once, as often as it was drawn.
        alike: dict[Any, list[int]] = {}
        for number, s in enumerate(samples):
            alike.setdefault((s.group, s.sampled.token_ids, s.advantage), []).append(number)
        once = [samples[numbers[0]] for numbers in alike.values()]
        return Batch(
            pack_samples(
                [s.prompt_ids for s in once], [s.sampled.token_ids for s in once], self.trainer.shape
            ),
            [len(s.sampled.token_ids) for s in once],
            [sum(weights[number] for number in numbers) for numbers in alike.values()],
            [s.advantage or 0.0 for s in once],
            [len(numbers) for numbers in alike.values()],
        )

    # -------------------------------------------------------------------------------------- validation

    def _validate(self, step: int) -> None:
        """Ask the validation questions; the noise is the same at every step, and none of training's."""
        spec = self.spec.validation
        if spec is None or not self.checked:
            return
        requests = [
            Request(
                q.ids,
                request_seed(self.spec.seed, f"{self.spec.noise or self.job}/validation", 0, n, i),
                self.spec.limit(max(step, 1)),
            )
            for n, q in enumerate(self.checked)
            for i in range(spec.samples)
        ]
        samples = self._graded(
            requests, self.checked, spec.samples, max(step, 1), range(len(self.checked)), 0
        )
        numbers = sample_metrics(samples) | domain_metrics(samples) | {log.ELAPSED: self.journal.elapsed}
        self.journal.add(step, {f"eval/{name}": value for name, value in numbers.items()})
        if "accuracy" in numbers:
            self.say(
                f"{self.job}, step {step}: {numbers['accuracy']:.1%} of validation correct".replace("%", " %")
            )
