"""The records of an offline W&B run, read from its file."""

import json
import struct
from pathlib import Path
from typing import Any

BLOCK, HEADER, PADDING = 32768, 7, 7  # LevelDB's log format
WHOLE, LAST = 1, 4  # types of a chunk that ends a record


def wandb_records(run_folder: Path) -> list[Any]:
    """Everything in the `.wandb` file of an offline run.

    Args:
        run_folder: `offline-run-<time>-<id>`.
    """
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # waits for the process that writes the file
    # After a header of 7 bytes: blocks of 32 KiB with chunks of checksum (4 bytes), length (2) and type (1: whole,
    # 2: first, 3: middle, 4: last); a rest of fewer than 7 bytes in a block is padding.
    (path,) = run_folder.glob("run-*.wandb")
    data, position, parts, records = path.read_bytes(), HEADER, b"", []
    while position + HEADER <= len(data):
        if BLOCK - position % BLOCK < PADDING:
            position += BLOCK - position % BLOCK
        _, length, kind = struct.unpack_from("<IHB", data, position)
        parts += data[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if kind in (WHOLE, LAST):
            records.append(Record.FromString(parts))
            parts = b""
    return records


def history_of(records: list[Any]) -> list[dict[str, Any]]:
    """The logged rows, with nested values under their own name.

    Args:
        records: of `wandb_records`.
    """
    rows = []
    for record in records:
        if record.HasField("history"):
            rows.append(
                {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            )
    return rows


def artifacts_of(records: list[Any]) -> list[Any]:
    """The model artifacts, in their order.

    Args:
        records: of `wandb_records`.
    """
    found = [record.request.log_artifact.artifact for record in records if record.request.HasField("log_artifact")]
    found += [record.artifact for record in records if record.HasField("artifact")]
    return [artifact for artifact in found if artifact.type == "model"]
