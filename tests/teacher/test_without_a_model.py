"""Teachers that are no model here: a column of the dataset, and a server. What README.md shows is what runs."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from test_cache import build, images, network
from test_trainer import QUIET
from transformers import TrainingArguments

import hf_ltkd
from hf_ltkd import DistillationTrainer, DistillationTrainingArguments, KDLoss, ReviewKDLoss
from hf_ltkd.teacher.live import teacher_fingerprint


README = (Path(hf_ltkd.__file__).parent / "teacher" / "README.md").read_text(encoding="utf-8")


# ---- A column ----


def table(**changes):
    """40 examples of fixed pixels, with what the teacher says of each."""
    items = images(augment=False).__getitems__(range(40))
    pixels = torch.stack([item["pixel_values"] for item in items])
    with torch.no_grad():
        logits = torch.cat([network().eval()(some).logits for some in pixels.split(8)])
    columns = {"pixel_values": pixels.numpy(), "labels": [int(i["labels"]) for i in items], "teacher_logits": logits}
    columns |= changes
    return Dataset.from_dict({name: values for name, values in columns.items() if values is not None})


def trainer_for(folder, data, teacher=None, loss=None, cls=TrainingArguments, **args):
    arguments = {"output_dir": folder, "num_train_epochs": 2, "per_device_train_batch_size": 8, "seed": 3, **QUIET}
    arguments |= {"save_strategy": "no", "learning_rate": 0.05} | args
    return DistillationTrainer(
        network(1), teacher, cls(**arguments), distillation_loss=loss or KDLoss(), train_dataset=data
    )


@pytest.mark.parametrize("how", [{}, {"dataloader_num_workers": 2}, {"remove_unused_columns": True}])
def test_a_column_is_a_live_teacher(tmp_path, how):
    trainers = [
        trainer_for(tmp_path / "live", table(teacher_logits=None), network()),
        trainer_for(tmp_path / "column", table(), **how),
    ]
    expected, found = (trainer.train() and trainer.model.state_dict() for trainer in trainers)
    for name, tensor in expected.items():  # the teacher was asked in other batches
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)


def test_what_is_no_column_of_logits(tmp_path):
    narrow = table(teacher_logits=torch.zeros(40, 5).numpy())
    mixed = {"mixup_alpha": 0.2, "cls": DistillationTrainingArguments}
    evaluated = {"eval_with_teacher": True, "cls": DistillationTrainingArguments}
    wrong = [
        (lambda: trainer_for(tmp_path, table(teacher_logits=None)), "needs a teacher: .* hold its 'teacher_logits'"),
        (lambda: trainer_for(tmp_path, narrow), r"shape \[5\], and the student has 6 classes"),
        (lambda: trainer_for(tmp_path, table(), network()), "leave one of them out"),
        (
            lambda: trainer_for(tmp_path, list(table().with_format("torch")), network()).train(),
            "leave one of them out",
        ),
        (lambda: trainer_for(tmp_path, table(), loss=ReviewKDLoss()), "a column of logits has none"),
        (lambda: trainer_for(tmp_path, table(), **mixed), "mixup_alpha"),
        (lambda: trainer_for(tmp_path, table(), **evaluated), "eval_with_teacher=True asks a teacher"),
    ]
    for call, message in wrong:
        with pytest.raises(ValueError, match=message):
            call()
    broken = torch.zeros(40, 6)
    broken[7, 2] = torch.nan
    with pytest.raises(FloatingPointError, match="The teacher's logits hold NaN or Inf at step"):
        trainer_for(tmp_path, table(teacher_logits=broken.numpy())).train()


def test_another_column_is_another_training_set(tmp_path):
    args = {"save_strategy": "epoch"}
    trainer_for(tmp_path, table(), **args).train()
    other = table(teacher_logits=torch.randn(40, 6).numpy())
    with pytest.raises(ValueError, match="its training set was another one: teacher_logits"):
        trainer_for(tmp_path, other, **args).train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    trainer_for(tmp_path, table(), **args).train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))


# ---- A server ----


class Server:
    """Answers as a network does; after `fails_after` requests it does not."""

    def __init__(self, fails_after=None):
        self.requests, self.model, server = 0, network().eval(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                server.requests += 1
                if fails_after is not None and server.requests > fails_after:
                    return self.send_error(503)
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with torch.no_grad():
                    logits = server.model(torch.tensor(asked["pixel_values"])).logits
                body = json.dumps({"logits": logits.tolist()}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/"


@pytest.fixture
def remote_teacher():
    """The class that the room's README shows."""
    namespace: dict = {}
    [block] = [b for b in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL) if "class RemoteTeacher" in b]
    exec(block, namespace)
    return namespace["RemoteTeacher"]


def test_a_server_is_a_teacher(tmp_path, remote_teacher):
    server, data = Server(), images()
    teacher = remote_teacher(server.url, "v1")
    cache = build(tmp_path / "remote", teacher, data)
    here = build(tmp_path / "here", network(), data)
    torch.testing.assert_close(cache.logits(range(40), 1), here.logits(range(40), 1))
    trainers = [trainer_for(tmp_path, images(), model, max_steps=2) for model in (teacher, network())]
    found, expected = (trainer.train() and trainer.model.state_dict() for trainer in trainers)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)
    for other in (remote_teacher(server.url, "v2"), remote_teacher("http://127.0.0.1:1/", "v1")):
        assert teacher_fingerprint(other) != teacher_fingerprint(teacher)
        with pytest.raises(ValueError, match="was built with teacher"):
            cache.check(teacher=other)
    server.http.shutdown()


def test_a_server_that_fails_is_one_sentence_and_the_build_goes_on(tmp_path, remote_teacher):
    failing = Server(fails_after=5)  # one probe, three batches of the first view, one of the second
    with pytest.raises(OSError, match=r"The teacher at http://127.0.0.1:\d+/ does not answer \(HTTP Error 503"):
        build(tmp_path, remote_teacher(failing.url, "v1"), images())
    failing.http.shutdown()
    working = Server()
    teacher = remote_teacher(failing.url, "v1")
    teacher.url, shown = working.url, repr(teacher)
    teacher.extra_repr = lambda: f"{failing.url}, v1"  # the same server, back again
    build(tmp_path, teacher, images())
    assert working.requests == 1 + 3 and shown  # the first view is not asked for again
    working.http.shutdown()
