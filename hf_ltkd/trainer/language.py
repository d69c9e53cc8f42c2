"""
Language models: labels are shifted as the models' own loss shifts them, and logits are made of a chunk of tokens at a
time.

`[batch, length, vocabulary]` is most of what a step would keep. So a model is asked for the states that go into its
head, [`TokenOutputs`], the tokens that count are chosen of them, and the head makes logits of a chunk of these, which
are forgotten and made again for the gradient. For the loss a chunk is what a micro-batch is to the step: it weighs by
its share of the tokens, and its sums over the batch (Eq. 9) are gathered before.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Trainer

from ..losses.checks import IGNORED_LABEL, is_example, logits_of, select_valid
from ..losses.cross_entropy import cross_entropy_of_each
from ..metrics import group_perplexity
from ..teacher.columns import forward_names
from ..teacher.language import LanguageModelKind, language_model_kind, network_of, num_classes_of
from ..utils import placed_for
from .calls import ModelCalls, sizes_of


logger = logging.getLogger(__name__)

LOGITS_AT_ONCE = 2**25  # of one model: 128 MiB in float32, 667 tokens of a vocabulary of 50,257


class TokenOutputs(NamedTuple):
    """
    What a language model says, before its head has made logits of it.

    Attributes:
        states (`torch.Tensor` of shape `[batch, length, width]`): What goes into the head.
        head (`Callable`): Makes logits `[..., vocabulary]` of `[..., width]`.
        vocabulary (`int`): How many logits a token has.
    """

    states: Tensor
    head: Callable[[Tensor], Tensor]
    vocabulary: int

    @property
    def logits(self) -> Tensor:
        """All of them, `[batch, length, vocabulary]`."""
        return self.head(self.states)


class LanguageCalls(ModelCalls):
    """
    Language models: a label per token.

    Args:
        kind (`str`): `"causal"` or `"masked"`: that of both.
        networks (`list` of `torch.nn.Module`): Student and teacher, where a forward pass can be tried.
        whole (`bool`): Whether the heads have to stay in their networks, which are sharded, compiled or replicated.
        metric_reads_losses (`bool`): Whether predictions are losses instead of logits.
        autocast (`Callable`): Gives the context in which networks run.

    Raises:
        `ValueError`: if the own loss of a model is another than the cross-entropy of the next (or masked) token.
    """

    def __init__(
        self,
        kind: LanguageModelKind,
        networks: list[nn.Module],
        whole: bool,
        metric_reads_losses: bool,
        autocast: Callable[[], AbstractContextManager],
    ):
        self.kind, self.metric_reads_losses, self.autocast = kind, metric_reads_losses, autocast
        self.heads_are_apart = not whole
        for network in networks:
            was_training = network.training
            self._probe(network.eval())
            network.train(was_training)

    @classmethod
    def of(cls, trainer: Trainer, networks: list[nn.Module]) -> "LanguageCalls":
        """Those of a trainer; [`check_model`] has seen to it that the networks are of one kind."""
        is_sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
        return cls(
            language_model_kind(networks[0]),  # type: ignore[arg-type]
            [] if is_sharded else networks,
            is_sharded or trainer.args.torch_compile or trainer.args.n_gpu > 1,
            isinstance(trainer.compute_metrics, group_perplexity),
            trainer.accelerator.autocast,
        )

    @torch.no_grad()
    def _probe(self, network: nn.Module) -> None:
        """Looks at 4 tokens whether the model's own loss is ours, and whether its head alone gives its logits."""
        name = type(network_of(network)).__name__
        inputs = placed_for(network, {"input_ids": torch.arange(4)[None]})
        with self.autocast():
            outputs = network(**inputs, labels=inputs["input_ids"])
        own = outputs.loss.item()
        ours = cross_entropy_of_each(outputs.logits, self.labels(inputs["input_ids"])).nanmean().item()
        if abs(ours - own) > 1e-3 * abs(own):
            raise ValueError(
                f"The loss of a {name} is {own:.4f} for 4 tokens where the cross-entropy of the "
                f"{'next' if self.kind == 'causal' else 'same'} token is {ours:.4f}: it is learned otherwise, or "
                "something is added to it; choose another model, or turn that off in its config."
            )
        if self.heads_are_apart:
            # Large states, so that what bends large logits shows.
            outputs, states = call(network, network, inputs, lambda states: 100 * states)
            head = network_of(network).get_output_embeddings()
            self.heads_are_apart = states is not None and torch.allclose(head(100 * states), outputs.logits)
            if not self.heads_are_apart:
                logger.info("The logits of %s are not its head's alone: those of whole batches are kept.", name)

    def labels(self, labels: Tensor) -> Tensor:
        """
        The label of each position: for a causal model the next token's, and nothing (-100) for the last one.

        Raises:
            `ValueError`: if they are no token ids `[batch, length]`.
        """
        if labels.ndim != 2 or labels.is_floating_point():
            raise ValueError(
                f"The labels of a language model have the shape {tuple(labels.shape)} and {labels.dtype}: give the "
                "input_ids [batch, length] (int64), with -100 for what is not to be learned."
            )
        return F.pad(labels, (0, 1), value=IGNORED_LABEL)[..., 1:] if self.kind == "causal" else labels

    def columns(self, columns: dict[str, Any]) -> dict[str, Any]:
        """The loss's columns of a batch: `sample_weights` of tokens, `[batch, length]`, go with the labels."""
        weights = columns.get("sample_weights")
        if self.kind == "causal" and isinstance(weights, Tensor) and weights.ndim == 2:
            columns["sample_weights"] = F.pad(weights[:, 1:], (0, 1))
        return columns

    def compared(self, outputs: Any, batch: dict[str, Any]) -> TokenOutputs:
        return outputs if isinstance(outputs, TokenOutputs) else as_token_outputs(outputs)  # logits of a column

    def rows(self, loss, outputs, labels, epoch, columns) -> Tensor:
        """A row for each chunk; one for all if the loss sums over no batch."""
        whole = super().rows(loss, None, labels, epoch, columns)
        if outputs is None:
            return whole
        rows: list[Tensor] = []
        for some, of_some, states in chunks(labels, columns, outputs):
            rows.append(super().rows(loss, outputs.head(states), some, epoch, of_some))
            if rows[-1].shape == whole.shape:
                return whole
        return torch.cat(rows)

    def gather(self, accelerator: Accelerator, rows: Tensor) -> Tensor:
        """Ranks may differ in their numbers of chunks."""
        if accelerator.num_processes == 1:
            return rows
        rows = accelerator.gather(accelerator.pad_across_processes(rows, pad_index=torch.nan))
        return rows[~rows[:, 0].isnan()]

    def terms(
        self, loss, outputs, teacher_outputs, labels, *, epoch, step_statistics=None, **columns
    ) -> dict[str, Tensor]:
        """A chunk of tokens at a time."""
        if teacher_outputs is not None and step_statistics is None:  # this batch is the whole step
            rows = self.rows(loss, teacher_outputs, labels, epoch, columns)[:, 2:]
            step_statistics = loss.begin_step(rows) if rows.shape[1] else None
        both = [outputs] if teacher_outputs is None else [outputs, teacher_outputs]

        def of_chunk(some: Tensor, of_some: dict[str, Any], *states: Tensor) -> dict[str, Tensor]:
            logits = [o.head(s) for o, s in zip(both, states, strict=True)]
            teacher = logits[1] if logits[1:] else None
            return loss(logits[0], teacher, some, epoch=epoch, step_statistics=step_statistics, **of_some)

        sizes = sizes_of(labels, columns)
        sizes = sizes.where(sizes > 0, 1.0)  # all may be padding
        todo = list(chunks(labels, columns, *both))
        if len(todo) > 1:  # the logits of a chunk are made again for the gradient
            of_chunk = partial(checkpoint, of_chunk, use_reentrant=False, preserve_rng_state=False)
        total: dict[str, Tensor] = {}
        for some, of_some, *states in todo:
            own_sizes = sizes_of(some, of_some)
            for name, term in of_chunk(some, of_some, *states).items():
                i = int(name == loss.ce)  # which is a mean over those with a class
                total[name] = total.get(name, 0.0) + term * own_sizes[i] / sizes[i]
        return total

    def predictions(self, outputs: Any, losses: Tensor) -> Tensor:
        """
        What an evaluation keeps: logits, or for [`group_perplexity`] the loss of each label, `[batch, length]`, at the
        label's place and -100 where there is none.
        """
        if not self.metric_reads_losses:
            return logits_of(outputs)
        losses = losses.nan_to_num(IGNORED_LABEL)
        return F.pad(losses, (1, 0), value=IGNORED_LABEL)[:, :-1] if self.kind == "causal" else losses

    def num_classes(self, outputs: TokenOutputs) -> int:
        return outputs.vocabulary

    def losses_of_each(self, outputs: TokenOutputs, labels: Tensor) -> Tensor:
        """`[batch, length]`, a chunk of tokens at a time."""
        parts = [cross_entropy_of_each(outputs.head(s), some) for some, _, s in chunks(labels, {}, outputs)]
        known = torch.cat(parts)
        losses = known.new_full(labels.shape, torch.nan)
        losses[is_example(labels)] = known
        return losses

    def scores(self, outputs: TokenOutputs, losses: Tensor) -> Tensor:
        return losses[..., None]

    def ask(self, network: nn.Module, forward: Callable, inputs: dict[str, Any]) -> Any:
        """
        A network's [`TokenOutputs`]; arguments as in [`ModelCalls`].

        Raises:
            `ValueError`: if a token is beyond the vocabulary; where looking costs nothing, on a CPU.
        """
        ids, size = inputs.get("input_ids"), num_classes_of(network_of(network))
        if ids is not None and ids.is_cpu and ids.numel() and ids.max() >= size:
            raise ValueError(
                f"The batch holds the token {ids.max()}, and the vocabulary of {type(network_of(network)).__name__} "
                f"has {size} tokens: give both models the tokenizer that made the data, or resize_token_embeddings."
            )
        if "use_cache" in (forward_names(network) or ()):
            inputs = {**inputs, "use_cache": False}  # keys and values of all layers would be kept for a generation
        if not self.heads_are_apart:
            return as_token_outputs(forward(**inputs))
        # No tokens for the head; its weights still take part, which DDP looks at.
        outputs, states = call(network, forward, inputs, lambda states: states[:, :0])
        head = network_of(network).get_output_embeddings()

        def logits(states: Tensor) -> Tensor:
            with self.autocast():
                return head(states)

        return TokenOutputs(states, logits, logits_of(outputs).shape[-1])


def call(network: nn.Module, forward: Callable, inputs: dict[str, Any], change: Callable[[Tensor], Tensor]):
    """The outputs of a network whose head is given `change(states)`, and the states; `None` if it is not called."""
    seen: list[Tensor] = []

    def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.append(arguments[0])
        return change(arguments[0]), *arguments[1:]

    head = network_of(network).get_output_embeddings()
    handle = None if head is None else head.register_forward_pre_hook(hook)
    try:
        return forward(**inputs), seen[0] if seen else None
    finally:
        if handle is not None:
            handle.remove()


def as_token_outputs(outputs: Any) -> TokenOutputs:
    """Logits that are there already, `[batch, length, vocabulary]`."""
    logits = logits_of(outputs)
    return TokenOutputs(logits, lambda states: states, logits.shape[-1])


def chunks(labels: Tensor, columns: dict[str, Any], *outputs: TokenOutputs) -> Iterator[tuple[Any, ...]]:
    """
    Labels, columns and states of the tokens that count, `[tokens]`, `[tokens, ...]` and `[tokens, width]`: at least
    one chunk.
    """
    tokens = int(is_example(labels).sum())
    labels, columns, *states = select_valid(labels, columns, *(o.states for o in outputs))
    size = max(1, LOGITS_AT_ONCE // outputs[0].vocabulary)
    for start in range(0, max(tokens, 1), size):
        part = slice(start, start + size)
        some = {n: c[part] if isinstance(c, Tensor) and len(c) == tokens else c for n, c in columns.items()}
        yield labels[part], some, *(s[part] for s in states)
