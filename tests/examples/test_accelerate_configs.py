"""examples/accelerate: the launch files say what their names promise, and what can run without a GPU runs."""

import json
import os

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from helpers import EXAMPLES, load_script


FOLDER = EXAMPLES / "accelerate"
DISTRIBUTED_TYPES = {
    "ddp.yaml": "MULTI_GPU",
    "fsdp2.yaml": "FSDP",
    "deepspeed_zero1.yaml": "DEEPSPEED",
    "deepspeed_zero2.yaml": "DEEPSPEED",
    "deepspeed_zero3.yaml": "DEEPSPEED",
}


def launched_with(name: str, *arguments: str) -> tuple:
    """What `accelerate launch` makes of a file: the command's arguments, and the environment of the processes."""
    command = ["--config_file", str(FOLDER / name), "--main_process_port", "0", *arguments, "script.py"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(command))
    if not args.use_deepspeed:
        return args, prepare_multi_gpu_env(args)
    args.deepspeed_fields_from_accelerate_config = ""
    return args, prepare_deepspeed_cmd_env(args)[1]


def test_every_file_is_known():
    assert {path.name for path in FOLDER.glob("*.yaml")} == set(DISTRIBUTED_TYPES)


@pytest.mark.parametrize("name", DISTRIBUTED_TYPES)
def test_file_loads(name):
    config = load_config_from_file(str(FOLDER / name))  # refuses unknown keys
    assert config.distributed_type.value == DISTRIBUTED_TYPES[name]
    assert (config.num_machines, config.mixed_precision, config.use_cpu) == (1, "bf16", False)
    # The launcher takes any key of these two without a word.
    known = vars(launch_command_parser().parse_args(["script.py"]))
    assert not set(config.fsdp_config) - set(known) and not set(config.deepspeed_config) - set(known)


@pytest.mark.parametrize("name", DISTRIBUTED_TYPES)
def test_command_line_wins(name):
    args, environment = launched_with(name)
    assert args.num_processes == 2 and environment["ACCELERATE_MIXED_PRECISION"] == "bf16"
    args, environment = launched_with(name, "--num_processes", "8", "--mixed_precision", "no")
    assert args.nproc_per_node == "8" and environment["ACCELERATE_MIXED_PRECISION"] == "no"


def test_ddp():
    args, environment = launched_with("ddp.yaml")
    assert args.multi_gpu
    assert "ACCELERATE_USE_FSDP" not in environment and "ACCELERATE_USE_DEEPSPEED" not in environment


def test_fsdp2(monkeypatch):
    _, environment = launched_with("fsdp2.yaml")
    assert environment["ACCELERATE_USE_FSDP"] == "true"
    for key, value in environment.items():
        if key.startswith("FSDP_"):
            monkeypatch.setenv(key, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    assert plugin.state_dict_type.name == "FULL_STATE_DICT" and not plugin.cpu_ram_efficient_loading


@pytest.mark.parametrize("stage", (1, 2, 3))
def test_deepspeed(stage):
    _, environment = launched_with(f"deepspeed_zero{stage}.yaml")
    assert environment["ACCELERATE_USE_DEEPSPEED"] == "true"
    assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == str(stage)
    # Left to the training arguments, with which DeepSpeed's would have to agree.
    assert "ACCELERATE_GRADIENT_ACCUMULATION_STEPS" not in environment
    assert "ACCELERATE_GRADIENT_CLIPPING" not in environment
    if stage == 3:
        assert environment["ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL"] == "true"


# ---- check_engines.py ----


@pytest.fixture(scope="module")
def check_engines():
    return load_script("accelerate/check_engines.py")


def run_engine(engine, folder):
    """What a worker does, without a process of its own."""
    facts = load_script("accelerate/check_engines.py").train(engine, "float32", folder)
    (folder / f"rank{os.environ.get('RANK', 0)}.json").write_text(json.dumps(facts))


@pytest.mark.slow
def test_engines_of_a_cpu_pass(tmp_path, check_engines, monkeypatch, two_ranks):
    def launch(engine, precision, processes, folder, timeout):
        folder.mkdir(parents=True)
        two_ranks(run_engine, engine, folder) if processes == 2 else run_engine(engine, folder)

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(check_engines, "launch", launch)
    file = tmp_path / "engines.json"
    assert check_engines.main(["--output_file", str(file), "--folder", str(tmp_path / "runs")]) == 0
    report = json.loads(file.read_text())
    rows = {row["engine"]: row for row in report["engines"]}
    assert list(rows) == ["single", "ddp", "fsdp2", "zero1", "zero2", "zero3"]
    assert rows["single"]["status"] == rows["ddp"]["status"] == "pass"
    assert (rows["single"]["processes"], rows["ddp"]["processes"]) == (1, 2)
    for engine in ("fsdp2", "zero1", "zero2", "zero3"):
        assert (rows[engine]["status"], rows[engine]["reason"]) == ("not run", "needs a GPU")
    table = check_engines.markdown(report["engines"], report["environment"])
    assert "| fsdp2 | float32 |  | not run: needs a GPU |  |" in table

    # A rank whose losses, engine or teacher are not as they should be is named.
    single, ddp = tmp_path / "runs" / "single_float32", tmp_path / "runs" / "ddp_float32"
    facts = json.loads((ddp / "rank1.json").read_text())
    for changes, fault in (
        ({"teacher": ["not frozen"]}, "teacher of rank 1: not frozen"),
        ({"engine": ["FSDP is off"]}, "engine of rank 1: FSDP is off"),
        ({"losses": facts["losses"] | {"loss of step 2": 1.0}}, "loss of step 2 is 1, with one process"),
        ({"losses": {}}, "rank 1 logged 0 losses, not 17"),
    ):
        (ddp / "rank1.json").write_text(json.dumps(facts | changes))
        assert fault in check_engines.first_fault("float32", 2, ddp, single)
    (ddp / "rank1.json").unlink()
    assert check_engines.first_fault("float32", 2, ddp, single) == "1 processes ran, 2 were asked for"


@pytest.mark.distributed
@pytest.mark.slow
def test_as_many_processes_are_started_as_were_asked_for(tmp_path, check_engines, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # what another trainer left behind is not the user's
    monkeypatch.setattr(check_engines, "__file__", str(tmp_path / "worker.py"))
    code = "import os, sys; open(sys.argv[-1] + '/rank' + os.environ.get('RANK', '0') + '.json', 'w')"
    code += ".write('\"%s\"' % (os.environ.get('WORLD_SIZE', '1') + os.environ.get('ACCELERATE_USE_FSDP', '')))"
    (tmp_path / "worker.py").write_text(code)
    assert check_engines.launch("single", "float32", 1, tmp_path / "single", 60) is None
    assert check_engines.launch("ddp", "float32", 2, tmp_path / "ddp", 60) is None
    assert check_engines.all_ranks(tmp_path / "single") == ["1"]
    assert check_engines.all_ranks(tmp_path / "ddp") == ["2", "2"]


def test_a_failing_run_is_one_line(tmp_path, check_engines, monkeypatch, capsys):
    """The reason comes from the worker, the end of its output goes to stderr."""
    monkeypatch.setattr(check_engines, "__file__", str(tmp_path / "worker.py"))
    (tmp_path / "worker.py").write_text("import sys; print('the last words', file=sys.stderr); sys.exit(3)")
    reason = check_engines.launch("single", "float32", 1, tmp_path / "run", 60)
    assert reason == "exit status 3: the last words" and "the last words" in capsys.readouterr().err
    (tmp_path / "worker.py").write_text("import time; time.sleep(60)")
    assert check_engines.launch("single", "float32", 1, tmp_path / "slow", 0.5) == "not done after 0.5 seconds"
