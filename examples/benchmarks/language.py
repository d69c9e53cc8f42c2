"""Peak memory of a distillation step of two GPT-2 shaped language models, with and without chunks of tokens.

python examples/benchmarks/language.py --output_file language.json

The contenders take turns in one process; time is the CPU time of one thread. Memory is what is allocated at the peak
of a step (teacher, student, loss, backward, gradients), beyond weights and inputs, in units of the logits of one
model, float32 `[batch, length, vocabulary]`. "chunks" is the trainer as it is, "whole logits" the same with heads that
stay in their models and one chunk for all tokens.
"""

import tempfile
import time
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import GPT2Config, GPT2LMHeadModel, HfArgumentParser, set_seed

from hf_ltkd import ClassGroups, DistillationTrainer, DistillationTrainingArguments, KDLoss, LTKDLoss
from hf_ltkd.trainer import language
from hf_ltkd.utils import describe_machine, write_json


@dataclass
class Arguments:
    vocab_size: int = field(default=16_384, metadata={"help": "Tokens."})
    batch_size: int = field(default=8, metadata={"help": "Examples of a step."})
    length: int = field(default=128, metadata={"help": "Tokens of an example."})
    chunk: int = field(default=64, metadata={"help": "Tokens of a chunk."})
    turns: int = field(default=3, metadata={"help": "Steps of each."})
    output_file: str | None = field(default=None, metadata={"help": "Where the figures go, as JSON."})


def main():
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    torch.set_num_threads(1)
    groups = ClassGroups.from_token_counts(range(args.vocab_size, 0, -1))
    ids = torch.randint(args.vocab_size, (args.batch_size, args.length), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "labels": ids}
    logits = 4 * ids.numel() * args.vocab_size

    def gpt2(layers: int) -> GPT2LMHeadModel:
        set_seed(layers)
        config = GPT2Config(vocab_size=args.vocab_size, n_positions=args.length, n_embd=64, n_layer=layers, n_head=2)
        return GPT2LMHeadModel(config)

    results = {}
    for name, loss in (("kd", KDLoss(temperature=1.0)), ("ltkd", LTKDLoss(groups))):
        with tempfile.TemporaryDirectory() as folder:
            arguments = DistillationTrainingArguments(folder, use_cpu=True, report_to="none")
            trainer = DistillationTrainer(gpt2(1), gpt2(2), arguments, distillation_loss=loss)
        trainer.model.train()

        def step(trainer=trainer) -> None:
            trainer.model.zero_grad()
            trainer.compute_loss(trainer.model, batch).backward()

        seconds: dict[str, list[float]] = {"whole logits": [], "chunks": []}
        memory = {}
        for turn in range(args.turns + 1):
            for contender, times in seconds.items():
                trainer.calls.heads_are_apart = contender == "chunks"
                language.LOGITS_AT_ONCE = args.chunk * args.vocab_size if contender == "chunks" else 2**62
                if turn == 0:
                    trainer.model.zero_grad()
                    memory[contender] = peak_memory(step) / logits
                    continue
                begin = time.thread_time()
                step()
                times.append(time.thread_time() - begin)
        results[name] = {c: {"memory": memory[c], "seconds": min(times)} for c, times in seconds.items()}
        for contender, values in results[name].items():
            print(f"{name}, {contender}: {values['memory']:.2f} logits, {values['seconds']:.2f} s")
    if args.output_file:
        write_json(args.output_file, {"machine": describe_machine(), "arguments": vars(args), "results": results})


def peak_memory(run) -> int:
    """Bytes allocated at the peak beyond what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    events = recorded.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(accumulate(change for _, change in changes))


if __name__ == "__main__":
    main()
