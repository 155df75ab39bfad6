"""Proposals of a whole dataset, computed in parts by one or several processes and continued after an interruption."""

import json
import multiprocessing
import multiprocessing.connection
import os
import pickle
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from mrcnn_zoo.config import CfgNode, changed_config
from mrcnn_zoo.data.proposals import (
    ProposalOrigin,
    StoredProposals,
    read_proposal_file,
    read_proposals,
    write_proposals,
)
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.evaluator import build_prediction_loader, with_progress
from mrcnn_zoo.evaluation.preflight import evaluated_part
from mrcnn_zoo.evaluation.proposal_jobs import ProposalJob, describe_origin, open_job
from mrcnn_zoo.evaluation.proposals import compute_proposals
from mrcnn_zoo.output_files import write_json

IMAGES_PER_PART = 16  # at least; an interruption loses the unfinished part of each process
PARTS_SUFFIX = ".parts"  # of the folder beside the output
PART_SUFFIX = ".npz"
ORIGIN_FILE = "origin.json"
THREADS_PER_PROCESS = 1  # of torch: sums over several threads have other rounding errors, so files would differ

Parts = Mapping[int, Dataset]  # by number


@dataclass(frozen=True)
class Precomputation:
    """The parts of one dataset's proposals.

    Each part has the images of whole batches in the order of the dataset, so that its proposals do not depend on the
    number of processes.

    Args:
        job: the model.
        dataset: with the images of the file.
        path: of the file to write.
        num_images: of the whole dataset; `dataset` may be its first part.
    """

    job: ProposalJob
    dataset: Dataset
    path: Path
    num_images: int

    @property
    def is_whole(self) -> bool:
        """Whether the file has all images of the dataset."""
        return len(self.dataset) == self.num_images

    @cached_property
    def origin(self) -> ProposalOrigin:
        """Of the proposals; parts of another origin are refused."""
        return describe_origin(self.job, self.dataset)

    @property
    def folder(self) -> Path:
        """Folder of the finished parts, until the file is written."""
        return self.path.with_name(self.path.name + PARTS_SUFFIX)

    def parts(self) -> list[Dataset]:
        """The images of each part."""
        batch = self.job.cfg.TEST.BATCH_SIZE
        length = -(-IMAGES_PER_PART // batch) * batch
        starts = range(0, len(self.dataset), length)
        return [replace(self.dataset, records=self.dataset.records[start : start + length]) for start in starts]

    def part_file(self, number: int) -> Path:
        """The file of a finished part.

        Args:
            number: from 0.
        """
        return self.folder / f"{number:06d}{PART_SUFFIX}"

    def is_finished(self) -> bool:
        """Whether the file exists.

        Raises:
            UserError: it has another origin.
        """
        if not self.path.exists():
            return False
        _refuse_other_origin(read_proposal_file(self.path).origin, self.origin, place=self.path)
        return True

    def start(self, *, resume: bool, overwrite: bool) -> None:
        """Make the folder of the parts, or check that the parts of an earlier start can be continued.

        Args:
            resume: continue with the finished parts, if there are any.
            overwrite: remove them.

        Raises:
            UserError: there are parts but neither was requested, or they are of another origin.
        """
        has_parts = any(self.folder.glob(f"*{PART_SUFFIX}"))  # none if the first image was refused
        if self.folder.exists() and (not has_parts or (overwrite and not resume)):
            shutil.rmtree(self.folder)
        if not self.folder.exists():
            write_json(self.folder / ORIGIN_FILE, asdict(self.origin), indent=1)
            return
        if not resume:
            raise UserError(
                f"{self.folder} has unfinished proposals: continue them with --resume, or start again with --overwrite."
            )
        _refuse_other_origin(_read_origin(self.folder), self.origin, place=self.folder)

    def finish(self) -> dict[int | str, StoredProposals]:
        """Write the file from the parts, and remove them.

        Returns:
            the proposals by image id.
        """
        stored: dict[str, StoredProposals] = {}
        for number in range(len(self.parts())):
            stored |= read_proposals(self.part_file(number))
        proposals: dict[int | str, StoredProposals] = {
            record.image_id: stored[str(record.image_id)] for record in self.dataset.records
        }
        write_proposals(self.path, proposals, origin=self.origin, records=self.dataset.records)
        shutil.rmtree(self.folder)
        return proposals


def _read_origin(folder: Path) -> ProposalOrigin | None:
    try:
        return ProposalOrigin(**json.loads((folder / ORIGIN_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _refuse_other_origin(former: ProposalOrigin | None, present: ProposalOrigin, *, place: Path) -> None:
    differing = [name for name in asdict(present) if getattr(former, name, None) != getattr(present, name)]
    if differing:
        raise UserError(
            f"{place} has proposals of another computation (other {', '.join(differing)}), which cannot be continued: "
            "repeat the command with its former settings, choose another --output, or start again with --overwrite "
            "instead of --resume."
        )


def plan_precomputation(job: ProposalJob, dataset: Dataset, path: Path) -> Precomputation:
    """The proposals of the first TEST.NUM_IMAGES images of a dataset, or of all if it is 0.

    Args:
        job: the model.
        dataset: with any annotations.
        path: of the file to write.

    Raises:
        UserError: the dataset has no images.
    """
    if len(dataset) == 0:
        raise UserError(f"dataset {dataset.name!r} has no images to compute proposals for.")
    return Precomputation(job, evaluated_part(dataset, job.cfg), path, num_images=len(dataset))


def precompute(
    plan: Precomputation, *, model: nn.Module | None = None, workers: int = 1, rank: int = 0, world_size: int = 1
) -> None:
    """Compute the missing parts, or this process's share of them.

    Args:
        plan: started.
        model: of the job, in this process; None builds it where it is needed.
        workers: processes; 1 computes in this one.
        rank: of this process.
        world_size: number of processes that call this.

    Raises:
        UserError: of a worker, or a worker that ended without one.
    """
    parts = {number: part for number, part in enumerate(plan.parts()) if number % world_size == rank}
    missing = {number: part for number, part in parts.items() if not plan.part_file(number).exists()}
    if not missing:
        return
    workers = min(workers, len(missing))
    finished = (
        _compute_here(plan, missing, model or open_job(plan.job))
        if workers == 1
        else _compute_in_processes(plan, missing, workers)
    )
    num_images = sum(map(len, missing.values()))
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS_PER_PROCESS)
    try:
        for _ in with_progress(finished, num_images, name=plan.dataset.name):
            pass
    finally:
        torch.set_num_threads(threads)


def _compute_here(
    plan: Precomputation, missing: Mapping[int, Dataset], model: nn.Module
) -> Iterator[Sequence[ImageRecord]]:
    """Compute parts with one loader for all of them, which loads ahead; yields the images of each finished part."""
    rest = replace(plan.dataset, records=tuple(record for part in missing.values() for record in part.records))
    batches = iter(build_prediction_loader(plan.job.cfg, rest, model))
    for number, part in missing.items():
        num_batches = -(-len(part) // plan.job.cfg.TEST.BATCH_SIZE)
        proposals = compute_proposals(model, islice(batches, num_batches))
        write_proposals(plan.part_file(number), proposals)
        yield part.records


def _compute_in_processes(plan: Precomputation, missing: Parts, workers: int) -> Iterator[Sequence[ImageRecord]]:
    job = pickled_job(plan.job)
    context = multiprocessing.get_context("spawn")  # OpenCV and torch have threads, which a fork does not copy
    stop, stopped = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, _prepare_worker, (stop,))
    try:
        futures = {
            pool.submit(compute_part, job, part, plan.part_file(number)): part for number, part in missing.items()
        }
        for future in as_completed(futures):
            future.result()
            yield futures[future].records
    except BrokenProcessPool as error:
        raise UserError(
            f"a worker process ended unexpectedly, e.g. because memory ran out. {plan.folder} has the finished parts: "
            "continue with --resume, perhaps with fewer --workers."
        ) from error
    except (KeyboardInterrupt, GeneratorExit):
        stopped.close()  # a part may take minutes
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def pickled_job(job: ProposalJob) -> bytes:
    """A job for worker processes, which load images themselves.

    Args:
        job: the model.
    """
    return pickle.dumps(replace(job, cfg=changed_config(job.cfg, {"DATALOADER.NUM_WORKERS": 0})))


def _prepare_worker(stop: multiprocessing.connection.Connection) -> None:
    """Leave Ctrl-C to the parent, end with it or when it closes its end of the pipe, and use one thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(THREADS_PER_PROCESS)
    threading.Thread(target=_end_with_parent, args=(stop,), daemon=True).start()


def _end_with_parent(stop: multiprocessing.connection.Connection) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel, stop])
    os._exit(1)


def compute_part(job: bytes, part: Dataset, path: Path) -> None:
    """Compute and write one part in a worker process.

    Args:
        job: see `pickled_job`.
        part: its images.
        path: of its file.
    """
    cfg, model = _opened(job)
    write_proposals(path, compute_proposals(model, build_prediction_loader(cfg, part, model)))


@lru_cache(maxsize=1)
def _opened(job: bytes) -> tuple[CfgNode, nn.Module]:
    unpacked: ProposalJob = pickle.loads(job)
    return unpacked.cfg, open_job(unpacked)
