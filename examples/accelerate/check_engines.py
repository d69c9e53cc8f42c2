"""Trains the same tiny student under every engine of Accelerate and says whether each does what one process does.

python examples/accelerate/check_engines.py --output_file engines.md

Each engine takes a few optimizer steps of LTKD as a user would start it (`accelerate launch --config_file`). In
float32 its losses and its saved student must equal those of one process; in bf16 a student with batch normalisation
must train and be saved whole. Without a GPU only one process and DDP over two CPU ranks can run.
"""

import argparse
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForImageClassification,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)

from hf_ltkd import (
    ClassGroups,
    DistillationTrainer,
    DistillationTrainingArguments,
    ImageDataset,
    LTKDLoss,
    create_model,
    group_accuracy,
)
from hf_ltkd.groups import CLASS_GROUPS_NAME


ENGINES = {
    "single": "",  # plain python
    "ddp": "ddp.yaml",
    "fsdp2": "fsdp2.yaml",
    "zero1": "deepspeed_zero1.yaml",
    "zero2": "deepspeed_zero2.yaml",
    "zero3": "deepspeed_zero3.yaml",
}
STEPS, STEP_SIZE, ACCUMULATION = 4, 48, 2  # optimizer steps; examples of one; micro-batches of one
LOSSES = ("loss", "cross_entropy", "cross_group", "within_group", "eval_loss")
RTOL = 1e-4  # of the losses; sums in another order, and 1e-6 in DeepSpeed's clipping
LOGITS_RTOL, LOGITS_ATOL = 1e-3, 1e-4


def tiny_vit(seed: int, confidence: float = 1.0) -> ViTForImageClassification:
    """No batch normalisation, whose own statistics would depend on the number of processes."""
    set_seed(seed)
    config = ViTConfig(  # type: ignore[call-arg]
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4,
        num_labels=6, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = ViTForImageClassification(config)
    with torch.no_grad():
        model.classifier.weight.mul_(confidence)  # type: ignore[operator]
    return model


def tiny_teacher() -> ViTForImageClassification:
    return tiny_vit(2, confidence=500.0)  # a flat one would give every split of a batch the same sums over groups


def random_images() -> ImageDataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2 * STEP_SIZE, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 6, (2 * STEP_SIZE,), generator=generator)
    return ImageDataset(images, labels, mean=[0.5] * 3, std=[0.25] * 3)


# ---- One rank of one engine ----


def train(engine: str, precision: str, folder: Path) -> dict:
    """Trains, saves, and returns what this rank saw."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    groups = ClassGroups.from_counts([60, 50, 40, 30, 20, 10])
    args = DistillationTrainingArguments(
        output_dir=str(folder / "student"), max_steps=STEPS, learning_rate=0.1, optim="sgd", optim_args="momentum=0.9",
        per_device_train_batch_size=STEP_SIZE // ACCUMULATION // processes, gradient_accumulation_steps=ACCUMULATION,
        max_grad_norm=0.5, bf16=precision == "bf16", logging_steps=1, save_strategy="no", report_to="none",
        disable_tqdm=True, use_cpu=engine in ("single", "ddp") and not torch.cuda.is_available(),
    )  # fmt: skip
    if precision == "bf16":
        set_seed(1)
        student: PreTrainedModel = create_model("resnet8", 6, image_size=8)
    else:
        student = tiny_vit(1)
    data = random_images()
    trainer = DistillationTrainer(
        student,
        str(folder.parent / "teacher"),  # loaded here, as the example scripts load it, not handed over
        args,
        distillation_loss=LTKDLoss(groups, alpha=1.0, beta=1.0, temperature=1.0),
        train_dataset=data,
        eval_dataset=data,
        compute_metrics=group_accuracy(groups),  # type: ignore[operator]
    )
    trainer.train()
    engine_off = engine_faults(engine, trainer)  # now, because FSDP leaves weights whole after an evaluation
    trainer.evaluate()
    trainer.save_model()
    teacher: Any = trainer.teacher_model
    weights = teacher.state_dict()
    device = torch.empty(0, device=args.device).device  # Accelerate's cpu:0 is cpu
    return {
        "processes": trainer.accelerator.num_processes,
        "engine": engine_off,
        "teacher": [
            fault
            for fault, found in {
                f"not on {device}": any(p.device != device for p in teacher.parameters()),
                "not in eval mode": any(module.training for module in teacher.modules()),
                "not frozen": any(p.requires_grad or p.grad is not None for p in teacher.parameters()),
                "its weights changed": any(
                    not torch.equal(weights[name].cpu(), weight.to(weights[name].dtype))
                    for name, weight in tiny_teacher().state_dict().items()
                ),
            }.items()
            if found
        ],
        "losses": {
            f"{name} of step {entry['step']}": entry[name]
            for entry in trainer.state.log_history
            for name in LOSSES
            if name in entry
        },
    }


def engine_faults(engine: str, trainer: Any) -> list[str]:
    """Empty if the engine is really on: Accelerate can fall back to plain data parallelism without a word."""
    parameters = list(trainer.accelerator.unwrap_model(trainer.model_wrapped).parameters())
    kind = str(trainer.accelerator.distributed_type).removeprefix("DistributedType.")
    if engine == "fsdp2":
        from torch.distributed.tensor import DTensor

        checks = {
            "FSDP is off": trainer.is_fsdp_enabled,
            "the parameters are not sharded": all(isinstance(p, DTensor) for p in parameters),
        }
    elif engine.startswith("zero"):
        stage = int(engine[-1])
        checks = {
            "DeepSpeed is off": trainer.is_deepspeed_enabled,
            f"it is not ZeRO-{stage}": trainer.model_wrapped.zero_optimization_stage() == stage,
            "the parameters are not sharded": stage < 3 or all(hasattr(p, "ds_id") for p in parameters),
        }
    else:
        wrapped = isinstance(trainer.model_wrapped, torch.nn.parallel.DistributedDataParallel)
        checks = {"the student is not wrapped by DDP": wrapped == (trainer.accelerator.num_processes > 1)}
    return [f"{fault} (Accelerate says {kind})" for fault, passed in checks.items() if not passed]


def worker(engine: str, precision: str, folder: Path) -> None:
    facts: dict[str, Any] = {}
    try:
        facts = train(engine, precision, folder)
    except BaseException as error:
        facts = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]}
        raise
    finally:
        (folder / f"rank{os.environ.get('RANK', 0)}.json").write_text(json.dumps(facts))
    # All ranks leave together: one that is torn down while the other still talks to it can end with an error.
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


# ---- All engines ----


def reason_not_to_run(engine: str) -> str | None:
    if engine in ("single", "ddp"):
        return None
    if not torch.cuda.is_available():
        return "needs a GPU"
    if engine.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        return "deepspeed is not installed"
    return None


def launch(engine: str, precision: str, processes: int, folder: Path, timeout: float) -> str | None:
    """Starts the workers and waits for them. Returns why that failed, in one line, or `None`."""
    # What a launcher or a trainer around this one left behind is not the user's.
    prefixes = ("ACCELERATE_", "FSDP_", "TORCHELASTIC_")
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    env = {k: v for k, v in os.environ.items() if not k.startswith(prefixes) and k not in names}
    env |= {"OMP_NUM_THREADS": env.get("OMP_NUM_THREADS", "1"), "NVIDIA_TF32_OVERRIDE": "0", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable]
    if engine == "single":  # several visible GPUs would mean DataParallel
        env["CUDA_VISIBLE_DEVICES"] = env.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    elif torch.cuda.is_available():
        command += ["-m", "accelerate.commands.launch", "--config_file", str(Path(__file__).parent / ENGINES[engine])]
        command += ["--num_processes", str(processes), "--main_process_port", "0"]
        command += ["--mixed_precision", "bf16" if precision == "bf16" else "no"]
    else:  # `accelerate launch --cpu` would start one process, whatever it is told
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command += [__file__, "--worker", engine, "--precisions", precision, "--folder", str(folder)]

    folder.mkdir(parents=True)
    with open(folder / "log.txt", "w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            exit_status = process.wait(timeout)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)  # the launcher and its ranks
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                exit_status = None
            else:
                raise
    if exit_status == 0:
        return None
    tail = (folder / "log.txt").read_text(errors="replace").strip().splitlines()[-40:]
    print(f"---- {engine} {precision}: the last lines ----", *tail, "----", sep="\n", file=sys.stderr)
    errors = [facts["error"] for facts in all_ranks(folder) if "error" in facts]
    if exit_status is None:
        return f"not done after {timeout:g} seconds" + (f": {errors[0]}" if errors else "")
    return errors[0] if errors else f"exit status {exit_status}: {tail[-1] if tail else 'no output'}"


def all_ranks(folder: Path) -> list[dict]:
    return [json.loads(file.read_text()) for file in sorted(folder.glob("rank*.json"))]


def first_fault(precision: str, processes: int, folder: Path, single: Path) -> str | None:
    """What is wrong with a run that ended well, in one line, or `None`."""
    ranks = all_ranks(folder)
    if [facts["processes"] for facts in ranks] != [processes] * processes:
        return f"{len(ranks)} processes ran, {processes} were asked for"
    expected = all_ranks(single)[0]["losses"]
    for rank, facts in enumerate(ranks):
        for subject in ("engine", "teacher"):
            if facts[subject]:
                return f"{subject} of rank {rank}: {', '.join(facts[subject])}"
        if facts["losses"].keys() != expected.keys():
            return f"rank {rank} logged {len(facts['losses'])} losses, not {len(expected)}"
        for name, loss in facts["losses"].items():
            if not math.isfinite(loss):
                return f"{name} is {loss}"
            if precision == "float32" and not math.isclose(loss, expected[name], rel_tol=RTOL):
                return f"{name} is {loss:.7g}, with one process {expected[name]:.7g}"
    if not (folder / "student" / CLASS_GROUPS_NAME).is_file():
        return f"save_model() wrote no {CLASS_GROUPS_NAME}"
    try:
        logits, missing = logits_of_student(folder)
    except (OSError, ValueError, RuntimeError) as error:
        return f"from_pretrained() cannot read the saved student: {str(error).splitlines()[0]}"
    if missing or not torch.isfinite(logits).all():
        return f"the saved student lacks {missing[:3]}" if missing else "the saved student's logits are not finite"
    other_logits, _ = logits_of_student(single)
    if precision == "float32" and not torch.allclose(logits, other_logits, rtol=LOGITS_RTOL, atol=LOGITS_ATOL):
        return f"the saved student's logits differ from one process's by {(logits - other_logits).abs().max():.2g}"
    return None


@torch.no_grad()
def logits_of_student(folder: Path) -> tuple[torch.Tensor, list[str]]:
    student, info = AutoModelForImageClassification.from_pretrained(
        folder / "student", dtype=torch.float32, output_loading_info=True
    )
    images = torch.stack([example["pixel_values"] for example in (random_images()[i] for i in range(STEP_SIZE))])
    return student.eval()(images).logits, sorted(info["missing_keys"])


def markdown(rows: list[dict], environment: dict) -> str:
    lines = [f"{', '.join(f'{name} {value}' for name, value in environment.items())}.", ""]
    lines += ["| engine | precision | processes | status | seconds |", "|---|---|---|---|---|"]
    for row in rows:
        status = row["status"] + (f": {row['reason']}" if row["reason"] else "")
        status = status.replace("|", "\\|")
        lines.append(
            f"| {row['engine']} | {row['precision']} | {row['processes'] or ''} | {status} | {row['seconds'] or ''} |"
        )
    lines += [
        "",
        f"float32: {STEPS} optimizer steps of {STEP_SIZE} examples in {ACCUMULATION} micro-batches; the losses equal "
        f"those of one process within a relative {RTOL:g}, the saved student's logits within {LOGITS_RTOL:g}. "
        "bf16: trains a student with batch normalisation and saves it whole. On one process nothing is split.",
    ]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument(
        "--precisions", nargs="+", choices=("float32", "bf16"), default=["float32", "bf16"][: 1 + on_gpu]
    )
    parser.add_argument("--num_processes", type=int, default=torch.cuda.device_count() if on_gpu else 2)
    parser.add_argument("--output_file", help="Ends in .json for JSON; Markdown otherwise.")
    parser.add_argument("--timeout", type=float, default=300.0, help="Seconds for each run.")
    parser.add_argument("--folder", help="Keep students and logs there, in a folder that does not exist yet.")
    parser.add_argument("--worker", choices=ENGINES, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        worker(args.worker, args.precisions[0], Path(args.folder))
        return 0
    if (STEP_SIZE // ACCUMULATION) % args.num_processes:
        parser.error(f"--num_processes {args.num_processes} must divide {STEP_SIZE // ACCUMULATION}.")
    if args.folder and Path(args.folder).exists():
        parser.error(f"--folder {args.folder} exists already: name a new one.")

    environment = {"Python": sys.version.split()[0]}
    for package in ("torch", "transformers", "accelerate", "deepspeed"):
        if importlib.util.find_spec(package) is not None:
            environment[package] = version(package)
    environment["on"] = f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}" if on_gpu else "CPU"
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(args.folder or temporary)
        tiny_teacher().save_pretrained(root / "teacher")
        for precision in args.precisions:
            single = root / f"single_{precision}"
            for engine in dict.fromkeys(["single", *args.engines]):
                row = {"engine": engine, "precision": precision, "status": "pass", "reason": None}
                processes = 1 if engine == "single" else args.num_processes
                folder = root / f"{engine}_{precision}"
                started = time.monotonic()
                if reason := reason_not_to_run(engine):
                    row |= {"processes": None, "status": "not run", "reason": reason, "seconds": None}
                else:
                    reason = launch(engine, precision, processes, folder, args.timeout)
                    if reason is None and engine != "single" and rows_failed(rows, "single", precision):
                        reason = "there is no run of one process to compare with"
                    reason = reason or first_fault(precision, processes, folder, single)
                    row |= {"processes": processes, "status": "fail" if reason else "pass", "reason": reason}
                    row["seconds"] = round(time.monotonic() - started)
                rows.append(row)
                print(f"{engine} {precision}: {row['status']}" + (f": {reason}" if reason else ""), flush=True)
    if args.output_file:
        as_json = args.output_file.endswith(".json")
        text = json.dumps({"environment": environment, "engines": rows}, indent=2) + "\n"
        Path(args.output_file).write_text(text if as_json else markdown(rows, environment), encoding="utf-8")
    return int(any(row["status"] == "fail" for row in rows))


def rows_failed(rows: list[dict], engine: str, precision: str) -> bool:
    return any(r["status"] == "fail" for r in rows if r["engine"] == engine and r["precision"] == precision)


if __name__ == "__main__":
    sys.exit(main())
