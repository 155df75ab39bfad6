"""Evaluation of detectors: COCO's AP of boxes, masks and keypoints, recall of proposals, tables and files."""

from mrcnn_zoo.evaluation.classification import ClassificationEvaluator
from mrcnn_zoo.evaluation.coco import CocoEvaluator
from mrcnn_zoo.evaluation.evaluator import evaluate, evaluate_datasets
from mrcnn_zoo.evaluation.ground_truth import ground_truth_detections
from mrcnn_zoo.evaluation.preflight import check_evaluation, prepare_evaluation
from mrcnn_zoo.evaluation.proposals import ProposalEvaluator
from mrcnn_zoo.evaluation.tables import UnexpectedResultsError, verify_expected_results
from mrcnn_zoo.inference.trained import config_of_weights, load_trained, refuse_gaps

__all__ = [
    "ClassificationEvaluator",
    "CocoEvaluator",
    "ProposalEvaluator",
    "UnexpectedResultsError",
    "check_evaluation",
    "config_of_weights",
    "evaluate",
    "evaluate_datasets",
    "ground_truth_detections",
    "load_trained",
    "prepare_evaluation",
    "refuse_gaps",
    "verify_expected_results",
]
