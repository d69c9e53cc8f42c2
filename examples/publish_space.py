"""Publishes the metric, or a demo of a student, as a Space on the Hub.

python examples/publish_space.py metric --to me/group_accuracy
python examples/publish_space.py demo --to me/demo --student me/small --teacher me/big

With `--folder FOLDER` the Space's files are written there and nothing is published; `python app.py` in that folder
opens the page. The token is that of `hf auth login` or HF_TOKEN.
"""

import argparse
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from huggingface_hub import HfApi, SpaceCard, SpaceCardData, get_session
from huggingface_hub.utils import HFValidationError, validate_repo_id

import hf_ltkd.metrics
from hf_ltkd.hub.names import CARD_NAME
from hf_ltkd.hub.push import reason, time_limit, within


METRIC = Path(hf_ltkd.metrics.__file__).parent / "group_accuracy"
GRADIO = "6.31.0"  # the version that both pages were tested with
DEMO_REQUIREMENTS = "Pillow\ntorch>=2.6\ntransformers>=5.17\n"
DEMO_CARD = """\
# Teacher and student on one image

Drop an image to see how a big network and a small one, which was distilled from it for rare classes too, spread their
probability over frequent and rare classes. Networks that give each pixel a class also show where they see which.

{models}

The page reads these names from the Space's variables `STUDENT` and `TEACHER`. Where a network brings its own code, the
variable `TRUST_REMOTE_CODE=1` allows the page to run it. A private network needs a token that can read it, as the
Space's secret `HF_TOKEN`.
"""


def write_metric(folder: Path, repo_id: str) -> None:
    """`evaluate.load("me/name")` looks for `name.py` in the Space, so the file is called after the Space."""
    name = repo_id.partition("/")[2]
    shutil.copyfile(METRIC / "group_accuracy.py", folder / f"{name}.py")
    shutil.copyfile(METRIC / "requirements.txt", folder / "requirements.txt")
    app, card = ((METRIC / file).read_text(encoding="utf-8") for file in ("app.py", CARD_NAME))
    (folder / "app.py").write_text(app.replace("group_accuracy.py", f"{name}.py"), encoding="utf-8")
    card = card.replace("me/group_accuracy", repo_id).replace("group_accuracy.py", f"{name}.py")
    write_card(folder, "Group accuracy", card, tags=["evaluate", "metric"])


def write_demo(folder: Path, student: str, teacher: str | None) -> None:
    shutil.copyfile(Path(__file__).with_name("app.py"), folder / "app.py")
    (folder / "requirements.txt").write_text(DEMO_REQUIREMENTS, encoding="utf-8")
    models = {"Student": student, **({"Teacher": teacher} if teacher else {})}
    lines = "\n".join(f"- {role}: [`{name}`](https://huggingface.co/{name})" for role, name in models.items())
    write_card(folder, "Teacher and student", DEMO_CARD.format(models=lines), models=list(models.values()))


def write_card(folder: Path, title: str, text: str, **metadata) -> None:
    data = SpaceCardData(
        title=title, sdk="gradio", sdk_version=GRADIO, app_file="app.py", license="apache-2.0", **metadata
    )
    SpaceCard(f"---\n{data.to_yaml()}\n---\n\n{text}").save(folder / CARD_NAME)


def publish(folder: Path, repo_id: str, variables: dict[str, str], private: bool | None) -> None:
    api, present = HfApi(), {}
    api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
    for key, value in variables.items():  # before the files, which start the page
        present = api.add_space_variable(repo_id, key, value)
    if "TEACHER" in present.keys() - variables.keys():  # an earlier demo had one
        api.delete_space_variable(repo_id, "TEACHER")
    api.upload_folder(repo_id=repo_id, repo_type="space", folder_path=folder, commit_message="Publish the page")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--to", required=True, help="the Space as owner/name; it is made if it does not exist")
    common.add_argument("--folder", type=Path, help="write the Space's files there instead of publishing them")
    common.add_argument("--private", action="store_true", default=None, help="make a new Space private")
    common.add_argument("--timeout", type=float, default=60.0, help="seconds that the Hub may stay silent")
    commands = parser.add_subparsers(dest="what", required=True)
    commands.add_parser("metric", parents=[common], help="group_accuracy, for evaluate.load")
    demo = commands.add_parser("demo", parents=[common], help="teacher and student on an image (examples/app.py)")
    demo.add_argument("--student", required=True, help="Hub id of the student")
    demo.add_argument("--teacher", help="Hub id of the teacher; without it the page shows the student alone")
    demo.add_argument("--trust_remote_code", action="store_true", help="let the page run code that a network brings")
    options = parser.parse_args()

    models = [] if options.what == "metric" else [name for name in (options.student, options.teacher) if name]
    for name in models:
        if Path(name).is_dir():
            parser.error(
                f"{name} is a folder of this machine, which a Space cannot read: push it (hf-ltkd push --model {name} "
                "--to me/name) and give its name on the Hub."
            )
    try:
        for name in (options.to, *models):
            validate_repo_id(name)
    except HFValidationError as error:
        parser.error(str(error))
    owner, _, name = options.to.partition("/")
    if not name:
        parser.error(f"--to {options.to} must have the form owner/name, for instance me/{options.to}.")
    if options.what == "metric" and ("." in name or name == "app"):
        parser.error(
            f"--to {options.to}: evaluate imports the metric from a file of the Space's name, beside app.py: choose a "
            f"name without dots and other than app, for instance {owner}/group_accuracy."
        )
    return options


def main():
    options, variables = parse_arguments(), {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if options.what == "metric":
            write_metric(folder, options.to)
        else:
            write_demo(folder, options.student, options.teacher)
            variables = {"STUDENT": options.student, "TRUST_REMOTE_CODE": str(int(options.trust_remote_code))}
            variables |= {"TEACHER": options.teacher} if options.teacher else {}
        if options.folder:
            settings = "".join(f"{key}={value} " for key, value in variables.items())
            print(f"Open the page: cd {shlex.quote(str(folder))} && {settings}python app.py")
            return
        get_session().timeout = options.timeout  # without it nothing limits the wait
        try:
            within(time_limit(options.timeout), publish, folder, options.to, variables, options.private)
        except Exception as error:  # of the HTTP library, which differs between versions of huggingface_hub
            sys.exit(f"{options.to} was not published: {reason(error)}. Then publish it again.")
    print(f"{HfApi().endpoint}/spaces/{options.to}")


if __name__ == "__main__":
    main()
