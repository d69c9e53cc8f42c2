"""A column `sample_weights`: an example of weight 2 is that example twice, over the whole optimizer step."""

import pytest
import torch
from one_step import WEIGHTS, WeightedImages, assert_same_step, one_step, tiny_vit
from test_trainer import GROUPS, images, trainer_for

from hf_ltkd import CrossEntropyLoss, DISTLoss, ImageDataset, KDLoss, LTKDLoss, TeacherCache


LOSSES = ["ltkd_momentum", "dkd", "sum"]  # the sum is of GKL, LTKD and KD


def test_a_step_is_that_of_the_examples_as_often_as_they_weigh(tmp_path, two_ranks):
    folder = str(tmp_path)
    repeated = one_step(folder, LOSSES, sum(map(int, WEIGHTS)), 1, 1, "repeated")
    for name, others in {
        "accumulated": [one_step(folder, LOSSES, 8, 4, 1, "weighted")],
        "ranks": two_ranks(one_step, folder, LOSSES, 16, 1, 2, "weighted"),
    }.items():
        for loss in LOSSES:  # evaluations are without weights, so they are equal too
            assert_same_step(f"{name} {loss}", repeated[loss], others[0][loss])


class EachWeighs(ImageDataset):
    """Items with one weight for all."""

    weight: object = 0.0

    def __getitems__(self, indices):
        return [{**item, "sample_weights": torch.tensor(self.weight)} for item in super().__getitems__(indices)]


def weighted(made=WeightedImages):
    data = images(32)
    data.__class__ = made
    return data


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def trained(tmp_path, **kwargs):
    args = {"max_steps": 2, "gradient_accumulation_steps": 2, "save_strategy": "no"} | kwargs.pop("args", {})
    trainer = trainer_for(tmp_path, model=tiny_vit(1), args=args, **{"teacher": tiny_vit(2), **kwargs})
    trainer.train()
    return weights(trainer.model)


def test_cached_teachers_and_samplers(tmp_path):
    data, args = weighted(), {"train_sampling_strategy": "class_balanced"}
    cache = TeacherCache.build(tmp_path / "cache", tiny_vit(2), data, views=1, batch_size=8, progress=False)
    live = trained(tmp_path, train_dataset=data, args=args)
    assert torch.equal(live, trained(tmp_path, train_dataset=data, teacher=cache, args=args))
    assert not torch.equal(live, trained(tmp_path, train_dataset=images(32), args=args))


@pytest.mark.parametrize("loss", [CrossEntropyLoss, DISTLoss, lambda: LTKDLoss(GROUPS)])
def test_evaluations_are_without_weights(tmp_path, loss):
    args = {"eval_with_teacher": True}
    trainer = trainer_for(tmp_path, model=tiny_vit(1), teacher=tiny_vit(2), loss=loss(), args=args)
    found, expected = trainer.evaluate(weighted()), trainer.evaluate(images(32))
    measured = [name for name in expected if "per_sec" not in name and "time" not in name]
    assert len(measured) > 5 and {n: found[n] for n in measured} == {n: expected[n] for n in measured}


def test_a_step_without_weight_learns_nothing(tmp_path):
    found = trained(tmp_path, train_dataset=weighted(EachWeighs), args={"weight_decay": 0.0})
    assert torch.equal(found, weights(tiny_vit(1)))


@pytest.mark.parametrize(
    "weight, args, message",
    [
        (-1.0, {}, "sample_weights hold -1.0: give finite numbers of 0 or more"),
        (float("nan"), {}, "sample_weights hold nan: give finite numbers"),
        ([1.0, 1.0], {}, r"sample_weights are torch.Size\(\[8, 2\]\): give a tensor of one number of 0 or more per"),
        (1.0, {"mixup_alpha": 0.2}, "mixup_alpha and cutmix_alpha make one example of two, and sample_weights weigh"),
    ],
)
def test_weights_that_are_refused(tmp_path, weight, args, message):
    wrong = weighted(EachWeighs)
    wrong.weight = weight
    with pytest.raises(ValueError, match=message):
        trained(tmp_path, train_dataset=wrong, loss=KDLoss(), args=args)
