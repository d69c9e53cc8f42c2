"""How much Eq. 10's factors jump about from step to step, by batch size, and what a running group mass does to it.

python examples/benchmarks/group_mass_momentum.py --teacher teacher --benchmark cifar100_lt --imbalance_factor 100

Prints, for several batch sizes and momenta, the standard deviation over the steps of the logarithm of the tail's
factor against the head's, at the temperatures 1 and 4: 0.1 means that the balance between tail and head is off by
about 10 % in a typical step. Takes the data arguments of the other scripts.
"""

from dataclasses import dataclass, field

import torch
from tqdm.auto import tqdm
from transformers import AutoImageProcessor, AutoModelForImageClassification, HfArgumentParser

from hf_ltkd import LTKDLoss
from hf_ltkd.data import DataArguments, load_image_data


@dataclass
class Arguments:
    teacher: str = field(metadata={"help": "Hub id or folder of the teacher."})
    batch_sizes: list[int] = field(
        default_factory=lambda: [4, 8, 16, 32, 64, 256], metadata={"help": "Examples per optimizer step."}
    )
    momenta: list[float] = field(
        default_factory=lambda: [0.0, 0.9, 0.99], metadata={"help": "Values of group_mass_momentum; 0 is none."}
    )


@torch.no_grad()
def main():
    args, data_args = HfArgumentParser((Arguments, DataArguments)).parse_args_into_dataclasses()
    teacher = AutoModelForImageClassification.from_pretrained(args.teacher).eval()
    processor = AutoImageProcessor.from_pretrained(args.teacher)
    data = load_image_data(data_args, processor=processor)
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0)).tolist()
    logits = torch.cat(
        [
            teacher(torch.stack([item["pixel_values"] for item in data.train.__getitems__(order[i : i + 256])])).logits
            for i in tqdm(range(0, len(order), 256), desc="Asking the teacher")
        ]
    )
    print("| temperature | batch |" + "".join(f" momentum {m:g} |" for m in args.momenta))
    print("|---|---|" + "---|" * len(args.momenta))
    for temperature in (1.0, 4.0):
        for size in args.batch_sizes:
            cells = []
            for momentum in args.momenta:
                loss = LTKDLoss(data.groups, temperature=temperature, group_mass_momentum=momentum)
                steps = logits[: len(logits) // size * size].split(size)
                log_mass = torch.cat([loss.begin_step(loss.batch_statistics(step)[None]) for step in steps])
                log_ratio = (log_mass[:, 0] - log_mass[:, -1])[len(steps) // 4 :]  # the running mean has settled
                cells.append(f"{log_ratio.std().item():.3f}")
            print(f"| {temperature:g} | {size} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
