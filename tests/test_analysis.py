import torch

from hf_ltkd import ClassGroups, ImageDataset, create_model
from hf_ltkd.analysis import teacher_group_mass


def test_group_mass_equals_summed_softmax():
    pixels = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = ImageDataset(pixels, [0] * 20, mean=[0.5] * 3, std=[0.2] * 3)
    teacher = create_model("resnet8", 6, image_size=8).train()
    groups = ClassGroups([0, 2, 1, 1, 0, 2])
    mass = teacher_group_mass(teacher, data, groups, batch_size=20, temperature=2.0)
    with torch.no_grad():
        images = torch.stack([example["pixel_values"] for example in data.__getitems__(range(20))])
        probabilities = (teacher.eval()(images).logits / 2).softmax(1)
    expected = [probabilities[:, groups.group_of_class == g].sum().item() for g in range(3)]
    torch.testing.assert_close(mass, torch.tensor([expected]), rtol=1e-4, atol=1e-4)
    assert teacher_group_mass(teacher, data, groups, batch_size=8).shape == (2, 3)
    assert teacher_group_mass(teacher, data, groups, batch_size=64).shape == (1, 3)
