"""How often each token of a vocabulary is there in a tokenised dataset."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from datasets import Dataset

from ..utils import check_number, listed


def token_counts(
    dataset: Dataset, vocab_size: int, *, column: str = "input_ids", special_ids: Iterable[int] = ()
) -> np.ndarray:
    """
    Counts the tokens that a language model learns to say, for [`ClassGroups.from_token_counts`].

    Args:
        dataset (`datasets.Dataset`): Tokenised.
        vocab_size (`int`): That of the model (`model.config.vocab_size`), padding included.
        column (`str`, *optional*, defaults to `"input_ids"`):
            A list of token ids each row. `"labels"`, where some tokens are not learned: those of -100 don't count.
        special_ids (`Iterable[int]`, *optional*): Tokens that don't count: `tokenizer.all_special_ids`.

    Returns:
        `np.ndarray` of shape `[vocab_size]`, int64.

    Raises:
        `ValueError`: if the dataset has no such column of lists of token ids, or one is beyond the vocabulary.
    """
    check_number("vocab_size", vocab_size, 1, whole=True)
    columns = dataset.column_names if isinstance(dataset, Dataset) else type(dataset).__name__
    if column not in columns:
        raise ValueError(
            f"Tokens are counted in the column {column!r} of a datasets.Dataset, which {columns} has not: tokenise it "
            "first, or name the column of token ids."
        )
    counts = np.zeros(vocab_size, dtype=np.int64)
    for batch in dataset.select_columns([column]).with_format("arrow").iter(10_000):
        ids = batch[column].combine_chunks()
        if not hasattr(ids.type, "value_type") or not pa.types.is_integer(ids.type.value_type):
            raise ValueError(f"The column {column!r} holds {ids.type}, not lists of token ids: tokenise it first.")
        ids = ids.flatten().to_numpy()
        beyond = np.unique(ids[ids >= vocab_size])
        if len(beyond):
            raise ValueError(
                f"The column {column!r} holds the tokens {listed(beyond.tolist())}, beyond vocab_size={vocab_size}: "
                "give the vocab_size of the model, and the tokenizer that it reads with."
            )
        counts += np.bincount(ids[ids >= 0], minlength=vocab_size)
    counts[np.isin(np.arange(vocab_size), [*special_ids])] = 0
    return counts
