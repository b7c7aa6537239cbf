"""Supervised fine-tuning of a Gemma on conversations. Importing it loads no JAX."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill import training_log as log
from distill.chat import parse_template
from distill.data import Dataset, load_dataset
from distill.distillation import OnPolicy, TopK
from distill.gemma.folder import ModelFolder, resolve_model
from distill.gemma.mesh import asked_to_stop, is_first, meet, processes
from distill.gemma.tokenizer import Tokenizer
from distill.reporting import check_reports, open_sinks
from distill.sampled import AccuracyProbe, load_questions
from distill.stopping import stop_signals
from distill.train_identity import (
    copy_base,
    manifest_of,
    model_is_whole,
    prepare_teacher,
    refuse_another_run,
    refuse_foreign_folder,
)
from distill.train_result import Progress, TrainResult, best_step, criterion, described, result_of
from distill.train_settings import TrainConfig
from filters.errors import UserError

if TYPE_CHECKING:
    from distill.batches import TrainStream


def train(
    config: TrainConfig,
    data: str | os.PathLike[str],
    student: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    on_progress: Callable[[Progress], None] | None = None,
    on_message: Callable[[str], None] | None = None,
) -> TrainResult:
    """Fine-tune `student` on `data`; the finished model is `out_dir/model`.

    A folder that holds the same run goes on from its last checkpoint, with losses equal to those of a run
    that was never stopped. SIGINT and SIGTERM save a checkpoint first (in the main thread).

    Args:
        data: see `distill.data.load_dataset`.
        student: see `distill.gemma.folder.resolve_model`.
        on_progress: called after every step.
        on_message: gets a line for a person now and then.

    Raises:
        UserError: bad input; a folder that holds another run (names what differs); a loss that is not
            finite (names the step); stopped by a signal (exit code 128 + signal, the folder can go on); a
            full or read-only disk.
        ModuleNotFoundError: the extra [train] is not installed.
    """
    if importlib.util.find_spec("tunix") is None:  # said before anything is read; importing it takes seconds
        raise ModuleNotFoundError("training needs tunix: pip install 'r1-factory[train]'", name="tunix")
    check_reports(config.report)
    _refuse_several_processes(config)
    first = is_first()
    say = on_message if on_message is not None and first else lambda _: None
    folder = ModelFolder.open(resolve_model(student))
    tokenizer = Tokenizer.load(folder.path)
    dataset = load_dataset(os.fspath(data), parse_template(config.template), tokenizer, config.max_length)
    say(dataset.summary())
    if warning := dataset.warning():
        say(warning)
    teacher = prepare_teacher(config, dataset, tokenizer)
    if config.accuracy is not None:
        load_questions(config.accuracy)  # what is wrong with them is said before a folder is made
    _refuse_short_rows(config, dataset)
    out = Path(out_dir)
    with log.disk_faults(out), log.locked(out) if first else nullcontext():
        manifest = manifest_of(config, dataset, folder, os.fspath(student), teacher)
        previous = log.read_manifest(out)
        meet("manifest read")
        if previous is not None:
            refuse_another_run(out, previous, manifest)
            if previous["status"] == "done" and not model_is_whole(out, previous):
                say(f"{out / log.MODEL} is not as it was saved; it is made again from the last checkpoint")
            elif previous["status"] == "done":
                say(f"{out} is finished already")
                return _finished(config, out, dataset, previous)
        else:
            refuse_foreign_folder(out)
            meet("nothing there")
            if first:
                copy_base(folder, out)
                log.write_manifest(out, manifest)
        shown = on_progress if first else None
        job = _Job(config, dataset, folder, os.fspath(student), tokenizer, out, shown, say)
        result = job.run()
        model = ModelFolder.open(result.model).content_hash
        if first:
            best = None if result.best is None else result.best.name
            found = {"model": model, "best": best, "best_step": result.best_step, "seconds": result.seconds}
            log.write_manifest(out, {**manifest, "status": "done", **found})
        if job.stopped_by is not None:  # it came behind the last step; nothing more is to be begun
            raise stopped(job.stopped_by, job.steps, job.steps)
        return result


def _refuse_several_processes(config: TrainConfig) -> None:
    """What draws samples keeps its rows in one process."""
    asks = config.accuracy is not None or isinstance(config.distillation, OnPolicy)
    if asks and processes() > 1:
        raise UserError(
            f"{processes()} processes train together, and a model is sampled from in one alone: leave out the "
            "questions of the evaluation, and on-policy distillation"
        )


def _refuse_short_rows(config: TrainConfig, dataset: Dataset) -> None:
    """Samples are at most `max_length` long, which a row holds; what a student answers need not be."""
    length, needed = config.layout.row_length, _longest(config, dataset)
    if length is not None and length < needed:
        raise UserError(
            f"row_length {length} does not hold the longest prompt with all that may be answered, {needed} tokens: "
            "raise it, leave it out, or lower max_new_tokens"
        )


# ----------------------------------------------------------------------------------------------- the job


class _Job:
    """One run in one process; the trainer's observer."""

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        folder: ModelFolder,
        student: str,
        tokenizer: Tokenizer,
        out: Path,
        on_progress: Callable[[Progress], None] | None,
        say: Callable[[str], None],
    ) -> None:
        from distill.assembly import row_shape, schedule_of
        from distill.batches import EvalBatches

        self.config, self.folder, self.out, self.say = config, folder, out, say
        self.student = student
        self.dataset, self.tokenizer = dataset, tokenizer
        self.on_progress = on_progress
        self.steps = config.steps_for(len(dataset.train))
        self.journal = log.Journal(out, config.job, writes=is_first())
        self.schedule = schedule_of(config, self.steps)
        self.stopped_by: signal.Signals | None = None
        length = config.layout.row_length or _row_length(config, dataset)
        self.shape = row_shape(config.layout, config.batch_size, length)
        validated = dataset.validation or config.accuracy is not None
        self.evaluation = EvalBatches(dataset.validation, self.shape) if validated else None
        self.probe: AccuracyProbe | None = None
        self.clock: deque[tuple[float, int]] = deque(maxlen=21)

    def run(self) -> TrainResult:
        from distill.export import save_adapter

        # Several processes stop behind the same step: JAX takes the signal, and lets them agree.
        with stop_signals(self._stop) if processes() == 1 else nullcontext():
            trainer = self.trainer = self._trainer()
            self.stream = self._stream(trainer.model)
            self.probe = self._probe(trainer.model)
            restored = int(trainer.train_steps)
            if restored:
                self.say(f"going on at step {restored} of {self.steps}")
            self.journal.open(restored)
            if is_first() and not log.holds_best_of(self.out, best_step(self.journal, self.config)):
                log.forget_best(self.out)  # of a step that is made again
            if is_first():
                self.journal.sinks = open_sinks(
                    self.config.report, self.out, self.config.job, dataclasses.asdict(self.config), restored
                )
            self.stream.skip = restored
            try:
                done = trainer.run(self.stream, self.evaluation)
            finally:
                self.journal.close()
                if self.probe is not None:
                    self.probe.close()
            if done < self.steps:
                assert self.stopped_by is not None
                raise stopped(self.stopped_by, done, self.steps)
            if self.config.lora is not None:
                save_adapter(
                    trainer.model,
                    self.folder,
                    self.config.lora,
                    self.out / log.ADAPTER,
                    name=self.student,
                    overwrite=True,
                )
            self._save(log.MODEL)
        return result_of(
            self.journal,
            self.config,
            self.out,
            self.dataset,
            resumed_from=restored,
            already_done=False,
            seconds=round(self.journal.elapsed, 3),
        )

    def _stream(self, model: Any) -> TrainStream:
        from distill.batches import TrainStream

        config, layout = self.config, self.config.layout
        common: dict[str, Any] = {
            "steps": self.steps,
            "seed": config.seed,
            "stop": self._stopping,
        }
        if isinstance(config.distillation, OnPolicy):
            from distill.gemma.mesh import make_mesh
            from distill.on_policy import OnPolicyStream

            return OnPolicyStream(
                self.dataset.train,
                self.shape,
                **common,
                settings=config.distillation,
                model=model,
                tokenizer=self.tokenizer,
                mesh=make_mesh(layout.fsdp, layout.tp),
                dtype=layout.compute,
            )
        stream = TrainStream(self.dataset.train, self.shape, **common, short_first=config.short_first)
        samples, full = stream.fullness()
        self.say(
            f"{samples:.1f} samples in a row of {self.shape.length} tokens, {full:.0%} of the cells in use"
        )
        return stream

    def _probe(self, model: Any) -> AccuracyProbe | None:
        from distill.gemma.mesh import make_mesh

        config, layout = self.config, self.config.layout
        if config.accuracy is None:
            return None
        return AccuracyProbe(
            config.accuracy,
            model,
            parse_template(config.template),
            self.tokenizer,
            seed=config.seed,
            mesh=make_mesh(layout.fsdp, layout.tp),
            dtype=layout.compute,
        )

    def _objective(self, mesh: Any) -> tuple[Any, Any]:
        """What is minimised, and what it wants in every step."""
        from distill.gemma.checkpoint import load_model
        from distill.loss import Likelihood, ReverseDivergence, TopKDivergence

        match self.config.distillation:
            case None:
                return Likelihood(), None
            case TopK(share=share):
                return TopKDivergence(share), None
            case OnPolicy(teacher=teacher):
                folder = ModelFolder.open(resolve_model(teacher))
                return ReverseDivergence.from_teacher(
                    load_model(folder, dtype=self.config.layout.compute or "float32", mesh=mesh)
                )

    def _trainer(self) -> Any:
        from distill.assembly import optimiser_of, pass_config, weights_dtype
        from distill.gemma.checkpoint import load_model
        from distill.gemma.mesh import make_mesh
        from distill.lora import attach
        from distill.trainer import SftTrainer

        config, layout = self.config, self.config.layout
        mesh = make_mesh(layout.fsdp, layout.tp)
        model = load_model(self.folder, dtype=weights_dtype(config), mesh=mesh)
        if config.lora is not None:
            attach(model, config.lora, seed=config.seed, mesh=mesh)
        objective, shared = self._objective(mesh)
        return SftTrainer(
            model,
            optimiser_of(config, self.steps),
            objective=objective,
            shared=shared,
            shape=self.shape,
            checkpoints=self.out / log.CHECKPOINTS,
            checkpoint_every=config.checkpoint_every,
            evaluate_every=config.eval_every,
            keep=config.keep,
            observer=self,
            mesh=mesh,
            config=pass_config(layout, self.shape, self.folder.config.vocab_size),
        )

    def _stopping(self, step: int) -> bool:
        if asked_to_stop(step):
            self._stop(signal.SIGTERM)
        return self.stopped_by is not None

    def _stop(self, number: signal.Signals) -> None:
        self.stopped_by = number
        self.say(f"{number.name}: saving a checkpoint; once more ends the process at once")

    def on_step(self, step: int, loss: float, grad_norm: float, sums: Mapping[str, float]) -> None:
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise UserError(self._not_finite(step, loss, grad_norm), exit_code=1)
        trained, real = self.stream.take_counts(step)
        rate = float(self.schedule(step - 1))
        self.journal.add(
            step,
            {
                "train/loss": loss,
                "train/grad_norm": grad_norm,
                "train/learning_rate": rate,
                "train/tokens": float(trained),
                **(
                    {f"train/{name}": value for name, value in sums.items()}
                    if self.config.distillation
                    else {}
                ),
                log.ELAPSED: self.journal.elapsed,
            },
        )
        self.clock.append((time.monotonic(), real))
        if self.on_progress is not None:
            self.on_progress(self._progress(step, loss, rate))

    def _not_finite(self, step: int, loss: float, grad_norm: float) -> str:
        """What a person can do about a step that is not finite: which of its samples it was, where one stands out."""
        said = f"step {step}: the loss is {loss}, the gradient's norm {grad_norm}; nothing of this step is saved. "
        gentler = "Try a lower learning rate or more warm-up steps in a new folder"
        if isinstance(self.config.distillation, OnPolicy):
            return said + gentler  # what was answered is gone
        samples = self.stream.samples(step - 1)
        alone = self.trainer.losses(samples)
        guilty = [sample.where for sample, own in zip(samples, alone, strict=True) if not math.isfinite(own)]
        if not guilty:
            return (
                said
                + f"None of its {len(samples)} samples has such a loss alone: the gradient grew. {gentler}"
            )
        if len(guilty) == len(samples):
            return (
                said
                + f"All of its {len(samples)} samples have such a loss: the weights are at fault. {gentler}"
            )
        listed = "; ".join(sorted(set(guilty))[:5]) + ("; …" if len(set(guilty)) > 5 else "")
        return said + f"{len(guilty)} of its {len(samples)} samples have such a loss alone: {listed}"

    def _progress(self, step: int, loss: float, rate: float) -> Progress:
        elapsed = self.clock[-1][0] - self.clock[0][0]
        measured = elapsed > 0
        tokens = sum(real for _, real in list(self.clock)[1:])
        per_step = elapsed / max(1, len(self.clock) - 1)
        return Progress(
            step=step,
            steps=self.steps,
            loss=loss,
            learning_rate=rate,
            tokens_per_second=tokens / elapsed if measured else 0.0,
            eta_s=per_step * (self.steps - step) if measured else None,
            eval_loss=self.journal.last("eval/loss"),
            accuracy=self.journal.last("eval/accuracy"),
        )

    def evaluation_due(self, step: int) -> bool:
        every = self.config.eval_every
        wanted = step in (0, self.steps) or (every > 0 and step % every == 0)
        return wanted and not self.journal.has(step, f"eval/{log.ELAPSED}")

    def on_evaluation(self, step: int, loss: float | None) -> None:
        values = {} if loss is None else {"eval/loss": loss}
        said = [] if loss is None else [f"validation loss {loss:.4f}"]
        if self.probe is not None:
            asked = self.probe.measure()
            values |= {f"eval/{name}": value for name, value in asked.items()}
            said.append(described(asked))
        self._keep_best(step, values)
        self.journal.add(step, {**values, f"eval/{log.ELAPSED}": self.journal.elapsed})
        self.say(f"step {step}: {', '.join(said)}")

    def _save(self, name: str) -> None:
        """The model as it is, as a folder of the training's own."""
        from distill.export import save_trained

        template = parse_template(self.config.template)
        save_trained(self.trainer.model, self.folder, self.out / name, template=template, overwrite=True)

    def _keep_best(self, step: int, values: Mapping[str, float]) -> None:
        """Save the model where it is better than at every validation before, and training goes on.

        It is saved before its numbers are: a run that dies in between validates again.
        """
        name, better = criterion(self.config)
        if not self.config.keep_best or step == 0 or name not in values:
            return
        earlier = [value for other, value in self.journal.column(name).items() if 0 < other < step]
        if not all(better(values[name], value) for value in earlier):
            return
        if step < self.steps:
            if is_first():
                log.write_best_step(self.out, None)
            self._save(log.BEST)
            if is_first():
                log.write_best_step(self.out, step)
        elif is_first():
            log.forget_best(self.out)  # the last is the best, and is saved as such

    def before_checkpoint(self, step: int) -> None:
        self.journal.sync()


def stopped(by: signal.Signals, step: int, steps: int) -> UserError:
    """What a training says that a signal stopped behind a step; exit code 128 + signal."""
    what = "a checkpoint is saved, the same command goes on from there"
    if step == steps:
        what = "the model is finished and saved"
    return UserError(f"stopped by {by.name} after step {step} of {steps}; {what}", exit_code=128 + by)


def _row_length(config: TrainConfig, dataset: Dataset) -> int:
    """Tokens of a row where none are asked for: the longest sample's, or that of the longest prompt and answer."""
    from distill.batches import row_length

    longest = _longest(config, dataset)
    return row_length(longest, max(longest, config.max_length))


def _longest(config: TrainConfig, dataset: Dataset) -> int:
    """Tokens of the longest sample, or of the longest prompt with all that may be answered."""
    if not isinstance(config.distillation, OnPolicy):
        return dataset.longest
    answered = max(example.start for example in dataset.train) + config.distillation.max_new_tokens
    return max(dataset.longest, answered)


def _finished(config: TrainConfig, out: Path, dataset: Dataset, manifest: dict[str, Any]) -> TrainResult:
    journal = log.Journal(out, config.job)
    journal.read()
    return result_of(
        journal,
        config,
        out,
        dataset,
        resumed_from=config.steps_for(len(dataset.train)),
        already_done=True,
        seconds=manifest.get("seconds"),
    )
