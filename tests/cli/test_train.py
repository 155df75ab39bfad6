"""The command line of training."""

from pathlib import Path

import pytest

from mrcnn_zoo.cli.train import build_parser, main
from mrcnn_zoo.errors import UserError
from support.small_models import TINY_YAML


@pytest.mark.parametrize("option", ["--config-file", "--config"])
def test_options_have_detectron2s_names(option: str) -> None:
    options = build_parser().parse_args(
        [option, "X.yaml", "--num-gpus", "2", "--resume", "SOLVER.BASE_LR", "0.1", "MODEL.DEVICE=cpu"]
    )
    assert options.config_file == "X.yaml"
    assert (options.num_gpus, options.resume, options.eval_only, options.overwrite) == (2, True, False, False)
    assert options.overrides == ["SOLVER.BASE_LR", "0.1", "MODEL.DEVICE=cpu"]


def test_config_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "--config-file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["SOLVER.BASE_LP", "0.1"], "Did you mean 'SOLVER.BASE_LR'"),
        (["--resume", "--overwrite"], "give one of them"),
        (["HOOKS=['no_such_module:hook']"], "no_such_module"),
        (["WRITERS=['jsno']"], "Did you mean 'json'"),
        (["SOLVER.IMS_PER_BATCH", "0"], "IMS_PER_BATCH = 0"),
        (["MODEL.WEIGHTS", "missing.pth"], "missing.pth"),
        (["DATASETS.TRAIN", "('shapes_trian',)"], "Did you mean 'shapes_train'"),
        (["EVAL.BACKEND", "pycocotool"], "EVAL.BACKEND.*Did you mean 'pycocotools'"),
        (["EVAL.EVALUATOR", "cocoo"], "EVAL.EVALUATOR.*Did you mean 'coco'"),
        (["SOLVER.BEST_METRIC", "segm/ap"], "SOLVER.BEST_METRIC = 'segm/ap'.*Did you mean 'segm/AP'"),
        (["SOLVER.BEST_METRIC", "val/los_mask"], "SOLVER.BEST_METRIC = 'val/los_mask'"),
        (["LOG_PERIOD", "0"], "LOG_PERIOD = 0 must be at least 1"),
        (["SOLVER.ACCUMULATE_STEPS", "0"], "SOLVER.ACCUMULATE_STEPS = 0 must be at least 1"),
        (["SOLVER.BASE_LR", "-0.1"], "SOLVER.BASE_LR = -0.1 must be"),
        (["SOLVER.MOMENTUM", "-0.9"], r"SOLVER.MOMENTUM = -0.9 must be in \[0, 1\)"),
        (["SOLVER.BETAS", "[0.9]"], r"SOLVER.BETAS = \[0.9\] must hold 2 values"),
        (["SOLVER.BETAS", "[0.9, 1.0]"], r"SOLVER.BETAS = \[0.9, 1.0\] must hold 2 values, each in \[0, 1\)"),
        (["SOLVER.BASE_LR", "0.0", "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"], "SOLVER.BASE_LR = 0.0 must be above"),
        (["SOLVER.FREEZE", "['no_such_part']"], "no_such_part"),
    ],
)
def test_mistakes_stop_at_the_start_with_nothing_half_written(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    options = [argument for argument in arguments if argument.startswith("--")]
    overrides = [argument for argument in arguments if not argument.startswith("--")]
    with pytest.raises(UserError, match=message):
        main(["--config-file", str(TINY_YAML), *options, "OUTPUT_DIR", str(output), *overrides])
    assert not output.exists()


@pytest.mark.parametrize(("name", "status"), [("RANK", 2), ("LOCAL_RANK", 2), ("OTHER", None)])
def test_only_the_first_process_of_torchrun_prints_an_error(
    name: str, status: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, "1")
    arguments = ["--config-file", str(TINY_YAML), "SOLVER.BASE_LP", "0.1"]
    if status is None:
        with pytest.raises(UserError):
            main(arguments)
    else:
        assert main(arguments) == status


def test_training_ends_with_status_0(tmp_path: Path) -> None:
    output = tmp_path / "output"
    status = main(["--config", str(TINY_YAML), f"OUTPUT_DIR={output}", "SOLVER.MAX_ITER", "1", "DATASETS.TEST", "[]"])
    assert status == 0
    assert (output / "model_final.pth").is_file()


def test_options_may_stand_after_the_overrides() -> None:
    options = build_parser().parse_intermixed_args(
        ["--config-file", "x.yaml", "SEED", "-1", "OUTPUT_DIR=output/x", "--resume", "SOLVER.BASE_LR", "0.1"]
    )
    assert options.resume
    assert options.overrides == ["SEED=-1", "OUTPUT_DIR=output/x", "SOLVER.BASE_LR", "0.1"]
