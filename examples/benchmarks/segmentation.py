"""Peak memory of a distillation step of two SegFormers, by method.

python examples/benchmarks/segmentation.py --output_file segmentation.json

Memory is what is allocated at the peak of a step (teacher, student, loss, backward, gradients), beyond weights and
inputs, in units of the logits of one model, float32 `[batch, classes, height, width]`. The networks are as small as
they can be, so nearly all of it is logits and what a loss makes of them. Time is the CPU time of one thread.
"""

import tempfile
import time
from dataclasses import dataclass, field

import torch
from language import peak_memory
from transformers import HfArgumentParser, SegformerConfig, SegformerForSemanticSegmentation, set_seed

from hf_ltkd import ClassGroups, DistillationTrainer, DistillationTrainingArguments, create_loss
from hf_ltkd.utils import describe_machine, write_json


@dataclass
class Arguments:
    classes: int = field(default=150, metadata={"help": "Classes."})
    batch_size: int = field(default=8, metadata={"help": "Images of a step."})
    size: int = field(default=128, metadata={"help": "Height and width of the logits, a quarter of the images'."})
    losses: list[str] = field(
        default_factory=lambda: ["ce", "kd", "ltkd", "cwd", "ifvd"], metadata={"help": "The methods."}
    )
    logits_grid: str = field(default="student", metadata={"help": "As in DistillationTrainingArguments."})
    output_file: str | None = field(default=None, metadata={"help": "Where the figures go, as JSON."})


def main():
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    torch.set_num_threads(1)
    groups = ClassGroups.from_counts(range(args.classes, 0, -1))
    side, generator = 4 * args.size, torch.Generator().manual_seed(0)
    batch = {
        "pixel_values": torch.randn(args.batch_size, 3, side, side, generator=generator),
        "labels": torch.randint(args.classes, (args.batch_size, side, side), generator=generator),
    }
    logits = 4 * args.batch_size * args.classes * args.size**2

    def segformer(seed: int) -> SegformerForSemanticSegmentation:
        set_seed(seed)
        sizes = {"hidden_sizes": [8, 8], "depths": [1, 1], "num_attention_heads": [1, 1], "mlp_ratios": [1, 1]}
        strides = {"patch_sizes": [7, 3], "strides": [4, 2], "sr_ratios": [16, 8], "num_encoder_blocks": 2}
        config = SegformerConfig(num_labels=args.classes, decoder_hidden_size=8, **sizes, **strides)
        return SegformerForSemanticSegmentation(config)

    results = {}
    for name in args.losses:
        with tempfile.TemporaryDirectory() as folder:
            arguments = DistillationTrainingArguments(
                folder, use_cpu=True, report_to="none", logits_grid=args.logits_grid
            )
            teacher = None if name == "ce" else segformer(2)
            loss = create_loss(name, groups)
            trainer = DistillationTrainer(segformer(1), teacher, arguments, distillation_loss=loss)
        trainer.model.train()

        def step(trainer=trainer) -> None:
            trainer.model.zero_grad()
            trainer.compute_loss(trainer.model, dict(batch)).backward()

        begin = time.thread_time()
        step()
        seconds = time.thread_time() - begin
        trainer.model.zero_grad()
        results[name] = {"memory": peak_memory(step) / logits, "seconds": seconds}
        print(f"{name}: {results[name]['memory']:.1f} logits of {logits / 2**20:.0f} MiB, {seconds:.1f} s")
    if args.output_file:
        write_json(args.output_file, {"machine": describe_machine(), "arguments": vars(args), "results": results})


if __name__ == "__main__":
    main()
