"""Datasets: from a name in the config to the samples of a model."""

from mrcnn_zoo.data.catalog import dataset_names, load_dataset
from mrcnn_zoo.data.classes import check_num_classes, check_num_keypoints, fit_num_classes, merge_datasets
from mrcnn_zoo.data.loading.loader import EvalLoader, TrainLoader, build_eval_loader, build_train_loader
from mrcnn_zoo.data.loading.mapper import build_eval_mapper, build_train_mapper, build_validation_mapper
from mrcnn_zoo.data.loading.value_range import fit_value_range
from mrcnn_zoo.data.records import Dataset, ImageRecord, ImageSource, InstanceRecord
from mrcnn_zoo.data.run_datasets import check_common_split, load_test, load_train, load_train_and_test

__all__ = [
    "Dataset",
    "EvalLoader",
    "ImageRecord",
    "ImageSource",
    "InstanceRecord",
    "TrainLoader",
    "build_eval_loader",
    "build_eval_mapper",
    "build_train_loader",
    "build_train_mapper",
    "build_validation_mapper",
    "check_common_split",
    "check_num_classes",
    "check_num_keypoints",
    "dataset_names",
    "fit_num_classes",
    "fit_value_range",
    "load_dataset",
    "load_test",
    "load_train",
    "load_train_and_test",
    "merge_datasets",
]
