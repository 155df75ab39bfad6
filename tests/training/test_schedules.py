"""Ready-made schedules: the lists that they write, and how they share the length of a run."""

from typing import Any

import pytest
import yaml

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.training.stages import Stage, build_stages
from mrcnn_zoo.training.stages.lengths import split_iterations
from mrcnn_zoo.training.stages.listed import listed_as_yaml, log_stage_list
from support.small_models import TINY_YAML


def schedule(name: str, *overrides: Any) -> CfgNode:
    return load_config(TINY_YAML, [f"SOLVER.TRAINING_SCHEDULE={name}", "SOLVER.MAX_ITER=100", *overrides])


def stages_of(name: str, *overrides: Any) -> list[Stage]:
    return build_stages(schedule(name, *overrides))


def listed(name: str, *overrides: Any) -> dict[str, dict[str, Any]]:
    return {stage.name: dict(stage.listed) for stage in stages_of(name, *overrides)}


def test_four_steps_are_those_of_the_paper() -> None:
    items = listed("alternating_4_step")
    assert list(items) == ["rpn_1", "detector_1", "rpn_2", "detector_2"]
    assert "FROM" not in items["rpn_1"]
    assert items["detector_1"]["FROM"] == {"proposals": "rpn_1"}
    assert items["rpn_2"]["FROM"] == {"backbone": "detector_1"}
    assert items["detector_2"]["FROM"] == {
        "backbone": "rpn_2",
        "proposal_generator": "rpn_2",
        "roi_heads": "detector_1",
    }
    assert [item.get("TRAIN") for item in items.values()] == [None, None, "proposal_generator", "roi_heads"]
    assert [item["OVERRIDES"].get("MODEL.META_ARCHITECTURE") for item in items.values()] == [
        "ProposalNetwork",
        None,
        "ProposalNetwork",
        None,
    ]


def test_further_rounds_continue_both_on_the_fixed_backbone() -> None:
    items = listed("alternating_4_step", "SOLVER.ALTERNATING_ROUNDS=3")
    assert list(items)[4:] == ["rpn_3", "detector_3"]
    assert (items["rpn_3"]["FROM"], items["rpn_3"]["TRAIN"]) == ("rpn_2", "proposal_generator")
    assert items["detector_3"]["FROM"] == {
        "backbone": "rpn_3",
        "proposal_generator": "rpn_3",
        "roi_heads": "detector_2",
    }
    assert sum(item["OVERRIDES"]["SOLVER.MAX_ITER"] for item in items.values()) == 100


def test_list_in_the_log_gives_the_same_stages_as_solver_stages() -> None:
    stages = stages_of("separate_rpn", "SOLVER.STAGE_SHARES=[3,1]")
    text = yaml.safe_load(listed_as_yaml(stages))
    typed = [item for key, value in text["SOLVER"].items() for item in (f"SOLVER.{key}", value)]
    again = build_stages(load_config(TINY_YAML, [*typed, "SOLVER.MAX_ITER=100"]))
    for one, other in zip(stages, again, strict=True):
        assert one.cfg.dump() == other.cfg.dump()
        assert (one.name, one.inherited, one.proposals_of) == (other.name, other.inherited, other.proposals_of)


@pytest.mark.parametrize(
    ("shares", "iterations"),
    [([1, 1, 1, 1], [25, 25, 25, 25]), ([2, 2, 1, 1], [33, 33, 17, 17]), ([80, 40, 80, 40], [33, 17, 33, 17])],
)
def test_iterations_of_the_stages_add_up_to_those_of_the_run(shares: list[int], iterations: list[int]) -> None:
    assert split_iterations(100, shares) == iterations
    stages = stages_of("alternating_4_step", f"SOLVER.STAGE_SHARES={shares}")
    assert [stage.cfg.SOLVER.MAX_ITER for stage in stages] == iterations


def test_steps_scale_with_the_stage_and_epochs_and_minutes_are_shared_too() -> None:
    multi_step = stages_of("alternating_4_step", "SOLVER.STEPS=[60,80]")
    assert [list(stage.cfg.SOLVER.STEPS) for stage in multi_step] == [[15, 20]] * 4
    # A quarter of the warm-up, but at least a twentieth of the stage, and never more than that of the run.
    for total, of_run, of_stage in ((400, 40, 10), (400, 8, 5), (400, 4, 4), (400, 0, 0)):
        scaled = stages_of("alternating_4_step", f"SOLVER.MAX_ITER={total}", f"SOLVER.WARMUP_ITERS={of_run}")
        assert [stage.cfg.SOLVER.WARMUP_ITERS for stage in scaled] == [of_stage] * 4
    epochs = stages_of("separate_rpn", "SOLVER.MAX_EPOCHS=12", "SOLVER.STAGE_SHARES=[1,2]")
    assert [stage.cfg.SOLVER.MAX_EPOCHS for stage in epochs] == [4, 8, 12]  # the last trains nothing
    minutes = stages_of("alternating_4_step", "SOLVER.MAX_MINUTES=12")
    assert [stage.cfg.SOLVER.MAX_MINUTES for stage in minutes] == [3] * 4


def test_stage_of_a_larger_batch_sees_as_many_images() -> None:
    overrides = "SOLVER.STAGE_OVERRIDES={rpn_1: {SOLVER.IMS_PER_BATCH: 10, SOLVER.BASE_LR: 0.5}}"
    stages = stages_of("alternating_4_step", overrides)
    sizes = [(stage.cfg.SOLVER.MAX_ITER, stage.cfg.SOLVER.IMS_PER_BATCH) for stage in stages]
    assert sizes == [(5, 10), (25, 2), (25, 2), (25, 2)]
    assert [stage.cfg.SOLVER.BASE_LR for stage in stages] == [0.5, 0.01, 0.01, 0.01]


def test_keys_of_one_stage_are_set_on_the_command_line() -> None:
    items = [{"NAME": "one"}, {"NAME": "two", "OVERRIDES": {"SOLVER": {"MAX_ITER": 7, "BASE_LR": 0.5}}}]
    stages = stages_of("stages", "SOLVER.STAGES", items, "SOLVER.STAGE_OVERRIDES.two.SOLVER.BASE_LR", "0.25")
    assert [(stage.cfg.SOLVER.MAX_ITER, stage.cfg.SOLVER.BASE_LR) for stage in stages] == [(100, 0.01), (7, 0.25)]


def test_key_on_the_command_line_that_a_list_replaces_is_named_with_the_key_to_set(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cfg = schedule("stages", "SOLVER.STAGES", [{"NAME": "one"}, {"NAME": "two", "OVERRIDES": {"SOLVER.MAX_ITER": 7}}])
    log_stage_list(cfg, build_stages(cfg))
    (message,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert "stage 'two' has SOLVER.MAX_ITER = 7 by its OVERRIDES, not 100 (command line)" in message
    assert "set SOLVER.STAGE_OVERRIDES.two.SOLVER.MAX_ITER" in message


def test_list_of_another_schedule_is_named_as_unused(caplog: pytest.LogCaptureFixture) -> None:
    cfg = load_config(TINY_YAML, ["SOLVER.STAGES", [{"NAME": "one"}]])
    log_stage_list(cfg, build_stages(cfg))
    assert "SOLVER.STAGES (command line) has no effect: SOLVER.TRAINING_SCHEDULE = joint" in caplog.text


def test_stages_without_region_heads_have_no_masks_and_no_metric_of_them() -> None:
    overrides = ("SOLVER.BEST_METRIC=segm/AP", "TEST.AUG.ENABLED=True")
    rpn, detector = stages_of("separate_rpn", *overrides)[:2]
    assert (rpn.cfg.MODEL.MASK_ON, rpn.cfg.SOLVER.BEST_METRIC, rpn.cfg.TEST.AUG.ENABLED) == (False, "auto", False)
    assert (detector.cfg.MODEL.MASK_ON, detector.cfg.SOLVER.BEST_METRIC) == (True, "segm/AP")
    assert detector.cfg.TEST.AUG.ENABLED


def test_unfreezing_has_a_rate_and_a_length_per_stage() -> None:
    stages = stages_of("gradual_unfreezing", "SOLVER.UNFREEZE=[heads,5+,4+,3+,all]", "SOLVER.STAGE_SHARES=[2,1,1,1,5]")
    assert [(stage.name, list(stage.cfg.SOLVER.TRAIN)) for stage in stages] == [
        (part, [part]) for part in ("heads", "5+", "4+", "3+", "all")
    ]
    assert [stage.starts_from for stage in stages] == ["", "heads", "5+", "4+", "3+"]
    assert [stage.cfg.SOLVER.MAX_ITER for stage in stages] == [20, 10, 10, 10, 50]
    assert [stage.cfg.SOLVER.BASE_LR for stage in stages] == pytest.approx([0.01] * 4 + [0.001])


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("alternating_4_step", ["SOLVER.STAGE_SHARES=[1,1]"], r"must hold one value for each of the 4 .* rpn_1, det"),
        ("alternating_4_step", ["SOLVER.STAGE_RATES=[1,1]"], r"SOLVER.STAGE_RATES = \[1, 1\] must hold"),
        ("alternating_4_step", ["SOLVER.MAX_ITER=3"], r"leaves no iteration for stage 'detector_2' of 4 stages"),
        ("rpn_only", ["SOLVER.STAGE_OVERRIDES={rpm: {SEED: 1}}"], r"names the stage 'rpm'.*Did you mean 'rpn'"),
        ("rpn_only", ["SOLVER.STAGE_OVERRIDES={rpn: {SEEED: 1}}"], r"STAGE_OVERRIDES.rpn: .*SEEED.*Did you mean"),
        ("separate_rpn", ["MODEL.META_ARCHITECTURE=RetinaNet"], r"META_ARCHITECTURE = RetinaNet does not have both"),
        ("alternating_4_step", ["MODEL.META_ARCHITECTURE=ProposalNetwork", "MODEL.MASK_ON=False"], r"not have both"),
        ("gradual_unfreezing", ["SOLVER.UNFREEZE=[heads, heads]"], r"SOLVER.UNFREEZE = .* must hold different parts"),
        ("gradual_unfreezing", ["SOLVER.UNFREEZE=[none, all]"], r"SOLVER.UNFREEZE = .* each of which trains"),
        ("gradual_unfreezing", ["SOLVER.UNFREEZE=['']"], r"SOLVER.UNFREEZE = \[''\] must hold"),
        (
            "stages",
            ["SOLVER.STAGES=[{NAME: model_final.pth}]"],
            r"names a stage 'model_final.pth'; .* none of .*\*.pth",
        ),
        ("stages", ["SOLVER.STAGES=[{NAME: config.yaml}]"], r"names a stage 'config.yaml'; .* none of .*\*.yaml"),
        ("rpn_only", ["SOLVER.STAGE_OVERRIDES.rpn=1"], r"STAGE_OVERRIDES.rpn must be a mapping of config keys, not 1"),
    ],
)
def test_mistake_in_a_key_of_ready_made_schedules_is_named(name: str, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        stages_of(name, *overrides)


def test_empty_list_as_overrides_is_none() -> None:
    (only,) = stages_of("stages", "SOLVER.STAGES=[{NAME: one, OVERRIDES: []}]", "SOLVER.STAGE_OVERRIDES.one.SEED=5")
    assert only.cfg.SEED == 5


def test_learned_suppression_follows_the_detector() -> None:
    first, second = stages_of("learned_suppression", "SOLVER.STAGE_SHARES=[3,1]")
    assert [stage.cfg.MODEL.ROI_HEADS.SUPPRESSION for stage in (first, second)] == ["greedy", "GossipNet"]
    assert (second.starts_from, list(second.cfg.SOLVER.TRAIN)) == ("detector", ["suppression"])
    assert (first.cfg.SOLVER.MAX_ITER, second.cfg.SOLVER.MAX_ITER) == (75, 25)
    own = "MODEL.ROI_HEADS.SUPPRESSION=my_lab:build_suppression"
    assert stages_of("learned_suppression", own)[1].cfg.MODEL.ROI_HEADS.SUPPRESSION == "my_lab:build_suppression"
    retinanet = listed("learned_suppression", "MODEL.META_ARCHITECTURE=RetinaNet", "MODEL.MASK_ON=False")
    assert retinanet["suppression"]["OVERRIDES"]["MODEL.RETINANET.SUPPRESSION"] == "GossipNet"
