"""The command line of training."""

from pathlib import Path

import pytest

from mrcnn_zoo.cli.train import build_parser, main
from mrcnn_zoo.errors import UserError

CONFIG = Path(__file__).parents[1] / "training" / "tiny_mask_rcnn.yaml"


@pytest.mark.parametrize("option", ["--config-file", "--config"])
def test_options_as_detectron2_has_them(option: str) -> None:
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
    ],
)
def test_mistakes_stop_at_the_start_with_nothing_half_written(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    options = [argument for argument in arguments if argument.startswith("--")]
    overrides = [argument for argument in arguments if not argument.startswith("--")]
    with pytest.raises(UserError, match=message):
        main(["--config-file", str(CONFIG), *options, "OUTPUT_DIR", str(output), *overrides])
    assert not list(output.glob("*.pth"))


def test_trains_and_ends_with_status_0(tmp_path: Path) -> None:
    output = tmp_path / "output"
    status = main(["--config", str(CONFIG), f"OUTPUT_DIR={output}", "SOLVER.MAX_ITER", "1", "DATASETS.TEST", "[]"])
    assert status == 0
    assert (output / "model_final.pth").is_file()
